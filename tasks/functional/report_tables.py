"""A report as tables: what lies in tables/*.csv, and the few lines a terminal shows."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from tasks.functional.card_tables import footnote, mark, meaning
from tasks.functional.goals import goal_lines
from tasks.functional.levels import fit_doubts, stated_end, stated_level, stated_p
from tasks.functional.report_document import Report
from tasks.functional.report_psychometric import Curve, Curves, CurveThreshold, Psychometric
from tasks.functional.report_schema import Comparison, Metric, SeedsAlike


def csv_tables(report: Report) -> dict[str, pd.DataFrame]:
    """Every table by its file's name; one that would have no row is left out."""
    tables = {
        "detectors": list(_detectors(report)),
        "goals": [_with_ends(goal.model_dump()) for goal in report.goals],
        "metrics": list(_metrics(report)),
        "levels": list(_levels(report)),
        "cells": [_with_ends(cell.model_dump()) for cell in report.cells],
        "comparisons": list(_comparisons(report)),
        "comparison_levels": list(_comparison_levels(report)),
        "seeds": [
            {"seed": s.seed, "published": s.published, **row} for s in report.seeds for row in _stated(s.metrics)
        ],
        "reliability": [one.model_dump() for one in report.calibration.bins] if report.calibration else [],
        "thresholds": list(_thresholds(report)),
        "psychometric_levels": list(_curve_levels(report)),
        "interaction": list(_interaction(report)),
        "power": [report.power.model_dump()] if report.power else [],
        "inflation": list(_inflation(report)),
        **_errors(report),
    }
    return {name: pd.DataFrame(rows) for name, rows in tables.items() if rows}


OF_A_DETECTOR = ("balanced_accuracy", "roc_auc", "accuracy")


def evaluation_rows(report: Report) -> list[dict[str, Any]]:
    """One row a detector, the headline first: what the run's page and the terminal show, an interval that is not to be
    relied on marked as a card marks it."""
    rows = []
    for name in _headline_first(report):
        detector = report.detectors[name]
        row: dict[str, Any] = {"detector": name, "clips": detector.n.clips, "groups": detector.n.groups}
        for metric in OF_A_DETECTOR:
            stated = detector.metrics[metric]
            row[metric] = None if stated.value is None else round(stated.value, 3)
            row[f"{metric}_ci95"] = _interval(stated.ci95) + mark(stated.ci95, stated.reason)
        rows.append(row)
    return rows


def _headline_first(report: Report) -> list[str]:
    return [report.detector, *sorted(name for name in report.detectors if name != report.detector)]


def evaluation_notes(report: Report) -> list[str]:
    """What the mark in those rows means, where one has it."""
    return meaning(str(cell) for row in evaluation_rows(report) for cell in row.values())


def summary_lines(report: Report) -> list[str]:
    """The verdict, then detectors and comparisons: n in groups, intervals over groups."""
    groups = ", ".join(f"{count.groups} {label} groups" for label, count in report.n.by_label.items())
    rows = evaluation_rows(report)
    heads = [row["detector"] for row in rows] + ([f"{report.detector}, seed"] if len(report.seeds) > 1 else [])
    width = max(16, *(len(head) + 2 for head in heads))
    goals = goal_lines(report.goals, report.next)
    lines = [
        "",
        *report.verdict_lines,
        *([""] if goals else []),
        *goals,
        "",
        f"test: {groups}, {report.n.clips} clips; 95 % intervals over groups",
        "",
    ]
    lines.append(f"{'detector':<{width}}{'balanced accuracy':<30}{'AUC':<30}".rstrip())
    for row in rows:
        its = report.detectors[row["detector"]].metrics
        cells = [_with_interval(its[name]) for name in ("balanced_accuracy", "roc_auc")]
        lines.append(f"{row['detector']:<{width}}{cells[0]:<30}{cells[1]:<30}".rstrip())
    lines += _seed_lines(report, width) + _compared_lines(report, width)
    return [*lines, *meaning(lines), *_threshold_lines(report), *_absent_lines(report)]


def _seed_lines(report: Report, width: int) -> list[str]:
    """Every seed, all together and how far they lie apart; nothing of one alone, which the detectors' table has."""
    if len(report.seeds) < 2:
        return []
    metrics = {"balanced_accuracy": "balanced accuracy"}
    metrics |= {f"recall_{name.lower()}": f"recall {name}" for name in report.classes}
    rows = {f"{one.seed}{', published' if one.published else ''}": one.metrics for one in report.seeds}
    rows |= {"all together": report.seeds_pooled} if report.seeds_pooled else {}
    told = {name: [_with_interval(its[metric]) for metric in metrics] for name, its in rows.items()}
    lines = [
        f"{name:<{width}}{''.join(f'{cell:<30}' for cell in cells)}".rstrip()
        for name, cells in {f"{report.detector}, seed": [*metrics.values()], **told}.items()
    ]
    if spread := report.seeds_spread:
        mean, sd = f"mean {spread.balanced_accuracy_mean:.3f}", f"{spread.balanced_accuracy_sd:.3f}"
        lines.append(f"balanced accuracy over {len(report.seeds)} seeds: {mean}, standard deviation {sd}")
        lines += [f"seeds {', '.join(map(str, one.seeds))}: {_alike(one)}" for one in spread.alike]
    return ["", *lines]


