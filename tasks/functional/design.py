"""The plan of one part's clips: conditions in which every group, noise and room comes equally often."""

import zlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.functional.audio import SAMPLE_RATE_HZ, n_samples
from tasks.functional.conditions import Condition, Room

CONTENT = ["recording_id", "group_id", "supergroup_id", "category", "family", "licence"]
NOISE = {
    "recording_id": "noise_id", "group_id": "noise_group_id", "supergroup_id": "noise_supergroup_id",
    "licence": "noise_licence",
}  # fmt: skip
ROOM = {"recording_id": "room_id", "licence": "room_licence"}
Rows = NDArray[np.intp]
NONE = -1  # a row that no table has: no noise, no room


class Deck:
    """Recordings of one kind, drawn so that each group comes as often as any other, and so do its recordings.

    With `families`, families come equally often first, and groups within a family.
    """

    def __init__(self, table: pd.DataFrame, rng: np.random.Generator, families: Sequence[str] = ()) -> None:
        self.table = table
        self.rng = rng
        self.families = families
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
        if not self.families:
            return self.rng.permutation(self.table.index.to_numpy()[self._draw_rows(n, eligible)])
        of = [eligible & (self.table["family"] == family).to_numpy() for family in self.families]
        ever, here = ([times[mask].sum() for mask in of] for times in (self.drawn, self.drawn_at_level))
        turn = np.resize(np.lexsort((self.rng.random(len(of)), ever, here)), n)
        rows = [row for k, mask in enumerate(of) for row in self._draw_rows(int((turn == k).sum()), mask)]
        return self.rng.permutation(self.table.index.to_numpy()[rows])

    def _draw_rows(self, n: int, eligible: NDArray[np.bool_]) -> list[int]:
        groups = np.unique(self.group[eligible])
        ever, here = (np.bincount(self.group, weights=times)[groups] for times in (self.drawn, self.drawn_at_level))
        turn = groups[np.lexsort((self.rng.random(len(groups)), ever, here))]
        return [self._draw_from(group, eligible) for group in np.resize(turn, n)]

    def _draw_from(self, group: np.intp, eligible: NDArray[np.bool_]) -> int:
        rows = np.flatnonzero(eligible & (self.group == group))
        row = int(rows[np.lexsort((self.rng.random(len(rows)), self.drawn[rows]))[0]])
        self.drawn[row] += 1
        self.drawn_at_level[row] += 1
        return row


class Decks(NamedTuple):
    """What clips of one part are drawn from."""

    content: Mapping[str, Deck]  # class -> its recordings
    noise: Deck
    rooms: Mapping[str, Deck]  # category -> the rooms of it


def design(
    recordings: pd.DataFrame,
    counts: Mapping[Condition, int],
    *,
    classes: Sequence[str],
    noise_ms: float = 0.0,
    same_cuts: bool = False,
    balance_families: Sequence[str] = (),
    seed: int,
) -> pd.DataFrame:
    """One row per planned clip of one part: `counts[condition]` clips of each class in each condition.

    `recordings` have the columns of a source, part and duration_s. Content and noise are at least as long as the clip,
    noise also as `noise_ms`, the length of a noisy context. In each condition all classes get the same noise recordings
    and rooms, so that neither tells the class. SNR None (NaN in the plan) adds no noise, room None none; a room is drawn
    from those of its category, an RT60 spelt as f"{rt60:g}". The seeds are `render_clip`'s. With `same_cuts` every
    condition has the same base clips, cut for the longest duration (`cut_from_ms`), each with noise and room of its own
    that it keeps throughout. All classes but the first draw from `balance_families` in equal shares: to within one clip
    in each cell and over all cells of a duration.

    Raises ValueError with every level that cannot be filled, and where a class has other families than those named.
    """
    part = _only_part(recordings)
    rng = np.random.default_rng([seed, zlib.crc32(part.encode())])
    table = recordings.sort_values(["role", "recording_id"]).reset_index(drop=True)
    decks = _shuffle(table, counts, classes, balance_families, rng)
    if missing := _unfilled(recordings, decks, counts, noise_ms, same_cuts):
        raise ValueError(refusal({part: missing}, bool(balance_families)))
    if same_cuts:
        cells = _same_cuts(decks, counts, noise_ms, rng)
        base = rng.integers(0, 2**31, (2, len(classes) * max(counts.values())))
        seeds = np.tile(base, len(counts))
    else:
        cells = _own_cuts(decks, counts, noise_ms, rng)
        seeds = rng.integers(0, 2**31, (2, sum(len(cell.content) for cell in cells)))
    cut_from_ms = max(condition.duration_ms for condition in counts) if same_cuts else float("nan")
    return _plan(part, table, cells).assign(crop_seed=seeds[0], noise_seed=seeds[1], cut_from_ms=cut_from_ms)


