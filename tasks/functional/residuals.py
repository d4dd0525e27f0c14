"""Whether two aligned waveforms differ by noise, as copies do, or by the sound itself, as a word said twice does.

What was added to a copy does not know how loud the copied sound is at a time and frequency. What tells one take from
another does: it is loudest where the sound is.
"""

import math

import numpy as np
from numpy.typing import NDArray

from tasks.functional.audio import SAMPLE_RATE_HZ, Waveform

WINDOW, SHORT_WINDOW = 1024, 256  # the short one for less than SHORT samples
SHORT = 1280
LONG = 4_000  # samples from which there are cells enough to ask where one of the two is loud
BAND_HZ = 700.0
LOWEST_HZ = 400.0  # lower down the filter of a telephone delays each frequency otherwise
LOWEST_OF_BRIEF_HZ, BRIEF = 100.0, 2400  # but of fewer samples takes of a word are told apart by what lies there
LOUD, WEAK = 0.15, 0.5  # shares of a band's cells
REACH, STEP = 32, 2  # samples by which a filter may delay one band more than another
EQUAL = 0.9  # coherence of the better half of the bands from which the difference is a codec's or a filter's
Cells = NDArray[np.complex128]


def excess_db(a: Waveform, b: Waveform) -> float:
    """By how much a and b (16 kHz, of one length, aligned) differ more where they are loud than where they are weak, in
    dB, mean over bands; 0.0 where they agree where they are loud.

    Each band of b gets its own gain, phase and delay first, so that a filter is no difference. Noise that was added to one
    of them is in the difference and in that one's loudness; from a quarter of a second on the measure is therefore the
    mean of two: loud where both are, and loud where the one is that the other's difference follows less.
    """
    window = WINDOW if a.size >= SHORT else SHORT_WINDOW
    if a.size < window:
        return 0.0
    spectrum_a, spectrum_b = _spectrum(a, window), _spectrum(b, window)
    lowest_hz = LOWEST_HZ if a.size >= BRIEF else LOWEST_OF_BRIEF_HZ
    bins, first = (round(hz * window / SAMPLE_RATE_HZ) for hz in (BAND_HZ, lowest_hz))
    compared = [
        _compare(spectrum_a[:, low : low + bins], spectrum_b[:, low : low + bins], low, window)
        for low in range(first, window // 2 - bins, bins)
    ]
    bands = np.array([band for band in compared if band is not None] or [(1.0, 0.0, 0.0, 0.0)])
    better = np.sort(bands[:, 0])[len(bands) // 2 :]
    if better.mean() > EQUAL:
        return 0.0
    both, of_a, of_b = bands[:, 1:].mean(axis=0)
    return float(both if a.size < LONG else (both + min(of_a, of_b)) / 2)


def _spectrum(samples: Waveform, window: int) -> Cells:
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), window)[:: window // 4]
    return np.asarray(np.fft.rfft(frames * np.hanning(window)))


def _compare(a: Cells, b: Cells, low: int, window: int) -> tuple[float, float, float, float] | None:
    """Coherence of one band's loud cells, and the excess of the difference where both, where a and where b is loud."""
    level_a, level_b = (np.sqrt(np.mean(np.abs(band) ** 2)) for band in (a, b))
    if not (level_a > 0 and level_b > 0):
        return None
    loudness = np.minimum(np.abs(a) / level_a, np.abs(b) / level_b)
    loud = loudness >= np.quantile(loudness, 1 - LOUD)
    cross = np.sum(a * b.conj() * loud, axis=0)
    turns = np.exp(2j * np.pi / window * np.outer(np.arange(-REACH, REACH + 1, STEP), low + np.arange(a.shape[1])))
    sums = turns @ cross
    best = int(np.abs(sums).argmax())
    turned = b * turns[best].conj() * np.exp(1j * np.angle(sums[best]))
    power_a, power_b = (np.sum(np.abs(band[loud]) ** 2) for band in (a, b))
    both = _excess(a - turned * np.sqrt(power_a / power_b), loudness)
    of_a = _excess(turned - _gain(a, turned) * a, np.abs(a))
    of_b = _excess(a - _gain(turned, a) * turned, np.abs(turned))
    return float(np.abs(sums[best]) / np.sqrt(power_a * power_b)), both, of_a, of_b


def _gain(one: Cells, other: Cells) -> float:
    """Of `one`, by least squares over its loud cells, as it is in `other`."""
    loud = np.abs(one) >= np.quantile(np.abs(one), 1 - LOUD)
    return float(np.sum((other * one.conj())[loud].real) / np.sum(np.abs(one[loud]) ** 2))


def _excess(difference: Cells, loudness: NDArray[np.float64]) -> float:
    """Power of the difference in the loud cells over that in the weak ones, in dB."""
    power = np.abs(difference) ** 2
    loud, weak = loudness >= np.quantile(loudness, 1 - LOUD), loudness <= np.quantile(loudness, WEAK)
    least = np.finfo(float).eps * max(power.sum(), np.finfo(float).tiny)
    return 10 * math.log10((power[loud].mean() + least) / (power[weak].mean() + least))
