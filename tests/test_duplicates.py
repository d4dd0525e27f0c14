"""A copy is found at another offset, gain, sign, SNR, band and rate; what is merely alike is not."""

import os
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import scipy.signal
import soxr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.functional import coherence
from tasks.functional.candidates import patches_of
from tasks.functional.coherence import compress, confirm, correlate, fft_size, whiten
from tasks.functional.duplicates import FAMILY_WISE, expected, find_duplicates, least_score, search
from tasks.functional.leakage import find_duplicates as as_the_design_names_it
from tasks.functional.residuals import excess_db
from tests.bench.bench_duplicates import generated
from tests.bench.plant_copies import RATE, copy_of, read_originals

Wave = NDArray[np.floating]


def pairs(a: list[Wave], b: list[Wave], rate: int = RATE) -> list[tuple[int, int]]:
    table = find_duplicates(a, b, sample_rate=rate)
    assert table.columns.tolist() == ["a", "b", "score", "lag_s"]
    assert table["score"].is_monotonic_decreasing
    return sorted(table[["a", "b"]].itertuples(index=False, name=None))


def white(n: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def tone(hz: float, n: int = RATE, turn: float = 0.0) -> Wave:
    return np.sin(2 * np.pi * hz * np.arange(n) / RATE + turn)


# --- copies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "snr_db", "band"),
    [(0.5, None, "full"), (0.5, 10, "full"), (0.5, 0, "full"), (0.2, 10, "full"), (0.5, 10, "phone")],
)
def test_disguised_copies_are_found_with_their_lag_and_nothing_else_is(seconds, snr_db, band):
    originals = generated(24, 0.75, seed=1)
    rng = np.random.default_rng(2)
    order = rng.permutation(24)
    copies = [copy_of(originals[k], rng, seconds=seconds, snr_db=snr_db, band=band) for k in order]
    table = find_duplicates(originals, [copy.samples for copy in copies], sample_rate=RATE)
    assert len(table) >= 23
    assert (table["a"] == order[table["b"]]).all()
    lags = np.array([copies[b].lag_s for b in table["b"]])
    np.testing.assert_allclose(table["lag_s"], lags, atol=0.002)  # a filter delays what passes it


def test_plain_correlation_would_miss_what_is_found():
    """Under a loud hum of other phases plain correlation sees the hum; the copy beneath it is found all the same."""
    sound = generated(1, 1.0, seed=3)[0]
    a, b = sound + 3 * tone(100), sound[3_000:15_000] + 3 * tone(100, 12_000, 2.0)
    plain = scipy.signal.fftconvolve(a, b[::-1], mode="valid")
    assert abs(int(np.abs(plain).argmax()) - 3_000) > 10
    table = find_duplicates([a], [b], sample_rate=RATE)
    assert table["lag_s"].tolist() == [3_000 / RATE]


def test_a_copy_of_200_ms_through_a_telephone_stands_out_and_others_do_not():
    sounds, rng = generated(8, 0.3, seed=41), np.random.default_rng(22)
    copies = [copy_of(sound, rng, seconds=0.2, snr_db=10, band="phone") for sound in sounds]
    heard = [one.samples + 0.05 * one.samples.std() * rng.standard_normal(one.samples.size) for one in copies]
    lags = [round(one.lag_s * RATE) for one in copies]

    def scores(others: list[Wave]) -> list[float]:
        return [confirm(*pair)[0] for pair in zip(others, heard, lags, strict=True)]

    judged_from = least_score(1e9)  # in a search of some hundred clips
    assert min(scores(sounds)) > judged_from
    assert max(scores(sounds[1:] + sounds[:1])) < 0.8 * judged_from


def test_what_is_alike_in_one_band_alone_is_no_copy(monkeypatch):
    """As voices of one pitch are, and hum: that band alone would call it a copy."""
    rng = np.random.default_rng(0)
    low, *high = (rng.standard_normal(8_000) for _ in range(3))
    edges = {kind: scipy.signal.butter(6, 500, kind, fs=RATE, output="sos") for kind in ("lowpass", "highpass")}
    shared = scipy.signal.sosfiltfilt(edges["lowpass"], low)
    a, b = (shared + scipy.signal.sosfiltfilt(edges["highpass"], noise) for noise in high)
    assert confirm(a, b, 0)[0] < least_score(1e9)
    monkeypatch.setattr(coherence, "WHOLE", coherence.Look((80.0, 2_000.0)))
    monkeypatch.setattr(coherence, "OTHER_LOOKS", ())
    assert confirm(a, b, 0)[0] > least_score(1e9)


