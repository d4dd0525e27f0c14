"""Clips: one part planned, then rendered shard by shard as FLAC in parquet."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recipes.clips import SAMPLE_RATE_HZ, SHARD_CLIPS, ClipsBlock, room_name
from recipes.sampling import Sampled, refuse_absent_levels
from tasks.audio_files import decode_flac, encode_flac
from tasks.cache import cached, task
from tasks.functional.audio import Frames, Waveform, active_starts, activity, middle, n_samples, pcm16, rms
from tasks.functional.conditions import Condition, Levels, even_margins, factorial, one_at_a_time
from tasks.functional.design import CONTENT, NOISE, ROOM, cross_durations_and_snrs, design, refusal, unfilled
from tasks.functional.leakage import hash_of_pcm
from tasks.functional.mixing import render_clip
from tasks.functional.overlap import crowded
from tasks.run_page import say, show_table
from tasks.store import Clips, Plan, Recordings, Sides, draft

ROWS_A_GROUP = 256
TEXT = (
    "clip_id", "label", "part", "group_id", "supergroup_id", "base_clip_id", "recording_id", "category", "family", "licence",
    "noise_id", "noise_group_id", "noise_supergroup_id", "noise_licence", "room_id", "room_licence", "band", "room",
    "context", "varied", "pcm_hash",
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
    plan = design(table[table["part"] == part], seed=block.seed, **asked_of(block, classes))
    if block.design == "margins":
        crossed = cross_durations_and_snrs(plan[plan["label"] == classes[0]])
        rows = [{str(name): n for name, n in row.items()} for row in crossed.to_dict("records")]
        show_table(f"cells-{part}", rows, f"Clips of each class in {part}, by duration and SNR")
    if block.shards > 1:  # a shard decodes its recordings once
        plan = plan.sort_values(["recording_id", "clip_id"], ignore_index=True)
    with draft(Plan) as folder:
        plan.to_parquet(folder / "plan.parquet", index=False)
        return Plan.of(folder, part=part, clips=len(plan), shards=block.shards)


def check_cells(sides: pd.DataFrame, blocks: Mapping[str, ClipsBlock], classes: tuple[str, str]) -> None:
    """Raise ValueError with every level of every part that has no recording; `sides` are what each part was dealt.

    A recording whose length only decoding tells (duration_s NaN) counts as long enough.
    """
    table = sides.assign(duration_s=sides["duration_s"].fillna(math.inf))
    missing = {
        part: levels
        for part, block in blocks.items()
        if (levels := unfilled(table[table["part"] == part], **asked_of(block, classes)))
    }
    if missing:
        raise ValueError(refusal(missing, any(block.balance_families for block in blocks.values())))


def check_drawn(sides: pd.DataFrame, its: Sampled) -> None:
    """Raise ValueError where clips of a level are to be drawn oftener that no recording, noise or room of the training
    parts has; `sides` are what each part was dealt."""
    here = sides[sides["part"].isin(its.clips)]
    roles = {"content": {name: name for name in CONTENT}, "noise": NOISE, "room": ROOM}
    there: dict[str, list[Any]] = {}
    for role, columns in roles.items():
        own = here[here["role"] == role]
        for column, name in columns.items():
            none = role != "content" or own[column].isna().any()  # clips without noise or room have none
            there[name] = [*own[column].dropna().unique(), *([None] if none else [])]
    refuse_absent_levels(its, there)


def repeats(sides: pd.DataFrame, blocks: Mapping[str, ClipsBlock], classes: tuple[str, str]) -> list[str]:
    """A line for each part of which more clips are asked than its recordings hold; `sides` are what each part was dealt.

    Where the length of a recording is not known yet its class is not judged.
    """
    lines = []
    for part, block in blocks.items():
        asked = {name: its for name, its in asked_of(block, classes).items() if name != "noise_ms"}
        if found := crowded(sides[sides["part"] == part], **asked):
            names = dict.fromkeys(its.name for its in found)
            least = [min((its for its in found if its.name == name), key=lambda its: its.held) for name in names]
            held = ", ".join(
                f"{its.name} {its.held:,} at {its.duration_ms:g} ms (in {its.recordings:,} recordings)"
                for its in least
            )
            lines.append(
                f"clips.{block.counts_by} {block.per_part:,} asks for up to {max(its.asked for its in found):,} clips a "
                f"condition in {part}, and its recordings hold fewer that do not overlap: {held}. Clips of one condition "
                f"will share audio, which adds clips and hardly evidence: lower {block.counts_by}, or add recordings"
            )
    return lines


def tell_repeats(sides: Sides, blocks: Mapping[str, ClipsBlock], classes: tuple[str, str]) -> None:
    """Say where more clips are asked for than the recordings hold."""
    for line in repeats(pd.read_parquet(sides.path / "sides.parquet"), blocks, classes):
        say(line)


def asked_of(block: ClipsBlock, classes: tuple[str, str]) -> dict[str, Any]:
    """What a part's block asks of `design`, beside the seed."""
    return {
        "counts": conditions_of(block), "classes": classes, "noise_ms": block.noise_ms,
        "same_cuts": block.design == "one_at_a_time", "balance_families": block.balance_families,
    }  # fmt: skip


