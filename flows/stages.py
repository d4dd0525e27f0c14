"""The stages of a study, in their order, and where their tasks may run."""

from typing import Literal, get_args

Stage = Literal["build", "train", "evaluate", "publish"]
Runner = Literal["local", "processes", "dask"]  # where the tasks of a flow run
STAGES: tuple[Stage, ...] = get_args(Stage)


def stages_to(last: Stage) -> tuple[Stage, ...]:
    """The stages up to this one."""
    return STAGES[: STAGES.index(last) + 1]


def stages_from(first: Stage | None) -> tuple[Stage, ...]:
    """This stage and what follows; none where none is named."""
    return STAGES[STAGES.index(first) :] if first else ()
