"""An Omni's thinker of real size on one GPU: transformers' own way against ours, memory and speed, all in one run.

    python -m tests.bench.bench_families_gpu [--clips 1024] [--original 16] [--rows cached ...]
    python -m tests.bench.bench_families_gpu --family Qwen3-Omni --rows bf16 80gb  # 30B-A3B: 63 GB of weights
    python -m tests.bench.bench_families_gpu --exact [--family Qwen3-Omni]         # float32: 34 GB, 126 GB of weights

Weights are random and of full size, made on the GPU: nothing is downloaded. Experts are left unquantised by everybody, so
that Qwen3-Omni has no row in NF4. Clips are 1 s long. Scoring goes from FLAC in
memory to P in memory; a row of training is the child's own `main`, as in bench_train_gpu. The share of the peak is of what
the linear layers and the head compute behind the question's start, over a large bf16 matrix product in the same run.
`--exact` asks instead whether ours and transformers' own agree where rounding hides nothing, over clips of 40 ms to 1 s.
"""

import argparse
import functools
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

from tasks.models import family
from tasks.models.encoding import kept_encodings
from tasks.models.frames import SAMPLE_RATE_HZ
from tasks.models.scoring import questions
from tasks.models.trainer import operations
from tests import tiny_omni
from tests.bench import bench_train_gpu
from tests.bench.real_size import make_omni, make_omni_config, measured_peak, quantise
from tests.bench.scoring_rows import PROMPTS, Row, make_clips, original, ours

ROWS = {
    **bench_train_gpu.ROWS,
    "80gb": bench_train_gpu.ROWS["bf16"]._replace(name="the same within 80 GB", memory_gb=80.0),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=[*tiny_omni.OMNIS], default="Qwen2.5-Omni")
    parser.add_argument("--clips", type=int, default=1024)
    parser.add_argument("--original", type=int, default=16, help="clips of the baseline")
    parser.add_argument("--exact", action="store_true", help="only P in float32 beside transformers' own")
    parser.add_argument("--rows", nargs="*", choices=[*ROWS], default=["cached"], help="of training")
    given = parser.parse_args()
    started = time.perf_counter()
    omni = tiny_omni.OMNIS[given.family]
    processor, flacs = tiny_omni.make_processor(omni, padded_s=300), make_clips(given.clips, [1000])
    with tempfile.TemporaryDirectory() as home:
        os.environ["EARSHOT_HOME"] = home
        if given.exact:
            show_exact(omni, processor, make_clips(given.original, [40, 100, 300, 1000]))
        else:
            peak, _ = measured_peak()
            print(f"{torch.cuda.get_device_name()}: bf16 matrix product {peak / 1e12:.0f} TFLOP/s", flush=True)
            score(omni, processor, flacs, given.original, peak)
            gc.collect()
            torch.cuda.empty_cache()
            train(omni, processor, flacs, given.rows, Path(home))
    print(f"{time.perf_counter() - started:.0f} s in all")


def score(omni: tiny_omni.Omni, processor: Any, flacs: Sequence[bytes], few: int, peak: float) -> None:
    """Rows of scoring, and how far P is from transformers' own padded model of the same weights."""
    asked = questions(processor, PROMPTS[:1], ["A", "B"])
    model = make_omni(omni, processor, "cuda")
    print(f"{sum(its.numel() for its in model.parameters()) / 1e9:.2f} billion parameters", flush=True)
    rows = [original("transformers' own: generate, batch 1, padded, bf16", model, processor, flacs[:few], PROMPTS[0],
                     asked[0], 1)]  # fmt: skip
    model = family.prepare(model)
    rows.append(ours("one forward, trimmed, last position, bf16", model, processor, flacs, asked))
    rows.append(ours("generate, constrained, trimmed, batch 64, bf16", model, processor, flacs[:512], asked,
                     method="generate", batch_size=64))  # fmt: skip
    rows.append(ours("encoder cache, bf16", model, processor, flacs, asked, cache=kept_encodings(model, processor)))
    apart = max(float(np.abs(row.p_first[:few] - rows[0].p_first).max()) for row in rows[1:])
    print(f"bf16: P at most {apart:.4f} from the padded model's; sd of P over clips {rows[0].p_first.std():.4f}")
    token, label = operations(model.requires_grad_(False))  # there and back
    if omni.module.size_of(model.config).expert_layers == 0:
        quantise(model)
        rows.append(ours("encoder cache, NF4", model, processor, flacs, asked, cache=kept_encodings(model, processor)))
    behind = omni.facts.rate.audio_tokens(SAMPLE_RATE_HZ) + len(asked[0].prompt.after)
    show(rows, (token * behind + label) / 2, peak)


def show_exact(omni: tiny_omni.Omni, processor: Any, flacs: Sequence[bytes]) -> None:
    """How far P of each way of asking is from transformers' own padded model of the same weights, in float32."""
    asked = questions(processor, PROMPTS[:1], ["A", "B"])
    model = make_omni(omni, processor, "cuda", torch.float32)
    theirs = original("transformers' own, float32", model, processor, flacs, PROMPTS[0], asked[0], 1).p_first
    model = family.prepare(model)
    print(
        f"{omni.facts.name} in float32 on {torch.cuda.get_device_name()}, {len(flacs)} clips: sd of P {theirs.std():.6f}"
    )
    cache = kept_encodings(model, processor)
    rows = [
        ours("one forward, trimmed, last position", model, processor, flacs, asked),
        ours("generate, constrained, trimmed", model, processor, flacs, asked, method="generate"),
        ours("encoder cache", model, processor, flacs, asked, cache=cache),
    ]
    for row in rows:
        print(f"{row.name:40} P at most {np.abs(row.p_first - theirs).max():.1e} from transformers' own", flush=True)


def show(rows: Sequence[Row], flop: float, peak: float) -> None:
    """One line a row: clips/s, ratio to the first, share of the peak, memory."""
    for row in rows:
        line = f"{row.name:54} {row.clips_per_s:7.1f} clips/s {row.clips_per_s / rows[0].clips_per_s:6.1f} x"
        if row.scorer:
            line += f" {flop * row.clips_per_s / peak:5.2f} of peak, {row.bytes_peak / 1e9:5.1f} GB"
        print(line, flush=True)


def train(omni: tiny_omni.Omni, processor: Any, flacs: Sequence[bytes], rows: Sequence[str], home: Path) -> None:
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
            mock.patch.object(bench_train_gpu, "make_model", functools.partial(make_omni, omni)),
            mock.patch.object(bench_train_gpu, "make_config", functools.partial(make_omni_config, omni)),
        ):
            found = bench_train_gpu.ours(ROWS[row], processor, clips, folder, watched=False)
        print(f"training, {found.name}: {found.clips_per_s:.1f} clips/s, batches of {found.at_once}, "
              f"{found.bytes_peak / 1e9:.1f} GB", flush=True)  # fmt: skip
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
