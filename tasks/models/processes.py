"""What processes that train together do as one: decide, and speak."""

from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

Decided = TypeVar("Decided")


def agreed(decided: Decided) -> Decided:
    """What the first process has decided, in all of them; each must ask at the same point of its work."""
    if PartialState().num_processes == 1:
        return decided
    first: Decided = broadcast_object_list([decided])[0]
    return first


def say(line: str) -> None:
    """A line for the run's log, from one of the processes that train together."""
    if PartialState().is_main_process:
        print(line, flush=True)
