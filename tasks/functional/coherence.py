"""Whether two waveforms hold the same sound: whitened, clipped cross-correlation in units of chance.

Whitening gives every frequency the same say (PHAT; Knapp & Carter 1976), clipping bounds what one moment can say. If
the waveforms have nothing to do with each other, the correlation c(lag) has the variance sum a^2 b^2 over the overlap,
whatever their envelopes: c / sqrt(sum a^2 b^2) is a standard normal deviate at each lag.

Pairs that stand out are looked at in several bands. What a band says is the log-likelihood ratio of its coherence, and
what is judged is the mean over all bands (Carter 1987): strangers are alike in one band, copies in most.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.functional.audio import SAMPLE_RATE_HZ, Waveform, rms
from tasks.functional.residuals import excess_db

BAND_HZ = (80.0, SAMPLE_RATE_HZ / 2)  # under it lie hum and rumble, which are alike everywhere
RESOLUTION_HZ = 20.0
LOUDEST = 0.99  # quantile of the spectrum: a hum of one line is no measure of the rest
FLOOR = 1.5e-2  # of that magnitude: what lies deeper is the codec's or the converter's
CLIP = 6.0  # robust standard deviations
LEVELS = 127 / CLIP  # of int8
BLOCK = 64  # samples over which the overlap's energy counts as constant
SHORTEST_OVERLAP_S = 0.1
SHORTEST_SHARE = 0.75  # of the shorter waveform, where that is less
SIDE_MS, GUARD_MS = 30.0, 1.0  # lags beside a peak that tell how high it is by chance
HIGHEST_SIDE = 3.8  # what the highest of so many normal deviates seldom passes
CLEAR = 15.0  # a peak over the whole band that needs no other
HIGHEST_COHERENCE = 0.999  # that counts, so that an exact copy has a score
ALLOWED_DB, HALVED_DB = 3.5, 2.0  # excess of the difference that copies have; and beyond that, what halves a peak
FFT_SIZES = tuple(BLOCK * n * 2**k for k in range(8) for n in (8, 9, 10, 12))
BATCH = 2**19  # correlation samples in memory at a time

Signal = NDArray[np.int8]


class Look(NamedTuple):
    """One way to correlate two aligned waveforms: the band, and how flat their spectra are made (1: fully)."""

    band_hz: tuple[float, float]
    flatness: float = 1.0


WHOLE = Look(BAND_HZ)
OTHER_LOOKS = (
    Look((300.0, 3400.0)),  # what a telephone has left, without the hum and pitch that voices share
    Look((1500.0, BAND_HZ[1])),  # likewise, and where filters of a telephone's band delay nothing
    Look((80.0, 2000.0)),  # what noise has left of a voice
    Look(BAND_HZ, flatness=0.85),  # the loud partials, which noise hides last, say more
)


def whiten(samples: Waveform, *, resolution_hz: float = RESOLUTION_HZ, look: Look = WHOLE) -> NDArray[np.float32]:
    """`samples` (16 kHz) with a flat spectrum within the look's band and none beside it, in robust standard deviations
    and clipped. Shape (n,)."""
    from scipy.fft import irfft, next_fast_len, rfft
    from scipy.ndimage import uniform_filter1d

    n = next_fast_len(samples.size, real=True)
    spectrum = rfft(samples.astype(np.float32), n)
    spectrum[: round(BAND_HZ[0] * n / SAMPLE_RATE_HZ)] = 0
    power = np.square(spectrum.real, dtype=np.float64) + np.square(spectrum.imag, dtype=np.float64)
    smooth = np.maximum(uniform_filter1d(power, max(3, round(resolution_hz * n / SAMPLE_RATE_HZ))), 0)
    if not (top := np.quantile(smooth, LOUDEST)) > 0:
        return np.zeros(samples.size, np.float32)
    flat = spectrum / ((smooth + FLOOR**2 * top) ** (look.flatness / 2)).astype(np.float32)
    low, high = (round(edge * n / SAMPLE_RATE_HZ) for edge in look.band_hz)
    flat[:low] = flat[high + 1 :] = 0
    white = irfft(flat, n)[: samples.size]
    deviation = np.median(np.abs(white)) / 0.6745 or np.sqrt(np.mean(np.square(white)))
    return np.clip(white / deviation, -CLIP, CLIP)


def compress(white: NDArray[np.float32]) -> Signal:
    """A whitened waveform in a quarter of the memory."""
    return np.rint(white * LEVELS).astype(np.int8)


class Peaks(NamedTuple):
    """The highest correlation of each pair and its lag in samples: b[t] goes with a[t + lag]."""

    height: NDArray[np.float32]
    lag: NDArray[np.intp]


def fft_size(n_a: int, n_b: int) -> int:
    """Points of the transform: of lags at which the waveforms overlap by less than 3/4 two fall together."""
    needed = max(n_a, n_b) + min(n_a, n_b) // 4
    return next(size for size in FFT_SIZES if size >= needed)


def least_overlap(n_a: int, n_b: int) -> float:
    """Samples that two waveforms must share before they are called the same."""
    return min(SHORTEST_OVERLAP_S * SAMPLE_RATE_HZ, SHORTEST_SHARE * min(n_a, n_b))


def correlate(signals: Sequence[Signal], pairs: NDArray[np.intp], n_fft: int) -> Peaks:
    """The peak of each pair (two positions in `signals` a row) over all lags; all of one `fft_size`.

    A pair's heights are divided by their own root mean square over lags where that is above one, as it is for tones.
    """
    from scipy.fft import irfft

    used, at = np.unique(pairs, return_inverse=True)
    spectra, energies = _spectra([signals[k] for k in used], n_fft)
    a, b = at.reshape(pairs.shape).T
    sums = irfft(spectra[a] * spectra.conj()[b], n_fft, overwrite_x=True).reshape(len(pairs), -1, BLOCK)
    energy = irfft(energies[a] * energies[b].conj(), n_fft // BLOCK) / BLOCK
    sizes = np.array([(signals[i].size, signals[j].size) for i, j in pairs])
    counted = energy > np.array([least_overlap(*size) for size in sizes])[:, None] / 2  # deviates are clipped
    energy = np.where(counted, energy, np.inf)
    highest = np.maximum(sums.max(axis=2), -sums.min(axis=2)) / np.sqrt(energy)
    spread = np.einsum("pbk,pbk->pb", sums, sums) / energy
    scale = np.sqrt(np.maximum(1, spread.sum(axis=1) / np.maximum(1, BLOCK * counted.sum(axis=1))))
    block, rows = highest.argmax(axis=1), np.arange(len(pairs))
    lag = block * BLOCK + np.abs(sums[rows, block]).argmax(axis=1)
    return Peaks(highest[rows, block] / scale, _unwrap(lag, sizes, n_fft))


def _spectra(signals: Sequence[Signal], n_fft: int) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """Spectra of waveforms and of their energies in blocks."""
    from scipy.fft import rfft

    padded = np.zeros((len(signals), n_fft), np.float32)
    for row, signal in zip(padded, signals, strict=True):
        row[: signal.size] = signal
    padded /= LEVELS
    energy = np.einsum("pbk,pbk->pb", *[padded.reshape(len(signals), -1, BLOCK)] * 2)
    return rfft(padded), rfft(energy)


def _unwrap(lag: NDArray[np.intp], sizes: NDArray[np.intp], n_fft: int) -> NDArray[np.intp]:
    """Of the two lags that a circular one may be, that at which the waveforms overlap longer."""

    def overlap(lag: NDArray[np.intp]) -> NDArray[np.intp]:
        return np.minimum(sizes[:, 0], sizes[:, 1] + lag) - np.maximum(0, lag)

    return np.where(overlap(lag) >= overlap(lag - n_fft), lag, lag - n_fft)


def confirm(a: Waveform, b: Waveform, lag: int) -> tuple[float, int]:
    """How far the peak at `lag` stands out if only the overlap is looked at, and its exact lag.

    The root mean square over several ways of looking at it (WHOLE, OTHER_LOOKS), in standard deviations. It is lowered
    where the two differ most where they are loudest: by half at 5.5 dB (a word said twice). 0.0 where the overlap is too
    short.
    """
    start, stop = max(0, lag), min(a.size, b.size + lag)
    if stop - start < least_overlap(a.size, b.size):
        return 0.0, lag
    here, there = a[start:stop], b[start - lag : stop - lag]
    height, shift = _stand_out(here, there, WHOLE)
    if height < CLEAR:
        looks = [(height, shift), *(_stand_out(here, there, look) for look in OTHER_LOOKS)]
        height, shift = rms(np.array([seen for seen, _ in looks])), max(looks)[1]
    excess = excess_db(here, there)
    return height / (1 + max(0.0, excess - ALLOWED_DB) / HALVED_DB), lag + shift


def _stand_out(here: Waveform, there: Waveform, look: Look) -> tuple[float, int]:
    """The coherence g of two aligned waveforms as a normal deviate, and the lag, of two samples at most, of its peak.

    Both are whitened anew, so that a stretch of loud voice or hum does not speak for the whole, and how many independent
    samples n they amount to is measured by the lags within 30 ms: the deviate is the root of -n log(1 - g^2), twice the
    log-likelihood ratio (Carter 1987), which for small g is the height of the peak in standard deviations.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    resolution_hz = max(RESOLUTION_HZ, 4 * SAMPLE_RATE_HZ / here.size)
    white = [whiten(samples, resolution_hz=resolution_hz, look=look) for samples in (here, there)]
    share = (look.band_hz[1] - look.band_hz[0]) / (BAND_HZ[1] - BAND_HZ[0])
    if not (chance := float(np.sqrt(np.sum(np.square(white[0] * white[1])) / share))) > 0:
        return 0.0, 0
    n_fft = next_fast_len(2 * here.size, real=True)
    sums = irfft(rfft(white[0], n_fft) * rfft(white[1], n_fft).conj(), n_fft) / chance
    reach = min(here.size // 2, round(SIDE_MS * SAMPLE_RATE_HZ / 1000))
    guard = round(GUARD_MS * SAMPLE_RATE_HZ / 1000 / share)
    near = np.abs(np.concatenate([sums[-reach:], sums[: reach + 1]]))
    shift = int(near[reach - 2 : reach + 3].argmax()) - 2
    side = np.concatenate([near[: reach - guard], near[reach + guard + 1 :]])
    height = max(0.0, float(near[reach + shift]) - max(0.0, float(side.max()) - HIGHEST_SIDE))
    most = float(np.sqrt(np.sum(np.square(white[0])) * np.sum(np.square(white[1])))) / chance
    coherence = min(height / most, HIGHEST_COHERENCE)
    return most / max(1.0, rms(side)) * math.sqrt(-math.log1p(-(coherence**2))), shift
