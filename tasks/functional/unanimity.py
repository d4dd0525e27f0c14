"""What right and wrong clips tell before anything is resampled: one answer for all, one outcome, too few of another."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from tasks.functional.metrics import OF_SCORES, BoolArray, FloatArray, IntArray, answered, is_positive
from tasks.functional.resampling import Interval, Units
from tasks.functional.weighted_metrics import BINNED, Statistic, names_positive


def settled(table: pd.DataFrame, statistic: Statistic) -> str | None:
    """Why a statistic gets no interval from its clips: they were all answered alike, or resamples would mislead; or None.

    A detector that gives one answer to clips of both classes hears nothing: its score says nothing of further clips.
    A recall is left out, since one class may be answered otherwise in the next group. So are a table of one class, where
    one answer may be the right one, and a table that holds an unanswered clip.
    """
    if statistic in BINNED:
        return "a binned calibration error is biased upwards, and more so in a resample"
    if not isinstance(statistic, str) or statistic.startswith("recall_"):
        return None
    told, column = ("score", "p_speech") if statistic in OF_SCORES else ("answer", "prediction")
    if column not in table or table[column].nunique(dropna=False) != 1:
        return None
    alike = table["label"].nunique() == 2 and table[column].notna().all()
    return f"the same {told} for every clip" if alike else None


class Outcome(NamedTuple):
    """Which clips a statistic calls right."""

    right: BoolArray  # (n_rows,)
    counts: BoolArray  # (n_rows,) the statistic looks at the row
    unit: IntArray  # (n_rows,)
    stratum: IntArray  # (n_rows,) what is compared apart: classes, or 0 throughout


def outcome_of(table: pd.DataFrame, statistic: Statistic, units: Units, positive: str) -> Outcome | None:
    """Which clips a statistic of decisions calls right; None for those of scores and for functions of the rows."""
    if callable(statistic) or statistic in (*OF_SCORES, *BINNED):
        return None
    clips = answered(table["prediction"], table["label"], positive=positive)
    metric, _, name = statistic.partition("_")
    if metric not in ("precision", "f1"):
        return Outcome(clips.right, np.ones(len(table), dtype=bool), units.unit, units.stratum)
    wanted = names_positive(name, table, positive)
    said, is_so = clips.said == wanted, clips.truth == wanted
    counts = said if metric == "precision" else said | is_so
    return Outcome(said & is_so, counts, units.unit, np.zeros(len(table), dtype=int))


def groups_of_both(outcome: Outcome) -> int:
    """Groups that hold a right clip or those that hold a wrong one, whichever are fewer, summed over strata."""
    total = 0
    for stratum in np.unique(outcome.stratum):
        of = outcome.counts & (outcome.stratum == stratum)
        holds = [len(np.unique(outcome.unit[of & right])) for right in (outcome.right, ~outcome.right)]
        total += min(holds)
    return total


def rows_that_count(table: pd.DataFrame, statistic: Statistic, positive: str) -> pd.DataFrame:
    """For a recall the rows of its class, else all."""
    if not isinstance(statistic, str) or not statistic.startswith("recall_") or "label" not in table:
        return table
    wanted = names_positive(statistic.removeprefix("recall_"), table, positive)
    return table[is_positive(table["label"], positive=positive) == wanted]


def class_shares(units: Units, statistic: Statistic) -> FloatArray | None:
    """What each class weighs in a mean of correct decisions, (n_classes,); None for statistics that are none."""
    if not isinstance(statistic, str) or not statistic.startswith(("accuracy", "balanced_accuracy", "recall_")):
        return None
    clips = np.bincount(units.stratum)
    return clips / clips.sum() if statistic == "accuracy" else np.full(len(clips), 1 / len(clips))


def groups_of(units: Units) -> FloatArray:
    """Each class's number of groups, (n_classes,)."""
    return np.array(list(units.sizes.values()), dtype=float)


def unanimous(right: BoolArray, units: Units, shares: FloatArray, tail: float) -> Interval | None:
    """The exact interval where each class is wholly right or wholly wrong, (n_rows,) being right, else None."""
    recalls = np.bincount(units.stratum, weights=right) / np.bincount(units.stratum)
    if not np.isin(recalls, (0, 1)).all():
        return None
    value, groups = float(shares[recalls == 1].sum()), groups_of(units)
    below, above = (largest_unseen(shares[recalls == k], groups[recalls == k], tail) for k in (1, 0))
    return Interval(value - below, value + above)


def largest_unseen(shares: FloatArray, groups: FloatArray, tail: float) -> float:
    """Largest rate at which an event that no group of these classes shows goes unseen with probability `tail`.

    Clopper-Pearson at 0 of n. With v_c the class's share and q_c its rate, prod (1 - q_c)^G_c <= (1 - sum v_c q_c)^n
    for n = min G_c / v_c by Jensen, so n stands for all groups together and is never too large.
    """
    if not len(shares):
        return 0.0
    total = float(shares.sum())
    n = float((groups * total / shares).min())
    return total * (1 - tail ** (1 / n))
