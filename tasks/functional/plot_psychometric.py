"""Psychometric functions: curves with their points and thresholds, hit rates, and the SNR needed at each duration."""

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.functional.levels import level_name, stated_end, stated_level
from tasks.functional.plot_canvas import (
    AXES,
    NAMES,
    SOFT,
    STYLES,
    Style,
    at_chance,
    dress,
    floor,
    legend_below,
    number,
    png,
    title,
)
from tasks.functional.plot_detectors import rests_on, shown
from tasks.functional.report_document import Report
from tasks.functional.report_psychometric import Curve, CurveLevel, Curves, CurveThreshold
from tasks.functional.report_schema import Metric

Factor = Literal["duration_ms", "snr_db"]
Ends = tuple[float, float] | None
CHANCE = 0.5
OPEN = STYLES[1]._replace(marker="D")  # of a threshold among the points of its curve


class _Line(NamedTuple):
    """One detector's part of a figure: its curve, and (level, rate, interval) of its points."""

    name: str
    style: Style
    curves: Curves
    curve: Curve
    points: list[tuple[float, float, Ends]]


# --- what there is to draw ---------------------------------------------------------------------------------------


def curves_of(report: Report, name: str, factor: Factor) -> Curves | None:
    """The curves of one detector over one factor, or None where it has none."""
    found = report.detectors[name].psychometric
    return getattr(found, factor) if found else None


def has_curve(report: Report, factor: Factor, kind: Literal["correct", "hit_rate"]) -> bool:
    """Whether a detector that is drawn has this curve."""
    found = (curves_of(report, name, factor) for name in shown(report).styles)
    return any(curves and getattr(curves, kind) is not None for curves in found)


def snr_curves(report: Report, name: str) -> dict[str, Curves]:
    """Duration -> the curves of one detector over SNR there, as far as there are any."""
    found = report.detectors[name].psychometric
    return {level: curves for level, curves in (found.snr_db_by_duration if found else {}).items() if curves.correct}


def has_snr_by_duration(report: Report) -> bool:
    """Whether a detector that is drawn has an SNR curve at two durations."""
    return any(len(snr_curves(report, name)) > 1 for name in shown(report).styles)


# --- curves ------------------------------------------------------------------------------------------------------


def psychometric_curves(report: Report, factor: Factor) -> bytes:
    """Class-balanced correct responses over `factor`, the curve fitted to them, and each detector's 75 % threshold.

    Raises ValueError where no detector has the curve.
    """
    name = "DT75" if factor == "duration_ms" else "SNR75"
    lines = _lines(report, factor, lambda curves: curves.correct, lambda level: level.correct, "balanced_accuracy")
    figure, upper, lower = _panels(report, lines, factor)
    at_chance(upper)
    upper.axhline(0.75, color=SOFT, linewidth=0.8, linestyle=(0, (2, 2)))
    lowest = [end for line in lines for _, value, ends in line.points for end in (value, *(ends or ()))]
    upper.set(ylim=(floor(lowest), 1.02), ylabel="Class-balanced correct responses")
    title(figure, f"Psychometric functions over {NAMES[factor]}", rests_on(report),
          f"{name} is the level of .75, below with its 95 % interval over groups, as at the points; {_mix(lines[0].curves)}",
          shown(report).remark)  # fmt: skip
    _thresholds(lower, lines, name, factor)
    return png(figure)


def hit_rate_curves(report: Report) -> bytes:
    """Hits over duration, the curve fitted to hits and false alarms together, and each detector's DT50.

    Raises ValueError where no detector has the curve.
    """
    recall = f"recall_{report.classes[0].lower()}"
    lines = _lines(report, "duration_ms", lambda curves: curves.hit_rate, lambda level: level.hit_rate, recall)
    figure, upper, lower = _panels(report, lines, "duration_ms")
    first = lines[0]
    upper.axhline(first.curve.guess_rate, color=first.style.ink, linewidth=0.8, linestyle=(0, (2, 2)))
    levels, alarms = zip(*((each.level, each.false_alarm_rate) for each in first.curves.levels), strict=True)
    upper.plot(levels, alarms, linestyle="", marker=first.style.marker, markerfacecolor="none", color=first.style.ink,
               markersize=5)  # fmt: skip
    upper.set(ylim=(-0.02, 1.02), ylabel=f"Answered {report.classes[0]}")
    title(figure, "Hit rate over duration", rests_on(report),
          "DT50 is the level halfway between false alarms and the upper end (F = .5), below with its 95 % interval over "
          f"groups, as at the points; open symbols and dashes: false alarms of {first.name}, at each level and in the "
          f"curve; {_mix(first.curves)}", shown(report).remark)  # fmt: skip
    _thresholds(lower, lines, "DT50", "duration_ms")
    return png(figure)


