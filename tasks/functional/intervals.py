"""The interval of a report: what the number of groups behind a statistic, or behind a difference, allows to say."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from tasks.functional.metrics import (
    OF_SCORES,
    BoolArray,
    FloatArray,
    Statistic,
    WeightedStatistic,
    is_correct,
    is_positive,
    names_positive,
    weighted_statistic,
)
from tasks.functional.resampling import Interval, Units, paired_rows, percentile_interval, resample, units_of

ROUNDING = 1e-12  # an interval no wider is that of a constant


class ClusteredInterval(NamedTuple):
    """A value with the interval its groups allow; low and high are None, method "none", where they allow none."""

    value: float
    low: float | None
    high: float | None
    method: Literal["t", "bootstrap", "exact", "none"]
    reason: str | None
    reliable: bool


def clustered_interval(
    table: pd.DataFrame,
    statistic: Statistic,
    *,
    group: str = "group_id",
    n_boot: int = 10_000,
    seed: int,
    confidence: float = 0.95,
    positive: str = "SPEECH",
) -> ClusteredInterval:
    """A statistic with the interval its number of groups allows: the one rule of every report.

    G is the smaller class's number of groups (for a recall, that class's). G < 2: no interval. One answer for every
    clip of both classes (for roc_auc, average_precision, brier, log_loss: one score): no interval, since the share of
    the classes settles the value and no clip has a say; the recalls keep theirs. Under 20: t interval with G - 1 df on
    the jackknife over (class, group), unreliable under 5 (Cameron & Miller 2015, sec. VI). From 20: percentile
    bootstrap of groups within class. Where each class is wholly right or wholly wrong: exact binomial over groups.
    Bounded metrics are clipped to their range. table, statistic: as in `significance.cluster_bootstrap`.
    Raises ValueError where the statistic has no value.
    """
    settled = _settled(table, statistic)
    table = _rows_that_count(table, statistic, positive)
    units = units_of(table, group)
    exact = None
    if (shares := _class_shares(units, statistic)) is not None:
        right = is_correct(table["prediction"], table["label"], positive=positive)
        exact = _unanimous(right, units, shares, (1 - confidence) / 2)
    evaluate = weighted_statistic(table, statistic, units.unit, positive=positive)
    how = _Resampling(rescale=not callable(statistic), n_boot=n_boot, seed=seed, confidence=confidence)
    return _by_rule(_Measure(evaluate, units, _range(statistic), exact, settled), how)


def paired_difference(
    table_a: pd.DataFrame,
    table_b: pd.DataFrame,
    statistic: Statistic,
    *,
    on: str | Sequence[str] = "clip_id",
    group: str = "group_id",
    n_boot: int = 10_000,
    seed: int,
    confidence: float = 0.95,
    positive: str = "SPEECH",
) -> ClusteredInterval:
    """statistic(a) - statistic(b) on the same clips, with an interval by the rule of `clustered_interval`.

    `on` names the column(s) that pair the rows, unique in each table. Where both are right on the very same clips
    the exact interval is that of no discordant group.
    Raises ValueError where the tables differ in clips, labels or groups, or repeat a clip.
    """
    table_a, table_b = paired_rows(table_a, table_b, [on] if isinstance(on, str) else list(on), group)
    settled = _settled(table_a, statistic) and _settled(table_b, statistic)
    a, b = (_rows_that_count(table, statistic, positive) for table in (table_a, table_b))
    units = units_of(a, group)
    exact = None
    if (shares := _class_shares(units, statistic)) is not None:
        right_a, right_b = (is_correct(table["prediction"], table["label"], positive=positive) for table in (a, b))
        if (right_a == right_b).all():
            most = _largest_unseen(shares, _groups(units), (1 - confidence) / 2)
            exact = Interval(-most, most)
    of_a, of_b = (weighted_statistic(table, statistic, units.unit, positive=positive) for table in (a, b))
    low, high = _range(statistic)
    how = _Resampling(rescale=not callable(statistic), n_boot=n_boot, seed=seed, confidence=confidence)
    bounds = Interval(low - high, high - low)
    return _by_rule(_Measure(lambda w: of_a(w) - of_b(w), units, bounds, exact, settled), how)


# --- the rule ----------------------------------------------------------------------------------------------------


class _Measure(NamedTuple):
    evaluate: WeightedStatistic
    units: Units
    bounds: Interval  # the metric's range
    exact: Interval | None  # where all groups agree
    settled: str | None  # why no clip has a say in the value


class _Resampling(NamedTuple):
    rescale: bool  # the statistic takes weights that are no whole numbers
    n_boot: int
    seed: int
    confidence: float


def _by_rule(measure: _Measure, how: _Resampling) -> ClusteredInterval:
    units, smallest = measure.units, measure.units.smallest
    value = float(measure.evaluate(np.ones((1, units.n)))[0])
    if not math.isfinite(value):
        raise ValueError(f"the statistic is {value} on these {len(units.unit)} clips: it has no value")
    if (n_groups := units.sizes[smallest]) < 2:
        return _without(value, f"fewer than 2 groups in {smallest}")
    if measure.settled:
        return _without(value, measure.settled)
    method: Literal["t", "bootstrap", "exact"] = "exact" if measure.exact else "t" if n_groups < 20 else "bootstrap"
    if measure.exact:
        low, high = measure.exact
    elif method == "bootstrap":
        low, high = percentile_interval(resample(measure.evaluate, units, how.n_boot, how.seed), how.confidence)
    else:
        low, high = _t_interval(value, measure, how)
    if not high - low > ROUNDING:  # also NaN, where leaving out a group leaves the statistic undefined
        undefined = math.isnan(high - low)
        return _without(value, "undefined without some of the groups" if undefined else "no spread between groups")
    unreliable = f"only {n_groups} groups in {smallest}: unreliable" if n_groups < 5 else None
    return ClusteredInterval(value, low, high, method, unreliable, unreliable is None)


def _without(value: float, reason: str) -> ClusteredInterval:
    return ClusteredInterval(value, None, None, "none", f"{reason}: no interval", False)


def _t_interval(value: float, measure: _Measure, how: _Resampling) -> Interval:
    """Student's interval on the jackknife, G - 1 df for the G groups of the smaller class."""
    from scipy.special import stdtrit

    units = measure.units
    half = float(stdtrit(units.sizes[units.smallest] - 1, (1 + how.confidence) / 2)) * _jackknife_se(measure, how)
    low, high = (float(np.clip(end, *measure.bounds)) for end in (value - half, value + half))
    return Interval(low, high)


