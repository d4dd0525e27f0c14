"""The figures of a report, and of several, drawn from reports alone: PNG bytes, the same for the same report."""

from collections.abc import Mapping

from tasks.functional.plot_canvas import AXES
from tasks.functional.plot_comparisons import forest
from tasks.functional.plot_detectors import rests_on, shown
from tasks.functional.plot_latency import accuracy_by_latency, timed_detectors, timed_reports
from tasks.functional.plot_levels import accuracy_by_level, duration_by_snr
from tasks.functional.plot_psychometric import (
    has_curve,
    has_snr_by_duration,
    hit_rate_curves,
    psychometric_curves,
    snr_curves,
    snr_curves_by_duration,
    snr_threshold_by_duration,
)
from tasks.functional.plot_scores import confusion_matrix, reliability_diagram, roc_and_pr
from tasks.functional.plot_series import accuracy_by_size, evolution, has_sizes
from tasks.functional.report_document import Report
from tasks.functional.timing import Timing


def figures(report: Report, timing: Mapping[str, Timing] | None = None) -> dict[str, bytes]:
    """Every figure that the report holds the numbers for, by name; with `timing`, accuracy against latency as well."""
    drawn = {}
    if report.comparisons:
        drawn["comparisons"] = forest(report)
    if any(report.detectors[name].curves for name in shown(report).styles):
        drawn["roc_and_pr"] = roc_and_pr(report)
    if timed := timed_detectors(report, timing or {}):
        drawn["accuracy_by_latency"] = accuracy_by_latency(timed, rests_on(report))
    return drawn | _psychometric(report) | _levels(report) | _answers(report)


def figures_of_reports(reports: Mapping[str, Report], timing: Mapping[str, Mapping[str, Timing]]) -> dict[str, bytes]:
    """The figures of several reports: accuracy from one to the next, over size, and over time as far as measured.

    reports: name -> report, in their order; timing: name -> timing of that report's detectors.
    """
    drawn = {"evolution": evolution(reports)}
    if has_sizes(reports):
        drawn["accuracy_by_size"] = accuracy_by_size(reports)
    if timed := timed_reports(reports, timing):
        drawn["accuracy_by_latency"] = accuracy_by_latency(timed, f"n = {len(timed)} timed detectors, one a report")
    return drawn


def _psychometric(report: Report) -> dict[str, bytes]:
    drawn = {}
    if has_curve(report, "duration_ms", "correct"):
        drawn["psychometric_duration_ms"] = psychometric_curves(report, "duration_ms")
    if has_curve(report, "duration_ms", "hit_rate"):
        drawn["hit_rate_duration_ms"] = hit_rate_curves(report)
    if has_curve(report, "snr_db", "correct"):
        drawn["psychometric_snr_db"] = psychometric_curves(report, "snr_db")
    if has_snr_by_duration(report):
        drawn["snr75_by_duration"] = snr_threshold_by_duration(report)
    if len(snr_curves(report, report.detector)) > 1:
        drawn["psychometric_snr_by_duration"] = snr_curves_by_duration(report)
    return drawn


def _levels(report: Report) -> dict[str, bytes]:
    drawn = {f"accuracy_by_{factor}": accuracy_by_level(report, factor) for factor in AXES if factor in report.by}
    if report.cells:
        drawn["duration_by_snr"] = duration_by_snr(report)
    return drawn


def _answers(report: Report) -> dict[str, bytes]:
    drawn = {"confusion": confusion_matrix(report)}
    if report.calibration:
        drawn["reliability"] = reliability_diagram(report)
    return drawn