def snr_curves_by_duration(report: Report) -> bytes:
    """The headline detector's class-balanced correct responses over SNR, a panel with its SNR75 for each duration.

    Raises ValueError where it has no such curves.
    """
    each = snr_curves(report, report.detector)
    if not each:
        raise ValueError(f"{report.detector!r} has no curve over SNR at any duration")
    cells = {(cell.duration_ms, cell.snr_db): cell.ci95 for cell in report.cells}
    columns = 3 if len(each) % 3 == 0 else min(4, len(each))
    rows = math.ceil(len(each) / columns)
    figure = Figure(figsize=(0.9 + 2.1 * columns, 0.5 + 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    reached = [
        end
        for axes, (level, curves) in zip(panels.flat, each.items(), strict=False)
        for end in _at_duration(axes, level, curves, cells)
    ]
    tested = sorted({at.level for curves in each.values() for at in curves.levels})
    panels[0, 0].set(
        ylim=(floor(reached), 1.02), xlim=(tested[0] - 0.07 * np.ptp(tested), tested[-1] + 0.07 * np.ptp(tested))
    )
    panels[0, 0].set_xticks(tested, [number(level) for level in tested])
    for axes in panels.flat[len(each) :]:
        axes.set_axis_off()
    for axes in panels.flat[max(0, len(each) - columns) : len(each)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(AXES["snr_db"], fontsize=9)
    # one a row, in two lines: one for all would stand in the middle of the figure, caption and all
    for axes in panels[:, 0]:
        axes.set_ylabel("Class-balanced\ncorrect responses", fontsize=9)
    title(figure, f"{report.detector}: psychometric functions over SNR at each duration", rests_on(report),
          "bars: 95 % intervals over groups; line: chance; dashes: .75, and on them SNR75 with its interval")  # fmt: skip
    return png(figure)


def _at_duration(
    axes: Axes, level: str, curves: Curves, cells: Mapping[tuple[float | None, float | None], Ends]
) -> list[float]:
    """One panel; returns every height it reaches."""
    points = [(at.level, at.correct, cells.get((float(level), at.level))) for at in curves.levels]
    axes.axhline(CHANCE, color=SOFT, linewidth=0.8, zorder=1)
    axes.axhline(0.75, color=SOFT, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    dress(axes)
    axes.tick_params(labelsize=8)
    if curves.correct:
        line, at = _Line(level, STYLES[0], curves, curves.correct, points), curves.correct.thresholds["SNR75"]
        _draw(axes, line, 0, 1.3)
        _threshold(axes, 0.75, at, line._replace(style=OPEN), (curves.levels[0].level, curves.levels[-1].level))
        words = _in_words(at, curves.levels, "dB").replace("none: ", "no SNR75, ")
        axes.set_title(f"{level} ms: {words}", fontsize=8.5, loc="left")
    return [end for _, value, ends in points for end in (value, *(ends or ()))]


def snr_threshold_by_duration(report: Report) -> bytes:
    """SNR75 of every detector at each duration; what lies outside the tested levels is an arrow, what is not there a cross.

    Raises ValueError where no detector has an SNR curve at two durations.
    """
    if not has_snr_by_duration(report):
        raise ValueError("no detector of the report has curves over SNR at two durations")
    drawn = shown(report).styles
    found = {name: by_duration for name in drawn if (by_duration := snr_curves(report, name))}
    tested = sorted({at.level for each in found.values() for curves in each.values() for at in curves.levels})
    durations = sorted({float(level) for each in found.values() for level in each})
    low, high = tested[0], tested[-1]
    margin = 0.16 * (high - low)
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.axhspan(low, high, color="#f2f2f2", zorder=0)
    for order, (name, by_duration) in enumerate(found.items()):
        shift = 0.045 * (order - (len(found) - 1) / 2)
        spots = {
            float(level): curves.correct.thresholds["SNR75"] for level, curves in by_duration.items() if curves.correct
        }
        _thresholds_over(axes, spots, drawn[name], name, shift, (low, high, margin))
    axes.set_xscale("log")
    axes.set_xticks(durations, [number(level) for level in durations])
    axes.minorticks_off()
    axes.set(xlabel=AXES["duration_ms"], ylabel="SNR75 (dB)", ylim=(low - margin, high + 2 * margin),
             xlim=(durations[0] / 1.35, durations[-1] * 1.35))  # fmt: skip
    axes.set_yticks(tested)
    dress(axes)
    legend_below(axes, list(found))
    title(figure, "SNR75 by duration", rests_on(report),
          "bars: 95 % intervals over groups, cut at the axis; grey: tested SNRs; arrow: beyond them; cross: no threshold",
          shown(report).remark)  # fmt: skip
    return png(figure)


# --- parts -------------------------------------------------------------------------------------------------------


def _lines(
    report: Report,
    factor: Factor,
    curve_of: Callable[[Curves], Curve | None],
    rate_of: Callable[[CurveLevel], float],
    metric: str,
) -> list[_Line]:
    """Every drawn detector that has the curve. Raises ValueError where none has."""
    lines = []
    for name, style in shown(report).styles.items():
        curves = curves_of(report, name, factor)
        if curves is None or (curve := curve_of(curves)) is None:
            continue
        by = report.detectors[name].by.get(factor, {})
        points: list[tuple[float, float, Ends]] = []
        for each in curves.levels:
            level = by.get(level_name(each.level, factor))
            at = getattr(level, metric) if level else None
            points.append((each.level, rate_of(each), at.ci95 if isinstance(at, Metric) else None))
        lines.append(_Line(name, style, curves, curve, points))
    if not lines:
        raise ValueError(f"no detector of the report has this curve over {factor}")
    return lines


def _panels(report: Report, lines: list[_Line], factor: Factor) -> tuple[Figure, Axes, Axes]:
    """Curves above, room for a threshold a detector below, one axis of levels."""
    rows = 0.27 * len(lines)
    figure = Figure(figsize=(7.8, 3.9 + rows), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, rows + 0.2))
    levels = sorted({level.level for line in lines for level in line.curves.levels})
    if factor == "duration_ms":
        upper.set_xscale("log")
        upper.set_xlim(levels[0] / 1.25, levels[-1] * 1.25)
    else:
        upper.set_xlim(levels[0] - 0.06 * np.ptp(levels), levels[-1] + 0.06 * np.ptp(levels))
    upper.set_xticks(levels, [number(level) for level in levels])
    upper.minorticks_off()
    for order, line in reversed([*enumerate(lines)]):
        _draw(upper, line, _beside(order, len(lines)), 1.9 if order == 0 else 1.2)
    handles, labels = upper.get_legend_handles_labels()
    upper.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8.5,
                 handlelength=3.4)  # fmt: skip
    dress(upper)
    dress(lower, grid=False)
    lower.set_xlabel(AXES[factor])
    return figure, upper, lower


def _draw(axes: Axes, line: _Line, shift: float, width: float) -> None:
    """A curve and its points with their bars; `shift` moves the points sideways, as a share of the axis."""
    ink, levels = line.style.ink, [level for level, *_ in line.points]
    if axes.get_xscale() == "log":
        moved = [level * (levels[-1] / levels[0]) ** shift for level in levels]
    else:
        moved = [level + shift * (levels[-1] - levels[0]) for level in levels]
    axes.plot(*zip(*line.curve.points, strict=True), color=ink, linestyle=line.style.line, linewidth=width, zorder=2)
    axes.plot(moved, [value for _, value, _ in line.points], color=ink, linestyle="", marker=line.style.marker,
              markersize=5, zorder=3)  # fmt: skip
    for x, (_, _, ends) in zip(moved, line.points, strict=True):
        if ends:
            axes.plot((x, x), ends, color=ink, linewidth=1.0, alpha=0.75, zorder=2)
    axes.plot([], [], color=ink, linestyle=line.style.line, marker=line.style.marker, linewidth=width, markersize=5,
              label=line.name)  # fmt: skip


def _beside(order: int, n: int) -> float:
    """How far the points of one of `n` stand beside their level, as a share of the axis, so that no bar hides another."""
    return 0.012 * (order - (n - 1) / 2)


def _mix(curves: Curves) -> str:
    """Which clips enter: what is held and what is pooled."""
    unit = {"duration_ms": "ms", "snr_db": "dB"}
    held = [f"at {level:g} {unit.get(name, '')}".rstrip() for name, level in curves.at.items()]
    pooled = [
        NAMES.get(name, name) + ("" if unlike < 0.05 else " (in shares that differ between levels)")
        for name, unlike in curves.pooled.items()
    ]
    parts = [*held, *([f"pooled over {', '.join(pooled)}"] if pooled else []), f"{curves.clips:,} clips enter"]
    return ", ".join(parts)


def _thresholds(axes: Axes, lines: list[_Line], name: str, factor: Factor) -> None:
    """A row a detector: its threshold, the interval, and both in words."""
    unit = "ms" if factor == "duration_ms" else "dB"
    low, high = axes.get_xlim()
    for row, line in enumerate(lines):
        at = line.curve.thresholds[name]
        _threshold(axes, row, at, line, (low, high))
        axes.annotate(_in_words(at, line.curves.levels, unit), (1, row), xycoords=("axes fraction", "data"), xytext=(6, 0),
                      textcoords="offset points", va="center", fontsize=8)  # fmt: skip
    axes.set_yticks(range(len(lines)), [line.name for line in lines], fontsize=8.5)
    axes.set_ylim(len(lines) - 0.4, -0.9)
    axes.annotate(f"{name}, 95 % interval", (1, -0.9), xycoords=("axes fraction", "data"), xytext=(6, 0),
                  textcoords="offset points", va="center", fontsize=8, color="#444444")  # fmt: skip
    axes.set_xlim(low, high)


def _threshold(axes: Axes, row: float, at: CurveThreshold, line: _Line, bounds: tuple[float, float]) -> None:
    """Symbol and interval of one threshold, or an arrow at the end of the levels beyond which it lies."""
    if at.value is None:
        return
    ink, (low, high) = line.style.ink, bounds
    first, last = line.curves.levels[0].level, line.curves.levels[-1].level
    left, right = (bounds[side] if end is None else end for side, end in enumerate(at.ci95 or bounds))
    if at.ci95 and left <= last and right >= first:
        axes.plot((max(left, low), min(right, high)), (row, row), color=ink, linewidth=1.4)
        inside = [end for end in (left, right) if low < end < high]
        axes.plot(inside, [row] * len(inside), linestyle="", marker="|", color=ink, markersize=7)
    if at.censored:
        spot, marker = (first, "<") if at.censored == "below" else (last, ">")
        axes.plot(spot, row, marker=marker, color=ink, markersize=8, markerfacecolor="white")
    else:
        axes.plot(at.value, row, marker=line.style.marker, color=ink, markersize=6.5)


def _in_words(at: CurveThreshold, levels: list[CurveLevel], unit: str) -> str:
    if at.value is None:
        return "none: " + (at.reason or "").split(":")[0].split("(")[0].strip()
    lowest, highest = levels[0].level, levels[-1].level
    if at.censored:
        return f"{at.censored} {number(lowest if at.censored == 'below' else highest)} {unit}"
    low, high = (stated_end(end, lowest, highest, unit) for end in at.ci95 or (None, None))
    ends = f" [{low}, {high}]" if at.ci95 else ", no interval"
    return f"{stated_level(at.value, unit)} {unit}{ends}".replace("-", "−")


def _thresholds_over(
    axes: Axes,
    spots: dict[float, CurveThreshold],
    style: Style,
    name: str,
    shift: float,
    bounds: tuple[float, float, float],
) -> None:
    """One detector's SNR75 over duration, joined where neighbours have one; arrows and crosses in the margins."""
    low, high, margin = bounds
    axes.plot([], [], color=style.ink, linestyle=style.line, marker=style.marker, markersize=5, label=name)
    there = [(x, at.value) for x, at in sorted(spots.items()) if at.value is not None and not at.censored]
    axes.plot([x * np.exp(shift) for x, _ in there], [value for _, value in there], color=style.ink,
              linestyle=style.line, marker=style.marker, markersize=5.5, linewidth=1.2)  # fmt: skip
    for x, at in spots.items():
        here = x * np.exp(shift)
        if at.value is None:
            axes.plot(here, high + 1.45 * margin, marker="x", color=style.ink, markersize=6)
        elif at.censored:
            spot, marker = (low - 0.5 * margin, "v") if at.censored == "below" else (high + 0.6 * margin, "^")
            axes.plot(here, spot, marker=marker, color=style.ink, markersize=7, markerfacecolor="none")
        if at.value is not None and at.ci95:
            edges = low - margin, high + margin
            bottom, top = (edge if end is None else end for edge, end in zip(edges, at.ci95, strict=True))
            axes.plot((here, here), (max(bottom, edges[0]), min(top, edges[1])), color=style.ink, linewidth=1.0,
                      alpha=0.75)  # fmt: skip
