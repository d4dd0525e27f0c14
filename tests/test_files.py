"""What all sources of files share: stretches, thinning and what a table may name."""

import math
from itertools import pairwise

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.sources.files import pieces, thin


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1_000), st.floats(0.1, 4_000), st.floats(0.1, 60))
def test_pieces_are_equal_cover_the_stretch_and_none_is_too_long(first: float, length: float, longest: float) -> None:
    parts = pieces(first, first + length, longest)
    lengths = [b - a for a, b in parts]
    assert max(lengths) <= longest * (1 + 1e-8) + 2e-6
    assert max(lengths) - min(lengths) <= 3e-6
    assert math.isclose(parts[0][0], first, abs_tol=1e-6)
    assert math.isclose(parts[-1][1], first + length, abs_tol=1e-6)
    assert all(before[1] == after[0] for before, after in pairwise(parts))
    assert len(parts) <= math.ceil(length / longest)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 12))
def test_thinning_keeps_just_so_many_of_each_group_spread_evenly(sizes: list[int], most: int) -> None:
    rows = pd.DataFrame([(f"g{k}", i) for k, n in enumerate(sizes) for i in range(n)], columns=["group_id", "at"])
    kept = thin(rows, most).groupby("group_id")["at"].apply(list)
    for k, n in enumerate(sizes):
        m = min(n, most)
        assert kept[f"g{k}"] == [int((part + 0.5) * n / m) for part in range(m)]


def test_without_a_limit_nothing_is_thinned() -> None:
    rows = pd.DataFrame({"group_id": ["a", "a", "b"]})
    assert thin(rows, None).equals(rows)
