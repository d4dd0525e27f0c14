"""Inspection: what a published data set holds, counted and measured, and a page to hear a fair sample of it on."""

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.audio_files import decode_flac
from tasks.functional.cards import fill
from tasks.functional.inspection import (
    count_cells,
    count_levels,
    group_sizes,
    measure,
    sample_balanced,
    summarise_levels,
)
from tasks.hub import as_one_name, locate
from tasks.store import home

TEMPLATE = Path(__file__).resolve().parent.parent / "hub_cards" / "listening.html.j2"
FACTORS = ("duration_ms", "snr_db", "band", "room", "context")
CONDITIONS = (*FACTORS, "varied")
FACTS = ("clip_id", "part", "label", *CONDITIONS, "category", "group_id", "level_dbfs", "active_share")
MEASURED = 2_000  # clips that are decoded to measure level and activity
PAGE_BYTES = 20_000_000  # a hundred clips a class of 2 s each
FRAME_BYTES = 20_000  # of the page without its audio


def inspect_dataset(name: str, *, n: int, out: Path | None, seed: int) -> list[str]:
    """Counts, levels and group sizes line by line, and the path of the page with `n` clips of each class.

    `name`: NAMESPACE/NAME[@sha] in the home's hub, or a folder with data/*.parquet. Raises FileNotFoundError where
    there is no such data set, ValueError where it has no clips, audio or labels, or audio is not 16 kHz mono.
    """
    folder, _ = locate(name)
    table = read_index(folder)
    varying = [factor for factor in CONDITIONS if factor in table and table[factor].nunique(dropna=False) > 1]
    heard = sample_balanced(table, max(n, MEASURED // table["label"].nunique()), by=varying, seed=seed)
    heard = heard.assign(**with_measures(folder, heard))
    page = out or home() / "listening" / as_one_name(name)
    shown = write_page(page, name, folder, sample_balanced(heard, n, by=varying, seed=seed))
    by_level = [factor for factor in ("snr_db",) if factor in table]
    groups = group_sizes(table).to_string().splitlines() if "group_id" in table else ["there is no column group_id"]
    return [
        f"{name}: {len(table):,} clips", *describe_conditions(table, varying),
        "", f"level and active share of {len(heard):,} clips",
        *summarise_levels(readable(heard), by_level).round(2).to_string().splitlines(),
        "", "groups by their number of clips", *groups,
        "", f"{shown} clips to listen to: {page / 'listening.html'}",
    ]  # fmt: skip


def describe_conditions(table: pd.DataFrame, varying: Sequence[str]) -> list[str]:
    """Clips of each class at every level of what varies, how evenly the cells hold them, and what does not vary."""
    named = readable(table)
    cells = count_cells(named, ["part", *varying]).to_numpy(int)
    fewest, most = cells.min(), cells.max()
    held = f"{most}" if fewest == most else f"{fewest} to {most}"
    fixed = [f"{factor} {named[factor].iloc[0]}" for factor in FACTORS if factor in table and factor not in varying]
    return [
        *([f"all of them: {', '.join(fixed)}"] if fixed else []),
        "", *count_levels(named, varying).to_string(index=False).splitlines(),
        f"each of the {len(cells):,} cells of {', '.join(['part', *varying])} holds {held} clips of a class",
    ]  # fmt: skip


def read_index(folder: Path) -> pd.DataFrame:
    """Every column but the audio, with the file and the row of each clip; its part is the file's name unless it says."""
    files = sorted((folder / "data").glob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no data/*.parquet: give a data set, not a model or a folder of audio")
    tables = []
    for file in files:
        names = pq.read_schema(file).names
        if lacking := {"audio", "label"} - set(names):
            raise ValueError(f"{file} has no column {' and '.join(sorted(lacking))}; it has {', '.join(names)}")
        table = pq.read_table(file, columns=[name for name in names if name != "audio"]).to_pandas()
        own = {} if "part" in table else {"part": file.stem}
        tables.append(table.assign(file=file.name, row=np.arange(len(table)), **own))
    table = pd.concat(tables, ignore_index=True)
    if table.empty:
        raise ValueError(f"{folder} holds no clips")
    return table


def read_flac(folder: Path, wanted: pd.DataFrame) -> Iterator[tuple[Any, bytes]]:
    """Index label and encoded audio of these rows, one file after another, no file as a whole in memory."""
    for name, rows in wanted.groupby("file"):
        label_of = dict(zip(rows["row"], rows.index, strict=True))
        at = 0
        for batch in pq.ParquetFile(folder / "data" / str(name)).iter_batches(256, columns=["audio"]):
            column = batch.column("audio")
            yield from (
                (label_of[at + i], column[i].as_py()["bytes"]) for i in range(len(batch)) if at + i in label_of
            )
            at += len(batch)


def with_measures(folder: Path, wanted: pd.DataFrame) -> dict[str, pd.Series]:
    """Level and active share of these clips, from their audio."""
    measured = {label: measure(decoded(flac, label)) for label, flac in read_flac(folder, wanted)}
    return {
        "level_dbfs": pd.Series({label: level for label, (level, _) in measured.items()}),
        "active_share": pd.Series({label: active for label, (_, active) in measured.items()}),
    }


def decoded(flac: bytes, label: Any) -> NDArray[np.float32]:
    """One clip's samples. Raises ValueError naming the clip."""
    try:
        return decode_flac(flac)
    except ValueError as error:
        raise ValueError(f"clip in row {label}: {error}") from error


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """No noise and no such condition said in words."""
    conditions = [factor for factor in CONDITIONS if factor in table]
    return table.assign(**{factor: [said(value) for value in table[factor]] for factor in conditions})


def said(value: Any) -> Any:
    """A level for a reader; numbers stay numbers to be sorted as such."""
    return "none" if pd.isna(value) else value


def write_page(place: Path, name: str, folder: Path, clips: pd.DataFrame) -> int:
    """listening.html with as many of the clips as it has room for, by class and condition; how many those are."""
    audio = dict(read_flac(folder, clips))
    room = PAGE_BYTES - FRAME_BYTES
    rows: list[dict[str, Any]] = []
    for label, clip in clips.iterrows():
        facts = {fact: said(clip[fact]) for fact in FACTS if fact in clip}
        uri = f"data:audio/flac;base64,{base64.b64encode(audio[label]).decode()}"
        room -= len(uri) + sum(len(str(value)) + 40 for value in facts.values())
        if room < 0:
            break
        rows.append({"facts": facts, "audio": uri})
    order = [fact for fact in ("label", *CONDITIONS) if fact in clips]
    rows.sort(key=lambda row: [(isinstance(row["facts"][fact], str), row["facts"][fact]) for fact in order])
    page = fill(TEMPLATE.read_text(encoding="utf-8"), {"name": name, "total": len(clips), "clips": rows}, html=True)
    place.mkdir(parents=True, exist_ok=True)
    draft = place / ".listening.html"
    draft.write_text(page, encoding="utf-8")
    draft.replace(place / "listening.html")
    return len(rows)
