"""What training clips go through anew in every epoch: masks over their features, noise over their waveforms."""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.functional.mixing import mix


def spec_augment(
    features: NDArray[np.float32],
    valid: int,
    *,
    time_share: float,
    mel_bins: int,
    time_masks: int = 1,
    mel_masks: int = 1,
    seed: int | list[int],
) -> NDArray[np.float32]:
    """Log-mel `features` (bins, frames) with stretches of time and bands of bins set to the clip's mean (Park et al. 2019).

    Only the first `valid` frames are touched: over a 500 ms clip padded to 30 s a mask would fall on the clip 4 % of the
    time. A stretch is 0 to `time_share` of the valid frames long, a band 0 to `mel_bins` wide, both drawn evenly. Raises
    ValueError where a band could be wider than the features or more frames are valid than there are.
    """
    bins, frames = features.shape
    if mel_bins > bins or not 0 < valid <= frames:
        raise ValueError(f"{mel_bins} bins and {valid} frames are to be masked in features of {bins} x {frames}")
    draw = np.random.default_rng(seed)
    masked = features.copy()
    mean = features[:, :valid].mean()
    for _ in range(time_masks):
        length = int(draw.integers(0, math.floor(time_share * valid) + 1))
        start = int(draw.integers(0, valid - length + 1))
        masked[:, start : start + length] = mean
    for _ in range(mel_masks):
        width = int(draw.integers(0, mel_bins + 1))
        lowest = int(draw.integers(0, bins - width + 1))
        masked[lowest : lowest + width, :valid] = mean
    return masked


def add_noise(samples: NDArray[np.float32], noise: NDArray[np.floating[Any]], snr_db: float) -> NDArray[np.float32]:
    """A waveform with noise of its length added at an exact SNR (see `mix`), at the peak it had before.

    Raises ValueError where one of the two is silent.
    """
    mixed = mix(samples.astype(np.float64), noise, snr_db).samples
    louder: NDArray[np.float64] = mixed * (np.abs(samples).max() / np.abs(mixed).max())
    return louder.astype(np.float32)


def gaussian_noise(
    n: int, *, colour: Literal["white", "pink"] = "white", seed: int | list[int]
) -> NDArray[np.float64]:
    """(n,) Gaussian noise; pink noise falls by 3 dB an octave."""
    noise = np.random.default_rng(seed).standard_normal(n)
    if colour == "pink":
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(spectrum.size), 1)), n)
    return noise


def stretch_of(recording: NDArray[np.float32], n: int, *, seed: int | list[int]) -> NDArray[np.float32]:
    """(n,) samples of a recording from a drawn place on, never all silent; one that is shorter begins again.

    Raises ValueError where the recording is silent.
    """
    sounding = np.flatnonzero(recording)
    if not sounding.size:
        raise ValueError("the recording is silent: it is no noise")
    start = int(np.random.default_rng(seed).choice(sounding))
    if recording.size >= n:
        start = min(start, recording.size - n)  # what was drawn is still inside
    return np.take(recording, np.arange(start, start + n), mode="wrap")
