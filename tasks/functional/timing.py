"""How long detectors take a clip: measured times, which enter no report and no fingerprint, and who is worth waiting for."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd


class Timing(NamedTuple):
    """Latency of the timed test clips of one detector, in ms a clip."""

    clips: int
    p05_ms: float
    median_ms: float
    p95_ms: float


STAGES = (
    "all",
    "loading",
    "features",
    "encoder",
    "language_model",
    "detector",
    "post_processing",
)  # in a table's order
TIMED, WARM = 32, 4  # test clips on the clock, the same for every detector, and before it
BESIDE = "timed while the study's other jobs ran: on a CPU a difference of a few ms means nothing"
QUANTILES = {"p05": 0.05, "median": 0.5, "p95": 0.95}


def of_all_lengths(samples: Sequence[int], most: int = TIMED) -> list[int]:
    """Indices of up to `most` clips, shortest first, evenly spaced in rank of length, with the shortest and the longest."""
    order = np.argsort(samples, kind="stable")
    return [
        int(order[at]) for at in np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int))
    ]


def latency_of(stages_ms: Mapping[str, Sequence[float]], device: str) -> dict[str, Any]:
    """What is written down of measured stages, each the ms of every timed clip: their quantiles, and those of the sum
    under "all"."""
    columns = {name: np.asarray(its, dtype=float) for name, its in stages_ms.items()}
    whole = np.sum(list(columns.values()), axis=0)
    columns = columns | {"all": whole}
    ms = {name: {q: float(np.quantile(its, at)) for q, at in QUANTILES.items()} for name, its in columns.items()}
    return {"clips": len(whole), "device": device, "ms": ms}


def timing_of(latency: Mapping[str, Any]) -> Timing:
    """The whole of what `latency_of` wrote down."""
    return Timing(latency["clips"], *(latency["ms"]["all"][name] for name in QUANTILES))


def timings(table: pd.DataFrame) -> dict[str, Timing]:
    """Timing of each detector of a predictions table that has `latency_ms`, over its timed test rows.

    Raises ValueError, naming the clip, for a latency that is no finite number above 0.
    """
    if "latency_ms" not in table:
        return {}
    test = table[(table["split"] == "test") & table["latency_ms"].notna()]
    latency = pd.to_numeric(test["latency_ms"], errors="coerce").astype(float)
    bad = ~((latency > 0) & (latency < np.inf))
    if bad.any():
        first, n = test[bad].iloc[0], int(bad.sum())
        rows = "1 row is" if n == 1 else f"{n:,} rows are"
        raise ValueError(
            f"clip {first['clip_id']!r} has latency_ms {first['latency_ms']}, and {rows} so: give ms above 0, or null "
            "where it was not timed"
        )
    return {
        str(name): Timing(len(its), *(float(q) for q in its.quantile([0.05, 0.5, 0.95])))
        for name, its in latency.groupby(test["detector"])
    }


def frontier(spots: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names, fastest first, of which none is at once faster and better: name -> (time, score). Pareto's, for two aims."""
    best, found = -math.inf, list[str]()
    for name, (_, score) in sorted(spots.items(), key=lambda item: (item[1][0], -item[1][1], item[0])):
        if score > best:
            best, found = score, [*found, name]
    return found
