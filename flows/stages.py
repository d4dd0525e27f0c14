"""The stages of a study, in their order."""

from typing import Literal, get_args

Stage = Literal["build", "train", "evaluate", "publish"]
STAGES: tuple[Stage, ...] = get_args(Stage)


def stages_to(last: Stage) -> tuple[Stage, ...]:
    """The stages up to this one."""
    return STAGES[: STAGES.index(last) + 1]


def stages_from(first: Stage | None) -> tuple[Stage, ...]:
    """This stage and what follows; none where none is named."""
    return STAGES[STAGES.index(first) :] if first else ()
