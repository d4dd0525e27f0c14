"""Level, activity, crops, ramps, rooms and padding against hand-made and scipy references."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from tasks.functional import audio


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n)


def bursts(*levels_db: float, each: int = 1_600) -> np.ndarray:
    """100 ms of noise at each level; -inf is digital silence."""
    return np.concatenate([noise(each, k) * 10 ** (level / 20) for k, level in enumerate(levels_db)])


def test_rms_of_a_sine_is_its_amplitude_over_the_root_of_two() -> None:
    assert audio.rms(0.5 * np.sin(2 * np.pi * np.arange(16_000) / 16)) == pytest.approx(0.5 / np.sqrt(2))
    assert audio.rms(np.full(4, 300, np.int16)) == pytest.approx(300)  # squares do not overflow
    with pytest.raises(ValueError, match="no samples"):
        audio.rms(np.zeros(0))


def test_activity_is_what_lies_within_25_db_of_the_loud_level() -> None:
    active = audio.activity(bursts(0, -15, -35, -np.inf))
    assert active.tolist() == [True] * 20 + [False] * 20


def test_a_click_does_not_make_the_rest_inactive() -> None:
    samples = bursts(*[-40] * 20)
    samples[16_000] = 1_000
    assert audio.activity(samples).mean() > 0.99


def test_a_partial_last_frame_counts_by_its_own_samples() -> None:
    assert audio.activity(np.ones(250)).tolist() == [True, True]
    assert audio.activity(np.zeros(250)).tolist() == [False, False]
    assert audio.activity(np.zeros(0)).size == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, -10, -50, -np.inf]), min_size=1, max_size=8),
    st.integers(1, 3_000),
    st.integers(0, 99),
)
def test_crops_lie_inside_and_are_as_active_as_asked(levels: list[float], n: int, seed: int) -> None:
    samples = bursts(*levels, each=800)
    if n > samples.size or not samples.any():
        with pytest.raises(ValueError, match=r"cannot cut|silent"):
            audio.choose_crop(samples, n, seed)
        return
    active = audio.activity(samples)

    def share(start: int) -> float:  # frames that the crop touches, counted one by one
        return float(np.mean([active[k] for k in range(active.size) if k * 160 < start + n and (k + 1) * 160 > start]))

    start = audio.choose_crop(samples, n, seed)
    best = max(share(s) for s in range(0, samples.size - n + 1, 160))
    assert 0 <= start <= samples.size - n
    assert share(start) >= min(0.7, 0.9 * best) - 1e-9
    assert samples[start : start + n].any()


def test_random_crops_hit_silence_and_chosen_ones_do_not() -> None:
    """The failure: one bark in a second of zeros."""
    samples = bursts(-np.inf, -np.inf, 0, -np.inf, -np.inf, -np.inf)
    assert not samples[:1_600].any()
    starts = {audio.choose_crop(samples, 1_600, seed) for seed in range(50)}
    assert starts <= set(range(2_560, 3_841, 160))
    assert len(starts) > 2
    assert audio.choose_crop(samples, 8_000, 0) <= 3_200  # longer than the bark: the best there is


def test_ramps_are_half_cosines_of_two_milliseconds() -> None:
    shaped = audio.ramp(np.ones(160))
    assert (shaped[32:-32] == 1).all()
    np.testing.assert_allclose(shaped[:32], np.sin(np.pi / 2 * (np.arange(32) + 0.5) / 32) ** 2)
    np.testing.assert_allclose(shaped, shaped[::-1])
    with pytest.raises(ValueError, match="no room for two ramps"):
        audio.ramp(np.ones(63))


def test_a_ramp_lowers_the_splatter_of_a_cut_tone() -> None:
    tone = np.cos(2 * np.pi * 1_000 * np.arange(1_610) / 16_000)

    def splatter_db(samples: np.ndarray) -> float:
        spectrum = np.abs(np.fft.rfft(samples, 16_000)) ** 2
        return float(10 * np.log10(spectrum[4_000:].max() / spectrum.max()))

    assert splatter_db(audio.ramp(tone)) < splatter_db(tone) - 30


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-4, 1e4), st.integers(0, 99))
def test_peaks_are_normalised_to_0_637(gain: float, seed: int) -> None:
    assert np.abs(audio.normalise(noise(500, seed) * gain)).max() == pytest.approx(0.637, abs=5e-4)


def test_rms_is_normalised_unless_that_would_clip() -> None:
    assert audio.rms(audio.normalise(noise(4_000), "rms")) == pytest.approx(0.1)
    assert np.abs(audio.normalise(np.eye(1, 4_000)[0], "rms")).max() == pytest.approx(1)
    with pytest.raises(ValueError, match="silence"):
        audio.normalise(np.zeros(10))


@given(st.integers(1, 50), st.integers(0, 50))
def test_a_clip_stands_in_the_middle_of_its_context(n: int, more: int) -> None:
    clip = np.ones(n)
    whole = audio.embed(clip, n + more)
    before, after = np.flatnonzero(whole)[0], n + more - 1 - np.flatnonzero(whole)[-1]
    assert whole.sum() == n
    assert 0 <= after - before <= 1
    assert (audio.embed(clip, n + more, np.full(n + more, 2.0)) == np.where(whole, 1, 2)).all()


def test_a_context_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        audio.embed(np.ones(5), 4)
    with pytest.raises(ValueError, match="background has 4"):
        audio.embed(np.ones(3), 5, np.ones(4))


@pytest.mark.parametrize("rt60_s", [0.15, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_decay_curve_has_the_asked_t60(rt60_s: float, seed: int) -> None:
    """Schroeder's backward integration, a line through -5 to -35 dB (T30 of ISO 3382)."""
    rir = audio.exponential_rir(rt60_s, seed=seed)
    decay_db = 10 * np.log10(np.cumsum(rir[::-1] ** 2)[::-1])
    fitted = np.flatnonzero((decay_db < -5) & (decay_db > -35))
    slope = np.polyfit(fitted / 16_000, decay_db[fitted], 1)[0]
    assert -60 / slope == pytest.approx(rt60_s, rel=0.002)
    assert np.sum(rir**2) == pytest.approx(1)
    with pytest.raises(ValueError, match="rt60_s is 0"):
        audio.exponential_rir(0, seed=0)


