"""Two detectors are compared on the clips both answered; every number follows from who was right where."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.functional.comparisons import compare, pair
from tasks.functional.report_metrics import Rule
from tests.test_report import CLASSES

RULE = Rule(CLASSES, 50, 0)
OTHER = dict(zip(CLASSES, CLASSES[::-1], strict=True))


def answers(right: list[bool], seed: int | None = None) -> pd.DataFrame:
    """Clips of alternating classes and four groups a class."""
    n = len(right)
    label = [CLASSES[i % 2] for i in range(n)]
    said = [truth if good else OTHER[truth] for truth, good in zip(label, right, strict=True)]
    return pd.DataFrame({
        "clip_id": [f"c{i:03d}" for i in range(n)], "group_id": [f"{truth}{i // 2 % 4}" for i, truth in enumerate(label)],
        "label": label, "prediction": said, "seed": pd.array([seed] * n, dtype="Int64"),
        "half": [2 * i // n for i in range(n)],
    })  # fmt: skip


BOTH = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=16, max_size=40)


@settings(max_examples=6, deadline=None)
@given(BOTH)
def test_who_was_right_where_adds_up_and_turns_round(both):
    a, b = (answers([pair[i] for pair in both]) for i in (0, 1))
    ours, theirs = compare({"a": a, "b": b}, ["half"], RULE)["b"], compare({"b": b, "a": a}, [], RULE)["a"]
    shared = ours.overlap
    assert shared.both_right + shared.only_this_right + shared.only_other_right + shared.both_wrong == len(both)
    assert (ours.b, ours.c) == (shared.only_this_right, shared.only_other_right) == (theirs.c, theirs.b)
    assert ours.difference == pytest.approx(-theirs.difference)
    assert (ours.p_exact, ours.p_midp, ours.needed) == (
        theirs.p_exact, theirs.p_midp, theirs.needed.model_copy(update={"difference": -theirs.needed.difference}),
    )  # fmt: skip
    assert ours.difference == pytest.approx(ours.value - ours.other)
    assert sum(at.b for at in ours.by["half"].values()) == ours.b
    if ours.ci95 and theirs.ci95:
        assert ours.ci95 == pytest.approx((-theirs.ci95[1], -theirs.ci95[0]))


def test_seeds_are_paired_each_with_each_and_the_difference_is_that_of_the_means():
    rng = np.random.default_rng(1)
    mine = [answers((rng.random(32) < share).tolist(), seed) for seed, share in ((1, 0.9), (2, 0.7))]
    theirs = [answers((rng.random(32) < 0.5).tolist(), seed) for seed in (1, 2, 3)]
    compared = compare({"a": pd.concat(mine), "b": pd.concat(theirs)}, [], RULE)["b"]
    assert len(pair(pd.concat(mine), pd.concat(theirs), ("a", "b")).a) == 32 * 6
    means = [np.mean([(one["prediction"] == one["label"]).mean() for one in each]) for each in (mine, theirs)]
    assert compared.difference == pytest.approx(means[0] - means[1])
    assert (compared.n, compared.p_exact) == (32, None)


def test_a_difference_too_small_to_decide_says_so():
    right = [True] * 60
    compared = compare({"a": answers(right), "b": answers(right)}, [], RULE)["b"]
    assert (compared.needed.clips, compared.p_exact, compared.overlap.jaccard) == (None, 1, None)
    assert "no test set of a sensible size decides" in (compared.needed.reason or "")
