"""Checkpoints that a killed training goes on from: whole or not there, and gone when the training has ended."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from tasks.models.processes import agreed

EVERY_S = 300.0
WHOLE = "whole"  # the file that a checkpoint gets last


def last_whole(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; what was not is removed."""
    kept: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        if (path / WHOLE).is_file():
            kept.append((int(path.name.rpartition("-")[2]), path))
        else:
            shutil.rmtree(path, ignore_errors=True)
    return str(max(kept)[1]) if kept else None


def mark_whole(path: Path) -> None:
    """Say that a checkpoint is complete: in one step, after all its files."""
    (path / WHOLE).touch()


def had_ended(checkpoint: str) -> bool:
    """Whether training was to stop at the step of a checkpoint, the last one or one that early stopping chose: Trainer
    would take a step more. Raises ValueError where a checkpoint does not say."""
    try:
        state = json.loads(Path(checkpoint, "trainer_state.json").read_text(encoding="utf-8"))
        return bool(state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{checkpoint}/trainer_state.json does not say whether training had ended ({type(error).__name__}: {error}): "
            "remove that checkpoint, and training goes on from the one before it, or begins again"
        ) from error


class SaveNowAndThen(TrainerCallback):
    """A checkpoint every few minutes, at a step that is logged, and a log line at every other step that is saved: what is
    logged after a kill is then what would have been logged without. The first process's clock decides for all: a save
    waits for every one of them."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self.every_s = every_s
        self.last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logged = state.global_step % max(1, int(args.logging_steps)) == 0
        ended = state.global_step >= state.max_steps
        if logged and not ended and agreed(time.monotonic() - self.last >= self.every_s):
            control.should_save = True
        control.should_log |= control.should_save

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_log |= control.should_save

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.last = time.monotonic()
