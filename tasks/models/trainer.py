"""TRL's SFTTrainer with a head that looks at labelled positions only, and settings that keep a GPU busy."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import rotate_checkpoints
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import get_peak_flops

from recipes.training import EarlyStoppingBlock, LossBlock
from tasks.functional.losses import token_losses
from tasks.models.batch_size import Batches, share_out
from tasks.models.checkpoints import SaveNowAndThen, had_ended, last_whole, mark_whole
from tasks.models.collation import Collator
from tasks.models.packing import packed_rows
from tasks.models.progress_lines import Progress
from tasks.store import home

AMPERE = 8  # the first generation of NVIDIA's with TF32
ASIDE = {"labels", "scored", "targets", "answers", "weights"}  # of a batch, what the model is not given


class AnswerTrainer(SFTTrainer):
    """SFTTrainer for batches of `Collator`.

    Its own loss sends every position through the head on a CPU and asks the GPU for numbers several times a step; here
    the head, 156,032 wide, sees what `scored` names, and nothing waits for the GPU between two log lines.
    """

    def __init__(
        self,
        *,
        answer_ids: Mapping[str, list[int]],
        gamma: float = 0.0,
        row_weights: Sequence[float] | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(**keywords)
        self.answer_ids = [torch.tensor(ids, device=self.args.device) for ids in answer_ids.values()]
        self.gamma = gamma
        self.row_weights = row_weights
        self.seen = {"train": Answered(), "eval": Answered()}
        self.clips = 0  # that training has seen, on this device
        self.flops = 0.0  # of the language model's and the head's products on this device, recomputing left out
        self.epoch = 0
        self.had_ended = False  # before it was killed: there is a checkpoint of its last step
        self.flops_of = operations(self.model)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The loss of the labelled tokens, summed and divided by how many there are in all accumulated batches (Trainer's
        `num_items_in_batch`) or, where that is not known, in this one."""
        with self.head_on(inputs["scored"]):
            outputs = model(**{key: value for key, value in inputs.items() if key not in ASIDE}, use_cache=False)
        logits, targets, answers = outputs.logits.float(), inputs["targets"], inputs["answers"]
        losses = token_losses(logits, targets, gamma=self.gamma, weight=inputs.get("weights"))
        total = losses.sum()
        loss = total / (len(targets) if num_items_in_batch is None else num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the number is that of all, and DDP takes the mean
        seen = self.seen["train" if self.model.training else "eval"]
        seen.count(logits.detach()[answers], targets[answers], self.answer_ids, total.detach(), len(targets))
        if self.model.training:
            self.clips += inputs["layout"][0]
            self.flops += self.flops_of[0] * inputs["input_ids"].shape[1] + self.flops_of[1] * len(targets)
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
        of_train = not any(name.startswith("eval_") for name in logs)
        if of_train and (share := self.seen["train"].share(self.accelerator)) is not None:
            self._metrics["train"]["mean_token_accuracy"].append(share)
        super().log(logs, start_time)

    def evaluation_loop(self, *arguments: Any, **keywords: Any) -> Any:
        """With the loss over all tokens alike: Trainer's own is a mean over batches, however few clips the last one has."""
        seen = self.seen["eval"]
        seen.clear()
        output = super().evaluation_loop(*arguments, **keywords)
        prefix = keywords.get("metric_key_prefix", "eval")
        output.metrics[f"{prefix}_loss"] = seen.mean_loss(self.accelerator)
        output.metrics[f"{prefix}_mean_token_accuracy"] = seen.share(self.accelerator)
        return output

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        """By weight, where rows have weights."""
        if self.row_weights is None:
            return super()._get_train_sampler(train_dataset)
        return Weighted(self.row_weights, self)

    def _run_epoch(self, **keywords: Any) -> None:
        """As Trainer does, but for a training that a kill left nothing to do."""
        if self.had_ended:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(**keywords)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As Trainer does, without the card that SFTTrainer writes, and marked when it is whole; only then older ones go."""
        self.check_weights()
        most, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            Trainer._save_checkpoint(self, model, trial)
        finally:
            self.args.save_total_limit = most
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            mark_whole(Path(self.args.output_dir, f"checkpoint-{self.state.global_step}"))
            rotate_checkpoints(self.args.output_dir, most, self.state.best_model_checkpoint)

    def check_weights(self) -> None:
        """Raise ValueError where a weight that is trained is no number: between two log lines no loss would tell, and
        checkpoints of it would push out the last good one."""
        for name, weight in self.model.named_parameters():
            if weight.requires_grad and not torch.isfinite(weight).all():
                raise ValueError(
                    f"{name} holds what is no number at step {self.state.global_step}; lower training.learning_rate, and "
                    "look at training.max_grad_norm and the levels of the clips"
                )

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """None: Trainer's estimate walks through all parameters at every step."""
        return 0


class Weighted(torch.utils.data.Sampler[int]):
    """As many rows an epoch as there are, drawn with replacement by weight, anew in every epoch."""

    def __init__(self, weights: Sequence[float], trainer: AnswerTrainer) -> None:
        self.share = np.asarray(weights, dtype=np.float64) / np.sum(weights)
        self.trainer = trainer

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng([self.trainer.args.seed, self.trainer.epoch])
        return iter(draw.choice(len(self.share), len(self.share), p=self.share).tolist())

    def __len__(self) -> int:
        return len(self.share)


class Answered:
    """How many answers were given, how many of them were right and what the loss came to, counted where the logits are."""

    def __init__(self) -> None:
        self.right: torch.Tensor | None = None
        self.loss: torch.Tensor | None = None
        self.all = 0
        self.tokens = 0

    def count(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        answer_ids: list[torch.Tensor],
        loss: torch.Tensor,
        tokens: int,
    ) -> None:
        """Add answers by their logits (n, vocabulary) and true tokens (n,), the answer whose tokens weigh most being the
        one that is given, and the summed loss of so many tokens."""
        given = torch.stack([logits[:, ids].logsumexp(1) for ids in answer_ids]).argmax(0)
        true = torch.stack([torch.isin(targets, ids) for ids in answer_ids]).int().argmax(0)
        right = (given == true).sum()
        self.right = right if self.right is None else self.right + right
        self.loss = loss if self.loss is None else self.loss + loss
        self.all += len(targets)
        self.tokens += tokens

    def share(self, accelerator: Any) -> float | None:
        """The share of right answers over all processes since it was last asked for; None where there were none."""
        if self.right is None:
            return None
        both = torch.stack([self.right, self.right.new_tensor(self.all)])
        right, everything = accelerator.reduce(both, reduction="sum").tolist()
        self.clear()
        return float(right / everything)

    def mean_loss(self, accelerator: Any) -> float:
        """The mean loss of a token over all processes."""
        assert self.loss is not None, "nothing was counted"
        both = torch.stack([self.loss, self.loss.new_tensor(float(self.tokens))])
        loss, tokens = accelerator.reduce(both, reduction="sum").tolist()
        return float(loss / tokens)

    def clear(self) -> None:
        """Begin again."""
        self.right = self.loss = None
        self.all = self.tokens = 0


class Epochs(TrainerCallback):
    """Tells sampler and collator which epoch it is, also after a kill."""

    def __init__(self, collate: Collator) -> None:
        self.collate = collate
        self.trainer: AnswerTrainer | None = None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.trainer is not None
        self.trainer.epoch = self.collate.epoch = int((state.epoch or 0.0) + 1e-6)


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
    dev: Dataset | None = None,
    loss: LossBlock | None = None,
    row_weights: Sequence[float] | None = None,
    early_stopping: EarlyStoppingBlock | None = None,
    checkpoints: str | None = None,
) -> list[dict[str, float]]:
    """Train in place with SFTTrainer; the history of its log, measured times left out.

    `batch_size`: clips that a step sees over all devices; where `training` asks for it, a trial finds how many of them a
    device takes at once. `checkpoints`: where they lie, and where one is gone on from.
    """
    batches = Batches.of(training, batch_size)
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    settings = settings_of(training, device, is_quantised(model), early_stopping, batches)
    compiled = compiled_layers(plain, compilation_of(settings))
    given = {
        "seed": seed, "output_dir": checkpoints or output + ".trainer", "use_cpu": device == "cpu", "max_length": None,
        "remove_unused_columns": False, "dataset_kwargs": {"skip_prepare_dataset": True}, "disable_tqdm": True,
        "run_name": f"{settings.get('run_name') or 'adapter'}-seed-{seed}-{Path(checkpoints or output).name}",
    }  # fmt: skip
    epochs = Epochs(collate)
    trainer = AnswerTrainer(
        model=model, args=SFTConfig(**{**settings, **given}), train_dataset=clips.select_columns(["row"]),
        eval_dataset=dev.select_columns(["row", "dev"]) if dev is not None else None, data_collator=collate,
        processing_class=processor, answer_ids=collate.answer_ids,
        gamma=loss.gamma if loss and loss.kind == "focal" else 0.0, row_weights=row_weights, callbacks=[epochs],
    )  # fmt: skip
    epochs.trainer = trainer
    report_progress(trainer, Path(output + ".progress.jsonl"))
    if checkpoints:
        trainer.add_callback(SaveNowAndThen())
    if early_stopping:
        trainer.add_callback(EarlyStoppingCallback(early_stopping.patience, early_stopping.min_delta))
    with packed_rows(plain.model.language_model), compiled:
        share_out(trainer, collate, batches, Path(checkpoints, "batch_size.json") if checkpoints else None)
        kept = last_whole(Path(checkpoints)) if checkpoints else None
        trainer.had_ended = kept is not None and had_ended(kept)
        trainer.train(resume_from_checkpoint=kept)
        trainer.check_weights()
    return timeless(trainer.state.log_history)


