"""Single numbers of a waveform that may give its label away without anybody listening."""

import numpy as np
from numpy.typing import NDArray

from tasks.functional.audio import SAMPLE_RATE_HZ

CUES = ("level_db", "peak_db", "crest_db", "zero_share", "centroid_hz", "bandwidth_hz")
FLOOR = 1e-12  # of power: silence lies at -120 dB


def level_db(samples: NDArray[np.float32]) -> float:
    """RMS level of a clip in dB re full scale."""
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + FLOOR))


def cues(samples: NDArray[np.float32], sample_rate_hz: int = SAMPLE_RATE_HZ) -> NDArray[np.float64]:
    """The six `CUES` of one clip, (6,): level and peak in dB re full scale, peak over level in dB, share of samples that
    are exactly 0, and centroid and bandwidth in Hz of the magnitude spectrum of the whole clip.

    Centroid is the mean frequency under the magnitudes, bandwidth the standard deviation about it (Klapuri and Davy
    2007, chapter 5); both are 0 for silence. Raises ValueError for an empty clip.
    """
    if samples.size == 0:
        raise ValueError("no samples: an empty clip has no cues")
    level = level_db(samples)
    peak = float(10 * np.log10(float(np.abs(samples).max()) ** 2 + FLOOR))
    magnitude = np.abs(np.fft.rfft(samples.astype(np.float64)))
    frequency_hz = np.fft.rfftfreq(samples.size, 1 / sample_rate_hz)
    share = magnitude / (magnitude.sum() or 1.0)
    centroid = float(share @ frequency_hz)
    bandwidth = float(np.sqrt(share @ (frequency_hz - centroid) ** 2))
    return np.array([level, peak, peak - level, np.mean(samples == 0), centroid, bandwidth])