def conditions_of(block: ClipsBlock) -> Mapping[Condition, int]:
    """Clips of a class in each condition of one part's block."""
    n, levels = block.per_part, Levels(block.duration_ms, block.snr_db, block.band, block.room)
    assert isinstance(n, int), "a part's block comes from DatasetRecipe.clips_of"
    if block.design == "margins":
        return even_margins(levels, n, block.seed)
    if block.design == "factorial":
        return dict.fromkeys(factorial(levels), n)
    its = block.reference
    reference = Condition(its.duration_ms, its.snr_db, its.band, its.room)
    return dict.fromkeys(one_at_a_time(levels, reference, alone=its.alone), n)


@task(
    task_run_name="clips of {plan.part}, shard {shard}",
    **cached(libraries=("numpy", "scipy", "soxr", "soundfile", "pandas", "pyarrow")),
)
def render_clips(recordings: Sequence[Recordings], sides: Sides, plan: Plan, block: ClipsBlock, shard: int) -> Clips:
    """One shard of a part: room, band, crop by activity, ramp, mix at the exact SNR, normalise, encode."""
    planned = pq.read_table(plan.path / "plan.parquet").slice(shard * SHARD_CLIPS, SHARD_CLIPS).to_pylist()
    audio = read_audio(recordings, pd.read_parquet(sides.path / "sides.parquet"), planned)
    samples = 0
    with draft(Clips) as folder, pq.ParquetWriter(folder / "clips.parquet", SCHEMA) as writer:
        for start in range(0, len(planned), ROWS_A_GROUP):
            rendered = [render(row, block, audio) for row in planned[start : start + ROWS_A_GROUP]]
            for row in (
                rendered
            ):  # encoded when all are rendered: in turns each would find the other's data in the CPU's cache
                pcm = row.pop("pcm")
                samples += len(pcm)
                row["audio"] = {"bytes": encode_flac(pcm), "path": f"{row['clip_id']}.flac"}
            writer.write_table(pa.Table.from_pylist(rendered, schema=SCHEMA))
        writer.close()
        hours = round(samples / SAMPLE_RATE_HZ / 3600, 4)
        return Clips.of(folder, part=plan.part, clips=len(planned), hours=hours)


class Sound:
    """A recording, with what is found once for all clips that are cut from it."""

    def __init__(self, samples: Waveform) -> None:
        self.samples = samples
        self._active: Frames | None = None
        self._starts: dict[int, NDArray[np.intp]] = {}

    def starts(self, n: int) -> NDArray[np.intp]:
        """First samples of its active crops of `n` samples."""
        if n not in self._starts:
            self._active = activity(self.samples) if self._active is None else self._active
            self._starts[n] = active_starts(self.samples, n, active=self._active)
        return self._starts[n]


def render(row: dict[str, Any], block: ClipsBlock, audio: dict[str, Sound]) -> dict[str, Any]:
    """One planned clip, None where it has no such thing, as a row of the clips table, with `pcm` instead of `audio`."""
    context = block.context
    content = audio[row["recording_id"]]
    noise, room = (None if row[name] is None else audio[row[name]] for name in ("noise_id", "room_id"))
    n = n_samples(row["duration_ms"])
    around = n if row["cut_from_ms"] is None else n_samples(row["cut_from_ms"])
    clip = render_clip(
        content.samples,
        n=n,
        crop_seed=row["crop_seed"],
        noise=noise.samples if noise else None,
        snr_db=row["snr_db"],
        noise_seed=row["noise_seed"],
        rir=room.samples if room else None,
        band=row["band"],
        cut_from=around,
        context=context.kind if context else None,
        n_total=n_samples(context.total_ms) if context else None,
        normalise_to=block.normalise,
        starts=content.starts,
        noise_starts=noise.starts if noise else None,
    )
    pcm = pcm16(clip.samples)
    return {
        **{name: row[name] for name in (*TEXT, *NUMBERS) if name in row},
        "pcm": pcm,
        "base_clip_id": f"{row['recording_id']}@{clip.content_start - middle(n, around).start}",
        "room": room_name(row["room"]),
        "context": context.named if context else "none",
        "snr_measured_db": None if row["snr_db"] is None else clip.snr_db,
        "rms_dbfs": 20 * math.log10(rms(clip.samples)),
        "pcm_hash": hash_of_pcm(pcm),
    }


def read_audio(
    recordings: Sequence[Recordings], table: pd.DataFrame, planned: Sequence[Mapping[str, Any]]
) -> dict[str, Sound]:
    """The recordings, noises and rooms that planned clips name."""
    wanted = {row[column] for row in planned for column in ("recording_id", "noise_id", "room_id")} - {None}
    shelves = set(table.loc[table["recording_id"].isin(wanted), "shelf"])
    audio: dict[str, Sound] = {}
    for reference in recordings:
        if reference.fingerprint in shelves:
            file = pq.ParquetFile(reference.path / "recordings.parquet")
            for group in range(file.num_row_groups):  # one at a time: FLACs of hours need not be in memory together
                names = file.read_row_group(group, columns=["recording_id"])["recording_id"].to_pylist()
                if wanted.intersection(names):
                    flacs = file.read_row_group(group, columns=["flac"])["flac"]
                    sounds = zip(names, flacs, strict=True)
                    audio |= {name: Sound(decode_flac(flac.as_py())) for name, flac in sounds if name in wanted}
    return audio
