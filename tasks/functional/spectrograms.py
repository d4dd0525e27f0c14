"""A picture of a clip: its log-mel spectrogram without axes, as a small PNG."""

import functools
import io

import numpy as np
from numpy.typing import NDArray

WINDOW_S, HOP_S = 0.025, 0.002
MELS = 48
RANGE_DB = 60.0


def spectrogram_png(samples: NDArray[np.floating], sample_rate: int) -> bytes:
    """PNG of (48 mel bands, a frame every 2 ms), dark where loud, down to 60 dB under the loudest point; low bands below.

    samples: one channel; the same samples give the same bytes. Raises ValueError for none, or another shape. A silent
    clip is white.
    """
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"samples of shape {samples.shape} have no spectrogram: one channel with samples is needed")
    from matplotlib.image import imsave

    window, hop = round(WINDOW_S * sample_rate), round(HOP_S * sample_rate)
    padded = np.pad(samples.astype(np.float32), window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    power = _mel_filters(sample_rate, window) @ (np.abs(np.fft.rfft(frames * np.hanning(window))) ** 2).T
    loudest = float(power.max()) or 1.0
    level_db = 10 * np.log10(np.maximum(power / loudest, 10 ** (-RANGE_DB / 10)))
    buffer = io.BytesIO()
    imsave(buffer, level_db, vmin=-RANGE_DB, vmax=0, cmap="gray_r", origin="lower", format="png")
    return buffer.getvalue()


@functools.cache
def _mel_filters(sample_rate: int, window: int) -> NDArray[np.float32]:
    """(48, window // 2 + 1). Only the filters are librosa's: its spectrogram takes seconds to import."""
    from librosa.filters import mel

    return mel(sr=sample_rate, n_fft=window, n_mels=MELS)
