"""Where recordings come from: one module per kind of source, found by the block's `kind` and imported when needed."""

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recipes.sources import DatasetsSource, FileSource, MappedSource, Source, SyntheticSource
from tasks.sources import files

COLUMNS = (
    "recording_id", "role", "label", "group_id", "supergroup_id", "category", "family", "licence", "path", "start_s",
    "end_s",
)  # fmt: skip
MODULES = {
    "ami": "ami", "audiomnist": "audiomnist", "common_voice": "common_voice", "datasets": "hub_datasets", "esc50": "esc50",
    "espeak": "espeak", "fma": "fma", "folder": "folder", "fsd50k": "fsd50k", "fsdd": "fsdd", "gtzan": "gtzan",
    "librispeech": "librispeech", "musan": "musan", "rooms": "rooms", "synthetic": "synthetic", "table": "table",
    "voxconverse": "voxconverse",
}  # fmt: skip


def recordings(block: Source) -> pd.DataFrame:
    """One row per recording of the source that `where` keeps, with `COLUMNS`; nothing is decoded or rendered.

    role is "content", "noise" or "room"; label the class of content, else None; family of content is "speech" or one of
    "environment", "music", "animals" and "noise"; supergroup_id is group_id where nothing larger is known; path is
    relative, "" for what is generated; start_s and end_s are NaN for a whole file. Raises ValueError or FileNotFoundError
    where the source cannot give them.
    """
    module = _module(block)
    if isinstance(block, FileSource):
        table = files.recordings(block, module.listing)
    else:
        table = module.recordings(block)
        if not isinstance(block, MappedSource):
            table = files.keep(table, block.where, f"source {block.kind}")
    if (again := table["recording_id"].duplicated()).any():
        raise ValueError(f"source {block.kind}: {table['recording_id'][again].iloc[0]} is listed more than once")
    return table[[*COLUMNS]]


def waveform(block: Source, row: Any) -> NDArray[np.float32]:
    """Mono waveform at 16 kHz of one row of `recordings`, as `itertuples` gives it. Raises ValueError if it is bad."""
    if isinstance(block, FileSource):
        return files.waveform(block, row)
    samples: NDArray[np.float32] = _module(block).waveform(block, row)
    return samples


def durations_s(block: Source, table: pd.DataFrame) -> pd.Series:
    """Length of each row of `recordings` in s, by headers; NaN where only decoding or speaking tells it."""
    if isinstance(block, FileSource):
        return files.durations_s(block, table)
    if isinstance(block, DatasetsSource):
        told: pd.Series = _module(block).durations_s(block, table)
        return told
    known = block.duration_s if isinstance(block, SyntheticSource) else np.nan
    return pd.Series(known, index=table.index, dtype="float64")


def state(block: Source) -> str:
    """What a source's own files look like now, "" for sources that generate: a change of it gathers them anew."""
    if isinstance(block, FileSource):
        return files.state(block, recordings(block))
    return str(_module(block).state(block)) if isinstance(block, DatasetsSource) else ""


def _module(block: Source) -> ModuleType:
    return importlib.import_module(f"tasks.sources.{MODULES[block.kind]}")
