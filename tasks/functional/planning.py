"""What a data set will be and what its test part can decide, before a clip of it exists."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from tasks.functional.intervals import BOOTSTRAP_FROM, FEWEST
from tasks.functional.mcnemar import mcnemar_sample_size, smallest_difference

POINTS = 0.03
DISCORDANCE = 0.20  # assumed: the upper end of what was measured between detectors of this task (.03 to .20)
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
    if groups < FEWEST:
        return (
            f"a t interval with {groups - 1} degrees of freedom, marked unreliable; from {FEWEST} groups on it is not"
        )
    if groups < BOOTSTRAP_FROM:
        return f"a t interval with {groups - 1} degrees of freedom; from {BOOTSTRAP_FROM} groups on a bootstrap over groups"
    return "a bootstrap over groups, marked unreliable where it ends well inside a t interval, as most do up to 50"


def audio_bytes(seconds: float, rows: int) -> int:
    """Upper bound of what audio takes as FLAC in parquet."""
    return math.ceil(seconds * BYTES_A_SECOND + rows * BYTES_A_ROW)


def describe_power(evidence: Sequence[Evidence]) -> list[str]:
    """The smallest difference between two detectors that such a test shows, and a warning where 3 points are too few."""
    groups, clips = (sum(getattr(its, name) for its in evidence) for name in ("groups", "clips"))
    smallest = min(its.groups for its in evidence)
    cases = {
        "all clips of a group stand or fall together": (groups, "groups"),
        "the clips of a group are independent": (clips, "clips"),
    }
    needed = mcnemar_sample_size(POINTS, DISCORDANCE)
    return [
        "  smallest difference of two accuracies that it shows with 80 % power (McNemar, exact, 5 %), where just one of",
        f"  two detectors is right on {100 * DISCORDANCE:.0f} % of the items (assumed; on more where they differ by more):",
        *(f"    {points(n):<12} if {case} (n = {n:,} {unit})" for case, (n, unit) in cases.items()),
        f"    3 points need {needed:,} independent items; the design effect in the report says what a clip is worth",
        *(f"  warning: {line}" for line in undecided(groups, clips, smallest, needed)),
    ]


def undecided(groups: int, clips: int, smallest: int, needed: int) -> list[str]:
    """Why such a test cannot decide, or may not, whether two detectors differ by 3 points."""
    if smallest < 2:
        return ["a class has one test group: no difference between two detectors can be shown, however large"]
    if clips < needed:
        return [f"3 points cannot be shown: they need {needed:,} clips even if the clips of a group were independent"]
    if groups >= needed:
        return []
    effect, per_group = clips / needed, clips / groups
    icc = (effect - 1) / (per_group - 1)
    return [
        f"3 points are shown only where the design effect is at most {effect:.1f} (an ICC of {icc:.2f} at "
        f"{per_group:.0f} clips a group); `earshot power` takes what was measured"
    ]


def points(n: int) -> str:
    """The smallest difference in percentage points."""
    smallest = smallest_difference(n, discordance=DISCORDANCE) if n else None
    if smallest is None:
        return "none"
    return f"{100 * smallest:.0f} point{'' if round(100 * smallest) == 1 else 's'}"
