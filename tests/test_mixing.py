"""The SNR of a mixture is exact, and a clip is made in the right order."""

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.audio_files import decode_flac, encode_flac
from tasks.functional.audio import BANDS, band_limit, choose_crop, embed, exponential_rir, middle, ramp, reverb
from tasks.functional.mixing import mix, render_clip


def noise(n: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(n)


def power_ratio_db(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(a.astype(float) ** 2) / np.sum(b.astype(float) ** 2)))


@settings(max_examples=60, deadline=None)
@given(st.integers(160, 4_000), st.floats(-40, 80), st.floats(1e-4, 1e3), st.integers(0, 99))
def test_the_snr_of_the_exact_slices_is_exact(n: int, snr_db: float, gain: float, seed: int) -> None:
    content, background = noise(n, seed), gain * noise(n, seed + 100)
    mixture = mix(content, background, snr_db)
    assert mixture.snr_db == pytest.approx(snr_db, abs=1e-9)
    assert power_ratio_db(content, mixture.noise_gain * background) == pytest.approx(snr_db, abs=1e-9)
    np.testing.assert_allclose(mixture.samples, content + mixture.noise_gain * background)


def test_the_rms_of_the_whole_recording_would_miss_by_many_db() -> None:
    """The failure that slicing first guards against: a quiet stretch of a loud recording."""
    recording = np.concatenate([noise(16_000), 0.05 * noise(16_000, 1)])
    quiet, background = recording[-320:], noise(320, 2)
    by_whole = np.sqrt(np.mean(recording**2)) / np.sqrt(np.mean(background**2))
    assert abs(power_ratio_db(quiet, by_whole * background)) > 15
    assert mix(quiet, background, 0).snr_db == pytest.approx(0, abs=1e-9)


def test_int16_moves_the_snr_by_less_than_a_hundredth_of_a_db() -> None:
    clip = render_clip(noise(8_000), n=1_600, crop_seed=1, noise=noise(8_000, 1), snr_db=5, noise_seed=2)
    kept = decode_flac(encode_flac(clip.samples))
    start, noise_start = clip.content_start, clip.noise_start
    assert noise_start is not None
    content = ramp(noise(8_000)[start : start + 1_600])
    background = ramp(noise(8_000, 1)[noise_start : noise_start + 1_600])
    gains, *_ = np.linalg.lstsq(np.column_stack([content, background]), kept, rcond=None)
    assert power_ratio_db(gains[0] * content, gains[1] * background) == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize("silent", ["content", "noise"])
def test_silent_slices_have_no_snr(silent: str) -> None:
    slices = {"content": noise(100), "noise": noise(100), silent: np.zeros(100)}
    with pytest.raises(ValueError, match=f"the {silent} slice is silent"):
        mix(slices["content"], slices["noise"], 0)


def test_slices_of_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="content has 100 samples and noise 101"):
        mix(noise(100), noise(101), 0)


def test_a_clip_without_noise_is_its_ramped_crop_at_the_peak() -> None:
    content = noise(8_000)
    clip = render_clip(content, n=1_600, crop_seed=5)
    expected = ramp(content[clip.content_start :][:1_600])
    np.testing.assert_allclose(clip.samples, expected * 0.637 / np.abs(expected).max(), rtol=2e-3, atol=1e-6)
    assert clip.content_start == choose_crop(content, 1_600, 5)
    assert clip.samples.dtype == np.float32
    assert np.isnan(clip.snr_db)
    assert clip.noise_start is None


@pytest.mark.parametrize("seed", range(4))
def test_cutting_inside_the_room_equals_reverb_of_the_whole_recording(seed: int) -> None:
    content, rir = noise(16_000, seed), exponential_rir(0.3, seed=seed)
    clip = render_clip(content, n=1_600, crop_seed=seed, rir=rir)
    expected = ramp(reverb(content, rir)[clip.content_start :][:1_600])
    np.testing.assert_allclose(clip.samples / 0.637, expected / np.abs(expected).max(), atol=1e-3)
    assert clip.content_start == render_clip(content, n=1_600, crop_seed=seed).content_start


def test_a_silent_context_surrounds_the_clip_and_a_noisy_one_goes_on_at_its_level() -> None:
    content, background = noise(16_000), 3 * noise(16_000, 1)
    how = {"n": 400, "crop_seed": 1, "noise": background, "snr_db": -3.0, "noise_seed": 2, "n_total": 6_400}
    silent = render_clip(content, context="silence", **how).samples  # type: ignore[arg-type]
    assert not silent[:3_000].any()
    assert not silent[3_400:].any()
    noisy = render_clip(content, context="noise", **how)  # type: ignore[arg-type]
    around, inside = np.r_[noisy.samples[100:3_000], noisy.samples[3_400:-100]], noisy.samples[3_050:3_350]
    # at -3 dB, content and noise together hold 1 + 10^-0.3 = 1.5 times the noise alone: 1.76 dB
    assert power_ratio_db(inside / np.sqrt(inside.size), around / np.sqrt(around.size)) == pytest.approx(1.76, abs=1)
    assert noisy.snr_db == pytest.approx(-3)
    assert np.abs(noisy.samples).max() == pytest.approx(0.637, abs=1e-3)