def report_progress(trainer: AnswerTrainer, file: Path) -> None:
    """Let the main process say every log step in a line and write it to a file, instead of Trainer, and TensorBoard keep
    each run in a folder of its own."""
    trainer.remove_callback(PrinterCallback)
    processes, device = trainer.accelerator.num_processes, trainer.args.device
    peak = get_peak_flops(torch.cuda.get_device_name(device), "bfloat16") if device.type == "cuda" else None
    kept = file if trainer.is_world_process_zero() else None
    progress = Progress(lambda: (processes * trainer.clips, trainer.flops), peak, kept)
    callbacks = trainer.callback_handler.callbacks
    callbacks.insert(0, progress)  # before TensorBoard and trackio, which then are told what it measures
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = str(Path(callback.logging_dir or home() / "tensorboard", trainer.args.run_name))


def timeless(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """What a log says of loss and answers, the same whenever it is trained."""
    kept = (
        "step", "loss", "mean_token_accuracy", "learning_rate", "grad_norm", "eval_loss", "eval_mean_token_accuracy",
    )  # fmt: skip
    return [
        {key: float(entry[key]) for key in kept if key in entry}
        for entry in history
        if "loss" in entry or "eval_loss" in entry
    ]


def is_quantised(model: nn.Module) -> bool:
    """Whether the base was loaded in 4 or 8 bits."""
    return bool(getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False))


