"""The child process that scores clips with an audio LLM: `python -m tasks.detectors.audio_llm JOB.json`."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from torch import nn
from transformers import AutoProcessor

from tasks.audio_files import decode_flac
from tasks.child import serve
from tasks.functional.decoding import answer_scores, answers_token_ids
from tasks.models import qwen2_audio as family
from tasks.models.jobs import ScoringJob
from tasks.models.training import pick_device, with_dtype


def main(path: str) -> None:
    """Write scores.parquet: clip_id, split, method, p_first, prediction, answer_mass; latency apart."""
    job = ScoringJob.model_validate_json(Path(path).read_text(encoding="utf-8"))
    processor = AutoProcessor.from_pretrained(job.base, revision=job.revision, trust_remote_code=False)
    model = load(job)
    tables, seconds = [], {}
    for split, files in job.clips.items():
        ids, clips = read(files, processor, job.question.frames)
        for method in ("forward", "generate") if split in job.generate_on else ("forward",):
            begin = time.perf_counter()
            scores = score(model, processor, clips, job, method)
            seconds[f"{split}_{method}_ms_per_clip"] = 1000 * (time.perf_counter() - begin) / len(clips)
            print(f"{split}, {method}: {len(clips)} clips", flush=True)
            tables.append(scores.assign(clip_id=ids, split=split, method=method))
    pd.concat(tables, ignore_index=True).to_parquet(Path(job.output, "scores.parquet"), index=False)
    timing = {"ms_per_clip": seconds, "rounded": next(model.parameters()).dtype != torch.float32}
    Path(job.output, "timing.json").write_text(json.dumps(timing), encoding="utf-8")


def load(job: ScoringJob) -> nn.Module:
    """The base with or without an adapter, ready to be asked. Raises ValueError where the adapter does not fit whole."""
    device = pick_device(job.device, threads=1)  # base and adapters are scored side by side
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = family.load(
        job.base,
        revision=job.revision,
        frames=job.question.frames,
        quantization=with_dtype(job.quantization, dtype),
        dtype=dtype,
        device=device,
    )
    if job.adapter:
        from peft import PeftModel
        from peft.utils.save_and_load import load_peft_weights

        wrapped = PeftModel.from_pretrained(model, job.adapter)
        stored = set(load_peft_weights(job.adapter, device="cpu"))
        expected = {name.replace(".default", "") for name in wrapped.state_dict() if "lora_" in name}
        if stored != expected:
            raise ValueError(
                f"the adapter does not fit this base: {len(expected - stored)} of its {len(expected)} tensors are missing "
                f"and {len(stored - expected)} are unknown; it was made for another base or another transformers"
            )
        model = wrapped.get_base_model()  # the adapter's layers stay in it
    return model.eval()


def read(files: Sequence[str], processor: Any, frames: int) -> tuple[list[str], list[family.Clip]]:
    """Clip ids and features of clip parquets."""
    ids: list[str] = []
    clips: list[family.Clip] = []
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(256, columns=["clip_id", "audio"]):
            for row in batch.to_pylist():
                ids.append(row["clip_id"])
                clips.append(family.extract(processor, decode_flac(row["audio"]["bytes"]), frames))
    return ids, clips


def score(
    model: nn.Module, processor: Any, clips: Sequence[family.Clip], job: ScoringJob, method: str
) -> pd.DataFrame:
    """p_first, prediction and answer_mass of clips in their order; batches are made of clips of like length.

    The prediction is the likeliest allowed token, as greedy generation has it; P sums over the tokens of an answer, so
    near .5 the two may differ.
    """
    tokenizer = processor.tokenizer
    prompt = family.tokenise_prompt(processor, job.question.prompt)
    ids = answers_token_ids(tokenizer, job.question.answers)
    allowed = sorted(token for tokens in ids.values() for token in tokens)
    order = np.argsort([clip.tokens for clip in clips], kind="stable")
    p_first, mass = np.empty(len(clips)), np.empty(len(clips))
    said_first = np.empty(len(clips), dtype=bool)
    for start in range(0, len(order), job.batch_size):
        index = order[start : start + job.batch_size]
        batch = family.collate([clips[i] for i in index], prompt, [[]] * len(index), tokenizer.pad_token_id)
        batch = {key: value.to(model.device) for key, value in batch.items()}
        with torch.inference_mode():
            if method == "generate":
                said, logits = family.generated_logits(model, batch, allowed)
            else:
                logits = family.last_logits(model, batch)
                said = torch.tensor(allowed)[logits[:, allowed].argmax(dim=1).cpu()]
        p_first[index], mass[index] = answer_scores(logits.cpu().numpy(), ids)
        said_first[index] = np.isin(said.cpu().numpy(), ids[job.question.answers[0]])
    prediction = np.where(said_first, *job.question.classes)
    return pd.DataFrame({"p_speech": p_first, "prediction": prediction, "answer_mass": mass})


if __name__ == "__main__":
    serve(main, sys.argv[1])
