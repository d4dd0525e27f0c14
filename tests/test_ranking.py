"""Scores rank within what one model scored: by hand, against pooled scores, and the same in resamples."""

import numpy as np
import pandas as pd
import pytest

from tasks.functional import metrics
from tasks.functional.ranking import average_precision_within, models, roc_auc_within
from tasks.functional.weighted_metrics import weighted_statistic

WITHIN = {"roc_auc": roc_auc_within, "average_precision": average_precision_within}


def of_folds(seed: int, n: int = 200) -> pd.DataFrame:
    """Clips of three folds whose scores lie on scales of their own, with ties."""
    rng = np.random.default_rng(seed)
    fold = rng.integers(3, size=n)
    label = rng.choice(["SPEECH", "NONSPEECH"], n, p=[0.4, 0.6])
    score = (rng.integers(8, size=n) + 2 * (label == "SPEECH")) / 100 + fold / 3
    return pd.DataFrame({"label": label, "p_speech": score, "fold": fold, "seed": 42})


@pytest.mark.parametrize("statistic", WITHIN)
def test_clips_are_ranked_against_those_that_the_same_model_scored(statistic):
    """Three folds that each separate perfectly, each on a scale of its own: pooled, they would look like a poor model."""
    table = pd.DataFrame({"label": ["NONSPEECH", "SPEECH"] * 3, "p_speech": [0.1, 0.2, 0.5, 0.6, 0.8, 0.9]})
    assert getattr(metrics, statistic)(table["p_speech"], table["label"]) < 0.9
    for folds, expected in (
        ([0, 0, 1, 1, 2, 2], 1),
        ([0] * 6, getattr(metrics, statistic)(table.p_speech, table.label)),
    ):
        one = table.assign(fold=folds)
        assert WITHIN[statistic](one["p_speech"], one["label"], models(one)) == pytest.approx(expected)
        assert weighted_statistic(one, statistic, np.arange(6))(np.ones((1, 6)))[0] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_counted_one_by_one(seed):
    table = of_folds(seed, n=60)
    won = pairs = 0.0
    for _, own in table.groupby("fold"):
        for high in own.loc[own.label == "SPEECH", "p_speech"]:
            for low in own.loc[own.label == "NONSPEECH", "p_speech"]:
                won, pairs = won + (high > low) + (high == low) / 2, pairs + 1
    assert roc_auc_within(table.p_speech, table.label, models(table)) == pytest.approx(won / pairs)


@pytest.mark.parametrize("statistic", WITHIN)
@pytest.mark.parametrize("seed", range(3))
def test_a_resample_is_the_metric_of_its_rows(statistic, seed):
    table = of_folds(seed)
    unit, times = np.arange(len(table)) % 20, np.random.default_rng(seed).integers(0, 4, 20)
    drawn = table.loc[np.repeat(table.index, times[unit])]
    found = weighted_statistic(table, statistic, unit)(times[None].astype(float))[0]
    assert found == pytest.approx(WITHIN[statistic](drawn["p_speech"], drawn["label"], models(drawn)), abs=1e-12)


@pytest.mark.parametrize("statistic", WITHIN)
def test_a_model_that_scored_one_class_has_no_say(statistic):
    """Its clips of one class are in perfect order whatever the model is worth."""
    table = pd.DataFrame({"label": ["NONSPEECH", "SPEECH"] + ["SPEECH"] * 8, "fold": [0, 0] + [1] * 8})
    table["p_speech"] = [0.9, 0.1, *np.linspace(0.2, 0.8, 8)]
    expected = getattr(metrics, statistic)(table["p_speech"][:2], table["label"][:2])
    assert WITHIN[statistic](table["p_speech"], table["label"], models(table)) == expected
    assert weighted_statistic(table, statistic, np.arange(10))(np.ones((1, 10)))[0] == expected
    with pytest.raises(ValueError, match="none of 1 models scored clips of both classes"):
        WITHIN[statistic](table["p_speech"][2:], table["label"][2:], table["fold"][2:])


def test_a_model_is_a_fold_and_a_seed():
    table = pd.DataFrame({"fold": [0, 0, 1, 1], "seed": [1, 2, 1, 1]})
    assert models(table).tolist() == [0, 1, 2, 2]
    assert models(table[["fold"]]).tolist() == [0, 0, 1, 1]
    assert models(table.assign(seed=None)).tolist() == [0, 0, 1, 1]
    assert models(table[[]]).tolist() == [0] * 4
