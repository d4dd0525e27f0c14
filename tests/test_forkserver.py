"""One process imports, each job is a fork of it: fresh, on its own, and no less safe than a process started for it."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import child, forkserver
from tasks.audio_files import encode_flac
from tasks.models import jobs
from tasks.models.jobs import LAUNCH, ON_CPU, WARM, PretrainingJob, Question, ScoringJob, TrainingJob
from tasks.store import fingerprint
from tests.prefect_server import HANGS_S, wait_for
from tests.test_child import ROOT, lives, pids, run

MODULES = ("tests.child_program",)
QUESTION = Question(
    classes=("SPEECH", "NONSPEECH"), answers=("A", "B"), prompt="A) SPEECH B) NONSPEECH", longest_ms=200
)

forks = pytest.mark.skipif(not forkserver.FORKS, reason="no fork here")


@pytest.fixture(autouse=True)
def no_server():
    yield
    forkserver.stop()


def forked(folder: Path, program: str, modules=MODULES, environment=None):
    file = folder / "program.py"
    file.write_text(program, encoding="utf-8")
    return forkserver.forked(MODULES[0], str(file), modules, environment or {})


def parents(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[1])


# --- the server --------------------------------------------------------------------------------------------------


@forks
def test_what_is_imported_once_is_there_in_every_job_and_what_a_job_changes_is_gone_with_it(tmp_path):
    program = """
