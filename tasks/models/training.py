"""The child process that trains one adapter with TRL; where a GPU may come into it, under `accelerate launch`."""

import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from datasets import Dataset
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig

from recipes.sampling import level_name
from tasks.audio_files import decode_flac, encode_flac, samples_of
from tasks.functional.decoding import answer_scores
from tasks.models import family
from tasks.models.aside import encoder_aside, few_words
from tasks.models.batch_size import memory_limit
from tasks.models.collation import Collator
from tasks.models.devices import alike_on_every_cpu, allow_memory, pick_device, with_dtype
from tasks.models.encoding import Encoder, kept_encodings
from tasks.models.families import facts_of
from tasks.models.frames import SAMPLE_RATE_HZ
from tasks.models.jobs import FULL_WEIGHTS, TrainingJob
from tasks.models.processes import say
from tasks.models.room import check_room
from tasks.models.scope import (
    lora_config,
    refuse_adapted_experts,
    refuse_beyond,
    refuse_unknown_targets,
    trainable_by_part,
    unfreeze,
)
from tasks.models.trainer import fit

GATE_CLIPS = 1_000  # at most so many training clips are scored for the gate


def main(path: str) -> None:
    """Do the job in a file, and say in a sentence where the GPU's memory does not suffice."""
    job = TrainingJob.model_validate_json(Path(path).read_text(encoding="utf-8"))
    device = pick_device(job.device)
    PartialState(cpu=device == "cpu")
    if device == "cuda":
        if job.memory_gb:
            allow_memory(job.memory_gb)
        config = AutoConfig.from_pretrained(job.base, revision=job.revision, trust_remote_code=False)
        check_room(job, config, memory_limit(torch.device("cuda")))
    try:
        train(job, device)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"the GPU's memory does not suffice ({str(error).split('.')[0]}): set "
            "training.per_device_train_batch_size=auto, training.gradient_checkpointing=true or scope=language_model"
        ) from error


