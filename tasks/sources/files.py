"""What all sources of files share: the folder, what is kept and cut of it, its lengths, its state and its audio."""

import hashlib
import itertools
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from numpy.typing import NDArray

from recipes.sources import FileSource, MappedSource
from tasks.audio_files import read_clip

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au"})
LONGEST_S = 86_400.0  # a header that claims more is forged; the reader says so
ABSENT: Mapping[str, Any] = {"category": "", "family": "", "licence": "unstated", "start_s": np.nan, "end_s": np.nan}


def recordings(block: FileSource, listing: Callable[[Any, Path], pd.DataFrame]) -> pd.DataFrame:
    """What a corpus lists, `where` keeps and `max_s` and `per_group` leave of it, with the columns of all sources.

    `listing(block, root)` gives path and group_id, and where it knows them supergroup_id, category, family, licence, label,
    start_s, end_s and columns of the corpus's own, which `where` may name; `recording_id` where the path alone is none.
    """
    root = root_of(block.root)
    if not root.is_dir():
        raise absent(block.kind, root, "root")
    rows = listing(block, root)
    if not isinstance(block, MappedSource):
        rows = keep(rows, block.where, f"source {block.kind} under {root}")
    rows = rows.assign(**{name: value for name, value in ABSENT.items() if name not in rows})
    refuse_escapes(rows["path"], f"source {block.kind}")
    whole = block.role == "room"  # a second stretch of an impulse response would be a room without its direct sound
    rows = thin(cut(rows, root, None if whole else block.max_s), block.per_group)
    prefix = rows.get("recording_id", f"{block.kind}:" + rows["path"])
    return rows.assign(
        recording_id=prefix + spans(rows),
        role=block.role,
        label=rows.get("label", block.label) if block.role == "content" else None,
        supergroup_id=rows.get("supergroup_id", rows["group_id"]),
    )


def waveform(block: FileSource, row: Any) -> NDArray[np.float32]:
    """The file, or its part from start_s to end_s. Raises ValueError naming the file where it is bad."""
    return read_clip(root_of(block.root) / row.path, start_s=row.start_s, end_s=row.end_s)


def durations_s(block: FileSource, table: pd.DataFrame) -> pd.Series:
    """Length of each row in s, by the headers of its files."""
    return _lasts(table, root_of(block.root)) - table["start_s"].fillna(0.0)


def state(block: FileSource, table: pd.DataFrame) -> str:
    """SHA-256 over the table of recordings and over size and time of every file it names."""
    digest = hashlib.sha256(table.to_csv(index=False).encode())
    root = root_of(block.root)
    for path in table["path"].unique():
        if (file := root / path).is_file():
            stat = file.stat()
            digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


# --- the folder --------------------------------------------------------------------------------------------------


def root_of(root: str) -> Path:
    """The folder that `root` means here. Raises ValueError where it names a variable that is not set."""
    for variable in re.findall(r"\$\{(\w+)\}", root):
        if not os.environ.get(variable):
            raise ValueError(
                f"root {root!r} reads the environment variable {variable}, which is not set: "
                f"export {variable}=/where/the/recordings/are, or write the folder into the recipe; "
                "`earshot fetch` says which corpora it can download"
            )
    return Path(re.sub(r"\$\{(\w+)\}", lambda found: os.environ[found[1]], root)).expanduser()


def absent(kind: str, folder: Path, key: str) -> FileNotFoundError:
    """That a folder does not exist: the whole path, and what a relative one counts from."""
    counted = "" if folder.is_absolute() else f": {folder} counts from the working directory"
    return FileNotFoundError(f"source {kind}: the folder {folder.absolute()} does not exist; check `{key}`{counted}")


def audio_under(folder: Path, suffixes: Iterable[str] = SUFFIXES) -> list[Path]:
    """Audio files at any depth, in the order of their paths."""
    wanted = set(suffixes)
    found = (file for file in folder.rglob("*") if file.suffix.lower() in wanted)
    return sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def sought(kind: str, root: Path, wanted: str) -> FileNotFoundError:
    """That a folder is laid out in another way: what was looked for, and what was found."""
    there = sorted(f"{path.name}/" if path.is_dir() else path.name for path in root.iterdir())
    found = ", ".join(there[:12]) + (f" and {len(there) - 12} more" if len(there) > 12 else "") if there else "nothing"
    return FileNotFoundError(f"source {kind} looks for {wanted} in {root}; found there: {found}")


def demand(kind: str, root: Path, path: str) -> Path:
    """A file or folder that the layout of a corpus has. Raises FileNotFoundError with what was found instead."""
    if not (root / path).exists():
        raise sought(kind, root, path)
    return root / path