def test_b_at_t_is_a_at_t_plus_lag():
    sound = white(16_000, 0)
    inside = find_duplicates([sound], [sound[4_000:12_000]], sample_rate=RATE)
    around = find_duplicates([sound[4_000:12_000]], [sound], sample_rate=RATE)
    assert inside["lag_s"].tolist() == [0.25]
    assert around["lag_s"].tolist() == [-0.25]


@pytest.mark.parametrize(
    "change", [lambda x: x, lambda x: -x, lambda x: x + 5, lambda x: 1e-3 * x, lambda x: (3_000 * x).astype(np.int16)]
)
def test_an_exact_copy_is_found_whatever_its_sign_offset_gain_and_type(change):
    sound = white(8_000, 1)
    table = find_duplicates([white(8_000, 2), sound], [change(sound)], sample_rate=RATE)
    assert table[["a", "b", "lag_s"]].to_numpy().tolist() == [[1, 0, 0]]


def test_zeros_around_a_copy_do_not_move_its_lag():
    sound = white(16_000, 3)
    padded = np.concatenate([np.zeros(3_000), sound[2_000:9_000], np.zeros(100)])
    assert find_duplicates([sound], [padded], sample_rate=RATE)["lag_s"].tolist() == [-1_000 / RATE]


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_sample_rates_are_searched_as_well(rate):
    sound = soxr.resample(white(16_000, 4), RATE, rate)
    part = sound[int(0.3 * rate) : int(0.8 * rate)]
    noisy = part + 0.3 * part.std() * white(len(part), 5)
    table = find_duplicates([white(rate, 6), sound], [noisy], sample_rate=rate)
    assert table[["a", "b"]].to_numpy().tolist() == [[1, 0]]
    assert table["lag_s"].item() == pytest.approx(0.3, abs=0.001)


def test_a_copy_out_of_the_middle_of_a_long_recording_is_found():
    sound = white(10 * RATE, 7)
    table = find_duplicates([white(3 * RATE, 8), sound], [sound[70_000:86_000]], sample_rate=RATE)
    assert table[["a", "lag_s"]].to_numpy().tolist() == [[1, 70_000 / RATE]]


def test_two_clips_with_the_same_noise_recording_share_a_recording():
    noise = white(RATE, 9)
    assert pairs([white(RATE, 10) + noise], [white(RATE, 11) + noise]) == [(0, 0)]


def test_among_too_many_pairs_to_compare_all_the_likest_spectrograms_lead_to_the_copies():
    originals, others = generated(120, 0.5, seed=12), generated(120, 0.5, seed=13)
    rng = np.random.default_rng(14)
    copies = [copy_of(originals[k], rng, seconds=0.4, snr_db=5).samples for k in range(0, 120, 10)]
    part = [0] * 120 + [1] * (len(copies) + 120)
    found = search([*originals, *copies, *others], part, sample_rate=RATE, most_pairs=2_000)
    assert found.compared < 5_000 < 120 * 132
    assert set(zip(found.table["a"], found.table["b"] - 120, strict=True)) == {(10 * k, k) for k in range(12)}


def test_pairs_within_one_part_are_not_looked_at():
    sound = white(8_000, 15)
    audio = [sound, sound[1_000:7_000], white(8_000, 16), sound[2_000:]]
    found = search(audio, [0, 0, 1, 2], sample_rate=RATE).table
    assert sorted(zip(found["a"], found["b"], strict=True)) == [(0, 3), (1, 3)]


# --- what is merely alike ----------------------------------------------------------------------------------------


def beeps(period: int, offset: int) -> Wave:
    on = (np.arange(RATE) + offset) // period % 2 == 0
    return np.where(on, tone(2_000, turn=offset), 0) + 0.003 * white(RATE, offset)


def clicks(period: int, offset: int) -> Wave:
    return (np.arange(RATE) % period == offset) + 0.001 * white(RATE, offset)


