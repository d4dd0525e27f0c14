"""A logistic regression on the level alone: where it does well, the clips give their label away without being heard."""

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def level_db(samples: NDArray[np.float32]) -> float:
    """RMS level of a clip in dB re full scale."""
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-12))


class Loudness:
    """P(first class) from the clip's level, fitted on train."""

    model: Pipeline

    def fit(self, clips: Iterator[NDArray[np.float32]], is_first: Sequence[bool]) -> Self:
        """Fit on training clips."""
        levels = np.array([[level_db(clip)] for clip in clips])
        self.model = make_pipeline(StandardScaler(), LogisticRegression()).fit(levels, is_first)
        return self

    def score(self, clips: Iterator[NDArray[np.float32]]) -> NDArray[np.float64]:
        """(n,) probabilities."""
        return self.model.predict_proba(np.array([[level_db(clip)] for clip in clips]))[:, 1]
