"""Accuracy against the time it takes, with those marked that none is both faster and better than."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tasks.functional.plot_canvas import SOFT, STYLES, Style, canvas, log_axis, png, title
from tasks.functional.plot_detectors import shown
from tasks.functional.report_document import Report
from tasks.functional.report_schema import Metric
from tasks.functional.timing import STAGES, Timing, frontier


class Timed(NamedTuple):
    """A detector's time and its balanced accuracy, and how it is drawn."""

    timing: Timing
    accuracy: Metric
    style: Style


def timed_detectors(report: Report, timing: Mapping[str, Timing]) -> dict[str, Timed]:
    """The detectors of one report that were timed and have a balanced accuracy."""
    styles = shown(report).styles
    accuracy = {
        name: report.detectors[name].metrics["balanced_accuracy"] for name in timing if name in report.detectors
    }
    return {
        name: Timed(timing[name], its, styles.get(name, Style("x", "-", SOFT)))
        for name, its in accuracy.items()
        if its.value is not None
    }


def timed_reports(reports: Mapping[str, Report], timing: Mapping[str, Mapping[str, Timing]]) -> dict[str, Timed]:
    """The detectors that several reports are on, as far as they were timed."""
    found = {}
    for order, (name, report) in enumerate(reports.items()):
        own, accuracy = timing.get(name, {}).get(report.detector), report.metrics["balanced_accuracy"]
        if own and accuracy.value is not None:
            found[name] = Timed(own, accuracy, STYLES[order % len(STYLES)])
    return found


def latency_rows(report: Report, latency: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a timed detector, fastest first: balanced accuracy, ms a clip, and ms of every stage.

    latency: detector -> what `latency_of` wrote down.
    """
    rows = []
    for name, its in latency.items():
        if name not in report.detectors:
            continue
        accuracy = report.detectors[name].metrics["balanced_accuracy"]
        low, high = accuracy.ci95 or (None, None)
        whole = {"detector": name, "balanced_accuracy": accuracy.value, "ci95_low": low, "ci95_high": high}
        stages = sorted(its["ms"], key=STAGES.index)
        times = {f"{stage}_{q}_ms": its["ms"][stage][q] for stage in stages for q in ("median", "p95")}
        rows.append({**whole, "device": its["device"], "timed_clips": its["clips"], **times})
    return sorted(rows, key=lambda row: row["all_median_ms"])


def accuracy_by_latency(timed: Mapping[str, Timed], n: str) -> bytes:
    """Balanced accuracy over ms a clip; Pareto's frontier is filled and joined. `n` is the caption's first line.

    Raises ValueError where nothing was timed.
    """
    spots = {
        name: (one.timing.median_ms, one.accuracy.value)
        for name, one in timed.items()
        if one.accuracy.value is not None
    }
    if not spots:
        raise ValueError("nothing was timed: a table of predictions has times in its column latency_ms")
    figure, axes = canvas(6.8, 4.0)
    best, below = frontier(spots), _crowded(spots)
    axes.step(
        [spots[name][0] for name in best], [spots[name][1] for name in best], where="post", color=SOFT, linewidth=1
    )
    for name, (x, y) in spots.items():
        timing, accuracy, style = timed[name]
        face = style.ink if name in best else "white"
        axes.plot((timing.p05_ms, timing.p95_ms), (y, y), color=style.ink, linewidth=1.0, alpha=0.75)
        if accuracy.ci95:
            axes.plot((x, x), accuracy.ci95, color=style.ink, linewidth=1.0, alpha=0.75)
        axes.plot(x, y, marker=style.marker, color=style.ink, markersize=7, markerfacecolor=face)
        axes.annotate(name, (x, y), xytext=(6, -13 if name in below else 7), textcoords="offset points", fontsize=8.5)
    log_axis(axes, min(one.timing.p05_ms for one in timed.values()), max(one.timing.p95_ms for one in timed.values()))
    axes.margins(x=0.12)
    axes.set(xlabel="Latency (ms a clip)", ylabel="Balanced accuracy")
    counts = [one.timing.clips for one in timed.values()]
    clips = " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))
    title(figure, "Accuracy and latency", n,
          f"bars: 5 to 95 % of the times of {clips} timed clips, and 95 % intervals over groups; filled and joined: none is "
          "both faster and better")  # fmt: skip
    return png(figure)


def _crowded(spots: Mapping[str, tuple[float, float]]) -> set[str]:
    """Names that stand close under another's: written below their symbol."""
    x, y = np.log10([each for each, _ in spots.values()]), np.array([each for _, each in spots.values()])
    wide, high = 0.2 * (np.ptp(x) or 1.0), 0.05 * (np.ptp(y) or 1.0)
    near = (np.abs(x[:, None] - x) < wide) & (y[:, None] < y) & (y[:, None] > y - high)
    return {name for name, crowded in zip(spots, near.any(axis=1), strict=True) if crowded}
