"""The majority class of train, whatever the clip: what accuracy is worth without listening."""

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray


class Majority:
    """P(first class) is its share of the training clips."""

    p_first: float

    def fit(self, clips: Iterator[NDArray[np.float32]], is_first: Sequence[bool]) -> Self:
        """Count the training labels; the audio is not looked at."""
        self.p_first = float(np.mean(is_first))
        return self

    def score(self, clips: Iterator[NDArray[np.float32]]) -> NDArray[np.float64]:
        """The same for every clip, (n,)."""
        return np.array([self.p_first for _ in clips])
