"""A picture of a clip shows where its energy lies."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from tasks.functional.spectrograms import MELS, spectrogram_png


def darkness(samples: np.ndarray) -> np.ndarray:
    """(bands from low to high, frames), 1 is black."""
    return 1 - imread(io.BytesIO(spectrogram_png(samples, 16_000)))[::-1, :, 0]


def tone(hz: float, ms: float = 200) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(16 * ms)) / 16_000)


def test_a_tone_is_dark_in_its_band_and_higher_ones_stand_higher():
    loudest = [int(darkness(tone(hz)).mean(axis=1).argmax()) for hz in (300, 1000, 4000)]
    assert loudest == sorted(loudest)
    assert 2 < loudest[0] < loudest[1] < loudest[2] < MELS - 5


def test_time_runs_to_the_right_in_steps_of_2_ms():
    samples = np.concatenate([np.zeros(1600), tone(1000, 100)])
    level = darkness(samples).max(axis=0)
    assert len(level) == pytest.approx(100, abs=1)
    assert level[:40].max() < 0.2 < 0.9 < level[60:].min()


def test_the_level_does_not_change_the_picture_and_silence_is_white():
    assert spectrogram_png(tone(500), 16_000) == spectrogram_png(tone(500) / 4, 16_000)
    assert darkness(np.zeros(320)).max() == 0


@pytest.mark.parametrize("n", [1, 160, 320])
def test_the_shortest_clips_have_a_picture(n):
    assert darkness(np.ones(n)).shape == (MELS, n // 32 + 1)


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros((2, 100))])
def test_what_is_no_channel_of_samples_is_refused(samples):
    with pytest.raises(ValueError, match="have no spectrogram"):
        spectrogram_png(samples, 16_000)
