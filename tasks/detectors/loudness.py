"""A logistic regression on the level alone: where it does well, the clips give their label away without being heard."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from tasks.detectors import Detector, Labelled, Scores, Waveforms
from tasks.functional.cues import level_db


class Loudness(Detector):
    """P(first class) from the clip's level, fitted on train."""

    model: Pipeline

    def fit(self, train: Labelled, dev: Labelled) -> None:
        """Fit on training clips."""
        levels = np.array([[level_db(clip)] for clip in train.clips])
        self.model = make_pipeline(StandardScaler(), LogisticRegression()).fit(levels, train.is_first)

    def score(self, clips: Waveforms) -> Scores:
        """(n,) probabilities."""
        return self.model.predict_proba(np.array([[level_db(clip)] for clip in clips]))[:, 1]
