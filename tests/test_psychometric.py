"""Psychometric functions against scipy's optimisers, simulated observers, hand-made counts and brute-force resampling."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from tasks.functional.metrics import FloatArray, IntArray
from tasks.functional.psychometric import (
    bootstrap_threshold,
    deviance_p_value,
    fit_counts,
    fit_hit_rate,
    fit_psychometric,
    model_of,
    ordered_interval,
    refit_thresholds,
)
from tasks.functional.resampling import resample, units_of
from tasks.functional.sigmoid_fits import fit_many

MS = np.array([20, 40, 60, 80, 100, 200, 500, 1000])
DB = np.array([-10, -5, 0, 5, 10, 20])
SIGMOIDS = {
    "logistic": stats.logistic.cdf,
    "norm": stats.norm.cdf,
    "weibull": lambda eta: 1 - np.exp(-np.exp(np.minimum(eta, 30))),
}
RISING = [52, 55, 60, 72, 80, 90, 97, 98]  # of 100 at MS


def psi_of(theta: Sequence[float], x: npt.ArrayLike, sigmoid: str) -> FloatArray:
    intercept, slope, lapse, guess = theta
    return guess + (1 - guess - lapse) * SIGMOIDS[sigmoid](intercept + slope * x)


def reference(
    x: FloatArray,
    correct: npt.ArrayLike,
    trials: int,
    sigmoid: str,
    lapse: tuple[float, float] = (0.0, 0.1),
    guess: tuple[float, float] = (0.5, 0.5),
    noise: tuple[int, int] = (0, 0),
) -> float:
    """Highest log-likelihood that scipy's bounded quasi-Newton finds from many places."""

    def loss(theta: FloatArray) -> float:
        if theta[2] + theta[3] > 1:
            return 1e6  # a curve upside down
        psi = np.append(psi_of(theta, x, sigmoid), theta[3])
        psi = np.clip(psi, 1e-12, 1 - 1e-12)
        k, n = np.append(correct, noise[0]), np.append(np.full(len(x), trials), noise[1])
        return -(k * np.log(psi) + (n - k) * np.log1p(-psi)).sum()

    spread = np.ptp(x)
    ends = []
    for place, slope in itertools.product(np.linspace(x.min(), x.max(), 6), (2, 8, 40, -5)):
        start = [-slope * place / spread, slope / spread, np.mean(lapse), np.mean(guess)]
        bounds, exact = [(None, None), (None, None), lapse, guess], {"ftol": 1e-14, "gtol": 1e-7}
        ends.append(optimize.minimize(loss, start, method="L-BFGS-B", bounds=bounds, options=exact).fun)
    return -min(ends)


def simulated(rng: np.random.Generator, n: int, sigmoid: str = "logistic") -> IntArray:
    return rng.binomial(n, psi_of((-9.5, 5.0, 0.03, 0.5), np.log10(MS), sigmoid))


# --- maximum likelihood ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
@pytest.mark.slow
def test_no_start_of_scipys_finds_a_higher_likelihood(sigmoid):
    rng = np.random.default_rng(1)
    for n in (8, 30, 400):
        correct = simulated(rng, n, sigmoid)
        fit = fit_psychometric(MS, correct, [n] * 8, sigmoid=sigmoid)
        theirs = reference(np.log10(MS), correct, n, sigmoid)
        assert fit.log_likelihood >= theirs - 1e-6
        theta = fit.intercept, fit.slope, fit.lapse_rate, 0.5
        psi = psi_of(theta, np.log10(MS), sigmoid)
        assert fit.log_likelihood == pytest.approx(
            (stats.binom.logpmf(correct, n, psi) - _coefficients(correct, n)).sum()
        )
        if n == 400:  # one clear maximum: the optimisers agree from both sides
            assert fit.log_likelihood == pytest.approx(theirs, abs=1e-6)


def _coefficients(k: IntArray, n: int) -> FloatArray:
    return stats.binom.logpmf(k, n, 0.5) - n * math.log(0.5)


