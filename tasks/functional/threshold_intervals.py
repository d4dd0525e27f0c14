"""A threshold with the interval that its groups allow: answers counted by level, class and group."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from tasks.functional.intervals import BOOTSTRAP_FROM, FEWEST, ROUNDING
from tasks.functional.metrics import FloatArray
from tasks.functional.psychometric import PsychometricFit, fit_counts, ordered_interval, refit_thresholds
from tasks.functional.resampling import Units, expanded_tail, jackknife_variance, resample, units_of
from tasks.functional.sigmoid_fits import Model

Cells = tuple[FloatArray, FloatArray]  # correct and trials, (n, n_cells)
ByClass = dict[str, Cells]  # class -> right answers and clips, (n, n_levels)
Ends = tuple[float | None, float | None]  # None: open


class LevelCounts(NamedTuple):
    """Right answers and clips of each (class, group), (n_units, n_levels), at the levels (n_levels,)."""

    units: Units
    levels: FloatArray
    right: FloatArray
    clips: FloatArray

    def drawn(self, weights: FloatArray) -> ByClass:
        """Sums over groups that come as often as `weights` (n, n_units) says."""
        parts, start = {}, 0
        for name, size in self.units.sizes.items():
            own = slice(start, start + size)
            parts[name] = weights[:, own] @ self.right[own], weights[:, own] @ self.clips[own]
            start += size
        return parts

    def whole(self) -> ByClass:
        """Each group once: (1, n_levels)."""
        return self.drawn(np.ones((1, self.units.n)))


class Sought(NamedTuple):
    """A threshold: of which model, fitted to which counts, at which p."""

    model: Model
    cells: Callable[[ByClass], Cells]
    p: float
    scaled: bool


class ThresholdInterval(NamedTuple):
    """Ends in ms or dB; `not_reached` is the share of resamples that do not reach p, None where none were drawn."""

    ends: Ends | None
    method: Literal["t", "bootstrap"] | None
    not_reached: float | None
    reason: str | None


# --- counts ------------------------------------------------------------------------------------------------------


def level_counts(rows: pd.DataFrame, level: str, *, group: str = "group_id") -> LevelCounts:
    """Count rows with label, group, level and `right` (1/0)."""
    levels, at = np.unique(rows[level].to_numpy(dtype=float), return_inverse=True)
    units = units_of(rows, group)
    cell, shape = units.unit * len(levels) + at, (units.n, len(levels))
    right, clips = (
        np.bincount(cell, each, units.n * len(levels)).reshape(shape).astype(float)
        for each in (rows["right"].to_numpy(dtype=float), None)
    )
    return LevelCounts(units, levels, right, clips)


def balanced_cells(drawn: ByClass) -> Cells:
    """Class-balanced correct responses: n_1 and n_2 clips count as 4 n_1 n_2 / (n_1 + n_2) trials.

    Their share correct is the mean of both recalls. Where n_1 = n_2 these are the clips themselves. Else their
    binomial variance is that of balanced accuracy if both classes are right equally often, and the likelihood is a
    quasi-likelihood (Wedderburn 1974). A level without clips of a class is without trials.
    """
    (right_1, n_1), (right_2, n_2) = drawn.values()
    both = (n_1 > 0) & (n_2 > 0)
    n_1, n_2 = np.where(both, n_1, 1.0), np.where(both, n_2, 1.0)
    trials = np.where(both, 4 * n_1 * n_2 / (n_1 + n_2), 0.0)
    return trials * np.minimum((right_1 / n_1 + right_2 / n_2) / 2, 1.0), trials


def hit_cells(drawn: ByClass, positive: str) -> Cells:
    """Hits at each level, and in a last cell the false alarms of all levels; an unanswered clip is a wrong one."""
    negative = next(name for name in drawn if name != positive)
    (hits, n_positive), (rejections, n_negative) = drawn[positive], drawn[negative]
    false_alarms, n_noise = (each.sum(axis=1, keepdims=True) for each in (n_negative - rejections, n_negative))
    return np.hstack([hits, false_alarms]), np.hstack([n_positive, n_noise])


def fit_whole(counts: LevelCounts, sought: Sought) -> PsychometricFit:
    """The fit of all groups."""
    correct, trials = sought.cells(counts.whole())
    return fit_counts(sought.model, correct[0], trials[0])


# --- intervals ---------------------------------------------------------------------------------------------------


def threshold_interval(
    counts: LevelCounts, sought: Sought, threshold: float, *, n_boot: int, seed: int, confidence: float = 0.95
) -> ThresholdInterval:
    """The interval of a `threshold` (ms or dB) that the number of groups allows, as in `intervals.clustered_interval`.

    G, the smaller class's number of groups, under 2: none. Under 20: t interval with G - 1 df on the jackknife over
    (class, group), in log10(ms) or dB, unreliable under 5. From 20: percentiles of refits to resampled groups, expanded
    (`resampling.expanded_tail`); a refit that does not reach p counts as +inf and may leave the upper end open.
    `tests.bench.bench_psychometric --coverage` shows how often it holds, and how often plain percentiles do.
    """
    from scipy.special import stdtrit

    smallest = counts.units.smallest
    if (n_groups := counts.units.sizes[smallest]) < 2:
        return ThresholdInterval(None, None, None, f"fewer than 2 groups in {smallest}: no interval")
    if n_groups >= BOOTSTRAP_FROM:
        return _percentiles(counts, sought, n_boot, seed, expanded_tail(confidence, n_groups))
    ends, reason = _t_ends(counts, sought, threshold, float(stdtrit(n_groups - 1, (1 + confidence) / 2)))
    if ends and n_groups < FEWEST:
        reason = f"only {n_groups} groups in {smallest}: unreliable"
    return ThresholdInterval(ends, "t" if ends else None, None, reason)


def _percentiles(counts: LevelCounts, sought: Sought, n_boot: int, seed: int, tail: float) -> ThresholdInterval:
    drawn = resample(lambda weights: np.hstack(sought.cells(counts.drawn(weights))), counts.units, n_boot, seed)
    correct, trials = np.hsplit(drawn, 2)
    x = _refits(sought, correct, trials)
    low, high = ordered_interval(x, tail)
    not_reached = float((x == np.inf).mean())
    if low == np.inf:
        return ThresholdInterval(None, None, not_reached, "nearly no resample reaches p: no interval")
    if not high - low > ROUNDING:
        return ThresholdInterval(None, None, not_reached, "no spread between groups: no interval")
    open_end = f"p is not reached in {not_reached:.1%} of the resamples" if high == np.inf else None
    return ThresholdInterval((_level(sought, low), _level(sought, high)), "bootstrap", not_reached, open_end)


def _t_ends(counts: LevelCounts, sought: Sought, threshold: float, t: float) -> tuple[Ends | None, str | None]:
    """`t` jackknife standard errors on both sides of the threshold, or why there are none."""
    weights, start = np.ones((counts.units.n,) * 2), 0
    for size in counts.units.sizes.values():
        own = slice(start, start := start + size)
        weights[own, own] = (1 - np.eye(size)) * size / (size - 1)
    x = _refits(sought, *sought.cells(counts.drawn(weights)))
    if not np.isfinite(x).all():
        return None, "p is not reached without some of the groups: no interval"
    if not (half := t * math.sqrt(jackknife_variance(x, counts.units.sizes.values()))) > ROUNDING:
        return None, "no spread between groups: no interval"
    centre = float(sought.model.x_of(np.array(threshold)))
    return (_level(sought, centre - half), _level(sought, centre + half)), None


def _refits(sought: Sought, correct: FloatArray, trials: FloatArray) -> FloatArray:
    return refit_thresholds(sought.model, correct, trials, sought.p, scaled=sought.scaled, falling=False)


def _level(sought: Sought, x: float) -> float | None:
    """x in ms or dB, None where it is infinite."""
    return float(sought.model.level_of(x)) if math.isfinite(x) else None
