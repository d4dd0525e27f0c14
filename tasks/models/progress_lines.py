"""What a training says while it goes on: a line for the run's log, and the same as JSON for whoever draws it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

MEASURED = ("clips_per_s", "memory_gb", "mfu")


class Progress(TrainerCallback):
    """One line a log step, and one of `progress.jsonl` beside the job; the last step is always logged. A loss that is no
    number stops the run.

    The line: `step 40/120: loss 0.512, answers right 0.81, lr 1.2e-04, 93.1 clips/s, 11.2 GB, MFU 0.45`, the last two on
    a GPU only, where its peak is known. The JSON has step, steps, loss, mean_token_accuracy, learning_rate, clips_per_s,
    memory_gb and mfu, or eval_loss and eval_mean_token_accuracy; what is not known is left out.
    """

    def __init__(self, work: Callable[[], tuple[int, float]], peak_flops: float | None, file: Path | None) -> None:
        self.work = work  # clips and operations so far
        self.peak_flops = peak_flops
        self.file = file
        self.since = time.perf_counter(), 0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.since = time.perf_counter(), *self.work()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        logs = {} if logs is None else logs
        for name in ("loss", "eval_loss"):
            if name in logs and not np.isfinite(value := float(logs[name])):
                raise ValueError(
                    f"the {name} is {value} at step {state.global_step}; lower training.learning_rate, and look at "
                    "training.max_grad_norm and the levels of the clips"
                )
        if not state.is_world_process_zero:
            return
        facts = self.facts(state, logs)
        logs |= {name: facts[name] for name in MEASURED if name in facts}  # for TensorBoard and trackio, told next
        if "loss" in facts:
            print(line_of(facts), flush=True)
        elif "eval_loss" in facts:
            right = f", answers right {facts['eval_mean_token_accuracy']:.2f}" if len(facts) > 3 else ""
            print(f"dev at step {facts['step']}: loss {facts['eval_loss']:.3f}{right}", flush=True)
        if self.file and len(facts) > 2:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(facts, sort_keys=True) + "\n")

    def facts(self, state: Any, logs: dict[str, float]) -> dict[str, Any]:
        """What one line of progress.jsonl says."""
        names = ("loss", "mean_token_accuracy", "learning_rate", "eval_loss", "eval_mean_token_accuracy")
        facts: dict[str, Any] = {"step": state.global_step, "steps": state.max_steps}
        facts |= {name: float(logs[name]) for name in names if name in logs}
        if "loss" not in facts:
            return facts
        now, (clips, flops) = time.perf_counter(), self.work()
        seconds, before, flops_before = now - self.since[0], self.since[1], self.since[2]
        self.since = now, clips, flops
        if clips > before:
            facts["clips_per_s"] = (clips - before) / seconds
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            facts["memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
            if self.peak_flops and flops > flops_before:
                facts["mfu"] = (flops - flops_before) / seconds / self.peak_flops
        return facts


def line_of(facts: dict[str, Any]) -> str:
    """The line of a log step for a reader."""
    forms = {
        "mean_token_accuracy": "answers right {:.2f}", "learning_rate": "lr {:.1e}", "clips_per_s": "{:.1f} clips/s",
        "memory_gb": "{:.1f} GB", "mfu": "MFU {:.2f}",
    }  # fmt: skip
    said = [form.format(facts[name]) for name, form in forms.items() if name in facts]
    return f"step {facts['step']}/{facts['steps']}: loss {facts['loss']:.3f}" + "".join(f", {text}" for text in said)
