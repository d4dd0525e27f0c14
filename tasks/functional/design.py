"""The plan of one part's clips: a full factorial in which every group, noise and room comes equally often."""

import zlib
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.functional.audio import SAMPLE_RATE_HZ, n_samples

CONTENT = ["recording_id", "group_id", "supergroup_id", "category", "family", "licence"]
NOISE = {
    "recording_id": "noise_id", "group_id": "noise_group_id", "supergroup_id": "noise_supergroup_id",
    "licence": "noise_licence",
}  # fmt: skip
Rows = NDArray[np.intp]
NONE = -1  # a row that no table has: no noise, no room


class Deck:
    """Recordings of one kind, drawn so that each group comes as often as any other, and so do its recordings."""

    def __init__(self, table: pd.DataFrame, rng: np.random.Generator) -> None:
        self.table = table
        self.rng = rng
        self.group = pd.factorize(table["group_id"], sort=True)[0]
        self.drawn = np.zeros(len(table), dtype=int)
        self.drawn_at_level = np.zeros(len(table), dtype=int)

    def open_level(self) -> None:
        """Balance anew: at another duration other recordings are long enough, and none shall make up for them."""
        self.drawn_at_level[:] = 0

    def eligible(self, least_ms: float) -> NDArray[np.bool_]:
        """Which recordings are at least `least_ms` long."""
        return np.rint(self.table["duration_s"].to_numpy(float) * SAMPLE_RATE_HZ) >= n_samples(least_ms)

    def draw(self, n: int, eligible: NDArray[np.bool_]) -> Rows:
        """Index labels of `n` recordings: their groups equally often among these, then at this level, then in all."""
        groups = np.unique(self.group[eligible])
        ever, here = (np.bincount(self.group, weights=times)[groups] for times in (self.drawn, self.drawn_at_level))
        turn = groups[np.lexsort((self.rng.random(len(groups)), ever, here))]
        rows = [self._draw_from(group, eligible) for group in np.resize(turn, n)]
        return self.rng.permutation(self.table.index.to_numpy()[rows])

    def _draw_from(self, group: np.intp, eligible: NDArray[np.bool_]) -> int:
        rows = np.flatnonzero(eligible & (self.group == group))
        row = int(rows[np.lexsort((self.rng.random(len(rows)), self.drawn[rows]))[0]])
        self.drawn[row] += 1
        self.drawn_at_level[row] += 1
        return row


def design(
    recordings: pd.DataFrame,
    *,
    durations_ms: Sequence[float],
    snrs_db: Sequence[float | None],
    rt60s_s: Sequence[float | None] = (None,),
    classes: Sequence[str],
    per_cell: int,
    noise_ms: float = 0.0,
    seed: int,
) -> pd.DataFrame:
    """One row per planned clip: `per_cell` clips of each class in each cell duration x SNR x RT60 of one part.

    `recordings` have the columns of a source, part and duration_s. Content and noise are at least as long as the clip,
    noise also as `noise_ms`, the length of a noisy context. In each cell all classes get the same noise recordings and
    rooms, so that neither tells the class. SNR None (NaN in the plan) adds no noise, RT60 None no room; a room's
    category is its RT60 as f"{rt60:g}". The seeds are `render_clip`'s.

    Raises ValueError with every level that cannot be filled.
    """
    part = _only_part(recordings)
    rng = np.random.default_rng([seed, zlib.crc32(part.encode())])
    table = recordings.sort_values(["role", "recording_id"]).reset_index(drop=True)
    content = {label: Deck(table[(table["role"] == "content") & (table["label"] == label)], rng) for label in classes}
    noise = Deck(table[table["role"] == "noise"], rng)
    rooms = {rt60: Deck(table[(table["role"] == "room") & (table["category"] == f"{rt60:g}")], rng)
             for rt60 in rt60s_s if rt60 is not None}  # fmt: skip
    noises = {} if all(snr is None for snr in snrs_db) else {"noise": noise}
    _check_levels(part, content | noises, rooms, durations_ms, noise_ms, per_cell)
    cells = []
    for duration_ms in durations_ms:
        for deck in (*content.values(), noise, *rooms.values()):
            deck.open_level()
        for snr_db, rt60_s in product(snrs_db, rt60s_s):
            added, room = np.full(per_cell, NONE), np.full(per_cell, NONE)
            if snr_db is not None:
                added = noise.draw(per_cell, noise.eligible(max(duration_ms, noise_ms)))
            if rt60_s is not None:
                room = rooms[rt60_s].draw(per_cell, rooms[rt60_s].eligible(0))
            for label, deck in content.items():
                rows = deck.draw(per_cell, deck.eligible(duration_ms))
                order = rng.permutation(per_cell)
                cells.append(Cell(label, duration_ms, snr_db, rt60_s, rows, added[order], room[order]))
    return _plan(part, table, cells, len(rt60s_s) > 1, rng)


