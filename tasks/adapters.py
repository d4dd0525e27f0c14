"""Bases and adapters: trained in a child process, gated, named by their weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.schema import CheckFailed, GateBlock, PretrainBlock, TrainMethod
from tasks import child
from tasks.cache import cached, task
from tasks.functional.plots import training_curve
from tasks.models.jobs import PretrainingJob, Question, TrainingJob, base_at
from tasks.run_page import HOOKS, say, show_picture
from tasks.store import Adapter, Base, Clips, Publication, Splits, draft, read_json, write_timing

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "numpy")


@task(task_run_name="tiny base, fold {fold}", **cached(libraries=LIBRARIES, runs=("tasks.models.pretraining",)))
def make_base(clips: Sequence[Clips], block: PretrainBlock, question: Question, fold: int, timeout_min: float) -> Base:
    """A tiny Qwen2-Audio, pre-trained on clean long clips of training groups only."""
    with draft(Base) as folder:
        job = PretrainingJob(
            clips=tuple(str(part.path / "clips.parquet") for part in clips), steps=block.steps, batch_size=block.batch_size,
            learning_rate=block.learning_rate, seed=block.seed, device="cpu", question=question, output=str(folder),
        )  # fmt: skip
        command = child.python("-m", "tasks.models.pretraining")
        seconds = job.run(command, what="pre-training the tiny base", on_line=say, timeout_min=timeout_min)
        base = Base.of(folder, parameters=count_parameters(folder / "model.safetensors"))
    write_timing(base, {"train_s": seconds})
    return base


def count_parameters(file: Path) -> int:
    """Numbers in a safetensors file, from its header."""
    from math import prod

    from safetensors import safe_open

    with safe_open(file, "np") as weights:
        return sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


@task(
    task_run_name="adapter, seed {seed}, fold {fold}", **cached(libraries=LIBRARIES, runs=("tasks.models.training",))
)
def train_adapter(
    splits: Splits,
    parts: Sequence[str],
    method: TrainMethod,
    question: Question,
    tiny: Base | None,
    published: Publication | None,
    seed: int,
    fold: int,
    timeout_min: float,
) -> Adapter:
    """One adapter by SFTTrainer under `accelerate launch`, on the clips of `parts`."""
    at = base_at(method.base, tiny, published)
    with draft(Adapter) as folder:
        job = TrainingJob(
            base=at.load, revision=at.revision, base_name=at.name, base_revision=at.public_revision,
            quantization=method.quantization, question=question, device=method.device, output=str(folder), lora=method.lora,
            scope=method.scope, clips=tuple(str(splits.path / "data" / f"{part}.parquet") for part in parts),
            loss_on=method.loss_on, training=method.training, seed=seed,
        )  # fmt: skip
        seconds = job.launch(what=f"training with seed {seed}", on_line=say, timeout_min=timeout_min)
        facts = read_json(folder / "training.json")
        adapter = Adapter.of(
            folder,
            base=f"{at.name}@{at.public_revision}",
            seed=seed,
            fold=fold,
            train_accuracy=facts["train_accuracy"],
        )
    write_timing(adapter, {"train_s": seconds})
    show_training(adapter, facts)
    return adapter


@task(task_run_name="gate of {gate.accuracy} on train", **HOOKS)
def check_gate(adapters: Sequence[Adapter], gate: GateBlock) -> None:
    """Stop, or only say so where the recipe says `mark`, when an adapter has not learnt its own training clips."""
    for adapter in adapters:
        if adapter.train_accuracy < gate.accuracy:
            finding = (
                f"seed {adapter.seed}, fold {adapter.fold}: {adapter.train_accuracy:.3f} of the training clips are answered "
                f"right and the gate asks {gate.accuracy:g}; train longer (train.training.max_steps), or set "
                "train.gate.on_fail=mark to go on and mark the result"
            )
            if gate.on_fail == "stop":
                raise CheckFailed(finding)
            say(finding)


def show_training(adapter: Adapter, facts: dict[str, Any]) -> None:
    """Parameters by part and the training curve, on the run's page."""
    say("trainable parameters: " + ", ".join(f"{part} {count:,}" for part, count in facts["parameters"].items()))
    history = facts["history"]
    steps, loss = [entry["step"] for entry in history], [entry["loss"] for entry in history]
    accuracy = {entry["step"]: entry["mean_token_accuracy"] for entry in history if "mean_token_accuracy" in entry}
    png = training_curve(steps, loss, accuracy)
    show_picture(f"training-{adapter.seed}-{adapter.fold}", png, f"Training, seed {adapter.seed}, fold {adapter.fold}")
