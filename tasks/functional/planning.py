"""What a data set will be and what its test part can decide, before a clip of it exists."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

BYTES_A_SECOND = 32_000  # 16 kHz, 16 bits; FLAC stays below
BYTES_A_ROW = 1_000  # ids, labels and a FLAC header


class Evidence(NamedTuple):
    """What one class is tested on; groups that get no clip do not count."""

    groups: int
    supergroups: int
    clips: int


def count_strata(table: pd.DataFrame, parts: Sequence[str]) -> pd.DataFrame:
    """Groups, supergroups, recordings and hours per part and class (role for noise and rooms), parts in their order.

    `table`: role, label, group_id, supergroup_id, part and duration_s, a row a recording. Hours are of the recordings whose
    length is known; `unknown` counts the others.
    """
    stratum = table["label"].where(table["role"] == "content", table["role"]).rename("class")
    part = table["part"].astype(pd.CategoricalDtype(list(parts)))
    by = table.groupby([part, stratum], observed=True)
    counts = by.agg(
        groups=("group_id", "nunique"), supergroups=("supergroup_id", "nunique"), recordings=("role", "size")
    )
    known = by["duration_s"].count()
    return counts.assign(hours=by["duration_s"].sum() / 3600, unknown=counts["recordings"] - known).reset_index()


def evidence_of(
    table: pd.DataFrame, tested: Sequence[str], classes: Sequence[str], clips: Mapping[str, int]
) -> dict[str, Evidence]:
    """What each class is tested on: its groups in the parts `tested`, with `clips` (part -> clips of one class).

    A part of fewer clips than groups hears as many groups as it has clips: every group comes equally often.
    """
    evidence = {}
    for name in classes:
        content = table[(table["role"] == "content") & (table["label"] == name)]
        by = content.groupby("part")[["group_id", "supergroup_id"]].nunique().reindex(list(tested), fill_value=0)
        heard = by.clip(upper=pd.Series(clips), axis=0).sum()
        evidence[name] = Evidence(
            int(heard["group_id"]), int(heard["supergroup_id"]), sum(clips[part] for part in tested)
        )
    return evidence


def interval_rule(groups: int) -> str:
    """The interval a report gives where the smaller class has so many test groups."""
    if groups < 2:
        return "no interval, and no result that may be published: at least 2 groups are needed"
    if groups < 5:
        return f"a t interval with {groups - 1} degrees of freedom, marked unreliable; from 5 groups on it is not"
    if groups < 20:
        return f"a t interval with {groups - 1} degrees of freedom; from 20 groups on a bootstrap over groups"
    return "a bootstrap over groups, marked unreliable where it ends well inside a t interval, as most do up to 50"


def audio_bytes(seconds: float, rows: int) -> int:
    """Upper bound of what audio takes as FLAC in parquet."""
    return math.ceil(seconds * BYTES_A_SECOND + rows * BYTES_A_ROW)
