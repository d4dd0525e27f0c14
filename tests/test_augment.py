"""Masks fall on valid frames and stay within their strengths; noise has the SNR it was drawn at."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.functional.audio import rms
from tasks.functional.augment import add_noise, spec_augment

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
    noisy = add_noise(clip, snr_db, colour=colour, seed=3)
    gain = np.abs(noisy).max()
    assert gain == pytest.approx(np.abs(clip).max(), rel=1e-5)
    scale = np.dot(noisy, clip) / np.dot(clip, clip)
    rest = noisy - scale * clip
    assert 20 * np.log10(rms(scale * clip) / rms(rest)) == pytest.approx(snr_db, abs=1.0)


def test_pink_noise_falls_with_frequency():
    clip = np.full(16_000, 1e-4, dtype=np.float32)
    spectrum = np.abs(np.fft.rfft(add_noise(clip, -40, colour="pink", seed=1)))
    assert spectrum[100:1000].mean() > 2 * spectrum[4000:].mean()


@pytest.mark.parametrize(("valid", "bins"), [(0, 10), (61, 10), (60, 129)])
def test_what_cannot_be_masked_is_refused(valid, bins):
    with pytest.raises(ValueError, match="are to be masked in features of 128 x 60"):
        spec_augment(FEATURES, valid, time_share=0.1, mel_bins=bins, seed=0)
