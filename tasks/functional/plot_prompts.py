"""The figures of a search for a prompt."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.functional.plot_canvas import (
    AXES,
    NAMES,
    SOFT,
    STYLES,
    at_chance,
    canvas,
    dress,
    floor,
    legend_below,
    png,
    title,
)
from tasks.functional.prompt_report_schema import ModelSearch, PromptReport
from tasks.functional.report_schema import Metric

MOST_COMPARED = 20
Value = Literal["score", "accuracy"]  # of a prompt: less its length's penalty, or nothing taken off
MARKS = {"hand": STYLES[0], "llm": STYLES[1], "grammar": STYLES[2]}
WRITTEN = {"hand": "by hand", "llm": "by a language model", "grammar": "by the grammar"}


def prompt_figures(report: PromptReport) -> dict[str, bytes]:
    """Every figure by name; the same report gives the same bytes."""
    drawn = {"progress": progress(report), "length": length_against_score(report)}
    for name, its in report.models.items():
        drawn[f"comparison_{name}"] = comparison(name, its)
    if report.test:
        drawn["two_by_two"] = two_by_two(report)
    for factor in dict.fromkeys(factor for its in report.test.values() for factor in its.by):
        drawn[f"by_{factor}"] = by_condition(report, factor)
    return drawn


def progress(report: PromptReport) -> bytes:
    """Each candidate's score in its round, as the search weighs it, and the best so far."""
    figure, panels = _panels(report)
    for axes, (name, its) in zip(panels, report.models.items(), strict=True):
        _scatter(axes, its, "score", lambda row, k: row.round + 0.05 * (k % 7 - 3))
        axes.step([one.round for one in its.rounds], [one.score for one in its.rounds], where="post", color="#111111",
                  linewidth=1.4, label="best so far")  # fmt: skip
        _reference(axes, its, "score")
        axes.set(title=name, xlabel="Round")
        axes.set_xticks([one.round for one in its.rounds])
    penalty = next(iter(report.models.values())).length_penalty
    less = f"\nless {100 * penalty:g} points a word" if penalty else ""
    panels[0].set_ylabel(f"Balanced accuracy on the search clips{less}")
    legend_below(panels[0], ["best so far", *WRITTEN.values()])
    title(figure, "Progress of the search", _searched_on(report),
          "optimistic, for these clips choose; hollow: dropped early, score predicted; ringed: chosen")  # fmt: skip
    return png(figure)


def length_against_score(report: PromptReport) -> bytes:
    """Balanced accuracy over the number of words, nothing taken off."""
    figure, panels = _panels(report)
    for axes, (name, its) in zip(panels, report.models.items(), strict=True):
        _scatter(axes, its, "accuracy", lambda row, _: row.words)
        _reference(axes, its, "accuracy")
        axes.set(title=name, xlabel="Words")
    panels[0].set_ylabel("Balanced accuracy on the search clips")
    legend_below(panels[0], list(WRITTEN.values()))
    title(figure, "Length and accuracy", _searched_on(report),
          "hollow: predicted when the prompt was dropped; ringed: chosen")  # fmt: skip
    return png(figure)


