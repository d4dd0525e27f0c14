"""Clips from arrays: noise added at an exact SNR, and the order in which a recording becomes a clip."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.functional.audio import (
    BAND_MARGIN_MS,
    Waveform,
    aligned,
    band_limit,
    choose_crop,
    embed,
    middle,
    n_samples,
    normalise,
    ramp,
    reverb,
    rms,
)

Starts = Callable[[int], NDArray[np.intp]]  # samples of a crop -> where such crops may begin


class Mixture(NamedTuple):
    """Content plus scaled noise; `snr_db` is measured on the two slices as they were added."""

    samples: NDArray[np.float64]
    snr_db: float
    noise_gain: float


def mix(content: Waveform, noise: Waveform, snr_db: float) -> Mixture:
    """`content` plus `noise` scaled so that 20 log10(rms(content) / rms(noise)) is `snr_db`.

    Both are the exact slices that are added: the RMS of a whole recording misses by 7.5 dB on average at 20 ms. Raises
    ValueError where their lengths differ or one of them is silent.
    """
    if content.shape != noise.shape:
        raise ValueError(f"content has {content.size} samples and noise {noise.size}: cut them to one length first")
    level, noise_level = rms(content), rms(noise)
    for name, value in (("content", level), ("noise", noise_level)):
        if not value > 0:
            raise ValueError(f"the {name} slice is silent: an SNR has no value")
    gain = level / noise_level * 10 ** (-snr_db / 20)
    scaled = np.multiply(noise, gain, dtype=np.float64)
    return Mixture(np.add(content, scaled, dtype=np.float64), 20 * float(np.log10(level / rms(scaled))), gain)


class RenderedClip(NamedTuple):
    """One waveform as the model gets it (float32, 16 kHz) and how it was cut; without noise `snr_db` is NaN."""

    samples: NDArray[np.float32]
    snr_db: float
    content_start: int
    noise_start: int | None


def render_clip(
    content: Waveform,
    *,
    n: int,
    crop_seed: int,
    noise: Waveform | None = None,
    snr_db: float | None = None,
    noise_seed: int = 0,
    rir: Waveform | None = None,
    band: str = "clean",
    cut_from: int | None = None,
    context: Literal["silence", "noise"] | None = None,
    n_total: int | None = None,
    normalise_to: Literal["peak", "rms"] = "peak",
    starts: Starts | None = None,
    noise_starts: Starts | None = None,
) -> RenderedClip:
    """`n` samples of `content`: reverb -> band -> crop -> ramp -> mix with noise in the same band -> context -> normalise.

    The crop is chosen on the dry content, so that neither room nor band moves it; with `cut_from` it is the middle of
    the crop of `cut_from` samples, so that conditions of other lengths hear the same event. A band limits content and
    noise before the SNR is set: behind the mixture it would shift it. `context` puts the clip into the middle of
    `n_total` samples: of silence, or of the same noise running on at the level it is mixed with; where no noise is
    added (`snr_db` None) the context is silent. `starts` and `noise_starts` give `active_starts` of content and noise
    for a length, where a caller remembers them: many clips are cut from one recording. Raises ValueError where noise
    and SNR do not come together, or the content or the noise is too short or silent.
    """
    if (noise is None) != (snr_db is None):
        raise ValueError("noise and snr_db come together: give both or neither")
    if (context is None) != (n_total is None):
        raise ValueError("context and n_total come together: give both or neither")
    n_total = n if n_total is None else n_total
    around = n if cut_from is None else cut_from
    start = choose_crop(content, around, crop_seed, starts and starts(around)) + middle(n, around).start
    clip = ramp(_shaped(content, start, n, rir, band))
    if noise is None or snr_db is None:
        return RenderedClip(_finish(embed(clip, n_total), normalise_to), float("nan"), start, None)
    n_noise = n_total if context == "noise" else n
    noise_start = choose_crop(noise, n_noise, noise_seed, noise_starts and noise_starts(n_noise))
    background = ramp(_shaped(noise, noise_start, n_noise, None, band))
    mixture = mix(clip, background[middle(n, n_noise)], snr_db)
    whole = embed(mixture.samples, n_total, background * mixture.noise_gain if context == "noise" else None)
    return RenderedClip(_finish(whole, normalise_to), mixture.snr_db, start, noise_start)


def _shaped(waveform: Waveform, start: int, n: int, rir: Waveform | None, band: str) -> Waveform:
    """band(reverb(waveform))[start : start + n], from no more of the waveform than is still heard there."""
    margin = 0 if band == "clean" else n_samples(BAND_MARGIN_MS)
    first, last = max(0, start - margin), min(waveform.size, start + n + margin)
    shaped = waveform[first:last]
    if rir is not None:
        room = aligned(rir)
        shaped = reverb(waveform[max(0, first - room.size) : last], room)[-(last - first) :]
    return band_limit(shaped, band)[start - first : start - first + n]


def _finish(samples: Waveform, normalise_to: Literal["peak", "rms"]) -> NDArray[np.float32]:
    return normalise(samples, normalise_to).astype(np.float32)
