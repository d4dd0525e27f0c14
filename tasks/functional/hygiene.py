"""Label hygiene: how much of a recording's audible part is speech, and which recordings keep what their label says."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.functional.audio import FRAME_MS, Frames, n_samples


def speech_share(is_speech: NDArray[np.bool_], frame: int, active: Frames) -> float:
    """Share of the active 10 ms frames whose middle lies in a frame that a detector calls speech, in [0, 1].

    `is_speech`: (n,), of `frame` samples each, from the first sample on. Crops are cut where a recording is active, so
    silence counts for nothing: counted over a whole recording, the pauses of a talk would speak against it, and one word
    in a long silence would pass for none.

    Raises ValueError where no active frame lies under the detector's frames.
    """
    step = n_samples(FRAME_MS)
    at = (np.flatnonzero(active) * step + step // 2) // frame
    at = at[at < len(is_speech)]
    if not at.size:
        raise ValueError(f"no active frame of {len(active)} lies in the {len(is_speech)} frames that were listened to")
    return float(is_speech[at].mean())


def judge(table: pd.DataFrame, classes: Sequence[str], *, least_first: float, most_others: float) -> pd.DataFrame:
    """`table` (role, label, speech_share) with `class` (the role of noise), `rule` and whether it is `kept`.

    The first class holds at least `least_first` speech; every other class, and the noise that is mixed into their clips, at
    most `most_others`.
    """
    first = (table["role"] == "content") & (table["label"] == classes[0])
    share = table["speech_share"]
    return table.assign(
        **{"class": table["label"].where(table["role"] == "content", table["role"])},
        rule=np.where(first, f"at least {least_first:g}", f"at most {most_others:g}"),
        kept=np.where(first, share >= least_first, share <= most_others),
    )


def count_kept(judged: pd.DataFrame) -> pd.DataFrame:
    """Class, rule, recordings, dropped, groups and groups_left (those that keep a recording), the classes in turn."""
    by = judged.groupby(["class", "rule"], sort=False)
    counts = by.agg(recordings=("kept", "size"), kept=("kept", "sum"), groups=("group_id", "nunique"))
    left = judged[judged["kept"]].groupby(["class", "rule"])["group_id"].nunique()
    counts = counts.assign(
        dropped=counts["recordings"] - counts["kept"], groups_left=left.reindex(counts.index, fill_value=0)
    )
    return counts.reset_index()[["class", "rule", "recordings", "dropped", "groups", "groups_left"]]
