"""Synthetic rooms: exponentially decaying impulse responses, a few draws of each RT60."""

import zlib
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recipes.sources import RoomsSource
from tasks.functional.audio import exponential_rir


def recordings(block: RoomsSource) -> pd.DataFrame:
    """One row per room; its category is the RT60 in seconds, by which the design picks it."""
    ids = [(f"room:{rt60:g}:{draw:02d}", f"{rt60:g}") for rt60 in block.rt60_s for draw in range(block.draws)]
    table = pd.DataFrame(ids, columns=["recording_id", "category"])
    return table.assign(
        role="room", label=None, group_id=table["recording_id"], supergroup_id=table["recording_id"], family="room",
        licence="generated", path="", start_s=np.nan, end_s=np.nan,
    )  # fmt: skip


def waveform(block: RoomsSource, row: Any) -> NDArray[np.float32]:
    """The impulse response of unit energy."""
    draw_seed = zlib.crc32(f"{block.seed}:{row.recording_id}".encode())
    return exponential_rir(float(row.category), seed=draw_seed).astype(np.float32)
