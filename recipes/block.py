"""What every block of a recipe is: exact, frozen, and made of checked values."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Kwargs = dict[str, Any]
Unit = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what every library takes
NAME, WORD, CELL = r"^[\w.-]+$", r"^[\w-]+$", r"^[a-z0-9][\w.+-]*$"
REPOSITORY = r"^\w+([.-]\w+)*$"  # the Hub allows no "--", which stands for "/" in a folder's name, and no ".."
HUB_ID = r"^\w+([.-]\w+)*/\w+([.-]\w+)*$"
PINNED = r"^\w+([.-]\w+)*/\w+([.-]\w+)*@[0-9a-f]{40}$"
IN_WORDS = {  # what a pattern accepts, for whoever gave something else
    NAME: "letters, digits, `_`, `.` and `-`",
    WORD: "letters, digits, `_` and `-`",
    CELL: "letters, digits, `_`, `.`, `+` and `-`, the first one a small letter or a digit",
    REPOSITORY: "letters, digits and `_`, with single `.` or `-` between them",
    PINNED: "NAMESPACE/NAME@<40 hex digits>",
}


class Block(BaseModel):
    """One block of a recipe: exact and frozen, so that it can stand in a task's cache key."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def is_pinned(name: str) -> bool:
    """Whether it is a Hub id with its revision, NAMESPACE/NAME@<40 hex digits>."""
    return re.fullmatch(PINNED, name) is not None


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values as they are. Raises ValueError where one stands twice."""
    if len(set(values)) != len(values):
        raise ValueError(f"values repeat: {list(values)}")
    return values
