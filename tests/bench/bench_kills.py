"""Kill `earshot run study/smoke` with SIGKILL, the command or a job of its, and count what the rerun finds.

python -m tests.bench.bench_kills --kills 25

Every kill lands on another line of progress, so that the points are spread over all stages. After each kill no process
of the run may be alive; after the last one the study is run to its end and must hold the same bytes as an unbroken run.
The process that forks the jobs is killed as well, once a stage that needs it: that run must end as if nothing had been.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tasks.store import file_digests

# Lines of progress, one or more a stage, in the order in which a run prints them.
POINTS = (
    "recordings of synthetic", "sides, dealt", "clips of train", "splits of smoke", "publish data set", "base:",
    "tiny base", "trainable parameters", "step 2/4", "step 4/4", "adapter, seed", "majority", "dev, forward",
    "test, forward", "test, generate", "base, fold", "adapter, fold", "report of smoke",
)  # fmt: skip
FORKS_FROM = ("clips of train", "tiny base", "gate of")  # before the jobs that pre-train, train and score
EARSHOT = (sys.executable, "-m", "flows.cli", "run", "study/smoke")
ROOT = Path(__file__).resolve().parents[2]


def environment(home: Path) -> dict[str, str]:
    """This process's environment with another home and without a Prefect server of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**kept, "EARSHOT_HOME": str(home), "PYTHONPATH": str(ROOT)}


def finish(home: Path) -> str:
    """Run to the end; what it printed."""
    done = subprocess.run(EARSHOT, env=environment(home), capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise AssertionError(f"the rerun ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stderr + done.stdout


def kill_at(home: Path, point: str, victim: str) -> bool:
    """Start a run and kill the command, or its newest job, at the first line with `point`; whether it came to it."""
    run = start(home)
    reached = waits_for(run, point)
    if reached:
        try:
            os.kill(newest_job(home) or run.pid if victim == "job" else run.pid, signal.SIGKILL)
        except ProcessLookupError:  # the job has just ended
            run.kill()
    run.communicate()
    return reached


def finishes_without(home: Path, point: str) -> bool:
    """Start a run, kill the process that forks jobs at the first line with `point`; whether the run ended well."""
    run = start(home)
    servers = forkers(home) if waits_for(run, point) else []
    if servers:
        os.kill(servers[0], signal.SIGKILL)
    _, said = run.communicate()
    if run.returncode:
        raise AssertionError(
            f"without the process that forks jobs the run ended with {run.returncode}:\n{said[-3000:]}"
        )
    return bool(servers)


def start(home: Path) -> "subprocess.Popen[str]":
    """The study's command, its lines of progress to be read."""
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    return subprocess.Popen(EARSHOT, env=environment(home), text=True, cwd=ROOT, **pipes)


def waits_for(run: "subprocess.Popen[str]", point: str) -> bool:
    """Read to the first line with `point` that tells of work; whether there is one."""
    assert run.stderr is not None
    return any(point in line and "cached" not in line for line in run.stderr)


def forkers(home: Path) -> list[int]:
    """The process that forks jobs, then what it has forked, eldest first."""
    found = [(began(pid), pid) for pid, command in alive(home).items() if "tasks.forkserver" in command]
    return [pid for ticks, pid in sorted(found) if ticks]


def began(pid: int) -> int:
    """When a process was started, 0 where it is gone. Its number does not tell: they begin anew after the highest."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return 0


def newest_job(home: Path) -> int | None:
    """The youngest process that trains or scores."""
    return next(reversed(forkers(home)[1:]), None)


def alive(home: Path) -> Mapping[int, str]:
    """Processes whose environment names this home: those of a run, whoever started them."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"EARSHOT_HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def orphans(home: Path, within_s: float = 60.0) -> Mapping[int, str]:
    """Processes of the home that are still there after a while."""
    deadline = time.monotonic() + within_s
    while (left := alive(home)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def holdings(home: Path) -> dict[str, set[str]]:
    """What store and hub hold, by fingerprint; drafts would show as names with a dot. What was timed differs each time, and
    with it the card that says so."""
    store = {kind.name: {path.name for path in kind.iterdir() if path.is_dir()} for kind in (home / "store").iterdir()}
    hub = {repo.name: {untimed(path) for path in (repo / "snapshots").iterdir()} for repo in (home / "hub").iterdir()}
    return store | hub


def untimed(snapshot: Path) -> str:
    """A snapshot's files with their hashes, without the times and what is made from them."""
    digests = file_digests(snapshot)
    if "evidence/timing.json" in digests:
        for name in ("evidence/timing.json", "README.md", "files.json"):
            digests.pop(name)
    return json.dumps(digests, sort_keys=True)


def tell(number: int, victim: str, point: str, reached: bool, home: Path) -> None:
    """One line a kill. Raises AssertionError where a process outlived it."""
    left = orphans(home)
    how = "killed" if reached else "not reached any more, the run ended"
    print(f"{number:3}  {victim:8} at {point!r}: {how}, {len(left)} orphans", flush=True)
    assert not left, left


def main() -> None:
    """Print, kill by kill, whether it landed, and at the end whether the bytes are the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    kills = parser.parse_args().kills
    with tempfile.TemporaryDirectory() as folder:
        unbroken = Path(folder) / "unbroken"
        finish(unbroken)
        landed = 0
        for number in itertools.count():
            home = Path(folder) / f"killed{number // len(POINTS)}"
            point, victim = POINTS[number % len(POINTS)], ("command", "job")[number % 2]
            reached = kill_at(home, point, victim)
            landed += reached
            tell(landed, victim, point, reached, home)
            if landed == kills:
                break
        for number, point in enumerate(FORKS_FROM, kills + 1):
            home = Path(folder) / f"killed without {point}"
            tell(number, "forker", point, finishes_without(home, point), home)
        for home in sorted(Path(folder).glob("killed*")):
            finish(home)
            same = holdings(home) == holdings(unbroken)
            print(f"{home.name}: {'the same bytes as an unbroken run' if same else 'DIFFERENT bytes'}")
            assert same, (holdings(home), holdings(unbroken))
        print(
            f"{kills} kills landed, and {len(FORKS_FROM)} of the process that forks; no orphan, no lock, no difference"
        )


if __name__ == "__main__":
    main()
