"""The metrics as functions of how often each group was drawn: a resample costs no pass over the clips."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.functional.calibration import reliability
from tasks.functional.metrics import (
    OF_SCORES,
    BoolArray,
    FloatArray,
    IntArray,
    answered,
    finite_scores,
    gaussian_observer,
    is_positive,
    need_both,
    probabilities,
    squared_error,
    surprise,
)
from tasks.functional.ranking import models

Statistic = str | Callable[[pd.DataFrame], float]
WeightedStatistic = Callable[[FloatArray], FloatArray]  # weights (n_resamples, n_units) -> values (n_resamples,)
BINNED = ("ece", "mce")  # top-label calibration errors over the default bins of `calibration.reliability`


def weighted_statistic(
    table: pd.DataFrame, statistic: Statistic, unit: IntArray, *, positive: str = "SPEECH"
) -> WeightedStatistic:
    """The statistic as a function of how often each unit (group) was drawn: weights (n, n_units) -> values (n,).

    `unit` (n_rows,) numbers the rows' groups from 0. Named statistics are reduced to sums over units first, so that
    a resample costs no pass over the rows: accuracy, balanced_accuracy, recall_*, precision_*, f1_* (class names in
    lower case), d_prime, criterion, roc_auc, average_precision, brier, log_loss, ece, mce. AUC keeps a matrix of
    positive units x negative units. Where the table names fold or seed, AUC and average precision rank within the clips
    that one model scored: two models' scores have no common scale. A callable gets the rows repeated, so its weights
    must be whole numbers; text comes to it as categories wherever its value is the same with them. d_prime and criterion
    know hits and false alarms alone: no usable answer to a clip of the other class is a false alarm there.
    Raises ValueError for an unknown name, a missing column, or a class without clips.
    """
    if callable(statistic):
        return _of_rows(table, statistic, unit)
    needed = "p_speech" if statistic in (*OF_SCORES, *BINNED) else "prediction"
    if missing := [column for column in ("label", needed) if column not in table]:
        raise ValueError(f"{statistic} needs the column {missing[0]}, the table has {list(table.columns)}")
    truth = is_positive(table["label"], positive=positive)
    if statistic in ("balanced_accuracy", "roc_auc", "average_precision", "d_prime", "criterion"):
        need_both(truth, statistic)
    if statistic == "roc_auc":
        return _roc_auc(finite_scores(table["p_speech"], len(truth)), truth, unit, models(table))
    if statistic == "average_precision":
        return _average_precision(finite_scores(table["p_speech"], len(truth)), truth, unit, models(table))
    if statistic in BINNED:
        return _calibration_error(probabilities(table["p_speech"], len(truth)), truth, unit, statistic)
    if statistic in ("d_prime", "criterion"):
        right = answered(table["prediction"], table["label"], positive=positive).right
        counts = _unit_sums(np.column_stack([truth & right, truth, ~truth & ~right, ~truth]), unit)
        return lambda weights: gaussian_observer(weights @ counts, 0.5)[statistic == "criterion"]
    numerator, denominator = (_unit_sums(part, unit) for part in _ratio(table, statistic, truth, positive))
    return lambda weights: _divide(weights @ numerator, weights @ denominator).mean(axis=1)


def _divide(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)


def _unit_sums(rows: npt.NDArray[np.generic], unit: IntArray) -> FloatArray:
    """Sums of the rows (n_rows, k) over each unit: (n_units, k)."""
    return np.column_stack([np.bincount(unit, weights=column) for column in rows.astype(float).T])


def _ratio(table: pd.DataFrame, statistic: str, truth: BoolArray, positive: str) -> tuple[FloatArray, FloatArray]:
    """Row-wise numerators and denominators (n_rows, k) of a statistic that is a mean of k ratios of sums."""
    everyone = np.ones((len(truth), 1))
    if statistic == "brier":
        return squared_error(table["p_speech"], truth)[:, None], everyone
    if statistic == "log_loss":
        return surprise(table["p_speech"], truth)[:, None], everyone
    clips = answered(table["prediction"], table["label"], positive=positive)
    right = clips.right[:, None]
    if statistic == "accuracy":
        return right.astype(float), everyone
    if statistic == "balanced_accuracy":
        of_class = np.column_stack([truth, ~truth]).astype(float)
        return of_class * right, of_class
    metric, _, name = statistic.partition("_")
    if metric not in ("recall", "precision", "f1"):
        raise ValueError(f"unknown statistic {statistic!r}; give one of weighted_statistic's names or a function")
    wanted = names_positive(name, table, positive)
    of_class, said = (truth == wanted)[:, None].astype(float), (clips.said == wanted)[:, None].astype(float)
    both = of_class * right
    return {"recall": (both, of_class), "precision": (both, said), "f1": (2 * both, of_class + said)}[metric]


def names_positive(name: str, table: pd.DataFrame, positive: str) -> bool:
    """Whether a lower-cased name means the positive class, else the other one, NON<positive> where labels are 1/0."""
    others = {value for value in table["label"].unique() if isinstance(value, str)} - {positive} or {f"NON{positive}"}
    if name != positive.lower() and name not in {other.lower() for other in others}:
        raise ValueError(f"no class is called {name!r} in lower case; the classes are {[positive, *sorted(others)]}")
    return name == positive.lower()


def _of_rows(table: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], unit: IntArray) -> WeightedStatistic:
    rows, light = np.arange(len(table)), _as_categories(table)

    def value(of: pd.DataFrame, times: IntArray) -> float:
        return float(statistic(of.iloc[np.repeat(rows, times)]))

    def same_of_categories(times: IntArray) -> bool:
        expected = value(table, times)
        try:
            found = value(light, times)
        except (TypeError, ValueError, AttributeError):  # what it does to text cannot be done to categories
            return False
        return found == expected or (math.isnan(found) and math.isnan(expected))

    def values(weights: FloatArray) -> FloatArray:
        times = weights.astype(int)[:, unit]
        cheapest = light if same_of_categories(times[0]) else table
        return np.array([value(cheapest, drawn) for drawn in times])

    return values


def _as_categories(table: pd.DataFrame) -> pd.DataFrame:
    """Text as categories, of which rows are cheap to take; label and prediction have the same, to be compared."""
    text = [name for name in table if pd.api.types.is_string_dtype(table[name])]
    compared = [name for name in ("label", "prediction") if name in text]
    names = sorted({value for name in compared for value in table[name].dropna().unique()})
    classes = pd.CategoricalDtype(pd.Index(names, dtype=object))
    return table.astype(dict.fromkeys(text, "category") | dict.fromkeys(compared, classes))


def _calibration_error(p: FloatArray, truth: BoolArray, unit: IntArray, statistic: str) -> WeightedStatistic:
    """ECE or MCE from each unit's clips and sum of confidence - correctness in each bin: sums again."""
    order = np.argsort(unit, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(unit[order])) + 1)
    bins = [reliability(p[part], truth[part].astype(int)) for part in parts]
    clips = np.array([of.n for of in bins], dtype=float)
    gaps = np.array([np.nan_to_num(of.confidence - of.observed) * of.n for of in bins])

    def values(weights: FloatArray) -> FloatArray:
        gap, n = np.abs(weights @ gaps), weights @ clips
        return (
            gap.sum(axis=1) / n.sum(axis=1)
            if statistic == "ece"
            else _divide(gap, n).max(axis=1, where=n > 0, initial=0)
        )

    return values


