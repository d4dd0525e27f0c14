"""The figures of a report, drawn from the report alone: PNG bytes, the same for the same report."""

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tasks.functional.report_schema import Level, Report

DPI = 160
STYLES = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."), ("v", (0, (5, 1, 1, 1, 1, 1))), ("x", (0, (1, 3))))
INKS = ("#111111", "#b3541e", "#2a6f97", "#6a994e", "#7b5ea7", "#8d8d8d")  # line and marker tell them apart in grey
NAMES = {"duration_ms": "duration", "snr_db": "SNR", "rt60_s": "reverberation"}
AXES = {"duration_ms": "Duration (ms)", "snr_db": "SNR (dB)", "rt60_s": "RT60 (s)"}


def figures(report: Report) -> dict[str, bytes]:
    """Every figure that the report holds the numbers for, by name: accuracy_by_<factor>, duration_by_snr, ..."""
    drawn = {f"accuracy_by_{factor}": accuracy_by_level(report, factor) for factor in AXES if factor in report.by}
    if report.cells:
        drawn["duration_by_snr"] = duration_by_snr(report)
    drawn["confusion"] = confusion_matrix(report)
    if report.calibration:
        drawn["reliability"] = reliability_diagram(report)
    return drawn


def accuracy_by_level(report: Report, factor: str) -> bytes:
    """Balanced accuracy of every detector over the levels of `factor`, bars: the 95 % intervals over groups.

    Durations are spaced by their logarithm. The level without a number (no noise added) stands apart on the right.
    Raises ValueError where the report has no such factor, or one whose levels are not numbers.
    """
    if factor not in report.by:
        raise ValueError(f"the report has no factor {factor!r}, it has {list(report.by)}")
    position = _positions(list(report.by[factor]), log=factor == "duration_ms")
    figure, axes = _canvas(6.8, 4.2)
    shown = sorted((each for each in report.detectors if factor in report.detectors[each].by), key=_first(report))
    width = 0.05 * (max(position.values()) - min(position.values()) or 1)
    for order, name in enumerate(shown):
        shift = width * (order / max(len(shown) - 1, 1) - 0.5)  # side by side, so that no interval hides another
        _curve(axes, report.detectors[name].by[factor], position, shift, order, name)
    axes.axhline(0.5, color="#777777", linewidth=0.8)
    axes.annotate("chance", (1, 0.5), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
                  va="center", fontsize=8, color="#555555")  # fmt: skip
    axes.set_xticks(list(position.values()), list(position))
    axes.set(ylim=(_floor(report, factor), 1.02), xlabel=AXES.get(factor, factor), ylabel="Balanced accuracy")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=min(len(shown), 3), frameon=False, fontsize=9)
    _title(axes, f"Balanced accuracy by {NAMES.get(factor, factor)}", _rests_on(report))
    return _png(figure)


def duration_by_snr(report: Report) -> bytes:
    """Balanced accuracy of the headline detector in each cell of duration x SNR; cells without a value are hatched.

    Raises ValueError where the report has no cells.
    """
    if not report.cells:
        raise ValueError("the report has no duration x SNR cells: the test clips vary in one of them at most")
    durations = _ordered({cell.duration_ms for cell in report.cells})
    snrs = _ordered({cell.snr_db for cell in report.cells})
    figure, axes = _canvas(1.9 + 0.95 * len(durations), 1.9 + 0.62 * len(snrs), grid=False)
    value = np.full((len(snrs), len(durations)), np.nan)
    for cell in report.cells:
        at = snrs.index(cell.snr_db), durations.index(cell.duration_ms)
        value[at] = np.nan if cell.balanced_accuracy is None else cell.balanced_accuracy
        _write(axes, at, value[at], f"{cell.clips} / {cell.groups}")
    image = axes.pcolormesh(value, cmap="cividis", vmin=0, vmax=1, edgecolors="white", linewidth=1)
    for row, column in zip(*np.nonzero(np.isnan(value)), strict=True):
        axes.fill_between((column, column + 1), row, row + 1, facecolor="none", edgecolor="#cccccc", hatch="///", lw=0)
    axes.set_xticks(np.arange(len(durations)) + 0.5, [_number(level, "not set") for level in durations])
    axes.set_yticks(np.arange(len(snrs)) + 0.5, [_number(level, "no noise") for level in snrs])
    axes.set(xlabel=AXES["duration_ms"], ylabel=AXES["snr_db"])
    figure.colorbar(image, ax=axes, label="Balanced accuracy", fraction=0.06, pad=0.03)
    _title(axes, f"{report.detector}: duration × SNR", "in each cell: value, clips / groups; hatched: no value")
    return _png(figure)


