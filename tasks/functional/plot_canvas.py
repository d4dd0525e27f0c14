"""One style for all figures: told apart by marker, line and grey value, n and conditions in the caption, fixed bytes."""

import io
import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

DPI = 160
LETTERS_AN_INCH = 16.5  # of a caption
TITLE_IN, LINE_IN = 0.4, 0.148
FAINT, SOFT, DARK = "#dddddd", "#777777", "#444444"
Line = str | tuple[float, tuple[float, ...]]
AXES = {"duration_ms": "Duration (ms)", "snr_db": "SNR (dB)", "rt60_s": "RT60 (s)"}
NAMES = {"duration_ms": "duration", "snr_db": "SNR", "rt60_s": "reverberation"}


class Style(NamedTuple):
    """How one of several things is drawn; the ink alone never tells it apart."""

    marker: str
    line: Line
    ink: str


STYLES = (
    Style("o", "-", "#111111"),
    Style("s", "--", "#b3541e"),
    Style("^", ":", "#2a6f97"),
    Style("D", "-.", "#6a994e"),
    Style("v", (0, (5, 1, 1, 1, 1, 1)), "#7b5ea7"),
    Style("X", (0, (1, 3)), "#8d8d8d"),
    Style("P", (0, (8, 2)), "#a3174f"),
    Style("*", (0, (3, 1, 1, 1)), "#c08a00"),
)


# --- canvas ------------------------------------------------------------------------------------------------------


def canvas(width: float, height: float, *, grid: bool = True) -> tuple[Figure, Axes]:
    """A figure of so many inches with one axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    dress(axes, grid=grid)
    return figure, axes


def dress(axes: Axes, *, grid: bool = True) -> None:
    """Two spines, and a grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
    else:
        axes.tick_params(length=0)


def title(figure: Figure, text: str, *notes: str) -> None:
    """A title and, below it, the caption: one note a line, long ones broken; the figure grows by the room they take."""
    width, height = figure.get_size_inches()
    lines = [line for each in notes if each for line in textwrap.wrap(each, int((width - 0.25) * LETTERS_AN_INCH))]
    room = TITLE_IN + LINE_IN * len(lines)
    whole = height + room
    figure.set_size_inches(width, whole)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, height / whole))
    left, top = 0.08 / width, 1 - 0.07 / whole
    figure.text(left, top, text, ha="left", va="top", fontsize=11, fontweight="bold")
    figure.text(left, top - 0.23 / whole, "\n".join(lines), ha="left", va="top", fontsize=8.5, linespacing=1.25,
                color=DARK)  # fmt: skip


def legend_below(axes: Axes, names: Sequence[str], *, drop: float = 0.17) -> None:
    """The legend under the x label, so that it hides no data; in one row where the names are short."""
    columns = len(names) if sum(map(len, names)) + 9 * len(names) < 84 else 4
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -drop), ncols=columns, frameon=False, fontsize=9, handlelength=3.2
    )


def log_axis(axes: Axes, lowest: float, highest: float) -> None:
    """A logarithmic x axis with plain numbers; 1, 2 and 5 of each decade where there are few."""
    subs = (1.0, 2.0, 5.0) if highest / lowest < 300 else (1.0,)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def at_chance(axes: Axes, level: float = 0.5, name: str = "chance") -> None:
    """A line with its name to the right of the axes."""
    axes.axhline(level, color=SOFT, linewidth=0.8, zorder=1)
    axes.annotate(
        name, (1, level), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points", va="center",
        fontsize=8, color="#555555",
    )  # fmt: skip


def floor(values: Sequence[float], highest: float = 0.4) -> float:
    """Where an axis of rates begins: `highest`, or below the lowest value where that lies deeper."""
    return max(0.0, min([highest, *(math.floor(value * 20) / 20 for value in values)]) - 0.02)


def number(value: float) -> str:
    """A level as a tick shows it, with a true minus sign."""
    return f"{value:g}".replace("-", "−")


def png(figure: Figure) -> bytes:
    """The figure as PNG; the same drawing gives the same bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