ALIKE = {
    "tones of one frequency": (tone(440), tone(440, turn=1)),
    "tones, quantised": (np.round(30_000 * tone(440)), np.round(20_000 * tone(440, turn=1))),
    "harmonics of one pitch": tuple(
        sum(tone(200 * k, turn=k * turn) / k for k in range(1, 10)) + 0.03 * white(RATE, int(turn)) for turn in (0, 1)
    ),
    "mains hum in noise": tuple(
        sum(tone(50 * k, turn=k * turn) for k in range(1, 9)) + white(RATE, 50 + turn) for turn in (0, 1)
    ),
    "alarms that beep alike": (beeps(1_600, 0), beeps(1_500, 402)),
    "clicks at one pace": (clicks(1_600, 3), clicks(1_600, 900)),
    "noise, backwards": (white(RATE, 1), white(RATE, 1)[::-1]),
    "a constant": (np.ones(RATE), white(RATE, 2)),
}  # fmt: skip


@pytest.mark.parametrize("what", ALIKE)
def test_what_is_merely_alike_is_no_copy(what):
    a, b = ALIKE[what]
    assert pairs([a], [b]) == []


def test_recordings_that_have_nothing_to_do_with_each_other_are_not_flagged():
    found = search([*generated(60, 0.5, seed=20), *generated(60, 0.5, seed=21)], [0] * 60 + [1] * 60, sample_rate=RATE)
    assert found.compared == 3_600
    assert found.table.empty


def takes(apart: float) -> tuple[Wave, Wave]:
    """Half a second of a vowel said twice in one falling pitch: partials that waver each on its own, by `apart` radians
    from take to take, over faint breath."""
    n = RATE // 2
    common = (
        np.cumsum(np.linspace(150, 110, n) + np.interp(np.arange(n), np.linspace(0, n, 40), 8 * white(40, 1))) / RATE
    )
    takes = []
    for seed in (2, 3):
        rng = np.random.default_rng(seed)
        slow = [np.interp(np.linspace(0, 12, n), np.arange(13), rng.standard_normal(13)) for _ in range(30)]
        partials = [np.sin(2 * np.pi * k * common + k + apart * slow[k - 1]) / k**0.5 for k in range(1, 31)]
        takes.append(np.sum(partials, axis=0) + 0.01 * rng.standard_normal(n))
    return takes[0], takes[1]


def test_a_copy_differs_by_noise_and_a_second_take_by_the_sound_itself():
    first, second = takes(0.7)
    noise = white(len(first), 3) * np.sqrt(np.mean(first**2))
    for snr_db in (20, 10, 0):
        assert excess_db(first, first + noise * 10 ** (-snr_db / 20)) < 3.5
    assert excess_db(first, second) > 7


def test_a_second_take_that_correlates_as_well_as_a_copy_is_no_copy():
    first, second = takes(1.1)
    noisy = first + 2.5 * white(len(first), 4) * np.sqrt(np.mean(first**2))
    plain = [abs(np.corrcoef(first, other)[0, 1]) for other in (second, noisy)]
    assert plain[0] > plain[1] > 0.3
    assert confirm(first, noisy, 0)[0] > 10
    assert pairs([first], [noisy]) == [(0, 0)]
    assert pairs([first], [second]) == []


# --- chance ------------------------------------------------------------------------------------------------------


@given(st.floats(1e8, 1e14))
def test_at_the_least_score_chance_brings_as_many_pairs_as_it_may(lags):
    assert expected(least_score(lags), lags) == pytest.approx(FAMILY_WISE, rel=1e-6)
    assert least_score(10 * lags) > least_score(lags) > least_score(1e5) > 0


def test_heights_over_noise_are_those_of_normal_deviates():
    """The highest of 900 pairs at some 5,000 lags each lies where that of normal deviates would, 19 times of 20."""
    signals = [compress(whiten(white(4_000, k))) for k in range(60)]
    pairs_of = np.array([(i, j) for i in range(30) for j in range(30, 60)])
    highest = correlate(signals, pairs_of, fft_size(4_000, 4_000)).height.max()
    low, high = (-NormalDist().inv_cdf(share / 2 / (900 * 5_000)) for share in (3.5, 0.02))
    assert low < highest < high


def test_whitening_leaves_every_band_alike_and_bounds_the_samples():
    coloured = scipy.signal.lfilter([1], [1, -0.97], white(RATE, 30))
    flat = whiten(coloured)
    power = np.abs(np.fft.rfft(flat)) ** 2
    bands = [power[low : low + 1_000].mean() for low in range(500, 7_500, 1_000)]
    assert max(bands) / min(bands) < 1.3
    assert np.abs(flat).max() <= 6
    assert not whiten(np.zeros(1_000)).any()


