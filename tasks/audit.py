"""An audit of any data set: what its splits share in names, exact audio and content, and what gives its labels away."""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.functional.audio import SAMPLE_RATE_HZ
from tasks.functional.content_audit import (
    audit_content,
    choose_clips,
    content_record,
    describe_content,
    describe_leaks,
)
from tasks.functional.duplicates import MOST_PAIRS
from tasks.functional.leakage import audit, clips_of, pcm_hash
from tasks.functional.shortcuts import SHORTCUTS, describe_shortcuts, folds_of, measure_cues, measure_shortcuts
from tasks.hub import as_one_name, locate
from tasks.pace import Paced
from tasks.split_rows import Row, decode, open_splits, rows_of
from tasks.store import home, write_json

MOST_CLIPS = 10_000  # that are compared by content, over all splits
NAMED = 3
SEED = 0  # draws the planted copies
Say = Callable[[str], None]


class Audited(NamedTuple):
    """An audit in lines; each leak in a sentence; what is no leak and yet not clean (suspects, a level that could not be
    done); and clips that could not be read."""

    lines: list[str]
    leaks: list[str]
    doubts: list[str]
    unreadable: list[str]


def audit_dataset(name: str, *, groups: Sequence[str] = (), out: Path | None = None) -> Audited:
    """All levels over a data set, in lines and as audit.json in `out` (by default in the home).

    `name`: a folder (what save_to_disk wrote, parquet, or audio files in one folder a split), NAMESPACE/NAME[@sha] of the
    home's hub, or NAMESPACE/NAME@sha of the Hub. `groups`: columns whose values may not stand in two splits, by default
    group_id. Raises FileNotFoundError where there is no such data set, ValueError where it has one split, an empty one, no
    audio, not these columns, or no clip that can be read.
    """
    folder, _ = locate(name)
    splits = open_splits(folder)
    if len(splits) < 2:
        raise ValueError(f"{name} has one split, {next(iter(splits))}: an audit compares two or more")
    say = Paced()
    heard = hear(splits, folder, say)
    clips = heard.clips[heard.clips["pcm_hash"].notna()]
    if clips["part"].nunique() < len(splits):
        raise ValueError(f"{name}: a split has no clip that can be read; {heard.unreadable[0]}")
    groups = groups or [column for column in ("group_id",) if column in clips]
    found = audit(clips, groups=groups)
    shortcuts, unmeasured = score_cues(clips, heard.cues)
    record: dict[str, Any] = {
        "dataset": name, "clips": {part: int((clips["part"] == part).sum()) for part in splits}, "groups": list(groups),
        "columns": [str(column) for column in clips if column not in ("part", "clip_id", "pcm_hash")],
        "checks": [{**row, "shared": int(row["shared"])} for row in found.rows.dropna(subset="shared").to_dict("records")],
        "content": compare(splits, folder, clips, say), "shortcuts": shortcuts, "unmeasured": unmeasured,
        "measured": {part: int((clips["part"] == part).sum()) for part in splits},
        "unreadable": heard.unreadable,
    }  # fmt: skip
    leaky = found.verdict == "leaky" or record["content"]["leaks"]
    record["verdict"] = "leaky" if leaky else "clean" if groups and not heard.unreadable else "unknown"
    place = (out or home() / "audits" / as_one_name(name)) / "audit.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    write_json(place, record)
    return tell(record, place)


