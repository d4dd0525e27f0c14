"""A table with columns of the user's own, read as ours: what `columns`, `labels` and `where` say of it."""

from collections.abc import Mapping

import pandas as pd

from recipes.sources import DatasetsSource, TableSource
from tasks.sources.files import keep

# our column -> theirs, where `columns` does not say otherwise
FILE = {"file": "file"}
REQUIRED = {"label": "label", "group": "group_id"}
OPTIONAL = {
    "supergroup": "supergroup_id", "category": "category", "family": "family", "licence": "licence",
    "start_s": "start_s", "end_s": "end_s",
}  # fmt: skip


def read_columns(
    theirs: pd.DataFrame, block: TableSource | DatasetsSource, name: str, also: Mapping[str, str]
) -> pd.DataFrame:
    """Their rows that `where` keeps, with our columns: `also` (our column -> theirs, as needed as a group), label,
    group_id, supergroup_id, category, family, licence, start_s, end_s; null where they have none.

    A label is needed of content only, and not where the block has one for all. Raises ValueError where a column is missing,
    a needed value is null, a time is no number, or no row is left.
    """
    theirs = keep(theirs, block.where, name)
    labelled = block.role == "content" and block.label is None
    needed = dict(also) | {our: their for our, their in REQUIRED.items() if our != "label" or labelled}
    names = _names(theirs, block.columns, needed, name)
    ours = pd.DataFrame({our: theirs[their] for our, their in names.items()}).reset_index(drop=True)
    ours = ours.reindex(columns=[*also, *REQUIRED, *OPTIONAL]).astype("str")  # absent ones are null throughout
    for our in needed:
        if (null := ours[our].isna()).any():
            raise ValueError(f"{name}: {int(null.sum())} rows have no {our} (column {names[our]})")
    for our in ("start_s", "end_s"):
        ours[our] = _seconds(ours[our], our, name)
    category = ours["category"].fillna("")
    return ours.assign(
        label=ours["label"].replace(dict(block.labels)) if labelled else block.label,
        group_id=ours["group"],
        supergroup_id=ours["supergroup"].fillna(ours["group"]),
        category=category.map(_level) if block.role == "room" else category,
        family=ours["family"].fillna(""),
        licence=ours["licence"].fillna("unstated"),
    )


def _names(table: pd.DataFrame, given: Mapping[str, str], needed: Mapping[str, str], name: str) -> dict[str, str]:
    """Our column -> theirs, of those that are there. Raises ValueError where one that is needed or named is not."""
    known = dict(needed) | REQUIRED | OPTIONAL
    if unknown := set(given) - set(known):
        raise ValueError(f"columns.{min(unknown)} is no column of ours; accepted are {', '.join(known)}")
    names = known | dict(given)
    for our in sorted(set(needed) | set(given)):
        if names[our] not in table:
            raise ValueError(f"columns.{our}: {name} has no column {names[our]!r}; it has {', '.join(table.columns)}")
    return {our: their for our, their in names.items() if their in table}


def _seconds(column: pd.Series, our: str, name: str) -> pd.Series:
    seconds = pd.to_numeric(column, errors="coerce").astype("float64")
    if (bad := seconds.isna() & column.notna()).any():
        raise ValueError(f"{name}: {our} is {column[bad].iloc[0]!r}, seconds are a number")
    return seconds


def _level(category: str) -> str:
    """A room's RT60 spelt as the design spells its levels: "0.30" is "0.3"."""
    try:
        return f"{float(category):g}"
    except ValueError:
        return category
