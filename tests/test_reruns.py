"""What a run does again: what was edited or damaged and what depends on it, nothing else; and the same bytes anywhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.bench_kills import holdings
from tests.commands import ROOT, earshot

pytestmark = pytest.mark.slow
LINE = re.compile(r"^\d\d:\d\d:\d\d  (.+): (cached|completed, [\d.]+ s)$", re.MULTILINE)
ALWAYS = ("publish ", "gate of ", "looks at ")  # these are never cached


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A copy of the clone that may be edited."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("flows", "tasks", "recipes", "hub_cards"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def ran(clone: Path, home: Path, *arguments: str) -> set[str]:
    """The cached kind of tasks that a run of this clone did again."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "study/smoke", *arguments], cwd=clone, capture_output=True, text=True,
        env={**environment, "EARSHOT_HOME": str(home), "PYTHONPATH": str(clone)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = LINE.findall(done.stderr)
    assert any(how == "cached" for _, how in told)
    return {name for name, how in told if how != "cached" and not name.startswith(ALWAYS)}


def record_of(home: Path, text: str) -> Path:
    """The cache record that holds this text."""
    (found,) = [path for path in (home / "results").iterdir() if text in path.read_text(encoding="utf-8")]
    return found


@pytest.mark.usefixtures("rerun")  # nobody is at work on a home that is copied
def test_a_comment_another_block_and_three_kinds_of_damage_rerun_what_they_touch(clone, smoke, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(smoke.home, home, symlinks=True)
    mixing = clone / "tasks" / "functional" / "mixing.py"
    mixing.write_text(mixing.read_text(encoding="utf-8") + "\n# a comment\n", encoding="utf-8")
    shutil.rmtree(next(iter((home / "store" / "plan").iterdir())))
    scores = record_of(home, '\\"detector\\": \\"loudness\\"')
    fingerprint = re.search(r'fingerprint\\": \\"([0-9a-f]{16})', scores.read_text(encoding="utf-8"))[1]
    table = home / "store" / "predictions" / fingerprint / "predictions.parquet"
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    cut = record_of(home, '\\"detector\\": \\"majority\\"')
    cut.write_bytes(cut.read_bytes()[:-20])
    again = ran(clone, home, "--set", "evaluate.n_boot=501")
    plans = {name for name in again if name.startswith("plan of ")}
    assert len(plans) == 1
    assert again - plans == {"loudness, fold 0", "majority, fold 0", "report of smoke"}
    made, before = holdings(home), holdings(smoke.home)
    assert all(made[kind] == before[kind] for kind in ("plan", "predictions", "clips", "adapter")), (
        "the same bytes again"
    )


@pytest.mark.usefixtures("rerun")
def test_an_edited_helper_reruns_whatever_reaches_it(clone, smoke, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(smoke.home, home, symlinks=True)
    helper = clone / "tasks" / "functional" / "ensemble.py"
    helper.write_text(helper.read_text(encoding="utf-8") + "\nSURPLUS = 3\n", encoding="utf-8")
    again = ran(clone, home)
    assert {"majority, fold 0", "loudness, fold 0", "adapter, fold 0", "base, fold 0"} <= again
    assert not [
        name
        for name in again
        if name.startswith(("recordings", "sides", "clips", "splits", "tiny base", "adapter, seed"))
    ]


@pytest.mark.parametrize(("runner", "command"), [("dask", "run"), ("processes", "build")])
def test_other_processes_make_the_bytes_of_a_serial_run(smoke, tmp_path, runner, command):
    home = tmp_path / "home"
    done = earshot(home, command, "study/smoke", "--runner", runner)
    assert done.code == 0, done.err[-3000:]
    ours, theirs = holdings(home), holdings(smoke.home)
    if command == "run":
        assert ours == theirs
    else:
        assert all(
            ours[kind] == theirs[kind] for kind in ("recordings", "sides", "splits", "datasets--earshot--smoke-clips")
        )
    told = int(re.search(r"study/smoke: (\d+) task runs", done.err)[1])
    assert told == len(LINE.findall(done.err)), "every task run was stored and told of"
