"""The curve of one training."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from tasks.functional.plot_canvas import SOFT, STYLES, dress, png, title


def training_curve(
    steps: Sequence[float],
    loss: Sequence[float],
    accuracy: Mapping[float, float] | None = None,
    *,
    gate: float | None = None,
) -> bytes:
    """Loss (nats per answer token) over optimiser steps, and {step: accuracy on train} on a second panel.

    `gate` is the accuracy the adapter had to reach. Raises ValueError where nothing was logged.
    """
    if not len(steps) or len(steps) != len(loss):
        raise ValueError(f"{len(steps)} steps and {len(loss)} losses: a curve needs one of each a point")
    figure = Figure(figsize=(6.4, 4.2 if accuracy else 2.8), layout="constrained")
    panels = figure.subplots(2 if accuracy else 1, 1, sharex=True, squeeze=False)[:, 0]
    panels[0].plot(steps, loss, color=STYLES[0].ink, marker="o" if len(steps) < 40 else "", markersize=3)
    panels[0].axhline(np.log(2), color=SOFT, linewidth=0.8, linestyle="--", label="ln 2: two answers, no idea")
    panels[0].set(ylabel="Loss (nats)", ylim=(0, None))
    panels[0].legend(frameon=False, fontsize=9)
    if accuracy:
        panels[1].plot(list(accuracy), list(accuracy.values()), "s-", color=STYLES[1].ink, markersize=4)
        panels[1].set(ylabel="Accuracy on train", ylim=(0, 1.03))
        if gate is not None:
            panels[1].axhline(gate, color=SOFT, linewidth=0.8, linestyle="--", label=f"gate: {gate:g}")
            panels[1].legend(loc="lower right", frameon=False, fontsize=9)
    for axes in panels:
        dress(axes)
    figure.align_ylabels()
    panels[-1].set_xlabel("Optimiser step")
    title(figure, "Training", f"n = {len(steps)} logged values, the last at step {steps[-1]:g}")
    return png(figure)
