"""One command does the whole job, says what it did, keeps its record, and never answers a mistake with a traceback."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import httpx
import pytest
import typer
from filelock import FileLock
from typer.testing import CliRunner

from flows import cli
from recipes.schema import CheckFailed
from tasks.store import fingerprint, make_home
from tests.commands import ROOT, earshot
from tests.prefect_server import HANGS_S, wait_for

LINE = re.compile(r"^\d\d:\d\d:\d\d  (.+): (cached|completed, [\d.]+ s)$", re.MULTILINE)
CACHED = (
    "recordings of synthetic", "sides,", "clips of train", "clips of dev", "clips of test", "splits of smoke", "tiny base",
    "adapter, seed 42", "majority", "loudness", "mel_statistics", "base, fold 0", "adapter, fold 0", "report of smoke",
)  # fmt: skip


def stages(said: str) -> list[tuple[str, str]]:
    """(name, "cached" or "completed") of every task run that a command told of, in the order of their ends."""
    return [(name, how.split(",")[0]) for name, how in LINE.findall(said)]


def in_database(home: Path) -> list[tuple[str, str]]:
    """(name, state) of the task runs in Prefect's database; a subflow's own entry is none."""
    with sqlite3.connect(
        f"file:{home / 'prefect' / 'prefect.db'}?mode=ro".replace(" ", "%20").replace("#", "%23"), uri=True
    ) as db:
        return db.execute(
            "select name, state_name from task_run where id not in "
            "(select parent_task_run_id from flow_run where parent_task_run_id is not null)"
        ).fetchall()


def command(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["earshot", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


# --- a whole run -------------------------------------------------------------------------------------------------


def test_a_run_ends_with_the_table_the_paths_and_the_command_that_verifies_them(smoke):
    assert smoke.first.code == 0, smoke.first.err[-3000:]
    out = smoke.first.out
    assert re.search(
        r"^test: 8 NONSPEECH groups, 6 SPEECH groups, 32 clips; 95 % intervals over groups$", out, re.MULTILINE
    )
    for detector in ("adapter", "base", "loudness", "majority", "mel_statistics"):
        assert re.search(rf"^{detector} +0\.\d+ \((0\.\d+ to [01]\.\d+|-)\)", out, re.MULTILINE), detector
    for what, name in (("report", "report.html"), ("card", "README.md")):
        path = Path(re.search(rf"^{what} +(.+)$", out, re.MULTILINE)[1])
        assert path.name == name
        assert path.is_file()
    assert re.search(r"^verify +earshot verify earshot/smoke-adapter@[0-9a-f]{40}$", out, re.MULTILINE)


def test_a_run_says_every_stage_and_what_is_trainable(smoke):
    told = stages(smoke.first.err)
    assert {how for _, how in told} == {"completed"}
    for stage in CACHED:
        assert any(name.startswith(stage) for name, _ in told), stage
    assert "trainable parameters: " in smoke.first.err
    assert "Traceback" not in smoke.first.err


def test_the_next_run_says_of_every_stage_that_it_is_cached(smoke, rerun):
    assert rerun.code == 0, rerun.err[-3000:]
    told = stages(rerun.err)
    assert len(told) == len(stages(smoke.first.err))
    ran = sorted({name for name, how in told if how == "completed"})
    assert all(name.startswith(("publish ", "gate of ", "looks at ")) for name in ran), ran
    for stage in CACHED:
        assert any(name.startswith(stage) and how == "cached" for name, how in told), stage


def test_the_next_run_says_the_same(smoke, rerun):
    assert rerun.out == smoke.first.out


def test_every_task_run_is_in_prefects_database(smoke, rerun):
    printed = [int(re.search(r"study/smoke: (\d+) task runs", done.err)[1]) for done in (smoke.first, rerun)]
    assert printed == [len(stages(done.err)) for done in (smoke.first, rerun)]
    stored = in_database(smoke.home)
    assert len(stored) == sum(printed)
    assert {state for _, state in stored} == {"Completed", "Cached"}
    told = sorted(name for done in (smoke.first, rerun) for name, _ in stages(done.err))
    assert sorted(name for name, _ in stored) == told


def test_times_lie_beside_the_report_and_listening_within(smoke):
    place = Path(re.search(r"^report +(.+)/report.html$", smoke.first.out, re.MULTILINE)[1])
    beside = place.with_name(f"{place.name}.timing")
    timed = json.loads((beside / "timing.json").read_text())
    assert {"adapter", "base", "majority", "loudness", "six_cues", "mel_statistics"} == set(timed)
    assert all(0 < its["p05_ms"] <= its["median_ms"] <= its["p95_ms"] for its in timed.values())
    rows = (beside / "accuracy_by_latency.csv").read_text().splitlines()
    assert rows[0].startswith(
        "detector,balanced_accuracy,ci95_low,ci95_high,device,timed_clips,all_median_ms,all_p95_ms"
    )
    assert len(rows) == 7
    assert (beside / "accuracy_by_latency.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((place / "report.json").read_text())
    assert report["listening"] == json.loads((place / "evidence" / "listening.json").read_text())
    assert len(report["listening"]["checks"]) == 8
    assert {"no_audio", "adapter", "base"} <= set(report["detectors"])
    assert "Is it listening?" in (place / "report.html").read_text()
    assert fingerprint(place) == place.name, "no time is in it"


def test_times_of_training_and_scoring_say_of_which_base_on_which_device(smoke):
    store = Path(re.search(r"^report +(.+)/report.html$", smoke.first.out, re.MULTILINE)[1]).parents[1]
    kept = [json.loads(file.read_text()) for file in store.glob("*/*.timing.json")]
    timed = [its for its in kept if {"train_s", "score_s"} & its.keys()]
    assert len(timed) == 4, "tiny base, adapter, and the scores of both"
    assert all((its["base"], its["device"]) == ("tiny", "cpu") for its in timed)


def test_a_run_leaves_no_draft_no_lock_and_no_process(smoke, rerun):
    assert list((smoke.home / "store").glob("*/.*")) == []
    assert not (smoke.home / "lock.holder").exists()
    assert [path for path in smoke.home.iterdir() if path.name.startswith(".publish-")] == []
    if Path("/proc").is_dir():
        from tests.bench.bench_kills import orphans

        assert orphans(smoke.ran_in) == {}


# --- what is not loaded ------------------------------------------------------------------------------------------


def test_help_loads_no_torch(tmp_path):
    done = earshot(tmp_path / "home", "--help")
    assert (done.code, done.loaded) == (0, [])
    assert not (tmp_path / "home").exists(), "asking for help makes no home"


def test_a_cached_run_loads_no_torch(rerun):
    assert rerun.loaded == []


@pytest.mark.slow
def test_verification_loads_no_torch(smoke):
    done = earshot(smoke.home, "verify", "earshot/smoke-adapter")
    assert (done.code, done.loaded) == (0, []), done.err
    assert "verified: " in done.out


# --- help and mistakes -------------------------------------------------------------------------------------------

COMMANDS = sorted(typer.main.get_command(cli.app).commands)


def test_the_list_of_commands_cuts_no_sentence():
    said = CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "80"}).output
    listed = said.split("Commands:")[1]
    assert "..." not in listed
    assert listed.count(".") >= len(COMMANDS)
    assert "published in the home's hub." in " ".join(said.split())
    assert all(len(line) <= 80 for line in said.splitlines())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(name):
    done = CliRunner().invoke(cli.app, [name, "--help"])
    assert done.exit_code == 0
    assert f"Example:  earshot {name}" in " ".join(done.output.split("\n")).replace("  earshot", "  earshot")


def test_the_stages_of_a_study_are_all_commands():
    assert {"run", "build", "train", "evaluate", "publish", "verify"} <= set(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "STUDY"),
        (["walk"], "walk"),
        (["run", "study/smoke", "--sett", "x=1"], "--sett"),
        (["run", "study/dmeo"], "no recipe 'study/dmeo'"),
        (["run", "study/smoke", "--set", "train.epochs=3"], "train.epochs: no such key; accepted here: "),
        (["run", "study/smoke", "--set", "train.lora={rank: 8}"], "did you mean r or "),
        (["run", "study/smoke", "--set", "train.seeds=[1"], "is not YAML"),
        (["run", "study/smoke", "--set", "seeds"], "is not key.path=value"),
        (["verify", "me/nothing"], "neither a folder nor in"),
        (["predict", "me/nothing", "clip.wav"], "neither a folder nor in"),
        (["predict", "me/nothing", "clip.wav", "--format", "rttm"], "rttm holds segments: give --window-ms"),
        (["verify", "../../nowhere/at/all"], "is no repository name"),
        (
            ["run", "study/smoke", "--set", "name=a b"],
            "name: accepted are letters, digits, `_`, `.` and `-`; got 'a b'",
        ),
        (["run", "study/smoke", "--set", "publish.adapter=a/b"], "with single `.` or `-` between them; got 'a/b'"),
        (
            ["run", "study/smoke", "--set", "adapter=me/x@main"],
            "adapter: accepted are NAMESPACE/NAME@<40 hex digits>; got",
        ),
        (["run", "study/smoke", "--set", "ablation={B 1: []}"], "the first one a small letter or a digit; got 'B 1'"),
    ],
)
def test_a_mistake_is_a_sentence_and_exit_code_2(home, monkeypatch, capsys, arguments, said):
    assert command(monkeypatch, *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("earshot: ")
    assert said in err
    assert "Traceback" not in err
    assert not (home / "store").exists(), "nothing ran"


BEFORE_THE_SERVER = """
import contextlib, sys
from flows import cli, server

