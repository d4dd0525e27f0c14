"""What a table of clips holds: cells, levels, sizes of groups, and a fair sample to listen to."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from tasks.functional.audio import Waveform, activity, rms

SILENT_DBFS = -120.0
SIZES = (1, 2, 5, 10, 20, 50, 100)  # upper ends of the bins of a histogram of group sizes


def sample_balanced(table: pd.DataFrame, n: int, *, by: Sequence[str], seed: int) -> pd.DataFrame:
    """Up to `n` rows of each label, the labels in turn, within a label one of each cell of `by` before any comes again.

    Nulls are a level of their own. The same seed gives the same rows.
    """
    shuffled = table.sample(frac=1, random_state=seed)
    turn = shuffled.groupby(["label", *by], dropna=False).cumcount()
    in_turn = shuffled.loc[turn.sort_values(kind="stable").index]
    place = in_turn.groupby("label").cumcount()
    return in_turn.loc[place[place < n].sort_values(kind="stable").index]


def count_cells(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Clips per cell of `by` (rows) and label (columns)."""
    return table.groupby([*by, "label"], dropna=False).size().unstack("label", fill_value=0)


def count_levels(table: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """Clips per part, factor and level, a column a label; without factors per part."""
    if not factors:
        return count_cells(table, ["part"]).reset_index().rename_axis(columns=None)
    counted = [
        count_cells(table, ["part", factor]).reset_index().rename(columns={factor: "level"}).assign(factor=factor)
        for factor in factors
    ]
    labels = sorted(table["label"].unique())
    return pd.concat(counted, ignore_index=True)[["part", "factor", "level", *labels]].rename_axis(columns=None)


def measure(samples: Waveform) -> tuple[float, float]:
    """Level in dB re full scale (not under -120) and share of active 10 ms frames of one clip."""
    return max(SILENT_DBFS, 20 * float(np.log10(max(rms(samples), 1e-12)))), float(activity(samples).mean())


def summarise_levels(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean and standard deviation of level_dbfs, and mean of active_share, per cell of `by` and label."""
    cells = table.groupby([*by, "label"], dropna=False)
    return cells.agg(
        clips=("label", "size"), level_dbfs=("level_dbfs", "mean"), sd_db=("level_dbfs", "std"),
        active_share=("active_share", "mean"),
    )  # fmt: skip


def group_sizes(table: pd.DataFrame) -> pd.DataFrame:
    """How many groups of each label have so many clips: bins of sizes (rows) by label (columns)."""
    sizes = table.groupby(["label", "group_id"]).size().rename("clips").reset_index()
    names = [str(SIZES[0]), *(f"{low + 1}-{high}" if low + 1 < high else f"{high}" for low, high in pairwise(SIZES))]
    sizes["clips"] = pd.cut(sizes["clips"], [0, *SIZES, np.inf], labels=[*names, f"over {SIZES[-1]}"])
    return sizes.groupby(["clips", "label"], observed=True).size().unstack("label", fill_value=0)
