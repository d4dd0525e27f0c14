"""Clips: one part's cells designed, rendered and written as FLAC in parquet."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recipes.schema import SAMPLE_RATE_HZ, ClipsBlock
from tasks.audio_files import decode_flac, encode_flac
from tasks.cache import cached, task
from tasks.functional.audio import Waveform, n_samples, rms
from tasks.functional.design import design
from tasks.functional.leakage import pcm_hash
from tasks.functional.mixing import render_clip
from tasks.store import Clips, Recordings, Sides, draft

ROWS_A_GROUP = 256
TEXT = (
    "clip_id", "label", "part", "group_id", "supergroup_id", "base_clip_id", "recording_id", "category", "family", "licence",
    "noise_id", "noise_group_id", "noise_supergroup_id", "noise_licence", "room_id", "room", "pcm_hash",
)  # fmt: skip
NUMBERS = ("duration_ms", "snr_db", "snr_measured_db", "rms_dbfs")
AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [("audio", AUDIO), *((name, pa.string()) for name in TEXT), *((name, pa.float64()) for name in NUMBERS)]
)


@task(
    task_run_name="clips of {part}",
    **cached(libraries=("numpy", "scipy", "soxr", "soundfile", "pandas", "pyarrow")),
)
def render_clips(
    recordings: Sequence[Recordings], sides: Sides, block: ClipsBlock, part: str, classes: tuple[str, str]
) -> Clips:
    """Every cell of one part: crop by activity, ramp, mix at the exact SNR, normalise, encode."""
    assert isinstance(block.per_cell, int), "a part's block comes from DatasetRecipe.clips_of"
    table = pd.read_parquet(sides.path / "sides.parquet")
    plan = design(
        table[table["part"] == part], durations_ms=block.duration_ms, snrs_db=block.snr_db, rt60s_s=block.rt60_s,
        classes=classes, per_cell=block.per_cell, noise_ms=block.noise_ms, seed=block.seed,
    )  # fmt: skip
    audio = read_audio(recordings, table, plan)
    seconds = 0.0
    with draft(Clips) as folder, pq.ParquetWriter(folder / "clips.parquet", SCHEMA) as writer:
        for start in range(0, len(plan), ROWS_A_GROUP):
            some = plan.iloc[start : start + ROWS_A_GROUP].to_dict("records")
            rows = [render({str(name): value for name, value in row.items()}, block, audio) for row in some]
            seconds += sum(row.pop("seconds") for row in rows)
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
        writer.close()
        return Clips.of(folder, part=part, clips=len(plan), hours=round(seconds / 3600, 4))


def render(row: dict[str, Any], block: ClipsBlock, audio: dict[str, Waveform]) -> dict[str, Any]:
    """One planned clip as a row of the clips table."""
    context = block.context
    clip = render_clip(
        audio[row["recording_id"]],
        n=n_samples(row["duration_ms"]),
        crop_seed=row["crop_seed"],
        noise=None if pd.isna(row["noise_id"]) else audio[row["noise_id"]],
        snr_db=None if pd.isna(row["snr_db"]) else row["snr_db"],
        noise_seed=row["noise_seed"],
        rir=None if pd.isna(row["room_id"]) else audio[row["room_id"]],
        context=context.kind if context else None,
        n_total=n_samples(context.total_ms) if context else None,
        normalise_to=block.normalise,
    )
    known = {name: None if pd.isna(row[name]) else row[name] for name in (*TEXT, *NUMBERS) if name in row}
    return {
        **known,
        "audio": {"bytes": encode_flac(clip.samples), "path": f"{row['clip_id']}.flac"},
        "base_clip_id": f"{row['recording_id']}@{clip.content_start}",
        "room": "anechoic" if pd.isna(row["rt60_s"]) else f"rt60 {row['rt60_s']:g} s",
        "snr_measured_db": None if pd.isna(row["snr_db"]) else clip.snr_db,
        "rms_dbfs": 20 * math.log10(rms(clip.samples)),
        "pcm_hash": pcm_hash(clip.samples),
        "seconds": len(clip.samples) / SAMPLE_RATE_HZ,
    }


def read_audio(recordings: Sequence[Recordings], table: pd.DataFrame, plan: pd.DataFrame) -> dict[str, Waveform]:
    """Waveforms of the recordings, noises and rooms that a plan names."""
    wanted = {name for column in ("recording_id", "noise_id", "room_id") for name in plan[column].dropna()}
    shelves = set(table.loc[table["recording_id"].isin(wanted), "shelf"])
    audio = {}
    for reference in recordings:
        if reference.fingerprint in shelves:
            rows = pq.read_table(
                reference.path / "recordings.parquet",
                columns=["recording_id", "flac"],
                filters=[("recording_id", "in", sorted(wanted))],
            )
            audio.update({row["recording_id"]: decode_flac(row["flac"]) for row in rows.to_pylist()})
    return audio