@pytest.mark.parametrize(
    ("sigmoid", "levels", "correct", "n"),
    [
        ("norm", [-14, -6, 2], [11, 6, 3], 20),
        ("weibull", [-15, -11, -1, 12, 13, 23, 25], [2, 4, 52, 98, 93, 96, 98], 100),
        ("logistic", [-5, -3, 5, 6, 13, 22, 26], [1, 3, 3, 4, 3, 5, 5], 5),
    ],
)
def test_a_start_that_makes_the_counts_impossible_does_not_overflow(sigmoid, levels, correct, n):
    options = {"sigmoid": sigmoid, "x_transform": None, "guess_rate": 0}
    for lapse_rate in (None, 0):
        with np.errstate(divide="raise", over="raise", invalid="raise"):
            fit = fit_psychometric(levels, correct, [n] * len(levels), lapse_rate=lapse_rate, **options)
        bounds = (0.0, 0.1 if lapse_rate is None else 0.0)
        found = reference(np.array(levels), correct, n, sigmoid, lapse=bounds, guess=(0.0, 0.0))
        assert fit.log_likelihood >= found - 1e-6


@pytest.mark.parametrize("false_alarms", [0, 17, 60, 98])
def test_false_alarms_and_hits_are_fitted_jointly(false_alarms):
    yes = (
        np.array([22, 25, 40, 60, 75, 90, 95, 96]) if false_alarms < 98 else np.array([99, 97, 99, 98, 99, 99, 99, 97])
    )
    fit = fit_hit_rate(MS, yes, [100] * 8, false_alarms, 100)
    found = reference(np.log10(MS), yes, 100, "logistic", guess=(0.0, 0.99), noise=(false_alarms, 100))
    assert fit.log_likelihood == pytest.approx(found, abs=1e-5)
    assert fit.log_likelihood >= found - 1e-6


def test_hits_have_a_say_in_the_guess_rate():
    yes = np.array([40, 40, 40, 40, 60, 90, 95, 96])
    fit = fit_hit_rate(MS, yes, [100] * 8, 20, 100)
    assert 0.2 < fit.guess_rate < 0.4
    sure = fit_hit_rate(MS, yes, [100] * 8, 20_000, 100_000)
    assert sure.guess_rate == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
def test_parameters_come_back_from_many_simulated_trials(sigmoid):
    n, lapse = 200_000, 0.04
    psi = psi_of((-9.5, 5.0, lapse, 0.5), np.log10(MS), sigmoid)
    fit = fit_psychometric(MS, np.random.default_rng(0).binomial(n, psi), [n] * 8, sigmoid=sigmoid)
    assert (fit.intercept, fit.slope, fit.lapse_rate) == pytest.approx((-9.5, 5.0, lapse), rel=0.05)
    assert fit.converged
    assert fit.threshold(0.5, scaled=False).value == pytest.approx(
        10 ** ((9.5 + {"weibull": math.log(math.log(2))}.get(sigmoid, 0)) / 5), rel=0.02
    )


def test_decibels_are_not_logged():
    psi = psi_of((-0.5, 0.25, 0.0, 0.5), DB, "logistic")
    correct = np.random.default_rng(0).binomial(100_000, psi)
    fit = fit_psychometric(DB, correct, [100_000] * 6, x_transform=None)
    assert fit.threshold(0.75).value == pytest.approx(2, abs=0.2)


def test_a_fixed_lapse_rate_stays_fixed_and_a_free_one_within_its_bound():
    worst = [50, 50, 55, 60, 70, 75, 75, 75]
    assert fit_psychometric(MS, worst, [100] * 8, lapse_rate=0.3).lapse_rate == 0.3
    assert fit_psychometric(MS, worst, [100] * 8).lapse_rate == 0.1
    assert fit_psychometric(MS, worst, [100] * 8, max_lapse=0.4).lapse_rate == pytest.approx(0.25, abs=0.02)


def test_many_fits_are_the_single_ones():
    rng = np.random.default_rng(0)
    correct = np.stack([simulated(rng, 60) for _ in range(20)]).astype(float)
    model = model_of(MS, "logistic", "log10", 0.5, None, 0.1)
    together = fit_many(model, correct, np.full(correct.shape, 60.0), n_starts=4)
    alone = [fit_psychometric(MS, row, [60] * 8).log_likelihood for row in correct]
    assert together.log_likelihood == pytest.approx(alone, abs=1e-8)


# --- invariances -------------------------------------------------------------------------------------------------

COUNTS = st.lists(st.integers(0, 30), min_size=8, max_size=8)


def whole(least: int, most: int, n: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(least, most), min_size=n, max_size=n)


