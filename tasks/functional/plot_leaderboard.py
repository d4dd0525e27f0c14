"""A leaderboard: balanced accuracy with its interval, the best first, open where it is not told apart from the first."""

from collections.abc import Mapping, Sequence

from tasks.functional.leaderboard import Pair, told_apart
from tasks.functional.plot_canvas import FAINT, SOFT, STYLES, canvas, floor, png, title
from tasks.functional.plot_detectors import rests_on, stated
from tasks.functional.report_document import Report

INK = STYLES[0].ink


def leaderboard(reports: Mapping[str, Report], pairs: Sequence[Pair]) -> bytes:
    """reports: name -> report, the best first; pairs: all of them."""
    first, names = next(iter(reports)), list(reports)
    apart = {pair.second for pair in pairs if pair.first == first and told_apart(pair)} | {first}
    figure, axes = canvas(7.6, 0.8 + 0.34 * len(names), grid=False)
    axes.axvline(0.5, color=SOFT, linewidth=0.9)
    reached = []
    for row, (name, one) in enumerate(reports.items()):
        metric = one.metrics["balanced_accuracy"]
        if metric.value is None:
            continue
        reached += [metric.value, *(metric.ci95 or ())]
        if metric.ci95:
            axes.plot(metric.ci95, (row, row), color=INK, linewidth=1.5)
        axes.plot(
            metric.value, row, marker="o", color=INK, markersize=7, markerfacecolor=INK if name in apart else "white"
        )
        axes.annotate(stated(metric), (1, row), xycoords=("axes fraction", "data"), xytext=(8, 0),
                      textcoords="offset points", va="center", fontsize=8.5)  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(floor(reached), 1.01), xlabel="Balanced accuracy")
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    title(figure, "Leaderboard", rests_on(reports[first]),
          "bars: 95 % intervals over groups, each detector's own; line: chance",
          "open: not told apart from the first, in pairs and after Holm")  # fmt: skip
    return png(figure)
