"""The child process that scores clips with an audio LLM."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from torch import nn
from transformers import AutoProcessor

from tasks.models import qwen2_audio as family
from tasks.models.encoding import kept_encodings
from tasks.models.jobs import ScoringJob
from tasks.models.listening import NoProcessorWarnings, check
from tasks.models.scoring import Method, Question, Scorer, questions
from tasks.models.training import alike_on_every_cpu, pick_device, with_dtype

METHODS: tuple[Method, ...] = ("forward", "generate")


def main(path: str) -> None:
    """Write scores.parquet: clip_id, split, method, p_speech, prediction, answer_mass; listening.json and times apart."""
    job = ScoringJob.model_validate_json(Path(path).read_text(encoding="utf-8"))
    processor = AutoProcessor.from_pretrained(job.base, revision=job.revision, trust_remote_code=False)
    with NoProcessorWarnings():
        model = load(job)
        scorer = Scorer(model, processor, kept_encodings(model), job.batch_size)
        (question,) = questions(processor, [job.question.prompt], job.question.answers)
        clips = {split: read(files) for split, files in job.clips.items() if files}
        heard = check(scorer, processor, question, job.question.prompt, next(iter(clips.values())).flacs)
        tables, seconds = [], {}
        for split, its in clips.items():
            for method in METHODS if split in job.generate_on else METHODS[:1]:
                begin = time.perf_counter()
                scores = score(scorer, its.flacs, question, job.question.classes, method)
                seconds[f"{split}_{method}_ms_per_clip"] = 1000 * (time.perf_counter() - begin) / len(its.ids)
                print(f"{split}, {method}: {len(its.ids)} clips", flush=True)
                tables.append(scores.assign(clip_id=its.ids, split=split, method=method))
    pd.concat(tables, ignore_index=True).to_parquet(Path(job.output, "scores.parquet"), index=False)
    Path(job.output, "listening.json").write_text(json.dumps(heard), encoding="utf-8")
    timing = {"ms_per_clip": seconds, "rounded": next(model.parameters()).dtype != torch.float32}
    Path(job.output, "timing.json").write_text(json.dumps(timing), encoding="utf-8")
    if (waited := scorer.clock.waiting_share()) is not None:
        print(f"the GPU waited {waited:.1%} of the time between batches", flush=True)


def load(job: ScoringJob) -> nn.Module:
    """The base with or without an adapter, ready to be asked. Raises ValueError where the adapter does not fit whole."""
    device = pick_device(job.device, threads=1)  # base and adapters are scored side by side
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = family.load(
        job.base,
        revision=job.revision,
        quantization=with_dtype(job.quantization, dtype),
        dtype=dtype,
        device=device,
    )
    model = alike_on_every_cpu(model)
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


class Clips(NamedTuple):
    """Clips of one split: ids and FLAC."""

    ids: list[str]
    flacs: list[bytes]


def read(files: Sequence[str]) -> Clips:
    """The clips of clip parquets, in the order of the files."""
    clips = Clips([], [])
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(256, columns=["clip_id", "audio"]):
            for row in batch.to_pylist():
                clips.ids.append(row["clip_id"])
                clips.flacs.append(row["audio"]["bytes"])
    return clips


def score(
    scorer: Scorer, clips: Sequence[bytes], question: Question, classes: tuple[str, str], method: Method
) -> pd.DataFrame:
    """p_speech, prediction and answer_mass of clips in their order.

    The prediction is the likeliest allowed token, as greedy generation has it; P sums over the tokens of an answer, so
    near .5 the two may differ.
    """
    (answers,) = scorer.score(clips, [question], method)
    said = np.where(answers.said_first, *classes)
    return pd.DataFrame({"p_speech": answers.p_first, "prediction": said, "answer_mass": answers.answer_mass})