import os, sys
print(os.getpid(), "tests.child_program" in sys.modules, getattr(sys, "mine", None))
sys.mine = bytearray(10**8)
"""
    lines = []
    for _ in range(2):
        run(forked(tmp_path, program), on_line=lines.append)
    (one, *first), (two, *second) = (line.split() for line in lines)
    assert first == second == ["True", "None"]
    assert one != two
    assert not lives(int(one))
    memory = Path(f"/proc/{forkserver._server.process.pid}/statm").read_text().split()
    assert int(memory[1]) * os.sysconf("SC_PAGE_SIZE") < 10**8, "the server kept what a job had taken"


@forks
def test_libraries_are_imported_in_the_environment_of_the_jobs(tmp_path, monkeypatch):
    (tmp_path / "notes_environment.py").write_text("import os\nSEEN = os.environ.get('OMP_WAIT_POLICY')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    program, lines = "import notes_environment; print(notes_environment.SEEN)", []
    job = forked(tmp_path, program, (*MODULES, "notes_environment"), {"OMP_WAIT_POLICY": "PASSIVE"})
    run(job, on_line=lines.append)
    assert lines == ["PASSIVE"]


@pytest.mark.slow
@forks
def test_a_server_that_was_killed_is_replaced_and_its_jobs_go_on(tmp_path):
    up, lines = threading.Event(), []

    def note(line):
        lines.append(line)
        up.set()

    job = forked(tmp_path, "import time; print('up'); time.sleep(2); print('done')")
    thread = threading.Thread(target=lambda: run(job, on_line=note))
    thread.start()
    assert up.wait(HANGS_S)
    killed = forkserver._server.process
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    run(forked(tmp_path, "print('from another')"), on_line=lines.append)
    thread.join()
    assert sorted(lines) == ["done", "from another", "up"]
    assert forkserver._server.process.pid != killed.pid


@forks
def test_a_server_that_cannot_live_is_not_started_for_ever(tmp_path, monkeypatch):
    noted = tmp_path / "pids"
    (tmp_path / "deadly.py").write_text(
        f"import os; open({str(noted)!r}, 'a').write(f'{{os.getpid()}}\\n'); os.kill(os.getpid(), 11)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"^the process that forks jobs ended 2 times, with status -11 at last$"):
        run(forked(tmp_path, "print('never')", ("deadly",)))
    assert len(pids(noted)) == 2


@forks
def test_what_cannot_be_imported_is_explained_by_the_job_that_needs_it(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("raise RuntimeError('half installed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"^counting failed: RuntimeError: half installed$"):
        run(forked(tmp_path, "import broken", ("broken", *MODULES)))
    run(forked(tmp_path, "print('others do their work')", ("broken", *MODULES)))


@forks
def test_ending_all_frees_whoever_waits_for_the_imports(tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = []

    def wait() -> None:
        with pytest.raises(ValueError, match=r"^the process that forks jobs was ended; run the same command again"):
            run(forked(tmp_path, "print('never')", ("slow",)))
        found.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    assert wait_for(lambda: forkserver._server)
    server = forkserver._server.process.pid
    child.end_all()
    thread.join(HANGS_S)
    assert found
    assert not lives(server)


@forks
def test_imports_that_take_for_ever_are_given_up(tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(forkserver, "READY_WITHIN_S", 0.2)
    with pytest.raises(TimeoutError, match=r"^what jobs import was not there within 0\.2 s$"):
        run(forked(tmp_path, "print('never')", ("slow",)))


@pytest.mark.slow
@forks
@pytest.mark.parametrize("when", ["importing", "idle"])
def test_a_server_ends_with_its_parent(tmp_path, when):
    """Also between two imports: nobody is left with seconds of them."""
    noted, on = tmp_path / "pids", tmp_path / "on"
    note = f"import os; open({str(noted)!r}, 'a').write(f'{{os.getpid()}}\\n')"
    hold = f"\nimport time\nwhile not os.path.exists({str(on)!r}): time.sleep(0.01)" if when == "importing" else ""
    (tmp_path / "one.py").write_text(note + hold)
    (tmp_path / "two.py").write_text(note)
    source = "from tasks import forkserver; import time; forkserver.start(('one', 'two'), {}); time.sleep(600)"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    parent = subprocess.Popen([sys.executable, "-c", source], env=environment)
    assert wait_for(lambda: len(pids(noted)) == (1 if when == "importing" else 2))
    server = pids(noted)[0]
    assert lives(server)
    parent.kill()
    parent.wait()
    on.touch()
    assert wait_for(lambda: not lives(server))
    assert len(pids(noted)) == (1 if when == "importing" else 2)


@forks
def test_stopping_leaves_no_process_and_the_next_job_starts_another(tmp_path):
    lines = []
    for _ in range(2):
        run(forked(tmp_path, "import os; print(os.getppid())"), on_line=lines.append)
        server = forkserver._server.process.pid
        forkserver.stop()
        assert not lives(server)
    assert lines[0] != lines[1]


@forks
def test_many_jobs_at_once_are_kept_apart(tmp_path):
    said: dict[int, list[str]] = {n: [] for n in range(8)}

    def one(n: int) -> None:
        file = tmp_path / f"{n}.py"
        file.write_text(f"import time\nfor _ in range(5): print({n}); time.sleep(0.02)\n")
        run(forkserver.forked(MODULES[0], str(file), MODULES, {}), on_line=said[n].append)

    threads = [threading.Thread(target=one, args=(n,)) for n in said]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {n: [str(n)] * 5 for n in said}


# --- which way a job takes ---------------------------------------------------------------------------------------


def how(monkeypatch, device: str, launcher=()) -> str:
    """What `Job.starting` asks for."""
    asked = []
    monkeypatch.setattr(child, "started", lambda command, **options: asked.append((command, options)))
    monkeypatch.setattr(forkserver, "forked", lambda *arguments: asked.append("forked"))
    job = ScoringJob(
        base="x", revision=None, quantization=None, question=QUESTION, device=device, output="x", adapter=None, clips={},
        generate_on=(), batch_size=1, base_revision="b", code="c",
    )  # fmt: skip
    job.starting("tasks.detectors.audio_llm", "x.job.json", launcher, {})
    return asked[0] if asked[0] == "forked" else " ".join(asked[0][0][2:])


def test_a_job_that_may_use_a_gpu_is_launched_and_never_forked(monkeypatch):
    monkeypatch.setattr(forkserver, "FORKS", True)
    for device in ("cuda", "auto"):
        said = how(monkeypatch, device, LAUNCH)
        assert said.startswith("-m accelerate.commands.accelerate_cli launch ")
        assert said.endswith(" -m tasks.child tasks.detectors.audio_llm x.job.json")


def test_a_job_on_a_cpu_is_forked_where_that_can_be_and_else_started(monkeypatch):
    monkeypatch.setattr(forkserver, "FORKS", True)
    assert how(monkeypatch, "cpu", LAUNCH) == "forked"
    monkeypatch.setattr(forkserver, "FORKS", False)
    assert how(monkeypatch, "cpu", LAUNCH) == "-m tasks.child tasks.detectors.audio_llm x.job.json"


def test_nothing_is_warmed_up_where_nothing_is_forked(monkeypatch):
    monkeypatch.setattr(forkserver, "FORKS", False)
    jobs.warm_up()
    assert forkserver._server is None


# --- with the real libraries -------------------------------------------------------------------------------------


@forks
@pytest.mark.slow
def test_the_real_server_has_one_thread_and_no_gpu(tmp_path):
    """Threads do not survive a fork: a job would wait for ever for the pool of a library that had started one."""
    lines = []
    program = """