def _jackknife_se(measure: _Measure, how: _Resampling) -> float:
    """Stratified delete-one-group standard error (JKn, Rust & Rao 1996): sqrt of sum (G-1)/G sum of squares.

    A stratum's other groups are weighted up by G / (G - 1), unless the statistic takes whole rows only.
    """
    start, variance = 0, 0.0
    for size in measure.units.sizes.values():
        values = np.empty(size)
        for left_out in range(size):
            weights = np.ones((1, measure.units.n))
            weights[0, start : start + size] = size / (size - 1) if how.rescale else 1.0
            weights[0, start + left_out] = 0
            values[left_out] = measure.evaluate(weights)[0]
        variance += (size - 1) / size * float(((values - values.mean()) ** 2).sum())
        start += size
    return math.sqrt(variance)


# --- what a statistic lets be known without resampling -----------------------------------------------------------


def _settled(table: pd.DataFrame, statistic: Statistic) -> str | None:
    """Why the clips have no say: a detector that hears nothing answers all of them alike.

    A recall is left out, since one class may be answered otherwise in the next group; so is a table of one class,
    where one answer may well be the right one, and one without any answer.
    """
    if not isinstance(statistic, str) or statistic.startswith("recall_"):
        return None
    told, column = ("score", "p_speech") if statistic in OF_SCORES else ("answer", "prediction")
    if column not in table or table[column].nunique(dropna=False) != 1:
        return None
    alike = table["label"].nunique() == 2 and table[column].notna().all()
    return f"the same {told} for every clip" if alike else None


def _rows_that_count(table: pd.DataFrame, statistic: Statistic, positive: str) -> pd.DataFrame:
    """For a recall the rows of its class, else all."""
    if not isinstance(statistic, str) or not statistic.startswith("recall_") or "label" not in table:
        return table
    wanted = names_positive(statistic.removeprefix("recall_"), table, positive)
    return table[is_positive(table["label"], positive=positive) == wanted]


def _class_shares(units: Units, statistic: Statistic) -> FloatArray | None:
    """What each class weighs in a mean of correct decisions, (n_classes,); None for statistics that are none."""
    if not isinstance(statistic, str) or not statistic.startswith(("accuracy", "balanced_accuracy", "recall_")):
        return None
    clips = np.bincount(units.stratum)
    return clips / clips.sum() if statistic == "accuracy" else np.full(len(clips), 1 / len(clips))


def _groups(units: Units) -> FloatArray:
    return np.array(list(units.sizes.values()), dtype=float)


def _unanimous(right: BoolArray, units: Units, shares: FloatArray, tail: float) -> Interval | None:
    """The exact interval where each class is wholly right or wholly wrong, (n_rows,) being right, else None."""
    recalls = np.bincount(units.stratum, weights=right) / np.bincount(units.stratum)
    if not np.isin(recalls, (0, 1)).all():
        return None
    value, groups = float(shares[recalls == 1].sum()), _groups(units)
    below, above = (_largest_unseen(shares[recalls == k], groups[recalls == k], tail) for k in (1, 0))
    return Interval(value - below, value + above)


def _largest_unseen(shares: FloatArray, groups: FloatArray, tail: float) -> float:
    """Largest rate at which an event that no group of these classes shows goes unseen with probability `tail`.

    Clopper-Pearson at 0 of n. With v_c the class's share and q_c its rate, prod (1 - q_c)^G_c <= (1 - sum v_c q_c)^n
    for n = min G_c / v_c by Jensen, so n stands for all groups together and is never too large.
    """
    if not len(shares):
        return 0.0
    total = float(shares.sum())
    n = float((groups * total / shares).min())
    return total * (1 - tail ** (1 / n))


def _range(statistic: Statistic) -> Interval:
    if callable(statistic) or statistic in ("d_prime", "criterion"):
        return Interval(-math.inf, math.inf)
    return Interval(0, math.inf if statistic == "log_loss" else 1)
