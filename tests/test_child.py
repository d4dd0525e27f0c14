"""A child ends with its parent, whatever ends the parent, and takes all it started along; however it was made."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import child, forkserver
from tests.prefect_server import HANGS_S, wait_for

ROOT = Path(__file__).parent.parent
MODULES = ("tests.child_program",)
STARTS_ANOTHER = """
import subprocess, sys, time
another = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({pids!r}, "a").write(f"{{another.pid}}\\n")
print("up", flush=True)
time.sleep(600)
"""
PARENT = """
import sys; sys.path.insert(0, {root!r})
from tasks import child, forkserver
from tests.prefect_server import wait_for
{starting}
child.run(starting, what="x", on_line=lambda line: print(line, flush=True), timeout_min=10)
"""


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if not Path("/proc").exists():
        return True
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it may end just now
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    return False


def pids(file: Path) -> list[int]:
    """The processes that a job wrote down, one a line."""
    return [int(line) for line in file.read_text().split()] if file.exists() else []


KINDS = ["process", pytest.param("forked", marks=pytest.mark.skipif(not forkserver.FORKS, reason="no fork here"))]


class Kind:
    """One of the two ways to make a child: a process of its own, or one forked by a server."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder

    def __call__(self, program: str, environment: dict[str, str] | None = None):
        """A child that is about to run `program`."""
        file = str(self.write(program))
        if self.name == "forked":
            return forkserver.forked(MODULES[0], file, MODULES, environment or {})
        return child.started(child.python("-m", "tasks.child", MODULES[0], file), environment=environment)

    def write(self, program: str) -> Path:
        file = self.folder / f"{len(list(self.folder.glob('*.py')))}.py"
        file.write_text(textwrap.dedent(program), encoding="utf-8")
        return file

    def parent(self, program: str) -> "subprocess.Popen[str]":
        """A process that runs a child over `program`, and prints its lines."""
        file = str(self.write(program))
        starting = (
            f"starting = forkserver.forked({MODULES[0]!r}, {file!r}, {MODULES!r}, {{}})" if self.name == "forked"
            else f"starting = child.started(child.python('-m', 'tasks.child', {MODULES[0]!r}, {file!r}))"
        )  # fmt: skip
        source = PARENT.format(root=str(ROOT), starting=starting)
        return subprocess.Popen(
            [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture(params=KINDS)
def kind(request, tmp_path) -> Iterator[Kind]:
    yield Kind(request.param, tmp_path)
    forkserver.stop()


def run(starting, what="counting", on_line=lambda line: None, timeout_min=10.0) -> None:
    child.run(starting, what=what, on_line=on_line, timeout_min=timeout_min)


def test_lines_arrive_and_the_last_one_explains_a_failure(kind):
    lines = []
    with pytest.raises(ValueError, match=r"^counting failed: out of numbers$"):
        run(kind("import os; print('one'); print('out of numbers'); os._exit(3)"), on_line=lines.append)
    assert lines == ["one", "out of numbers"]


def test_a_fault_of_ours_arrives_as_the_last_line_of_its_traceback(kind):
    with pytest.raises(ValueError, match=r"^counting failed: KeyError: 'seven'$"):
        run(kind("raise KeyError('seven')"))


def test_what_a_user_can_mend_arrives_as_one_sentence(kind):
    lines = []
    with pytest.raises(ValueError, match=r"^counting failed: no such number; try another$"):
        run(kind("raise ValueError('no such number;\\n  try another')"), on_line=lines.append)
    assert lines == []


def test_a_refusal_outlives_the_traceback_of_the_launcher():
    program = "print('refused: no GPU here'); print('Traceback'); print('CalledProcessError'); raise SystemExit(1)"
    lines = []
    with pytest.raises(ValueError, match=r"^training failed: no GPU here$"):
        run(child.started(child.python("-c", program)), what="training", on_line=lines.append)
    assert lines == []


@pytest.mark.slow
def test_a_child_that_runs_too_long_is_stopped_with_all_it_started(kind, tmp_path, monkeypatch):
    noted, up = tmp_path / "pids", threading.Event()

    class Timer(threading.Timer):
        """Its time begins once the child has started another."""

        def run(self):
            up.wait()
            super().run()

    monkeypatch.setattr(child.threading, "Timer", Timer)
    program = STARTS_ANOTHER.format(pids=str(noted))
    with pytest.raises(TimeoutError, match=r"^waiting ran longer than 0\.01 minutes and was stopped"):
        run(kind(program), what="waiting", on_line=lambda line: up.set(), timeout_min=0.01)
    assert pids(noted)
    assert wait_for(lambda: not any(map(lives, pids(noted))))


def test_a_child_that_ended_in_time_did_not_run_too_long_however_slowly_it_is_listened_to(kind, monkeypatch):
    timers = []

    class Timer(threading.Timer):
        def start(self):
            timers.append(self)

    def too_late(line: str) -> None:
        assert wait_for(lambda: not lives(int(line))), "who leads its group tells how it ended, and ends"
        timers[0].function()

    monkeypatch.setattr(child.threading, "Timer", Timer)
    run(kind("import os; print(os.getpgid(0))"), on_line=too_late)
    assert len(timers) == 1


def test_a_killed_child_says_which_signal(kind):
    for number in (signal.SIGKILL, signal.SIGSEGV):
        with pytest.raises(ValueError, match=f"^training was killed by {number.name}; run the same command again"):
            run(kind(f"import os; os.kill(os.getpid(), {int(number)})"), what="training")


@pytest.mark.slow
def test_a_child_has_a_group_of_its_own_and_leaves_nobody_in_it(kind, tmp_path):
    noted, lines = tmp_path / "pids", []
    program = STARTS_ANOTHER.format(pids=str(noted)).removesuffix("time.sleep(600)\n")
    for _ in range(2):
        run(kind(program + "import os; print(os.getpgid(0))"), on_line=lines.append)
    groups = [int(line) for line in lines if line != "up"]
    assert len({*groups, os.getpgid(0)}) == 3
    assert len(pids(noted)) == 2
    assert wait_for(lambda: not any(map(lives, pids(noted))))


def test_each_child_finds_its_own_environment(kind, monkeypatch):
    program = "import os; print(os.environ.get('GREETING'), os.environ.get('OURS'))"
    lines = []
    monkeypatch.setenv("OURS", "1")
    run(kind(program, {"GREETING": "hello"}), on_line=lines.append)
    monkeypatch.setenv("OURS", "2")
    run(kind(program), on_line=lines.append)
    assert lines == ["hello 1", "None 2"]


@pytest.mark.parametrize("where", ["current folder", "path"])
def test_a_child_runs_this_clone_whatever_else_is_called_tasks(kind, tmp_path, monkeypatch, where):
    other = tmp_path / "other"
    (other / "tasks").mkdir(parents=True)
    for name in ("__init__", "child", "forkserver"):
        (other / "tasks" / f"{name}.py").write_text("raise SystemExit('another tasks')")
    monkeypatch.chdir(other)
    if where == "path":
        monkeypatch.setenv("PYTHONPATH", str(other))
    lines = []
    run(kind("import tasks; print(tasks.__file__)"), on_line=lines.append)
    assert lines == [str(ROOT / "tasks" / "__init__.py")]


@pytest.mark.parametrize("victim", ["parent", "group leader"])
def test_no_orphan_is_left_after_kill_9(kind, tmp_path, victim):
    noted = tmp_path / "pids"
    parent = kind.parent(STARTS_ANOTHER.format(pids=str(noted)))
    assert parent.stdout.readline() == "up\n"
    (another,) = pids(noted)
    leader = os.getpgid(another)
    os.kill(parent.pid if victim == "parent" else leader, signal.SIGKILL)
    assert wait_for(lambda: not lives(another)), "what the child started outlived its parent"
    assert wait_for(lambda: not lives(leader))
    _, said = parent.communicate(timeout=HANGS_S)
    assert victim == "parent" or "ValueError: x was killed by SIGKILL" in said


@pytest.mark.slow
def test_ending_all_frees_whoever_waits(kind, tmp_path):
    noted, found, up = tmp_path / "pids", [], threading.Event()

    def wait() -> None:
        with pytest.raises(ValueError, match=r"^waiting was killed by SIGTERM;") as raised:
            run(kind(STARTS_ANOTHER.format(pids=str(noted))), what="waiting", on_line=lambda line: up.set())
        found.append(raised)

    thread = threading.Thread(target=wait)
    thread.start()
    assert up.wait(HANGS_S)
    child.end_all()
    thread.join(HANGS_S)
    assert found
    assert wait_for(lambda: not any(map(lives, pids(noted))))


def test_a_flow_that_ends_its_children_can_be_sent_to_another_process():
    """As Dask's workers need it: a context manager made of a generator could not."""
    import cloudpickle

    ran = cloudpickle.loads(cloudpickle.dumps(child.EndedByInterrupts()(lambda: 3)))
    assert ran() == 3
