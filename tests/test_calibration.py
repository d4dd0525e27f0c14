"""Calibration by hand and by grid: bins, temperature and threshold."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import expit

from tasks.functional.calibration import (
    calibration_error,
    choose_threshold,
    confidences,
    fit_temperature,
    margin_of,
    reliability,
    soften,
)

SCORED = st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=2, max_size=40)


def nll(margin, truth, temperature):
    p = expit(np.asarray(margin) / temperature)
    return -np.mean(np.where(truth, np.log(p), np.log1p(-p)))


def test_ece_and_mce_by_hand():
    p, labels = [0.95, 0.95, 0.05, 0.65], [1, 0, 0, 1]
    # confidence .95 three times (right, wrong, right), .65 once (right)
    assert calibration_error(p, labels, n_bins=10) == pytest.approx((3 * (0.95 - 2 / 3) + 0.35) / 4)
    assert calibration_error(p, labels, n_bins=10, norm="max") == pytest.approx(0.35)


def test_bins_of_p_speech_are_not_bins_of_confidence():
    p, labels = [0.1, 0.9], [1, 1]
    assert calibration_error(p, labels) == pytest.approx(abs(0.9 - 0.5))  # one bin at .9: one right, one wrong
    assert calibration_error(p, labels, kind="p_speech") == pytest.approx((0.9 + 0.1) / 2)


@pytest.mark.parametrize("n_bins", [5, 10, 15, 25])
def test_an_edge_belongs_to_the_bin_below(n_bins):
    edges = [float(Fraction(k, n_bins)) for k in range(1, n_bins + 1)]
    bins = reliability([0.0, *edges], [1] * (n_bins + 1), n_bins=n_bins, kind="p_speech")
    assert bins.n.tolist() == [2] + [1] * (n_bins - 1)  # 0 has no bin below and joins the first


def test_one_half_is_an_answer_speech():
    assert calibration_error([0.5], [1]) == pytest.approx(0.5)  # right at confidence .5
    assert reliability([0.5], [0]).observed[7] == 0


def test_confidence_is_that_of_the_top_label_whatever_was_decided():
    found = confidences([0.9, 0.6, 0.4, 0.2], [1, 0, 1, 0])
    assert found == pytest.approx((0.725, 0.85, 0.6, 0.25))
    assert found.mean == pytest.approx(reliability([0.9, 0.6, 0.4, 0.2], [1, 0, 1, 0], n_bins=1).confidence[-1])


def test_a_sure_answer_is_softened_to_a_finite_margin():
    p = np.array([0, 0.2, 1])
    assert np.isfinite(margin_of(p)).all()
    assert soften(p, 2)[1] == pytest.approx(1 / 3)


def test_class_names_are_labels_too():
    p = [0.9, 0.2, 0.7]
    assert calibration_error(p, ["SPEECH", "NONSPEECH", "NONSPEECH"]) == calibration_error(p, [1, 0, 0])


@settings(max_examples=30, deadline=None)
@given(SCORED, st.sampled_from(["top_label", "p_speech"]))
def test_ece_never_exceeds_mce_and_both_lie_in_the_unit_interval(clips, kind):
    p, labels = np.array([c[0] for c in clips]) / 20, [int(c[1]) for c in clips]
    ece, mce = (calibration_error(p, labels, norm=norm, kind=kind) for norm in ("l1", "max"))
    assert 0 <= ece <= mce + 1e-12 <= 1 + 1e-12


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"n_bins": 0}, "n_bins is 0"), ({"norm": "l2"}, "norm is 'l2'"), ({"kind": "margin"}, "kind is 'margin'")],
)
def test_unknown_options_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        calibration_error([0.2, 0.9], [0, 1], **kwargs)


def test_a_probability_outside_the_unit_interval_is_refused():
    with pytest.raises(ValueError, match=r"row 1 is 1\.5"):
        calibration_error([0.2, 1.5], [0, 1])


def test_temperature_undoes_overconfidence():
    rng = np.random.default_rng(0)
    true_margin = rng.normal(0, 2, 20_000)
    labels = rng.random(20_000) < expit(true_margin)
    fit = fit_temperature(3 * true_margin, labels)
    assert fit.value == pytest.approx(3, rel=0.05)
    assert fit.nll_after == pytest.approx(nll(true_margin, labels, 1), abs=1e-3)
    assert not fit.at_bound
    assert fit.flag is None
    before, after = (calibration_error(expit(3 * true_margin / t), labels) for t in (1, fit.value))
    assert after < before / 5


@settings(max_examples=30, deadline=None)
@given(SCORED)
def test_no_temperature_on_a_grid_beats_the_fitted_one(clips):
    margin, labels = np.array([c[0] - 10 for c in clips]) / 3, np.array([c[1] for c in clips])
    assume(0 < labels.sum() < len(labels))
    fit = fit_temperature(margin, labels)
    grid = np.geomspace(0.05, 20, 60)
    with np.errstate(divide="ignore"):
        assert fit.nll_after <= min(nll(margin, labels, t) for t in grid) + 1e-9
    assert fit.nll_after <= fit.nll_before + 1e-12
    assert fit.at_bound == (fit.value in (0.05, 20))


def test_a_separable_dev_set_is_flagged_and_stays_at_the_bound():
    fit = fit_temperature([2.0, 1.0, -1.0, -3.0], [1, 1, 0, 0])
    assert (fit.value, fit.at_bound, fit.flag) == (0.05, True, "separable")


def test_an_inverted_dev_set_is_flagged_and_stays_at_the_bound():
    fit = fit_temperature([2.0, 1.0, -1.0, -3.0], [0, 0, 1, 1])
    assert (fit.value, fit.at_bound, fit.flag) == (20, True, "inverted")


def test_small_margins_reach_the_bound_without_being_separable():
    margin = np.array([0.01, 0.01, 0.01, -0.01, -0.01, -0.01])
    fit = fit_temperature(margin, [1, 1, 0, 0, 0, 1])
    assert fit.at_bound
    assert fit.flag is None


@pytest.mark.parametrize(
    ("margin", "labels", "kwargs", "message"),
    [
        ([1.0, math.inf], [1, 0], {}, "row 1 is inf"),
        ([1.0, 2.0], [1, 1], {}, "both classes"),
        ([1.0, 2.0], [1, 0], {"bounds": (0, 2)}, "give 0 < low < high"),
    ],
)
def test_what_cannot_be_fitted_is_refused(margin, labels, kwargs, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(margin, labels, **kwargs)


def rates(p, truth, threshold):
    said = p >= threshold
    return said[truth].mean(), (~said[~truth]).mean()


@settings(max_examples=50, deadline=None)
@given(SCORED, st.sampled_from([None, 0.0, 0.1, 0.29, 0.5, 1.0]))
def test_no_other_threshold_does_better(clips, max_fpr):
    p, truth = np.array([c[0] for c in clips]) / 20, np.array([c[1] for c in clips])
    assume(0 < truth.sum() < len(truth))
    best = choose_threshold(p, truth, max_fpr=max_fpr)
    assert (best.sensitivity, best.specificity) == pytest.approx(rates(p, truth, best.value))
    others = [rates(p, truth, threshold) for threshold in np.linspace(-0.01, 1.01, 103)]
    if max_fpr is None:
        assert best.sensitivity + best.specificity >= max(map(sum, others)) - 1e-12
    else:
        assert 1 - best.specificity <= max_fpr + 1e-12
        assert best.sensitivity >= max(hit for hit, reject in others if 1 - reject <= max_fpr)


def test_no_false_positive_allowed_may_mean_a_threshold_above_all_scores():
    best = choose_threshold([0.2, 0.9], [1, 0], max_fpr=0)
    assert best.value > 0.9
    assert (best.sensitivity, best.specificity) == (0, 1)


def test_separable_and_inverted_scores_are_flagged():
    assert choose_threshold([0.9, 0.8, 0.2], [1, 1, 0]).flag == "separable"
    assert choose_threshold([0.2, 0.3, 0.9, 0.8], [1, 1, 0, 1]).flag == "inverted"
    assert choose_threshold([0.2, 0.8, 0.3, 0.1], [1, 1, 0, 0]).flag is None


@pytest.mark.parametrize(
    ("labels", "max_fpr", "message"), [([1, 1], None, "both classes"), ([1, 0], 1.5, "a rate lies in")]
)
def test_a_threshold_needs_both_classes_and_a_rate(labels, max_fpr, message):
    with pytest.raises(ValueError, match=message):
        choose_threshold([0.1, 0.9], labels, max_fpr=max_fpr)
