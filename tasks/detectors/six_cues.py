"""Gradient boosting over six trivial cues: what level, peaks, zeros and the spectrum's shape give away together."""

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier

from tasks.detectors import Detector, Labelled, Scores, Waveforms
from tasks.functional.cues import cues

SEED = 0  # decides between splits of a tree that are equally good


class SixCues(Detector):
    """P(first class) from the cues of a clip, fitted on train."""

    model: GradientBoostingClassifier

    def fit(self, train: Labelled, dev: Labelled) -> None:
        """Fit on training clips."""
        features = np.stack([cues(clip) for clip in train.clips])
        self.model = GradientBoostingClassifier(random_state=SEED).fit(features, train.is_first)

    def score(self, clips: Waveforms) -> Scores:
        """(n,) probabilities."""
        return self.model.predict_proba(np.stack([cues(clip) for clip in clips]))[:, 1]
