"""The majority class of train, whatever the clip: what accuracy is worth without listening."""

import numpy as np

from tasks.detectors import Detector, Labelled, Scores, Waveforms


class Majority(Detector):
    """P(first class) is its share of the training clips."""

    p_first: float

    def fit(self, train: Labelled, dev: Labelled) -> None:
        """Count the training labels; the audio is not looked at."""
        self.p_first = float(np.mean(train.is_first))

    def score(self, clips: Waveforms) -> Scores:
        """The same for every clip, (n,)."""
        return np.array([self.p_first for _ in clips])
