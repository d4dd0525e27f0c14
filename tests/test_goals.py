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
from tasks.functional.verdict import unheard
from tests.test_report import both_protocols, build, studied, tiny

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
    [
        ((50.0, 90.0), (50.0, 90.0)),
        ((3.0, 90.0), (None, 90.0)),
        ((50.0, 5000.0), (50.0, None)),
        ((5.0, 12.0), (None, 20.0)),
        ((2000.0, 5000.0), (1000.0, None)),
        ((2000.0, None), (1000.0, None)),
        (None, None),
    ],
)
def test_ends_of_a_threshold_beyond_the_tested_levels_are_open(ci95, decided):
    assert threshold(ci95).ci95 == decided


def test_a_threshold_below_the_levels_is_at_most_the_lowest_and_no_less():
    below = threshold((5.0, 12.0))
    assert _verdict(below, 15.0, above=False, strict=False) == "undecidable"
    assert _verdict(below, 20.0, above=False, strict=False) == "met"
    above = threshold((2000.0, 5000.0))
    assert _verdict(above, 1500.0, above=False, strict=False) == "undecidable"
    assert _verdict(above, 900.0, above=False, strict=False) == "not met"


@pytest.mark.parametrize("bound", [40.0, 100.0])
def test_a_threshold_of_too_few_groups_decides_nothing_and_one_that_few_resamples_miss_does(bound):
    few = threshold((50.0, 90.0), "only 3 groups in SPEECH: unreliable")
    assert few.reason == "only 3 groups in SPEECH: unreliable"
    assert _verdict(few, bound, above=False, strict=False) == "undecidable"
    missed = threshold((50.0, None), "p is not reached in 4.0% of the resamples")
    assert missed.reason is None
    assert _verdict(missed, 40.0, above=False, strict=False) == "not met"


def threshold(ci95: tuple[float | None, float | None] | None, reason: str | None = None) -> Found:
    """DT75 with this interval over levels from 20 to 1000 ms."""
    at = SimpleNamespace(value=70.0, ci95=ci95, reason=reason)
    curves = SimpleNamespace(
        correct=SimpleNamespace(thresholds={"DT75": at}), levels=[SimpleNamespace(level=x) for x in (20.0, 1000.0)]
    )
    detector = SimpleNamespace(psychometric=SimpleNamespace(duration_ms=curves), absent={})
    return _threshold("DT75", detector)


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
    (goal,) = judge_goals(goals, "adapter", report.detectors, {"rms": report.comparisons["base"]}, split="clean")
    assert goal.asks == f"{said} in balanced accuracy"


def test_a_cell_that_failed_its_gate_is_no_rival():
    report = judged({"adapter": MOSTLY, f"rms{FAILED}": NEVER}, {**GOAL, "against": "rms"})
    assert verdicts(report) == ["undecidable"]
    assert report.goals[0].reason == "rms did not learn its training clips"


@pytest.mark.parametrize(
    ("protocol", "recorded", "found"),
    [
        ("group", {}, "not audited"),
        (None, {"leakage": None, "provenance": None}, "not audited"),
        ("group", {"leakage": {"checks": []}}, "not audited"),
        ("group", {"leakage": {"verdict": "clean"}, "provenance": {"protocol": "group"}}, "clean"),
        ("random", {}, "leaky"),
        ("random", {"leakage": {"verdict": "clean"}}, "leaky"),
        ("", {"provenance": {"protocol": "random"}}, "leaky"),
        ("group", {"leakage": {"verdict": "leaky"}}, "leaky"),
        ("group", {"leakage": {"verdict": "unknown"}}, "leaky"),
    ],
)
def test_a_split_is_clean_only_where_an_audit_found_it_so(protocol, recorded, found):
    assert unheard(protocol, recorded) == found


def test_a_leaky_split_decides_no_goal():
    goals = [GOAL | {"at_least": 0.2}, {**GOAL, "against": "rms"}]
    right = {"adapter": MOSTLY, "rms": NEVER}
    report = build(tiny(right, protocol="random"), seed=None, goals=goals, then="study/b", otherwise="study/c")
    assert verdicts(report) == ["undecidable"] * 2
    assert {goal.reason for goal in report.goals} == {"the split is leaky: these recordings were trained on"}
    assert "the split is leaky" in goal_lines(report.goals, report.next)[0]
    assert report.next.study == "study/c"
    assert report.verdict_lines[0] == "The protocol is 'random': these numbers are not of unheard recordings."


def test_a_split_that_nobody_audited_decides_no_goal():
    goals = [GOAL | {"at_least": 0.2}, {**GOAL, "against": "rms"}]
    right = {"adapter": MOSTLY, "rms": NEVER}
    report = build(tiny(right), seed=None, goals=goals, otherwise="study/c", recorded={})
    assert verdicts(report) == ["undecidable"] * 2
    assert {goal.reason for goal in report.goals} == {
        "the split was not audited: whether these recordings were trained on is not known"
    }
    assert report.verdict_lines[0] == "Not audited: whether these numbers are of unheard recordings is not known."
    assert verdicts(build(tiny(right), seed=None, goals=goals)) == ["met"] * 2, "the same answers, audited"


def test_what_random_folds_add_is_judged_on_a_leaky_split_too():
    goals = [{"metric": "inflation", "at_most": 0.5}, GOAL | {"at_least": 0.0}]
    report = build(both_protocols(), goals=goals, recorded={"leakage": {"verdict": "leaky"}})
    assert verdicts(report) == ["met", "undecidable"]
    assert report.verdict_lines[0] == "The leakage audit says 'leaky': these numbers are not of unheard recordings."


def ask(*goals: dict) -> list[Goal]:
    """Goals judged by the report that other tests have made already."""
    report = studied()
    return judge_goals(goals, report.detector, report.detectors, report.comparisons, split="clean")


def test_goals_ask_for_a_level_another_detector_and_what_has_no_interval():
    level, base, inflation = ask(
        {"metric": "recall_speech", "at": {"duration_ms": 200}, "at_least": 0.0},
        {"metric": "accuracy", "detector": "base", "at_most": 1.0},
        {"metric": "inflation", "at_most": 0.0},
    )
    report = studied()
    assert level.value == report.by["duration_ms"]["200"].recall_speech.value
    assert (base.value, base.verdict) == (report.detectors["base"].metrics["accuracy"].value, "met")
    assert inflation.verdict == "undecidable"
    with pytest.raises(ValueError, match="duration_ms 300, which was not varied; levels: 40, 200, 1000"):
        ask(GOAL | {"at": {"duration_ms": 300}, "at_least": 0.5})


def test_every_metric_a_goal_may_name_is_one_of_the_report():
    assert len(ask(*({"metric": name, "at_least": 0.0} for name in METRICS))) == len(METRICS)


# --- in a recipe -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[{at_least: 0.7, at_most: 0.9}]", "give one of `at_least: NUMBER`"),
        ("[{metric: ece, at_most: 0.1}]", "goals.0: metric 'ece' is none of"),
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
