"""Base, adapter and floors of `study/demo` over several split seeds: one split ranks nothing.

python -m tests.bench.bench_splits --seeds 42 1 2 3 4

Each seed deals the same recordings anew, so another set of voices, sounds and noises is held out; every seed is printed,
and none is left out of the last line. A few minutes a seed on 2 cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parents[2]
DETECTORS = ("base", "adapter", "mel_statistics", "loudness")


def scores(home: Path, seed: int) -> dict[str, float]:
    """Balanced accuracy of each detector with the splits of one seed; the gate only marks, so that no seed drops out."""
    settings = (
        f"dataset.splits.seed={seed}",
        "train.gate.on_fail=mark",
        "evaluate.n_boot=100",
        f"publish.adapter=split-{seed}",
    )
    command = [sys.executable, "-m", "flows.cli", "run", "study/demo"]
    command += [part for setting in settings for part in ("--set", setting)]
    environment = {**os.environ, "EARSHOT_HOME": str(home), "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
    (report,) = (home / "hub" / f"models--earshot--split-{seed}" / "snapshots").glob("*/report.json")
    detectors = json.loads(report.read_text(encoding="utf-8"))["detectors"]
    return {name: detectors[name]["metrics"]["balanced_accuracy"]["value"] for name in DETECTORS}


def main() -> None:
    """One line a seed, then mean and standard deviation over all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2, 3, 4])
    seeds = parser.parse_args().seeds
    print(f"{'split seed':<12}" + "".join(f"{name:>16}" for name in DETECTORS))
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for seed in seeds:
            rows.append(scores(Path(home), seed))
            print(f"{seed:<12}" + "".join(f"{rows[-1][name]:>16.3f}" for name in DETECTORS), flush=True)
    columns = [[row[name] for row in rows] for name in DETECTORS]
    print(f"{'mean':<12}" + "".join(f"{mean(column):>16.3f}" for column in columns))
    if len(rows) > 1:
        print(f"{'sd':<12}" + "".join(f"{stdev(column):>16.3f}" for column in columns))


if __name__ == "__main__":
    main()
