"""Recordings -> sides -> clips -> audited splits: what `dataset:` may say."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from recipes.block import Block, Seed, Unit, distinct
from recipes.clips import ClipsBlock
from recipes.hub_terms import Language, Licence
from recipes.sources import Source


class Fractions(Block):
    """Share of the groups of each class that goes to each side."""

    train: float = Field(0.6, gt=0, lt=1)
    dev: float = Field(0.2, gt=0, lt=1)
    test: float = Field(0.2, gt=0, lt=1)

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        if abs((total := self.train + self.dev + self.test) - 1) > 1e-6:
            raise ValueError(f"train + dev + test must be 1, not {total:g}")
        return self


class SplitsBlock(Block):
    """How recordings, noise and rooms are dealt, before anything is mixed."""

    protocol: Literal["group", "random"] = "group"  # random exists to measure leakage; it can never be a headline
    fractions: Fractions | None = None  # of one split; or `folds`
    folds: int | None = Field(None, ge=3, le=20)  # K parts: fold k tests on part k, develops on part k+1
    by_family: bool = False  # deal each family of a class on its own, so that every part holds all of them
    seed: Seed = 42  # of the deal

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.fractions is None) == (self.folds is None):
            raise ValueError("give either `fractions: {train, dev, test}` or `folds: K`, not both and not neither")
        return self

    @property
    def parts(self) -> dict[str, float]:
        """Part -> its share of the groups."""
        if self.folds:
            return {f"part{k}": 1 / self.folds for k in range(self.folds)}
        assert self.fractions
        return self.fractions.model_dump()

    def sides(self, fold: int) -> dict[str, str]:
        """Part -> the side ("train", "dev" or "test") it takes in this fold."""
        if not self.folds:
            return {part: part for part in self.parts}
        return {
            f"part{k}": "test" if k == fold else "dev" if k == (fold + 1) % self.folds else "train"
            for k in range(self.folds)
        }


WEBRTC = {"mode": 3, "frame_ms": 30}


class HygieneBlock(Block):
    """Which recordings are what their class says, heard by a voice activity detector before anything is mixed.

    Measured is the share of speech in a recording's audible part, at the level of a clip. What holds less than
    `least_speech` in the first class, or more than `most_nonspeech` in the second and in the noise, is dropped.
    """

    detector: Literal["silero", "webrtc"] = "silero"  # needs the extra `vad`
    least_speech: Unit = 0.7  # in the first class
    most_nonspeech: Unit = 0.05  # of speech, in the second class and in the noise
    mode: Literal[0, 1, 2, 3] | None = None  # of webrtc, by default 3, which lets least through
    frame_ms: Literal[10, 20, 30] | None = None  # of webrtc, by default 30

    @model_validator(mode="before")
    @classmethod
    def _as_webrtc_was_run(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("detector") != "webrtc":
            return given
        return {**given, **{name: value for name, value in WEBRTC.items() if given.get(name) is None}}

    @model_validator(mode="after")
    def _only_webrtc_has_settings(self) -> Self:
        if self.detector != "webrtc" and (self.mode is not None or self.frame_ms is not None):
            raise ValueError(f"mode and frame_ms belong to detector webrtc, {self.detector} has none: leave them out")
        return self


class DatasetRecipe(Block):
    """Recordings -> sides -> clips -> audited splits."""

    name: str
    description: str = ""
    licence: Licence = "other"  # of the set as a whole; `other` where that of its clips differs
    languages: Annotated[tuple[Language, ...], AfterValidator(distinct)] = ()  # that are spoken in it, ISO 639
    sources: tuple[Source, ...] = Field(min_length=1)
    hygiene: HygieneBlock | None = None
    splits: SplitsBlock
    clips: ClipsBlock

    @model_validator(mode="after")
    def _parts_are_known(self) -> Self:
        if isinstance(self.clips.per_part, Mapping) and set(self.clips.per_part) != set(self.splits.parts):
            raise ValueError(
                f"clips.{self.clips.counts_by} names {sorted(self.clips.per_part)}, the parts are {list(self.splits.parts)}"
            )
        return self

    @property
    def at_random(self) -> Self:
        """The same clips under the protocol that leaks."""
        return self.model_copy(update={"splits": self.splits.model_copy(update={"protocol": "random"})})

    def clips_of(self, part: str) -> ClipsBlock:
        """The clips block of one part: what another part holds does not matter to it."""
        given = self.clips.per_part
        return self.clips.model_copy(
            update={self.clips.counts_by: given[part] if isinstance(given, Mapping) else given}
        )
