"""Cues are single numbers with a textbook value; none of them is a guess for silence or a very short clip."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.detectors import Labelled
from tasks.detectors.six_cues import SixCues
from tasks.functional.cues import CUES, cues, level_db

SINE = np.sin(2 * np.pi * 1000 * np.arange(1600) / 16_000).astype(np.float32)


def named(samples: np.ndarray) -> dict[str, float]:
    return dict(zip(CUES, cues(samples.astype(np.float32)).tolist(), strict=True))


@pytest.mark.parametrize(("amplitude", "expected_db"), [(1.0, -3.0103), (0.5, -9.0309), (0.05, -29.0309)])
def test_the_level_of_a_sine_is_its_textbook_value(amplitude, expected_db):
    assert level_db(amplitude * SINE) == pytest.approx(expected_db, abs=1e-3)


def test_the_level_of_silence_is_a_number():
    assert level_db(np.zeros(160, np.float32)) == pytest.approx(-120)


def test_the_cues_of_a_sine_are_those_of_a_sine():
    found = named(0.5 * SINE)
    assert found["peak_db"] == pytest.approx(-6.0206, abs=1e-3)
    assert found["crest_db"] == pytest.approx(3.0103, abs=1e-3)
    assert found["centroid_hz"] == pytest.approx(1000, abs=1)
    assert found["bandwidth_hz"] < 20
    assert found["level_db"] == level_db(0.5 * SINE)


def test_the_share_of_zeros_counts_exact_ones_only():
    samples = np.array([0, 1e-9, 0, -0.5, 0, 0.5, 0.1, 0.2])
    assert named(samples)["zero_share"] == 3 / 8


@pytest.mark.parametrize("n", [161, 400, 16_000])
def test_centroid_and_bandwidth_are_mean_and_deviation_of_the_spectrum(n):
    """As librosa's, of one spectrum of the whole clip; librosa itself takes ten seconds to import."""
    samples = np.random.default_rng(n).normal(0, 0.1, n).cumsum().astype(np.float32)
    magnitude, frequency_hz = np.abs(np.fft.rfft(samples.astype(float))), np.fft.rfftfreq(n, 1 / 16_000)
    centroid_hz = np.average(frequency_hz, weights=magnitude)
    variance = np.average((frequency_hz - centroid_hz) ** 2, weights=magnitude)
    found = named(samples)
    assert (found["centroid_hz"], found["bandwidth_hz"]) == pytest.approx((centroid_hz, np.sqrt(variance)), rel=1e-9)


@pytest.mark.slow
def test_centroid_and_bandwidth_are_those_of_librosa():
    import librosa

    samples = np.random.default_rng(0).normal(0, 0.1, 400).cumsum().astype(np.float32)
    spectrum = {"S": np.abs(np.fft.rfft(samples.astype(float)))[:, None], "freq": np.fft.rfftfreq(400, 1 / 16_000)}
    theirs = librosa.feature.spectral_centroid(**spectrum), librosa.feature.spectral_bandwidth(**spectrum)
    found = named(samples)
    assert (found["centroid_hz"], found["bandwidth_hz"]) == pytest.approx([each.item() for each in theirs], rel=1e-9)


def test_a_gain_moves_level_and_peak_alike_and_nothing_else():
    samples = np.random.default_rng(0).normal(0, 0.1, 500).astype(np.float32)
    loud, soft = cues(samples), cues(samples / 8)
    np.testing.assert_allclose(loud - soft, [18.0618, 18.0618, 0, 0, 0, 0], atol=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=400))
def test_cues_of_any_clip_are_finite_and_within_their_range(samples):
    found = named(np.array(samples))
    assert np.isfinite(list(found.values())).all()
    assert found["crest_db"] >= -1e-6
    assert 0 <= found["centroid_hz"] <= 8000
    assert 0 <= found["bandwidth_hz"] <= 4000 + 1e-6
    assert 0 <= found["zero_share"] <= 1


def test_an_empty_clip_has_no_cues():
    with pytest.raises(ValueError, match="no samples"):
        cues(np.zeros(0, np.float32))


def test_six_cues_find_what_no_single_threshold_on_a_cue_does():
    """The first class lies between two bands of the other: no line through a cue tells them apart, a tree does."""
    random = np.random.default_rng(4)

    def clips(low_hz, high_hz):
        pitches = random.uniform(low_hz, high_hz, 40)
        return [np.sin(2 * np.pi * hz * np.arange(800) / 16_000).astype(np.float32) for hz in pitches]

    between, around = clips(1500, 2500), [*clips(200, 800)[:20], *clips(4000, 6000)[:20]]
    train = Labelled(iter([*between, *around]), np.array([True] * 40 + [False] * 40))
    detector = SixCues()
    detector.fit(train, Labelled(iter([]), np.array([], dtype=bool)))
    assert (detector.score(clips(1600, 2400)) > 0.9).all()
    assert (detector.score([*clips(300, 700), *clips(4200, 5800)]) < 0.1).all()
