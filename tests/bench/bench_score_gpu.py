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
from torch import nn

from tasks.models import qwen2_audio as family
from tasks.models import tiny
from tasks.models.encoding import kept_encodings
from tasks.models.frames import SAMPLE_RATE_HZ, audio_tokens, trimmed_frames
from tasks.models.scoring import Question, questions
from tests.bench.scoring_rows import PROMPTS, Row, make_clips, more_prompts, original, ours

AUDIO = {
    "model_type": "qwen2_audio_encoder", "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120, "num_mel_bins": 128, "max_source_positions": 1500,
}  # fmt: skip
TEXT = {
    "model_type": "qwen2", "vocab_size": 156_032, "hidden_size": 4096, "intermediate_size": 11_008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip
TOKENS = audio_tokens(SAMPLE_RATE_HZ)  # of a clip of 1 s


def make_model(processor: Any, device: str) -> nn.Module:
    """Qwen2-Audio-7B in bf16 with random weights; the processor's own few tokens lie within its vocabulary."""
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

    tokenizer = processor.tokenizer
    text = {
        **TEXT,
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    audio_id = tokenizer.convert_tokens_to_ids(processor.audio_token)
    config = Qwen2AudioConfig(audio_config=AUDIO, text_config=text, audio_token_index=audio_id)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return Qwen2AudioForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def quantise(model: nn.Module, *, everything: bool = False) -> nn.Module:
    """Linear layers in NF4, in place, as bitsandbytes does while loading: those of the language model, or `everything`
    but the head, with the original project's settings (constants quantised too, products in float16)."""
    import bitsandbytes as bnb

    settings = {"quant_type": "nf4", "compress_statistics": everything}
    compute = torch.float16 if everything else torch.bfloat16
    for parent in list((model.model if everything else model.model.language_model).modules()):
        for name, linear in list(parent.named_children()):
            if isinstance(linear, nn.Linear):
                four = bnb.nn.Linear4bit(
                    linear.in_features, linear.out_features, bias=linear.bias is not None, compute_dtype=compute,
                    device="meta", **settings,
                )  # fmt: skip
                weight = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, **settings)
                four.weight, four.bias = weight.to(linear.weight.device), linear.bias
                setattr(parent, name, four)
    torch.cuda.empty_cache()
    return model


def measured_peak() -> tuple[float, float]:
    """FLOP/s of a bf16 matrix product of 8192 x 8192 x 8192, and bytes/s of a copy, read and written: both medians."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    big = torch.empty(2_000_000_000, device="cuda", dtype=torch.int8)
    target = torch.empty_like(big)
    return 2 * 8192**3 / median_seconds(lambda: a @ b), 2 * big.nbytes / median_seconds(lambda: target.copy_(big))


def median_seconds(work: Any, repeats: int = 20) -> float:
    """By CUDA events, after three calls to warm up."""
    for _ in range(3):
        work()
    events = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(repeats)]
    for begin, end in events:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return float(np.median([begin.elapsed_time(end) for begin, end in events])) / 1000


def language_flop(new: int, before: int) -> float:
    """Operations of the language model for one clip's `new` tokens behind `before` others, and of the head."""
    width, inner, layers = TEXT["hidden_size"], TEXT["intermediate_size"], TEXT["num_hidden_layers"]
    token = 2 * (4 * width**2 + 3 * width * inner)
    keys = sum(range(before + 1, before + new + 1))
    whole = new * token + 4 * width * keys
    last = 2 * new * 2 * width**2 + (token - 4 * width**2) + 4 * width * (before + new)
    return (layers - 1) * whole + last + 2 * width * TEXT["vocab_size"]


def encoder_flop(frames: int) -> float:
    """Operations of the encoder and the projector for one clip of so many mel frames."""
    width, inner = AUDIO["d_model"], AUDIO["encoder_ffn_dim"]
    places = frames // 2
    layer = places * 2 * (4 * width**2 + 2 * width * inner) + 4 * width * places**2
    convolutions = 2 * 3 * (frames * AUDIO["num_mel_bins"] * width + places * width**2)
    return AUDIO["encoder_layers"] * layer + convolutions + 2 * (places // 2) * width * TEXT["hidden_size"]


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
        bf16 = [ours("encoder cache, bf16", model, processor, clips, asked[:1], cache=kept_encodings(model))]
        bf16.append(more_prompts("one more prompt, bf16", model, processor, clips, asked, cache=kept_encodings(model)))
        agree("bf16", bf16, plain)
        quantise(model)
        for size in (64, 256):
            name = f"generate, constrained, trimmed, batch {size}, NF4"
            rows.append(ours(name, model, processor, clips[: 8 * size], asked[:1], method="generate", batch_size=size))
        rows.append(ours("one forward, trimmed, last position, NF4", model, processor, clips, asked[:1]))
        rows.append(ours("encoder cache, NF4", model, processor, clips, asked[:1], cache=kept_encodings(model)))
        rows.append(more_prompts("one more prompt, NF4", model, processor, clips, asked, cache=kept_encodings(model)))
        agree("NF4", rows[2:], rows[1])
        show([*rows, *bf16], asked, peak)
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
    whole, encoder = language_flop(TOKENS + after, before), encoder_flop(trimmed_frames(SAMPLE_RATE_HZ))
    extra = float(np.mean([language_flop(len(q.prompt.after) - 2, before + TOKENS + 2) for q in asked[2:]]))
    for row in rows:
        line = f"{row.name:54} {row.clips_per_s:7.1f} clips/s {row.clips_per_s / rows[0].clips_per_s:6.1f} x"
        if row.scorer:
            flop = extra if "more prompt" in row.name else whole if "cache" in row.name else whole + encoder
            size = row.scorer.sizes.take([TOKENS + after] * 10_000)
            line += (f" {flop * row.clips_per_s / peak:5.2f} of peak, {row.bytes_peak / 1e9:5.1f} GB, batches of {size:4d}, "
                     f"GPU waits {row.scorer.clock.waiting_share() or 0:.1%}")  # fmt: skip
        print(line, flush=True)


def floors(asked: Sequence[Question], peak: float, bandwidth: float) -> None:
    """The least time a clip can take: operations over the peak; weights read once a batch over the bandwidth."""
    before, after = (len(part) for part in (asked[0].prompt.before, asked[0].prompt.after))
    whole = language_flop(TOKENS + after, before)
    width, inner = TEXT["hidden_size"], TEXT["intermediate_size"]
    weights = 2 * TEXT["num_hidden_layers"] * (4 * width**2 + 3 * width * inner)
    print(f"a clip of {TOKENS} audio tokens, {after} tokens of text behind and {before} before: {whole / 1e12:.3f} TFLOP "
          f"for the language model, at most {peak / whole:.0f} clips/s; encoder "
          f"{encoder_flop(trimmed_frames(SAMPLE_RATE_HZ)) / 1e12:.3f} TFLOP; bf16 weights take "
          f"{1000 * weights / bandwidth:.1f} ms a batch, {bandwidth / weights * 256:.0f} clips/s at 256")  # fmt: skip


if __name__ == "__main__":
    main()