def comparison(name: str, its: ModelSearch) -> bytes:
    """The winner and the prompts written by hand on the held-out clips, with intervals."""
    rows = its.compared[:MOST_COMPARED]
    figure, axes = canvas(9.2, 0.9 + 0.42 * len(rows), grid=False)
    for y, one in enumerate(rows):
        winner, own = one.number == its.best, one.number == its.reference
        style = STYLES[1] if winner else STYLES[0]
        _with_interval(axes, one.held_out, y, style.ink, "s" if winner else "o", hollow=not (winner or own))
    labels = [f"{one.number}  {textwrap.shorten(one.text, 72, placeholder=' ...')}" for one in rows]
    marks = ["chosen: " if one.number == its.best else "own: " if one.number == its.reference else "" for one in rows]
    axes.set_yticks(range(len(rows)), [mark + text for mark, text in zip(marks, labels, strict=True)], fontsize=7.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(0.5, color=SOFT, linewidth=0.8)
    axes.grid(axis="x", color="#eeeeee", linewidth=0.6)
    axes.set_xlabel("Balanced accuracy on held-out dev clips")
    count = its.clips["held_out"]
    groups = " and ".join(f"{n} {label}" for label, n in count.groups.items())
    title(figure, f"{name}: prompts on clips that took no part in the search",
          f"n = {count.clips} clips of {groups} groups; bars: 95 % intervals over groups, not paired",
          "square: chosen by the search; full circle: the study's own prompt; hollow: others written by hand")  # fmt: skip
    return png(figure)


def two_by_two(report: PromptReport) -> bytes:
    """Base and adapter under both prompts on test."""
    figure, axes = canvas(5.2, 3.4)
    values = []
    for x, its in enumerate(report.test.values()):
        for shift, cell, style in ((-0.12, its.by_hand, STYLES[0]), (0.12, its.searched, STYLES[1])):
            values += _upright(axes, cell.balanced_accuracy, x + shift, style.ink, style.marker)
    at_chance(axes)
    axes.set_xticks(range(len(report.test)), list(report.test))
    axes.set(xlim=(-0.6, len(report.test) - 0.4), ylim=(floor(values), 1.02), ylabel="Balanced accuracy on test")
    count = next(iter(report.test.values())).clips
    groups = " and ".join(f"{n} {label}" for label, n in count.groups.items())
    title(figure, "Model and prompt", f"n = {count.clips} test clips of {groups} groups; bars: 95 % intervals over groups",
          "circle: the study's own prompt; square: the one the search chose")  # fmt: skip
    return png(figure)


def by_condition(report: PromptReport, factor: str) -> bytes:
    """Both prompts at each level of a factor, on test."""
    models = {name: its.by[factor] for name, its in report.test.items() if factor in its.by}
    figure = Figure(figsize=(4.6 * len(models), 3.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(models), sharey=True))
    values: list[float] = []
    for axes, (name, levels) in zip(panels, models.items(), strict=True):
        dress(axes)
        for x, one in enumerate(levels.values()):
            values += _upright(axes, one.by_hand, x - 0.12, STYLES[0].ink, STYLES[0].marker)
            values += _upright(axes, one.searched, x + 0.12, STYLES[1].ink, STYLES[1].marker)
        axes.axhline(0.5, color=SOFT, linewidth=0.8)
        axes.set_xticks(range(len(levels)), [its.replace("-", "−") if factor == "snr_db" else its for its in levels])
        axes.set(title=name, xlabel=AXES.get(factor, factor.replace("_", " ").capitalize()))
    panels[0].set(ylabel="Balanced accuracy on test", ylim=(floor(values), 1.02))
    counts = sorted({one.clips for levels in models.values() for one in levels.values()})
    title(figure, f"By {NAMES.get(factor, factor)}",
          f"n = {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} test clips a level; "
          "bars: 95 % intervals over groups; line: chance",
          "circle: the study's own prompt; square: the one the search chose")  # fmt: skip
    return png(figure)


# --- parts -------------------------------------------------------------------------------------------------------


def _panels(report: PromptReport) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(max(5.4, 4.4 * len(report.models)), 3.9), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(report.models), sharey=True))
    for axes in panels:
        dress(axes)
    return figure, list(panels)


def _scatter(axes: Axes, its: ModelSearch, value: Value, place: Callable[..., float]) -> None:
    for by, style in MARKS.items():
        rows = [(k, row) for k, row in enumerate(its.prompts) if row.by == by and row.score is not None]
        if rows:
            axes.plot([], [], linestyle="", marker=style.marker, color=style.ink, label=WRITTEN[by])
        for whole in (True, False):
            some = [(place(row, k), getattr(row, value)) for k, row in rows if row.asked_in_full == whole]
            if some:
                axes.plot(*zip(*some, strict=True), linestyle="", marker=style.marker, color=style.ink, markersize=5.5,
                          markerfacecolor=style.ink if whole else "white")  # fmt: skip
    chosen = its.prompts[its.best]
    axes.plot(place(chosen, its.best), getattr(chosen, value), linestyle="", marker="o", color="#111111", markersize=12,
              markerfacecolor="none")  # fmt: skip


def _reference(axes: Axes, its: ModelSearch, value: Value) -> None:
    score = getattr(its.prompts[its.reference], value)
    if score is not None:
        axes.axhline(score, color=SOFT, linestyle=(0, (4, 2)), linewidth=1.1)
        axes.annotate("own", (1, score), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
                      va="center", fontsize=8, color="#555555")  # fmt: skip


def _with_interval(axes: Axes, metric: Metric, y: float, ink: str, marker: str, *, hollow: bool) -> None:
    if metric.value is None:
        return
    if metric.ci95:
        axes.plot(metric.ci95, (y, y), color=ink, linewidth=1.3)
    axes.plot(metric.value, y, marker=marker, color=ink, markersize=6.5, markerfacecolor="white" if hollow else ink)


def _upright(axes: Axes, metric: Metric, x: float, ink: str, marker: str) -> list[float]:
    if metric.value is None:
        return []
    if metric.ci95:
        axes.plot((x, x), metric.ci95, color=ink, linewidth=1.3)
    axes.plot(x, metric.value, marker=marker, color=ink, markersize=6.5)
    return [metric.value, *(metric.ci95 or ())]


def _searched_on(report: PromptReport) -> str:
    parts = [
        f"{name}: {len(its.prompts)} prompts, {its.clips['search'].clips} clips of "
        f"{' and '.join(f'{n} {label}' for label, n in its.clips['search'].groups.items())} groups"
        for name, its in report.models.items()
    ]
    return "; ".join(parts)
