"""Qwen2.5-Omni-7B's thinker on one GPU: transformers' own way against ours, memory and speed, all in one run.

    python -m tests.bench.bench_families_gpu [--clips 1024] [--original 16] [--rows cached ...]

Weights are random and of full size, made on the GPU: nothing is downloaded. Clips are 1 s long. Scoring goes from FLAC in
memory to P in memory; a row of training is the child's own `main`, as in bench_train_gpu. The share of the peak is of what
the linear layers and the head compute behind the question's start, over a large bf16 matrix product in the same run.
"""

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from tasks.models import family
from tasks.models.encoding import kept_encodings
from tasks.models.frames import SAMPLE_RATE_HZ, audio_tokens
from tasks.models.scoring import questions
from tests import tiny_omni
from tests.bench import bench_train_gpu
from tests.bench.real_size import measured_peak, quantise
from tests.bench.scoring_rows import PROMPTS, Row, make_clips, original, ours

TEXT = {
    "model_type": "qwen2_5_omni_text", "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}  # fmt: skip
EYES = {"model_type": "qwen2_5_omni_vision_encoder", "depth": 1}  # nobody looks through them


def make_config(processor: Any) -> Any:
    """The configuration of Qwen2.5-Omni-7B's thinker; the encoder's is what transformers has by default."""
    config = tiny_omni.make_config(processor)
    tokens = {name: getattr(config.text_config, name) for name in ("pad_token_id", "eos_token_id")}
    audio = {"model_type": "qwen2_5_omni_audio_encoder"}
    found = type(config)(audio_config=audio, vision_config=EYES, text_config={**TEXT, **tokens})
    for name in ("audio_token_index", "image_token_index", "video_token_index", "vision_start_token_id",
                 "audio_start_token_id", "audio_end_token_id"):  # fmt: skip
        setattr(found, name, getattr(config, name))
    return found


def make_model(processor: Any, device: str) -> nn.Module:
    """The thinker in bf16 with random weights."""
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return Qwen2_5OmniThinkerForConditionalGeneration(make_config(processor)).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1024)
    parser.add_argument("--original", type=int, default=16, help="clips of the baseline")
    parser.add_argument("--rows", nargs="*", choices=[*bench_train_gpu.ROWS], default=["cached"], help="of training")
    given = parser.parse_args()
    started = time.perf_counter()
    processor, flacs = tiny_omni.make_processor(padded_s=300), make_clips(given.clips, [1000])
    with tempfile.TemporaryDirectory() as home:
        os.environ["EARSHOT_HOME"] = home
        peak, _ = measured_peak()
        print(f"{torch.cuda.get_device_name()}: bf16 matrix product {peak / 1e12:.0f} TFLOP/s", flush=True)
        score(processor, flacs, given.original, peak)
        gc.collect()
        torch.cuda.empty_cache()
        train(processor, flacs, given.rows, Path(home))
    print(f"{time.perf_counter() - started:.0f} s in all")


def score(processor: Any, flacs: Sequence[bytes], few: int, peak: float) -> None:
    """Rows of scoring, and how far P is from transformers' own padded model of the same weights."""
    asked = questions(processor, PROMPTS[:1], ["A", "B"])
    model = make_model(processor, "cuda")
    print(f"{sum(its.numel() for its in model.parameters()) / 1e9:.2f} billion parameters", flush=True)
    rows = [original("transformers' own: generate, batch 1, padded, bf16", model, processor, flacs[:few], PROMPTS[0],
                     asked[0], 1)]  # fmt: skip
    model = family.prepare(model)
    rows.append(ours("one forward, trimmed, last position, bf16", model, processor, flacs, asked))
    rows.append(ours("generate, constrained, trimmed, batch 64, bf16", model, processor, flacs[:512], asked,
                     method="generate", batch_size=64))  # fmt: skip
    rows.append(ours("encoder cache, bf16", model, processor, flacs, asked, cache=kept_encodings(model)))
    apart = max(float(np.abs(row.p_first[:few] - rows[0].p_first).max()) for row in rows[1:])
    print(f"bf16: P at most {apart:.4f} from the padded model's; sd of P over clips {rows[0].p_first.std():.4f}")
    quantise(model)
    rows.append(ours("encoder cache, NF4", model, processor, flacs, asked, cache=kept_encodings(model)))
    behind = audio_tokens(SAMPLE_RATE_HZ) + len(asked[0].prompt.after)
    show(rows, flop_of(behind), peak)


def flop_of(tokens: int) -> float:
    """Of one clip's tokens in the language model's linear layers, and of the head at the last one."""
    width, inner, keys = TEXT["hidden_size"], TEXT["intermediate_size"], 2 * 128 * TEXT["num_key_value_heads"]
    layer = 2 * width**2 + keys * width + 3 * width * inner
    return 2.0 * (TEXT["num_hidden_layers"] * layer * tokens + width * TEXT["vocab_size"])


def show(rows: Sequence[Row], flop: float, peak: float) -> None:
    """One line a row: clips/s, ratio to the first, share of the peak, memory."""
    for row in rows:
        line = f"{row.name:54} {row.clips_per_s:7.1f} clips/s {row.clips_per_s / rows[0].clips_per_s:6.1f} x"
        if row.scorer:
            line += f" {flop * row.clips_per_s / peak:5.2f} of peak, {row.bytes_peak / 1e9:5.1f} GB"
        print(line, flush=True)


def train(processor: Any, flacs: Sequence[bytes], rows: Sequence[str], home: Path) -> None:
    """Rows of training: an adapter of rank 16 on q, k, v and o."""
    clips = str(home / "clips.parquet")
    table = [
        {
            "clip_id": f"c{k}",
            "label": "SPEECH" if k % 2 else "NONSPEECH",
            "audio": {"bytes": one, "path": f"c{k}.flac"},
        }
        for k, one in enumerate(flacs)
    ]
    pq.write_table(pa.Table.from_pylist(table), clips)
    for row in rows:
        (folder := home / row).mkdir()
        with (
            mock.patch.object(bench_train_gpu, "make_model", make_model),
            mock.patch.object(bench_train_gpu, "make_config", make_config),
        ):
            found = bench_train_gpu.ours(bench_train_gpu.ROWS[row], processor, clips, folder, watched=False)
        print(f"training, {found.name}: {found.clips_per_s:.1f} clips/s, batches of {found.at_once}, "
              f"{found.bytes_peak / 1e9:.1f} GB", flush=True)  # fmt: skip
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
