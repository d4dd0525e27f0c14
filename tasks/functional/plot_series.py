"""Several reports in one figure: how accuracy went from study to study, and what size it took."""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.functional.plot_canvas import SOFT, STYLES, at_chance, canvas, dress, floor, log_axis, png, title
from tasks.functional.report_document import Report
from tasks.functional.report_schema import Metric
from tasks.functional.report_series import FLOOR, adapter_bytes, trainable_parameters

INK = STYLES[0].ink


def evolution(reports: Mapping[str, Report]) -> bytes:
    """Balanced accuracy of each report's detector in the order given; joined where test clips and protocol are the same."""
    names, each = list(reports), list(reports.values())
    figure, axes = canvas(max(5.6, 1.8 + 1.15 * len(each)), 4.0)
    ends = []
    for x, one in enumerate(each):
        ends += _spot(axes, x, one.metrics["balanced_accuracy"], marker="s" if one.protocol == "random" else "o",
                      hollow=one.protocol == "random")  # fmt: skip
        if x and (one.test, one.protocol) == (each[x - 1].test, each[x - 1].protocol):
            pair = [report.metrics["balanced_accuracy"].value for report in (each[x - 1], one)]
            if None not in pair:
                axes.plot((x - 1, x), np.array(pair, dtype=float), color=INK, linewidth=1.2, zorder=1)
        if FLOOR in one.detectors and (value := one.detectors[FLOOR].metrics["balanced_accuracy"].value) is not None:
            axes.plot((x - 0.28, x + 0.28), (value, value), color=SOFT, linestyle=(0, (4, 2)), linewidth=1.4)
            ends.append(value)
    at_chance(axes)
    axes.set_xticks(range(len(each)), [f"{name}\n{one.detector}\n{one.n.groups} groups\n{one.n.clips:,} clips"
                                       for name, one in reports.items()], fontsize=8)  # fmt: skip
    if max(map(len, names)) > 16 and len(names) > 3:
        axes.tick_params(axis="x", rotation=30)
    axes.set(xlim=(-0.5, len(each) - 0.5), ylim=(floor(ends), 1.02), ylabel="Balanced accuracy")
    title(figure, "Accuracy from study to study",
          f"n = {len(each)} reports; bars: 95 % intervals over each report's groups",
          "joined: the same test clips; dashes: log-mel statistics on them; open squares: random folds")  # fmt: skip
    return png(figure)


def has_sizes(reports: Mapping[str, Report]) -> bool:
    """Whether a report is of an adapter."""
    return any(trainable_parameters(one) and adapter_bytes(one) for one in reports.values())


def accuracy_by_size(reports: Mapping[str, Report]) -> bytes:
    """Balanced accuracy over the trainable parameters and over the bytes of each report's adapter.

    Raises ValueError where no report is of an adapter.
    """
    if not has_sizes(reports):
        raise ValueError("no report is of an adapter: there is no size to draw over")
    figure = Figure(figsize=(8.4, 4.0), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    sizes: tuple[tuple[Callable[[Report], int | None], float, str], ...] = (
        (trainable_parameters, 1e6, "Trainable parameters (millions)"), (adapter_bytes, 1e6, "Adapter (MB)"),
    )  # fmt: skip
    for axes, (size, unit, label) in zip(panels, sizes, strict=True):
        drawn: dict[str, float] = {}
        for order, (name, one) in enumerate(reports.items()):
            if not (found := size(one)):
                continue
            drawn[name] = found / unit
            style = STYLES[order % len(STYLES)]
            _spot(axes, found / unit, one.metrics["balanced_accuracy"], marker=style.marker, ink=style.ink)
            if (value := one.metrics["balanced_accuracy"].value) is not None:
                axes.annotate(name, (found / unit, value), xytext=(6, 5), textcoords="offset points", fontsize=8)
        log_axis(axes, min(drawn.values()), max(drawn.values()))
        axes.margins(x=0.25)
        axes.set_xlabel(label)
        dress(axes)
    panels[0].set_ylabel("Balanced accuracy")
    without = [name for name in reports if name not in drawn]
    title(figure, "Accuracy and size", f"n = {len(drawn)} adapters; bars: 95 % intervals over each report's groups",
          f"not drawn, being of no adapter: {', '.join(without)}" if without else "")  # fmt: skip
    return png(figure)


def _spot(axes: Axes, x: float, metric: Metric, *, marker: str, ink: str = INK, hollow: bool = False) -> list[float]:
    """A value with its interval; every height it reaches."""
    if metric.value is None:
        return []
    if metric.ci95:
        axes.plot((x, x), metric.ci95, color=ink, linewidth=1.2)
    axes.plot(x, metric.value, marker=marker, color=ink, markersize=7, markerfacecolor="white" if hollow else ink)
    return [metric.value, *(metric.ci95 or ())]
