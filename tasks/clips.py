"""Clips: one part planned, then rendered shard by shard as FLAC in parquet."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recipes.schema import SAMPLE_RATE_HZ, SHARD_CLIPS, ClipsBlock
from tasks.audio_files import decode_flac, encode_flac
from tasks.cache import cached, task
from tasks.functional.audio import Waveform, middle, n_samples, rms
from tasks.functional.conditions import Condition, Levels, spread
from tasks.functional.design import design
from tasks.functional.leakage import pcm_hash
from tasks.functional.mixing import render_clip
from tasks.store import Clips, Plan, Recordings, Sides, draft

ROWS_A_GROUP = 256
TEXT = (
    "clip_id", "label", "part", "group_id", "supergroup_id", "base_clip_id", "recording_id", "category", "family", "licence",
    "noise_id", "noise_group_id", "noise_supergroup_id", "noise_licence", "room_id", "band", "room", "context", "varied",
    "pcm_hash",
)  # fmt: skip
NUMBERS = ("duration_ms", "snr_db", "snr_measured_db", "rms_dbfs")
AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [("audio", AUDIO), *((name, pa.string()) for name in TEXT), *((name, pa.float64()) for name in NUMBERS)]
)


@task(task_run_name="plan of {part}", **cached(libraries=("numpy", "pandas", "pyarrow")))
def plan_clips(sides: Sides, block: ClipsBlock, part: str, classes: tuple[str, str]) -> Plan:
    """Every clip of one part: its condition, recording, noise and room. Cells that cannot be filled end the run here."""
    table = pd.read_parquet(sides.path / "sides.parquet")
    plan = design(
        table[table["part"] == part], conditions_of(block), classes=classes, noise_ms=block.noise_ms,
        same_cuts=block.design == "one_at_a_time", balance_families=block.balance_families, seed=block.seed,
    )  # fmt: skip
    if block.shards > 1:  # a shard decodes its recordings once
        plan = plan.sort_values(["recording_id", "clip_id"], ignore_index=True)
    with draft(Plan) as folder:
        plan.to_parquet(folder / "plan.parquet", index=False)
        return Plan.of(folder, part=part, clips=len(plan), shards=block.shards)


def conditions_of(block: ClipsBlock) -> Mapping[Condition, int]:
    """Clips of a class in each condition of one part's block."""
    assert isinstance(block.per_part, int), "a part's block comes from DatasetRecipe.clips_of"
    levels = Levels(block.duration_ms, block.snr_db, block.band, block.room)
    return spread(block.design, levels, block.per_part, Condition(**block.reference.model_dump()), block.seed)


@task(
    task_run_name="clips of {plan.part}, shard {shard}",
    **cached(libraries=("numpy", "scipy", "soxr", "soundfile", "pandas", "pyarrow")),
)
def render_clips(recordings: Sequence[Recordings], sides: Sides, plan: Plan, block: ClipsBlock, shard: int) -> Clips:
    """One shard of a part: room, band, crop by activity, ramp, mix at the exact SNR, normalise, encode."""
    rows = pd.read_parquet(plan.path / "plan.parquet")[shard * SHARD_CLIPS : (shard + 1) * SHARD_CLIPS]
    audio = read_audio(recordings, pd.read_parquet(sides.path / "sides.parquet"), rows)
    seconds = 0.0
    with draft(Clips) as folder, pq.ParquetWriter(folder / "clips.parquet", SCHEMA) as writer:
        for start in range(0, len(rows), ROWS_A_GROUP):
            some = rows.iloc[start : start + ROWS_A_GROUP].to_dict("records")
            rendered = [render({str(name): value for name, value in row.items()}, block, audio) for row in some]
            seconds += sum(row.pop("seconds") for row in rendered)
            writer.write_table(pa.Table.from_pylist(rendered, schema=SCHEMA))
        writer.close()
        return Clips.of(folder, part=plan.part, clips=len(rows), hours=round(seconds / 3600, 4))


def render(row: dict[str, Any], block: ClipsBlock, audio: dict[str, Waveform]) -> dict[str, Any]:
    """One planned clip as a row of the clips table."""
    context = block.context
    n = n_samples(row["duration_ms"])
    around = n if pd.isna(row["cut_from_ms"]) else n_samples(row["cut_from_ms"])
    clip = render_clip(
        audio[row["recording_id"]],
        n=n,
        crop_seed=row["crop_seed"],
        noise=None if pd.isna(row["noise_id"]) else audio[row["noise_id"]],
        snr_db=None if pd.isna(row["snr_db"]) else row["snr_db"],
        noise_seed=row["noise_seed"],
        rir=None if pd.isna(row["room_id"]) else audio[row["room_id"]],
        band=row["band"],
        cut_from=around,
        context=context.kind if context else None,
        n_total=n_samples(context.total_ms) if context else None,
        normalise_to=block.normalise,
    )
    known = {name: None if pd.isna(row[name]) else row[name] for name in (*TEXT, *NUMBERS) if name in row}
    return {
        **known,
        "audio": {"bytes": encode_flac(clip.samples), "path": f"{row['clip_id']}.flac"},
        "base_clip_id": f"{row['recording_id']}@{clip.content_start - middle(n, around).start}",
        "room": room_name(row["room"]),
        "context": f"{context.kind} to {context.total_ms:g} ms" if context else "none",
        "snr_measured_db": None if pd.isna(row["snr_db"]) else clip.snr_db,
        "rms_dbfs": 20 * math.log10(rms(clip.samples)),
        "pcm_hash": pcm_hash(clip.samples),
        "seconds": len(clip.samples) / SAMPLE_RATE_HZ,
    }


def room_name(category: Any) -> str:
    """A room as reports speak of it: by its RT60 where it is known by that, else by its own name."""
    if pd.isna(category):
        return "anechoic"
    try:
        return f"rt60 {float(category):g} s"
    except ValueError:
        return str(category)


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
