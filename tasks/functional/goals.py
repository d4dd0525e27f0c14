"""A study's goals judged by its report: met, not met, or not to be decided by this test set."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tasks.functional.intervals import only_short
from tasks.functional.levels import level_name
from tasks.functional.report_document import DetectorReport
from tasks.functional.report_schema import Comparison, Goal, GoalVerdict, Next

FAILED = " (gate failed)"  # what the name of a cell ends with that failed its gate
UNITS = {"DT75": " ms", "SNR75": " dB"}
UNDECIDED = {  # why a split that is not clean decides nothing
    "leaky": "the split is leaky: these recordings were trained on",
    "not audited": "the split was not audited: whether these recordings were trained on is not known",
}


class Found(NamedTuple):
    """The number a goal asks for; `reason` says what keeps its interval from deciding anything."""

    value: float | None
    ci95: tuple[float | None, float | None] | None
    reason: str | None


def judge_goals(
    goals: Sequence[Mapping[str, Any]],
    headline: str,
    detectors: Mapping[str, DetectorReport],
    comparisons: Mapping[str, Comparison],
    *,
    split: Literal["clean", "leaky", "not audited"],
) -> list[Goal]:
    """Every goal of a recipe (`recipes/goals.py`) with what the report has to say of it.

    split: what an audit found of it (`verdict.unheard`); only a clean one decides goals, but for what random folds add.
    Raises ValueError where the report lacks the detector or the level that a goal names.
    """
    return [_judged(goal, headline, detectors, comparisons, split) for goal in goals]


def next_study(goals: Sequence[Goal], then: str | None, otherwise: str | None) -> Next | None:
    """The study that follows: `then` where every goal is met, else `otherwise`; None where none is named or asked for."""
    open_goals = [goal.verdict for goal in goals if goal.verdict != "met"]
    study = otherwise if open_goals else then
    if not goals or study is None:
        return None
    if len(goals) == 1:
        return Next(study=study, because=f"the goal is {goals[0].verdict}")
    counts = [f"{open_goals.count(word)} {word}" for word in ("not met", "undecidable") if word in open_goals]
    because = f"of {len(goals)} goals {' and '.join(counts)}" if open_goals else "every goal is met"
    return Next(study=study, because=because)


def goal_lines(goals: Sequence[Goal], then: Next | None) -> list[str]:
    """Goals and what follows, for a terminal."""
    lines = [f"goal: {goal.asks}: {goal.verdict} ({goal.found})" for goal in goals]
    return [*lines, *([f"next: earshot run {then.study} ({then.because})"] if then else [])]


# --- one goal ----------------------------------------------------------------------------------------------------


def _judged(
    goal: Mapping[str, Any],
    headline: str,
    detectors: Mapping[str, DetectorReport],
    comparisons: Mapping[str, Comparison],
    split: str,
) -> Goal:
    if against := goal.get("against"):
        other = _name(against, comparisons)
        found, above, strict = _difference(comparisons[other]), True, True
        bound = goal.get("by") or 0.0
        far = f"less than {-bound:g} below" if bound < 0 else f"more than {bound:g} above" if bound else "above"
        asks = f"{headline} {far} {other} in balanced accuracy"
        failed = other if other.endswith(FAILED) else None
    else:
        name = _name(goal.get("detector") or headline, detectors)
        found = _asked(goal, detectors[name])
        above, strict, failed = goal.get("at_least") is not None, False, None
        bound = goal["at_least"] if above else goal["at_most"]
        asks = f"{_metric_in_words(goal)} of {name} {'at least' if above else 'at most'} {bound:g}"
        asks += UNITS.get(goal["metric"], "")
    if failed:
        found = found._replace(reason=f"{failed.removesuffix(FAILED)} did not learn its training clips")
    if split in UNDECIDED and goal.get("metric") != "inflation":
        found = found._replace(reason=UNDECIDED[split])
    verdict = _verdict(found, bound, above=above, strict=strict)
    return Goal(asks=asks, verdict=verdict, found=_in_words(found, verdict), value=found.value, ci95=found.ci95,
                bound=bound, reason=found.reason)  # fmt: skip


def _name(name: str, there: Mapping[str, object]) -> str:
    for known in (name, f"{name}{FAILED}"):
        if known in there:
            return known
    raise ValueError(f"a goal names {name!r}, which the report lacks; there are {', '.join(there)}")


def _verdict(found: Found, bound: float, *, above: bool, strict: bool) -> GoalVerdict:
    """By the interval alone; a difference has to leave its bound out."""
    if found.value is None or found.ci95 is None or found.reason:
        return "undecidable"
    low, high = found.ci95
    if not above:
        met, missed = high is not None and high <= bound, low is not None and low > bound
    elif strict:
        met, missed = low is not None and low > bound, high is not None and high <= bound
    else:
        met, missed = low is not None and low >= bound, high is not None and high < bound
    return "met" if met else "not met" if missed else "undecidable"


def _difference(one: Comparison) -> Found:
    return Found(one.difference, one.ci95, _doubt(one.method, one.reason))


def _asked(goal: Mapping[str, Any], detector: DetectorReport) -> Found:
    """The metric of a detector: over all clips, or at a level; a threshold; or what random folds add."""
    metric: str = goal["metric"]
    if metric in UNITS:
        return _threshold(metric, detector)
    if metric == "inflation":
        one = detector.inflation
        if one is None:
            return Found(None, None, detector.absent.get("inflation", "it was not measured"))
        return Found(one.value, one.ci95, _doubt(one.method, one.reason))
    stated = _at_level(goal["at"], metric, detector) if goal.get("at") else detector.metrics[metric]
    return Found(stated.value, stated.ci95, _doubt(stated.method, stated.reason))


def _at_level(at: Mapping[str, Any], metric: str, detector: DetectorReport) -> Any:
    ((factor, level),) = at.items()
    levels = detector.by.get(factor, {})
    if (name := level_name(level, factor)) not in levels:
        raise ValueError(
            f"a goal asks for {factor} {name}, which was not varied; levels: {', '.join(levels) or 'none'}"
        )
    found = levels[name]
    return (found.model_extra or {}).get(metric) or getattr(found, metric)


def _threshold(metric: str, detector: DetectorReport) -> Found:
    """A threshold and its interval as far as the levels reach: an end beyond them says only on which side it lies."""
    curves = getattr(detector.psychometric, {"DT75": "duration_ms", "SNR75": "snr_db"}[metric], None)
    if curves is None or curves.correct is None:
        return Found(None, None, detector.absent.get("psychometric", "its factor was not varied"))
    at = curves.correct.thresholds[metric]
    lowest, highest = curves.levels[0].level, curves.levels[-1].level
    if at.value is None or at.ci95 is None:
        return Found(at.value, None, at.reason or "it has no interval")
    low, high = at.ci95
    inside = (
        None if low is None or low < lowest else min(low, highest),
        None if high is None or high > highest else max(high, lowest),
    )
    doubt = at.reason if at.reason and at.reason.endswith("unreliable") else None  # an open end is no doubt
    return Found(at.value, inside, doubt)


def _doubt(method: str | None, reason: str | None) -> str | None:
    return None if only_short(method, reason) else reason


# --- words -------------------------------------------------------------------------------------------------------


def _metric_in_words(goal: Mapping[str, Any]) -> str:
    words = str(goal["metric"]).replace("_", " ")
    for factor, level in (goal.get("at") or {}).items():
        words += f" at {factor.replace('_', ' ')} {level_name(level, factor)}"
    return words


def _in_words(found: Found, verdict: Literal["met", "not met", "undecidable"]) -> str:
    if found.value is None:
        return found.reason or "it has no value"
    ends = found.ci95
    between = "no interval" if ends is None else " to ".join("open" if end is None else f"{end:.3f}" for end in ends)
    return f"{found.value:.3f}, {between}" + (f"; {found.reason}" if verdict == "undecidable" and found.reason else "")
