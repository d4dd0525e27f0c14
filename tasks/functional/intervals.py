"""The interval of a report: what the number of groups behind a statistic, or behind a difference, allows to say."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from tasks.functional.resampling import (
    Interval,
    Units,
    expanded_tail,
    jackknife_variance,
    paired_rows,
    percentile_interval,
    resample,
    units_of,
)
from tasks.functional.unanimity import (
    class_shares,
    groups_of,
    groups_of_both,
    largest_unseen,
    outcome_of,
    rows_that_count,
    settled,
    unanimous,
)
from tasks.functional.weighted_metrics import Statistic, WeightedStatistic, weighted_statistic

BOOTSTRAP_FROM = 20  # groups of the smaller class; below, Student's t
FEWEST = 5  # groups of the smaller class under which an interval is marked
TELLING = 3  # groups that hold the rarer of right and wrong clips, under which an interval is marked
SHORT = 0.08  # of a t interval's half: a percentile interval that ends so much before it is marked
JACKKNIFED = 2000  # groups up to which a percentile interval is held against a t interval; beyond, they agree
UNIT = (0, 1)
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
    the jackknife over (class, group), on the log odds for a metric in [0, 1]. From 20: percentile bootstrap of groups
    within class, its level expanded to Student's. Where each class is wholly right or wholly wrong: exact binomial
    over groups. Marked unreliable: G under 5 (Cameron & Miller 2015, sec. VI); right clips or wrong ones in under 3
    groups; a bootstrap interval that ends well inside the t interval. `tests.bench.bench_coverage` shows how often each
    holds.
    table, statistic: as in `significance.cluster_bootstrap`. Raises ValueError where the statistic has no value.
    """
    why = settled(table, statistic)
    table = rows_that_count(table, statistic, positive)
    units = units_of(table, group)
    evaluate = weighted_statistic(table, statistic, units.unit, positive=positive)
    exact, told_by = None, None
    if (outcome := outcome_of(table, statistic, units, positive)) is not None:
        told_by = _Telling(groups_of_both(outcome), "right clips or wrong ones stand")
        if (shares := class_shares(units, statistic)) is not None:
            exact = unanimous(outcome.right, units, shares, (1 - confidence) / 2)
    how = _Resampling(rescale=not callable(statistic), n_boot=n_boot, seed=seed, confidence=confidence)
    return _by_rule(_Measure(evaluate, units, _range(statistic), exact, why, told_by), how)


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
    why = settled(table_a, statistic) and settled(table_b, statistic)
    a, b = (rows_that_count(table, statistic, positive) for table in (table_a, table_b))
    units = units_of(a, group)
    of_a, of_b = (weighted_statistic(rows, statistic, units.unit, positive=positive) for rows in (a, b))
    exact, told_by = None, None
    right = [outcome.right for rows in (a, b) if (outcome := outcome_of(rows, statistic, units, positive))]
    if len(right) == 2 and (shares := class_shares(units, statistic)) is not None:
        differ = right[0] != right[1]
        told_by = _Telling(len(np.unique(units.unit[differ])), "the two differ")
        if not differ.any():
            most = largest_unseen(shares, groups_of(units), (1 - confidence) / 2)
            exact = Interval(-most, most)
    low, high = _range(statistic)
    how = _Resampling(rescale=not callable(statistic), n_boot=n_boot, seed=seed, confidence=confidence)
    bounds = Interval(low - high, high - low)
    return _by_rule(_Measure(lambda w: of_a(w) - of_b(w), units, bounds, exact, why, told_by), how)


def only_short(method: str | None, reason: str | None) -> bool:
    """Whether all that is against an interval is that resampled groups give a shorter one than Student's t."""
    return method == "bootstrap" and (reason or "").startswith("a t interval")


# --- the rule ----------------------------------------------------------------------------------------------------


