"""Several reports side by side: a row each, and what keeps their numbers from being compared."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from tasks.functional.levels import stated_end
from tasks.functional.report_document import Report
from tasks.functional.report_schema import Metric, Threshold
from tasks.functional.timing import Timing
from tasks.functional.verdict import dealt_at_random, unheard

NOT_AUDITED = "whether it was trained on recordings of the test clips is not known"
OWN = "its own"
FLOOR = "mel_statistics"
METRICS = ("balanced_accuracy", "roc_auc")
DIGITS, MOST_DIGITS = 3, 18  # of a threshold that is stated; the most that a float has are 17


def series_rows(reports: Mapping[str, Report], timing: Mapping[str, Mapping[str, Timing]]) -> list[dict[str, Any]]:
    """A row a report, in their order: what it rests on, its scores, thresholds, size and time.

    reports: name -> report; timing: name -> timing of that report's detectors.
    """
    return [
        {
            "report": name, "detector": one.detector, "protocol": one.protocol or "", "test": one.test,
            "groups": one.n.groups, "clips": one.n.clips, "threshold": one.threshold.value,
            "threshold_chosen_on": one.threshold.chosen_on, "decided_at": decided_at(one.threshold),
            **{key: value for metric in METRICS for key, value in _stated(metric, one.metrics[metric]).items()},
            "floor": one.detectors[FLOOR].metrics["balanced_accuracy"].value if FLOOR in one.detectors else None,
            "beats_floor": one.beats.get(FLOOR), **_threshold("dt75_ms", one, "duration_ms", "DT75"),
            **_threshold("snr75_db", one, "snr_db", "SNR75"), "trainable_parameters": trainable_parameters(one),
            "adapter_bytes": adapter_bytes(one), "latency_ms": _latency(timing.get(name, {}), one.detector),
        }
        for name, one in reports.items()
    ]  # fmt: skip


def series_remarks(reports: Mapping[str, Report]) -> list[str]:
    """What a reader must know before comparing the rows, a sentence each."""
    by_test: dict[str, list[str]] = {}
    for name, one in reports.items():
        by_test.setdefault(one.test, []).append(name)
    lines = []
    if len(by_test) > 1:
        sets = "; ".join(", ".join(names) for names in by_test.values())
        lines.append(
            f"These {len(reports)} reports rest on {len(by_test)} different sets of test clips ({sets}): between sets a "
            "difference is one of clips as much as of detectors."
        )
    lines += [f"{name}: {why}." for name, one in reports.items() for why in _doubts(one)]
    lines += threshold_remarks(reports)
    if any(len(names) > 1 for names in by_test.values()):
        lines.append(
            "Intervals here are each report's own. Whether two differ is told by pairing their clips: "
            "earshot report PREDICTIONS --against OTHER."
        )
    return lines


def threshold_remarks(reports: Mapping[str, Report]) -> list[str]:
    """That answers were decided at different thresholds, or at such as nobody knows; nothing where all are alike."""
    different = {_deciding(one.threshold) for one in reports.values()}
    known = [one for one in different if one[0] != "own"]
    if len(different) < 2 and known:
        return []
    at = _told_apart({name: one.threshold for name, one in reports.items()}, len(different))
    named = "; ".join(f"{name} at {where}" for name, where in at.items())
    if all(one.threshold.chosen_on == "dev" for one in reports.values()):
        return [f"Each is decided at the threshold that its own dev clips chose ({named})."]
    said = (
        "Answers are decided at different thresholds"
        if len(known) > 1
        else "Nothing shows that one threshold decides all answers"
    )
    return [f"{said} ({named}): a difference in balanced accuracy may be the threshold's; ROC AUC needs none."]


def _deciding(threshold: Threshold) -> tuple[Any, ...]:
    """What decides answers, and nothing else: equal where every clip is decided alike."""
    if threshold.chosen_on == "own":
        return ("own",)
    return (
        threshold.chosen_on,
        threshold.value,
        *(sorted(threshold.by_fold.items()) if threshold.value is None else ()),
    )


def _told_apart(thresholds: Mapping[str, Threshold], different: int) -> dict[str, str]:
    """Each as it is stated, in as many digits as tell apart what is different."""
    for digits in range(DIGITS, MOST_DIGITS):
        at = {name: decided_at(threshold, digits) for name, threshold in thresholds.items()}
        if len(set(at.values())) == different:
            return at
    return {name: decided_at(threshold) for name, threshold in thresholds.items()}  # folds that change places


def decided_at(threshold: Threshold, digits: int = DIGITS) -> str:
    """At which P of the first class answers are decided, and what chose it: of folds from the lowest to the highest."""
    if threshold.chosen_on == "own":
        return OWN
    values = [threshold.value] if threshold.value is not None else threshold.by_fold.values()
    ends = dict.fromkeys(f"{end:.{digits}g}" for end in (min(values), max(values)))
    return f"{' to '.join(ends)}, {'fixed' if threshold.chosen_on == 'fixed' else 'from dev'}"


def series_lines(rows: Sequence[Mapping[str, Any]], remarks: Sequence[str]) -> list[str]:
    """The table for a terminal."""
    width = max(18, *(len(row["report"]) + 2 for row in rows))
    lines = [
        "",
        f"{'report':<{width}}{'detector':<18}{'groups':>7}{'clips':>8}  {'threshold':<26}"
        f"{'balanced accuracy':<25}{'DT75 ms':>8}",
    ]
    for row in rows:
        ends = [row[f"balanced_accuracy_{end}"] for end in ("low", "high")]
        value = "-" if row["balanced_accuracy"] is None else f"{row['balanced_accuracy']:.3f}"
        between = "" if None in ends else f" ({ends[0]:.3f} to {ends[1]:.3f})"
        dt75 = "-" if row["dt75_ms"] is None else f"{row['dt75_ms']:.3g}"
        score = f"{value + between:<25}{dt75:>8}"
        known = f"{row['report']:<{width}}{row['detector']:<18}{row['groups']:>7}{row['clips']:>8}"
        lines.append(f"{known}  {row['decided_at']:<26}{score}")
    return lines + [line for remark in remarks for line in ("", remark)]


def trainable_parameters(report: Report) -> int | None:
    """Of the adapter, all parts together; None where the report is of none."""
    parts = (report.adapter or {}).get("parameters")
    return sum(parts.values()) if parts else None


def adapter_bytes(report: Report) -> int | None:
    """Size of one adapter; None where the report is of none."""
    return (report.adapter or {}).get("bytes")


# --- parts -------------------------------------------------------------------------------------------------------


def _doubts(report: Report) -> Iterator[str]:
    """Why the numbers of a report may not be of unheard recordings."""
    recorded = {"leakage": report.leakage, "provenance": report.provenance}
    known, random = unheard(report.protocol, recorded), dealt_at_random(report.protocol, recorded)
    if random:
        yield "protocol 'random' exists to measure leakage, its score is no headline"
    if known == "leaky" and (not random or (report.leakage or {}).get("verdict", "clean") != "clean"):
        yield "the leakage audit is not clean"
    if known == "not audited":
        yield f"not audited; {NOT_AUDITED}"


def _stated(name: str, metric: Metric) -> dict[str, float | None]:
    low, high = metric.ci95 or (None, None)
    return {name: metric.value, f"{name}_low": low, f"{name}_high": high}


def _threshold(
    key: str, report: Report, factor: Literal["duration_ms", "snr_db"], name: str
) -> dict[str, float | str | None]:
    """A threshold within the tested levels with its interval, `_ends` as a reader is told it; None where it lies
    elsewhere or there is none."""
    curves = getattr(report.psychometric, factor) if report.psychometric else None
    at = curves.correct.thresholds.get(name) if curves and curves.correct else None
    inside = at is not None and at.value is not None and not at.censored
    low, high = (at.ci95 or (None, None)) if at and inside else (None, None)
    ends = None
    if curves and at and inside and at.ci95:
        lowest, highest = curves.levels[0].level, curves.levels[-1].level
        ends = " to ".join(stated_end(end, lowest, highest, curves.unit) for end in at.ci95)
    return {key: at.value if at and inside else None, f"{key}_low": low, f"{key}_high": high, f"{key}_ends": ends}


def _latency(timing: Mapping[str, Timing], detector: str) -> float | None:
    return timing[detector].median_ms if detector in timing else None