def _alike(one: SeedsAlike) -> str:
    if one.to_the_bit:
        return f"every clip answered with the same probabilities: one adapter, not {len(one.seeds)}"
    return "every clip answered alike: the test does not tell them apart, which shows saturation and no stability"


def _with_interval(metric: Metric) -> str:
    if metric.value is None:
        return "-"
    return f"{metric.value:.3f} ({_interval(metric.ci95)}){mark(metric.ci95, metric.reason)}"


def _interval(ci95: tuple[float, float] | None) -> str:
    return "-" if ci95 is None else f"{ci95[0]:.3f} to {ci95[1]:.3f}"


def _compared_lines(report: Report, width: int) -> list[str]:
    lines = (
        ["", f"{'against':<{width}}{'difference':<30}{'McNemar p, Holm':<22}{'pairs':<8}"]
        if report.comparisons
        else []
    )
    for name, one in report.comparisons.items():
        difference = f"{one.difference:+.3f} ({_ends(one.ci95)}){mark(one.ci95, one.reason)}"
        p = "-" if one.p_exact is None else f"{stated_p(one.p_exact, '-')}, {stated_p(one.p_holm, '-')}"
        lines.append(f"{name:<{width}}{difference:<30}{p:<22}{one.n:<8}{one.verdict}{_would_decide(one)}")
    return lines


def _threshold_lines(report: Report) -> list[str]:
    """The headline's thresholds over duration and over SNR, the random folds' gift, and what the test set can show."""
    found, lines = report.psychometric, []
    for curves in (found.duration_ms, found.snr_db) if found else ():
        if curves:
            of_curves = [curve for curve in (curves.correct, curves.hit_rate) if curve]
            stated = [(name, at, curve) for curve in of_curves for name, at in curve.thresholds.items()]
            lines += [f"{name}  {threshold_in_words(at, curve, curves)}" for name, at, curve in stated]
    if report.inflation:
        one = report.inflation
        leaky = f"{one.leaky:.3f} under random folds, {one.value:+.3f} ({_ends(one.ci95)}){mark(one.ci95, one.reason)}"
        why = f".{doubt}" if (doubt := footnote(one.ci95, one.reason)) else ""
        lines.append(f"leakage: balanced accuracy {one.clean:.3f} under folds by group, {leaky}{why}")
    if report.power and report.power.smallest_detectable_difference is not None:
        lines.append(
            f"power: the smallest difference shown with 80 % power is {report.power.smallest_detectable_difference:.3f}"
        )
    return ["", *lines] if lines else []


def threshold_in_words(at: CurveThreshold, curve: Curve, curves: Curves) -> str:
    """A threshold with its interval, where it lies if outside the levels and what to mind, or why there is none."""
    if at.value is None:
        return f"none: {at.reason}"
    lowest, highest = curves.levels[0].level, curves.levels[-1].level
    ends = [stated_end(end, lowest, highest, curves.unit) for end in at.ci95 or ()]
    outside = f", {at.censored} the tested levels: extrapolated" if at.censored else ""
    value = stated_level(at.value, curves.unit)
    why = f" ({at.reason})" if at.reason else ""
    mind = "".join(f"; {doubt}" for doubt in fit_doubts(curve.model_dump()))
    return f"{value} {curves.unit}{f' ({ends[0]} to {ends[1]})' if ends else ''}{outside}{why}{mind}"


def _absent_lines(report: Report) -> list[str]:
    """Metrics of the headline without a value, by their reason."""
    reasons: dict[str, list[str]] = {}
    for name, metric in report.metrics.items():
        if metric.value is None:
            reasons.setdefault(metric.reason or "", []).append(name)
    return [line for reason, names in reasons.items() for line in ("", f"no {', '.join(names)}: {reason}")]


def _would_decide(one: Comparison) -> str:
    if one.verdict != "not distinguishable" or one.needed.clips is None:
        return ""
    return f"; some {one.needed.clips:,} clips of {one.needed.groups:,} groups would decide"


def _ends(ci95: tuple[float, float] | None) -> str:
    return "-" if ci95 is None else f"{ci95[0]:+.3f} to {ci95[1]:+.3f}"


# --- rows of the files -------------------------------------------------------------------------------------------