@contextlib.contextmanager
def stop(**options):
    raise SystemExit("prefect" in sys.modules)
    yield

server.server = stop
for verb in ("run", "prompts"):
    sys.argv = ["earshot", verb, "study/smoke"]
    try:
        cli.main()
    except SystemExit as ended:
        print(verb, ended.code)
"""


def test_prefect_is_not_imported_before_its_settings_are_made(home):
    """It would log its own lines among ours and read the user's profile."""
    done = subprocess.run([sys.executable, "-c", BEFORE_THE_SERVER], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["run False", "prompts False"], done.stderr


def test_the_version_is_that_of_the_project(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["earshot", "--version"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (left.value.code, capsys.readouterr().out) == (0, f"earshot {project['version']}\n")


def test_who_asks_for_nothing_is_told_what_there_is(monkeypatch, capsys):
    assert command(monkeypatch) == 2
    said = capsys.readouterr()
    assert said.out.startswith("Usage: earshot ")
    assert "Start here:  earshot run study/demo" in said.out
    assert said.err == ""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (CheckFailed("the gate asks 0.85"), 1, "earshot: the gate asks 0.85\n"),
        (ValueError("a bad value"), 2, "earshot: a bad value\n"),
        (TimeoutError("too long"), 2, "earshot: too long\n"),
        (OSError(28, "No space left on device", "/x"), 2, "earshot: No space left on device: /x\n"),
    ],
)
def test_a_check_that_failed_is_1_and_anything_a_user_can_mend_is_2(monkeypatch, capsys, error, code, said):
    def run_until(*arguments):
        raise error

    monkeypatch.setattr(cli, "run_until", run_until)
    assert command(monkeypatch, "run", "study/smoke") == code
    assert capsys.readouterr().err == said


def test_a_server_that_is_away_for_too_long_is_a_sentence_and_another_that_does_not_answer_is_not(monkeypatch, capsys):
    def run_until(*arguments):
        raise httpx.ConnectError("[Errno 111] Connection refused", request=asked.pop(0))

    monkeypatch.setenv("PREFECT_API_URL", "http://server:4200/api")
    monkeypatch.setattr(cli, "run_until", run_until)
    ours, theirs = (
        httpx.Request("POST", "http://server:4200/api/flow_runs/"),
        httpx.Request("GET", "https://elsewhere/x"),
    )
    asked = [ours, theirs, None]
    assert command(monkeypatch, "run", "study/smoke") == 2
    assert capsys.readouterr().err == (
        "earshot: the Prefect server at server:4200 is away ([Errno 111] Connection refused): start it again on "
        "the same database and port, and run the same command again; it goes on from what was finished\n"
    )
    while asked:
        with pytest.raises(httpx.ConnectError):
            cli.main()


def test_a_fault_of_ours_is_not_dressed_up_as_a_users(monkeypatch):
    def run_until(*arguments):
        raise KeyError("a bug")

    monkeypatch.setattr(cli, "run_until", run_until)
    monkeypatch.setattr(sys, "argv", ["earshot", "run", "study/smoke"])
    with pytest.raises(KeyError, match="a bug"):
        cli.main()


# --- one command at a time ---------------------------------------------------------------------------------------

HOLD = """
import sys, time
from flows.cli import only_command
with only_command(sys.argv[1]):
    print("in", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(home: Path, name: str, seconds: float) -> "subprocess.Popen[str]":
    environment = {**os.environ, "EARSHOT_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, name, str(seconds)], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_second_command_waits_and_says_for_whom_and_a_kill_frees_the_home(tmp_path):
    first = holder(tmp_path / "home", "study/first", HANGS_S)
    assert first.stdout.readline() == "in\n"
    second = holder(tmp_path / "home", "study/second", 0)
    assert second.stderr.readline() == f"waiting for study/first (pid {first.pid}) to finish on {tmp_path / 'home'}\n"
    assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    assert second.communicate(timeout=HANGS_S)[0] == "in\n"
    assert second.returncode == 0
    first.communicate()


def test_a_command_that_comes_as_another_is_leaving_waits_for_it_all_the_same(home, capsys):
    """Its name is gone a moment before the home is free."""
    said: list[str] = []
    came = threading.Event()

    def work() -> None:
        with cli.only_command("study/second"):
            came.set()

    thread = threading.Thread(target=work)
    with FileLock(make_home() / "lock"):
        thread.start()
        assert wait_for(lambda: said.append(capsys.readouterr().err) or said[-1])
        assert not came.is_set()
    thread.join(HANGS_S)
    assert "".join(said) == f"waiting for another command to finish on {home}\n"
    assert came.is_set()
