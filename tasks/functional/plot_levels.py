"""Balanced accuracy over the levels of a factor, and in the cells of duration x SNR."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from tasks.functional.plot_canvas import (
    AXES,
    NAMES,
    SOFT,
    Style,
    at_chance,
    canvas,
    floor,
    legend_below,
    number,
    png,
    title,
)
from tasks.functional.plot_detectors import rests_on, shown
from tasks.functional.report_document import Report
from tasks.functional.report_schema import Level

APART = 1.7  # steps from the last number to the level that is none


def accuracy_by_level(report: Report, factor: str) -> bytes:
    """Balanced accuracy of the detectors over the levels of `factor`, bars: the 95 % intervals over groups.

    Durations are spaced by their logarithm. The level without a number stands apart, behind a line that no curve crosses:
    no noise on the right, no room on the left.
    Raises ValueError where the report has no such factor, or one whose levels are not numbers.
    """
    if factor not in report.by:
        raise ValueError(f"the report has no factor {factor!r}, it has {list(report.by)}")
    position = _positions(list(report.by[factor]), factor)
    figure, axes = canvas(6.8, 3.9)
    drawn = shown(report)
    drawn = drawn.only([name for name in drawn.styles if factor in report.detectors[name].by])
    width = 0.07 * (max(position.values()) - min(position.values()) or 1)
    ends = []
    for order, (name, style) in enumerate(drawn.styles.items()):
        shift = width * (
            order / max(len(drawn.styles) - 1, 1) - 0.5
        )  # side by side, so that no interval hides another
        ends += _curve(axes, report.detectors[name].by[factor], position, shift, style, name, order == 0)
    at_chance(axes)
    for boundary in _boundaries(position):
        axes.axvline(boundary, color=SOFT, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    axes.set_xticks(
        list(position.values()), [level.replace("-", "−") if _is_number(level) else level for level in position]
    )
    axes.set(ylim=(floor(ends), 1.02), xlabel=AXES.get(factor, factor), ylabel="Balanced accuracy")
    legend_below(axes, list(drawn.styles))
    bars = "bars: 95 % intervals over groups"
    title(figure, f"Balanced accuracy by {NAMES.get(factor, factor)}", rests_on(report),
          "; ".join(part for part in (bars, drawn.remark) if part))  # fmt: skip
    return png(figure)


def duration_by_snr(report: Report) -> bytes:
    """Balanced accuracy of the headline detector in each cell of duration x SNR; cells without a value are hatched.

    Raises ValueError where the report has no cells.
    """
    if not report.cells:
        raise ValueError("the report has no duration x SNR cells: the test clips vary in one of them at most")
    durations = _ordered({cell.duration_ms for cell in report.cells})
    snrs = _ordered({cell.snr_db for cell in report.cells})
    figure, axes = canvas(max(5.6, 1.9 + 0.95 * len(durations)), 1.1 + 0.62 * len(snrs), grid=False)
    value = np.full((len(snrs), len(durations)), np.nan)
    for cell in report.cells:
        at = snrs.index(cell.snr_db), durations.index(cell.duration_ms)
        value[at] = np.nan if cell.balanced_accuracy is None else cell.balanced_accuracy
    lowest = 0.0 if np.isnan(value).all() else min(0.4, float(np.floor(np.nanmin(value) * 10) / 10))
    for cell in report.cells:
        at = snrs.index(cell.snr_db), durations.index(cell.duration_ms)
        _write(axes, at, value[at], f"{cell.clips} / {cell.groups}", (1 + lowest) / 2)
    image = axes.pcolormesh(value, cmap="cividis", vmin=lowest, vmax=1, edgecolors="white", linewidth=1)
    for row, column in zip(*np.nonzero(np.isnan(value)), strict=True):
        axes.fill_between((column, column + 1), row, row + 1, facecolor="none", edgecolor="#cccccc", hatch="///", lw=0)
    axes.set_xticks(np.arange(len(durations)) + 0.5, [_number(level, "not set") for level in durations])
    axes.set_yticks(np.arange(len(snrs)) + 0.5, [_number(level, "no noise") for level in snrs])
    axes.set(xlabel=AXES["duration_ms"], ylabel=AXES["snr_db"])
    figure.colorbar(image, ax=axes, label="Balanced accuracy", fraction=0.06, pad=0.03)
    title(figure, f"{report.detector}: duration × SNR", rests_on(report),
          "in each cell: value, clips / groups; hatched: no value, clips of both classes are lacking")  # fmt: skip
    return png(figure)


# --- parts -------------------------------------------------------------------------------------------------------


def _curve(
    axes: Axes, levels: Mapping[str, Level], position: Mapping[str, float], shift: float, style: Style, name: str,
    headline: bool,
) -> list[float]:  # fmt: skip
    """Draw one detector and return every height it reaches."""
    stated = sorted(
        (position[level] + shift, at.balanced_accuracy.value, at.balanced_accuracy.ci95, _is_number(level))
        for level, at in levels.items()
        if level in position and at.balanced_accuracy.value is not None
    )
    points = [(x, value, interval) for x, value, interval, _ in stated]
    width, above = (1.8, 3) if headline else (1.1, 2)
    for scaled in (True, False):  # no line leads to the level that is no number
        drawn = [(x, value) for x, value, _, to_scale in stated if to_scale is scaled]
        axes.plot(
            [x for x, _ in drawn], [value for _, value in drawn], color=style.ink, linestyle=style.line if scaled else "",
            marker=style.marker, markersize=5, linewidth=width, label=name if scaled else None, zorder=above,
        )  # fmt: skip
    for x, _, interval in points:
        if interval:
            axes.plot((x, x), interval, color=style.ink, linewidth=1.1, alpha=0.75, zorder=2)
    return [end for _, value, interval in points for end in (value, *(interval or ()))]


def _positions(levels: Sequence[str], factor: str) -> dict[str, float]:
    """Where each level stands on the axis: numbers to scale, the level that is no number apart, beside them."""
    numbers = {level: float(level) for level in levels if _is_number(level)}
    if not numbers:
        raise ValueError(f"none of the levels {list(levels)} is a number: nothing to draw over")
    position = {level: float(np.log2(x)) if factor == "duration_ms" else x for level, x in numbers.items()}
    places = sorted(position.values())
    step = max(float(np.mean(np.diff(places))), 1e-9) if len(places) > 1 else 1.0
    end, step = (places[0], -step) if factor == "rt60_s" else (places[-1], step)
    others = [level for level in levels if level not in numbers]
    return position | {level: end + step * (APART + i) for i, level in enumerate(others)}


def _boundaries(position: Mapping[str, float]) -> list[float]:
    """Where the scale ends and a level that is no number begins; nowhere where all are numbers."""
    places = sorted((x, _is_number(level)) for level, x in position.items())
    return [(x + after) / 2 for (x, one), (after, other) in pairwise(places) if one is not other]


def _is_number(level: str) -> bool:
    try:
        return bool(np.isfinite(float(level)))
    except ValueError:
        return False


def _ordered(levels: set[float | None]) -> list[float | None]:
    return [*sorted(level for level in levels if level is not None), *([None] if None in levels else [])]


def _number(level: float | None, absent: str) -> str:
    return absent if level is None else number(level)


def _write(axes: Axes, at: tuple[int, int], value: float, count: str, middle: float) -> None:
    row, column = at
    ink = "white" if value < middle else "black"
    text = "–" if np.isnan(value) else f"{value:.2f}"
    axes.text(column + 0.5, row + 0.58, text, ha="center", va="center", color=ink, fontsize=10)
    axes.text(column + 0.5, row + 0.25, count, ha="center", va="center", color=ink, fontsize=7)
