"""Several detectors' predictions made into one: the mean of their probabilities or the vote of their answers."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.functional.predictions import FIXED_THRESHOLD

How = Literal["mean", "vote"]
CLIP = ["split", "clip_id"]
TRUTH = ("label", "group_id", "fold", "protocol")  # what all members must say of a clip alike
OF_DETECTOR = ["detector", "seed", "prompt", "method", "answer_mass", "latency_ms"]


class Vote(NamedTuple):
    """share: (n,) of the first class among the answers; decision: (n,) 1 for it, 0 for the second; NaN: no answer."""

    share: NDArray[np.float64]
    decision: NDArray[np.float64]


def ensemble(tables: Mapping[str, pd.DataFrame], classes: tuple[str, str], how: How = "mean") -> pd.DataFrame:
    """The members' clips with p_speech and prediction of all of them together, in the order of the first table.

    tables: detector -> rows as `validate_predictions` gives them, one a clip within each split; the order of the members
    changes no score. "mean": p_speech is their mean, the first class where it is >= 0.5. "vote": p_speech is the share of
    the answers that are the first class, the prediction the majority's; equal votes go to the first class where the mean
    of the p_speech there are is >= 0.5. No answer is no vote, and a clip that nobody answered has none.
    Raises ValueError for fewer than two members, clips that differ or repeat, members that disagree on what a clip is,
    p_speech that "mean" needs and a member lacks, and equal votes where nobody gives p_speech.
    """
    if len(tables) < 2:
        raise ValueError(f"an ensemble of {list(tables)}: name at least two detectors")
    members = {name: _by_clip(table, name) for name, table in tables.items()}
    first = next(iter(members))
    members = {name: _aligned(members, name, first) for name in members}
    clips = members[first].reset_index().drop(columns=OF_DETECTOR, errors="ignore")
    # Sorted, because the sum of three floats depends on their order.
    p = np.sort(np.column_stack([table["p_speech"] for table in members.values()]), axis=1)
    if how == "mean":
        _refuse_silent(members)
        return clips.assign(p_speech=p.mean(axis=1), prediction=np.where(p.mean(axis=1) >= FIXED_THRESHOLD, *classes))
    if how != "vote":
        raise ValueError(f"how is {how!r}; accepted are 'mean' and 'vote'")
    codes = {classes[0]: 1.0, classes[1]: 0.0}
    vote = _count(np.column_stack([table["prediction"].map(codes) for table in members.values()]), p)
    if (open_ := np.isnan(vote.decision) & ~np.isnan(vote.share)).any():
        raise ValueError(
            f"{list(members)}: votes are equal for {int(open_.sum())} clips, e.g. {clips.loc[open_, 'clip_id'].iloc[0]!r}, "
            "and no member gives p_speech for them; take an odd number of detectors"
        )
    said = pd.Series(vote.decision).map({1.0: classes[0], 0.0: classes[1]}).astype(object)
    return clips.assign(p_speech=vote.share, prediction=said.where(said.notna(), None))


def _by_clip(table: pd.DataFrame, name: str) -> pd.DataFrame:
    rows = table.set_index(CLIP)
    if (again := rows.index.duplicated()).any():
        split, clip = rows.index[again][0]
        raise ValueError(
            f"{name!r} has the {split} clip {clip!r} more than once: keep one method, one seed and one prompt of it"
        )
    return rows


def _aligned(members: Mapping[str, pd.DataFrame], name: str, first: str) -> pd.DataFrame:
    """A member's rows in the order of the first one's."""
    rows, table = members[first], members[name]
    if len(apart := table.index.symmetric_difference(rows.index)):
        split, clip = apart[0]
        lacks = first if apart[0] in table.index else name
        raise ValueError(
            f"{first!r} and {name!r} did not score the same clips: {len(apart)} have one of them only, e.g. {lacks!r} "
            f"lacks the {split} clip {clip!r}"
        )
    table = table.loc[rows.index]
    for column in TRUTH:
        if (other := table[column].ne(rows[column]).to_numpy()).any():
            clip = table.index[other][0][1]
            raise ValueError(f"{first!r} and {name!r} give {int(other.sum())} clips another {column}, e.g. {clip!r}")
    return table


def _refuse_silent(members: Mapping[str, pd.DataFrame]) -> None:
    for name, table in members.items():
        if (silent := table["p_speech"].isna()).any():
            raise ValueError(
                f"{name!r} gives no p_speech for {int(silent.sum())} of {len(table)} clips, e.g. "
                f"{table.index[silent][0][1]!r}: an ensemble by mean needs it, one by vote does not"
            )


def _count(said: NDArray[np.float64], p: NDArray[np.float64]) -> Vote:
    """Votes of (n, members) answers, 1, 0 or NaN; NaN decides equal ones that no p (n, members) breaks."""
    share, mean = _mean_known(said), _mean_known(p)
    broken = np.where(np.isnan(mean), np.nan, mean >= FIXED_THRESHOLD)
    decision = np.where(np.isnan(share), np.nan, share > 0.5)
    return Vote(share, np.where(share == 0.5, broken, decision))


def _mean_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each row over what is not NaN, NaN where all of it is."""
    known = (~np.isnan(values)).sum(axis=1)
    nothing: NDArray[np.float64] = np.full(len(values), np.nan)
    return np.divide(np.nansum(values, axis=1), known, out=nothing, where=known > 0)
