"""Waveform arithmetic: level, activity, crops, ramps, bands, rooms and padding of one mono waveform."""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.floating]
Frames = NDArray[np.bool_]  # of 10 ms: active or not

SAMPLE_RATE_HZ = 16_000
FRAME_MS = 10.0
PEAK = 0.9 * 10 ** (-3 / 20)  # 0.9 with 3 dB of headroom = 0.637
RMS = 0.1  # -20 dBFS
ACTIVE_WITHIN_DB = 25.0
MIN_ACTIVE = 0.7  # share of a crop's frames


def n_samples(duration_ms: float, sample_rate_hz: int = SAMPLE_RATE_HZ) -> int:
    """Samples in `duration_ms`, rounded to the nearest one."""
    return round(duration_ms * sample_rate_hz / 1000)


def rms(samples: Waveform) -> float:
    """Root mean square in the unit of `samples`. Raises ValueError on no samples."""
    if samples.size == 0:
        raise ValueError("no samples: the RMS of nothing has no value")
    return math.sqrt(np.add.reduce(np.square(samples, dtype=np.float64)) / samples.size)


def pcm16(samples: Waveform | NDArray[np.int16]) -> NDArray[np.int16]:
    """`samples` in [-1, 1] as 16-bit integers, full scale as 32767; what is 16-bit already stays as it is.

    Raises ValueError where samples are not one-dimensional, not finite or beyond full scale.
    """
    if samples.dtype == np.int16 and samples.ndim == 1:
        return np.asarray(samples, np.int16)
    if samples.ndim != 1 or not np.abs(samples).max(initial=0) <= 1:  # NaN is not <= 1 either
        raise ValueError(
            f"cannot encode samples of shape {samples.shape}: one channel, finite and in [-1, 1], is needed"
        )
    steps = samples * 32_768.0
    return np.minimum(np.rint(steps, out=steps), 32_767).astype(np.int16)


# --- where to cut ------------------------------------------------------------------------------------------------


def activity(samples: Waveform, *, within_db: float = ACTIVE_WITHIN_DB) -> Frames:
    """Which 10 ms frames are active: RMS within `within_db` of the loud level. The last frame may be a partial one.

    The loud level is the 99th percentile of the frames' RMS: a click of one frame does not set it, an event that fills
    more than 1 % of the recording does. Frames of zeros are never active. Shape (n,) -> (ceil(n / 160),).
    """
    frame = n_samples(FRAME_MS)
    starts = np.arange(0, samples.size, frame)
    if starts.size == 0:
        return np.zeros(0, dtype=bool)
    power = np.add.reduceat(np.square(samples, dtype=np.float64), starts)
    power /= np.minimum(frame, samples.size - starts)
    loud = np.quantile(power, 0.99)
    return (power > 0) & (power >= loud * 10 ** (-within_db / 10))


