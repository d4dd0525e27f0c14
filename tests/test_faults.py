"""A server that is restarted, a disk that is full, a run that dies with a slot: what was done is kept, the rest goes on."""

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from prefect.settings.context import get_current_settings

from tasks.slots import ASK_S, LEASE_S
from tests.bench.bench_kills import holdings
from tests.commands import ROOT
from tests.prefect_server import HANGS_S, Served, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Served]:
    its = Served(tmp_path_factory.mktemp("faults") / "home")
    try:
        yield its
    finally:
        its.close()


def until(command: "subprocess.Popen[str]", point: str) -> None:
    """Read what a command says up to the first line with `point`."""
    assert any(point in line for line in command.stderr), f"it never came to {point!r}"


def test_a_server_that_is_restarted_in_mid_run_costs_neither_the_run_nor_its_record(server, smoke):
    command = server.earshot("run", "study/smoke", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(command, "step 2/4: loss")
    server.restart_server()
    _, said = command.communicate(timeout=HANGS_S)
    assert command.returncode == 0, said[-3000:]
    assert holdings(server.home) == holdings(smoke.home)
    told = int(re.search(r"study/smoke: (\d+) task runs", said)[1])
    runs = server.ask("task_runs/filter", limit=200)
    assert len([run for run in runs if run["state_type"] == "COMPLETED" and "flow" not in run["task_key"]]) >= told


def test_a_run_that_lives_through_the_absence_of_its_server_is_never_said_to_be_dead(server):
    """It is awake, so that its heartbeats wait to be sent again, and a step of it ends; only its training is held up, by
    us, until the server has been away for longer than the automation's patience."""
    text = (ROOT / "automations.yaml").read_text(encoding="utf-8")
    (silent,) = [its for its in yaml.safe_load(text)["automations"] if its["name"] == "earshot-silent"]
    made = server.home.parent / "automations.json"
    made.write_text(json.dumps(silent), encoding="utf-8")
    server.prefect("automation", "create", "--from-file", str(made))
    sets = ("--set", "train.seeds=[5]", "--set", "train.training.max_steps=60")  # held up long before the last one
    home, pipes = server.home.parent / "another home", {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = server.earshot("train", "study/smoke", *sets, home=home, **pipes)
    until(command, "step 2/60: loss")
    training = psutil.Process(command.pid).children(recursive=True)
    for process in training:
        process.suspend()
    (run,) = server.ask("flow_runs/filter", flow_runs={"name": {"any_": ["study/smoke to train, seed 5"]}})
    server.kill_server()
    time.sleep(silent["trigger"]["within"])
    for process in training:
        process.resume()
    until(command, "the page of the run could not be written")
    until(command, "step 60/60: loss")
    server.server = server.start_server()
    _, said = command.communicate(timeout=HANGS_S)
    assert command.returncode == 0, said[-3000:]
    told = server.get(f"flow_run_states/?flow_run_id={run['id']}")
    assert [state["type"] for state in told] == ["PENDING", "RUNNING", "COMPLETED"]


@contextlib.contextmanager
def disk(place: Path, mb: int) -> Iterator[None]:
    """A file system of that size, where this machine lets us mount one."""
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mb}m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_a_sentence_and_the_same_command_goes_on_once_there_is_room(server, smoke, tmp_path):
    place = tmp_path / "small disk"
    with disk(place, 6):
        home = place / "home"
        command = server.earshot("run", "study/smoke", home=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        _, said = command.communicate(timeout=HANGS_S)
        assert command.returncode == 2, said[-3000:]
        assert "No space left on device" in said
        assert "Traceback" not in said
        assert not list((home / "store").glob("*/.draft*")), "what was half written is gone"
        subprocess.run(["mount", "-o", "remount,size=200m", place], check=True)
        command = server.earshot("run", "study/smoke", home=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        _, said = command.communicate(timeout=HANGS_S)
        assert command.returncode == 0, said[-3000:]
        assert "cached" in said
        assert holdings(home) == holdings(smoke.home)


# --- GPU slots ---------------------------------------------------------------------------------------------------

STUDY = """
import json, sys, threading, time
from prefect import flow
from tasks.cache import task
from tasks.slots import slot

abreast = threading.Barrier(int(sys.argv[3]), timeout=600)

def say(line: str) -> None:
    print(line + "\\n", end="", flush=True)  # whole, beside another's

@task()
def train(seed: int, seconds: float) -> None:
    with slot("cuda") as its:
        begin = time.time()
        say("in")
        abreast.wait()
        time.sleep(seconds)
        say(json.dumps([its["CUDA_VISIBLE_DEVICES"], begin, time.time()]))

@flow
def study(seeds: int, seconds: float) -> None:
    [future.result() for future in [train.submit(seed, seconds) for seed in range(seeds)]]

study(int(sys.argv[1]), float(sys.argv[2]))
"""


@pytest.fixture
def gpus(server, tmp_path, monkeypatch):
    """A machine with as many GPUs as one says."""

    def there_are(count: int) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n" + "echo 'A, 80 GiB, 79 GiB, 1'\n" * count)
        program.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return there_are


def study(server: Served, seeds: int, seconds: float, abreast: int = 1) -> "subprocess.Popen[str]":
    """A process with so many jobs, each for so long in its slot, in which it first waits to be one of so many."""
    told = (str(seeds), str(seconds), str(abreast))
    return server.start("-c", STUDY, *told, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def spans(*studies: "subprocess.Popen[str]") -> list[tuple[str, float, float]]:
    """(GPU, begin, end) of every job."""
    said = [line for its in studies for line in its.communicate(timeout=HANGS_S)[0].splitlines()]
    return [tuple(json.loads(line)) for line in said if line.startswith("[")]


def overlap(held: list[tuple[str, float, float]], gpu: str) -> bool:
    ours = sorted((begin, end) for name, begin, end in held if name == gpu)
    return any(begin < before for (_, before), (begin, _) in itertools.pairwise(ours))


def gpu_limit(server: Served) -> dict:
    """What the server says of its slots for GPUs."""
    (limit,) = [its for its in server.ask("v2/concurrency_limits/filter") if its["name"].startswith("gpu-")]
    return limit


def test_two_studies_queue_for_one_gpu_and_spread_over_two(server, gpus):
    gpus(1)
    held = spans(study(server, 2, 1), study(server, 2, 1))
    assert [name for name, *_ in held] == ["0"] * 4
    assert not overlap(held, "0")
    assert wait_for(lambda: gpu_limit(server)["active_slots"] == 0, HANGS_S, 1), "all of them were given back"
    assert gpu_limit(server)["limit"] == 1
    gpus(2)
    held = spans(study(server, 4, 0, abreast=2))
    assert {name for name, *_ in held} == {"0", "1"}
    assert not overlap(held, "0")
    assert not overlap(held, "1")
    one, other = ([job for job in held if job[0] == gpu] for gpu in ("0", "1"))
    assert any(a[1] < b[2] and b[1] < a[2] for a in one for b in other), "beside each other"


def test_a_slot_that_a_dead_run_held_is_free_within_90_s(server, gpus):
    """Of the lease and of the server's looks for those that are over. A busy machine adds its own delays to that, but none
    that makes it a lease of Prefect's usual length, 300 s, of which few are over when the job says that it is in."""
    assert LEASE_S + get_current_settings().server.services.repossessor.loop_seconds + ASK_S < 90
    gpus(1)
    dead = study(server, 1, 600)
    assert dead.stdout.readline() == "in\n"
    dead.kill()
    dead.communicate()
    killed = time.time()
    ((_, begin, _),) = spans(study(server, 1, 0))
    assert 5 < begin - killed < 280


# --- another database --------------------------------------------------------------------------------------------


@pytest.fixture
def postgres() -> Iterator[str]:
    """The address of an empty PostgreSQL, where this machine has one."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(binaries[-1]) if binaries else None)
    if not initdb:
        pytest.skip("no PostgreSQL here")
    from flows.server import free_port

    root, port = Path(tempfile.mkdtemp(prefix="earshot-postgres-")), free_port()
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # it refuses to run as root
    if as_user:
        shutil.chown(root, "postgres")
    ctl, data = str(Path(initdb).resolve().with_name("pg_ctl")), root / "data"
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"

    def do(*command: "str | Path") -> None:
        subprocess.run([*as_user, *command], check=True, stdout=subprocess.DEVNULL, cwd=root)

    try:
        do(initdb, "-D", data, "-U", "earshot", "-A", "trust")
        do(ctl, "-D", data, "-w", "-l", root / "log", "-o", options, "start")
        yield f"postgresql+asyncpg://earshot@127.0.0.1:{port}/postgres"
        do(ctl, "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(root)


def test_a_server_on_postgresql_keeps_the_same_record(postgres, tmp_path, smoke):
    its = Served(tmp_path / "home", database=postgres)
    try:
        command = its.earshot("build", "study/smoke", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        _, said = command.communicate(timeout=HANGS_S)
        assert command.returncode == 0, said[-3000:]
        told = int(re.search(r"study/smoke: (\d+) task runs", said)[1])
        runs = its.ask("task_runs/filter", limit=200)
        assert len([run for run in runs if run["state_type"] == "COMPLETED"]) >= told
        ours, theirs = holdings(its.home), holdings(smoke.home)
        assert ours["splits"] == theirs["splits"]
        assert not (its.home / "prefect" / "prefect.db").exists(), "the record lies in PostgreSQL alone"
    finally:
        its.close()
