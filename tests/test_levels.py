"""Levels keep their names apart and stand in order."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.functional.levels import ascending, level_name, level_names, stated_end, stated_level, stated_p

NUMBERS = st.one_of(st.integers(-(10**12), 10**12), st.floats(allow_nan=False, allow_infinity=False, width=64))


@given(NUMBERS, NUMBERS)
def test_two_numbers_share_a_name_only_where_they_are_equal(one, other):
    assert (level_name(one, "x") == level_name(other, "x")) == (one == other)


@pytest.mark.parametrize(
    ("level", "factor", "name"),
    [
        (20.0, "duration_ms", "20"), (np.int64(20), "duration_ms", "20"), (np.float64(0.1), "x", "0.1"), (-0.0, "x", "0"),
        (True, "x", "True"), (np.False_, "x", "False"), ("20", "x", "20"), (None, "snr_db", "no noise"),
        (float("nan"), "duration_ms", "not set"), (pd.NA, "x", "none"), (None, "rt60_s", "anechoic"),
    ],
)  # fmt: skip
def test_a_level_is_named_as_it_is_written(level, factor, name):
    assert level_name(level, factor) == name


@pytest.mark.parametrize("kind", ["float64", "Float64", "object", "category", "Int64"])
def test_a_column_of_any_kind_has_the_same_names(kind):
    column = pd.Series([40.0, None, 20.0, 40.0]).astype(kind)
    assert level_names(column, "snr_db").tolist() == ["40", "no noise", "20", "40"]


def test_levels_ascend_by_number_and_words_come_last():
    given = dict.fromkeys(["1000", "not set", "40", "-5", "nan", "200"])
    assert list(ascending(given)) == ["-5", "40", "200", "1000", "nan", "not set"]


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [(53.24, "ms", "53.2"), (2933.4, "ms", "2,933"), (7.4, "ms", "7.4"), (-0.167, "dB", "-0.2"), (0.0012, "dB", "0.0"),
     (-0.01, "dB", "0.0"), (12.0, "dB", "12.0")],
)  # fmt: skip
def test_a_threshold_is_stated_as_finely_as_it_can_be_meant(value, unit, words):
    assert stated_level(value, unit) == words


def test_an_end_beyond_the_levels_is_not_given_as_if_it_were_measured():
    assert [stated_end(end, 20, 1000, "ms") for end in (7.4, 20.0, 133.3, 1000.0, 2933.0, None)] == [
        "<20", "20", "133", "1,000", ">1000", "open",
    ]  # fmt: skip
    assert stated_end(-12.1, -10, 20, "dB") == "<-10"


def test_a_p_value_too_small_for_a_float_is_not_said_to_be_0():
    assert [stated_p(p, "-") for p in (None, 0.0, 5.7e-40, 0.375, 1.0)] == ["-", "< 0.0001", "< 0.0001", "0.375", "1"]