def active_starts(
    samples: Waveform, n: int, *, min_active: float = MIN_ACTIVE, active: Frames | None = None
) -> NDArray[np.intp]:
    """First samples (on the 10 ms grid) of the crops of `n` samples of which at least `min_active` is active.

    Where no crop reaches that share (barks are shorter than a second) it is nine tenths of the best crop's share. The
    rule knows nothing of labels, so that it cannot tell the classes apart. `active` is `activity(samples)` where it is
    known already. Raises ValueError where `samples` are fewer than `n` or nothing but zeros.
    """
    if not 0 < n <= samples.size:
        raise ValueError(f"cannot cut {n} samples out of {samples.size}")
    frame = n_samples(FRAME_MS)
    active = activity(samples) if active is None else active
    starts = np.arange(0, samples.size - n + 1, frame)
    frames = -(-n // frame)  # of a crop
    counted = np.concatenate([[0], np.cumsum(active)])
    share = (counted[frames : frames + starts.size] - counted[: starts.size]) / frames
    if (best := share.max()) == 0:
        raise ValueError(f"no crop of {n} samples holds any sound: the waveform is silent")
    return starts[share >= min(min_active, 0.9 * best)]


def choose_crop(samples: Waveform, n: int, seed: int, starts: NDArray[np.intp] | None = None) -> int:
    """First sample of one active crop of `n` samples, drawn evenly from `starts`, by default `active_starts`."""
    starts = active_starts(samples, n) if starts is None else starts
    return int(starts[np.random.default_rng(seed).integers(starts.size)])


# --- shaping -----------------------------------------------------------------------------------------------------


def ramp(samples: Waveform, ramp_ms: float = 2.0) -> Waveform:
    """`samples` with raised-cosine on- and offset of `ramp_ms` each (2 ms: splatter of a cut -38 -> -70 dB).

    Raises ValueError where two ramps do not fit.
    """
    n = n_samples(ramp_ms)
    if 2 * n > samples.size:
        raise ValueError(f"{samples.size} samples have no room for two ramps of {n}")
    rise = _rise(n)
    shaped = samples.astype(np.float64)
    shaped[:n] *= rise
    shaped[samples.size - n :] *= rise[::-1]
    return shaped


@lru_cache(maxsize=4)
def _rise(n: int) -> NDArray[np.float64]:
    return 0.5 - 0.5 * np.cos(np.pi * (np.arange(n) + 0.5) / n)


def normalise(samples: Waveform, to: Literal["peak", "rms"] = "peak") -> Waveform:
    """`samples` scaled to a peak of 0.637 or to an RMS of 0.1.

    RMS gives way where it would push the peak beyond full scale: nothing is clipped. Raises ValueError on silence.
    """
    peak = float(np.abs(samples).max(initial=0))
    if peak == 0:
        raise ValueError("silence cannot be normalised")
    gain = PEAK / peak if to == "peak" else min(RMS / rms(samples), 1 / peak)
    return samples * gain


def embed(clip: Waveform, n: int, background: Waveform | None = None) -> Waveform:
    """`clip` in the middle of `n` samples of silence, or of `background`, whose middle it replaces.

    Raises ValueError where the clip is longer than `n` or the background is not `n` long.
    """
    if clip.size > n:
        raise ValueError(f"a clip of {clip.size} samples does not fit into {n}")
    if background is not None and background.size != n:
        raise ValueError(f"the background has {background.size} samples instead of {n}")
    if clip.size == n:
        return clip
    whole = np.zeros(n) if background is None else background.astype(np.float64)
    whole[middle(clip.size, n)] = clip
    return whole


def middle(n: int, total: int) -> slice:
    """Where `n` samples lie in the middle of `total`."""
    start = (total - n) // 2
    return slice(start, start + n)


# --- bands -------------------------------------------------------------------------------------------------------

# name -> corners in Hz, None where that side is open; half the amplitude is left at a corner
BANDS: Mapping[str, tuple[float | None, float | None]] = {
    "clean": (None, None),
    "phone": (300.0, 3400.0),
    "am_radio": (100.0, 5000.0),
    "lowpass": (None, 3400.0),
    "highpass": (300.0, None),
}
BAND_MARGIN_MS = 100.0  # what a filter must hear on both sides of a cut: at 100 Hz it has decayed by 60 dB by then


def band_limit(samples: Waveform, band: str) -> NDArray[np.float64]:
    """`samples` at 16 kHz through one of `BANDS`: Butterworth of order 4, forth and back, so without delay (-6 dB).

    Raises ValueError on an unknown band and where there are too few samples for the filter to settle (27).
    """
    if band not in BANDS:
        raise ValueError(f"band {band!r} is none of {', '.join(BANDS)}")
    low, high = BANDS[band]
    if low is None and high is None:
        return samples.astype(np.float64)
    from scipy.signal import sosfiltfilt

    return np.asarray(sosfiltfilt(_sections(low, high), samples.astype(np.float64)))


@lru_cache(maxsize=8)
def _sections(low: float | None, high: float | None) -> NDArray[np.float64]:
    from scipy.signal import butter

    kind = "bandpass" if low and high else "lowpass" if high else "highpass"
    corners = [corner for corner in (low, high) if corner]
    return np.asarray(butter(4, corners if len(corners) == 2 else corners[0], kind, fs=SAMPLE_RATE_HZ, output="sos"))


# --- rooms -------------------------------------------------------------------------------------------------------


def exponential_rir(rt60_s: float, *, sample_rate_hz: int = SAMPLE_RATE_HZ, seed: int) -> NDArray[np.float64]:
    """Impulse response of unit energy that decays by 60 dB in `rt60_s` seconds, cut at -75 dB.

    Polack's model (1988), white noise under an exponential, with random signs for noise: its energy decay curve is the
    exponential itself, so that the T60 is exact in every draw and not only on average. Raises ValueError on rt60_s
    <= 0.
    """
    if not rt60_s > 0:
        raise ValueError(f"rt60_s is {rt60_s:g}, a decay takes more than 0 s")
    n = int(np.ceil(1.25 * rt60_s * sample_rate_hz))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], n)
    rir = signs * 10 ** (-3 * np.arange(n) / (rt60_s * sample_rate_hz))
    return rir / np.sqrt(np.sum(rir**2))  # no BLAS: its threads change the last bit


def aligned(rir: Waveform) -> NDArray[np.float64]:
    """`rir` from its direct sound on (the first sample within 20 dB of the peak), scaled to unit energy.

    Raises ValueError on a silent one.
    """
    magnitude = np.abs(rir)
    if (peak := magnitude.max(initial=0)) == 0:
        raise ValueError("the impulse response is silent")
    direct = rir[int(np.argmax(magnitude >= 0.1 * peak)) :].astype(np.float64)
    return direct / np.sqrt(np.sum(direct**2))


def reverb(samples: Waveform, rir: Waveform) -> NDArray[np.float64]:
    """`samples` in the room of `rir`, of the same length, neither delayed nor (for white sounds) louder.

    The room is first cut to its direct sound and scaled to unit energy; the tail beyond the last sample is dropped.
    """
    from scipy.signal import fftconvolve

    return fftconvolve(samples, aligned(rir))[: samples.size]