def _with_ends(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the ends of its interval in columns of their own."""
    low, high = row.pop("ci95") or (None, None)
    return {**row, "low": low, "high": high}


def _detectors(report: Report) -> Iterator[dict[str, Any]]:
    """The rows of `evaluation_rows` in numbers, whether an interval is to be relied on in a column of its own."""
    for name in _headline_first(report):
        detector = report.detectors[name]
        row: dict[str, Any] = {"detector": name, "clips": detector.n.clips, "groups": detector.n.groups}
        for metric in OF_A_DETECTOR:
            stated = detector.metrics[metric]
            low, high = stated.ci95 or (None, None)
            reliable = stated.reason is None if stated.ci95 else None
            row |= {metric: stated.value, f"{metric}_low": low, f"{metric}_high": high, f"{metric}_reliable": reliable}
        yield row


def _stated(metrics: Mapping[str, Metric]) -> Iterator[dict[str, Any]]:
    for name, metric in metrics.items():
        low, high = metric.ci95 or (None, None)
        yield {"metric": name, "value": metric.value, "low": low, "high": high, "method": metric.method,
               "reason": metric.reason}  # fmt: skip


def _metrics(report: Report) -> Iterator[dict[str, Any]]:
    for name, detector in report.detectors.items():
        for row in _stated(detector.metrics):
            yield {"detector": name, **row}


def _levels(report: Report) -> Iterator[dict[str, Any]]:
    for name, detector in report.detectors.items():
        for factor, levels in detector.by.items():
            for level, at in levels.items():
                known = {"detector": name, "factor": factor, "level": level, "clips": at.clips, "groups": at.groups}
                stated = {"accuracy": at.accuracy, "balanced_accuracy": at.balanced_accuracy, **(at.model_extra or {})}
                yield from ({**known, **row} for row in _stated(stated))


def _comparisons(report: Report) -> Iterator[dict[str, Any]]:
    for name, one in report.comparisons.items():
        row = _with_ends(one.model_dump(exclude={"by", "overlap", "needed"}))
        shared = {f"overlap_{key}": value for key, value in one.overlap.model_dump().items()}
        needed = {f"needed_{key}": value for key, value in one.needed.model_dump().items()}
        yield {"against": name, **row, **shared, **needed}


def _comparison_levels(report: Report) -> Iterator[dict[str, Any]]:
    for name, one in report.comparisons.items():
        for factor, levels in one.by.items():
            for level, at in levels.items():
                yield {"against": name, "factor": factor, "level": level, **_with_ends(at.model_dump())}


def _every_curve(report: Report) -> Iterator[tuple[dict[str, Any], Curves]]:
    """The curves of every detector, with what they are of."""
    for name, detector in report.detectors.items():
        for factor, held, curves in _curves_of(detector.psychometric) if detector.psychometric else ():
            yield {"detector": name, "factor": factor, "at": held}, curves


def _curves_of(found: Psychometric) -> Iterator[tuple[str, str, Curves]]:
    for factor, curves in (("duration_ms", found.duration_ms), ("snr_db", found.snr_db)):
        if curves:
            yield factor, "all", curves
    for duration, curves in found.snr_db_by_duration.items():
        yield "snr_db", f"{duration} ms", curves


def _thresholds(report: Report) -> Iterator[dict[str, Any]]:
    for what, curves in _every_curve(report):
        for curve in (curves.correct, curves.hit_rate):
            if curve is None:
                continue
            fit = curve.model_dump(exclude={"thresholds", "points"})
            for name, at in curve.thresholds.items():
                row = _with_ends(at.model_dump(exclude={"ci95_supergroup", "reason_supergroup"}))
                yield {**what, "threshold": name, "unit": curves.unit, **row, **fit}


def _curve_levels(report: Report) -> Iterator[dict[str, Any]]:
    for what, curves in _every_curve(report):
        yield from ({**what, **level.model_dump()} for level in curves.levels)


def _interaction(report: Report) -> Iterator[dict[str, Any]]:
    for of, fit in report.interaction.fits.items() if report.interaction else ():
        for name, at in fit.coefficients.items():
            known = {"of": of, "clips": fit.clips, "groups": fit.groups, "term": name}
            yield {**known, **_with_ends(at.model_dump()), "reason": fit.reason}


def _inflation(report: Report) -> Iterator[dict[str, Any]]:
    for name, detector in report.detectors.items():
        if one := detector.inflation:
            row = _with_ends(one.model_dump(exclude={"per_seed", "folds"}))
            yield {"detector": name, **row, "seeds": len(one.per_seed), "k": max(one.folds.values())}


def _errors(report: Report) -> dict[str, list[dict[str, Any]]]:
    errors = report.errors
    return {
        "error_rates": [
            {"factor": factor, "level": level, **at.model_dump()}
            for factor, levels in errors.by.items()
            for level, at in levels.items()
        ],
        "false_alarms_by_family": [
            {"family": name, **at.model_dump()} for name, at in errors.false_alarms_by_family.items()
        ],
        **{
            name: [{**one.model_dump(exclude={"factors"}), **one.factors} for one in listed]
            for name, listed in (("missed", errors.missed), ("false_alarms", errors.false_alarms))
        },
    }
