"""What orchestration costs: the same tasks under Prefect and called plainly, an unchanged rerun, memory over many tasks.

python -m tests.bench.bench_prefect [--study study/smoke] [--tasks 500]

Prints seconds and ratios measured side by side in one run, each against the bound of its claim: orchestration at most
5 % or 10 s, whichever is larger; an unchanged study again in 8 s against a running server and 20 s on its own; 40 MB of
growth over 500 tasks. Exits 1 where a bound is broken.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.prefect_server import Served

ROOT = Path(__file__).resolve().parents[2]
PLAINLY = """
import sys, time
from recipes.schema import load_study
from tasks import cache
from tasks.cache import RecordedTask
from flows.build_dataset import build_dataset
from flows.evaluate_detectors import evaluate_detectors
from flows.publish import publish
from flows.train_adapters import train_adapters
from tasks.models.jobs import warm_up

class Plain:
    def __init__(self, value): self.value = value
    def result(self): return self.value

RecordedTask.__call__ = lambda self, *a, **k: self.fn(*a, **k)
RecordedTask.submit = lambda self, *a, **k: Plain(self.fn(*a, **k))
warm_up()
recipe = load_study(sys.argv[1])
data = build_dataset.fn(recipe)
folds = train_adapters.fn(recipe, data)
report = evaluate_detectors.fn(recipe, data, folds)
publish.fn(recipe, data, folds, report)
from tasks import forkserver
forkserver.stop()
"""
MANY = """
import json, sys
from prefect import flow
from tasks.cache import cached, task
from tasks.run_page import say, show_table

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

@task(**cached())
def small(number: int) -> int:
    show_table("small", [{"number": number}], "A row")
    return number

@flow
def many(begin: int, end: int) -> None:
    for number in range(begin, end):
        small(number)

tasks = int(sys.argv[1])
many(0, 50)  # what is loaded once is loaded
before = resident_mb()
many(50, 50 + tasks)
print(json.dumps({"before_mb": before, "after_mb": resident_mb()}))
"""


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """How long a command takes, to its end. Raises CalledProcessError where it fails."""
    begin = time.monotonic()
    subprocess.run(command, env=environment, check=True, capture_output=True, cwd=ROOT)
    return time.monotonic() - begin


def growth_mb(served: Served, tasks: int) -> float:
    """Resident memory that a process of a flow gains over so many tasks."""
    told = subprocess.run(
        [sys.executable, "-c", MANY, str(tasks)], env=served.environment, check=True, capture_output=True, text=True
    )
    measured = json.loads(told.stdout.splitlines()[-1])
    return float(measured["after_mb"] - measured["before_mb"])


def tell(what: str, value: float, bound: float, unit: str) -> bool:
    """One line; whether the bound holds."""
    print(
        f"{what:58}  {value:7.1f} {unit}  (at most {bound:.1f})  {'ok' if value <= bound else 'TOO MUCH'}", flush=True
    )
    return value <= bound


def main() -> None:
    """Measure, print, and fail where a claim does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="study/smoke")
    parser.add_argument("--tasks", type=int, default=500)
    told = parser.parse_args()
    run = [sys.executable, "-m", "flows.cli", "run", told.study]
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        own = {**kept, "EARSHOT_HOME": f"{folder}/own", "PYTHONPATH": str(ROOT)}
        plain = seconds([sys.executable, "-c", PLAINLY, told.study], {**own, "EARSHOT_HOME": f"{folder}/plain"})
        first = seconds(run, own)
        again = seconds(run, own)
        served = Served(Path(folder) / "served")
        try:
            served_first = seconds(run, served.environment)
            served_again = seconds(run, served.environment)
            grown = growth_mb(served, told.tasks)
        finally:
            served.close()
    print(
        f"{told.study}: tasks called plainly {plain:.1f} s, by a command of its own {first:.1f} s (x {first / plain:.2f}),"
    )
    print(f"against a running server {served_first:.1f} s (x {served_first / plain:.2f})")
    bound = max(10.0, 0.05 * plain)
    held = [
        tell("orchestration, a command of its own", first - plain, bound, "s"),
        tell("orchestration, against a running server", served_first - plain, bound, "s"),
        tell("unchanged, a command of its own", again, 20.0, "s"),
        tell("unchanged, against a running server", served_again, 8.0, "s"),
        tell(f"memory over {told.tasks} tasks", grown, 40.0, "MB"),
    ]
    sys.exit(not all(held))


if __name__ == "__main__":
    main()
