"""How often the report's intervals hold the truth, over simulated data sets whose clips come in groups.

python -m tests.bench.bench_coverage --simulations 500

Groups are nested in class and hold unequally many clips (mean 12, coefficient of variation 0.6). Decisions of two
detectors are Dirichlet-multinomial, so that the ICC of being right, and of their difference, is exactly the one given;
scores are Gaussian with that ICC. A line a cell: how many intervals stand without a mark, how often those hold the
truth, how often all do, and how often two others would: Wilson's interval over clips, which ignores groups, and a
t interval from 20 groups on as well, where the rule has the percentile bootstrap. A star marks cells in which the
unmarked intervals cover less than 0.93; two stars where that is by three standard errors, and the exit code is then 1.
A few minutes on one core.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd
from scipy.stats import norm

from tasks.functional import intervals
from tasks.functional.intervals import ClusteredInterval, clustered_interval, paired_difference
from tasks.functional.metrics import BoolArray, FloatArray
from tasks.functional.significance import binomial_interval

S, N = "SPEECH", "NONSPEECH"
GROUPS, ICCS = (3, 5, 10, 20, 50), (0.05, 0.2, 0.5)
CLIPS, VARIATION = 12, 0.6  # a group's mean and coefficient of variation
NOMINAL, WANTED, FEW = 0.95, 0.93, 0.1  # under FEW unmarked intervals in a cell say nothing
N_BOOT = 1000


class Question(NamedTuple):
    """What is asked of a simulated data set, and its true answer."""

    name: str
    truth: float
    draw: Callable[[np.random.Generator, int, float], tuple[pd.DataFrame, ...]]
    statistic: str


# --- data sets ---------------------------------------------------------------------------------------------------


def clips_of(rng: np.random.Generator, groups: int) -> pd.DataFrame:
    """Clips of `groups` groups a class, sorted by class and group."""
    spread = math.sqrt(math.log1p(VARIATION**2))
    sizes = np.rint(CLIPS * rng.lognormal(-(spread**2) / 2, spread, 2 * groups)).clip(1).astype(int)
    group = np.repeat(np.arange(2 * groups), sizes)
    return pd.DataFrame({"clip_id": np.arange(len(group)), "group_id": group, "label": names(group < groups)})


def names(speech: BoolArray) -> pd.Series:
    """Class names as a report's table holds them."""
    return pd.Series(np.where(speech, S, N), dtype=object)


def decisions(
    rng: np.random.Generator, groups: int, icc: float, a: float, b: float, only_a: float
) -> tuple[pd.DataFrame, ...]:
    """Two detectors on the same clips, right on a share `a` and `b` of each class, just the first on `only_a`."""
    clips = clips_of(rng, groups)
    shares = np.array([a - only_a, only_a, b - a + only_a, 1 - b - only_a])  # both, first, second, none
    of_group = rng.dirichlet(shares * (1 - icc) / icc, 2 * groups).cumsum(axis=1)
    outcome = (rng.random(len(clips))[:, None] > of_group[clips["group_id"]]).sum(axis=1)
    speech = (clips["group_id"] < groups).to_numpy()
    return tuple(clips.assign(prediction=names(speech == np.isin(outcome, right))) for right in ((0, 1), (0, 2)))


def scores(rng: np.random.Generator, groups: int, icc: float, auc: float) -> tuple[pd.DataFrame, ...]:
    """One detector's scores, classes apart by what gives that AUC."""
    clips = clips_of(rng, groups)
    shift = np.where(clips["group_id"] < groups, 1, -1) * norm.ppf(auc) / math.sqrt(2)
    alike = rng.normal(0, math.sqrt(icc), 2 * groups)[clips["group_id"]]
    return (clips.assign(p_speech=shift + alike + rng.normal(0, math.sqrt(1 - icc), len(clips))),)


def of_decisions(a: float, b: float, only_a: float) -> Callable[..., tuple[pd.DataFrame, ...]]:
    return lambda rng, groups, icc: decisions(rng, groups, icc, a, b, only_a)


def of_scores(auc: float) -> Callable[..., tuple[pd.DataFrame, ...]]:
    return lambda rng, groups, icc: scores(rng, groups, icc, auc)