def test_a_room_neither_delays_nor_lengthens() -> None:
    samples = noise(3_000)
    direct = np.concatenate([np.zeros(112), [-3.0], np.zeros(50)])  # 7 ms of travel, an odd gain
    np.testing.assert_allclose(audio.reverb(samples, direct), -samples, atol=1e-12)
    with pytest.raises(ValueError, match="silent"):
        audio.reverb(samples, np.zeros(100))


def test_reverb_is_convolution_and_keeps_the_level_of_noise() -> None:
    samples, rir = noise(48_000), audio.exponential_rir(0.3, seed=1)
    wet = audio.reverb(samples, rir)
    assert wet.shape == samples.shape
    np.testing.assert_allclose(wet, signal.oaconvolve(samples, rir)[: samples.size], atol=1e-9)
    assert audio.rms(wet[8_000:]) == pytest.approx(audio.rms(samples), rel=0.05)


# --- bands -------------------------------------------------------------------------------------------------------


def tone_level_db(band: str, hz: float) -> float:
    """Level of a tone behind a band, relative to the tone."""
    tone = np.sin(2 * np.pi * hz * np.arange(16_000) / 16_000)
    return float(20 * np.log10(audio.rms(audio.band_limit(tone, band)[4_000:-4_000]) / audio.rms(tone)))


@pytest.mark.parametrize(
    ("band", "corners"), [(band, corners) for band, corners in audio.BANDS.items() if any(corners)]
)
def test_a_band_has_6_db_less_at_its_corners_and_keeps_its_middle(
    band: str, corners: tuple[float | None, ...]
) -> None:
    for corner in filter(None, corners):
        assert tone_level_db(band, corner) == pytest.approx(-6, abs=0.3)
    assert tone_level_db(band, 1_000) == pytest.approx(0, abs=0.1)
    low, high = corners
    assert low is None or tone_level_db(band, low / 3) < -40
    assert high is None or tone_level_db(band, min(2 * high, 7_500)) < -40


def test_a_band_delays_nothing() -> None:
    click = np.zeros(4_000)
    click[2_000] = 1
    for band in audio.BANDS:
        assert int(np.argmax(np.abs(audio.band_limit(click, band)))) == 2_000, band


def test_an_unknown_band_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="band 'radio' is none of clean, phone, am_radio, lowpass, highpass"):
        audio.band_limit(np.ones(100), "radio")