def train(job: TrainingJob, device: str) -> None:
    """Train what the job says and leave adapter and training.json in its output folder."""
    torch.manual_seed(job.seed)
    processor = family.load_processor(job.base, job.revision)
    every = cut_clips(read_clips([*job.clips, *job.dev]), job.max_audio_ms)
    clips, dev = parted(every, sum(pq.read_metadata(file).num_rows for file in job.clips))
    refuse_one_sided(clips, job.question.classes)
    row_weights = weights_of(job.clips, job.sampling)
    model, dtype = load_base(job, device)  # minutes, for a 7 B model: what can be refused has been
    base_class = facts_of(model).base_class
    # Before LoRA: as scoring encodes, so that both find each other's vectors.
    frozen = job.scope == "language_model" and not job.augment
    encoded = encode_once(model, processor, every) if frozen else None
    model = to_train(alike_on_every_cpu(model), job)
    parts = trainable_by_part(model)
    say("trainable parameters: " + ", ".join(f"{part} {count:,}" for part, count in parts.items()))
    answers = dict(zip(job.question.classes, job.question.answers, strict=True))
    collate = Collator(
        processor, every, job.question.prompt, answers, job.loss_on, encoded, augment=job.augment,
        noises=rows_of_class(clips, job.question.classes[1]), class_weight=job.loss.class_weight, seed=job.seed,
    )  # fmt: skip
    with contextlib.ExitStack() as aside:
        if encoded:
            aside.enter_context(encoder_aside(model))
        aside.enter_context(few_words(model, sorted(collate.tokens)))
        history = fit(
            model, processor, clips, collate, job.training, seed=job.seed, output=job.output, device=device,
            batch_size=job.batch_size, dev=dev, loss=job.loss, row_weights=row_weights,
            early_stopping=job.early_stopping, checkpoints=job.checkpoints,
        )  # fmt: skip
        if not PartialState().is_main_process:
            return
        accuracy = restricted_accuracy(model, collate, len(clips))
    save(model, job)
    facts = {
        "history": history,
        "train_accuracy": accuracy,
        "parameters": parts,
        "dtype": str(dtype),
        "device": device,
        "base_class": base_class,
    }
    Path(job.output, "training.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_base(job: TrainingJob, device: str) -> tuple[nn.Module, torch.dtype]:
    """The base on this process's device; every parameter in float32 where all of them are to be trained."""
    dtype = torch.bfloat16 if device == "cuda" and job.lora is not None else torch.float32
    place = f"cuda:{PartialState().local_process_index}" if device == "cuda" else device
    quantization = with_dtype(job.quantization, dtype)
    model = family.load(job.base, revision=job.revision, quantization=quantization, dtype=dtype, device=place)
    return model, dtype


def parted(every: Dataset, of_train: int) -> tuple[Dataset, Dataset | None]:
    """Training rows and, where there are more, those of dev."""
    clips = every.select(range(of_train))
    if len(every) == of_train:
        return clips, None
    rest = every.select(range(of_train, len(every)))
    return clips, rest.add_column("dev", [True] * len(rest))


def rows_of_class(clips: Dataset, name: str) -> list[int]:
    """Where clips of one class stand."""
    return [row for row, label in enumerate(clips["label"]) if label == name]


def refuse_one_sided(clips: Dataset, classes: Sequence[str]) -> None:
    """Raise ValueError where a class has no training clip, or a clip no class."""
    counts = Counter(clips["label"])
    if empty := [name for name in classes if not counts[name]]:
        raise ValueError(f"no training clip is {empty[0]}: an adapter would learn to answer {sorted(counts)} always")
    if unknown := sorted(set(counts) - set(classes)):
        raise ValueError(f"{counts[unknown[0]]} training clips are {unknown[0]!r}, the classes are {list(classes)}")


def cut_clips(clips: Dataset, max_audio_ms: float | None) -> Dataset:
    """Clips no longer than so many ms: longer ones cut to their beginning."""
    if max_audio_ms is None:
        return clips
    most = round(max_audio_ms * SAMPLE_RATE_HZ / 1000)

    def cut(audio: dict[str, Any]) -> dict[str, Any]:
        if samples_of(audio["bytes"]) <= most:
            return audio
        return {**audio, "bytes": encode_flac(decode_flac(audio["bytes"])[:most])}

    columns = {name: list(clips[name]) for name in clips.column_names}
    return Dataset.from_dict({**columns, "audio": [cut(audio) for audio in columns["audio"]]})


def weights_of(files: Sequence[str], sampling: Mapping[str, Mapping[str | float, float]]) -> list[float] | None:
    """How often each row is drawn, the product over factors of the weight of its level; None where all are alike.

    Raises ValueError for a factor that clips do not have and for a level that none of them is of.
    """
    if not sampling:
        return None
    weights = None
    for factor, by_level in sampling.items():
        try:
            levels = [level for file in files for level in pq.read_table(file, columns=[factor])[factor].to_pylist()]
        except (KeyError, pa.ArrowInvalid) as error:
            known = pq.read_schema(files[0]).names
            raise ValueError(f"sampling.{factor} is no column of the clips; they have {', '.join(known)}") from error
        named = {level_name(level): weight for level, weight in by_level.items()}
        names = [level_name(level) for level in levels]
        if unknown := sorted(set(named) - set(names)):
            raise ValueError(
                f"sampling.{factor}: no training clip has {unknown[0]}; there are {', '.join(sorted(set(names)))}"
            )
        drawn = [named.get(name, 1.0) for name in names]
        weights = drawn if weights is None else [a * b for a, b in zip(weights, drawn, strict=True)]
    assert weights is not None
    if not sum(weights):
        raise ValueError("sampling leaves no training clip a weight above 0")
    return weights


def to_train(model: nn.Module, job: TrainingJob) -> nn.Module:
    """The model with fresh adapters on its scope, seeded; without `lora` with every parameter in scope to be trained.

    What is not quantised keeps its dtype: peft's preparation would widen embedding and head, 5 GB of a 7 B model, to
    float32.
    """
    from peft import get_peft_model

    torch.manual_seed(job.seed)
    if job.lora is None:
        return unfreeze(model, job.scope)
    try:
        adapted = get_peft_model(model, lora_config(model, job.lora, job.scope))
        refuse_adapted_experts(adapted)
        refuse_unknown_targets(adapted.get_base_model(), job.lora, job.scope)
        refuse_beyond(adapted.get_base_model(), job.scope)
    except ValueError as error:
        raise ValueError(f"lora: {error}") from error
    return adapted


def read_clips(files: Sequence[str]) -> Dataset:
    """Rows of clip parquets in memory, in the order of the files."""
    tables = [pq.read_table(file, columns=["clip_id", "label", "audio"]).replace_schema_metadata() for file in files]
    rows = Dataset(pa.concat_tables(tables))
    return rows.add_column("row", list(range(len(rows))))


def encode_once(model: nn.Module, processor: Any, clips: Dataset) -> list[family.Encoded]:
    """What a frozen encoder makes of the clips, for every epoch; kept in the home for other seeds and evaluations."""
    with PartialState().local_main_process_first():  # the others find what the first has encoded
        encoder = Encoder(model, processor, kept_encodings(model, processor))
        encoded = encoder.encode_all([audio["bytes"] for audio in clips["audio"]])
    say(f"{len(encoded)} clips encoded once")
    return encoded


def restricted_accuracy(model: nn.Module, collate: Collator, n: int | None = None, batch_size: int = 64) -> float:
    """Share of clips answered right when only the two answers are allowed, in [0, 1]: of the first `n` rows, by default
    all, GATE_CLIPS drawn at most."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    plain.eval()
    first = next(iter(collate.completions))
    chosen = np.random.default_rng(0).permutation(n or len(collate.labels))[:GATE_CLIPS].tolist()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(chosen), batch_size):
            index = chosen[start : start + batch_size]
            batch = {key: value.to(plain.device) for key, value in collate.prompts(index).items()}
            p_first = answer_scores(family.last_logits(plain, batch).cpu().numpy(), collate.answer_ids).p_first
            right += sum((p >= 0.5) == (collate.labels[i] == first) for p, i in zip(p_first, index, strict=True))
    return right / len(chosen)


def save(model: nn.Module, job: TrainingJob) -> None:
    """Adapter weights and configuration, naming the base by its public name and revision, or all weights that were
    trained; no generated card."""
    if job.lora is None:
        trained = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
        save_file(trained, Path(job.output, FULL_WEIGHTS))
        return
    for config in model.peft_config.values():
        config.base_model_name_or_path = job.base_name
        config.revision = job.base_revision
        if not isinstance(config.target_modules, str):  # one pattern for all stays as it is
            config.target_modules = sorted(config.target_modules)  # a set: its order differs from process to process
    # "auto" would ask the Hub for the base's vocabulary, and save all of an embedding that has an adapter
    model.save_pretrained(job.output, safe_serialization=True, save_embedding_layers=False)
    Path(job.output, "README.md").unlink(missing_ok=True)