QUESTIONS = (
    Question("recall 0.75", 0.75, of_decisions(0.75, 0.70, 0.10), "recall_speech"),
    Question("recall 0.90", 0.90, of_decisions(0.90, 0.85, 0.08), "recall_speech"),
    Question("recall 0.95", 0.95, of_decisions(0.95, 0.92, 0.05), "recall_speech"),
    Question("balanced acc. 0.75", 0.75, of_decisions(0.75, 0.70, 0.10), "balanced_accuracy"),
    Question("balanced acc. 0.90", 0.90, of_decisions(0.90, 0.85, 0.08), "balanced_accuracy"),
    Question("ROC AUC 0.80", 0.80, of_scores(0.80), "roc_auc"),
    Question("ROC AUC 0.95", 0.95, of_scores(0.95), "roc_auc"),
    Question("difference 0.05", 0.05, of_decisions(0.75, 0.70, 0.10), "balanced_accuracy"),
    Question("difference 0.00", 0.00, of_decisions(0.90, 0.90, 0.05), "balanced_accuracy"),
)  # fmt: skip


# --- coverage ----------------------------------------------------------------------------------------------------


class Coverage(NamedTuple):
    """Of the simulations of one cell, (n,) each: the interval stands unmarked, stands at all, holds the truth."""

    unmarked: FloatArray
    stands: FloatArray
    holds: FloatArray
    with_t: FloatArray  # a t interval, where the rule takes the bootstrap, holds the truth
    wilson: FloatArray  # Wilson's interval over clips does; NaN where there is none

    @property
    def of_unmarked(self) -> float:
        """Share of the unmarked intervals that hold the truth; NaN where there is none."""
        return float(self.holds[self.unmarked > 0].mean()) if self.unmarked.any() else math.nan

    @property
    def verdict(self) -> str:
        """Stars where the unmarked intervals cover too little."""
        if self.unmarked.mean() < FEW or self.of_unmarked >= WANTED:
            return ""
        chance = 3 * math.sqrt(WANTED * (1 - WANTED) / self.unmarked.sum())
        return "**" if self.of_unmarked < WANTED - chance else "*"


def interval_of(question: Question, tables: tuple[pd.DataFrame, ...]) -> ClusteredInterval:
    """The report's interval on one data set."""
    if question.name.startswith("difference"):
        a, b = tables
        return paired_difference(a, b, question.statistic, seed=0, n_boot=N_BOOT)
    return clustered_interval(tables[0], question.statistic, seed=0, n_boot=N_BOOT)


def wilson_holds(question: Question, table: pd.DataFrame) -> float:
    """Whether the interval that takes clips for independent holds a recall; NaN for other statistics."""
    if not question.statistic.startswith("recall"):
        return math.nan
    speech = table[table["label"] == S]
    low, high = binomial_interval(int((speech["prediction"] == S).sum()), len(speech))
    return float(low <= question.truth <= high)


def cover(question: Question, groups: int, icc: float, simulations: int, seed: int) -> Coverage:
    """Coverage of one cell over so many data sets."""
    rng, rows = np.random.default_rng([seed, groups, round(1000 * icc)]), []

    def holds(found: ClusteredInterval) -> float:
        return float(found.low is not None and found.high is not None and found.low <= question.truth <= found.high)

    for _ in range(simulations):
        tables = question.draw(rng, groups, icc)
        found = student = interval_of(question, tables)
        if found.method == "bootstrap":
            with patch.object(intervals, "BOOTSTRAP_FROM", math.inf):
                student = interval_of(question, tables)
        rows.append(
            (found.reliable, found.low is not None, holds(found), holds(student), wilson_holds(question, tables[0]))
        )
    return Coverage(*np.array(rows, dtype=float).T)


def main() -> int:
    """One line a cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=500, help="data sets a cell")
    parser.add_argument("--groups", type=int, nargs="+", default=GROUPS, help="groups a class")
    parser.add_argument("--seed", type=int, default=0)
    given, start, poor = parser.parse_args(), time.perf_counter(), 0
    print(f"{'':<20}{'G':>4}{'ICC':>6}{'unmarked':>10}{'cover':>8}{'':<4}{'all':>7}{'t':>8}{'Wilson':>8}")
    for question in QUESTIONS:
        for groups in given.groups:
            for icc in ICCS:
                found = cover(question, groups, icc, given.simulations, given.seed)
                poor += found.verdict == "**"
                print(
                    f"{question.name:<20}{groups:>4}{icc:>6}{found.unmarked.mean():>10.2f}{found.of_unmarked:>8.3f} "
                    f"{found.verdict:<3}{found.holds[found.stands > 0].mean():>7.3f}"
                    f"{found.with_t[found.stands > 0].mean():>8.3f}{np.mean(found.wilson):>8.3f}",
                    flush=True,
                )
    print(f"{given.simulations} data sets a cell, {time.perf_counter() - start:.0f} s; {poor} cells below {WANTED}")
    return int(poor > 0)


if __name__ == "__main__":
    sys.exit(main())
