"""Intervals, design effects, inflation and logits against enumeration, closed forms, scipy and brute force."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tasks.functional import metrics
from tasks.functional import significance as sig

S, N = "SPEECH", "NONSPEECH"


def table_of(counts: dict[str, list[tuple[int, int]]], prefix: bool = True) -> pd.DataFrame:
    """A clip a row from class -> (right, clips) of each of its groups."""
    rows = [
        (f"{label if prefix else ''}{g}", label, label if clip < right else {S: N, N: S}[label])
        for label, groups in counts.items()
        for g, (right, n) in enumerate(groups)
        for clip in range(n)
    ]
    table = pd.DataFrame(rows, columns=["group_id", "label", "prediction"])
    return table.assign(clip_id=[f"clip{i}" for i in range(len(table))])


def random_table(seed: int, groups: int, clips: int = 6) -> pd.DataFrame:
    """Groups that differ in how hard they are, so that clips of one group are alike."""
    rng = np.random.default_rng(seed)
    table = table_of({label: [(clips, clips)] * groups for label in (S, N)})
    ease = pd.Series(rng.normal(0.8, 1, 2 * groups), index=table.group_id.unique())
    margin = (ease[table.group_id].to_numpy() + rng.normal(0, 0.7, len(table))) * np.where(table.label == S, 1, -1)
    p = 1 / (1 + np.exp(-margin))
    return table.assign(p_speech=p, prediction=np.where(p >= 0.5, S, N))


def balanced(table: pd.DataFrame) -> float:
    return metrics.balanced_accuracy(table.prediction, table.label)


# --- independent items -------------------------------------------------------------------------------------------


def test_binomial_intervals_of_8_in_10():
    assert sig.binomial_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert sig.binomial_interval(8, 10, method="exact") == pytest.approx((0.4439, 0.9748), abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_hold_the_rate_and_exact_ends_are_binomial_tails(k_of_n):
    k, n = k_of_n
    low, high = sig.binomial_interval(k, n, method="exact")
    assert 0 <= low <= k / n <= high <= 1
    assert k == 0 or stats.binom.sf(k - 1, n, low) == pytest.approx(0.025)
    assert k == n or stats.binom.cdf(k, n, high) == pytest.approx(0.025)


@pytest.mark.parametrize(("k", "n", "method"), [(1, 0, "wilson"), (3, 2, "exact"), (-1, 2, "exact"), (1, 2, "wald")])
def test_an_impossible_rate_or_method_is_refused(k, n, method):
    with pytest.raises(ValueError, match=r"give 0 <= successes|accepted are"):
        sig.binomial_interval(k, n, method=method)


def test_holm_and_benjamini_hochberg():
    assert sig.adjust_pvalues([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    p = [0.001, 0.2, 0.03, 0.04, 0.9]
    assert sig.adjust_pvalues(p, method="fdr_bh") == pytest.approx(stats.false_discovery_control(p))
    for bad in ([], [0.1, np.nan], [1.2]):
        with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
            sig.adjust_pvalues(bad)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_adjusted_p_values_are_those_of_statsmodels(p):
    from statsmodels.stats.multitest import multipletests

    for method in ("holm", "fdr_bh"):
        assert sig.adjust_pvalues(p, method=method) == pytest.approx(multipletests(p, method=method)[1])


# --- the cluster bootstrap ---------------------------------------------------------------------------------------


def test_the_bootstrap_is_that_of_all_resamples_of_groups_within_class():
    table = table_of({S: [(1, 4), (3, 4), (4, 4)], N: [(2, 2), (0, 3), (3, 5)]})
    groups = {label: [rows for _, rows in part.groupby("group_id")] for label, part in table.groupby("label")}
    recalls = {
        label: [
            metrics.accuracy(rows.prediction, rows.label)
            for rows in map(pd.concat, itertools.product(drawn, repeat=3))
        ]
        for label, drawn in groups.items()
    }
    values = np.add.outer(recalls[S], recalls[N]).ravel() / 2
    for end, share in zip(sig.cluster_bootstrap(table, "balanced_accuracy", seed=0), (0.025, 0.975), strict=True):
        assert (
            (values < end - 1e-9).mean() - 0.003 < share < (values < end + 1e-9).mean() + 0.003
        )  # values come in lumps


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "recall_speech", "recall_nonspeech"])
def test_a_named_statistic_and_a_function_of_the_rows_draw_the_same(name):
    functions = {
        "accuracy": lambda t: metrics.accuracy(t.prediction, t.label),
        "balanced_accuracy": balanced,
        "recall_speech": lambda t: metrics.recall(t.prediction, t.label),
        "recall_nonspeech": lambda t: metrics.recall(t.prediction, t.label, positive=N),
    }
    table = random_table(0, 5)
    by_name = sig.cluster_bootstrap(table, name, seed=1, n_boot=50)
    assert by_name == pytest.approx(sig.cluster_bootstrap(table, functions[name], seed=1, n_boot=50))


def test_equal_ids_in_two_classes_are_two_groups():
    counts = {S: [(1, 4), (3, 4), (4, 4)], N: [(2, 2), (0, 3), (3, 5)]}
    apart, colliding = table_of(counts), table_of(counts, prefix=False)
    assert colliding.group_id.nunique() == 3
    for statistic in ("accuracy", "balanced_accuracy"):
        assert sig.cluster_bootstrap(colliding, statistic, seed=0) == sig.cluster_bootstrap(apart, statistic, seed=0)


def test_the_order_of_the_rows_does_not_matter_and_the_seed_does():
    table = random_table(0, 6)
    first = sig.cluster_bootstrap(table, "brier", seed=3, n_boot=500)
    assert sig.cluster_bootstrap(table.sample(frac=1, random_state=0), "brier", seed=3, n_boot=500) == pytest.approx(
        first
    )
    assert sig.cluster_bootstrap(table, "brier", seed=4, n_boot=500) != first


def test_resampling_clips_would_claim_twice_the_precision():
    table = random_table(1, 12, clips=20)
    honest = sig.cluster_bootstrap(table, "balanced_accuracy", seed=0, n_boot=2000)
    by_clip = sig.cluster_bootstrap(table, "balanced_accuracy", group="clip_id", seed=0, n_boot=2000)
    assert honest.high - honest.low > 2 * (by_clip.high - by_clip.low)


def test_one_group_in_a_class_has_no_bootstrap():
    with pytest.raises(ValueError, match="all clips of SPEECH are of one group"):
        sig.cluster_bootstrap(table_of({S: [(1, 2)], N: [(1, 2), (2, 2)]}), "accuracy", seed=0)


def test_a_statistic_that_some_resamples_leave_undefined_is_refused():
    never_speech = table_of({S: [(0, 2), (0, 2), (1, 2)], N: [(2, 2), (2, 2)]})
    with pytest.raises(ValueError, match=r"precision_speech is undefined in \d+ of 200 resamples"):
        sig.cluster_bootstrap(never_speech, "precision_speech", seed=0, n_boot=200)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="group_id"), "no column 'group_id'"),
        (lambda t: t.assign(group_id=[None, *t.group_id[1:]]), "group_id is null in row 0"),
        (lambda t: t.iloc[:0], "no rows"),
    ],
)
def test_a_table_that_cannot_be_resampled_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sig.cluster_bootstrap(change(random_table(0, 3)), "accuracy", seed=0, n_boot=10)


# --- design effect -----------------------------------------------------------------------------------------------


def test_icc_is_that_of_the_analysis_of_variance():
    table = random_table(3, 8).iloc[:-5]  # groups of unequal size
    correct = (table.prediction == table.label).astype(int)
    effect = sig.design_effect(correct, table.group_id)
    samples = [part.to_numpy() for _, part in correct.groupby(table.group_id)]
    size = np.array([len(sample) for sample in samples])
    f, n, g = stats.f_oneway(*samples).statistic, size.sum(), len(size)
    n0 = (n - (size**2).sum() / n) / (g - 1)
    assert effect.icc == pytest.approx((f - 1) / (f - 1 + n0))
    assert effect.deff == pytest.approx(1 + ((size**2).sum() / n - 1) * effect.icc)
    assert (effect.n_eff, effect.n_groups) == (pytest.approx(n / effect.deff), g)


def test_copies_of_a_clip_add_nothing():
    effect = sig.design_effect(np.repeat([1, 0, 1, 1, 0], 20), np.repeat(list("abcde"), 20))
    assert effect == pytest.approx((1, 20, 5, 5))


def test_clips_never_count_for_more_than_clips():
    effect = sig.design_effect([1, 0] * 10, np.repeat(np.arange(10), 2))  # within groups more unlike than by chance
    assert effect.icc == pytest.approx(-1)
    assert (effect.deff, effect.n_eff) == (1, 20)


def test_one_clip_a_group_has_no_icc_and_no_design_effect():
    effect = sig.design_effect([1, 0, 1], ["a", "b", "c"])
    assert math.isnan(effect.icc)
    assert effect[1:] == (1, 3, 3)


@pytest.mark.parametrize(
    ("correct", "groups", "message"),
    [
        ([1, 0], ["a", "a"], "from 2 groups"),
        ([1, 1], ["a", "b"], "all 2 clips are right"),
        ([1, 0], ["a", None], "group"),
    ],
)
def test_a_design_effect_needs_groups_that_differ(correct, groups, message):
    with pytest.raises(ValueError, match=message):
        sig.design_effect(correct, groups)


# --- leakage -----------------------------------------------------------------------------------------------------


def two_protocols(groups: int = 12, seeds: tuple[int, ...] = (1, 2)) -> pd.DataFrame:
    """The leaky protocol mends a fifth of the mistakes; the same clips under every protocol and seed."""
    parts = []
    for seed in seeds:
        clean = random_table(0, groups)[["clip_id", "group_id", "label", "p_speech"]]
        clean["p_speech"] = np.clip(clean.p_speech + np.random.default_rng(seed).normal(0, 0.1, len(clean)), 0, 1)
        mended = np.random.default_rng(seed + 10).random(len(clean)) < 0.2
        leaky = clean.assign(p_speech=np.where(mended, (clean.label == S).astype(float), clean.p_speech))
        parts += [leaky.assign(seed=seed, protocol="random"), clean.assign(seed=seed, protocol="group")]
    return pd.concat(parts, ignore_index=True)


def test_inflation_is_the_mean_over_seeds_of_the_difference():
    runs = two_protocols()
    inflation = sig.leakage_inflation(runs, seed=0, n_boot=2000)
    score = {
        run: metrics.balanced_accuracy(rows.p_speech >= 0.5, rows.label == S)
        for run, rows in runs.groupby(["seed", "protocol"])
    }
    per_seed = {seed: score[seed, "random"] - score[seed, "group"] for seed in (1, 2)}
    assert inflation.per_seed == pytest.approx(per_seed)
    assert inflation.value == pytest.approx(np.mean(list(per_seed.values())))
    assert inflation.low < inflation.value < inflation.high
    assert inflation.se == pytest.approx((inflation.high - inflation.low) / 3.92, rel=0.15)


def test_rows_need_no_order_and_other_protocols_do_not_matter():
    runs = two_protocols()
    other = runs[runs.protocol == "group"].assign(protocol="other", p_speech=0.5)
    shuffled = pd.concat([runs, other]).sample(frac=1, random_state=0)
    first, second = (sig.leakage_inflation(table, seed=0, n_boot=200) for table in (runs, shuffled))
    assert second[:4] == pytest.approx(first[:4])
    assert second.per_seed == pytest.approx(first.per_seed)


def test_no_answer_is_wrong_under_either_protocol():
    runs = two_protocols(seeds=(1,))
    runs.loc[(runs.protocol == "random") & (runs.label == N), "p_speech"] = np.nan
    clean = runs[runs.protocol == "group"]
    leaky_speech = runs[(runs.protocol == "random") & (runs.label == S)]
    expected = (leaky_speech.p_speech >= 0.5).mean() / 2 - metrics.balanced_accuracy(
        clean.p_speech >= 0.5, clean.label == S
    )
    assert sig.leakage_inflation(runs, seed=0, n_boot=50).value == pytest.approx(expected)


def test_two_test_sets_do_not_measure_leakage():
    runs = two_protocols()
    half = runs[~((runs.protocol == "random") & (runs.clip_id == "clip0"))]
    with pytest.raises(ValueError, match="compare the same clips"):
        sig.leakage_inflation(half, seed=0)
    with pytest.raises(ValueError, match=r"no predictions for .*'random', 2"):
        sig.leakage_inflation(runs[~((runs.protocol == "random") & (runs.seed == 2))], seed=0)
    with pytest.raises(ValueError, match="no rows"):
        sig.leakage_inflation(runs.iloc[:0], seed=0)


# --- trial-level logit -------------------------------------------------------------------------------------------


def trials(seed: int = 0, groups: int = 15) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = np.tile([-1.0, 0.0, 1.0, 2.0], 3 * groups)
    group = np.repeat(np.arange(groups), 12)
    margin = 0.3 + 0.8 * x + rng.normal(0, 1, groups)[group]
    return pd.DataFrame({"x": x, "group_id": group, "correct": (rng.random(len(x)) < 1 / (1 + np.exp(-margin))) * 1})


def test_the_logit_is_at_its_maximum_and_its_errors_are_the_sandwich_over_groups():
    table = trials()
    fit = sig.cluster_logit(table, "correct ~ x")
    design = np.column_stack([np.ones(len(table)), table.x])
    p = 1 / (1 + np.exp(-design @ fit.coef))
    scores = design * (table.correct - p).to_numpy()[:, None]
    assert np.abs(scores.sum(axis=0)).max() < 1e-6
    bread = np.linalg.inv(design.T @ (design * (p * (1 - p))[:, None]))
    of_group = pd.DataFrame(scores).groupby(table.group_id).sum().to_numpy()
    variance = bread @ of_group.T @ of_group @ bread * 15 / 14
    assert fit.names == ("Intercept", "x")
    assert fit.se == pytest.approx(np.sqrt(np.diag(variance)))


def test_mcfadden_is_taken_over_trials():
    table = trials()
    fit = sig.cluster_logit(table, "correct ~ x")
    p = 1 / (1 + np.exp(-(fit.coef[0] + fit.coef[1] * table.x)))
    log_likelihood, constant = (
        stats.bernoulli.logpmf(table.correct, q).sum() for q in (p, np.full(len(table), table.correct.mean()))
    )
    assert fit.mcfadden_r2 == pytest.approx(1 - log_likelihood / constant)


def test_copied_trials_do_not_shrink_the_errors():
    table = trials()
    once, four_times = (sig.cluster_logit(t, "correct ~ x") for t in (table, pd.concat([table] * 4)))
    assert four_times.se == pytest.approx(once.se)
    as_if_independent = sig.cluster_logit(table.assign(row=range(len(table))), "correct ~ x", group="row")
    assert once.se[0] > 1.3 * as_if_independent.se[0]


def test_bool_answers_are_ones_and_zeros():
    table = trials()
    as_bool = sig.cluster_logit(table.assign(correct=table.correct == 1), "correct ~ x")
    assert as_bool.coef == pytest.approx(sig.cluster_logit(table, "correct ~ x").coef)


@pytest.mark.parametrize(
    ("change", "formula", "message"),
    [
        ({"group_id": 1}, "correct ~ x", "need 2 groups"),
        ({"x": [None, *[1.0, 2.0] * 89, 1.0]}, "correct ~ x", "1 of 180 rows have a null"),
        ({"x": 1.0}, "correct ~ nope", "nope"),
        ({"copy": 1.0}, "correct ~ copy + x", "cannot be fitted"),
    ],
)
def test_a_model_that_cannot_be_fitted_is_refused(change, formula, message):
    with pytest.raises(ValueError, match=message):
        sig.cluster_logit(trials().assign(**change), formula)


def test_a_separable_model_is_refused_rather_than_reported():
    table = trials().assign(correct=lambda t: (t.x > 0) * 1)
    with pytest.raises(ValueError, match="did not converge"):
        sig.cluster_logit(table, "correct ~ x")