def confusion_matrix(report: Report) -> bytes:
    """Clips by truth (rows) and answer (columns) of the headline detector, with the share of the row."""
    answers = [*report.classes, *(["unanswered"] if report.n.unanswered else [])]
    counts = np.array([[report.confusion[truth][answer] for answer in answers] for truth in report.classes])
    share = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    figure, axes = _canvas(2.6 + 1.2 * len(answers), 3.6, grid=False)
    axes.pcolormesh(share, cmap="gray_r", vmin=0, vmax=1.25, edgecolors="white", linewidth=1)
    for (row, column), clips in np.ndenumerate(counts):
        ink = "white" if share[row, column] > 0.55 else "black"
        axes.text(column + 0.5, row + 0.5, f"{clips}\n{share[row, column]:.1%}", ha="center", va="center", color=ink)
    axes.set_xticks(np.arange(len(answers)) + 0.5, answers)
    axes.set_yticks(np.arange(len(report.classes)) + 0.5, report.classes, rotation=90, va="center")
    axes.set(xlabel="Answer", ylabel="Truth")
    axes.invert_yaxis()
    _title(axes, f"{report.detector}: confusion", _rests_on(report))
    return _png(figure)


def reliability_diagram(report: Report) -> bytes:
    """Share right against mean top-label confidence in each bin, above the number of clips in each.

    Raises ValueError where the report has no calibration (its headline gives no probabilities).
    """
    if report.calibration is None:
        raise ValueError("the report has no calibration: its headline detector gives no p_speech")
    bins = [each for each in report.calibration.bins if each.clips]
    figure = Figure(figsize=(5.2, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    upper.plot((0.5, 1), (0.5, 1), color="#777777", linewidth=0.9, label="perfect")
    upper.plot([each.confidence for each in bins], [each.accuracy for each in bins], "o-", color=INKS[0], label="bins")
    upper.set(ylim=(0, 1.03), ylabel="Share of clips right")
    upper.legend(loc="lower right", frameon=False)
    width = 0.9 * (bins[0].high - bins[0].low)
    lower.bar([(each.low + each.high) / 2 for each in bins], [each.clips for each in bins], width, color="#888888")
    lower.set(xlim=(0.48, 1.02), xlabel="Confidence, the larger of p and 1 − p", ylabel="Clips")
    for axes in (upper, lower):
        _dress(axes)
    ece = f"top-label ECE {report.calibration.ece:.3f}, {report.calibration.n_bins} equal-width bins"
    _title(upper, f"{report.detector}: calibration", f"{ece}\n{_rests_on(report)}")
    return _png(figure)


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
    figure = Figure(figsize=(6.4, 4.8 if accuracy else 3.2), layout="constrained")
    panels = figure.subplots(2 if accuracy else 1, 1, sharex=True, squeeze=False)[:, 0]
    panels[0].plot(steps, loss, color=INKS[0], marker="o" if len(steps) < 40 else "", markersize=3)
    panels[0].axhline(np.log(2), color="#777777", linewidth=0.8, linestyle="--", label="ln 2: two answers, no idea")
    panels[0].set(ylabel="Loss (nats)", ylim=(0, None))
    panels[0].legend(frameon=False, fontsize=9)
    if accuracy:
        panels[1].plot(list(accuracy), list(accuracy.values()), "s-", color=INKS[1], markersize=4)
        panels[1].set(ylabel="Accuracy on train", ylim=(0, 1.03))
        if gate is not None:
            panels[1].axhline(gate, color="#777777", linewidth=0.8, linestyle="--", label=f"gate: {gate:g}")
            panels[1].legend(loc="lower right", frameon=False, fontsize=9)
    for axes in panels:
        _dress(axes)
    figure.align_ylabels()
    panels[-1].set_xlabel("Optimiser step")
    _title(panels[0], "Training", f"{len(steps)} logged values, the last at step {steps[-1]:g}")
    return _png(figure)


# --- parts -------------------------------------------------------------------------------------------------------


def _canvas(width: float, height: float, *, grid: bool = True) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _dress(axes, grid=grid)
    return figure, axes


def _dress(axes: Axes, *, grid: bool = True) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    else:
        axes.tick_params(length=0)


def _title(axes: Axes, title: str, note: str) -> None:
    axes.set_title(title + "\n" * (1 + note.count("\n")), loc="left", fontsize=11, fontweight="bold")
    below = axes.annotate(
        note, (0, 1), xycoords="axes fraction", xytext=(0, 6), textcoords="offset points", va="bottom",
        fontsize=8.5, linespacing=1.25, color="#444444",
    )  # fmt: skip
    below.set_in_layout(False)  # the title has made room for it; its length must not squeeze the axes


def _first(report: Report) -> Callable[[str], tuple[bool, str]]:
    """Sorts the headline detector first, the others by name."""
    return lambda name: (name != report.detector, name)


def _rests_on(report: Report) -> str:
    by_class = " + ".join(f"{report.n.by_label[name].groups} {name}" for name in report.classes)
    return f"n = {report.n.groups} groups ({by_class}), {report.n.clips} clips"


def _curve(
    axes: Axes, levels: Mapping[str, Level], position: Mapping[str, float], shift: float, order: int, name: str
) -> None:
    stated = [(position[level], at.balanced_accuracy) for level, at in levels.items() if level in position]
    points = [(x + shift, metric.value, metric.ci95) for x, metric in stated if metric.value is not None]
    (marker, line), ink = STYLES[order % len(STYLES)], INKS[order % len(INKS)]
    axes.plot(
        [x for x, *_ in points], [value for _, value, _ in points], color=ink, linestyle=line, marker=marker,
        markersize=5, linewidth=1.8 if order == 0 else 1.1, label=name, zorder=3 if order == 0 else 2,
    )  # fmt: skip
    for x, _, interval in points:
        if interval:
            axes.plot((x, x), interval, color=ink, linewidth=1.1, alpha=0.75, zorder=2)


def _positions(levels: Sequence[str], *, log: bool) -> dict[str, float]:
    """Where each level stands on the axis: numbers to scale, the level that is no number a step to their right."""
    numbers = {level: float(level) for level in levels if _is_number(level)}
    if not numbers:
        raise ValueError(f"none of the levels {list(levels)} is a number: nothing to draw over")
    position = {level: float(np.log2(x)) if log else x for level, x in numbers.items()}
    places = sorted(position.values())
    step = max(float(np.mean(np.diff(places))), 1e-9) if len(places) > 1 else 1.0
    others = [level for level in levels if level not in numbers]
    return position | {level: places[-1] + step * (1 + i) for i, level in enumerate(others)}


def _floor(report: Report, factor: str) -> float:
    """Where the axis begins: 0.4, or below the lowest interval if that reaches further down."""
    levels = [level for one in report.detectors.values() for level in one.by.get(factor, {}).values()]
    lows = [min(level.balanced_accuracy.ci95 or (level.balanced_accuracy.value or 0.4,)) for level in levels]
    return max(0.0, min(0.4, *lows) - 0.02)


def _is_number(level: str) -> bool:
    try:
        return bool(np.isfinite(float(level)))
    except ValueError:
        return False


def _ordered(levels: set[float | None]) -> list[float | None]:
    return [*sorted(level for level in levels if level is not None), *([None] if None in levels else [])]


def _number(level: float | None, absent: str) -> str:
    return absent if level is None else f"{level:g}"


def _write(axes: Axes, at: tuple[int, int], value: float, count: str) -> None:
    row, column = at
    ink = "white" if value < 0.5 else "black"
    text = "–" if np.isnan(value) else f"{value:.2f}"
    axes.text(column + 0.5, row + 0.58, text, ha="center", va="center", color=ink, fontsize=10)
    axes.text(column + 0.5, row + 0.25, count, ha="center", va="center", color=ink, fontsize=7)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
