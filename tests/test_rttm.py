"""RTTM: one speaker alone is what no second turn touches, to the millisecond."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.sources.rttm import Turn, read_turns, single_speaker

turns = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 20), st.sampled_from("abc")).map(
        lambda turn: Turn("meeting", turn[0] / 10, round((turn[0] + turn[1]) / 10, 6), turn[2])
    ),
    max_size=12,
)


def talking(given_turns: list[Turn], speakers: str = "abc") -> np.ndarray:
    """Speaker x tenth of a second: who talks, marked one by one."""
    marked = np.zeros((len(speakers), 100), dtype=bool)
    for turn in given_turns:
        marked[speakers.index(turn.speaker), round(turn.start_s * 10) : round(turn.end_s * 10)] = True
    return marked


@settings(max_examples=200, deadline=None)
@given(turns)
def test_what_is_left_is_what_one_alone_says(given_turns: list[Turn]) -> None:
    marked = talking(given_turns)
    alone = single_speaker(given_turns)
    np.testing.assert_array_equal(talking(alone), marked & (marked.sum(axis=0) == 1))


@settings(max_examples=200, deadline=None)
@given(turns)
def test_stretches_come_in_order_and_are_as_long_as_they_get(given_turns: list[Turn]) -> None:
    alone = single_speaker(given_turns)
    assert all(turn.start_s < turn.end_s for turn in alone)
    for before, after in pairwise(alone):
        assert before.end_s <= after.start_s
        assert before.end_s < after.start_s or before.speaker != after.speaker


def test_sums_that_differ_in_the_last_digit_leave_no_splinter(tmp_path: Path) -> None:
    file = tmp_path / "a.rttm"
    file.write_text(
        "SPEAKER a 1 0.1 0.2 <NA> <NA> ann <NA> <NA>\nSPEAKER a 1 0.3 0.4 <NA> <NA> bob <NA> <NA>\n"
        "SPEAKER a 1 0.7 0.3 <NA> <NA> bob <NA> <NA>\n"
    )
    assert 0.1 + 0.2 > 0.3, "the numbers of this test show nothing"
    alone = single_speaker(read_turns(file))
    assert [(turn.start_s, turn.end_s, turn.speaker) for turn in alone] == [(0.1, 0.3, "ann"), (0.3, 1.0, "bob")]


def test_comments_and_other_kinds_of_lines_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "a.rttm"
    file.write_text(
        ";; made by hand\n\nSPKR-INFO a 1 <NA> <NA> <NA> unknown ann <NA>\nSPEAKER a 1 0.5 1 <NA> <NA> ann <NA>\n"
    )
    assert read_turns(file) == [Turn("a", 0.5, 1.5, "ann")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("SPEAKER a 1 zero 1 <NA> <NA> ann", r"a\.rttm, line 1: 'SPEAKER a 1 zero"),
        ("SPEAKER a 1 0 1 <NA>", "is no SPEAKER line"),
        ("SPEAKER a 1 0 -1 <NA> <NA> ann", "is no SPEAKER line"),
        ("SPEAKER a 1 nan 1 <NA> <NA> ann", "is no SPEAKER line"),
        ("SPEAKER a 1 0 inf <NA> <NA> ann", "is no SPEAKER line"),
        ("", r"a\.rttm has no SPEAKER line"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.rttm").write_text(content)
    with pytest.raises(ValueError, match=said):
        read_turns(tmp_path / "a.rttm")