class _Telling(NamedTuple):
    """In how many groups what the value rests on is found, and how to say so."""

    groups: int
    where: str


class _Measure(NamedTuple):
    evaluate: WeightedStatistic
    units: Units
    bounds: Interval  # the metric's range
    exact: Interval | None  # where all groups agree
    settled: str | None  # why no clip has a say in the value
    told_by: _Telling | None


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
    method: Literal["t", "bootstrap", "exact"]
    if measure.exact:
        method, (low, high) = "exact", measure.exact
    elif n_groups < BOOTSTRAP_FROM:
        method, (low, high) = "t", _t_interval(value, measure, how)
    else:
        drawn = resample(measure.evaluate, units, how.n_boot, how.seed)
        method, (low, high) = "bootstrap", percentile_interval(drawn, 1 - 2 * expanded_tail(how.confidence, n_groups))
    if not high - low > ROUNDING:  # also NaN, where leaving out a group leaves the statistic undefined
        undefined = math.isnan(high - low)
        return _without(value, "undefined without some of the groups" if undefined else "no spread between groups")
    doubt = None
    if n_groups < FEWEST:
        doubt = f"only {n_groups} groups in {smallest}"
    elif method != "exact" and measure.told_by and (few := measure.told_by.groups) < TELLING:
        doubt = f"{measure.told_by.where} in {few} {'group' if few == 1 else 'groups'} only"
    elif method == "bootstrap" and units.n <= JACKKNIFED:
        doubt = _too_short(value, Interval(low, high), _t_interval(value, measure, how))
    reason = f"{doubt}: unreliable" if doubt else None
    return ClusteredInterval(value, low, high, method, reason, reason is None)


def _without(value: float, reason: str) -> ClusteredInterval:
    return ClusteredInterval(value, None, None, "none", f"{reason}: no interval", False)


def _too_short(value: float, drawn: Interval, student: Interval) -> str | None:
    """Whether the percentile interval ends well inside the t interval, and then where that ends."""
    low = drawn.low - student.low > SHORT * (value - student.low)
    high = student.high - drawn.high > SHORT * (student.high - value)
    if not (low or high):
        return None
    return f"a t interval reaches further, from {student.low:.3f} to {student.high:.3f}"


def _t_interval(value: float, measure: _Measure, how: _Resampling) -> Interval:
    """Student's interval on the jackknife, G - 1 df for the G groups of the smaller class.

    For a metric in [0, 1] it is taken on the log odds (delta method), where it is nearer to symmetric and cannot leave
    the range.
    """
    from scipy.special import expit, logit, stdtrit

    units, se = measure.units, _jackknife_se(measure, how)
    half = float(stdtrit(units.sizes[units.smallest] - 1, (1 + how.confidence) / 2)) * se
    if measure.bounds == UNIT and 0 < value < 1:
        at, half = float(logit(value)), half / (value * (1 - value))
        return Interval(float(expit(at - half)), float(expit(at + half)))
    low, high = (float(np.clip(end, *measure.bounds)) for end in (value - half, value + half))
    return Interval(low, high)


def _jackknife_se(measure: _Measure, how: _Resampling) -> float:
    """Standard error by `jackknife_variance`: a stratum's other groups are weighted up by G / (G - 1), unless the statistic
    takes whole rows only."""
    start, without = 0, []
    for size in measure.units.sizes.values():
        weights = np.ones((size, measure.units.n))
        weights[:, start : start + size] = size / (size - 1) if how.rescale else 1.0
        weights[np.arange(size), start + np.arange(size)] = 0
        without.append(measure.evaluate(weights))
        start += size
    return math.sqrt(jackknife_variance(np.concatenate(without), measure.units.sizes.values()))


def _range(statistic: Statistic) -> Interval:
    if callable(statistic) or statistic in ("d_prime", "criterion"):
        return Interval(-math.inf, math.inf)
    return Interval(0, math.inf if statistic == "log_loss" else 1)
