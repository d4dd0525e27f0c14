"""One leaderboard over what was published: which adapters and detectors, on the test clips they share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from recipes.block import NAME, Block, Seed, distinct
from recipes.explaining import explain
from recipes.reading import apply_overrides, read_yaml

Names = Annotated[tuple[str, ...], AfterValidator(distinct)]


class LeaderboardRecipe(Block):
    """Adapters and detectors that were scored on the same test clips, each pair compared, Holm over all pairs."""

    schema_version: Literal[1] = Field(1, alias="schema")
    name: str = Field(pattern=NAME)
    description: str = ""
    adapters: Names = Field(min_length=1)  # NAMESPACE/NAME[@sha] of the home's hub or the Hub
    detectors: Names = ()  # of the adapters' published tables: base, mel_statistics, silero ..., an ablation's cell
    tables: Names = ()  # files with predictions of others on these clips, e.g. of another model family
    n_boot: int = Field(2_000, ge=100)  # draws of groups behind every paired interval
    seed: Seed = 0

    @model_validator(mode="after")
    def _several(self) -> Self:
        if len(self.adapters) + len(self.detectors) + len(self.tables) < 2:
            raise ValueError("one adapter alone is no leaderboard: name more adapters, detectors or tables")
        return self


def is_leaderboard(recipe: str | Path) -> bool:
    """Whether a recipe, by name or path, compares what was published instead of making something.

    Raises FileNotFoundError or ValueError as `read_yaml` does.
    """
    return "adapters" in read_yaml(recipe)


def load_leaderboard(recipe: str | Path, overrides: Sequence[str] = ()) -> LeaderboardRecipe:
    """A checked leaderboard. Raises ValueError in one sentence a key."""
    try:
        return LeaderboardRecipe.model_validate(apply_overrides(read_yaml(recipe), overrides))
    except ValidationError as error:
        raise ValueError(explain(error, LeaderboardRecipe)) from error
