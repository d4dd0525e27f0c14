"""How fast clips are rendered: against a loop that calls librosa.load for every clip, with 1 and 2 processes, and memory.

    python -m tests.bench.bench_build [--clips 8000] [--rounds 5] [--memory-clips 200000]

The loop loads the content and the noise of each clip whole, as most scripts do, and renders and encodes with our own
functions, so that only the reading differs. What it costs depends on the recordings, so there is a line for each of three
kinds of file, which the bench makes itself:

short   5 s, 44.1 kHz mono, as ESC-50's
medium  30 s, 44.1 kHz stereo, as the excerpts of FMA (decoded) and the longest files of FSD50K
long    120 s, 16 kHz mono, as those of VoxConverse, AMI and MUSAN: nothing to resample

`with gathering` counts the decoding of every recording, which a build does once and keeps, among the time of these clips.
All is measured in turn in one run; `--memory-clips 0` leaves out the long build.
"""

import argparse
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import librosa
import numpy as np
import pandas as pd
import soundfile

RECORDINGS, NOISES = 24, 8  # of each class, and in all
DURATIONS_MS, SNRS_DB = (100, 200, 500, 1000), (-5, 0, 10, 20)
CLASSES = ("SPEECH", "NONSPEECH")


class Files(NamedTuple):
    """What the recordings are like."""

    seconds: int
    rate_hz: int
    channels: int


KINDS = {"short": Files(5, 44_100, 1), "medium": Files(30, 44_100, 2), "long": Files(120, 16_000, 1)}


class Job(NamedTuple):
    """One part's plan and what it is rendered from; `gathered_s` is what decoding it took."""

    gathered_s: float
    recordings: tuple[object, ...]
    sides: object
    plan: object
    block: object


def write_corpus(folder: Path, files: Files) -> None:
    """Bursts of noise of two classes and stretches of noise, with metadata.csv."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for k in range(2 * RECORDINGS + NOISES):
        label = CLASSES[k % 2] if k < 2 * RECORDINGS else "noise"
        loud = np.repeat(draw.uniform(0.02, 0.3, 10 * files.seconds), files.rate_hz // 10)[:, None]
        waves = loud * draw.standard_normal((len(loud), files.channels))
        soundfile.write(folder / f"{k}.wav", waves, files.rate_hz)
        rows.append({"file": f"{k}.wav", "label": label, "group_id": f"g{k}"})
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)


def prepare(folder: Path, clips: int) -> Job:
    """Recordings decoded once, dealt, and `clips` clips of one part planned."""
    from recipes.clips import ClipsBlock
    from recipes.data import SplitsBlock
    from recipes.sources import TableSource
    from tasks.clips import plan_clips
    from tasks.recordings import deal_sides, gather_recordings

    def source(role: str, *labels: str) -> TableSource:
        return TableSource(kind="table", root=str(folder), role=role, where={"label": labels})

    begin = time.perf_counter()
    recordings = tuple(
        gather_recordings.fn(its, "") for its in (source("content", *CLASSES), source("noise", "noise"))
    )
    gathered_s = time.perf_counter() - begin
    sides = deal_sides.fn(recordings, SplitsBlock(folds=3))
    cells = 2 * len(DURATIONS_MS) * len(SNRS_DB)
    block = ClipsBlock(duration_ms=DURATIONS_MS, snr_db=SNRS_DB, per_cell=max(1, clips // cells))
    return Job(gathered_s, recordings, sides, plan_clips.fn(sides, block, "part0", CLASSES), block)


def render(job: Job, shard: int) -> int:
    """One shard; its clips."""
    from tasks.clips import render_clips

    return render_clips.fn(job.recordings, job.sides, job.plan, job.block, shard).clips


def render_all(job: Job, processes: int) -> float:
    """Clips a second over all shards."""
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        list(pool.map(abs, range(processes)))  # started before the clock
        begin = time.perf_counter()
        clips = sum(pool.map(render, [job] * job.plan.shards, range(job.plan.shards)))
        return clips / (time.perf_counter() - begin)


def render_by_librosa(job: Job, folder: Path, clips: int) -> float:
    """Clips a second of the loop that most scripts have: load content, load noise, mix, encode."""
    from tasks.audio_files import encode_flac
    from tasks.functional.audio import n_samples
    from tasks.functional.mixing import render_clip

    rows = pd.read_parquet(job.plan.path / "plan.parquet").sample(clips, random_state=0)
    begin = time.perf_counter()
    for row in rows.itertuples():
        content, noise = (librosa.load(folder / name, sr=16_000)[0] for name in (row.recording_id, row.noise_id))
        clip = render_clip(content, n=n_samples(row.duration_ms), crop_seed=row.crop_seed, noise=noise,
                           snr_db=row.snr_db, noise_seed=row.noise_seed)  # fmt: skip
        encode_flac(clip.samples)
    return clips / (time.perf_counter() - begin)


def peak_memory_mb(job: Job, shards: Sequence[int]) -> float:
    """Peak resident memory of a process that renders these shards one after another."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for shard in shards:
            pool.submit(render, job, shard).result()
        return pool.submit(own_peak_mb).result()


def own_peak_mb() -> float:
    """Peak resident memory of this process in MB; `ru_maxrss` would count that of the process which started it too."""
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) / 1024


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-clips", type=int, default=200_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["EARSHOT_HOME"] = str(Path(scratch) / "home")
        print(f"{asked.clips:,} clips; clips/s, medians of {asked.rounds} rounds in turn")
        print(f"{'files':>8} {'librosa.load':>13} {'1 process':>10} {'ratio':>7} {'with gathering':>15} {'ratio':>7} "
              f"{'2 processes':>12} {'of one':>7}")  # fmt: skip
        for name, files in KINDS.items():
            folder = Path(scratch) / name
            write_corpus(folder, files)
            job = prepare(folder, asked.clips)
            print(f"{name:>8} {speeds(job, folder, asked.rounds)}", flush=True)
        if asked.memory_clips:
            small = peak_memory_mb(job, range(min(2, job.plan.shards)))
            big = prepare(folder, asked.memory_clips)
            peak = peak_memory_mb(big, range(big.plan.shards))
            print(f"peak memory, {2 * 2_000:,} clips of long files    {small:8.0f} MB")
            print(f"peak memory, {big.plan.clips:,} clips of long files  {peak:8.0f} MB   {peak / small:6.2f} x")


def speeds(job: Job, folder: Path, rounds: int) -> str:
    """One kind of files' line: loop, one process, with gathering, two processes."""
    render_by_librosa(job, folder, 5)  # warm
    each = [(render_by_librosa(job, folder, 60), render_all(job, 1), render_all(job, 2)) for _ in range(rounds)]
    loop, one, two = np.median(each, axis=0)
    whole = job.plan.clips / (job.plan.clips / one + job.gathered_s)
    ratios = f"{one:>10.0f} {one / loop:>6.1f}x {whole:>15.0f} {whole / loop:>6.1f}x {two:>12.0f} {two / one:>6.2f}x"
    return f"{loop:>13.1f} {ratios}"


if __name__ == "__main__":
    main()
