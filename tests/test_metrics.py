"""Metrics against scikit-learn, brute force and arithmetic by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from tasks.functional import metrics

S, N = "SPEECH", "NONSPEECH"
POINT = {
    "accuracy": lambda t: metrics.accuracy(t.prediction, t.label),
    "balanced_accuracy": lambda t: metrics.balanced_accuracy(t.prediction, t.label),
    "recall_speech": lambda t: metrics.recall(t.prediction, t.label),
    "recall_nonspeech": lambda t: metrics.recall(t.prediction, t.label, positive=N),
    "precision_speech": lambda t: metrics.precision(t.prediction, t.label),
    "precision_nonspeech": lambda t: metrics.precision(t.prediction, t.label, positive=N),
    "f1_speech": lambda t: metrics.f1(t.prediction, t.label),
    "f1_nonspeech": lambda t: metrics.f1(t.prediction, t.label, positive=N),
    "roc_auc": lambda t: metrics.roc_auc(t.p_speech, t.label),
    "average_precision": lambda t: metrics.average_precision(t.p_speech, t.label),
    "brier": lambda t: metrics.brier(t.p_speech, t.label),
    "log_loss": lambda t: metrics.log_loss(t.p_speech, t.label),
}


def answers(seed: int, n: int = 60) -> pd.DataFrame:
    """Clips of both classes with every kind of answer, null ones among them, and tied probabilities."""
    rng = np.random.default_rng(seed)
    label = np.where(np.arange(n) % 3 == 0, S, N)
    prediction = rng.choice(np.array([S, N, None], dtype=object), n, p=[0.45, 0.45, 0.1])
    prediction[:4] = [S, N, S, N]
    return pd.DataFrame({"label": label, "prediction": prediction, "p_speech": rng.integers(0, 11, n) / 10})


@pytest.mark.parametrize("null", [None, np.nan, pd.NA])
def test_no_answer_is_a_wrong_answer(null):
    label, prediction = [S, S, N, N], [S, null, N, null]
    assert metrics.accuracy(prediction, label) == 0.5
    assert metrics.balanced_accuracy(prediction, label) == 0.5
    assert metrics.recall(prediction, label) == 0.5
    assert metrics.precision(prediction, label) == 1


def test_leaving_unanswered_clips_out_would_flatter():
    label, prediction = np.array([S, S, S, N]), np.array([S, None, None, N], dtype=object)
    answered = prediction != None  # noqa: E711
    assert metrics.balanced_accuracy(prediction[answered], label[answered]) == 1
    assert metrics.balanced_accuracy(prediction, label) == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", [int, float, bool])
def test_names_and_numbers_are_the_same_answers(kind):
    table = answers(0).dropna()
    as_numbers = table.assign(label=(table.label == S).astype(kind), prediction=(table.prediction == S).astype(kind))
    for name in (
        "accuracy",
        "balanced_accuracy",
        "recall_speech",
        "precision_speech",
        "f1_speech",
        "roc_auc",
        "brier",
    ):
        assert POINT[name](as_numbers) == POINT[name](table)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 1)), min_size=1, max_size=40))
def test_metrics_equal_those_of_scikit_learn(clips):
    truth, said, p = (
        np.array(column) for column in zip(*[*clips, (True, True, 0.9), (False, False, 0.9)], strict=True)
    )
    label, prediction = np.where(truth, S, N), np.where(said, S, N)
    assert metrics.balanced_accuracy(prediction, label) == pytest.approx(sk.balanced_accuracy_score(truth, said))
    for name in (S, N):
        kwargs = {"pos_label": name}
        assert metrics.precision(prediction, label, positive=name) == pytest.approx(
            sk.precision_score(label, prediction, **kwargs)
        )
        assert metrics.f1(prediction, label, positive=name) == pytest.approx(sk.f1_score(label, prediction, **kwargs))
    assert metrics.brier(p, label) == pytest.approx(sk.brier_score_loss(truth, p))
    assert metrics.log_loss(p, label) == pytest.approx(sk.log_loss(truth, p))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_auc_is_the_share_of_pairs_in_order_and_ties_are_half(speech, nonspeech):
    pairs = [(s > n) + (s == n) / 2 for s in speech for n in nonspeech]
    label = [S] * len(speech) + [N] * len(nonspeech)
    assert metrics.roc_auc([*speech, *nonspeech], label) == pytest.approx(np.mean(pairs))


def test_one_sure_mistake_leaves_the_log_loss_finite():
    assert metrics.log_loss([0.0, 1.0], [S, S]) == pytest.approx(-math.log(np.finfo(float).eps) / 2)
    assert metrics.log_loss([0.5] * 3, [S, N, N]) == pytest.approx(math.log(2))


def test_dprime_by_the_textbook():
    plain = metrics.dprime(84.134, 100, 15.866, 100, correction=None)  # z = 1 and -1
    assert plain == pytest.approx((2, 0), abs=1e-4)
    corrected = metrics.dprime(10, 10, 0, 10)  # (10.5 / 11, 0.5 / 11), Hautus 1995
    assert corrected == pytest.approx((3.3812, 0), abs=1e-4)
    assert metrics.dprime(9, 10, 5, 10, correction=None).criterion < 0  # says SPEECH too readily


def test_without_correction_a_perfect_observer_is_infinitely_sensitive():
    assert metrics.dprime(10, 10, 0, 10, correction=None).dprime == math.inf
    assert math.isnan(metrics.dprime(10, 10, 0, 10, correction=None).criterion)


@pytest.mark.parametrize("counts", [(1, 0, 0, 1), (3, 2, 0, 1), (-1, 2, 0, 1), (math.nan, 2, 0, 1)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="give 0 <= hits <= n"):
        metrics.dprime(*counts)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.accuracy([], []), "at least one clip"),
        (lambda: metrics.accuracy([S, N], [S]), "2 predictions for 1 labels"),
        (lambda: metrics.accuracy([S], [None]), "label of row 0 is null"),
        (lambda: metrics.accuracy(["MUSIC", S, N], [N, S, N]), "MUSIC"),
        (lambda: metrics.accuracy([2], [1]), "2 is neither a class name nor 1"),
        (lambda: metrics.balanced_accuracy([S], [S]), "both classes"),
        (lambda: metrics.recall([S], [N]), "no clip is SPEECH"),
        (lambda: metrics.precision([N], [S]), "no clip was answered SPEECH"),
        (lambda: metrics.f1([N], [N]), "F1 is undefined"),
        (lambda: metrics.roc_auc([0.1, 0.2], [S, S]), "both classes"),
        (lambda: metrics.roc_auc([0.1, None], [S, N]), "score of row 1 is nan"),
        (lambda: metrics.brier([0.1, 1.2], [S, N]), "row 1 is 1.2"),
        (lambda: metrics.log_loss([0.1], [S, N]), r"shape \(1,\) for 2 labels"),
    ],
)
def test_what_has_no_value_is_refused_in_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
