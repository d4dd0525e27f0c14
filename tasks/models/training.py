"""The child process that trains one adapter with TRL; where a GPU may come into it, under `accelerate launch`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from torch import nn
from transformers import AutoProcessor, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from tasks.audio_files import decode_flac
from tasks.functional.decoding import answer_scores, answers_token_ids
from tasks.models import qwen2_audio as family
from tasks.models.encoding import Encoder, kept_encodings
from tasks.models.jobs import TrainingJob

IGNORED = -100
CPU_THREADS = 2  # sums over threads differ in the last bit: the same number everywhere gives the same weights
GATE_CLIPS = 1_000  # at most so many training clips are scored for the gate


def main(path: str) -> None:
    """Train what the job says and leave adapter, training.json and parts.json in its output folder."""
    job = TrainingJob.model_validate_json(Path(path).read_text(encoding="utf-8"))
    device = pick_device(job.device)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
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
    # Before LoRA, which comes with layers cast to float32: as scoring encodes, so that both find each other's vectors.
    encoded = encode_once(model, processor, clips) if job.scope == "language_model" else None
    model = add_lora(alike_on_every_cpu(model), job)
    parts = family.trainable_by_part(model)
    print("trainable parameters: " + ", ".join(f"{part} {count:,}" for part, count in parts.items()), flush=True)
    answers = dict(zip(job.question.classes, job.question.answers, strict=True))
    frozen = not parts["encoder"] + parts["projector"]
    collate = Collator(processor, clips, job.question.prompt, answers, job.loss_on, encoded if frozen else None)
    history = fit(model, processor, clips, collate, job.training, seed=job.seed, output=job.output, device=device)
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
    """The model with fresh adapters on its scope, seeded."""
    from peft import get_peft_model, prepare_model_for_kbit_training

    checkpointing = bool(job.training.get("gradient_checkpointing"))
    if job.quantization:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
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


class Collator:
    """Rows -> a left-padded batch with labels on the answer, the turn or the whole sequence; -100 elsewhere.

    Clips are what a frozen encoder made of them, in `encoded`, or features that are computed here.
    """

    def __init__(
        self,
        processor: Any,
        clips: Dataset,
        prompt: str,
        answers: dict[str, str],
        loss_on: str,
        encoded: Sequence[family.Encoded] | None = None,
    ) -> None:
        tokenizer = processor.tokenizer
        self.prompt = family.tokenise_prompt(processor, prompt)
        self.answer_ids = answers_token_ids(tokenizer, list(answers.values()))
        self.loss_on = loss_on
        self.pad = tokenizer.pad_token_id
        end = [] if loss_on == "answer" else tokenizer.encode("<|im_end|>", add_special_tokens=False)
        bare = {label: tokenizer.encode(answer, add_special_tokens=False) for label, answer in answers.items()}
        for label, ids in bare.items():
            if len(ids) != 1:
                raise ValueError(
                    f"the answer {answers[label]!r} is {len(ids)} tokens at the start of a turn; choose one token"
                )
        self.completions = {label: [*ids, *end] for label, ids in bare.items()}
        self.labels = list(clips["label"])
        # Features are computed once a clip, not once an epoch; the audio itself is only a few KB of FLAC a row.
        self.clips: Sequence[family.Clip | family.Encoded] = encoded or family.extract(
            processor, (decode_flac(audio["bytes"]) for audio in clips["audio"])
        )

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        index = [row["row"] for row in rows]
        completions = [self.completions[self.labels[i]] for i in index]
        batch = family.collate([self.clips[i] for i in index], self.prompt, completions, self.pad)
        ids = batch["input_ids"]
        labels = ids.masked_fill((batch["attention_mask"] == 0) | (ids == self.prompt.audio_token), IGNORED)
        if self.loss_on != "sequence":
            labels[:, : -len(completions[0])] = IGNORED
        return {**batch, "labels": labels}

    def prompts(self, index: Sequence[int]) -> dict[str, torch.Tensor]:
        """The batch of these rows without their answers, for scoring."""
        return family.collate([self.clips[i] for i in index], self.prompt, [[]] * len(index), self.pad)


def fit(
    model: nn.Module,
    processor: Any,
    clips: Dataset,
    collate: Callable[..., dict[str, torch.Tensor]],
    training: dict[str, Any],
    *,
    seed: int,
    output: str,
    device: str,
) -> list[dict[str, float]]:
    """Train in place with SFTTrainer; the history of its log, measured times left out."""
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 16, "num_train_epochs": 3, "learning_rate": 2e-4, "logging_steps": 20,
        "bf16": device == "cuda", "gradient_checkpointing": False, "save_strategy": "no", "report_to": [],
        "dataloader_num_workers": 0,
    }  # fmt: skip
    given = {
        "seed": seed, "output_dir": output + ".trainer", "use_cpu": device == "cpu", "max_length": None,
        "remove_unused_columns": False, "dataset_kwargs": {"skip_prepare_dataset": True}, "disable_tqdm": True,
    }  # fmt: skip
    trainer = SFTTrainer(
        model=model, args=SFTConfig(**{**defaults, **training, **given}), train_dataset=clips, data_collator=collate,
        processing_class=processor, callbacks=[Progress()],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)  # Progress says it in a line
    trainer.train()
    kept = ("step", "loss", "mean_token_accuracy", "learning_rate", "grad_norm")
    return [
        {key: float(entry[key]) for key in kept if key in entry}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


class Progress(TrainerCallback):
    """One line a log step for the parent, which passes it to the run's log; the last step is always logged. A loss that
    is no number stops the run."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            loss = float(logs["loss"])
            if not np.isfinite(loss):
                raise ValueError(f"the loss is {loss} at step {state.global_step}; lower training.learning_rate")
            answer = (
                f", answers right {float(logs['mean_token_accuracy']):.2f}" if "mean_token_accuracy" in logs else ""
            )
            print(f"step {state.global_step}/{state.max_steps}: loss {loss:.3f}{answer}", flush=True)


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