class Cell(NamedTuple):
    """One class in one cell: its levels and, per clip, the rows of its recording, noise and room."""

    label: str
    duration_ms: float
    snr_db: float | None
    rt60_s: float | None
    content: Rows
    noise: Rows
    room: Rows


def clip_id(part: str, label: str, duration_ms: float, snr_db: float | None, rt60: str, k: int) -> str:
    """Such as test-SPEECH-200ms-5dB-007, or test-SPEECH-200ms-clean-rt0.3-007 where rooms vary."""
    snr = "clean" if snr_db is None else f"{snr_db:.10g}dB"
    return "-".join(filter(None, [part, label, f"{duration_ms:.10g}ms", snr, rt60, f"{k:03d}"]))


def _plan(
    part: str, table: pd.DataFrame, cells: Sequence[Cell], rooms_vary: bool, rng: np.random.Generator
) -> pd.DataFrame:
    names = []
    for cell in cells:
        rt60 = "" if not rooms_vary else "dry" if cell.rt60_s is None else f"rt{cell.rt60_s:.10g}"
        names += [clip_id(part, *cell[:3], rt60, k) for k in range(len(cell.content))]
    levels = pd.DataFrame([cell[:4] for cell in cells], columns=["label", "duration_ms", "snr_db", "rt60_s"])
    levels = levels.astype({"duration_ms": float, "snr_db": float, "rt60_s": float})
    levels = levels.loc[np.repeat(levels.index, [len(cell.content) for cell in cells])].reset_index(drop=True)
    content, noise, room = (np.concatenate(rows) for rows in list(zip(*cells, strict=True))[4:])
    drawn = [
        table.reindex(columns=CONTENT).loc[content],
        table.reindex(columns=[*NOISE]).rename(columns=NOISE).reindex(noise),
        table[["recording_id"]].rename(columns={"recording_id": "room_id"}).reindex(room),
    ]
    plan = pd.concat([levels, *(columns.reset_index(drop=True) for columns in drawn)], axis=1)
    plan.insert(0, "clip_id", names)
    plan.insert(1, "part", part)
    seeds = rng.integers(0, 2**31, (2, len(plan)))
    return plan.assign(crop_seed=seeds[0], noise_seed=seeds[1])


def _only_part(recordings: pd.DataFrame) -> str:
    parts = recordings["part"].unique()
    if len(parts) != 1:
        raise ValueError(f"a design is of one part; the recordings are of {sorted(map(str, parts)) or 'none'}")
    return str(parts[0])


def _check_levels(
    part: str,
    decks: Mapping[str, Deck],
    rooms: Mapping[float, Deck],
    durations_ms: Sequence[float],
    noise_ms: float,
    per_cell: int,
) -> None:
    if per_cell < 1:
        raise ValueError(f"per_cell is {per_cell} in {part}: a cell has at least one clip")
    missing = []
    for name, deck in decks.items():
        longest = 1000 * deck.table["duration_s"].max() if len(deck.table) else 0
        for duration_ms in durations_ms:
            needed = max(duration_ms, noise_ms) if name == "noise" else duration_ms
            if not deck.eligible(needed).any():
                missing.append(f"{name} at {duration_ms:g} ms (needs {needed:g} ms; the longest has {longest:g} ms)")
    missing += [f"room with RT60 {rt60:g} s (there is none)" for rt60, deck in rooms.items() if not len(deck.table)]
    if missing:
        raise ValueError(
            f"{part} has no recording for: {'; '.join(missing)}. Add such recordings or leave these levels out"
        )


class Balance(NamedTuple):
    """Clips per part, duration and SNR (rows) and class (columns), and the largest difference within a row."""

    counts: pd.DataFrame
    largest: int


def balance(plan: pd.DataFrame) -> Balance:
    """How evenly the classes fill the cells. A NaN SNR (no noise) is a level of its own.

    Raises ValueError where there are no clips.
    """
    if plan.empty:
        raise ValueError("no clips: nothing to balance")
    by = [*(["part"] if "part" in plan else []), "duration_ms", "snr_db", "label"]
    counts = plan.groupby(by, dropna=False).size().unstack("label", fill_value=0)
    largest = int((counts.max(axis=1) - counts.min(axis=1)).max())
    return Balance(counts.rename_axis(columns=None).reset_index(), largest)