def refuse_escapes(paths: Iterable[str], where: str) -> None:
    """Raise ValueError on a path that leads out of the folder it is relative to."""
    for path in paths:
        for spelt in (PurePosixPath(path), PureWindowsPath(path)):
            if spelt.is_absolute() or spelt.drive or spelt.root or ".." in spelt.parts:
                raise ValueError(f"{where}: {path!r} leaves the folder; files are named relative to root, without ..")


# --- what is kept ------------------------------------------------------------------------------------------------


def keep(table: pd.DataFrame, where: Mapping[str, Sequence[str]], name: str) -> pd.DataFrame:
    """Rows whose columns have one of the values that `where` names, compared as text.

    Raises ValueError where a column is missing or nothing is left, with what there is.
    """
    kept = table
    for column, values in where.items():
        if column not in table:
            raise ValueError(f"where.{column}: {name} has no column {column!r}; it has {', '.join(table.columns)}")
        kept = kept[kept[column].astype("str").isin(list(values))]
        if kept.empty:
            found = ", ".join(sorted(filter(None, table[column].dropna().astype("str").unique()))[:12])
            raise ValueError(f"{name}: no row is left after where {column} = {list(values)}; it holds {found}")
    if kept.empty:
        raise ValueError(f"{name} has no rows")
    return kept.reset_index(drop=True)


def cut(rows: pd.DataFrame, root: Path, max_s: float | None) -> pd.DataFrame:
    """The rows, those longer than `max_s` as equal stretches no longer than that."""
    if max_s is None:
        return rows
    firsts, lasts = rows["start_s"].fillna(0.0).to_numpy(float), _lasts(rows, root).to_numpy(float)
    parts = [pieces(first, last, max_s) for first, last in zip(firsts, lasts, strict=True)]
    stretched = rows.loc[np.repeat(rows.index, [len(part) for part in parts])].reset_index(drop=True)
    if len(stretched) == len(rows):
        return stretched
    times = np.array([edges for part in parts for edges in part])
    many = np.repeat([len(part) > 1 for part in parts], [len(part) for part in parts])
    stretched["start_s"] = np.where(many, times[:, 0], stretched["start_s"].to_numpy(float))
    stretched["end_s"] = np.where(many, times[:, 1], stretched["end_s"].to_numpy(float))
    return stretched


def pieces(first_s: float, last_s: float, max_s: float) -> list[tuple[float, float]]:
    """Equal parts of a stretch, none longer than `max_s`; the stretch itself where its end is not known."""
    n = 1 if math.isnan(last_s) else max(1, math.ceil((last_s - first_s) / max_s - 1e-9))
    edges = np.round(np.linspace(first_s, last_s, n + 1), 6).tolist()
    return list(itertools.pairwise(edges))


def thin(rows: pd.DataFrame, per_group: int | None) -> pd.DataFrame:
    """At most `per_group` rows of each group: those at the middles of as many equal parts of it."""
    if per_group is None:
        return rows
    of_group = rows.groupby("group_id", sort=False)["group_id"]
    at, n = of_group.cumcount().to_numpy(), of_group.transform("size").to_numpy()
    m = np.minimum(n, per_group)
    part = -((n - 2 * at * m) // (2 * n))  # the first part whose middle, (part + 1/2) n / m, is not before this row
    return rows[(2 * part + 1) * n < 2 * (at + 1) * m].reset_index(drop=True)


def spans(rows: pd.DataFrame) -> pd.Series:
    """ "#start-end" of each row, "" for a whole file."""
    times = rows[["start_s", "end_s"]]
    texts = ["" if pd.isna([a, b]).all() else f"#{a:.10g}-{b:.10g}" for a, b in times.itertuples(index=False)]
    return pd.Series(texts, index=rows.index, dtype="str")


# --- lengths -----------------------------------------------------------------------------------------------------


def _lasts(rows: pd.DataFrame, root: Path) -> pd.Series:
    """End of each row in s: its own, or its file's."""
    open_ended = rows.loc[rows["end_s"].isna(), "path"].unique()
    whole = {path: file_seconds(root / path) for path in open_ended}
    return rows["end_s"].astype("float64").fillna(rows["path"].map(whole).astype("float64"))


def file_seconds(file: Path) -> float:
    """Length by the header; NaN for what the reader will refuse, with its reason, when it decodes."""
    try:
        seconds = float(soundfile.info(file).duration) if file.is_file() else math.nan
    except (soundfile.LibsndfileError, TypeError):
        return math.nan
    return seconds if 0 < seconds <= LONGEST_S else math.nan
