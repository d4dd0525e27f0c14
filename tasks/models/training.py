"""The child process that trains one adapter with TRL; where a GPU may come into it, under `accelerate launch`."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from torch import nn
from transformers import AutoProcessor

from tasks.functional.decoding import answer_scores
from tasks.models import qwen2_audio as family
from tasks.models.collation import Collator
from tasks.models.encoding import Encoder, kept_encodings
from tasks.models.jobs import TrainingJob
from tasks.models.trainer import fit

CPU_THREADS = 2  # sums over threads differ in the last bit: the same number everywhere gives the same weights
GATE_CLIPS = 1_000  # at most so many training clips are scored for the gate


def main(path: str) -> None:
    """Train what the job says and leave adapter, training.json and parts.json in its output folder."""
    job = TrainingJob.model_validate_json(Path(path).read_text(encoding="utf-8"))
    device = pick_device(job.device)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    if device == "cuda" and job.memory_gb:
        allow_memory(job.memory_gb)
    torch.manual_seed(job.seed)
    processor = AutoProcessor.from_pretrained(job.base, revision=job.revision, trust_remote_code=False)
    model = family.load(
        job.base,
        revision=job.revision,
        quantization=with_dtype(job.quantization, dtype),
        dtype=dtype,
        device=device,
    )
    clips = read_clips(job.clips)
    # Before LoRA: as scoring encodes, so that both find each other's vectors.
    encoded = encode_once(model, processor, clips) if job.scope == "language_model" else None
    model = add_lora(alike_on_every_cpu(model), job)
    parts = family.trainable_by_part(model)
    print("trainable parameters: " + ", ".join(f"{part} {count:,}" for part, count in parts.items()), flush=True)
    answers = dict(zip(job.question.classes, job.question.answers, strict=True))
    frozen = not parts["encoder"] + parts["projector"]
    collate = Collator(processor, clips, job.question.prompt, answers, job.loss_on, encoded if frozen else None)
    with contextlib.ExitStack() as aside:
        if encoded and frozen:
            aside.enter_context(family.encoder_aside(model))
        aside.enter_context(family.few_words(model, sorted(collate.tokens)))
        history = fit(
            model, processor, clips, collate, job.training, seed=job.seed, output=job.output, device=device,
            batch_size=job.batch_size,
        )  # fmt: skip
        accuracy = restricted_accuracy(model, collate)
    save(model, job)
    facts = {
        "history": history,
        "train_accuracy": accuracy,
        "parameters": parts,
        "dtype": str(dtype),
        "device": device,
    }
    Path(job.output, "training.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def pick_device(wish: str, threads: int = CPU_THREADS) -> str:
    """The device to use; on a CPU with that many threads. Raises ValueError where CUDA is asked for and absent."""
    if wish == "cuda" and not torch.cuda.is_available():
        raise ValueError("the recipe asks for `device: cuda` and this machine has no CUDA GPU; see `earshot doctor`")
    device = "cuda" if wish == "cuda" or (wish == "auto" and torch.cuda.is_available()) else "cpu"
    if device == "cpu":
        torch.set_num_threads(threads)
    return device


def allow_memory(gigabytes: float) -> None:
    """Let this process use no more than so many GB of its GPU. Raises ValueError where the card has less."""
    total = torch.cuda.mem_get_info()[1] / 1e9
    if gigabytes > total:
        raise ValueError(f"train.memory_gb: {gigabytes:g} GB are more than the {total:.1f} GB of this GPU")
    torch.cuda.set_per_process_memory_fraction(gigabytes / total)


def with_dtype(quantization: dict[str, Any] | None, dtype: torch.dtype) -> dict[str, Any] | None:
    """The quantization block with its compute dtype following the model unless the recipe names one."""
    if not quantization:
        return None
    return {"bnb_4bit_compute_dtype": str(dtype).removeprefix("torch."), **quantization}


def alike_on_every_cpu(model: nn.Module) -> nn.Module:
    """The model with 4-bit layers that answer by the weights they were trained with.

    On a CPU with AVX512-BF16 bitsandbytes would pack them anew for inference: another rounding, and an error where the
    width of a layer is no multiple of its blocks, as in the tiny base.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def add_lora(model: nn.Module, job: TrainingJob) -> nn.Module:
    """The model with fresh adapters on its scope, seeded.

    What is not quantised keeps its dtype: peft's preparation would widen embedding and head, 5 GB of a 7 B model, to
    float32.
    """
    from peft import get_peft_model

    torch.manual_seed(job.seed)
    return get_peft_model(model, family.lora_config(job.lora, job.scope))


def read_clips(files: Sequence[str]) -> Dataset:
    """Rows of clip parquets in memory, in the order of the files."""
    tables = [pq.read_table(file, columns=["clip_id", "label", "audio"]).replace_schema_metadata() for file in files]
    rows = Dataset(tables[0]) if len(tables) == 1 else None
    if rows is None:
        import pyarrow as pa

        rows = Dataset(pa.concat_tables(tables))
    return rows.add_column("row", list(range(len(rows))))


def encode_once(model: nn.Module, processor: Any, clips: Dataset) -> list[family.Encoded]:
    """What a frozen encoder makes of the clips, for every epoch; kept in the home for other seeds and evaluations."""
    cache = kept_encodings(model)
    encoded = Encoder(model, processor, cache).encode_all([audio["bytes"] for audio in clips["audio"]])
    print(f"{len(encoded)} training clips encoded once", flush=True)
    return encoded


def restricted_accuracy(model: nn.Module, collate: Collator, batch_size: int = 64) -> float:
    """Share of (at most GATE_CLIPS) training clips answered right when only the two answers are allowed."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    plain.eval()
    first = next(iter(collate.completions))
    chosen = np.random.default_rng(0).permutation(len(collate.labels))[:GATE_CLIPS].tolist()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(chosen), batch_size):
            index = chosen[start : start + batch_size]
            batch = {key: value.to(plain.device) for key, value in collate.prompts(index).items()}
            p_first = answer_scores(family.last_logits(plain, batch).cpu().numpy(), collate.answer_ids).p_first
            right += sum((p >= 0.5) == (collate.labels[i] == first) for p, i in zip(p_first, index, strict=True))
    return right / len(chosen)


def save(model: nn.Module, job: TrainingJob) -> None:
    """Adapter weights and configuration, naming the base by its public name and revision; no generated card."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = job.base_name
        config.revision = job.base_revision
        config.target_modules = sorted(config.target_modules)  # a set: its order differs from process to process
    model.save_pretrained(job.output, safe_serialization=True)
    Path(job.output, "README.md").unlink(missing_ok=True)