def settings_of(
    training: Mapping[str, Any], device: str, quantised: bool, early: EarlyStoppingBlock | None, batches: Batches
) -> dict[str, Any]:
    """What SFTConfig is given: our defaults, what the recipe says, and what follows from its other keys."""
    settings = {**defaults(device, quantised=quantised), **training}
    if batches.trial:
        settings["per_device_train_batch_size"] = 1  # until the trial
    if "save_steps" in training:
        settings["save_strategy"] = training.get("save_strategy", "steps")
    if early:
        steps = early.every_steps
        settings |= {
            "eval_strategy": "steps", "eval_steps": steps, "save_strategy": "steps", "save_steps": steps,
            "load_best_model_at_end": True, "restore_callback_states_from_checkpoint": True,  # its patience
            "metric_for_best_model": "eval_loss", "greater_is_better": False,
        }  # fmt: skip
    os.environ.setdefault("TRACKIO_DIR", str(home() / "trackio"))  # trackio reads it when it is imported
    return settings


def defaults(device: str, *, quantised: bool) -> dict[str, Any]:
    """What a recipe may change: settings of SFTConfig that suit short clips and, on a GPU, keep it busy."""
    shared: dict[str, Any] = {
        "per_device_train_batch_size": 16, "per_device_eval_batch_size": 16, "num_train_epochs": 3, "learning_rate": 2e-4,
        "logging_steps": 20, "bf16": False, "gradient_checkpointing": False, "save_strategy": "no", "save_total_limit": 2,
        "report_to": [name for name in ("tensorboard", "trackio") if importlib.util.find_spec(name)],
        "project": "earshot",
        "dataloader_num_workers": 0, "ddp_find_unused_parameters": False, "ddp_broadcast_buffers": False,
        "logging_nan_inf_filter": False,  # it would hide a loss that is no number, and asks the GPU at every step
    }  # fmt: skip
    if device == "cpu":
        return shared
    return {
        **shared,
        # Adapters of a quantised base are bf16 as all else there: autocast would only widen its norms to float32.
        "bf16": not quantised,
        "tf32": torch.cuda.get_device_capability()[0] >= AMPERE, "optim": "adamw_torch_fused",
        "accelerator_config": {"non_blocking": True},
    }  # fmt: skip


