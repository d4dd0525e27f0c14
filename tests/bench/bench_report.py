"""How long `earshot report` takes on 970 cuts in 22 conditions, 21,340 rows a detector.

python -m tests.bench.bench_report
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

ROOT = Path(__file__).parents[2]
CUTS, GROUPS = 970, {"SPEECH": 48, "NONSPEECH": 70}
CONDITIONS = [
    *((ms, None, None, "clean") for ms in (20.0, 40.0, 60.0, 80.0, 100.0, 200.0, 500.0, 1000.0)),
    *((1000.0, db, None, "clean") for db in (-10.0, -5.0, 0.0, 5.0, 10.0, 20.0)),
    *((1000.0, None, s, "clean") for s in (None, 0.3, 1.0, 2.5)),
    *((1000.0, None, None, band) for band in ("clean", "phone", "lowpass", "highpass")),
]
DETECTORS = ("adapter", "base", "mel_statistics", "loudness", "webrtc")


def table_of(detectors: Sequence[str]) -> pd.DataFrame:
    """Predictions of detectors that hear better the longer and the louder, each a little worse than the one before."""
    rng = np.random.default_rng(0)
    cuts = pd.DataFrame({"base_clip_id": [f"cut{i:03d}" for i in range(CUTS)]})
    cuts["label"] = np.resize(["SPEECH", "NONSPEECH"], CUTS)
    cuts["group_id"] = [f"{label}{rng.integers(GROUPS[label]):02d}" for label in cuts["label"]]
    conditions = pd.DataFrame(CONDITIONS, columns=["duration_ms", "snr_db", "rt60_s", "band"]).assign(
        condition=range(len(CONDITIONS))
    )
    clips = cuts.merge(conditions, how="cross")
    clips["clip_id"] = clips["base_clip_id"] + "-" + clips["condition"].astype(str)
    ease = np.log10(clips["duration_ms"] / 60) + clips["snr_db"].fillna(20) / 20
    sign = np.where(clips["label"] == "SPEECH", 1, -1)
    of_group = pd.factorize(clips["group_id"])[0]
    parts = []
    for order, name in enumerate(detectors):
        noise = rng.normal(size=len(clips)) + 0.5 * rng.normal(size=of_group.max() + 1)[of_group]
        parts.append(clips.assign(detector=name, p_speech=expit(sign * ease * (1.5 - 0.3 * order) + noise)))
    return pd.concat(parts, ignore_index=True)


def seconds(table: pd.DataFrame, folder: Path) -> float:
    """What the command takes on the table, from its start to its end."""
    table.to_parquet(folder / "table.parquet", index=False)
    arguments = ["report", str(folder / "table.parquet"), "--detector", "adapter", "--out", str(folder / "out")]
    begin = time.monotonic()
    subprocess.run([sys.executable, "-m", "flows.cli", *arguments], cwd=ROOT, check=True, capture_output=True)
    return time.monotonic() - begin


def main() -> None:
    """Print the seconds for one detector and for five; the exit code is 1 over a minute."""
    slowest = 0.0
    for detectors in (DETECTORS[:1], DETECTORS):
        table = table_of(detectors)
        with tempfile.TemporaryDirectory() as folder:
            took = seconds(table, Path(folder))
        print(f"{len(table):>8,} rows, {len(detectors)} detectors: {took:.1f} s", flush=True)
        slowest = max(slowest, took)
    raise SystemExit(slowest > 60)


if __name__ == "__main__":
    main()
