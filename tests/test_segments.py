"""Windows cover a recording, and segments are the stretches of one answer."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.functional.drift import drift
from tasks.functional.segments import rttm_lines, segments, window_starts
from tasks.sources.rttm import read_turns


@given(st.integers(1, 5000), st.integers(1, 500), st.data())
def test_windows_cover_every_sample_and_the_last_one_ends_with_the_recording(n, window, data):
    hop = data.draw(st.integers(1, window))
    starts = window_starts(n, window, hop)
    ends = np.minimum(starts + window, n)
    assert starts[0] == 0
    assert ends[-1] == n
    assert (np.diff(starts) > 0).all()
    assert (starts[1:] <= ends[:-1]).all(), "no gap"
    assert (np.diff(starts)[:-1] == hop).all()
    assert len(starts) == 1 or ((ends - starts) == window).all()


@pytest.mark.parametrize("hop", [0, 11])
def test_a_hop_that_leaves_gaps_is_refused(hop):
    with pytest.raises(ValueError, match=f"a hop of {hop} samples for windows of 10"):
        window_starts(100, 10, hop)


@given(st.integers(1, 40), st.integers(2, 30), st.data())
def test_segments_tile_the_recording_alternate_and_follow_the_mean_of_the_windows(n_windows, window, data):
    hop = data.draw(st.integers(1, window))
    n = window + hop * (n_windows - 1)
    starts = window_starts(n, window, hop)
    p = np.array(data.draw(st.lists(st.floats(0, 1), min_size=len(starts), max_size=len(starts))))
    found = segments(starts, starts + window, p, 0.5)
    assert (found[0].start, found[-1].end) == (0, n)
    assert all(one.end == two.start and one.is_first != two.is_first for one, two in itertools.pairwise(found))
    for moment in range(n):
        mean = p[(starts <= moment) & (moment < starts + window)].mean()
        (its,) = [one for one in found if one.start <= moment < one.end]
        assert its.is_first == (round(mean, 12) >= 0.5)
    overall = sum(its.p_first * (its.end - its.start) for its in found) / n
    assert 0 <= overall <= 1


def test_two_answers_make_two_segments_that_meet_in_the_middle_of_what_both_heard():
    starts = np.array([0, 5])
    first, second = segments(starts, starts + 10, np.array([1.0, 0.0]), 0.6)
    assert first[:3] == (0, 5, True)
    assert second[:3] == (5, 15, False)
    assert (first.p_first, second.p_first) == (1.0, pytest.approx(0.25))


def test_rttm_has_ten_fields_whatever_the_names_and_is_read_back(tmp_path):
    lines = rttm_lines("my talk 1", "LIVE MUSIC", [(0.5, 1.25), (2.0, 2.1)])
    assert lines[0] == "SPEAKER my_talk_1 1 0.500 0.750 <NA> <NA> LIVE_MUSIC <NA> <NA>"
    assert {len(line.split()) for line in lines} == {10}
    (tmp_path / "a.rttm").write_text("\n".join(lines))
    assert read_turns(tmp_path / "a.rttm")[1] == ("my_talk_1", 2.0, 2.1, "LIVE_MUSIC")


# --- drift -------------------------------------------------------------------------------------------------------


def test_answers_like_those_of_the_card_are_no_drift_and_others_are():
    random = np.random.default_rng(1)
    card = random.beta(2, 2, 400)
    assert not drift(random.beta(2, 2, 100), card, 0.5).flagged
    other = drift(random.beta(6, 2, 100), card, 0.5)
    assert other.flagged
    assert other.share_first > other.share_first_of_card
    few = drift([0.99] * 5, card, 0.5)
    assert (few.p_value, few.flagged) == (None, False), "five clips show nothing"


def test_drift_of_nothing_is_refused():
    with pytest.raises(ValueError, match="0 new answers against 2 of the card"):
        drift([], [0.1, 0.2], 0.5)
