"""One detector against another on the clips both answered: paired tests, shared errors, and what would decide."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from tasks.functional.intervals import ClusteredInterval, only_short, paired_difference
from tasks.functional.levels import ascending, level_names, varied
from tasks.functional.metrics import BoolArray, accuracy, balanced_accuracy, is_correct
from tasks.functional.power import Design, clips_for, groups_for
from tasks.functional.report_metrics import Rule, interval_of, resamples_of
from tasks.functional.report_schema import Comparison, LevelDifference, Needed, Overlap, Verdict
from tasks.functional.resampling import units_of
from tasks.functional.significance import adjust_pvalues, likeness, mcnemar_test

COLUMNS = ("clip_id", "label", "group_id", "prediction", "seed")
SMALLEST = (
    0.005  # a smaller difference asks for more clips than anyone has, and the search for their number for minutes
)
ALPHA = 0.05
REPEATED = "clips were answered under several seeds: McNemar's test takes one answer a clip"


class Pairs(NamedTuple):
    """Rows of two detectors, row by row the same clip; `once`: no clip stands there under several seeds."""

    a: pd.DataFrame
    b: pd.DataFrame
    n_a: int  # clips of each before they were paired
    n_b: int

    @property
    def once(self) -> bool:
        """Whether every clip has one answer of each."""
        return not self.a["clip_id"].duplicated().any()


def pair(mine: pd.DataFrame, theirs: pd.DataFrame, names: tuple[str, str]) -> Pairs:
    """The clips that both answered. A clip's answer under each seed is paired with each of the other's.

    Raises ValueError where no clip is in both, or one has another label or group in the other table.
    """
    both = mine.merge(theirs[list(COLUMNS)], on="clip_id", suffixes=("", "_other"))
    n_mine, n_theirs = mine["clip_id"].nunique(), theirs["clip_id"].nunique()
    if both.empty:
        raise ValueError(
            f"none of the {n_mine:,} test clips of {names[0]!r} is among the {n_theirs:,} of {names[1]!r}: "
            f"their clip_ids are such as {mine['clip_id'].iloc[0]!r} and {theirs['clip_id'].iloc[0]!r}; "
            "compare detectors scored on the same clips"
        )
    for column in ("label", "group_id"):
        if (differs := (both[column] != both[f"{column}_other"]).to_numpy()).any():
            first = both[differs].iloc[0]
            raise ValueError(
                f"clip {first['clip_id']!r} has {column} {first[column]!r} with {names[0]!r} and "
                f"{first[f'{column}_other']!r} with {names[1]!r}; {both.loc[differs, 'clip_id'].nunique():,} clips are so"
            )
    both["pair"] = np.arange(len(both))
    other = both[["pair", "clip_id", "label", "group_id"]].assign(prediction=both["prediction_other"])
    return Pairs(both, other, n_mine, n_theirs)


def compare(rows: Mapping[str, pd.DataFrame], factors: Sequence[str], rule: Rule) -> dict[str, Comparison]:
    """The first detector against each of the others, Holm over all of them; empty where there is no other.

    rows: name -> test rows with their final predictions. factors: columns of the first by whose levels they are
    compared as well. Raises ValueError as `pair` does.
    """
    (headline, mine), *others = rows.items()
    pairs = {name: pair(mine, theirs, (headline, name)) for name, theirs in others}
    found = {name: _comparison(each, factors, rule) for name, each in pairs.items()}
    adjusted = holm([each.p_exact for each in found.values()])
    return {
        name: each.model_copy(update={"p_holm": p}) for (name, each), p in zip(found.items(), adjusted, strict=True)
    }


def _comparison(pairs: Pairs, factors: Sequence[str], rule: Rule) -> Comparison:
    right_a, right_b = _right(pairs, rule)
    statistic, found = _difference(pairs.a, pairs.b, rule, rule.n_boot)
    of = balanced_accuracy if statistic == "balanced_accuracy" else accuracy
    tested = mcnemar_test(right_a, right_b)
    return Comparison(
        n=pairs.a["clip_id"].nunique(), n_this=pairs.n_a, n_other=pairs.n_b, statistic=statistic,
        value=of(pairs.a["prediction"], pairs.a["label"], positive=rule.classes[0]),
        other=of(pairs.b["prediction"], pairs.b["label"], positive=rule.classes[0]),
        b=tested.b, c=tested.c, difference=found.value, ci95=interval_of(found),
        method=None if found.method == "none" else found.method, reason=found.reason,
        p_exact=tested.p_value if pairs.once else None,
        p_midp=mcnemar_test(right_a, right_b, method="midp").p_value if pairs.once else None,
        p_holm=None, verdict=_verdict(found),
        overlap=_overlap(right_a, right_b), needed=_needed(pairs, tested.b, tested.c, rule),
        by={factor: _by_level(pairs, factor, rule) for factor in factors if factor in pairs.a},
    )  # fmt: skip


def _right(pairs: Pairs, rule: Rule) -> tuple[BoolArray, BoolArray]:
    a, b = (is_correct(one["prediction"], one["label"], positive=rule.classes[0]) for one in (pairs.a, pairs.b))
    return a, b


def _difference(
    a: pd.DataFrame, b: pd.DataFrame, rule: Rule, n_boot: int
) -> tuple[Literal["balanced_accuracy", "accuracy"], ClusteredInterval]:
    statistic: Literal["balanced_accuracy", "accuracy"]
    statistic = "balanced_accuracy" if a["label"].nunique() == 2 else "accuracy"
    narrow = ["pair", "label", "group_id", "prediction"]
    return statistic, paired_difference(
        a[narrow], b[narrow], statistic, on="pair", n_boot=n_boot, seed=rule.seed, positive=rule.classes[0]
    )


def _verdict(found: ClusteredInterval) -> Verdict:
    """By the interval, where it can be relied on: two groups a class decide nothing, whatever theirs leaves out."""
    if found.low is None or found.high is None or found.low <= 0 <= found.high:
        return "not distinguishable"
    if not found.reliable and not only_short(found.method, found.reason):
        return "not distinguishable"
    return "better" if found.value > 0 else "worse"


def _overlap(right_a: BoolArray, right_b: BoolArray) -> Overlap:
    both_wrong, any_wrong = int((~right_a & ~right_b).sum()), int((~right_a | ~right_b).sum())
    return Overlap(
        both_right=int((right_a & right_b).sum()),
        only_this_right=int((right_a & ~right_b).sum()),
        only_other_right=int((~right_a & right_b).sum()),
        both_wrong=both_wrong,
        jaccard=both_wrong / any_wrong if any_wrong else None,
    )


def _needed(pairs: Pairs, b: int, c: int, rule: Rule) -> Needed:
    """Sample sizes at the measured difference and discordance, and at the design effect of the paired difference."""
    n, units = len(pairs.a), units_of(pairs.a)
    right_a, right_b = (right.astype(int) for right in _right(pairs, rule))
    _, effect = likeness(right_a - right_b, units.unit, units.stratum)
    difference = (b - c) / n
    design = Design(n, units.n, units.sizes[units.smallest], discordance=(b + c) / n, design_effect=effect)
    reason = None if pairs.once else REPEATED
    if pairs.once and abs(difference) < SMALLEST:
        reason = f"the measured difference is below {SMALLEST:g}: no test set of a sensible size decides"
    size = None if reason else clips_for(difference, design)
    return Needed(
        difference=difference, discordance=design.discordance, design_effect=effect, clips=size,
        groups=size and groups_for(size, design), reason=reason,
    )  # fmt: skip


def _by_level(pairs: Pairs, factor: str, rule: Rule) -> dict[str, LevelDifference]:
    """The difference at each level; Holm over the levels of this factor, an interval alone decides nothing here."""
    made = varied(pairs.a, factor)
    levels = {str(level): rows.index for level, rows in made.groupby(level_names(made[factor], factor))}
    found = [_at_level(pairs._replace(a=pairs.a.loc[at], b=pairs.b.loc[at]), rule) for at in levels.values()]
    adjusted = holm([one.p_exact for one in found])
    return ascending({
        level: one.model_copy(update={"p_holm": p, "verdict": one.verdict if p is not None and p <= ALPHA else
                                      "not distinguishable"})
        for level, one, p in zip(levels, found, adjusted, strict=True)
    })  # fmt: skip


def _at_level(pairs: Pairs, rule: Rule) -> LevelDifference:
    statistic, found = _difference(pairs.a, pairs.b, rule, resamples_of(rule).by)
    tested = mcnemar_test(*_right(pairs, rule))
    return LevelDifference(
        clips=pairs.a["clip_id"].nunique(), groups=pairs.a["group_id"].nunique(), statistic=statistic,
        difference=found.value, ci95=interval_of(found), reason=found.reason, b=tested.b, c=tested.c,
        p_exact=tested.p_value if pairs.once else None, p_holm=None, verdict=_verdict(found),
    )  # fmt: skip


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted after Holm over the p-values there are; None where a pair has none."""
    there = [p for p in p_values if p is not None]
    adjusted = iter(adjust_pvalues(there).tolist() if there else [])
    return [None if p is None else next(adjusted) for p in p_values]
