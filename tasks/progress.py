"""How far a long task has come, on its run's page: a bar with the time that is left, and the curve of a training."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.functional.plot_training import training_curve
from tasks.run_page import Living, picture, say

COUNT = re.compile(r"\b(\d+)/(\d+)\b")
STEP = re.compile(r"^step (\d+)/\d+: loss (\d+\.\d+)(?:, answers right (\d+\.\d+))?")


class Bar:
    """A bar on the page that follows lines such as "step 20/405: ..."; every line is said as well, behind `prefix`, for
    several tasks speak at once."""

    def __init__(self, key: str, what: str, prefix: str = "") -> None:
        self.what, self.prefix, self.living = what, prefix, Living("progress", f"progress-{key}")
        self.counted = ""  # what stands before the count of a line; another one has a pace of its own
        self.first = (0.0, 0)

    def __call__(self, line: str) -> None:
        """Follow one line of the task."""
        say(self.prefix + line)
        if found := COUNT.search(line):
            done, of, counted = int(found[1]), int(found[2]), line[: found.start()]
            if counted != self.counted:
                self.counted, self.first = counted, (time.monotonic(), done)
            if 0 < done <= of:
                left = remaining_s(self.first, time.monotonic(), done, of)
                self.living.show(
                    100.0 * done / of, f"{self.what}: {counted}{done} of {of}{told(left)}", last=done == of
                )


def remaining_s(first: tuple[float, int], now: float, done: int, of: int) -> float | None:
    """Seconds left at the pace since `first` (when, how many were done); None where there is no pace yet."""
    begin, had = first
    return (of - done) * (now - begin) / (done - had) if done > had else None


def told(left_s: float | None) -> str:
    """The time left, as a reader wants it."""
    if not left_s:
        return ""
    return f", {left_s / 60:.0f} min left" if left_s >= 90 else f", {left_s:.0f} s left"


class Curve(Bar):
    """The bar of a training and, below it, its loss and accuracy so far, drawn anew while it goes on."""

    def __init__(self, seed: int, fold: int, shown_as: str = "adapter") -> None:
        place = f"seed {seed}, fold {fold}"
        key = f"training-{seed}-{fold}"
        self.title = f"Training, {place}"
        if shown_as != "adapter":  # a cell of an ablation
            self.title = f"Training of {shown_as}, {place}"
            key += "-" + re.sub("[^a-z0-9]+", "-", shown_as.lower()).strip("-")
        super().__init__(key, self.title, f"{shown_as}, {place}: ")
        self.drawn = Living("markdown", key)
        self.history: list[dict[str, float]] = []

    def __call__(self, line: str) -> None:
        """Follow one line of the training."""
        super().__call__(line)
        if found := STEP.match(line):
            entry = {"step": float(found[1]), "loss": float(found[2])}
            self.history.append(entry | ({"mean_token_accuracy": float(found[3])} if found[3] else {}))
            if self.drawn.is_due():
                self.draw(self.history)

    def draw(self, history: Sequence[Mapping[str, Any]], *, last: bool = False) -> None:
        """Draw what was logged; `last`: the whole of it, from what the training left behind."""
        steps, loss = [entry["step"] for entry in history], [entry["loss"] for entry in history]
        accuracy = {entry["step"]: entry["mean_token_accuracy"] for entry in history if "mean_token_accuracy" in entry}
        self.drawn.show(picture(training_curve(steps, loss, accuracy), self.title), self.title, last=last)
