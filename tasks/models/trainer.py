"""TRL's SFTTrainer with a head that looks at labelled positions only, and settings that keep a GPU busy."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from tasks.models.batch_size import Batches, share_out
from tasks.models.collation import Collator
from tasks.models.packing import packed_rows


class AnswerTrainer(SFTTrainer):
    """SFTTrainer for batches of `Collator`.

    Its own loss sends every position through the head on a CPU and asks the GPU for numbers several times a step; here
    the head, 156,032 wide, sees what `scored` names, and nothing waits for the GPU between two log lines.
    """

    def __init__(self, *, answer_ids: Mapping[str, list[int]], **keywords: Any) -> None:
        super().__init__(**keywords)
        self.answer_ids = [torch.tensor(ids, device=self.args.device) for ids in answer_ids.values()]
        self.seen = {"train": Answered(), "eval": Answered()}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The cross-entropy of the labelled tokens, summed and divided by how many there are in all accumulated batches
        (Trainer's `num_items_in_batch`) or, where that is not known, in this one."""
        known = {"labels", "scored", "targets", "answers"}
        with self.head_on(inputs["scored"]):
            outputs = model(**{key: value for key, value in inputs.items() if key not in known}, use_cache=False)
        logits, targets = outputs.logits.float(), inputs["targets"]
        losses = nn.functional.cross_entropy(logits, targets, reduction="none")
        loss = losses.sum() / (len(targets) if num_items_in_batch is None else num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the number is that of all, and DDP takes the mean
        mode = "train" if self.model.training else "eval"
        answers = inputs["answers"]
        self.seen[mode].count(logits.detach()[answers], targets[answers], self.answer_ids)
        return (loss, outputs) if return_outputs else loss

    @contextlib.contextmanager
    def head_on(self, scored: torch.Tensor) -> Iterator[None]:
        """Inside, the head sees the flattened positions `scored` and logits are (their number, vocabulary)."""
        head = self.accelerator.unwrap_model(self.model).get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, hidden: (hidden[0].flatten(0, 1).index_select(0, scored),))
        try:
            yield
        finally:
            hook.remove()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Also the share of answers that are right where only the answers are allowed, since the last line."""
        mode = "train" if self.model.training else "eval"
        if (share := self.seen[mode].share(self.accelerator)) is not None:
            self._metrics[mode]["mean_token_accuracy"].append(share)
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """None: Trainer's estimate walks through all parameters at every step."""
        return 0


class Answered:
    """How many answers were given and how many of them were right, counted where the logits are."""

    def __init__(self) -> None:
        self.right: torch.Tensor | None = None
        self.all = 0

    def count(self, logits: torch.Tensor, targets: torch.Tensor, answer_ids: list[torch.Tensor]) -> None:
        """Add answers by their logits (n, vocabulary) and true tokens (n,): the answer whose tokens weigh most is given."""
        given = torch.stack([logits[:, ids].logsumexp(1) for ids in answer_ids]).argmax(0)
        true = torch.stack([torch.isin(targets, ids) for ids in answer_ids]).int().argmax(0)
        right = (given == true).sum()
        self.right = right if self.right is None else self.right + right
        self.all += len(targets)

    def share(self, accelerator: Any) -> float | None:
        """The share of right answers over all processes since it was last asked for; None where there were none."""
        if self.right is None:
            return None
        both = torch.stack([self.right, self.right.new_tensor(self.all)])
        right, everything = accelerator.reduce(both, reduction="sum").tolist()
        self.clear()
        return float(right / everything)

    def clear(self) -> None:
        """Begin again."""
        self.right, self.all = None, 0


def fit(
    model: nn.Module,
    processor: Any,
    clips: Dataset,
    collate: Collator,
    training: dict[str, Any],
    *,
    seed: int,
    output: str,
    device: str,
    batch_size: int | None = None,
) -> list[dict[str, float]]:
    """Train in place with SFTTrainer; the history of its log, measured times left out.

    `batch_size`: clips that a step sees over all devices; where `training` asks for it, a trial finds how many of them a
    device takes at once.
    """
    batches = Batches.of(training, batch_size)
    given = {
        "seed": seed, "output_dir": output + ".trainer", "use_cpu": device == "cpu", "max_length": None,
        "remove_unused_columns": False, "dataset_kwargs": {"skip_prepare_dataset": True}, "disable_tqdm": True,
    }  # fmt: skip
    settings = {**defaults(device, quantised=is_quantised(model)), **training, **given}
    if batches.trial:
        settings["per_device_train_batch_size"] = 1  # until the trial
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    if settings.pop("torch_compile", False):
        compile_layers(plain)
    rows = clips.select_columns(["row"])
    trainer = AnswerTrainer(
        model=model, args=SFTConfig(**settings), train_dataset=rows, data_collator=collate, processing_class=processor,
        callbacks=[Progress()], answer_ids=collate.answer_ids,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)  # Progress says it in a line
    with packed_rows(plain.model.language_model):
        share_out(trainer, collate, batches)
        trainer.train()
    kept = ("step", "loss", "mean_token_accuracy", "learning_rate", "grad_norm")
    return [
        {key: float(entry[key]) for key in kept if key in entry}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def is_quantised(model: nn.Module) -> bool:
    """Whether the base was loaded in 4 or 8 bits."""
    return bool(getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False))


def defaults(device: str, *, quantised: bool) -> dict[str, Any]:
    """What a recipe may change: settings of SFTConfig that suit short clips and, on a GPU, keep it busy."""
    shared: dict[str, Any] = {
        "per_device_train_batch_size": 16, "num_train_epochs": 3, "learning_rate": 2e-4, "logging_steps": 20,
        "bf16": False, "gradient_checkpointing": False, "save_strategy": "no", "report_to": [],
        "dataloader_num_workers": 0, "ddp_find_unused_parameters": False,
        "logging_nan_inf_filter": False,  # it would hide a loss that is no number, and asks the GPU at every step
    }  # fmt: skip
    if device == "cpu":
        return shared
    return {
        **shared,
        # Adapters of a quantised base are bf16 as all else there: autocast would only widen its norms to float32.
        "bf16": not quantised,
        "tf32": True, "optim": "adamw_torch_fused", "accelerator_config": {"non_blocking": True},
    }  # fmt: skip


def compile_layers(model: nn.Module) -> None:
    """Compile one layer of each kind for all of its kind: the whole model, unrolled, would take many minutes."""
    for layer in model.model.language_model.layers:
        layer.compile(dynamic=True)


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
