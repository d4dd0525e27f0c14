"""Units are the (stratum, group) pairs in order, and every design's draws are the same however they are kept."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.functional import resampling
from tasks.functional.resampling import resample, units_of

PAIRS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5)), min_size=1, max_size=30)


def table_of(pairs: list[tuple[str, int]]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["label", "group_id"])


def ladder(weights):
    """A value that tells every draw from every other."""
    return weights @ 2.0 ** np.arange(weights.shape[1])


@settings(max_examples=30, deadline=None)
@given(PAIRS)
def test_units_number_the_sorted_pairs_of_stratum_and_group(pairs):
    units, names = units_of(table_of(pairs)), sorted(set(pairs))
    assert [names[unit] for unit in units.unit] == pairs
    assert units.sizes == {label: len({g for other, g in pairs if other == label}) for label, _ in names}
    assert [list(units.sizes)[stratum] for stratum in units.stratum] == [label for label, _ in pairs]
    assert (units.n, units.sizes[units.smallest]) == (len(names), min(units.sizes.values()))


def test_every_stratum_gives_as_many_groups_as_it_has():
    units = units_of(table_of([("a", g) for g in range(3)] + [("b", g) for g in range(4)]))
    for stratum, size in (((slice(None), slice(0, 3)), 3), ((slice(None), slice(3, 7)), 4)):
        drawn = resample(lambda weights, stratum=stratum: weights[stratum].sum(axis=1), units, 300, 0)
        assert set(drawn) == {size}
    first = resample(lambda weights: weights[:, 0], units, 30_000, 0)
    assert [(first == k).mean() for k in range(4)] == pytest.approx(np.array([8, 12, 6, 1]) / 27, abs=0.01)


def test_draws_that_are_kept_are_those_that_are_not(monkeypatch):
    units = units_of(table_of([(label, g) for label in "ab" for g in range(20)]))
    kept, again = (resample(ladder, units, 3000, 7) for _ in range(2))
    monkeypatch.setattr(resampling, "KEPT_COUNTS", 0)
    assert (kept == again).all()
    assert (kept == resample(ladder, units, 3000, 7)).all()
    assert (kept != resample(ladder, units, 3000, 8)).any()


def test_no_statistic_can_alter_the_draws_of_the_next():
    units = units_of(table_of([("a", 0), ("a", 1), ("a", 2)]))

    def greedy(weights):
        weights *= 2
        return ladder(weights)

    honest = resample(ladder, units, 50, 0)
    assert (resample(greedy, units, 50, 0) == 2 * honest).all()
    assert (resample(ladder, units, 50, 0) == honest).all()


def test_no_resample_is_no_interval():
    with pytest.raises(ValueError, match="n_boot is 0"):
        resample(ladder, units_of(table_of([("a", 0)])), 0, 0)
