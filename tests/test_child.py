"""A child ends with its parent, whatever ends the parent, and takes all it started along."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tasks import child

ROOT = Path(__file__).parent.parent
GRANDPARENT = """
import subprocess, sys, time
print("up", flush=True)
subprocess.run([sys.executable, "-c", {inner!r}])
"""
INNER = """
import os, sys, time
sys.path.insert(0, {root!r})
from tasks.child import hold_lifeline
hold_lifeline()
open({pid!r}, "w").write(str(os.getpid()))
time.sleep(60)
"""


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z" if Path("/proc").exists() else True


def wait_for(condition, seconds=10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def launcher(pid_file: Path) -> list[str]:
    """A launcher that starts the process which holds the line, as accelerate does."""
    inner = INNER.format(root=str(ROOT), pid=str(pid_file))
    return [sys.executable, "-c", GRANDPARENT.format(inner=inner)]


def test_lines_arrive_and_the_last_one_explains_a_failure():
    lines = []
    with pytest.raises(ValueError, match="counting failed: out of numbers"):
        child.run(
            child.python("-c", "print('one'); print('out of numbers'); raise SystemExit(3)"),
            what="counting", on_line=lines.append, timeout_min=1,
        )  # fmt: skip
    assert lines == ["one", "out of numbers"]


def test_a_refusal_outlives_the_traceback_of_the_launcher():
    program = "print('refused: no GPU here'); print('Traceback'); print('CalledProcessError'); raise SystemExit(1)"
    lines = []
    with pytest.raises(ValueError, match=r"^training failed: no GPU here$"):
        child.run(child.python("-c", program), what="training", on_line=lines.append, timeout_min=1)
    assert lines == []


def test_a_child_that_runs_too_long_is_stopped_with_all_it_started(tmp_path):
    with pytest.raises(TimeoutError, match=r"waiting ran longer than 0\.02 minutes"):
        child.run(launcher(tmp_path / "pid"), what="waiting", on_line=lambda line: None, timeout_min=0.02)
    assert wait_for(lambda: not lives(int((tmp_path / "pid").read_text())))


def test_a_killed_child_says_which_signal(tmp_path):
    with pytest.raises(ValueError, match="training was killed by SIGKILL"):
        child.run(
            child.python("-c", "import os; os.kill(os.getpid(), 9)"), what="training", on_line=print, timeout_min=1
        )


@pytest.mark.parametrize("victim", ["parent", "launcher"])
def test_no_orphan_is_left_after_kill_9(tmp_path, victim):
    program = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(ROOT)!r})
        from tasks import child
        child.run({launcher(tmp_path / "pid")!r}, what="x", on_line=lambda line: None, timeout_min=1)
    """)
    parent = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    assert wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    inner = int((tmp_path / "pid").read_text())
    assert lives(inner)
    os.kill(parent.pid if victim == "parent" else os.getpgid(inner), signal.SIGKILL)
    assert wait_for(lambda: not lives(inner)), "the process that held the line outlived its parent"
    parent.kill()
    parent.wait()
