"""Which conditions a design has, and that its margins are even where its cells cannot be."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.functional.conditions import Condition, Levels, even_margins, factorial, one_at_a_time

CLEAN_160 = Levels((200, 400, 600, 800, 1000), (0, 5, 10, 15, 20))


def margins(counts: dict[Condition, int], factor: str) -> Counter[object]:
    """Clips of each level of a factor."""
    found: Counter[object] = Counter()
    for condition, n in counts.items():
        found[getattr(condition, factor)] += n
    return found


def test_a_factorial_has_every_combination_once() -> None:
    cells = factorial(Levels((20, 40), (None, 0), ("clean", "phone"), (None, 0.3, "hall")))
    assert len(cells) == len(set(cells)) == 2 * 2 * 2 * 3
    assert cells[0] == Condition(20, None, "clean", None)


def test_one_factor_at_a_time_leaves_the_others_at_the_reference() -> None:
    levels = Levels(
        (20, 40, 80, 160, 500, 800, 1000), (-10, -5, 0, 5, 10, 20), ("phone", "am_radio", "clean"), (None, 0.3, 2.5)
    )
    reference = Condition(1000, None)
    conditions = one_at_a_time(levels, reference, alone=True)
    assert conditions[1:] == one_at_a_time(levels, reference)
    assert len(conditions) == 7 + 6 + 3 + 3 + 1
    for condition in conditions:
        apart = [f for f in levels._fields if getattr(condition, f) != getattr(reference, f)]
        assert apart in ([], [condition.varied])
    assert Counter(condition.varied for condition in conditions) == {
        "none": 1, "duration_ms": 7, "snr_db": 6, "band": 3, "room": 3,
    }  # fmt: skip
    assert len(set(conditions)) == len(conditions), "each has a name of its own"


def test_64_over_25_cells_have_even_margins() -> None:
    counts = even_margins(CLEAN_160, 64, seed=1)
    assert sum(counts.values()) == 64
    assert set(counts.values()) == {2, 3}
    for factor in ("duration_ms", "snr_db"):
        assert sorted(margins(counts, factor).values()) == [12, 13, 13, 13, 13]


def test_dropping_the_rest_anywhere_would_not() -> None:
    """The failure it guards against: the first 64 of three clips a cell leave a duration nearly empty."""
    filled = dict.fromkeys(factorial(CLEAN_160), 0)
    for cell in (factorial(CLEAN_160) * 3)[: 64 - 50]:
        filled[cell] += 1
    found = margins({cell: n + 2 for cell, n in filled.items()}, "duration_ms")
    assert max(found.values()) - min(found.values()) > 1


@settings(max_examples=80, deadline=None)
@given(st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), st.integers(1, 3)), st.data())
def test_cells_and_margins_differ_by_one_at_most(sizes: tuple[int, int, int, int], data: st.DataObject) -> None:
    a, b, c, d = sizes
    levels = Levels(range(1, a + 1), range(b), ("clean", "phone", "lowpass")[:c], (None, 0.3, "hall")[:d])
    n, seed = data.draw(st.integers(1, 3 * a * b * c * d)), data.draw(st.integers(0, 9))
    counts = even_margins(levels, n, seed)
    assert list(counts) == factorial(levels)
    assert sum(counts.values()) == n
    assert max(counts.values()) - min(counts.values()) <= 1
    for factor in levels._fields:
        found = [margins(counts, factor)[level] for level in getattr(levels, factor)]
        assert max(found) - min(found) <= 1, factor


def test_nothing_to_spread_is_refused() -> None:
    with pytest.raises(ValueError, match="0 clips of a class"):
        even_margins(CLEAN_160, 0, seed=1)
