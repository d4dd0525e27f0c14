"""Several training seeds of one detector side by side: how far they spread, and which answer every clip alike."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd


class Alike(NamedTuple):
    """Seeds that answered every clip alike; `to_the_bit`: with the same probabilities too, as the same weights would."""

    seeds: list[int]
    to_the_bit: bool


class Spread(NamedTuple):
    """Mean and standard deviation (n - 1) over seeds of one metric."""

    mean: float
    sd: float


def spread_of(values: Mapping[int, float]) -> Spread:
    """Mean and sd over seeds. Raises ValueError where there are fewer than two."""
    if len(values) < 2:
        raise ValueError(f"{len(values)} seed has no spread: it takes two")
    numbers = np.array(list(values.values()), dtype=np.float64)
    return Spread(float(numbers.mean()), float(numbers.std(ddof=1)))


def alike(rows: Mapping[int, pd.DataFrame]) -> list[Alike]:
    """Groups of two seeds or more whose answers are the same on every clip.

    rows: seed -> clip_id, prediction and p_speech (NaN: none). Equal answers on few or easy clips show saturation, equal
    probabilities that the same adapter stands there twice; neither shows stability.
    """
    told = {seed: _keyed(its, ["prediction"]) for seed, its in rows.items()}
    exact = {seed: _keyed(its, ["prediction", "p_speech"]) for seed, its in rows.items()}
    groups: dict[str, list[int]] = {}
    for seed, answers in told.items():
        groups.setdefault(answers, []).append(seed)
    return [Alike(seeds, len({exact[seed] for seed in seeds}) == 1) for seeds in groups.values() if len(seeds) > 1]


def _keyed(rows: pd.DataFrame, columns: list[str]) -> str:
    keys = [name for name in ("clip_id", "prompt", "fold") if name in rows]
    ordered = rows.sort_values(keys)[["clip_id", *columns]]
    return str(ordered.to_csv(index=False, float_format="%.17g"))
