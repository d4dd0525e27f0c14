"""What two parts of a data set share: declared identities and exact audio; copies under another name."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.functional.duplicates import find_duplicates

__all__ = ["CHECKS", "Audit", "audit", "find_duplicates", "hash_of_pcm", "pcm_hash"]

# check -> (the column that is looked at, columns of other roles in which the same identity counts as well)
CHECKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "group": ("group_id", ("noise_group_id",)),
    "supergroup": ("supergroup_id", ("noise_supergroup_id",)),
    "recording": ("recording_id", ("noise_id",)),
    "base clip": ("base_clip_id", ()),
    "noise file": ("noise_id", ("recording_id",)),
    "noise group": ("noise_group_id", ("group_id",)),
    "noise supergroup": ("noise_supergroup_id", ("supergroup_id",)),
    "room": ("room_id", ()),
    "audio": ("pcm_hash", ()),
}
NAMED = 5


class Audit(NamedTuple):
    """`rows`: check, shared (number of identities on several parts, <NA> where the column is absent), pairs (text)."""

    rows: pd.DataFrame
    verdict: Literal["clean", "leaky"]


def pcm_hash(samples: NDArray[np.floating]) -> str:
    """SHA-256 of the 16-bit samples without the zeros at both ends and with the first sample positive.

    A copy that was padded, trimmed of zeros or inverted has the same hash; one that was scaled, cut or mixed has not.
    Raises ValueError where samples are not one-dimensional or not finite.
    """
    if samples.ndim != 1 or not np.isfinite(samples).all():
        raise ValueError(f"samples of shape {samples.shape} have no hash: one channel of finite values is needed")
    return hash_of_pcm(np.clip(np.rint(samples * 32_768.0), -32_768, 32_767).astype(np.int16))


def hash_of_pcm(pcm: NDArray[np.int16]) -> str:
    """`pcm_hash` of samples that are 16-bit integers already."""
    there = pcm != 0
    kept = pcm[there.argmax() : pcm.size - there[::-1].argmax()] if there.any() else pcm[:0]
    kept = np.maximum(kept, -32_767)  # symmetric, so that a sign can turn
    return hashlib.sha256((-kept if kept.size and kept[0] < 0 else kept).astype("<i2").tobytes()).hexdigest()


def audit(table: pd.DataFrame, part_column: str = "part", groups: Sequence[str] = ("group_id",)) -> Audit:
    """Which identities of `table` (one row per clip) stand on more than one part.

    `groups` are the columns that every row must have an identity in; one that is in none of `CHECKS` is a check as well.

    Identities are pooled over roles: a recording that is content here and noise there is shared. Nulls are no identity
    (no noise was added). "leaky" as soon as one check finds one.

    Raises ValueError where parts or groups are missing, or there is but one part.
    """
    for column in (part_column, *groups):
        if column not in table:
            raise ValueError(f"the audit needs the column {column}; there are {', '.join(map(str, table.columns))}")
        if (null := table[column].isna()).any():
            raise ValueError(
                f"{int(null.sum())} of {len(table)} rows have no {column}; without it nothing can be audited"
            )
    if table[part_column].nunique() < 2:
        raise ValueError(f"{part_column} holds {table[part_column].nunique()} part; an audit compares two or more")
    known = {column for column, _ in CHECKS.values()}
    checks = CHECKS | {column: (column, ()) for column in groups if column not in known}
    columns = {column for column, others in checks.values() for column in (column, *others) if column in table}
    identities = {column: _identities(table[column], table[part_column]) for column in columns}
    rows = [(check, *_shared(*looked_at, identities)) for check, looked_at in checks.items()]
    found = pd.DataFrame(rows, columns=["check", "shared", "pairs"]).astype({"shared": "Int64"})
    return Audit(found, "leaky" if (found["shared"] > 0).any() else "clean")


def _identities(column: pd.Series, part: pd.Series) -> set[tuple[str, str]]:
    """(identity, part) of the rows that have one, as text; a number that nulls turned into 1.0 is 1 again."""
    there = column.notna().to_numpy()
    if pd.api.types.is_float_dtype(column):
        column = column.convert_dtypes()
    return set(zip(column[there].map(str), part[there].map(str), strict=True))


def _shared(
    column: str, others: Sequence[str], identities: Mapping[str, set[tuple[str, str]]]
) -> tuple[int | None, str]:
    if column not in identities:
        return None, ""
    parts: dict[str, set[str]] = {identity: set() for identity, _ in sorted(identities[column])}
    for identity, part in set().union(*(identities.get(name, set()) for name in (column, *others))):
        if identity in parts:
            parts[identity].add(part)
    shared = {identity: on for identity, on in parts.items() if len(on) > 1}
    named = [f"{identity} ({', '.join(sorted(on))})" for identity, on in islice(shared.items(), NAMED)]
    return len(shared), "; ".join(named) + ("; ..." if len(shared) > NAMED else "")


def clips_of(some: Mapping[str, int], whole: Mapping[str, int]) -> str:
    """How many clips of each part an audit looked at, of how many."""
    return ", ".join(f"{n} of {whole[part]} clips of {part}" for part, n in some.items())