def tell(record: Mapping[str, Any], place: Path) -> Audited:
    """What audit.json says, in lines."""
    content, checks, unreadable = record["content"], record["checks"], record["unreadable"]
    leaks = [f"{row['check']}: {row['shared']} shared, e.g. {row['pairs']}" for row in checks if row["shared"]]
    leaks += [describe_leaks(content)] if content["leaks"] else []
    doubts = [f"{content['suspects']} pairs of clips are suspect"] if content["suspects"] else []
    if not record["groups"]:
        doubts.append(
            "declared identities could not be compared: there is no column group_id; name others by --group, of "
            + ", ".join(record["columns"])
        )
    sizes = ", ".join(f"{n:,} of {part}" for part, n in record["clips"].items())
    lines = [
        f"{record['dataset']}: {sum(record['clips'].values()):,} clips, {sizes}",
        *(f"{row['check']}: {row['shared']} shared{', ' + row['pairs'] if row['shared'] else ''}" for row in checks),
        *describe_content(content),
        *(
            describe_shortcuts(record["shortcuts"], clips_of(record["measured"], record["clips"]))
            if record["shortcuts"]
            else [f"shortcuts: {record['unmeasured']}"]
        ),
        *doubts,
        *([f"{len(unreadable)} clips could not be read: {'; '.join(unreadable[:NAMED])}"] if unreadable else []),
        f"verdict: {record['verdict']}, written to {place}",
    ]
    return Audited(lines, leaks, doubts, unreadable)


def compare(splits: Mapping[str, Iterable[Row]], folder: Path, clips: pd.DataFrame, say: Say) -> dict[str, Any]:
    """The content of the splits, of some clips where there are very many."""
    compared = choose_clips(clips, MOST_CLIPS // len(splits))
    audio, some = decode_some(splits, folder, set(clips.index[compared]), say), clips.iloc[compared]
    content = audit_content(audio, some["part"].tolist(), most_pairs=MOST_PAIRS, seed=SEED, say=say)
    sizes = {part: int((clips["part"] == part).sum()) for part in splits}
    return content_record(content, some, sizes, SEED)


# --- hearing -----------------------------------------------------------------------------------------------------


class Heard(NamedTuple):
    """`clips`: part, clip_id, pcm_hash (null where unreadable), duration_ms and the data set's own columns, a row a clip;
    `cues` of the same rows; `unreadable` clips with their reason."""

    clips: pd.DataFrame
    cues: NDArray[np.float64]
    unreadable: list[str]


def hear(splits: Mapping[str, Iterable[Row]], folder: Path, say: Say) -> Heard:
    """Every clip decoded once."""
    clips: list[dict[str, Any]] = []
    cues: list[NDArray[np.float64]] = []
    unreadable: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for part, row, audio in rows_of(splits):
            known = {column: value for column, value in row.items() if isinstance(value, str | int | float | None)}
            clip = {"clip_id": f"{part}#{len(clips)}", **known, "part": part, "pcm_hash": None}
            try:
                samples, size = decode(audio, folder, Path(scratch))
                clip |= {"pcm_hash": pcm_hash(samples), "duration_ms": 1000 * samples.size / SAMPLE_RATE_HZ}
                cues.append(measure_cues(samples, size))
            except ValueError as error:
                unreadable.append(f"{clip['clip_id']}: {error}")
                cues.append(np.full(len(SHORTCUTS), np.nan))
            clips.append(clip)
            say(f"{len(clips):,} clips heard, {part}")
    return Heard(pd.DataFrame(clips), np.array(cues), unreadable)


def decode_some(
    splits: Mapping[str, Iterable[Row]], folder: Path, wanted: set[int], say: Say
) -> list[NDArray[np.float16]]:
    """The wanted clips, in half the memory."""
    decoded: list[NDArray[np.float16]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for position, (_, _, audio) in enumerate(rows_of(splits)):
            if position in wanted:
                decoded.append(decode(audio, folder, Path(scratch))[0].astype(np.float16))
                say(f"{len(decoded):,}/{len(wanted):,} clips decoded to be compared")
    return decoded


def score_cues(clips: pd.DataFrame, cues: NDArray[np.float64]) -> tuple[dict[str, dict[str, Any]] | None, str]:
    """How far single cues tell the two classes of `label` apart; or None and why that could not be measured."""
    if "label" not in clips or clips["label"].nunique() != 2 or clips["label"].isna().any():
        return None, "there is no column label with two classes"
    first = (clips["label"] == clips["label"].min()).to_numpy()
    table = pd.DataFrame(cues[clips.index], columns=[*SHORTCUTS]).assign(is_first=first)
    try:
        return measure_shortcuts(table, folds_of(clips["part"])), ""
    except ValueError as error:
        return None, str(error)