class Cell(NamedTuple):
    """One class in one condition: per clip, the rows of its recording, noise and room."""

    label: str
    condition: Condition
    content: Rows
    noise: Rows
    room: Rows


def category_of(room: Room) -> str | None:
    """The category of the rooms that a level stands for."""
    return room if room is None or isinstance(room, str) else f"{room:g}"


def _shuffle(
    table: pd.DataFrame,
    counts: Mapping[Condition, int],
    classes: Sequence[str],
    balance_families: Sequence[str],
    rng: np.random.Generator,
) -> Decks:
    content = {
        label: Deck(
            table[(table["role"] == "content") & (table["label"] == label)], rng, balance_families if k else ()
        )
        for k, label in enumerate(classes)
    }
    rooms = {
        category: Deck(table[(table["role"] == "room") & (table["category"] == category)], rng)
        for category in dict.fromkeys(category_of(condition.room) for condition in counts)
        if category is not None
    }
    return Decks(content, Deck(table[table["role"] == "noise"], rng), rooms)


def _own_cuts(decks: Decks, counts: Mapping[Condition, int], noise_ms: float, rng: np.random.Generator) -> list[Cell]:
    """Each condition draws anew."""
    cells = []
    for duration_ms, conditions in groupby(counts, key=lambda condition: condition.duration_ms):
        for deck in (*decks.content.values(), decks.noise, *decks.rooms.values()):
            deck.open_level()
        for condition in conditions:
            n = counts[condition]
            noise, room = np.full(n, NONE), np.full(n, NONE)
            if condition.snr_db is not None:
                noise = decks.noise.draw(n, decks.noise.eligible(max(duration_ms, noise_ms)))
            if (category := category_of(condition.room)) is not None:
                room = decks.rooms[category].draw(n, decks.rooms[category].eligible(0))
            for label, deck in decks.content.items():
                rows = deck.draw(n, deck.eligible(duration_ms))
                order = rng.permutation(n)
                cells.append(Cell(label, condition, rows, noise[order], room[order]))
    return cells


def _same_cuts(decks: Decks, counts: Mapping[Condition, int], noise_ms: float, rng: np.random.Generator) -> list[Cell]:
    """The base clips of each class drawn once, with the noise and the room of each category that they will get."""
    n, longest_ms = max(counts.values()), max(condition.duration_ms for condition in counts)
    none = np.full(n, NONE)
    noisy = any(condition.snr_db is not None for condition in counts)
    noise = decks.noise.draw(n, decks.noise.eligible(max(longest_ms, noise_ms))) if noisy else none
    rooms = {category: deck.draw(n, deck.eligible(0)) for category, deck in decks.rooms.items()}
    content = {label: deck.draw(n, deck.eligible(longest_ms)) for label, deck in decks.content.items()}
    order = {label: rng.permutation(n) for label in content}
    return [
        Cell(
            label,
            condition,
            rows,
            none if condition.snr_db is None else noise[order[label]],
            none if (category := category_of(condition.room)) is None else rooms[category][order[label]],
        )
        for condition in counts
        for label, rows in content.items()
    ]


def clip_id(part: str, label: str, condition: Condition, vary: AbstractSet[str], k: int) -> str:
    """Such as test-SPEECH-200ms-5dB-007; band, room and varied factor stand in it where the design varies them."""
    duration_ms, snr_db, band, room, varied = condition
    named = [
        part, label, varied if "varied" in vary else None, f"{duration_ms:.10g}ms",
        "clean" if snr_db is None else f"{snr_db:.10g}dB", f"band_{band}" if "band" in vary else None,
    ]  # fmt: skip
    where = "dry" if room is None else room if isinstance(room, str) else f"rt{room:.10g}"
    return "-".join(filter(None, [*named, where if "room" in vary else None, f"{k:03d}"]))


def _plan(part: str, table: pd.DataFrame, cells: Sequence[Cell]) -> pd.DataFrame:
    vary = {
        factor for factor in Condition._fields if len({getattr(cell.condition, factor) for cell in cells}) > 1
    }  # fmt: skip
    names = [clip_id(part, cell.label, cell.condition, vary, k) for cell in cells for k in range(len(cell.content))]
    levels = pd.DataFrame(
        [(cell.label, *cell.condition[:3], category_of(cell.condition.room), cell.condition.varied) for cell in cells],
        columns=["label", "duration_ms", "snr_db", "band", "room", "varied"],
    )
    levels = levels.astype({"duration_ms": float, "snr_db": float})
    levels = levels.loc[np.repeat(levels.index, [len(cell.content) for cell in cells])].reset_index(drop=True)
    content, noise, room = (np.concatenate(rows) for rows in list(zip(*cells, strict=True))[2:])
    drawn = [
        table.reindex(columns=CONTENT).loc[content],
        table.reindex(columns=[*NOISE]).rename(columns=NOISE).reindex(noise),
        table.reindex(columns=[*ROOM]).rename(columns=ROOM).reindex(room),
    ]
    plan = pd.concat([levels, *(columns.reset_index(drop=True) for columns in drawn)], axis=1)
    plan.insert(0, "clip_id", names)
    plan.insert(1, "part", part)
    return plan


