"""Scoring with Qwen2-Audio-7B on one GPU: the original way against ours, all in one run, ratios side by side.

    python -m tests.bench.bench_score_gpu [--clips 2048] [--original 24]

Weights are random and of full size, made on the GPU: nothing is downloaded. Clips are 1 s long. Every row goes from FLAC
in memory to P in memory, features included. The share of the peak is what a row computes over what a large bf16 matrix
product reaches in the same run.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tasks.models import family, tiny
from tasks.models.encoding import kept_encodings
from tasks.models.frames import POOLED, SAMPLE_RATE_HZ
from tasks.models.latency import measure
from tasks.models.scoring import Question, questions
from tests.bench.real_size import TEXT, encoder_flop, language_flop, make_model, measured_peak, quantise
from tests.bench.scoring_rows import PROMPTS, Row, make_clips, more_prompts, original, ours

TOKENS = POOLED.audio_tokens(SAMPLE_RATE_HZ)  # of a clip of 1 s


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2048)
    parser.add_argument("--original", type=int, default=24, help="clips of the baseline")
    given = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as home:
        os.environ["EARSHOT_HOME"] = home
        processor = tiny.make_processor()
        asked = questions(processor, PROMPTS, ["A", "B"])
        clips = make_clips(given.clips, [1000])
        few = clips[: given.original]
        peak, bandwidth = measured_peak()
        print(f"{torch.cuda.get_device_name()}: bf16 matrix product {peak / 1e12:.0f} TFLOP/s, copy "
              f"{bandwidth / 1e12:.2f} TB/s", flush=True)  # fmt: skip
        floors(asked, peak, bandwidth)

        model = quantise(make_model(processor, "cuda"), everything=True)
        name = "the original: generate, batch 1, padded to 30 s, NF4"
        rows = [original(name, model, processor, few, PROMPTS[0], asked[0], 2)]
        model = make_model(processor, "cuda")
        plain = original("plain, bf16", model, processor, few, PROMPTS[0], asked[0], 1)
        name = "the same, one token, encoder in bf16"
        rows.append(original(name, quantise(model), processor, few, PROMPTS[0], asked[0], 1))

        model = family.prepare(make_model(processor, "cuda"))  # the same weights
        bf16 = [
            ours("encoder cache, bf16", model, processor, clips, asked[:1], cache=kept_encodings(model, processor))
        ]
        bf16.append(
            more_prompts(
                "one more prompt, bf16", model, processor, clips, asked, cache=kept_encodings(model, processor)
            )
        )
        agree("bf16", bf16, plain)
        quantise(model)
        for size in (64, 256):
            name = f"generate, constrained, trimmed, batch {size}, NF4"
            rows.append(ours(name, model, processor, clips[: 8 * size], asked[:1], method="generate", batch_size=size))
        rows.append(ours("one forward, trimmed, last position, NF4", model, processor, clips, asked[:1]))
        rows.append(
            ours("encoder cache, NF4", model, processor, clips, asked[:1], cache=kept_encodings(model, processor))
        )
        rows.append(
            more_prompts(
                "one more prompt, NF4", model, processor, clips, asked, cache=kept_encodings(model, processor)
            )
        )
        agree("NF4", rows[2:], rows[1])
        show([*rows, *bf16], asked, peak)
        show_latency(measure(model, processor, asked[0], clips))
    print(f"{time.perf_counter() - started:.0f} s in all")


def agree(name: str, rows: Sequence[Row], plain: Row) -> None:
    """How far each way of asking is from the plain padded model, beside how much P differs between clips."""
    apart = max(float(np.abs(row.p_first[: len(plain.p_first)] - plain.p_first).max()) for row in rows)
    print(f"{name}: P at most {apart:.4f} from the plain padded model's; sd of P over clips {plain.p_first.std():.4f}")
    said = [row for row in rows if row.name.startswith("generate")]
    for row, other in itertools.product(said, [row for row in rows if not row.name.startswith("generate")]):
        far = np.abs(row.p_first - other.p_first[: len(row.p_first)])
        print(f"  {row.name} and {other.name}: P at most {far.max():.4f} apart over {len(far)} clips")


def show(rows: Sequence[Row], asked: Sequence[Question], peak: float) -> None:
    """One line a row: clips/s, ratio to the first, share of the peak, memory, share of time that the GPU waited."""
    before, after = (len(part) for part in (asked[0].prompt.before, asked[0].prompt.after))
    whole, encoder = language_flop(TOKENS + after, before), encoder_flop(POOLED.trimmed_frames(SAMPLE_RATE_HZ))
    extra = float(np.mean([language_flop(len(q.prompt.after) - 2, before + TOKENS + 2) for q in asked[2:]]))
    for row in rows:
        line = f"{row.name:54} {row.clips_per_s:7.1f} clips/s {row.clips_per_s / rows[0].clips_per_s:6.1f} x"
        if row.scorer:
            flop = extra if "more prompt" in row.name else whole if "cache" in row.name else whole + encoder
            size = row.scorer.sizes.take([TOKENS + after] * 10_000)
            line += (f" {flop * row.clips_per_s / peak:5.2f} of peak, {row.bytes_peak / 1e9:5.1f} GB, batches of {size:4d}, "
                     f"GPU waits {row.scorer.clock.waiting_share() or 0:.1%}")  # fmt: skip
        print(line, flush=True)


def show_latency(found: dict[str, Any]) -> None:
    """What one clip takes alone, stage by stage."""
    stages = ", ".join(f"{name} {ms['median']:.1f} ({ms['p95']:.1f})" for name, ms in found["ms"].items())
    print(f"one clip alone, warm, NF4, ms, median (95th percentile) over {found['clips']} clips: {stages}", flush=True)


def floors(asked: Sequence[Question], peak: float, bandwidth: float) -> None:
    """The least time a clip can take: operations over the peak; weights read once a batch over the bandwidth."""
    before, after = (len(part) for part in (asked[0].prompt.before, asked[0].prompt.after))
    whole = language_flop(TOKENS + after, before)
    width, inner = TEXT["hidden_size"], TEXT["intermediate_size"]
    weights = 2 * TEXT["num_hidden_layers"] * (4 * width**2 + 3 * width * inner)
    print(f"a clip of {TOKENS} audio tokens, {after} tokens of text behind and {before} before: {whole / 1e12:.3f} TFLOP "
          f"for the language model, at most {peak / whole:.0f} clips/s; encoder "
          f"{encoder_flop(POOLED.trimmed_frames(SAMPLE_RATE_HZ)) / 1e12:.3f} TFLOP; bf16 weights take "
          f"{1000 * weights / bandwidth:.1f} ms a batch, {bandwidth / weights * 256:.0f} clips/s at 256")  # fmt: skip


if __name__ == "__main__":
    main()
