"""Whether clips of one condition share audio: how many the recordings can give that do not, and what was cut."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from tasks.functional.audio import SAMPLE_RATE_HZ, n_samples
from tasks.functional.conditions import Condition

CONDITION = ["part", "label", "duration_ms", "snr_db", "band", "room", "varied"]


class Crowded(NamedTuple):
    """A class, or a family of it, that is asked for more clips a condition than its recordings hold side by side."""

    name: str
    duration_ms: float
    asked: int
    recordings: int  # that are long enough
    held: int  # clips that do not overlap, cut end to end


def crowded(
    recordings: pd.DataFrame,
    counts: Mapping[Condition, int],
    *,
    classes: Sequence[str],
    same_cuts: bool = False,
    balance_families: Sequence[str] = (),
) -> list[Crowded]:
    """Where a condition's clips of one part must share audio, asked as `design` is; nothing where they need not.

    `recordings` have the columns of a source and duration_s, NaN where it is unknown: such a class is not judged. What is
    held is an upper bound, for a clip is cut where its recording is active and every group is to come equally often.
    """
    content = recordings[recordings["role"] == "content"]
    found = []
    for k, label in enumerate(classes):
        own = content[content["label"] == label]
        piles = {label: own}
        if k and balance_families:
            piles = {f"{label} of family {family}": own[own["family"] == family] for family in balance_families}
        for duration_ms, n in most_at(counts, same_cuts).items():
            asked = math.ceil(n / len(piles))
            for name, pile in piles.items():
                held = np.rint(pile["duration_s"].to_numpy(float) * SAMPLE_RATE_HZ) // n_samples(duration_ms)
                if asked > held.sum():  # never where one is NaN
                    found.append(Crowded(name, duration_ms, asked, int((held > 0).sum()), int(held.sum())))
    return found


def most_at(counts: Mapping[Condition, int], same_cuts: bool) -> dict[float, int]:
    """Duration in ms -> most clips of a class in one condition; with `same_cuts` the longest one, which all are cut from."""
    most: dict[float, int] = {}
    for condition, n in counts.items():
        most[condition.duration_ms] = max(n, most.get(condition.duration_ms, 0))
    longest = max(most)
    return {longest: max(most.values())} if same_cuts else most


def sharing(clips: pd.DataFrame) -> pd.DataFrame:
    """By part and class: `clips`, and `shared`, how many share audio with another one of their condition.

    clips: the columns of the clips table. base_clip_id is RECORDING@SAMPLE, where a cut begins. Where all conditions have
    the same cuts, a clip is the middle of its cut: as far behind its beginning as every clip of its condition is.
    """
    start = clips["base_clip_id"].str.rpartition("@")[2].astype(int).to_numpy()
    end = start + clips["duration_ms"].map(n_samples).to_numpy()
    table = clips[[*CONDITION, "recording_id"]].reset_index(drop=True).assign(start=start, end=end)
    table = table.sort_values(["recording_id", "start"])
    cuts = table.groupby([*CONDITION, "recording_id"], dropna=False, sort=False)
    # Cuts of one condition are equally long: one that overlaps any overlaps its neighbour.
    table["shared"] = (cuts["end"].shift(1) > table["start"]) | (cuts["start"].shift(-1) < table["end"])
    found = table.sort_index().groupby(["part", "label"], sort=False)["shared"]
    return found.agg(clips="size", shared="sum").reset_index()
