"""Goals of a study: what a recipe may ask, how intervals answer, and which study follows."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.goals import METRICS
from recipes.schema import load_study
from tasks.functional.goals import FAILED, Found, _threshold, _verdict, goal_lines, judge_goals
from tasks.functional.report import Report
from tasks.functional.report_schema import Goal
from tests.test_report import build, studied, tiny

GOAL = {"metric": "balanced_accuracy"}


def judged(right: dict[str, list[int]], *goals: dict, **options) -> Report:
    return build(tiny(right), seed=None, goals=goals, **options)


def verdicts(report: Report) -> list[str]:
    return [goal.verdict for goal in report.goals]


# --- the verdict -------------------------------------------------------------------------------------------------

ends = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


@given(ends, st.floats(0, 1))
def test_a_goal_is_decided_only_by_an_interval_that_leaves_its_bound_out(between, bound):
    low, high = between
    at_least = _verdict(Found(low, (low, high), None), bound, above=True, strict=False)
    at_most = _verdict(Found(low, (low, high), None), bound, above=False, strict=False)
    assert (at_least == "met") == (low >= bound)
    assert (at_least == "not met") == (high < bound)
    assert (at_most == "met") == (high <= bound)
    assert (at_most == "not met") == (low > bound)


@given(ends, st.floats(0, 1))
def test_an_interval_that_is_not_reliable_decides_nothing(between, bound):
    assert (
        _verdict(Found(0.5, tuple(between), "3 groups: unreliable"), bound, above=True, strict=False) == "undecidable"
    )
    assert _verdict(Found(0.5, None, None), bound, above=False, strict=False) == "undecidable"


def test_no_difference_is_no_more_than_none():
    assert _verdict(Found(0.0, (0.0, 0.0), None), 0.0, above=True, strict=True) == "not met"
    assert _verdict(Found(0.0, (-0.1, 0.1), None), 0.0, above=True, strict=True) == "undecidable"
    assert _verdict(Found(0.1, (0.01, 0.2), None), 0.0, above=True, strict=True) == "met"


@pytest.mark.parametrize(
    ("ci95", "decided"),
    [((50.0, 90.0), (50.0, 90.0)), ((3.0, 90.0), (None, 90.0)), ((50.0, 5000.0), (50.0, None)), (None, None)],
)
def test_ends_of_a_threshold_beyond_the_tested_levels_are_open(ci95, decided):
    at = SimpleNamespace(value=70.0, ci95=ci95, reason=None)
    curves = SimpleNamespace(
        correct=SimpleNamespace(thresholds={"DT75": at}), levels=[SimpleNamespace(level=x) for x in (20.0, 1000.0)]
    )
    detector = SimpleNamespace(psychometric=SimpleNamespace(duration_ms=curves), absent={})
    assert _threshold("DT75", detector).ci95 == decided


# --- by a report -------------------------------------------------------------------------------------------------

MOSTLY = [1, 1, 1, 0] * 24
NEVER = [0] * 96


def test_goals_are_judged_by_the_report_and_name_what_follows():
    report = judged(
        {"adapter": MOSTLY, "rms": NEVER}, GOAL | {"at_least": 0.2}, {**GOAL, "against": "rms"}, then="study/b"
    )
    assert verdicts(report) == ["met", "met"]
    assert report.goals[0].value == report.metrics["balanced_accuracy"].value
    assert report.goals[1].ci95 == report.comparisons["rms"].ci95
    assert (report.next.study, report.next.because) == ("study/b", "every goal is met")
    assert goal_lines(report.goals, report.next)[-1] == "next: earshot run study/b (every goal is met)"


def test_what_is_not_met_or_undecidable_leads_to_else():
    report = judged(
        {"adapter": MOSTLY}, GOAL | {"at_least": 0.2}, GOAL | {"at_least": 0.99}, then="study/b", otherwise="study/c"
    )
    assert verdicts(report) == ["met", "not met"]
    assert (report.next.study, report.next.because) == ("study/c", "of 2 goals 1 not met")
    assert judged({"adapter": MOSTLY}, GOAL | {"at_least": 0.99}, then="study/b").next is None


def test_two_groups_decide_nothing():
    right = {"adapter": [1] * 96}
    table = tiny(right)
    few = table[table["group_id"].isin(sorted(set(table["group_id"]))[::4])]
    report = build(few, seed=None, goals=[GOAL | {"at_least": 0.5}], otherwise="study/c")
    assert verdicts(report) == ["undecidable"]
    assert report.next.because == "the goal is undecidable"


@pytest.mark.parametrize(
    ("by", "said"),
    [
        (0.0, "adapter above rms"),
        (0.1, "adapter more than 0.1 above rms"),
        (-0.02, "adapter less than 0.02 below rms"),
    ],
)
def test_a_goal_says_how_far_apart_two_detectors_shall_be(by, said):
    goals = [{**GOAL, "against": "rms", "by": by}]
    report = studied()
    (goal,) = judge_goals(goals, "adapter", report.detectors, {"rms": report.comparisons["base"]})
    assert goal.asks == f"{said} in balanced accuracy"


def test_a_cell_that_failed_its_gate_is_no_rival():
    report = judged({"adapter": MOSTLY, f"rms{FAILED}": NEVER}, {**GOAL, "against": "rms"})
    assert verdicts(report) == ["undecidable"]
    assert report.goals[0].reason == "rms did not learn its training clips"


def ask(*goals: dict) -> list[Goal]:
    """Goals judged by the report that other tests have made already."""
    report = studied()
    return judge_goals(goals, report.detector, report.detectors, report.comparisons)


def test_goals_ask_for_a_level_another_detector_and_what_has_no_interval():
    level, base, ece, inflation = ask(
        {"metric": "recall_speech", "at": {"duration_ms": 200}, "at_least": 0.0},
        {"metric": "accuracy", "detector": "base", "at_most": 1.0},
        {"metric": "ece", "at_most": 0.1},
        {"metric": "inflation", "at_most": 0.0},
    )
    report = studied()
    assert level.value == report.by["duration_ms"]["200"].recall_speech.value
    assert (base.value, base.verdict) == (report.detectors["base"].metrics["accuracy"].value, "met")
    assert (ece.verdict, inflation.verdict) == ("undecidable", "undecidable")
    with pytest.raises(ValueError, match="duration_ms 300, which was not varied; levels: 40, 200, 1000"):
        ask(GOAL | {"at": {"duration_ms": 300}, "at_least": 0.5})


def test_every_metric_a_goal_may_name_is_one_of_the_report():
    assert len(ask(*({"metric": name, "at_least": 0.0} for name in METRICS))) == len(METRICS)


# --- in a recipe -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[{at_least: 0.7, at_most: 0.9}]", "give one of `at_least: NUMBER`"),
        ("[{metric: f_score, at_least: 0.7}]", "goals.0: metric 'f_score' is none of accuracy, balanced_accuracy"),
        ("[{detector: silero, at_least: 0.7}]", "goals.0: 'silero' is not scored here; there are adapter, base"),
        ("[{against: rms}]", "goals.0: 'rms' is not scored here"),
        ("[{against: base, metric: accuracy}]", "leave out metric and detector"),
        ("[{metric: roc_auc, at: {snr_db: 0}, at_least: 0.7}]", "goals.0: metric 'roc_auc' is none of"),
        ("[{at: {snr_db: 0, duration_ms: 200}, at_least: 0.7}]", "names 2 factors"),
        ("[{at_least: 0.7, by: 0.1}]", "`by` goes with `against"),
    ],
)
def test_a_goal_that_no_report_could_judge_is_refused_before_anything_runs(given, said):
    with pytest.raises(ValueError, match=r"^") as refused:
        load_study("study/smoke", [f"goals={given}"])
    assert said in str(refused.value)


def test_a_study_that_follows_exists_and_follows_from_goals():
    with pytest.raises(ValueError, match="then and else follow from `goals`"):
        load_study("study/smoke", ["then=study/demo"])
    with pytest.raises(FileNotFoundError, match="no recipe 'study/dmeo'"):
        load_study("study/smoke", ["goals=[{at_least: 0.7}]", "else=study/dmeo"])
    study = load_study("study/smoke", ["goals=[{at_least: 0.7}]", "then=study/demo", "else=study/corpus"])
    assert (study.then, study.otherwise) == ("study/demo", "study/corpus")