@given(st.integers(320, 32_000), st.integers(320, 32_000))
def test_a_transform_is_long_enough_for_the_overlaps_that_stand_alone(n_a, n_b):
    assert fft_size(n_a, n_b) >= max(n_a, n_b) + min(n_a, n_b) // 4
    assert 1 <= patches_of(1 + n_a // 320) <= 5


# --- input -------------------------------------------------------------------------------------------------------


def test_silent_and_very_short_clips_are_named_as_not_searched():
    found = search([np.zeros(800), white(800, 1), np.zeros(0), white(200, 2)], [0, 0, 1, 1], sample_rate=RATE)
    assert found.unsearchable == [0, 2, 3]
    assert found.table.empty


def test_empty_lists_have_no_copies():
    assert pairs([], []) == []
    assert pairs([white(800, 1)], []) == []


@pytest.mark.parametrize("bad", [np.zeros((10, 2)), np.array([0.0, np.nan]), np.array([np.inf, 1.0])])
def test_what_is_no_waveform_is_refused(bad):
    with pytest.raises(ValueError, match=r"waveform 1 has shape .*one channel of finite values"):
        find_duplicates([white(800, 1)], [bad], sample_rate=RATE)


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(ValueError, match="sample_rate is 0"):
        find_duplicates([white(800, 1)], [white(800, 1)], sample_rate=0)


def test_the_inputs_are_left_as_they_were():
    a, b = white(8_000, 1), white(8_000, 2)
    before = a.copy(), b.copy()
    assert as_the_design_names_it([a], [b], sample_rate=RATE).empty
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])


# --- real recordings ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus() -> Path:
    if not (place := os.environ.get("EARSHOT_CORPUS")):
        pytest.skip("EARSHOT_CORPUS is not set: there are no real recordings to search")
    return Path(place)


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("seconds", "snr_db", "band", "least"),
    [(0.5, 10, "full", 0.95), (0.5, 0, "full", 0.9), (0.2, 10, "full", 0.9), (0.5, 10, "phone", 0.85)],
)
def test_copies_of_real_recordings_are_found(corpus, seconds, snr_db, band, least):
    originals = read_originals(corpus, seconds=0.75, per_file=1, seed=5, roles=("speech", "nonspeech"))[:120]
    rng = np.random.default_rng(6)
    copies = [copy_of(one.samples, rng, seconds=seconds, snr_db=snr_db, band=band).samples for one in originals]
    table = find_duplicates([one.samples for one in originals], copies, sample_rate=RATE)
    assert (table["a"] == table["b"]).sum() >= least * 120


@pytest.mark.corpus
@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.3])
def test_takes_of_one_word_by_one_speaker_are_no_copies(corpus, seconds):
    digits = read_originals(corpus, seconds=seconds, per_file=3, seed=7, roles=("speech",))
    digits = [one for one in digits if "fsdd" in one.file]
    assert len(digits) > 100
    first = [one.samples for one in digits if one.file.endswith(("_0.flac", "_1.flac"))]
    second = [one.samples for one in digits if not one.file.endswith(("_0.flac", "_1.flac"))]
    assert len(find_duplicates(first, second, sample_rate=RATE)) <= 0.001 * len(digits)


@pytest.mark.corpus
def test_other_utterances_and_other_sounds_are_no_copies(corpus):
    clips = read_originals(corpus, seconds=0.5, per_file=2, seed=8, roles=("speech", "nonspeech"))
    files = sorted({one.file for one in clips})
    side = {file: k % 2 for k, file in enumerate(files)}
    groups = [[one.samples for one in clips if side[one.file] == half] for half in (0, 1)]
    table = find_duplicates(*groups, sample_rate=RATE)
    names = [[one for one in clips if side[one.file] == half] for half in (0, 1)]
    fire = {"2-30322", "2-28314"}  # one fire under two Freesound numbers
    wrong = [
        (names[0][a].file, names[1][b].file)
        for a, b in zip(table["a"], table["b"], strict=True)
        if not all(any(known in one.file for known in fire) for one in (names[0][a], names[1][b]))
    ]
    assert len(wrong) <= 0.001 * len(clips), wrong
