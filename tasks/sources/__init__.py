"""Where recordings come from: one module per kind of source, found by the block's `kind` and imported when needed."""

from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recipes.schema import EspeakSource, RoomsSource, SyntheticSource, TableSource

Block = EspeakSource | SyntheticSource | RoomsSource | TableSource

COLUMNS = (
    "recording_id", "role", "label", "group_id", "supergroup_id", "category", "family", "licence", "path", "start_s",
    "end_s",
)  # fmt: skip


def recordings(block: Block) -> pd.DataFrame:
    """One row per recording of the source, with `COLUMNS`; nothing is decoded or rendered.

    role is "content", "noise" or "room"; label the class of content, else None; supergroup_id is group_id where nothing
    larger is known; path is relative, "" for what is generated; start_s and end_s are NaN for a whole file. Raises
    ValueError or FileNotFoundError where the source cannot give them.
    """
    table = _module(block).recordings(block)
    if (again := table["recording_id"].duplicated()).any():
        raise ValueError(f"source {block.kind}: {table['recording_id'][again].iloc[0]} is listed more than once")
    return table[[*COLUMNS]]


def waveform(block: Block, row: Any) -> NDArray[np.float32]:
    """Mono waveform at 16 kHz of one row of `recordings`, as `itertuples` gives it. Raises ValueError if it is bad."""
    return _module(block).waveform(block, row)


def _module(block: Block) -> ModuleType:
    if block.kind == "espeak":
        from tasks.sources import espeak

        return espeak
    if block.kind == "synthetic":
        from tasks.sources import synthetic

        return synthetic
    if block.kind == "rooms":
        from tasks.sources import rooms

        return rooms
    from tasks.sources import table

    return table
