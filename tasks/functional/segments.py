"""Windows over a long recording, and the segments that the answers to them make."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Segment(NamedTuple):
    """A stretch of one answer; p_first is the mean over it."""

    start: int  # samples
    end: int
    is_first: bool
    p_first: float


def window_starts(n: int, window: int, hop: int) -> NDArray[np.int_]:
    """First samples of windows of `window` samples, `hop` apart, over `n` samples; the last one ends where they end.

    A recording no longer than a window is one window. Raises ValueError unless 0 < hop <= window.
    """
    if not 0 < hop <= window:
        raise ValueError(f"a hop of {hop} samples for windows of {window}: it is above 0 and no longer than a window")
    last = max(0, n - window)
    starts = np.arange(0, last + 1, hop)
    return starts if starts[-1] == last else np.append(starts, last)


def segments(
    starts: NDArray[np.int_], ends: NDArray[np.int_], p_first: NDArray[np.float64], threshold: float
) -> list[Segment]:
    """The stretches of one answer. P at a moment is the mean of the windows over it; the first class is P >= threshold.

    starts, ends: (n,) of the windows, in samples, together without a gap; p_first: (n,).
    """
    edges = np.unique(np.concatenate([starts, ends]))
    over, summed = np.zeros(len(edges)), np.zeros(len(edges))
    for places, sign in ((starts, 1.0), (ends, -1.0)):
        at = np.searchsorted(edges, places)
        np.add.at(over, at, sign)
        np.add.at(summed, at, sign * p_first)
    p = (np.cumsum(summed) / np.maximum(np.cumsum(over), 1))[:-1]
    # A sum that rounding leaves a hair off a mean of equal numbers must not change the answer at the threshold.
    is_first, length = np.round(p, 12) >= threshold, np.diff(edges)
    borders = np.flatnonzero(np.diff(is_first)) + 1
    return [
        Segment(
            int(edges[part[0]]), int(edges[part[-1] + 1]), bool(is_first[part[0]]),
            float(np.clip(np.average(p[part], weights=length[part]), 0, 1)),
        )
        for part in np.split(np.arange(len(p)), borders)
    ]  # fmt: skip


def rttm_lines(name: str, label: str, spans_s: Sequence[tuple[float, float]]) -> list[str]:
    """NIST's RTTM for stretches (start, end) of one class in one file: SPEAKER lines, the class where a speaker's name is.

    A space would begin another field: it becomes an underscore.
    """
    file, who = ("_".join(text.split()) for text in (name, label))
    return [f"SPEAKER {file} 1 {a:.3f} {b - a:.3f} <NA> <NA> {who} <NA> <NA>" for a, b in spans_s]
