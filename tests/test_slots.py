"""Jobs share GPUs: one holder each, the others wait their turn, and the dead hold nothing."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import prefect.concurrency.sync
import pytest

from tasks import child, slots
from tasks.models.jobs import Job, Question
from tests.commands import ROOT
from tests.prefect_server import HANGS_S

HOLD = """
import json, sys, time
from tasks.slots import slot
with slot("cuda") as its:
    begin = time.monotonic()
    print(json.dumps(its), flush=True)
    time.sleep(float(sys.argv[1]))
"""


@pytest.fixture
def two_gpus(tmp_path, monkeypatch) -> None:
    """An nvidia-smi that knows of two GPUs, and a folder of locks of our own."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'A, 80 GiB, 79 GiB, 1'\necho 'B, 80 GiB, 79 GiB, 1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(slots.tempfile, "tempdir", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def holder(seconds: float) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(seconds)], env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_the_gpus_there_are_and_may_be_used_are_counted(two_gpus, monkeypatch):
    assert slots.visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert slots.visible_gpus() == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert slots.visible_gpus() == []


def test_two_jobs_get_a_gpu_each_and_a_third_waits_until_one_is_done(two_gpus):
    got: list[tuple[str, float, float]] = []
    used: set[str] = set()
    both = threading.Event()

    def job() -> None:
        with slots.slot("auto") as its:
            begin = time.monotonic()
            used.add(its["CUDA_VISIBLE_DEVICES"])
            if len(used) == 2:
                both.set()
            both.wait(HANGS_S)
            time.sleep(0.3)  # in which a third would come, were it let
            got.append((its["CUDA_VISIBLE_DEVICES"], begin, time.monotonic()))

    threads = [threading.Thread(target=job) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGS_S)
    assert sorted(name for name, *_ in got)[:2] in (["0", "0"], ["0", "1"])
    for name in ("0", "1"):
        spans = sorted((begin, end) for its, begin, end in got if its == name)
        assert spans, "both were used"
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans)), "never two on one"


MEETS_THE_OTHER = """
import os, pathlib, time
its = os.environ["CUDA_VISIBLE_DEVICES"]
folder = pathlib.Path({folder!r})
(folder / f"gpu-{{its}}").touch()
while len(list(folder.glob("gpu-*"))) < 2:
    time.sleep(0.01)
print(its, flush=True)
"""


def test_two_jobs_that_run_beside_each_other_see_a_gpu_each(two_gpus, tmp_path):
    """Their own environment says so, and each ends only once it has met the other."""

    class Program(Job):
        def model_dump_json(self, **_: object) -> str:
            return MEETS_THE_OTHER.format(folder=str(tmp_path))

    question = Question(classes=("S", "N"), answers=("A", "B"), prompt="", longest_ms=100)
    lines: list[str] = []

    def work(number: int) -> None:
        job = Program(question=question, device="cuda", output=str(tmp_path / str(number)))
        job.run("tests.child_program", what="meeting", on_line=lines.append, timeout_min=10)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGS_S)
    assert sorted(lines) == ["0", "1"]