def test_without_added_noise_the_context_is_silent() -> None:
    clip = render_clip(noise(8_000), n=400, crop_seed=1, context="noise", n_total=3_200)
    assert clip.samples.size == 3_200
    assert not clip.samples[:1_400].any()


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValueError, match="noise and snr_db come together"):
        render_clip(noise(8_000), n=400, crop_seed=1, snr_db=3)
    with pytest.raises(ValueError, match="context and n_total come together"):
        render_clip(noise(8_000), n=400, crop_seed=1, n_total=3_200)
    with pytest.raises(ValueError, match="cannot cut 3200 samples out of 2000"):
        render_clip(noise(8_000), n=400, crop_seed=1, noise=noise(2_000), snr_db=0, context="noise", n_total=3_200)
    with pytest.raises(ValueError, match="silent"):
        render_clip(np.zeros(8_000), n=400, crop_seed=1)


# --- bands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("rt60_s", [None, 0.3])
def test_cutting_inside_the_band_equals_filtering_the_whole_recording(band: str, rt60_s: float | None) -> None:
    content = noise(16_000)
    rir = None if rt60_s is None else exponential_rir(rt60_s, seed=1)
    clip = render_clip(content, n=1_600, crop_seed=3, rir=rir, band=band)
    whole = band_limit(content if rir is None else reverb(content, rir), band)
    expected = ramp(whole[clip.content_start :][:1_600])
    np.testing.assert_allclose(clip.samples / 0.637, expected / np.abs(expected).max(), atol=2e-3)


@pytest.mark.parametrize("band", ["phone", "lowpass", "highpass", "am_radio"])
def test_the_snr_is_that_of_both_in_the_band(band: str) -> None:
    how = {"n": 3_200, "crop_seed": 1, "noise_seed": 2, "snr_db": 5.0}
    content, background = hum(16_000), noise(16_000, 1)
    clip = render_clip(content, noise=background, band=band, **how)  # type: ignore[arg-type]
    assert clip.noise_start is not None
    heard = ramp(band_limit(content, band)[clip.content_start :][:3_200])
    added = ramp(band_limit(background, band)[clip.noise_start :][:3_200])
    gains, *_ = np.linalg.lstsq(np.column_stack([heard, added]), clip.samples, rcond=None)
    assert power_ratio_db(gains[0] * heard, gains[1] * added) == pytest.approx(5, abs=0.01)


ROOMS = {rt60_s: exponential_rir(rt60_s, seed=7) for rt60_s in (0.3, 1.0, 2.5)}


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([*BANDS]), st.sampled_from([None, *ROOMS]), st.integers(10, 900), st.floats(-40, 60),
    st.sampled_from([None, "silence", "noise"]), st.integers(0, 99),
)  # fmt: skip
def test_the_snr_in_the_clip_is_the_asked_one_in_every_band_room_and_context(
    band: str,
    rt60_s: float | None,
    duration_ms: int,
    snr_db: float,
    context: Literal["silence", "noise"] | None,
    seed: int,
) -> None:
    """Taken from the finished clip: what of it is the same crop without noise, and what the same stretch of noise."""
    n, n_total = 16 * duration_ms, 16_000
    rir = None if rt60_s is None else ROOMS[rt60_s]
    where: dict[str, Any] = {} if context is None else {"context": context, "n_total": n_total}
    content, background = hum(24_000), noise(24_000, seed)
    how: dict[str, Any] = {"n": n, "crop_seed": seed, "rir": rir, "band": band, **where}
    clip = render_clip(content, noise=background, snr_db=snr_db, noise_seed=seed + 1, **how)
    heard = render_clip(content, **how).samples.astype(float)
    n_noise = n_total if context == "noise" else n
    added = render_clip(background, n=n_noise, crop_seed=seed + 1, band=band).samples.astype(float)
    if context == "silence":
        added = embed(added, n_total)
    gains, rest, *_ = np.linalg.lstsq(np.column_stack([heard, added]), clip.samples, rcond=None)
    assert rest[0] < 1e-9 * np.sum(clip.samples.astype(float) ** 2), "there is nothing else in it"
    slice_ = middle(n, len(heard))
    measured = power_ratio_db(gains[0] * heard[slice_], gains[1] * added[slice_])
    assert measured == pytest.approx(snr_db, abs=0.01)
    assert clip.snr_db == pytest.approx(snr_db, abs=1e-9)


def test_a_band_behind_the_mixture_would_shift_the_snr() -> None:
    """The failure that the order guards against: a hum below 300 Hz counts in full and is then filtered away."""
    content, background = hum(16_000), noise(16_000, 1)
    mixture = mix(content, background, 5)
    after = power_ratio_db(band_limit(content, "phone"), band_limit(mixture.noise_gain * background, "phone"))
    assert abs(after - 5) > 3


def hum(n: int) -> np.ndarray:
    """Noise and a strong tone of 120 Hz."""
    return noise(n) + 0.5 * np.sin(2 * np.pi * 120 * np.arange(n) / 16_000)


def test_conditions_of_one_cut_hear_the_same_event() -> None:
    content = noise(32_000)
    long = render_clip(content, n=16_000, crop_seed=4, cut_from=16_000)
    short = render_clip(content, n=320, crop_seed=4, cut_from=16_000)
    assert short.content_start == long.content_start + (16_000 - 320) // 2
    assert render_clip(content, n=320, crop_seed=4).content_start != short.content_start, "its own crop lies elsewhere"
