"""The report's rule of intervals against Student's t, Clopper-Pearson, brute force and coverage."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, logit

from tasks.functional.intervals import clustered_interval, paired_difference
from tasks.functional.significance import binomial_interval, cluster_bootstrap
from tasks.functional.unanimity import largest_unseen
from tests.bench import bench_coverage
from tests.test_significance import N, S, balanced, random_table, table_of

# --- the interval of a report ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "method", "reliable"),
    [(1, "none", False), (2, "t", False), (4, "t", False), (5, "t", True), (19, "t", True), (80, "bootstrap", True)],
)
def test_the_number_of_groups_decides_what_may_be_said(groups, method, reliable):
    interval = clustered_interval(random_table(1, groups, clips=9), "roc_auc", seed=0, n_boot=300)
    assert (interval.method, interval.reliable) == (method, reliable)
    assert (interval.low is None) == (method == "none")
    assert (interval.reason is None) == reliable


def test_the_smaller_class_is_the_one_that_counts():
    table = table_of({S: [(1, 4), (3, 4), (4, 4)], N: [(k % 5, 4) for k in range(30)]})
    interval = clustered_interval(table, "balanced_accuracy", seed=0)
    assert (interval.method, interval.reason) == ("t", "only 3 groups in SPEECH: unreliable")
    assert clustered_interval(table, "recall_nonspeech", seed=0).method == "bootstrap"
    assert clustered_interval(table, "recall_speech", seed=0).method == "t"


def test_one_speaker_has_a_value_and_no_interval():
    table = table_of({S: [(3, 8)], N: [(8, 8), (7, 8)]})
    interval = clustered_interval(table, "balanced_accuracy", seed=0)
    assert interval == ((3 / 8 + 15 / 16) / 2, None, None, "none", "fewer than 2 groups in SPEECH: no interval", False)


def on_log_odds(mean: float, se: float, df: int) -> tuple[float, float]:
    half = stats.t.ppf(0.975, df) * se / (mean * (1 - mean))
    return tuple(expit(logit(mean) + side * half) for side in (-1, 1))


def test_with_equal_groups_the_t_interval_is_students_over_group_means_on_the_log_odds():
    right = [1, 3, 4, 2, 4, 1, 3]
    table = table_of({S: [(k, 5) for k in right], N: [(5, 5), (3, 5)]})
    means = np.array(right) / 5
    interval = clustered_interval(table, "recall_speech", seed=0)
    assert (interval.low, interval.high) == pytest.approx(on_log_odds(means.mean(), stats.sem(means), 6))


def test_the_jackknife_of_balanced_accuracy_adds_the_classes_variances():
    speech, nonspeech = np.array([1, 3, 4, 2, 4]) / 5, np.array([2, 2, 5, 3, 1, 0]) / 5
    table = table_of({S: [(round(5 * k), 5) for k in speech], N: [(round(5 * k), 5) for k in nonspeech]})
    se = math.hypot(stats.sem(speech), stats.sem(nonspeech)) / 2
    interval = clustered_interval(table, "balanced_accuracy", seed=0)
    assert (interval.low, interval.high) == pytest.approx(on_log_odds((speech.mean() + nonspeech.mean()) / 2, se, 4))


def test_on_the_log_odds_an_interval_cannot_leave_the_range_that_students_leaves():
    right = [5, 5, 5, 5, 3, 2]
    means = np.array(right) / 5
    assert stats.t.interval(0.95, 5, loc=means.mean(), scale=stats.sem(means))[1] > 1
    interval = clustered_interval(table_of({S: [(k, 5) for k in right], N: [(5, 5)] * 6}), "recall_speech", seed=0)
    assert interval.value < interval.high < 1


def test_errors_of_two_groups_are_marked_however_many_groups_there_are():
    right = [(9, 9)] * 13
    for errors, reliable in (([(7, 9), (5, 9)], False), ([(7, 9), (8, 9), (5, 9)], True)):
        table = table_of({S: right + errors, N: [(4, 9)] * 15})
        interval = clustered_interval(table, "recall_speech", seed=0)
        assert (interval.method, interval.reliable) == ("t", reliable)
    table = table_of({S: [*right, (7, 9), (5, 9)], N: [(9, 9)] * 15})
    reason = "right clips or wrong ones stand in 2 groups only: unreliable"
    for statistic in ("recall_speech", "balanced_accuracy", "accuracy", "f1_speech", "d_prime"):
        assert clustered_interval(table, statistic, seed=0).reason == reason, statistic
    assert clustered_interval(table, "recall_nonspeech", seed=0).reliable  # exact, over 15 groups


def test_the_precision_of_one_source_of_false_alarms_is_marked():
    table = table_of({S: [(8, 9)] * 12, N: [(9, 9)] * 11 + [(2, 9)]})
    interval = clustered_interval(table, "precision_speech", seed=0)
    assert interval.reason == "right clips or wrong ones stand in 1 group only: unreliable"
    assert clustered_interval(table, "balanced_accuracy", seed=0).reliable


def test_a_bootstrap_that_ends_inside_the_t_interval_is_marked_with_where_that_ends():
    right = [(9, 9)] * 12 + [(8, 9), (6, 9), (7, 9), (2, 9), (8, 9), (5, 9), (1, 9), (7, 9)]
    table = table_of({S: right, N: right})
    interval = clustered_interval(table, "recall_speech", seed=0)
    means = np.array([k / 9 for k, _ in right])
    low, high = on_log_odds(means.mean(), stats.sem(means), 19)
    assert interval.method == "bootstrap"
    assert interval.low > low + 0.02
    assert interval.reason == f"a t interval reaches further, from {low:.3f} to {high:.3f}: unreliable"
    assert clustered_interval(random_table(0, 300, clips=3), "balanced_accuracy", seed=0).reliable


@pytest.mark.parametrize("error", ["ece", "mce"])
def test_a_binned_calibration_error_has_no_interval(error):
    interval = clustered_interval(random_table(0, 25), error, seed=0, n_boot=50)
    assert interval.low is None
    assert interval.reason == "a binned calibration error is biased upwards, and more so in a resample: no interval"


def test_wholly_right_groups_get_the_exact_interval_over_groups():
    table = table_of({S: [(9, 9)] * 12, N: [(9, 9)] * 12})
    exact = binomial_interval(12, 12, method="exact")
    recall = clustered_interval(table, "recall_speech", seed=0)
    assert recall[:4] == (1, pytest.approx(exact.low), 1, "exact")
    both = binomial_interval(24, 24, method="exact")
    for statistic in ("accuracy", "balanced_accuracy"):
        assert clustered_interval(table, statistic, seed=0)[:4] == (1, pytest.approx(both.low), 1, "exact")
    assert recall.low < binomial_interval(108, 108, method="exact").low - 0.2  # what the clips would claim


@pytest.mark.parametrize("groups", [3, 25])
def test_one_answer_for_every_clip_is_at_chance_whatever_the_groups(groups):
    deaf = table_of({S: [(0, 9)] * groups, N: [(9, 9)] * (groups + 2)})
    reason = "the same answer for every clip: no interval"
    for statistic in ("accuracy", "balanced_accuracy", "precision_nonspeech", "f1_nonspeech", "d_prime", "criterion"):
        interval = clustered_interval(deaf, statistic, seed=0, n_boot=50)
        assert interval[1:] == (None, None, "none", reason, False)
    assert clustered_interval(deaf, "balanced_accuracy", seed=0).value == 0.5


def test_what_one_class_is_always_answered_may_change_with_the_next_group():
    deaf = table_of({S: [(0, 9)] * 6, N: [(9, 9)] * 8})
    never, always = (binomial_interval(*k_of_n, method="exact") for k_of_n in ((0, 6), (8, 8)))
    assert clustered_interval(deaf, "recall_speech", seed=0)[:4] == (0, 0, pytest.approx(never.high), "exact")
    assert clustered_interval(deaf, "recall_nonspeech", seed=0)[:4] == (1, pytest.approx(always.low), 1, "exact")
    music = deaf[deaf.label == N]  # of one class, where one answer may be the right one
    assert clustered_interval(music, "accuracy", seed=0)[:4] == (1, pytest.approx(always.low), 1, "exact")


@pytest.mark.parametrize("groups", [3, 25])
@pytest.mark.parametrize("statistic", ["roc_auc", "average_precision", "brier", "log_loss"])
def test_one_score_for_every_clip_has_no_interval(statistic, groups):
    deaf = random_table(0, groups, clips=7).assign(p_speech=0.3)  # sums of ties differ in their last bits
    interval = clustered_interval(deaf, statistic, seed=0, n_boot=50)
    assert interval[1:] == (None, None, "none", "the same score for every clip: no interval", False)


def test_one_answer_from_scores_that_differ_still_has_an_auc_with_its_interval():
    collapsed = random_table(0, 8).assign(prediction=N)
    assert clustered_interval(collapsed, "balanced_accuracy", seed=0).method == "none"
    assert clustered_interval(collapsed, "roc_auc", seed=0).method == "t"


def test_no_answer_at_all_is_not_one_answer():
    silent = table_of({S: [(9, 9)] * 6, N: [(9, 9)] * 6}).assign(prediction=None)
    most = binomial_interval(0, 12, method="exact").high
    interval = clustered_interval(silent, "balanced_accuracy", seed=0)
    assert interval[:4] == (0, 0, pytest.approx(most), "exact")


def test_a_statistic_that_no_single_group_moves_has_its_percentile_interval():
    def loudest(table: pd.DataFrame) -> float:
        return float(table["level"].max())

    table = random_table(0, 25)
    levels = {group: k // 2 for k, group in enumerate(table["group_id"].unique())}
    found = clustered_interval(table.assign(level=table["group_id"].map(levels)), loudest, n_boot=200, seed=0)
    assert (found.method, found.value, found.high) == ("bootstrap", 24, 24)
    assert found.low is not None
    assert found.low < 24, "the jackknife sees no spread, the bootstrap does"


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 30), st.integers(2, 30), st.floats(0.05, 0.95))
def test_the_exact_interval_of_two_classes_is_never_too_short(g1, g2, share):
    shares, groups = np.array([share, 1 - share]), np.array([g1, g2])
    q1 = np.linspace(0, 1, 400, endpoint=False)
    q2 = 1 - (0.025 / (1 - q1) ** g1) ** (1 / g2)  # on the edge of what the data allow
    worst = (share * q1 + (1 - share) * q2)[q2 >= 0].max()
    assert largest_unseen(shares, groups, 0.025) >= worst - 1e-9


def test_a_perfect_auc_gets_no_interval_rather_than_one_without_width():
    table = random_table(0, 25).assign(p_speech=lambda t: np.where(t.label == S, 0.9, 0.1))
    interval = clustered_interval(table, "roc_auc", seed=0, n_boot=50)
    assert interval == (1, None, None, "none", "no spread between groups: no interval", False)


@pytest.mark.parametrize("statistic", ["roc_auc", "recall_speech", "balanced_accuracy", "brier", "f1_speech"])
@pytest.mark.parametrize("groups", [2, 3, 7])
def test_an_interval_stays_in_the_metrics_range_and_holds_its_value(statistic, groups):
    interval = clustered_interval(random_table(2, groups), statistic, seed=0)
    assert interval.low is not None
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_t_intervals_cover_where_resampled_clips_do_not():
    rng, trials = np.random.default_rng(0), 50
    held = {"group_id": 0, "clip_id": 0}
    for _ in range(trials):
        rate = rng.beta(2, 1, 8)  # mean recall 2/3, groups far apart
        table = table_of({S: [(int(rng.binomial(12, r)), 12) for r in rate], N: [(12, 12)] * 2})
        for group in held:
            low, high = clustered_interval(table, "recall_speech", group=group, seed=0, n_boot=200)[1:3]
            held[group] += low <= 2 / 3 <= high
    assert held["group_id"] / trials > 0.9
    assert held["clip_id"] / trials < 0.75


def test_a_function_of_the_rows_gets_the_same_error_on_its_own_scale():
    table = random_table(0, 6)
    named, own = (clustered_interval(table, statistic, seed=0) for statistic in ("balanced_accuracy", balanced))
    half = (own.high - own.low) / 2
    assert own.value == named.value
    on_odds = (logit(named.high) - logit(named.low)) / 2
    assert half == pytest.approx(on_odds * own.value * (1 - own.value))  # classes jackknifed apart: the weights cancel


@pytest.mark.slow
@pytest.mark.parametrize("question", ["recall 0.75", "balanced acc. 0.75", "ROC AUC 0.80", "difference 0.05"])
def test_intervals_without_a_mark_cover_and_those_that_ignore_groups_do_not(question):
    asked = next(each for each in bench_coverage.QUESTIONS if each.name == question)
    for groups in (5, 10):
        found = bench_coverage.cover(asked, groups, icc=0.2, simulations=300, seed=1)
        assert found.unmarked.mean() > 0.3
        assert found.of_unmarked > 0.9  # 0.95 but for chance, 3 standard errors
        if question.startswith("recall"):
            assert found.wilson.mean() < 0.8


# --- paired differences ------------------------------------------------------------------------------------------


def two_detectors(groups: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    a = random_table(0, groups)
    flip = np.random.default_rng(1).random(len(a)) < 0.2
    p = np.where(flip, np.where(a.label == S, 0.9, 0.1), a.p_speech)
    return a, a.assign(prediction=np.where(flip, a.label, a.prediction), p_speech=p)


@pytest.mark.parametrize("statistic", ["accuracy", "balanced_accuracy", "roc_auc", "log_loss", "recall_speech"])
def test_a_difference_is_that_of_the_values_and_its_rows_are_paired_by_clip(statistic):
    a, b = two_detectors(21)
    shuffled = b.sample(frac=1, random_state=0)
    difference = paired_difference(a, shuffled, statistic, seed=0, n_boot=400)
    values = [clustered_interval(table, statistic, seed=0, n_boot=2).value for table in (a, b)]
    assert difference.value == pytest.approx(values[0] - values[1])
    assert difference.method == "bootstrap"
    assert difference == pytest.approx(paired_difference(a, b, statistic, seed=0, n_boot=400))


def test_pairing_is_what_makes_a_small_difference_visible():
    a, b = two_detectors(25)
    paired = paired_difference(b, a, "balanced_accuracy", seed=0, n_boot=1000)
    one, other = (cluster_bootstrap(table, "balanced_accuracy", seed=0, n_boot=1000) for table in (a, b))
    assert paired.low > 0
    assert one.high > other.low  # the single intervals overlap


def test_few_groups_give_a_difference_a_t_interval():
    a, b = two_detectors(6)
    gain = (b.prediction == b.label).astype(float) - (a.prediction == a.label)
    means = gain[a.label == S].groupby(a.group_id).mean()
    interval = paired_difference(b, a, "recall_speech", seed=0)
    expected = stats.t.interval(0.95, 5, loc=means.mean(), scale=stats.sem(means))
    assert (interval.low, interval.high) == pytest.approx(expected)


def test_two_equal_detectors_differ_by_no_more_than_the_groups_can_tell():
    a = random_table(0, 10)
    interval = paired_difference(a, a, "balanced_accuracy", seed=0)
    most = binomial_interval(0, 20, method="exact").high
    assert interval[:4] == (0, pytest.approx(-most), pytest.approx(most), "exact")


def test_two_detectors_of_one_answer_each_do_not_differ_by_construction():
    says_speech, says_nonspeech = (random_table(0, 8).assign(prediction=label) for label in (S, N))
    for other in (says_speech, says_nonspeech):
        interval = paired_difference(says_speech, other, "balanced_accuracy", seed=0)
        assert interval == (0, None, None, "none", "the same answer for every clip: no interval", False)
    assert paired_difference(random_table(0, 8), says_speech, "balanced_accuracy", seed=0).method == "t"


def test_seeds_are_paired_within_their_seed():
    a, b = two_detectors(6)
    runs_a, runs_b = (pd.concat([t.assign(seed=1), t.assign(seed=2)]) for t in (a, b))
    once = paired_difference(a, b, "accuracy", seed=0)
    assert paired_difference(runs_a, runs_b, "accuracy", on=["clip_id", "seed"], seed=0) == pytest.approx(once)
    with pytest.raises(ValueError, match="the first table repeats"):
        paired_difference(runs_a, runs_b, "accuracy", seed=0)


def test_detectors_on_different_clips_are_not_compared():
    a, b = two_detectors(3)
    with pytest.raises(ValueError, match="1 clips are in one table only"):
        paired_difference(a, b.iloc[1:], "accuracy", seed=0)
    with pytest.raises(ValueError, match="label of 'clip0' differs"):
        paired_difference(a, b.assign(label=[N, *b.label[1:]]), "accuracy", seed=0)
