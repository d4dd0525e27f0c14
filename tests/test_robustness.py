"""A clone runs wherever it lies and stays as it is; two commands on one home come one after the other."""

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.bench.bench_kills import alive, environment, holdings
from tests.commands import Command
from tests.prefect_server import wait_for
from tests.test_child import ROOT
from tests.test_cli import stages

pytestmark = pytest.mark.slow
SERVERS = ("flows.server", "tasks.forkserver")
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".*_cache", ".hypothesis", ".benchmarks", "__pycache__", "build", "*.egg-info"
)


def content(folder: Path) -> dict[str, str]:
    """Every path below a folder with its SHA-256, its kind where it is no file, and its mode."""
    found = {}
    for path in sorted(folder.rglob("*")):
        what = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
        found[str(path.relative_to(folder))] = f"{what} {path.stat().st_mode:o}"
    return found


class Elsewhere(NamedTuple):
    """A run from a copy of the clone that nobody may write to, and the copy before and after it."""

    code: int
    said: str
    home: Path
    before: dict[str, str]
    after: dict[str, str]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Iterator[Elsewhere]:
    """Of the copy, one line that a job prints is altered, to tell whose code the job ran."""
    folder = tmp_path_factory.mktemp("ears é 耳 #1 100%")
    clone, home = folder / "my clone #2", folder / "a home"
    shutil.copytree(ROOT, clone, ignore=NOT_COPIED)
    job = clone / "tasks" / "models" / "pretraining.py"
    text = job.read_text(encoding="utf-8")
    assert text.count('print(f"base: ') == 1
    job.write_text(text.replace('print(f"base: ', 'print(f"base of the copy: '), encoding="utf-8")
    for path in (clone, *clone.rglob("*")):
        path.chmod(path.stat().st_mode & 0o555)
    before = content(clone)
    told = {**environment(home), "PYTHONPATH": str(clone), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "flows.cli", "run", "study/smoke"]
    done = subprocess.run(command, env=told, cwd=folder, capture_output=True, text=True, check=False)
    yield Elsewhere(done.returncode, done.stderr + done.stdout, home, before, content(clone))
    for path in (clone, *clone.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)


def test_a_clone_runs_under_a_path_with_spaces_a_hash_and_letters_beyond_ascii(elsewhere):
    assert elsewhere.code == 0, elsewhere.said[-3000:]
    assert "verify     earshot verify earshot/smoke-adapter@" in elsewhere.said


def test_jobs_run_the_code_of_the_clone_they_were_started_from(elsewhere):
    assert "base of the copy: " in elsewhere.said
    assert "  base: " not in elsewhere.said


def test_a_run_writes_nothing_into_the_clone(elsewhere):
    """For root, whom no mode keeps from writing, the comparison is what tells; bytecode is left out by the environment."""
    assert elsewhere.code == 0
    assert elsewhere.after == elsewhere.before
    assert "flows/cli.py" in elsewhere.before


def test_the_comparison_sees_a_file_that_was_written(tmp_path):
    (tmp_path / "a").write_text("1")
    before = content(tmp_path)
    (tmp_path / "a").write_text("2")
    assert content(tmp_path) != before
    (tmp_path / "a").write_text("1")
    assert content(tmp_path) == before
    (tmp_path / "b").mkdir()
    assert content(tmp_path) != before


def serving(home: Path) -> set[str]:
    """The modules of ours that serve a command on this home in processes of their own."""
    return {name for line in alive(home).values() for name in SERVERS if name in line}


def seen(process: "subprocess.Popen[str]", home: Path) -> set[str]:
    """Those that are seen until it ends."""
    found: set[str] = set()
    while process.poll() is None:
        found |= serving(home)
        time.sleep(0.1)
    assert process.returncode == 0
    return found


def test_of_two_commands_on_one_home_the_second_waits_finds_everything_cached_and_starts_nothing_to_fork(tmp_path):
    home = tmp_path / "home"
    first = Command(home, "run", "study/smoke")
    assert wait_for((home / "lock.holder").exists)
    second = Command(home, "run", "study/smoke")
    assert wait_for(lambda: serving(home) == {*SERVERS}), "a run with jobs starts the process that forks them"
    one = first.done()
    published = holdings(home)
    assert seen(second.process, home) == {"flows.server"}, "one without does not"
    other = second.done()
    assert (one.code, other.code) == (0, 0), one.err[-3000:] + other.err[-3000:]
    assert f"waiting for study/smoke (pid {first.process.pid}) to finish on {home}\n" in other.err
    ran = {name for name, how in stages(other.err) if how != "cached"}
    assert all(name.startswith(("publish ", "gate of ", "looks at ")) for name in ran), ran
    assert len(stages(other.err)) == len(stages(one.err)) > len(ran)
    assert holdings(home) == published
    assert other.out == one.out


def test_a_build_has_no_jobs_to_fork(tmp_path):
    build = Command(tmp_path / "home", "build", "study/smoke")
    assert seen(build.process, tmp_path / "home") == {"flows.server"}
