"""Recordings: what a source holds, decoded once, and the part of the data set each was dealt to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recipes.clips import SAMPLE_RATE_HZ
from recipes.data import SplitsBlock
from recipes.schema import CheckFailed
from recipes.sources import Source
from tasks import sources
from tasks.audio_files import encode_flac
from tasks.cache import cached, task
from tasks.functional.grouping import deal
from tasks.run_page import say
from tasks.store import Hygiene, Recordings, Sides, draft

ROWS_A_GROUP, BYTES_A_GROUP = 64, 2**25  # so that one recording can be read, and written, without the rest
TEXT = ("recording_id", "role", "label", "group_id", "supergroup_id", "category", "family", "licence")
SCHEMA = pa.schema([*((name, pa.string()) for name in TEXT), ("duration_s", pa.float64()), ("flac", pa.binary())])


def source_state(source: Source) -> str:
    """What a source's own files look like now, "" for sources that generate: a change of it gathers them anew."""
    return sources.state(source)


@task(
    task_run_name="recordings of {source.kind}, {source.role}",
    **cached(libraries=("numpy", "scipy", "soxr", "soundfile", "pandas", "pyarrow")),
)
def gather_recordings(source: Source, state: str) -> Recordings:
    """Decode or generate every recording of a source; `state` reruns this when the source's files change."""
    table = sources.recordings(source)
    if source.left_out:
        say(f"{source.kind}: leaves out {source.left_out}")
    skipped: list[str] = []
    groups: set[str] = set()
    seconds = 0.0
    with draft(Recordings) as folder, pq.ParquetWriter(folder / "recordings.parquet", SCHEMA) as writer:
        rows: list[dict[str, object]] = []
        held = 0  # bytes of audio
        for row in table.itertuples(index=False):
            try:
                samples = sources.waveform(source, row)
            except ValueError as error:
                if getattr(source, "on_bad_file", "fail") == "fail":
                    raise
                skipped.append(str(error))
                continue
            duration_s = len(samples) / SAMPLE_RATE_HZ
            seconds += duration_s
            groups.add(str(row.group_id))
            text = {name: None if pd.isna(value := getattr(row, name)) else value for name in TEXT}
            kept = at_full_scale(samples) if row.role == "room" else unclipped(samples)
            flac = encode_flac(kept)
            rows.append({**text, "duration_s": duration_s, "flac": flac})
            held += len(flac)
            if len(rows) == ROWS_A_GROUP or held >= BYTES_A_GROUP:
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                rows, held = [], 0
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
        writer.close()
        for reason in skipped:
            say(f"left out: {reason}")
        return Recordings.of(
            folder,
            source=source.kind,
            recordings=len(table) - len(skipped),
            groups=len(groups),
            hours=round(seconds / 3600, 4),
        )


def unclipped(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The waveform within full scale, which resampling a loud file overshoots; clips are normalised later in any case."""
    return samples / max(1.0, float(np.abs(samples).max()))


def at_full_scale(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """An impulse response as loud as 16 bits allow, so that they hold its tail; a clip hears it at unit energy anyway."""
    return samples / np.abs(samples).max()


@task(task_run_name="sides, dealt by {splits.protocol}", **cached(libraries=("numpy", "pandas", "scipy", "pyarrow")))
def deal_sides(recordings: Sequence[Recordings], splits: SplitsBlock, hygiene: Hygiene | None = None) -> Sides:
    """Deal recordings, noise and rooms, with all that belongs to their groups, before anything is mixed.

    What label hygiene dropped is left out. Raises CheckFailed where too little is left to be dealt.
    """
    tables = [read_index(reference) for reference in recordings]
    table = pd.concat(tables, ignore_index=True)
    if (again := table.duplicated(["role", "recording_id"])).any():
        first = table.loc[again, "recording_id"].iloc[0]
        raise ValueError(
            f"{int(again.sum())} recordings are listed twice, first {first!r}: two sources hold the same file"
        )
    table = without_dropped(table, hygiene) if hygiene else table
    try:
        table["part"] = deal(table, splits.parts, splits.seed, by_family=splits.by_family)
    except ValueError as error:
        if hygiene is None:
            raise
        dropped = ", ".join(f"{n} of {hygiene.recordings[name]} {name}" for name, n in hygiene.dropped.items())
        raise CheckFailed(
            f"{error}. Label hygiene had dropped {dropped}: dataset.hygiene sets its thresholds"
        ) from error
    with draft(Sides) as folder:
        table.sort_values("recording_id").to_parquet(folder / "sides.parquet", index=False)
        stratum = table["label"].fillna(table["role"])
        groups = table.groupby(["part", stratum])["group_id"].nunique().unstack(fill_value=0)
        return Sides.of(folder, parts=groups.T.to_dict())


def without_dropped(table: pd.DataFrame, hygiene: Hygiene) -> pd.DataFrame:
    """The recordings that label hygiene keeps."""
    dropped = pd.read_csv(hygiene.path / "hygiene.csv", dtype="str", keep_default_na=False)
    keys = pd.MultiIndex.from_frame(dropped[["role", "recording_id"]])
    return table[~pd.MultiIndex.from_frame(table[["role", "recording_id"]]).isin(keys)].reset_index(drop=True)


def read_index(recordings: Recordings) -> pd.DataFrame:
    """All columns but the audio, with the shelf each recording lies on."""
    columns = [name for name in SCHEMA.names if name != "flac"]
    table = pq.read_table(recordings.path / "recordings.parquet", columns=columns).to_pandas()
    return table.assign(shelf=recordings.fingerprint)


def sides_table(sides: Sides) -> pd.DataFrame:
    """Every recording with its part."""
    return pd.read_parquet(Path(sides.path, "sides.parquet"))