def test_a_gpu_held_by_a_process_that_was_killed_is_free_at_once(two_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    held = holder(HANGS_S)
    assert json.loads(held.stdout.readline())["CUDA_VISIBLE_DEVICES"] == "1"
    second = holder(0)
    time.sleep(0.2)
    held.send_signal(signal.SIGKILL)
    held.wait()
    assert json.loads(second.communicate(timeout=HANGS_S)[0])["CUDA_VISIBLE_DEVICES"] == "1"


def test_a_job_may_have_several_gpus_and_no_more_than_there_are(two_gpus):
    for asked in (2, "all"):
        with slots.slot("cuda", asked) as its:
            assert its["CUDA_VISIBLE_DEVICES"] == "0,1"
    with (
        pytest.raises(ValueError, match=r"train\.gpus: 3 GPUs are asked for, this machine shows 2"),
        slots.slot("cuda", 3),
    ):
        pass


def test_jobs_that_want_all_gpus_take_turns_and_never_wait_for_each_other_for_ever(two_gpus):
    at_work: list[int] = []
    most: list[int] = []

    def job() -> None:
        with slots.slot("cuda", 2):
            at_work.append(1)
            most.append(len(at_work))
            time.sleep(0.05)
            at_work.pop()

    threads = [threading.Thread(target=job) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGS_S)
    assert most == [1, 1, 1, 1]


def test_whoever_waits_for_a_gpu_can_be_stopped(two_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    waits, refused, turn = threading.Event(), threading.Event(), child.turn

    def turn_of_the_waiting():
        demand = turn()
        waits.set()
        return demand

    def wait() -> None:
        with pytest.raises(ValueError, match=r"^stopped before it began"), slots.slot("cuda"):
            pass
        refused.set()

    with slots.slot("cuda"):
        monkeypatch.setattr(child, "turn", turn_of_the_waiting)
        thread = threading.Thread(target=wait)
        thread.start()
        assert waits.wait(HANGS_S)
        child.end_all()
        thread.join(HANGS_S)
    assert refused.is_set()


def test_without_a_gpu_or_on_a_cpu_nothing_is_set(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for device in ("cpu", "auto"):
        with slots.slot(device) as its:
            assert its == {}


def test_no_more_jobs_run_on_a_cpu_than_its_cores_bear(monkeypatch):
    most = slots._on_cpu._initial_value
    assert most == max(2, (os.cpu_count() or 1) // slots.THREADS_A_JOB)
    at_once: list[int] = []
    now, lock, full = [0], threading.Lock(), threading.Event()

    def job() -> None:
        with slots.slot("cpu"):
            with lock:
                now[0] += 1
                at_once.append(now[0])
                if now[0] == most:
                    full.set()
            full.wait(HANGS_S)
            time.sleep(0.05)  # in which one more would come, were it let
            with lock:
                now[0] -= 1

    threads = [threading.Thread(target=job) for _ in range(most + 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGS_S)
    assert max(at_once) == most


class Prefect:
    """A server as `slots` sees it: whether it answers, how many slots are free, and what was said to it."""

    def __init__(self) -> None:
        self.answers: list[bool] = []  # to each question whether it is there, in order; then always
        self.free = [1]  # slots, each time one is asked for
        self.error: Exception | None = None  # what asking for a slot, or giving it back, ends with
        self.lines: list[str] = []

    def api_healthcheck(self):
        return None if not self.answers or self.answers.pop(0) else httpx.ConnectError("refused")

    @contextlib.contextmanager
    def concurrency(self, name: str, **_):
        if self.free.pop(0) <= 0:
            raise self.error or TimeoutError
        yield
        if self.error:
            raise self.error


@pytest.fixture
def prefect(two_gpus, monkeypatch) -> Prefect:
    its = Prefect()
    monkeypatch.setattr("prefect.client.orchestration.get_client", lambda sync_client: contextlib.nullcontext(its))
    monkeypatch.setattr("prefect.concurrency.sync.concurrency", its.concurrency)
    monkeypatch.setattr(slots, "make_limit", lambda names: None)
    monkeypatch.setattr("tasks.run_page.in_a_run", lambda: True)
    monkeypatch.setattr("tasks.run_page.say", its.lines.append)
    return its


def test_a_job_whose_server_is_away_takes_a_gpu_by_its_lock_alone_and_says_so(prefect):
    prefect.answers, prefect.free = [False], []
    with slots.slot("cuda") as its:
        assert its["CUDA_VISIBLE_DEVICES"] == "0"
    assert prefect.lines == [
        "no GPU slot is asked for, the Prefect server is away (ConnectError('refused')): locks of this host keep GPUs apart"
    ]


def test_a_job_that_waits_for_a_slot_waits_no_longer_once_the_server_is_gone(prefect):
    prefect.answers, prefect.free = [True, True, True, False], [0, 0, 0]
    with slots.slot("cuda"):
        pass
    assert [line.split(" GPU slot")[0] for line in prefect.lines] == ["waiting for one of 2", "no"]


def test_a_server_that_leaves_before_it_gives_the_slot_is_no_error_but_one_that_refuses_it_is(prefect):
    prefect.answers, prefect.free = [True, False], [0]
    prefect.error = Exception("unable to acquire")
    prefect.error.__cause__ = httpx.ConnectError("refused")
    with slots.slot("cuda"):
        pass
    assert len(prefect.lines) == 1
    prefect.free, prefect.error = [0], Exception("no such limit")
    with pytest.raises(Exception, match="no such limit"), slots.slot("cuda"):
        pass


def test_a_slot_that_cannot_be_given_back_costs_a_finished_job_nothing(prefect):
    prefect.error = httpx.ConnectError("refused")
    with slots.slot("cuda"):
        pass
    assert prefect.lines == [
        "the GPU slot was not given back (ConnectError('refused')): the server takes it back within 90 s"
    ]
    prefect.free = [1]
    with pytest.raises(ValueError, match="of the job"), slots.slot("cuda"):
        raise ValueError("of the job")


def test_a_slot_that_is_free_is_held_in_silence_and_one_that_was_not_is_told_of(prefect):
    with slots.slot("cuda"):
        pass
    assert prefect.lines == []
    prefect.free = [0, 0, 1]
    with slots.slot("cuda"):
        pass
    assert [line.split()[0] for line in prefect.lines] == ["waiting", "waited"]


@pytest.mark.gpu
def test_a_job_in_a_slot_sees_the_one_gpu_it_holds():
    with slots.slot("cuda") as its:
        environment = {**os.environ, **its}
        count = "import torch; print(torch.cuda.device_count())"
        told = subprocess.run(
            [sys.executable, "-c", count], env=environment, capture_output=True, text=True, check=True
        )
    assert told.stdout.strip() == "1"
