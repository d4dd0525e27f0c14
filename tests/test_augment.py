"""Masks fall on valid frames and stay within their strengths; noise has the SNR it was drawn at."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.functional.audio import rms
from tasks.functional.augment import add_noise, gaussian_noise, spec_augment, stretch_of

FEATURES = np.random.default_rng(0).standard_normal((128, 60)).astype(np.float32)


@given(seed=st.integers(0, 10_000), valid=st.integers(1, 60), share=st.floats(0, 1), bins=st.integers(0, 128))
def test_masks_touch_valid_frames_only_and_no_more_of_them_than_their_strengths(seed, valid, share, bins):
    masked = spec_augment(FEATURES, valid, time_share=share, mel_bins=bins, seed=seed)
    changed = masked != FEATURES
    assert not changed[:, valid:].any()
    whole_frames, whole_bins = changed[:, :valid].all(axis=0).sum(), changed[:, :valid].all(axis=1).sum()
    assert whole_frames <= share * valid or whole_bins == 128
    assert whole_bins <= bins or whole_frames == valid
    assert np.isclose(masked[changed], FEATURES[:, :valid].mean()).all()


def test_a_mask_over_padding_would_miss_a_short_clip():
    """What the valid frames are for: most masks over 3000 frames leave a 500 ms clip as it was."""
    padded = np.pad(FEATURES[:, :50], ((0, 0), (0, 2950)))
    strengths = {"time_share": 0.05, "mel_bins": 0}
    draws = range(200)
    on_clip = sum((spec_augment(padded, 50, **strengths, seed=seed) != padded).any() for seed in draws)
    on_padding = sum((spec_augment(padded, 3000, **strengths, seed=seed) != padded)[:, :50].any() for seed in draws)
    assert on_clip > 5 * on_padding


def test_the_same_seed_draws_the_same():
    strengths = {"time_share": 0.5, "mel_bins": 40}
    one, same, other = (spec_augment(FEATURES, 60, **strengths, seed=seed) for seed in ([1, 2], [1, 2], [1, 3]))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("colour", ["white", "pink"])
@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_noise_is_added_at_its_snr_and_the_peak_stays(colour, snr_db):
    clip = (0.3 * np.sin(np.arange(3200) / 7)).astype(np.float32)
    noise = gaussian_noise(clip.size, colour=colour, seed=3)
    noisy = add_noise(clip, noise, snr_db)
    assert np.abs(noisy).max() == pytest.approx(np.abs(clip).max(), rel=1e-5)
    scale, gain = np.linalg.lstsq(np.stack([clip, noise], axis=1), noisy, rcond=None)[0]
    np.testing.assert_allclose(noisy, scale * clip + gain * noise, atol=1e-6)
    assert 20 * np.log10(rms(scale * clip) / rms(gain * noise)) == pytest.approx(snr_db, abs=1e-3)


def test_pink_noise_falls_with_frequency():
    white, pink = (np.abs(np.fft.rfft(gaussian_noise(16_000, colour=its, seed=1))) for its in ("white", "pink"))
    ratio = [its[100:1000].mean() / its[4000:].mean() for its in (white, pink)]
    assert ratio[0] == pytest.approx(1, abs=0.1)
    assert ratio[1] > 2


@given(size=st.integers(1, 60), n=st.integers(1, 60), seed=st.integers(0, 1000), data=st.data())
def test_a_stretch_of_a_recording_sounds_and_begins_again_only_where_there_is_no_more(size, n, seed, data):
    """Clips have silence around them, and nothing has an SNR against silence."""
    sounding = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    recording = np.zeros(size, dtype=np.float32)
    recording[sorted(sounding)] = 1 + np.arange(size)[sorted(sounding)]
    cut = stretch_of(recording, n, seed=seed)
    assert cut.size == n
    assert cut.any()
    starts = range(size - n + 1) if size >= n else range(size)
    assert any(np.array_equal(cut, np.resize(np.roll(recording, -start), n)) for start in starts)


def test_a_silent_recording_is_no_noise():
    with pytest.raises(ValueError, match="silent"):
        stretch_of(np.zeros(10, dtype=np.float32), 5, seed=0)


@pytest.mark.parametrize(("valid", "bins"), [(0, 10), (61, 10), (60, 129)])
def test_what_cannot_be_masked_is_refused(valid, bins):
    with pytest.raises(ValueError, match="are to be masked in features of 128 x 60"):
        spec_augment(FEATURES, valid, time_share=0.1, mel_bins=bins, seed=0)
