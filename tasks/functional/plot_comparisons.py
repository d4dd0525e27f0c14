"""The headline against every other detector: paired differences with their intervals."""

from matplotlib.axes import Axes

from tasks.functional.plot_canvas import SOFT, canvas, png, title
from tasks.functional.plot_detectors import rests_on
from tasks.functional.report_document import Report
from tasks.functional.report_schema import Comparison

FILLED = {"better": "full", "worse": "full", "not distinguishable": "none"}
MARKERS = {"better": "o", "worse": "s", "not distinguishable": "o"}


def forest(report: Report) -> bytes:
    """The headline detector minus each other, with the paired 95 % interval; open where that tells no difference.

    Raises ValueError where there is nothing to compare with.
    """
    if not report.comparisons:
        raise ValueError("the report compares its detector with no other")
    rows = sorted(report.comparisons.items(), key=lambda item: (-item[1].difference, item[0]))
    figure, axes = canvas(7.6, 0.8 + 0.34 * len(rows), grid=False)
    axes.axvline(0, color=SOFT, linewidth=0.9)
    for row, (_, one) in enumerate(rows):
        _difference(axes, row, one)
        ends = "no interval" if one.ci95 is None else f"[{one.ci95[0]:+.3f}, {one.ci95[1]:+.3f}]"
        words = f"{one.difference:+.3f} {ends}  {one.verdict}".replace("-", "−")
        axes.annotate(words, (1, row), xycoords=("axes fraction", "data"),
                      xytext=(8, 0), textcoords="offset points", va="center", fontsize=8.5)  # fmt: skip
    axes.set_yticks(range(len(rows)), [f"− {name}" for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", color="#eeeeee", linewidth=0.6)
    statistics = " or ".join(sorted({one.statistic.replace("_", " ") for _, one in rows}))
    axes.set_xlabel(f"Difference of {statistics}")
    pairs = sorted({one.n for _, one in rows})
    paired = f"{pairs[0]:,}" if len(pairs) == 1 else f"{pairs[0]:,} to {pairs[-1]:,}"
    title(figure, f"{report.detector} minus each other detector", rests_on(report),
          f"bars: paired 95 % intervals over groups; {paired} clips pair; open: 0 is in the interval, or that is not to be "
          "relied on")  # fmt: skip
    return png(figure)


def _difference(axes: Axes, row: int, one: Comparison) -> None:
    if one.ci95:
        axes.plot(one.ci95, (row, row), color="#111111", linewidth=1.5)
        axes.plot(one.ci95, (row, row), color="#111111", linestyle="", marker="|", markersize=8)
    face = "#111111" if FILLED[one.verdict] == "full" else "white"
    axes.plot(one.difference, row, marker=MARKERS[one.verdict], color="#111111", markerfacecolor=face, markersize=7)