def _only_part(recordings: pd.DataFrame) -> str:
    parts = recordings["part"].unique()
    if len(parts) != 1:
        raise ValueError(f"a design is of one part; the recordings are of {sorted(map(str, parts)) or 'none'}")
    return str(parts[0])


def unfilled(
    recordings: pd.DataFrame,
    counts: Mapping[Condition, int],
    *,
    classes: Sequence[str],
    noise_ms: float = 0.0,
    same_cuts: bool = False,
    balance_families: Sequence[str] = (),
) -> list[str]:
    """Every level that `design`, asked the same, would have no recording for; nothing is drawn.

    Raises ValueError where there is no condition, and where a class has other families than those named.
    """
    decks = _shuffle(recordings, counts, classes, balance_families, np.random.default_rng(0))
    return _unfilled(recordings, decks, counts, noise_ms, same_cuts)


def _unfilled(
    table: pd.DataFrame, decks: Decks, counts: Mapping[Condition, int], noise_ms: float, same_cuts: bool
) -> list[str]:
    part = _only_part(table)
    if not counts or max(counts.values()) < 1:
        raise ValueError(f"{part} has no condition with a clip: a design needs at least one")
    durations_ms = list(dict.fromkeys(condition.duration_ms for condition in counts))
    durations_ms = [max(durations_ms)] if same_cuts else durations_ms
    piles = {name: pile for label, deck in decks.content.items() for name, pile in _piles(label, deck).items()}
    if any(condition.snr_db is not None for condition in counts):
        piles["noise"] = decks.noise
    missing = []
    for name, pile in piles.items():
        longest = 1000 * pile.table["duration_s"].max() if len(pile.table) else 0
        for duration_ms in durations_ms:
            needed = max(duration_ms, noise_ms) if name == "noise" else duration_ms
            if not pile.eligible(needed).any():
                missing.append(f"{name} at {duration_ms:g} ms (needs {needed:g} ms; the longest has {longest:g} ms)")
    rooms = ", ".join(sorted(table.loc[table["role"] == "room", "category"].unique())) or "none"
    lacking = [category for category, deck in decks.rooms.items() if deck.table.empty]
    return missing + [f"room {category} (rooms there: {rooms})" for category in lacking]


def refusal(missing: Mapping[str, Sequence[str]], by_family: bool) -> str:
    """The levels that cannot be filled, part -> levels, with the ways out."""
    parts = "; ".join(f"{part} has no recording for: {'; '.join(levels)}" for part, levels in missing.items())
    return f"{parts}. Add such recordings or leave these levels out" + (
        "; `splits.by_family: true` deals each family" if by_family else ""
    )


def _piles(name: str, deck: Deck) -> dict[str, Deck]:
    """What a deck is drawn from: itself, or one pile a family. Raises ValueError where it holds another family."""
    if not deck.families:
        return {name: deck}
    if strange := sorted(set(deck.table["family"]) - set(deck.families)):
        raise ValueError(
            f"{name} has recordings of family {strange[0]!r}, which balance_families ({', '.join(deck.families)}) does not "
            "name: name it, leave them out by `where`, or give them a family"
        )
    return {
        f"{name} of family {family}": Deck(deck.table[deck.table["family"] == family], deck.rng)
        for family in deck.families
    }


def cross_durations_and_snrs(clips: pd.DataFrame) -> pd.DataFrame:
    """Clips per duration (rows) and SNR (columns, "no noise" where none is added), with the sums as "all".

    Raises ValueError where there are no clips.
    """
    if clips.empty:
        raise ValueError("no clips: nothing to cross")
    counts = clips.groupby(["duration_ms", "snr_db"], dropna=False).size().unstack(fill_value=0)
    counts.index = pd.Index([f"{ms:g} ms" for ms in counts.index], name="duration")
    counts.columns = pd.Index(["no noise" if np.isnan(snr) else f"{snr:g} dB" for snr in counts.columns])
    counts["all"] = counts.sum(axis=1)
    counts.loc["all"] = counts.sum()
    return counts.reset_index()


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