def _roc_auc(score: FloatArray, truth: BoolArray, unit: IntArray, model: IntArray) -> WeightedStatistic:
    """wins[i, j] of pairs[i, j]: a positive of unit i above a negative of unit j, scored by the same model; ties one
    half (Mann-Whitney U)."""
    of_positive, positive_unit = np.unique(unit[truth], return_inverse=True)
    of_negative, negative_unit = np.unique(unit[~truth], return_inverse=True)
    wins, pairs = np.zeros((2, len(of_positive), len(of_negative)))
    for name in np.unique(model):
        mine, theirs = model[truth] == name, model[~truth] == name
        order = np.argsort(score[~truth][theirs])  # sorted queries keep searchsorted in cache
        negative, its_unit = score[~truth][theirs][order], negative_unit[theirs][order]
        n_negative = np.bincount(its_unit, minlength=len(of_negative))
        for i in np.unique(positive_unit[mine]):
            own = np.sort(score[truth][mine & (positive_unit == i)])
            not_above = (np.searchsorted(own, negative, "left") + np.searchsorted(own, negative, "right")) / 2
            wins[i] += np.bincount(its_unit, weights=len(own) - not_above, minlength=len(of_negative))
            pairs[i] += len(own) * n_negative

    def values(weights: FloatArray) -> FloatArray:
        drawn_positive, drawn_negative = weights[:, of_positive], weights[:, of_negative]
        won, of = (np.einsum("bj,bj->b", drawn_positive @ table, drawn_negative) for table in (wins, pairs))
        return _divide(won, of)

    return values


def _average_precision(score: FloatArray, truth: BoolArray, unit: IntArray, model: IntArray) -> WeightedStatistic:
    """Of each model's clips, averaged by how many positives they hold; of none where a model has one class only."""
    ranked = []
    for name in np.unique(model):
        mine = np.flatnonzero(model == name)
        mine = mine[np.argsort(-score[mine])]
        ranked.append((truth[mine], unit[mine], np.flatnonzero(np.diff(score[mine], append=np.inf))))

    def value(weights: FloatArray) -> float:
        total = positives = 0.0
        for its_truth, its_unit, last_of_tie in ranked:
            drawn = weights[its_unit]
            answered, found = np.cumsum(drawn)[last_of_tie], np.cumsum(drawn * its_truth)[last_of_tie]
            if found[-1] == answered[-1]:
                continue
            share = np.divide(found, answered, out=np.zeros_like(found), where=answered > 0)
            total += float((np.diff(found, prepend=0) * share).sum())
            positives += float(found[-1])
        return total / positives if positives else math.nan

    return lambda weights: np.array([value(drawn) for drawn in weights])  # one by one: a row fits into the cache
