"""Whether new clips are answered as those were that a card rests on."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import ks_2samp

LEAST = 20  # new clips: fewer show nothing
ALPHA = 0.01


class Drift(NamedTuple):
    """Kolmogorov and Smirnov's distance between P of new clips and of the card's test clips; `flagged` where p <= .01."""

    clips: int
    clips_of_card: int
    distance: float
    p_value: float | None  # None for fewer than 20 new clips
    share_first: float  # of new clips that are answered with the first class
    share_first_of_card: float
    flagged: bool


def drift(p_new: ArrayLike, p_card: ArrayLike, threshold: float) -> Drift:
    """Drift of new answers against those of the card, both P of the first class.

    The test takes clips for independent, which those of one recording are not: it flags early, and asks for a look.
    Raises ValueError where either is empty.
    """
    new, card = np.asarray(p_new, dtype=float), np.asarray(p_card, dtype=float)
    if not len(new) or not len(card):
        raise ValueError(f"{len(new)} new answers against {len(card)} of the card: there is nothing to compare")
    found = ks_2samp(new, card)
    p_value = float(found.pvalue) if len(new) >= LEAST else None
    return Drift(
        len(new), len(card), float(found.statistic), p_value, float((new >= threshold).mean()),
        float((card >= threshold).mean()), p_value is not None and p_value <= ALPHA,
    )  # fmt: skip