def operations(model: nn.Module) -> tuple[float, float]:
    """Floating-point operations of one token's way through the language model and of one label's through the head, there
    and back: 2 a weight there, 2 back, and 2 more for a weight that is trained; attention's own products left out."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    text = plain.model.language_model
    token = 0.0
    for module in text.layers.modules():
        if isinstance(module, nn.Linear):  # its weight may be packed
            token += (6.0 if module.weight.requires_grad else 4.0) * module.in_features * module.out_features
        else:  # such as a router's
            own = (its for its in module.parameters(recurse=False) if its.ndim == 2)
            token += sum((6.0 if its.requires_grad else 4.0) * its.numel() for its in own)
    for stacked in (its for its in text.layers.parameters() if its.ndim == 3):  # experts, of which a token meets some
        met = plain.config.get_text_config().num_experts_per_tok * stacked[0].numel()
        token += (6.0 if stacked.requires_grad else 4.0) * met
    return token, 4.0 * plain.config.get_text_config().hidden_size * plain.config.get_text_config().vocab_size


def compilation_of(settings: dict[str, Any]) -> dict[str, Any] | None:
    """How `torch_compile`, its backend or its mode ask for layers to be compiled; None where they do not. The keys are
    taken away: Trainer would compile the whole model, unrolled, which takes many minutes."""
    on, backend, mode = (settings.pop(f"torch_compile{its}", None) for its in ("", "_backend", "_mode"))
    return {"backend": backend or "inductor", "mode": mode} if on or backend or mode else None


@contextlib.contextmanager
def compiled_layers(model: nn.Module, how: Mapping[str, Any] | None) -> Iterator[None]:
    """Inside, the layers of the language model are compiled, one of each kind for all of its kind; None: as they are."""
    layers = [] if how is None else model.model.language_model.layers
    for layer in layers:
        layer.compile(dynamic=True, **(how or {}))
    try:
        yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None  # what is scored later has other shapes and would be compiled anew
