"""Weights against rows repeated, and what a function of the rows may do to them."""

import numpy as np
import pandas as pd
import pytest

from tasks.functional import metrics
from tasks.functional.calibration import calibration_error
from tasks.functional.weighted_metrics import weighted_statistic
from tests.test_metrics import POINT, N, S, answers

BINNED = {
    "ece": lambda t: calibration_error(t.p_speech, t.label),
    "mce": lambda t: calibration_error(t.p_speech, t.label, norm="max"),
}


@pytest.mark.parametrize("name", [*POINT, *BINNED])
@pytest.mark.parametrize("seed", range(3))
def test_weights_do_what_repeating_the_rows_does(name, seed):
    table, rng, point = answers(seed), np.random.default_rng(seed), (POINT | BINNED)[name]
    unit = rng.permutation(np.arange(len(table)) % 8)
    weights = np.vstack([np.ones(8), rng.integers(0, 4, (3, 8)) + (np.arange(8) < 2)]).astype(float)
    repeated = [table.iloc[np.repeat(np.arange(len(table)), drawn[unit].astype(int))] for drawn in weights]
    by_weights = weighted_statistic(table, name, unit)(weights)
    assert by_weights == pytest.approx([point(rows) for rows in repeated])
    by_rows = weighted_statistic(table, point, unit)(weights)
    assert by_rows == pytest.approx(by_weights)


def test_weighted_dprime_takes_wrong_answers_on_nonspeech_as_false_alarms():
    table = pd.DataFrame({"label": [S] * 4 + [N] * 4, "prediction": [S, S, S, None, N, N, N, None]})
    evaluate = {
        name: weighted_statistic(table, name, np.zeros(8, int))(np.ones((1, 1))) for name in ("d_prime", "criterion")
    }
    expected = metrics.dprime(3, 4, 1, 4)
    assert (evaluate["d_prime"][0], evaluate["criterion"][0]) == pytest.approx(expected)


def test_classes_of_a_recipe_name_their_own_recalls():
    table = pd.DataFrame({"label": ["VOICE", "VOICE", "OTHER"], "prediction": ["VOICE", "OTHER", "OTHER"]})
    unit = np.zeros(3, int)
    recall = {
        name: weighted_statistic(table, f"recall_{name}", unit, positive="VOICE")(np.ones((1, 1)))[0]
        for name in ("voice", "other")
    }
    assert recall == {"voice": 0.5, "other": 1}
    with pytest.raises(ValueError, match=r"no class is called 'speech'.*VOICE"):
        weighted_statistic(table, "recall_speech", unit, positive="VOICE")
    with pytest.raises(ValueError, match="name the positive"):
        metrics.balanced_accuracy(table.prediction, table.label)


def test_an_unknown_statistic_or_a_missing_column_is_named():
    table = answers(0)
    with pytest.raises(ValueError, match="unknown statistic 'acc'"):
        weighted_statistic(table, "acc", np.arange(len(table)))
    with pytest.raises(ValueError, match="roc_auc needs the column p_speech"):
        weighted_statistic(table.drop(columns="p_speech"), "roc_auc", np.arange(len(table)))


def in_groups(seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    table = answers(seed).assign(
        clip_id=lambda t: [f"clip{i}" for i in t.index], family=lambda t: ["ab"[i % 2] for i in t.index]
    )
    weights = np.random.default_rng(seed).integers(0, 3, (20, 6)).astype(float)
    return table, np.arange(len(table)) % 6, weights


@pytest.mark.parametrize(
    "statistic",
    [
        lambda t: (t.prediction == t.label).groupby(t.label).mean().mean(),
        lambda t: ((t.label == S) == (t.prediction == S)).mean(),
        lambda t: t.prediction.isna().mean(),
        lambda t: float(t.clip_id.nunique() + t.family.value_counts().min()),
        lambda t: float((t.label + t.family == "SPEECHa").mean()),  # not to be done with categories
        lambda t: float((t.clip_id > t.family).mean()),  # nor this
    ],
)
@pytest.mark.parametrize("kind", ["str", object])
def test_a_function_gives_what_it_gives_for_the_rows_as_they_are(statistic, kind):
    table, unit, weights = in_groups()
    table = table.astype(dict.fromkeys(("label", "prediction", "clip_id", "family"), kind))
    repeated = [table.iloc[np.repeat(np.arange(len(table)), drawn[unit].astype(int))] for drawn in weights]
    assert list(weighted_statistic(table, statistic, unit)(weights)) == [statistic(rows) for rows in repeated]


def test_a_function_that_counts_empty_categories_gets_text():
    table, unit, weights = in_groups()
    table = table.assign(group=[f"g{u}" for u in unit])
    assert (weights[0] == 0).any()

    def smallest_group(rows):
        return float(rows.group.value_counts().min())

    assert weighted_statistic(table, smallest_group, unit)(weights).min() > 0
    as_categories = table.astype({"group": "category"}).iloc[
        np.repeat(np.arange(len(table)), weights[0][unit].astype(int))
    ]
    assert smallest_group(as_categories) == 0


def test_a_function_that_fails_fails_with_its_own_error():
    table, unit, weights = in_groups()
    with pytest.raises(ZeroDivisionError):
        weighted_statistic(table, lambda rows: 1 / 0, unit)(weights)
    with pytest.raises(AttributeError, match="nothing"):
        weighted_statistic(table, lambda rows: rows.nothing, unit)(weights)
