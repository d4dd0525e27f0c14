"""What to do next where a run has failed, on its page."""

import contextlib
import errno
import shlex
from collections.abc import Iterator, Sequence

from recipes.schema import CheckFailed
from tasks.run_page import show_markdown
from tasks.store import home

VERBS = {"publish": "run"}  # stage -> command, where they differ


@contextlib.contextmanager
def advice(study: str, overrides: Sequence[str], until: str) -> Iterator[None]:
    """Inside, whatever stops the run leaves on its page what happened, the way out, and the command that goes on."""
    try:
        yield
    except BaseException as error:
        text = "\n\n".join(["## This run stopped", *next_steps(error, study, overrides, until)])
        show_markdown("what-next", text, f"What to do next: {study}")
        raise


def next_steps(error: BaseException, study: str, overrides: Sequence[str], until: str) -> list[str]:
    """Paragraphs: what it was, what mends it, how to go on."""
    command = ["earshot", VERBS.get(until, until), study]
    command += [part for override in overrides for part in ("--set", override)]
    return [
        f"> {' '.join(str(error).split()) or type(error).__name__}",
        way_out(error),
        f"What was finished is kept in `{home()}`. To go on from there, run the deployment again, or:",
        f"```\n{shlex.join(command)}\n```",
    ]


def way_out(error: BaseException) -> str:
    """What mends it, by the kind of error."""
    if not isinstance(error, Exception):
        return "It was stopped from outside; its child processes were ended with it. Nothing needs to be mended."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            "The disk is full. `earshot clean` shows what the home no longer needs; EARSHOT_HOME moves it elsewhere."
        )
    if isinstance(error, CheckFailed):
        return "A check stopped it, so that no number comes out wrong. Mend what it names: the recipe, or the data."
    if isinstance(error, TimeoutError):
        return (
            "It took longer than it may. Raise the `timeout_min` of its block (`train`, `evaluate` or `search`), or look "
            "why it was slow; training goes on from its last checkpoint."
        )
    if isinstance(error, ValueError | FileNotFoundError):
        return (
            "Mend what it names; `earshot plan` checks the recipe without running it, `earshot doctor` this machine."
        )
    return "This is a fault of Earshot's own: the log of the task that failed holds the traceback to report."
