"""What every block of a recipe is: exact, frozen, and made of checked values."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Kwargs = dict[str, Any]
Unit = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Block(BaseModel):
    """One block of a recipe: exact and frozen, so that it can stand in a task's cache key."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values as they are. Raises ValueError where one stands twice."""
    if len(set(values)) != len(values):
        raise ValueError(f"values repeat: {list(values)}")
    return values