RISES = st.tuples(whole(14, 17, 2), whole(15, 30, 4).map(sorted), whole(26, 29, 2)).map(
    lambda parts: [*parts[0], *parts[1], *parts[2]]
)


@settings(max_examples=25, deadline=None)
@given(COUNTS, st.sampled_from(list(SIGMOIDS)))
def test_twice_the_trials_double_the_likelihood_and_leave_the_curve(correct, sigmoid):
    once = fit_psychometric(MS, correct, [30] * 8, sigmoid=sigmoid)
    twice = fit_psychometric(np.tile(MS, 2), correct * 2, [30] * 16, sigmoid=sigmoid)
    assert twice.log_likelihood == pytest.approx(2 * once.log_likelihood, abs=1e-7)
    assert twice.deviance == pytest.approx(2 * once.deviance, abs=1e-7)
    if once.converged:
        assert twice.psi(MS) == pytest.approx(once.psi(MS), abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(RISES, st.floats(0.1, 50), st.permutations(range(8)))
def test_a_factor_on_durations_is_one_on_the_threshold_and_their_order_is_nothing(correct, factor, order):
    fit = fit_psychometric(MS, correct, [30] * 8)
    assume(fit.converged and fit.threshold(0.75).value is not None)
    moved = fit_psychometric(factor * MS[order], np.array(correct)[order], [30] * 8)
    there, here = moved.threshold(0.75), fit.threshold(0.75)
    assert math.log10(there.value) == pytest.approx(math.log10(factor * here.value), abs=1e-3)
    assert there.censored == here.censored or here.value == pytest.approx(MS[[0, 7]], rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(RISES, st.floats(-30, 30))
def test_a_shift_of_decibels_is_one_of_the_threshold(correct, shift):
    levels = np.arange(-15, 25, 5)
    fit = fit_psychometric(levels, correct, [30] * 8, x_transform=None)
    assume(fit.converged and fit.threshold(0.75).value is not None)
    moved = fit_psychometric(levels + shift, correct, [30] * 8, x_transform=None)
    assert moved.threshold(0.75).value == pytest.approx(fit.threshold(0.75).value + shift, abs=1e-2)
    assert moved.deviance == pytest.approx(fit.deviance, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(RISES, st.sampled_from(list(SIGMOIDS)))
def test_thresholds_rise_with_p_and_lie_on_the_curve(correct, sigmoid):
    fit = fit_psychometric(MS, correct, [30] * 8, sigmoid=sigmoid)
    asked = {p: fit.threshold(p).value for p in (0.55, 0.65, 0.75, 0.85, 0.95)}
    found = {p: value for p, value in asked.items() if value is not None}
    assume(found and fit.slope > 0)
    assert list(found.values()) == sorted(found.values())
    for p, value in found.items():
        assert fit.psi(value) == pytest.approx(p, abs=1e-6)


# --- thresholds --------------------------------------------------------------------------------------------------


def test_scaled_is_psi_and_unscaled_is_f():
    fit = fit_psychometric(MS, RISING, [100] * 8)
    assert fit.psi(fit.threshold(0.75).value) == pytest.approx(0.75)
    middle = fit.guess_rate + (1 - fit.guess_rate - fit.lapse_rate) / 2
    assert fit.psi(fit.threshold(0.5, scaled=False).value) == pytest.approx(middle)
    assert middle < 0.75  # the lapse rate is not 0, so the two differ


@pytest.mark.parametrize(
    ("correct", "censored"),
    [([85, 88, 90, 93, 95, 98], "below"), ([51, 52, 55, 58, 62, 66], "above"), ([52, 60, 70, 80, 90, 95], None)],
)
def test_a_threshold_outside_the_levels_is_censored_and_keeps_its_extrapolated_value(correct, censored):
    fit = fit_psychometric(DB, np.multiply(correct, 10), [1000] * 6, x_transform=None)
    found = fit.threshold(0.75)
    assert (found.censored, found.reason) == (censored, None)
    assert fit.psi(found.value) == pytest.approx(0.75)
    assert (found.value < -10, found.value > 20) == (censored == "below", censored == "above")


def test_a_slope_that_is_not_significant_has_no_threshold():
    flat, rising = ([74, 76, 73, 77, 75, 76, 74, 77], [70, 71, 72, 74, 75, 78, 80, 82])
    for correct, significant in ((flat, False), (rising, True)):
        fit = fit_psychometric(MS, correct, [100] * 8)
        rate = sum(correct) / 800
        constant = sum(k * math.log(rate) + (100 - k) * math.log(1 - rate) for k in correct)
        p = stats.chi2.sf(2 * (fit.log_likelihood - constant), 1)
        assert fit.slope_p_value == pytest.approx(p)
        assert (p <= 0.05) == significant
        found = fit.threshold(0.75)
        assert (found.value is not None) == significant
        assert (found.reason or "").startswith("flat") != significant


def test_a_slope_of_chance_is_significant_as_rarely_as_it_should_be():
    rng = np.random.default_rng(0)
    fits = [fit_psychometric(MS, rng.binomial(60, 0.5, 8), [60] * 8) for _ in range(60)]
    assert sum(fit.threshold(0.75).value is not None for fit in fits) <= 6


@pytest.mark.parametrize(
    ("p", "reason"),
    [(0.5, "no threshold: psi is at least"), (0.4, "no threshold"), (0.96, "unreachable: with a lapse rate of 0.05")],
)
def test_a_p_that_psi_does_not_pass_has_no_threshold(p, reason):
    fit = fit_psychometric(MS, [52, 55, 60, 72, 80, 90, 95, 95], [100] * 8, lapse_rate=0.05)
    found = fit.threshold(p)
    assert (found.value, found.censored) == (None, None)
    assert reason in found.reason
    assert fit.threshold(p, scaled=False).value is not None  # F reaches every p


@pytest.mark.parametrize("p", [0, 1, 1.2, -0.1])
def test_a_threshold_is_asked_for_between_0_and_1(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        fit_psychometric(MS, RISING, [100] * 8).threshold(p)


def test_where_performance_falls_the_threshold_is_the_last_level_that_reaches_p():
    fit = fit_psychometric(MS, RISING[::-1], [100] * 8)
    found = fit.threshold(0.75)
    assert fit.slope < 0
    assert fit.psi(found.value * 0.9) > 0.75 > fit.psi(found.value * 1.1)
    assert "falls with the level" in found.reason


# --- data without a maximum --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
@pytest.mark.parametrize("low", [50, 47, 0])
def test_perfect_separation_has_a_threshold_between_its_levels_and_does_not_converge(sigmoid, low):
    fit = fit_psychometric(MS, [low] * 4 + [100] * 4, [100] * 8, sigmoid=sigmoid)
    found = fit.threshold(0.75)
    assert not fit.converged
    assert 80 < found.value < 100
    assert "step" in found.reason
    assert fit.psi(MS) == pytest.approx([0.5] * 4 + [1.0] * 4)
    assert fit_psychometric(MS, RISING, [100] * 8, sigmoid=sigmoid).converged


def test_a_step_at_a_level_is_there():
    fit = fit_psychometric(MS, [0, 0, 0, 4, 10, 10, 10, 10], [10] * 8, guess_rate=0)
    assert not fit.converged
    assert fit.psi(MS) == pytest.approx([0, 0, 0, 0.4, 1, 1, 1, 1], abs=1e-6)
    assert fit.threshold(0.5).value == pytest.approx(80, rel=0.03)


@pytest.mark.parametrize("right", [100, 50, 30, 75])
def test_one_rate_at_all_levels_is_flat(right):
    fit = fit_psychometric(MS, [right] * 8, [100] * 8)
    assert fit.slope_p_value == pytest.approx(1, abs=1e-4)
    assert fit.threshold(0.75).reason.startswith("flat")
    assert fit.psi(MS) == pytest.approx([max(right / 100, 0.5)] * 8, abs=1e-6)
    assert fit.converged == (right == 75)  # elsewhere intercept and slope are anything


def test_hit_rates_of_a_detector_that_always_says_speech_are_flat():
    fit = fit_hit_rate(MS, [100] * 8, [100] * 8, 800, 800)
    assert fit.guess_rate == pytest.approx(1)
    assert not fit.converged
    assert fit.threshold(0.5, scaled=False).reason.startswith("flat")


def test_two_levels_leave_a_free_lapse_rate_open():
    fit = fit_psychometric([20, 100], [60, 90], [100] * 2)
    assert (fit.converged, fit.lapse_rate) == (False, 0)
    assert "lapse rate open" in fit.threshold(0.75).reason
    fixed = fit_psychometric([20, 100], [60, 90], [100] * 2, lapse_rate=0)
    assert fixed.converged
    assert fixed.threshold(0.75) == (pytest.approx(fit.threshold(0.75).value), None, None)


# --- refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "correct", "trials", "options", "message"),
    [
        ([20, 40, 60], [5, 6, 7], [10, 0, 10], {}, "level 40 has 0 trials: leave it out"),
        ([20, 40, 60], [5, 11, 7], [10, 10, 10], {}, "level 40: 11 of 10 trials"),
        ([20, 40, 60], [5, -1, 7], [10, 10, 10], {}, "level 40: -1 of 10 trials"),
        ([20, 40, 60], [5, 6.5, 7], [10, 10, 10], {}, "level 40: 6.5 of 10 are no whole numbers"),
        ([20, 40, 60], [5, 6, 7], [10, 9.9, 10], {}, "level 40: 6 of 9.9 are no whole numbers"),
        ([20, 40, 60], [5, math.nan, 7], [10, 10, 10], {}, "level 40: nan of 10 are no whole numbers"),
        ([20, 40, 60], [5, 6], [10, 10], {}, "3 levels"),
        ([20], [5], [10], {}, "at least 2 levels"),
        ([20, 20], [5, 6], [10, 10], {}, "at least 2 levels"),
        ([20, 40, math.inf], [5, 6, 7], [10] * 3, {}, "level inf is no number"),
        ([0, 40, 60], [5, 6, 7], [10] * 3, {}, "level 0 has no logarithm"),
        ([-5, 0, 5], [5, 6, 7], [10] * 3, {}, "level -5 has no logarithm.*x_transform=None"),
        ([20, 40, 60], [5, 6, 7], [10] * 3, {"sigmoid": "probit"}, "accepted are 'logistic'"),
        ([20, 40, 60], [5, 6, 7], [10] * 3, {"x_transform": "log2"}, "accepted are 'log10' and None"),
        ([20, 40, 60], [5, 6, 7], [10] * 3, {"guess_rate": 1}, r"guess_rate is 1, give a rate in \[0, 1\)"),
        ([20, 40, 60], [5, 6, 7], [10] * 3, {"lapse_rate": -0.1}, "lapse_rate is -0.1"),
        ([20, 40, 60], [5, 6, 7], [10] * 3, {"guess_rate": 0.95}, "leave psi no room"),
    ],
)  # fmt: skip
def test_counts_and_levels_that_no_curve_can_have_are_refused(levels, correct, trials, options, message):
    with pytest.raises(ValueError, match=message):
        fit_psychometric(levels, correct, trials, **options)


@pytest.mark.parametrize(("false_alarms", "nonspeech"), [(5, 0), (11, 10), (-1, 10), (2.5, 10)])
def test_false_alarms_that_no_trials_can_have_are_refused(false_alarms, nonspeech):
    with pytest.raises(ValueError, match="false alarms of"):
        fit_hit_rate(MS, [50] * 8, [100] * 8, false_alarms, nonspeech)


# --- goodness of fit ---------------------------------------------------------------------------------------------


def test_the_deviance_is_twice_what_the_curve_lacks_to_the_data():
    fit = fit_psychometric(MS, RISING, [100] * 8)
    rate, psi = np.array(RISING) / 100, fit.psi(MS)
    expected = 2 * 100 * (rate * np.log(rate / psi) + (1 - rate) * np.log((1 - rate) / (1 - psi))).sum()
    assert fit.deviance == pytest.approx(expected)


@pytest.mark.slow
def test_data_of_another_curve_get_a_small_deviance_p_and_its_own_do_not():
    rng = np.random.default_rng(0)
    own = [fit_psychometric(MS, simulated(rng, 50), [50] * 8) for _ in range(30)]
    p_values = [deviance_p_value(fit, n_boot=99, seed=1) for fit in own]
    assert sum(p <= 0.05 for p in p_values) <= 5
    assert 0.3 < np.mean(p_values) < 0.75
    bumpy = fit_psychometric(MS, [95, 50, 95, 50, 95, 50, 95, 50], [100] * 8)
    assert deviance_p_value(bumpy, n_boot=99, seed=1) == 0.01
    with pytest.raises(ValueError, match="n_boot is 0"):
        deviance_p_value(bumpy, n_boot=0, seed=1)


def test_trials_that_are_not_whole_have_a_deviance_p_too():
    model, rng = model_of(MS, "logistic", "log10", 0.5, None, 0.1), np.random.default_rng(0)
    trials = np.full(8, 6.4)  # as 8 clips of one class and 2 of the other
    fits = [fit_counts(model, trials * (simulated(rng, 6) / 6), trials) for _ in range(20)]
    p_values = [deviance_p_value(fit, n_boot=49, seed=1) for fit in fits]
    assert 0.38 < np.mean(p_values) < 0.75


def test_counts_above_their_trials_by_rounding_are_all_right():
    model = model_of(MS, "logistic", "log10", 0.5, None, 0.1)
    exact, rounded = (
        fit_counts(model, np.array([3.2] * 4 + [right] * 4), np.full(8, 6.4)) for right in (6.4, 6.4 + 1e-15)
    )
    assert rounded.log_likelihood == pytest.approx(exact.log_likelihood, abs=1e-9)
    assert (rounded.slope, rounded.deviance) == pytest.approx((exact.slope, exact.deviance), abs=1e-9)


def test_clips_that_resemble_each_other_look_like_another_curve():
    rng = np.random.default_rng(0)
    psi = psi_of((-9.5, 5, 0.02, 0.5), np.log10(MS), "logistic")
    copied = fit_psychometric(MS, 20 * rng.binomial(10, psi), [200] * 8)  # every clip 20 times
    assert deviance_p_value(copied, n_boot=99, seed=1) == 0.01


# --- thresholds over groups --------------------------------------------------------------------------------------


def observers(
    n_groups: int, per_level: int = 4, sd: float = 0.8, seed: int = 0, labels: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Trials of groups whose sensitivities differ by `sd` on the logit scale."""
    rng = np.random.default_rng(seed)
    rows = []
    for group, level in itertools.product(range(n_groups), MS):
        shift = sd * np.random.default_rng([seed, group]).normal()
        psi = psi_of((-9.5 + shift, 5, 0.02, 0.5), math.log10(level), "logistic")
        rows += [(f"g{group}", float(level), int(rng.random() < psi)) for _ in range(per_level)]
    trials = pd.DataFrame(rows, columns=["group_id", "duration_ms", "correct"])
    return trials.assign(label=[labels[int(g[1:]) % len(labels)] for g in trials["group_id"]]) if labels else trials


@pytest.mark.parametrize("labels", [(), ("SPEECH", "NONSPEECH")])
def test_the_bootstrap_is_that_of_refitted_tables(labels):
    trials = observers(8, labels=labels)
    units = units_of(trials if labels else trials.assign(label=""))

    def threshold_of_rows(weights: FloatArray) -> FloatArray:
        values = []
        for drawn in weights.astype(int)[:, units.unit]:
            rows = trials.iloc[np.repeat(np.arange(len(trials)), drawn)]
            by_level = rows.groupby("duration_ms")["correct"].agg(["sum", "count"])
            fit = fit_psychometric(by_level.index, by_level["sum"], by_level["count"])
            share = 0.25 / (0.5 - fit.lapse_rate)
            values.append(10 ** ((math.log(share / (1 - share)) - fit.intercept) / fit.slope))
        return np.array(values)

    expected = np.sort(resample(threshold_of_rows, units, 41, 3))[[1, 39]]
    found = bootstrap_threshold(trials, level="duration_ms", n_boot=41, seed=3)
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-5)


def test_a_seed_gives_one_interval_whatever_the_order_of_rows():
    trials = observers(8)
    first, again, other = (bootstrap_threshold(trials, level="duration_ms", n_boot=200, seed=s) for s in (1, 1, 2))
    assert first == again != other
    assert bootstrap_threshold(trials.iloc[::-1], level="duration_ms", n_boot=200, seed=1) == pytest.approx(first)


def test_groups_are_resampled_and_not_trials():
    trials = observers(12, per_level=20)
    deaf = trials["group_id"].isin(["g0", "g1", "g2"])
    trials = trials.assign(correct=trials["correct"].mask(deaf, np.arange(len(trials)) % 2))
    of_groups = bootstrap_threshold(trials, level="duration_ms", n_boot=300, seed=0)
    alone = trials.assign(group_id=np.arange(len(trials)))
    of_trials = bootstrap_threshold(alone, level="duration_ms", n_boot=300, seed=0)
    assert math.log(of_groups.high / of_groups.low) > 2 * math.log(of_trials.high / of_trials.low)


def test_groups_are_drawn_within_their_label():
    easy, hard = observers(6, sd=0, seed=1), observers(6, sd=0, seed=2)
    hard = hard.assign(correct=np.arange(len(hard)) % 2, group_id="h" + hard["group_id"])
    both = pd.concat([easy.assign(label="SPEECH"), hard.assign(label="NONSPEECH")])
    options = {"level": "duration_ms", "n_boot": 300, "seed": 0, "p": 0.6}
    within, mixed = bootstrap_threshold(both, **options), bootstrap_threshold(both.drop(columns="label"), **options)
    assert math.log(mixed.high / mixed.low) > 1.5 * math.log(within.high / within.low)


def test_resamples_that_do_not_reach_p_are_infinite():
    deaf = observers(12).assign(
        correct=lambda t: t["correct"].where(t["group_id"].isin(["g0", "g1"]), np.arange(len(t)) % 2)
    )
    found = bootstrap_threshold(deaf, level="duration_ms", n_boot=300, seed=0)
    assert found.high == math.inf
    assert 20 < found.low < math.inf
    assert bootstrap_threshold(observers(12), level="duration_ms", n_boot=300, seed=0).high < 300
    never = bootstrap_threshold(observers(12), level="duration_ms", p=0.95, lapse_rate=0.1, n_boot=50, seed=0)
    assert never == (math.inf, math.inf)


def test_refits_without_a_maximum_are_where_their_data_are():
    model = model_of(MS, "logistic", "log10", 0.5, None, 0.1)
    correct = np.array([[10] * 8, [5] * 8, [5] * 4 + [10] * 4, [10] * 4 + [5] * 4, [5] * 7 + [7]], dtype=float)
    trials = np.full(correct.shape, 10.0)
    x = refit_thresholds(model, correct, trials, 0.75, falling=False)
    assert x == pytest.approx([-np.inf, np.inf, math.log10(80 * 100) / 2, np.inf, np.inf])
    assert refit_thresholds(model, correct, trials, 0.75, falling=True)[3] == pytest.approx(math.log10(80 * 100) / 2)


def test_performance_that_falls_is_resampled_as_it_falls():
    falling = observers(10).assign(duration_ms=lambda t: 20_000 / t["duration_ms"])
    rising = bootstrap_threshold(observers(10), level="duration_ms", n_boot=200, seed=0)
    mirrored = bootstrap_threshold(falling, level="duration_ms", n_boot=200, seed=0)
    assert (20_000 / mirrored.high, 20_000 / mirrored.low) == pytest.approx(rising, rel=1e-3)


def test_infinite_ends_are_not_averaged():
    values = np.array([1.0, 2, 3, np.inf, np.inf])
    assert ordered_interval(values, 0.2) == (1, np.inf)
    assert ordered_interval(values, 0.3) == (2, np.inf)
    assert ordered_interval(np.full(5, np.inf), 0.1) == (np.inf, np.inf)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.assign(group_id="g0"), "one group: an interval needs at least 2 groups"),
        (lambda t: t.assign(label=["A"] * 32 + ["B"] * (len(t) - 32)), "all clips of A are of one group"),
        (lambda t: t.drop(columns="correct"), "no column 'correct'"),
        (lambda t: t.assign(correct=[0.5, *t["correct"][1:]]), "correct of row 0 is 0.5"),
        (lambda t: t.assign(correct=[None, *t["correct"][1:]]), "correct of row 0"),
        (lambda t: t.assign(group_id=[None, *t["group_id"][1:]]), "group_id is null in row 0"),
        (lambda t: t.assign(duration_ms=[math.nan, *t["duration_ms"][1:]]), "level nan is no number"),
        (lambda t: t.assign(duration_ms=0.0), "at least 2 levels"),
        (lambda t: t.iloc[:0], "no rows"),
    ],
)  # fmt: skip
def test_trials_that_cannot_be_resampled_are_refused(spoil, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_threshold(spoil(observers(4)), level="duration_ms", n_boot=10, seed=0)


def test_an_interval_of_chance_itself_is_refused():
    with pytest.raises(ValueError, match="never below the guess rate"):
        bootstrap_threshold(observers(4), level="duration_ms", p=0.5, n_boot=10, seed=0)
