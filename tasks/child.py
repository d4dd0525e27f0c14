"""Long work in a process of its own that ends with its parent, whatever ends the parent, and takes its memory along."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

LIFELINE = "EARSHOT_LIFELINE"
REFUSAL = "refused: "  # opens the line in which a child says why it cannot do its job
GRACE_S = 5.0
ENDED_S = 0.1  # within that time it is known of a process that ended that it did


class Process(Protocol):
    """A process that leads its own group: a `subprocess.Popen`, or one that a fork server made."""

    @property
    def pid(self) -> int: ...

    @property
    def stdout(self) -> IO[str] | None: ...

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, minus a signal's number where one ended it. Raises subprocess.TimeoutExpired."""


_working: set[Process] = set()
_endings = 0  # how often `end_all` was called


def python(*arguments: str) -> list[str]:
    """A command line of this interpreter."""
    return [sys.executable, "-u", *arguments]


def run(
    starting: contextlib.AbstractContextManager[Process],
    *,
    what: str,
    on_line: Callable[[str], None],
    timeout_min: float,
) -> None:
    """Start a process and see it to its end, handing each line it prints to `on_line`.

    Raises ValueError with the child's last line where it exits non-zero, TimeoutError where it runs too long. On any
    way out, an interrupt included, no process of the group is left.
    """
    with starting as process, at_work(process):
        overdue = threading.Event()

        def end() -> None:
            try:
                process.wait(ENDED_S)  # it may have ended in time, and we be slow to read what it said
            except subprocess.TimeoutExpired:
                overdue.set()
                end_group(process)

        def end_the_rest() -> None:
            process.wait()
            end_group(process)

        timer = threading.Timer(timeout_min * 60, end)
        timer.daemon = True
        timer.start()
        # A launcher that is killed leaves what it launched, which keeps the pipe below open: end that as well.
        rest = threading.Thread(target=end_the_rest, daemon=True)
        rest.start()
        last = refusal = ""
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(REFUSAL):
                    refusal = line.removeprefix(REFUSAL).strip()
                elif not refusal:  # what follows a refusal is a launcher's traceback
                    last = line.rstrip() or last
                    on_line(line.rstrip())
            code = process.wait()
        finally:
            timer.cancel()
            end_group(process)
            rest.join()
    if overdue.is_set():
        raise TimeoutError(f"{what} ran longer than {timeout_min:g} minutes and was stopped; raise `timeout_min`")
    if code < 0:
        raise ValueError(f"{what} was killed by {signal.Signals(-code).name}; run the same command again to go on")
    if code:
        raise ValueError(f"{what} failed: {refusal or last}")


@contextlib.contextmanager
def started(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    input: Any = subprocess.PIPE,
    output: int | IO[str] = subprocess.PIPE,
) -> Iterator["subprocess.Popen[str]"]:
    """A process in its own group, whose standard input is held open by us alone: when we die it reads the end of it."""
    process = subprocess.Popen(
        list(command),
        stdin=input,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env=environment_of(environment),
    )
    try:
        yield process
    finally:
        end_group(process)


def environment_of(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a child finds in its environment: ours, the changes, and this clone before any other and before any folder
    that happens to be the current one."""
    paths = [str(Path(__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    ours = {LIFELINE: "stdin", "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    return {**os.environ, **(changes or {}), **ours}


@contextlib.contextmanager
def at_work(process: Process) -> Iterator[None]:
    """Inside, `end_all` ends this process as well."""
    _working.add(process)
    try:
        yield
    finally:
        _working.discard(process)


def end_all() -> None:
    """End every child at work in this process, and let none follow that waits for its turn; whoever waits is free."""
    global _endings
    _endings += 1
    for process in list(_working):
        end_group(process)


def all_ended() -> bool:
    """Whether `end_all` was called in this process: what fails from then on was stopped."""
    return _endings > 0


def turn() -> Callable[[], None]:
    """Called while one waits for one's turn to start a child: raises ValueError once `end_all` has been called."""
    begun = _endings

    def demand() -> None:
        if _endings != begun:
            raise ValueError("stopped before it began; run the same command again to go on")

    return demand


class EndedByInterrupts(contextlib.ContextDecorator):
    """Around a flow, as a decorator: whatever stops it from without ends the children that its threads wait for, and so
    these. It must stand within the flow, whose end waits for the threads.

    A class, since a task runner that leaves the process takes the flow along: what a generator waits for cannot be sent.
    """

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind and not issubclass(kind, Exception):  # an interrupt, or the signal by which Prefect cancels a run
            end_all()


def end_group(process: Process) -> None:
    """End a process and all it started: ask, wait a little, then kill."""
    for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
        if not _group_lives(process.pid):
            return


def _group_lives(group: int) -> bool:
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return False
        time.sleep(0.02)
    return True


# --- in the child ------------------------------------------------------------------------------------------------


def serve(module: str, path: str) -> int:
    """Do the job in the file at `path` by a module's `main`; the exit status.

    What a user can mend leaves as a sentence, not as a traceback.
    """
    hold_lifeline()
    try:
        importlib.import_module(module).main(path)
    except (ValueError, FileNotFoundError) as error:
        print(REFUSAL + " ".join(str(error).split()), flush=True)
        return 2
    return 0


def hold_lifeline() -> None:
    """End the whole process group once the parent is gone. Does nothing where no parent holds a line.

    The line is standard input, which launchers between parent and child pass on; a pipe's end needs no signal, so
    it works after kill -9 and on every platform.
    """
    if os.environ.get(LIFELINE) != "stdin":
        return

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="lifeline").start()


if __name__ == "__main__":
    sys.exit(serve(*sys.argv[1:]))