import os, sys, torch
print(*[name for name in ("torch", "transformers", "peft", "trl") if name in sys.modules])
print(torch.cuda.is_initialized(), os.environ["CUDA_VISIBLE_DEVICES"] == "", torch.get_num_threads())
torch.set_num_threads(2)
print(float((torch.ones(2000, 2000) @ torch.ones(2000, 2000)).sum()), len(os.listdir("/proc/self/task")))
"""
    run(forked(tmp_path, program, WARM, ON_CPU), on_line=lines.append)
    assert lines[:2] == ["torch transformers peft trl", "False True 2"]
    total, threads = lines[2].split()
    assert float(total) == 2000.0**3
    assert int(threads) > 2, "the job's own pool was at work: lifeline, main and at least one more"
    server = forkserver._server.process.pid
    assert os.listdir(f"/proc/{server}/task") == [str(server)]


def write_clips(file: Path) -> str:
    draw = np.random.default_rng(7)
    rows = [
        {"clip_id": f"c{i}", "label": QUESTION.classes[i % 2],
         "audio": {"bytes": encode_flac(draw.uniform(-0.6, 0.6, 16 * ms)), "path": f"c{i}.flac"}}
        for i, ms in enumerate((60, 80, 100, 150, 200, 200, 200, 200))
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), file)
    return str(file)


def work(folder: Path, clips: str, quantization) -> dict[str, str]:
    """Fingerprints of a base, an adapter on it and their scores."""
    done: dict[str, str] = {}
    for name in ("base", "adapter", "scores"):
        (folder / name).mkdir(parents=True)
    common = {"question": QUESTION, "device": "cpu"}
    told = {"on_line": lambda line: None, "timeout_min": 5, "what": "working"}
    base = {"base": str(folder / "base"), "revision": None, "quantization": quantization}
    PretrainingJob(
        clips=(clips,), steps=3, batch_size=4, learning_rate=1e-3, seed=1, output=str(folder / "base"), **common
    ).run("tasks.models.pretraining", **told)
    TrainingJob(
        base_name="me/base", base_revision="b" * 40, clips=(clips,), lora={"r": 4}, scope="language_model", loss_on="answer",
        training={"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-2}, seed=1,
        output=str(folder / "adapter"), **base, **common,
    ).run("tasks.models.training", launcher=LAUNCH, **told)  # fmt: skip
    ScoringJob(
        adapter=str(folder / "adapter"), clips={"test": (clips,)}, generate_on=("test",), batch_size=3,
        base_revision="b" * 40, code="c",
        output=str(folder / "scores"), **base, **common,
    ).run("tasks.detectors.audio_llm", **told)  # fmt: skip
    (folder / "scores" / "timing.json").unlink()
    for name in ("base", "adapter", "scores"):
        done[name] = fingerprint(folder / name)
    return done


@forks
@pytest.mark.slow
def test_a_forked_job_and_one_of_a_process_of_its_own_make_the_same_bytes(tmp_path, monkeypatch):
    """On a base in four bits: pre-training and adapter are in fp32 there too."""
    quantization = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    clips = write_clips(tmp_path / "clips.parquet")
    forked_bytes = work(tmp_path / "forked", clips, quantization)
    assert forkserver._server is not None
    forkserver.stop()
    monkeypatch.setattr(forkserver, "FORKS", False)
    assert work(tmp_path / "started", clips, quantization) == forked_bytes
    assert forkserver._server is None
