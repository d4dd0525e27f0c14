"""How fast clips are rendered: against a loop that calls librosa.load for every clip, with 1 and 2 processes, and memory.

    python -m tests.bench.bench_build [--clips 8000] [--rounds 5] [--memory-clips 200000]

Everything is measured in one run, on recordings of 5 s at 44.1 kHz in stereo that it makes itself; `--memory-clips 0`
leaves out the long build.
"""

import argparse
import multiprocessing
import os
import resource
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

RATE_HZ, SECONDS, RECORDINGS, NOISES = 44_100, 5, 24, 8
DURATIONS_MS, SNRS_DB = (100, 200, 500, 1000), (-5, 0, 10, 20)
CLASSES = ("SPEECH", "NONSPEECH")


class Job(NamedTuple):
    """One part's plan and what it is rendered from."""

    recordings: tuple[object, ...]
    sides: object
    plan: object
    block: object


def write_corpus(folder: Path) -> None:
    """Bursts of noise of two classes and stretches of noise, with metadata.csv."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for k in range(2 * RECORDINGS + NOISES):
        label = CLASSES[k % 2] if k < 2 * RECORDINGS else "noise"
        loud = np.repeat(draw.uniform(0.02, 0.3, 10 * SECONDS), RATE_HZ // 10)[:, None]
        soundfile.write(folder / f"{k}.wav", loud * draw.standard_normal((len(loud), 2)), RATE_HZ)
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

    recordings = tuple(
        gather_recordings.fn(its, "") for its in (source("content", *CLASSES), source("noise", "noise"))
    )
    sides = deal_sides.fn(recordings, SplitsBlock(folds=3))
    cells = 2 * len(DURATIONS_MS) * len(SNRS_DB)
    block = ClipsBlock(duration_ms=DURATIONS_MS, snr_db=SNRS_DB, per_cell=max(1, clips // cells))
    return Job(recordings, sides, plan_clips.fn(sides, block, "part0", CLASSES), block)


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
    """Peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-clips", type=int, default=200_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["EARSHOT_HOME"] = str(Path(scratch) / "home")
        write_corpus(Path(scratch) / "corpus")
        job = prepare(Path(scratch) / "corpus", asked.clips)
        render_by_librosa(job, Path(scratch) / "corpus", 5)  # warm
        speeds = [
            (render_by_librosa(job, Path(scratch) / "corpus", 60), render_all(job, 1), render_all(job, 2))
            for _ in range(asked.rounds)
        ]
        loop, one, two = np.median(speeds, axis=0)
        print(f"librosa.load per clip, 1 process   {loop:8.1f} clips/s   (medians of {asked.rounds} rounds in turn)")
        print(f"ours, 1 process                    {one:8.1f} clips/s   {one / loop:6.1f} x")
        print(f"ours, 2 processes                  {two:8.1f} clips/s   {two / one:6.2f} x of one")
        if asked.memory_clips:
            small = peak_memory_mb(job, range(min(2, job.plan.shards)))
            big = prepare(Path(scratch) / "corpus", asked.memory_clips)
            peak = peak_memory_mb(big, range(big.plan.shards))
            print(f"peak memory, {2 * 2_000:,} clips         {small:8.0f} MB")
            print(f"peak memory, {big.plan.clips:,} clips       {peak:8.0f} MB   {peak / small:6.2f} x")


if __name__ == "__main__":
    main()
