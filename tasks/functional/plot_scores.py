"""What the answers and the scores of detectors are like: confusion, reliability, ROC and precision-recall."""

import numpy as np
from matplotlib.figure import Figure

from tasks.functional.plot_canvas import SOFT, STYLES, canvas, dress, png, title
from tasks.functional.plot_detectors import rests_on, shown, stated
from tasks.functional.report_document import Report


def confusion_matrix(report: Report) -> bytes:
    """Answers by truth (rows) and answer (columns) of the headline detector, with the share of the row."""
    answers = [*report.classes, *(["unanswered"] if report.n.unanswered else [])]
    counts = np.array([[report.confusion[truth][answer] for answer in answers] for truth in report.classes])
    share = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    figure, axes = canvas(max(5.6, 2.6 + 1.2 * len(answers)), 2.9, grid=False)
    axes.pcolormesh(share, cmap="gray_r", vmin=0, vmax=1.25, edgecolors="white", linewidth=1)
    for (row, column), clips in np.ndenumerate(counts):
        ink = "white" if share[row, column] > 0.55 else "black"
        axes.text(column + 0.5, row + 0.5, f"{clips:,}\n{share[row, column]:.1%}", ha="center", va="center", color=ink)
    axes.set_xticks(np.arange(len(answers)) + 0.5, answers)
    axes.set_yticks(np.arange(len(report.classes)) + 0.5, report.classes, rotation=90, va="center")
    axes.set(xlabel="Answer", ylabel="Truth")
    axes.invert_yaxis()
    title(figure, f"{report.detector}: confusion", rests_on(report))
    return png(figure)


def reliability_diagram(report: Report) -> bytes:
    """Share right against mean top-label confidence in each bin, above the number of clips in each.

    Raises ValueError where the report has no calibration (its headline gives no probabilities).
    """
    if report.calibration is None:
        raise ValueError("the report has no calibration: its headline detector gives no p_speech")
    bins = [each for each in report.calibration.bins if each.clips]
    figure = Figure(figsize=(5.6, 4.9), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    upper.plot((0.5, 1), (0.5, 1), color=SOFT, linewidth=0.9, linestyle="--", label="as often right as sure")
    upper.plot([each.confidence for each in bins], [each.accuracy for each in bins], "o-", color=STYLES[0].ink,
               label="bins")  # fmt: skip
    upper.set(ylim=(0, 1.03), ylabel="Share of clips right")
    upper.legend(loc="lower right", frameon=False, fontsize=9)
    width = 0.9 * (bins[0].high - bins[0].low)
    lower.bar([(each.low + each.high) / 2 for each in bins], [each.clips for each in bins], width, color="#888888")
    lower.set(xlim=(0.48, 1.02), xlabel="Confidence, the larger of p and 1 − p", ylabel="Clips")
    for axes in (upper, lower):
        dress(axes)
    figure.align_ylabels()
    ece = f"top-label ECE {report.calibration.ece:.3f}, {report.calibration.n_bins} equal-width bins"
    title(figure, f"{report.detector}: calibration", rests_on(report), ece)
    return png(figure)


def roc_and_pr(report: Report) -> bytes:
    """Recall over false alarms, and precision over recall, of every detector with scores; where each one stands.

    Raises ValueError where none has scores for all clips of both classes.
    """
    drawn = shown(report)
    drawn = drawn.only([name for name in drawn.styles if report.detectors[name].curves])
    if not drawn.styles:
        raise ValueError("no detector of the report has p_speech for all clips of both classes: there is no ROC")
    figure = Figure(figsize=(9.2, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for order, (name, style) in reversed([*enumerate(drawn.styles.items())]):
        detector, width = report.detectors[name], 1.8 if order == 0 else 1.1
        if detector.curves is None:
            continue
        at, roc, pr = detector.curves.at, np.array(detector.curves.roc), np.array(detector.curves.precision_recall)
        line = {"color": style.ink, "linestyle": style.line, "linewidth": width}
        dot = {"color": style.ink, "marker": style.marker, "markersize": 7, "markeredgecolor": "white", "zorder": 4}
        auc, ap = (stated(detector.metrics[metric], 2) for metric in ("roc_auc", "average_precision"))
        left.plot(roc[:, 0], roc[:, 1], label=f"{name}: AUC {auc}", **line)
        left.plot(at.false_alarm_rate, at.recall, **dot)
        right.step(pr[:, 0], pr[:, 1], where="pre", label=f"{name}: AP {ap}", **line)
        if at.precision is not None:
            right.plot(at.recall, at.precision, **dot)
    left.plot((0, 1), (0, 1), color=SOFT, linewidth=0.8)
    first = report.classes[0]
    share = report.n.by_label[first].clips / report.n.clips
    right.axhline(share, color=SOFT, linewidth=0.8)
    left.set(xlabel=f"False-alarm rate ({report.classes[1]} taken for {first})", ylabel=f"Recall of {first}")
    right.set(xlabel=f"Recall of {first}", ylabel=f"Precision of {first}")
    for axes in (left, right):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        dress(axes)
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False,
                    fontsize=8.5, handlelength=3.2)  # fmt: skip
    many = max(one.curves.models for name in drawn.styles if (one := report.detectors[name]).curves)
    title(figure, "ROC, and precision over recall", rests_on(report),
          "symbols: where each detector stands; grey: chance; in brackets: 95 % intervals over groups",
          f"means over {many} models, one a fold and seed" if many > 1 else "", drawn.remark)  # fmt: skip
    return png(figure)
