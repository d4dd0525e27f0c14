"""How far rounding moves P at real size, of an adapter that was trained: what the checks of agreement have to allow.

    python -m tests.bench.bench_rounding_gpu [--clips 4096] [--steps 60] [--base nf4 bf16]

Qwen2-Audio-7B with random weights learns, as a study's adapter does, to tell voiced tones from noise that swells, of
40 ms to 1 s, from -10 to 20 dB in white noise; other such clips are then asked as an evaluation asks them. Three lines a
base: one forward beside constrained generation, beside another batch size, and bf16 beside float32, which is what a CPU
computes (a GPU test holds the two together). Each tells P's largest and root mean square difference, that of the log odds
where P is no surer than .98, and the answers that are others with the surest of them. Nothing is downloaded.
"""

import argparse
import gc
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoConfig

from tasks.audio_files import encode_flac
from tasks.models import family, tiny, training
from tasks.models.adapted import with_adapter
from tasks.models.jobs import Question, TrainingJob
from tasks.models.listening import check, log_odds
from tasks.models.scoring import Scorer, questions
from tests.bench.bench_train_gpu import LORA, NF4, made
from tests.bench.real_size import make_config
from tests.bench.scoring_rows import PROMPTS

CLASSES, ANSWERS = ("SPEECH", "NONSPEECH"), ("A", "B")
LEARNT, IN_FLOAT32 = 2048, 512  # clips; float32 is slow


def main() -> None:
    """Train and compare over each base."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--base", nargs="+", choices=["nf4", "bf16"], default=["nf4", "bf16"])
    given = parser.parse_args()
    labels, flacs = draw(LEARNT + given.clips)
    processor = tiny.make_processor()
    for base in given.base:
        with tempfile.TemporaryDirectory() as home:
            os.environ["EARSHOT_HOME"] = home
            load = made(processor, base == "nf4", None)
            with (
                mock.patch.object(family, "load_processor", return_value=processor),
                mock.patch.object(AutoConfig, "from_pretrained", return_value=make_config(processor)),
                mock.patch.object(family, "load", load),
            ):
                train(labels[:LEARNT], flacs[:LEARNT], Path(home), base, given.steps)
            gc.collect()
            torch.cuda.empty_cache()
            print(f"{torch.cuda.get_device_name()}, base in {base}:")
            compare(with_adapter(load(), home).eval(), processor, labels[LEARNT:], flacs[LEARNT:])
        gc.collect()
        torch.cuda.empty_cache()


def draw(n: int) -> tuple[list[str], list[bytes]]:
    """Labels and FLAC: harmonics of a gliding pitch that come and go four times a second, or noise that swells as fast."""
    random, labels, flacs = np.random.default_rng(11), [], []
    for k in range(n):
        seconds = np.arange(round(16 * float(random.choice([40, 100, 300, 1000])))) / 16_000
        swell = 1 + 0.9 * np.sin(2 * np.pi * (4 * seconds + random.uniform()))
        cycles = random.uniform(90, 260) * (seconds + random.uniform(-0.2, 0.2) * seconds**2) + random.uniform()
        voiced = sum(np.sin(2 * np.pi * order * cycles) / order for order in range(1, 13))
        heard = swell * (voiced if k % 2 else random.standard_normal(len(seconds)))
        noise = random.standard_normal(len(seconds)) * heard.std() * 10 ** (-random.uniform(-10, 20) / 20)
        labels.append(CLASSES[1 - k % 2])
        flacs.append(encode_flac(0.1 * (heard + noise) / (heard + noise).std()))
    return labels, flacs


def train(labels: Sequence[str], flacs: Sequence[bytes], home: Path, base: str, steps: int) -> None:
    """The child's own `main`, which leaves the adapter in the home."""
    clips = str(home / "clips.parquet")
    rows = zip(labels, flacs, strict=True)
    pq.write_table(
        pa.Table.from_pylist([
            {"clip_id": f"c{k}", "label": label, "audio": {"bytes": flac, "path": f"c{k}.flac"}}
            for k, (label, flac) in enumerate(rows)
        ]), clips)  # fmt: skip
    question = Question(classes=CLASSES, answers=ANSWERS, prompt=PROMPTS[0], longest_ms=1000)
    job = TrainingJob(
        base="random", revision=None, base_name="random/7b", base_revision="0" * 40, question=question, device="cuda",
        quantization=NF4 if base == "nf4" else None, lora=LORA, scope="language_model",
        output=str(home), clips=(clips,), loss_on="answer", seed=1, batch_size=256,
        training={"per_device_train_batch_size": 128, "max_steps": steps, "logging_steps": 10, "learning_rate": 5e-4,
                  "tf32": False},
    )  # fmt: skip
    (home / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
    training.main(str(home / "job.json"))


def compare(model: nn.Module, processor: Any, labels: Sequence[str], flacs: Sequence[bytes]) -> None:
    """What the adapter is like, what the checks of listening find, and the three lines."""
    asked = questions(processor, PROMPTS[:1], ANSWERS)

    def p(n: int = len(flacs), method: Any = "forward", batch_size: int | None = None) -> NDArray[np.float64]:
        return Scorer(model, processor, None, batch_size).score(flacs[:n], asked, method)[0].p_first

    forward = p()
    right = np.mean((forward >= 0.5) == (np.array(labels) == CLASSES[0]))
    unsure = np.mean(np.abs(forward - 0.5) < 0.25)
    print(f"  {len(flacs)} other clips: {right:.3f} right, sd of the log odds {log_odds(forward).std():.2f}, "
          f"{unsure:.3f} of P between .25 and .75", flush=True)  # fmt: skip
    heard = check(Scorer(model, processor), processor, asked[0], PROMPTS[0], flacs)
    told = {name: heard[name]["largest_difference"] for name in ("swap", "batch_composition", "left_padding")}
    print(f"  listening, {heard['clips']} clips, P may move by {heard['tolerance']}: " + str(told))
    say("generation", forward, p(method="generate"))
    say("batches of 7", forward[:1024], p(1024, batch_size=7))
    few = min(IN_FLOAT32, len(flacs))
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = torch.float32
    model.float()
    say("float32", forward[:few], p(few))


def say(what: str, one: NDArray[np.float64], other: NDArray[np.float64]) -> None:
    """The line of a comparison."""
    apart, flips = np.abs(one - other), (one >= 0.5) != (other >= 0.5)
    odds = (log_odds(one) - log_odds(other))[np.abs(one - 0.5) < 0.48]
    surest = np.abs(one - 0.5)[flips].max(initial=0)
    print(f"  forward and {what}, {len(one)} clips: P at most {apart.max():.4f} apart, rms {rms(apart):.4f}; log odds at "
          f"most {np.abs(odds).max(initial=0):.3f}, rms {rms(odds):.3f}; {flips.sum()} other answers, P at most "
          f"{surest:.3f} from .5", flush=True)  # fmt: skip


def rms(values: NDArray[np.float64]) -> float:
    """Root mean square."""
    return float(np.sqrt((values**2).mean()))


if __name__ == "__main__":
    main()
