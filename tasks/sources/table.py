"""A folder of audio files with a metadata table (csv or parquet) that names file, label and group."""

import hashlib
import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recipes.schema import TableSource
from tasks.audio_files import read_clip

# our column -> theirs, where `columns` does not say otherwise
REQUIRED = {"file": "file", "label": "label", "group": "group_id"}
OPTIONAL = {
    "supergroup": "supergroup_id", "category": "category", "family": "family", "licence": "licence",
    "start_s": "start_s", "end_s": "end_s",
}  # fmt: skip


def recordings(block: TableSource) -> pd.DataFrame:
    """One row per row of the table that `where` keeps; a recording's id is its path, with its times where it has some.

    Raises FileNotFoundError where the folder or the table is missing, ValueError where the variable in `root` is not
    set, a column is missing, a group or label is null, a file lies outside the folder, or no row is left.
    """
    root = root_of(block)
    theirs = _read(root / block.metadata)
    theirs = _keep(theirs, block)
    names = _columns(theirs, block)
    ours = pd.DataFrame({name: theirs[their] for name, their in names.items()}).reset_index(drop=True)
    ours = ours.reindex(columns=[*REQUIRED, *OPTIONAL]).astype("str")  # absent ones are null throughout
    for name in ("file", "group", *(["label"] if block.role == "content" else [])):
        if (null := ours[name].isna()).any():
            raise ValueError(f"{block.metadata}: {int(null.sum())} rows have no {name} (column {names[name]})")
    _refuse_escapes(ours["file"], block.metadata)
    for name in ("start_s", "end_s"):
        ours[name] = _seconds(ours[name], name, block.metadata)
    category = ours["category"].fillna("")
    return pd.DataFrame(
        {
            "recording_id": _ids(ours),
            "role": block.role,
            "label": ours["label"].replace(dict(block.labels)) if block.role == "content" else None,
            "group_id": ours["group"],
            "supergroup_id": ours["supergroup"].fillna(ours["group"]),
            "category": category.map(_level) if block.role == "room" else category,
            "family": ours["family"].fillna(""),
            "licence": ours["licence"].fillna("unstated"),
            "path": ours["file"],
            "start_s": ours["start_s"],
            "end_s": ours["end_s"],
        }
    )


def waveform(block: TableSource, row: Any) -> NDArray[np.float32]:
    """The file, or its part from start_s to end_s. Raises ValueError naming the file where it is bad."""
    return read_clip(root_of(block) / row.path, start_s=row.start_s, end_s=row.end_s)


def state(block: TableSource) -> str:
    """SHA-256 over the metadata table and over path, size and time of every file it names."""
    root = root_of(block)
    listed = recordings(block)["path"]
    digest = hashlib.sha256((root / block.metadata).read_bytes())
    for path in listed:
        if (file := root / path).is_file():
            stat = file.stat()
            digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def root_of(block: TableSource) -> Path:
    """The folder that `root` means here. Raises ValueError where it names a variable that is not set."""
    for variable in re.findall(r"\$\{(\w+)\}", block.root):
        if not os.environ.get(variable):
            raise ValueError(
                f"root {block.root!r} reads the environment variable {variable}, which is not set: "
                f"export {variable}=/where/the/recordings/are, or write the folder into the recipe"
            )
    return Path(re.sub(r"\$\{(\w+)\}", lambda found: os.environ[found[1]], block.root)).expanduser()


def _read(path: Path) -> pd.DataFrame:
    """The table as text: ids such as 007 or NA keep their spelling, and an empty field is null."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} of the table {path.name} does not exist; check `root`")
    if not path.is_file():
        there = sorted(file.name for file in path.parent.iterdir() if file.suffix in {".csv", ".parquet"})
        raise FileNotFoundError(f"no table {path}; the folder has {', '.join(there) or 'no csv or parquet file'}")
    if path.suffix == ".parquet":
        table = pd.read_parquet(path).convert_dtypes()
        return table.astype("str")
    if path.suffix == ".csv":
        return pd.read_csv(path, dtype="str", keep_default_na=False, na_values=[""], encoding="utf-8-sig")
    raise ValueError(f"{path} is neither a .csv nor a .parquet file")


def _keep(table: pd.DataFrame, block: TableSource) -> pd.DataFrame:
    kept = table
    for column, values in block.where.items():
        _demand(column, table, f"where.{column}", block.metadata)
        kept = kept[kept[column].isin(values)]
        if kept.empty:
            found = ", ".join(sorted(table[column].dropna().unique())[:12])
            raise ValueError(
                f"{block.metadata}: no row is left after where {column} = {list(values)}; it holds {found}"
            )
    if kept.empty:
        raise ValueError(f"{block.metadata} has no rows")
    return kept


def _columns(table: pd.DataFrame, block: TableSource) -> dict[str, str]:
    """Our column -> theirs, of those that are there. Raises ValueError where one that is needed or named is not."""
    if unknown := set(block.columns) - set(REQUIRED) - set(OPTIONAL):
        accepted = ", ".join([*REQUIRED, *OPTIONAL])
        raise ValueError(f"columns.{min(unknown)} is no column of ours; accepted are {accepted}")
    needed = {name for name in REQUIRED if name != "label" or block.role == "content"} | set(block.columns)
    names = REQUIRED | OPTIONAL | dict(block.columns)
    for name in sorted(needed):
        _demand(names[name], table, f"columns.{name}", block.metadata)
    return {name: their for name, their in names.items() if their in table}


def _demand(column: str, table: pd.DataFrame, key: str, metadata: str) -> None:
    if column not in table:
        raise ValueError(f"{key}: {metadata} has no column {column!r}; it has {', '.join(table.columns)}")


def _refuse_escapes(files: pd.Series, metadata: str) -> None:
    for file in files:
        for path in (PurePosixPath(file), PureWindowsPath(file)):
            if path.is_absolute() or path.drive or path.root or ".." in path.parts:
                raise ValueError(
                    f"{metadata}: {file!r} leaves the folder; files are named relative to root, without .."
                )


def _seconds(column: pd.Series, name: str, metadata: str) -> pd.Series:
    seconds = pd.to_numeric(column, errors="coerce").astype("float64")
    if (bad := seconds.isna() & column.notna()).any():
        raise ValueError(f"{metadata}: {name} is {column[bad].iloc[0]!r}, seconds are a number")
    return seconds


def _ids(ours: pd.DataFrame) -> pd.Series:
    times = ours[["start_s", "end_s"]]
    spans = ["" if pd.isna([a, b]).all() else f"#{a:g}-{b:g}" for a, b in times.itertuples(index=False)]
    return ours["file"] + pd.Series(spans, index=ours.index, dtype="str")


def _level(category: str) -> str:
    """A room's RT60 spelt as the design spells its levels: "0.30" is "0.3"."""
    try:
        return f"{float(category):g}"
    except ValueError:
        return category
