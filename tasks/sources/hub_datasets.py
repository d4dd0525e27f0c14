"""A `datasets` repository with an audio column: a folder of this machine, or one of the Hub at a pinned revision.

Parquet, csv or json with the audio or the paths of its files, or what `save_to_disk` wrote. Nothing of it is run, and
nothing outside it is read.
"""

import functools
import hashlib
import io
import math
import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from numpy.typing import NDArray

from recipes.sources import DatasetsSource, is_folder
from tasks.audio_files import read_clip
from tasks.hub_client import endpoint
from tasks.repo_checks import check_data_files
from tasks.sources.columns import read_columns
from tasks.sources.files import SUFFIXES, absent, file_seconds, root_of, spans

ROW = "row number"
ALLOWED = [
    "README.md",
    "*.parquet",
    "*.json",
    "*.jsonl",
    "*.csv",
    "*.arrow",
    *(f"*{suffix}" for suffix in sorted(SUFFIXES)),
]


def recordings(block: DatasetsSource) -> pd.DataFrame:
    """One row per row that `where` keeps; a recording's id is the repository, the split and the row's number.

    Raises FileNotFoundError where the repository is not there, ValueError where it has no such split or column, a group or
    label is null, or a file of it that says what is read points outside it.
    """
    _opened.cache_clear()  # a folder may have changed since
    table = _open(block)
    name = f"{block.repo.partition('@')[0] if not is_folder(block.repo) else root_of(block.repo).name}:{block.split}"
    theirs = _scalars(table).assign(**{ROW: [str(row) for row in range(len(table))]})
    ours = read_columns(theirs, block, name, {"row": ROW})
    return ours.assign(recording_id=f"{name}#" + ours["row"] + spans(ours), role=block.role, path="")


def waveform(block: DatasetsSource, row: Any) -> NDArray[np.float32]:
    """The audio of a row, or its part from start_s to end_s. Raises ValueError naming the row where it is bad."""
    audio = _open(block)[_row_of(row.recording_id)][block.audio]
    if audio["bytes"] is None:
        return read_clip(_inside(audio["path"], _folder(block)), start_s=row.start_s, end_s=row.end_s)
    with tempfile.TemporaryDirectory() as folder:  # the strict reader asks a file for its size
        suffix = PurePosixPath(audio["path"] or "").suffix.lower()
        file = Path(folder, f"audio{suffix if suffix in SUFFIXES else ''}")
        file.write_bytes(audio["bytes"])
        try:
            return read_clip(file, start_s=row.start_s, end_s=row.end_s)
        except ValueError as error:
            raise ValueError(str(error).replace(str(file), row.recording_id)) from error


def durations_s(block: DatasetsSource, table: pd.DataFrame) -> pd.Series:
    """Length of each row in s, by the headers; NaN for what the reader will refuse."""
    data, folder = _open(block), _folder(block)
    whole = [_seconds(data[_row_of(name)][block.audio], folder) for name in table["recording_id"]]
    lasts = table["end_s"].fillna(pd.Series(whole, index=table.index, dtype="float64"))
    return lasts - table["start_s"].fillna(0.0)


def state(block: DatasetsSource) -> str:
    """SHA-256 over path, size and time of every file of a folder; "" for a pinned revision, which does not change."""
    if not is_folder(block.repo):
        return ""
    folder = root_of(block.repo)
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        stat = file.stat()
        digest.update(f"{file.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


# --- the repository ----------------------------------------------------------------------------------------------


def _open(block: DatasetsSource) -> Any:
    """The split, its audio as bytes or paths."""
    import datasets

    data = _opened(str(_folder(block)), block.config, block.split)
    if block.audio not in data.column_names:
        raise ValueError(f"{block.repo} has no column {block.audio!r} of audio; it has {', '.join(data.column_names)}")
    return data.cast_column(block.audio, datasets.Audio(decode=False))


@functools.lru_cache(maxsize=4)
def _opened(folder: str, config: str | None, split: str) -> Any:
    """A split as it lies in a folder. Raises ValueError where there is no such split or it cannot be read."""
    import datasets

    check_data_files(Path(folder))
    saved = [name for name in ("dataset_dict.json", "state.json") if Path(folder, name).is_file()]
    try:
        if not saved:
            return datasets.load_dataset(folder, name=config, split=split)
        if config is not None:
            raise ValueError(f"{folder} was written by save_to_disk, which knows no config; leave out {config!r}")
        data = datasets.load_from_disk(folder)
    except datasets.exceptions.DatasetsError as error:
        if isinstance(error.__cause__, ImportError):  # `datasets` wants torchcodec to list a folder of audio files
            raise ValueError(
                f"{folder} is a folder of audio files: read it by `kind: folder`, or by `kind: table` where it has a table"
            ) from error
        raise ValueError(f"{folder} is not readable as a data set: {error.__cause__ or error}") from error
    if isinstance(data, datasets.DatasetDict) and split not in data:
        raise ValueError(f"{folder} has no split {split!r}; it has {', '.join(data)}")
    return data[split] if isinstance(data, datasets.DatasetDict) else data


def _folder(block: DatasetsSource) -> Path:
    """Where the repository lies. Raises FileNotFoundError where it is not there or cannot be downloaded."""
    if is_folder(block.repo):
        folder = root_of(block.repo)
        if not folder.is_dir():
            raise absent("datasets", folder, "repo")
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repo, _, sha = block.repo.partition("@")
    endpoint()
    try:
        return Path(snapshot_download(repo, repo_type="dataset", revision=sha, allow_patterns=ALLOWED))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(f"source datasets: {block.repo} is not here and did not come: {error}") from error


def _inside(path: str, folder: Path) -> Path:
    """The file that a row names. Raises ValueError where it lies outside the repository."""
    file = Path(os.path.abspath(folder / path))
    if not file.is_relative_to(os.path.abspath(folder)):
        raise ValueError(f"{path!r} lies outside the repository {folder}")
    return file


def _scalars(data: Any) -> pd.DataFrame:
    """The columns of plain values as text, class labels by name."""
    import datasets

    kinds = {
        name: kind for name, kind in data.features.items() if isinstance(kind, datasets.Value | datasets.ClassLabel)
    }
    table: pd.DataFrame = (
        data.select_columns(list(kinds)).to_pandas() if kinds else pd.DataFrame(index=range(len(data)))
    )
    for name, kind in kinds.items():
        if isinstance(kind, datasets.ClassLabel):
            table[name] = [None if pd.isna(value) or value < 0 else kind.int2str(int(value)) for value in table[name]]
    return table.convert_dtypes().astype("str")


def _row_of(recording_id: str) -> int:
    return int(recording_id.rpartition(":")[2].split("#")[1])


def _seconds(audio: Any, folder: Path) -> float:
    if audio["bytes"] is None:
        return file_seconds(_inside(audio["path"], folder))
    try:
        return float(soundfile.info(io.BytesIO(audio["bytes"])).duration)
    except soundfile.LibsndfileError:
        return math.nan
