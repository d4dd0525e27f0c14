"""The voice activity detector of WebRTC: as sensitive as the level it is given, so mode, frame and level come from dev."""

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.detectors import Detector, Labelled, Scores, Waveforms
from tasks.functional.audio import SAMPLE_RATE_HZ
from tasks.functional.calibration import choose_threshold
from tasks.functional.metrics import roc_auc

FULL_SCALE = 32_767


class Setting(NamedTuple):
    """mode: 0 lets most through, 3 least; gain_db: applied before the detector."""

    mode: int
    frame_ms: int
    gain_db: int

    def __str__(self) -> str:
        return f"mode {self.mode}, frames of {self.frame_ms} ms, {self.gain_db} dB"


SETTINGS = tuple(itertools.starmap(Setting, itertools.product(range(4), (10, 20, 30), (0, -8, -16, -24, -32))))


def voiced_share(samples: NDArray[np.float32], setting: Setting) -> float:
    """Share of the clip's whole frames that WebRTC calls voiced, in (0, 1), as (voiced + 1) / (frames + 2).

    The rule of succession ranks one voiced frame of one below fifty of fifty.
    """
    voiced = voiced_frames(samples, setting)
    return (int(voiced.sum()) + 1) / (len(voiced) + 2)


def voiced_frames(samples: NDArray[np.float32], setting: Setting) -> NDArray[np.bool_]:
    """Which of the clip's whole frames WebRTC calls voiced, (n,).

    A clip shorter than a frame is filled up with zeros, what is left after the last whole frame is not looked at. Every
    clip gets a detector of its own: it adapts to what it has heard.
    """
    import webrtcvad

    frame = setting.frame_ms * SAMPLE_RATE_HZ // 1000
    scaled = np.rint(samples * (FULL_SCALE * 10 ** (setting.gain_db / 20))).clip(-FULL_SCALE - 1, FULL_SCALE)
    pcm = np.pad(scaled, (0, max(0, frame - len(scaled)))).astype("<i2").tobytes()
    vad = webrtcvad.Vad(setting.mode)
    starts = range(0, len(pcm) - 2 * frame + 1, 2 * frame)
    return np.array([vad.is_speech(pcm[start : start + 2 * frame], SAMPLE_RATE_HZ) for start in starts], dtype=bool)


class WebRTC(Detector):
    """P(first class) is the smoothed share of voiced frames."""

    setting: Setting

    def fit(self, train: Labelled, dev: Labelled) -> None:
        """Choose the setting of the highest AUC on dev, the first one of equals, then Youden's threshold."""
        shares = np.array([[voiced_share(clip, setting) for setting in SETTINGS] for clip in dev.clips])
        areas = [roc_auc(share, dev.is_first) for share in shares.T]
        best = int(np.argmax(areas))
        self.setting = SETTINGS[best]
        self.threshold = choose_threshold(shares[:, best], dev.is_first).value
        self.chosen = f"{self.setting}, threshold {self.threshold:.3f}; AUC {areas[best]:.3f} on dev"

    def score(self, clips: Waveforms) -> Scores:
        """(n,) shares."""
        return np.array([voiced_share(clip, self.setting) for clip in clips])
