"""The splits of any data set as rows with their audio: saved folders, parquet, or plain folders of audio files."""

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.audio_files import read_clip
from tasks.repo_checks import check_data_files

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au"})
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
ROWS = 256  # of parquet in memory

Row = Mapping[str, Any]


def open_splits(folder: Path) -> Mapping[str, Iterable[Row]]:
    """Split -> its rows, as often as they are asked for; no row is copied into a cache.

    Raises ValueError where the folder is no data set, or a file of it that says what is read names others outside it.
    """
    import datasets

    check_data_files(folder)
    files = sorted((folder / "data").glob("*.parquet")) or sorted(folder.glob("*.parquet"))
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(SHARD.sub("", file.stem), []).append(file)
    try:
        if (folder / "dataset_dict.json").is_file():
            return dict(datasets.load_from_disk(str(folder)))
        if (folder / "state.json").is_file():
            return {"(all of it)": datasets.load_from_disk(str(folder))}
        if by_split:
            return {split: ParquetFiles(its) for split, its in by_split.items()}
        if folders := [child for child in sorted(folder.iterdir()) if child.is_dir() and any(audio_files(child))]:
            return {child.name: AudioFolder(child) for child in folders}
        return dict(datasets.load_dataset(str(folder), streaming=True))
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise ValueError(f"{folder} is not readable as a data set: {error.__cause__ or error}") from error


def rows_of(splits: Mapping[str, Iterable[Row]]) -> Iterator[tuple[str, Row, Mapping[str, Any]]]:
    """Split, columns and audio of every clip. Raises ValueError where a split has no rows or no audio."""
    import datasets

    for part, rows in splits.items():
        features = getattr(rows, "features", None) or {}
        column = next((name for name, kind in features.items() if isinstance(kind, datasets.Audio)), None)
        if column:
            rows = rows.cast_column(column, datasets.Audio(decode=False))  # type: ignore[attr-defined]
        classes = {name: kind for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
        empty = True
        for row in rows:
            empty = False
            audio = column or next((name for name, value in row.items() if is_audio(value)), None)
            if audio is None:
                raise ValueError(f"{part} has no column of audio; it has {', '.join(row)}")
            numbered = {name: row[name] for name in classes if row[name] is not None and row[name] >= 0}
            named = {name: classes[name].int2str(number) for name, number in numbered.items()}
            yield part, {**{name: value for name, value in row.items() if name != audio}, **named}, row[audio]
        if empty:
            raise ValueError(f"the split {part} is empty")


def is_audio(value: Any) -> bool:
    """Whether a cell is what `datasets` makes of audio: bytes, or the path of a file."""
    return isinstance(value, Mapping) and value.keys() >= {"bytes", "path"}


class ParquetFiles:
    """The rows of one split in parquet, a few in memory at a time."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __iter__(self) -> Iterator[Row]:
        for file in self.files:
            for batch in pq.ParquetFile(file).iter_batches(ROWS):
                yield from batch.to_pylist()


def audio_files(folder: Path) -> Iterator[Path]:
    """Audio files at any depth, in order."""
    return (file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES)


class AudioFolder:
    """The rows of one split that is a folder of audio files, with the columns of its metadata.csv (file_name and others); a
    file's own folder is its label unless a column says so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __iter__(self) -> Iterator[Row]:
        table = self.folder / "metadata.csv"
        known: dict[str, dict[str, str]] = {}
        if table.is_file():
            with table.open(encoding="utf-8", newline="") as lines:
                known = {row["file_name"]: row for row in csv.DictReader(lines) if "file_name" in row}
        for file in audio_files(self.folder):
            name = file.relative_to(self.folder).as_posix()
            label = {"label": file.parent.name} if file.parent != self.folder else {}
            yield {**label, **known.get(name, {"file_name": name}), "audio": {"bytes": None, "path": str(file)}}


def decode(audio: Mapping[str, Any], folder: Path, scratch: Path) -> tuple[NDArray[np.float32], int]:
    """16 kHz mono samples and the number of encoded bytes. Raises ValueError where it cannot be read."""
    encoded, path = audio.get("bytes"), audio.get("path")
    if encoded is None:
        file = Path(os.path.abspath(folder / (path or "")))
        if not file.is_relative_to(os.path.abspath(folder)):
            raise ValueError(f"{path!r} lies outside the data set")
        return read_clip(file), file.stat().st_size
    suffix = Path(path or "").suffix.lower()
    file = scratch / f"clip{suffix if suffix in SUFFIXES else ''}"  # the strict reader asks a file for its size
    file.write_bytes(encoded)
    try:
        return read_clip(file), len(encoded)
    except ValueError as error:
        raise ValueError(str(error).removeprefix(f"{file}: ")) from error
