"""Evaluations that are killed: the real child scores many clips, dies by SIGKILL again and again, and goes on.

    python -m tests.bench.bench_resume [--clips 21340] [--kills 5]

Prints what was kept at every kill, what the last run still had to ask, and whether its table is that of a run that nobody
disturbed, byte by byte. Clips are 60 to 1000 ms of noise, the model is the untrained tiny one: it is about the scores that
are kept, not about what they say.
"""

import argparse
import os
import random
import signal
import tempfile
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks import child
from tasks.models import tiny
from tasks.models.jobs import Question, ScoringJob
from tasks.models.score_log import folder
from tasks.store import sha256
from tests.bench.scoring_rows import PROMPTS, make_clips

CHILD = "tasks.detectors.audio_llm"
DURATIONS_MS = (60, 80, 100, 200, 500, 1000)


def main() -> None:
    """Print a line a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=21_340)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as place:
        base, clips = prepared(Path(place), given.clips)
        calm, seconds = scored(Path(place), "calm", base, clips)
        print(f"undisturbed: {given.clips:,} clips, forward and generated, in {seconds:.0f} s", flush=True)
        for kill in range(given.kills):
            scored(Path(place), "killed", base, clips, kill_after_s=draw.uniform(0.15, 0.6) * seconds)
            kept = sum(path.read_bytes().count(b"\n") for path in folder().glob("*.jsonl"))
            print(f"kill {kill + 1}: {kept:,} batches kept", flush=True)
        resumed, seconds = scored(Path(place), "killed", base, clips)
        same = "the same table to the byte" if resumed == calm else "ANOTHER TABLE"
        print(f"gone on with, to its end in {seconds:.0f} s: {same}")
        again, seconds = scored(Path(place), "killed", base, clips)
        print(f"once more, all of it kept, in {seconds:.0f} s: {'the same' if again == calm else 'ANOTHER TABLE'}")
    if {resumed, again} != {calm}:
        raise SystemExit(1)


def prepared(place: Path, n: int) -> tuple[Path, Path]:
    """A tiny base, and a parquet of clips."""
    processor = tiny.make_processor()
    tiny.make_model(processor, seed=3).save_pretrained(place / "base")
    processor.save_pretrained(place / "base")
    rows = [
        {"clip_id": f"c{i}", "audio": {"bytes": clip, "path": ""}}
        for i, clip in enumerate(make_clips(n, DURATIONS_MS))
    ]
    pq.write_table(pa.Table.from_pylist(rows), place / "test.parquet", row_group_size=256)
    return place / "base", place / "test.parquet"


def scored(place: Path, home: str, base: Path, clips: Path, kill_after_s: float = 0) -> tuple[str, float]:
    """The digest of the table of one run in one home, "" where it was killed, and how long it took."""
    os.environ["EARSHOT_HOME"] = str(place / home)
    output = Path(tempfile.mkdtemp(dir=place))
    job = ScoringJob(
        base=str(base), revision=None, quantization=None, device="cpu", output=str(output), adapter=None,
        question=Question(classes=("SPEECH", "NONSPEECH"), answers=("A", "B"), prompt=PROMPTS[0], longest_ms=1000),
        clips={"test": (str(clips),)}, generate_on=("test",), batch_size=None, base_revision="0" * 40, code="bench",
    )  # fmt: skip
    timer = threading.Timer(kill_after_s, kill)
    if kill_after_s:
        timer.start()
    begin = time.perf_counter()
    try:
        job.run(CHILD, what="scoring", on_line=lambda line: None, timeout_min=60)
    except ValueError:
        if not kill_after_s:
            raise
    finally:
        timer.cancel()
    table = output / "scores.parquet"
    return sha256(table) if table.exists() else "", time.perf_counter() - begin


def kill() -> None:
    """SIGKILL to every child at work."""
    for process in list(child._working):
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
