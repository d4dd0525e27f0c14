"""The combined `evaluate` metrics are the functional ones to the last digits, and those that a report states."""

import sys
import threading
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from tasks.functional import metrics
from tasks.functional.calibration import calibration_error
from tasks.functional.report import build_report
from tasks.functional.report_metrics import Rule, metrics_of
from tasks.point_metrics import DecisionMetric, ScoreMetric, _WithoutTransformers, evaluate, point_metrics
from tests.test_metrics import POINT, N, S, answers

CLASSES = (S, N)


@pytest.mark.parametrize("seed", range(3))
def test_the_combination_gives_the_functional_values(seed):
    table = answers(seed)
    assert table.prediction.isna().any()
    found = point_metrics(table, CLASSES)
    speech, said = table.label == S, table.prediction
    observer = metrics.dprime(
        ((said == S) & speech).sum(), speech.sum(), ((said != N) & ~speech).sum(), (~speech).sum()
    )
    expected = {name: point(table) for name, point in POINT.items()} | {
        "d_prime": observer.dprime,
        "criterion": observer.criterion,
        "ece": calibration_error(table.p_speech, table.label),
        "mce": calibration_error(table.p_speech, table.label, norm="max"),
    }
    sure, right = np.maximum(table.p_speech, 1 - table.p_speech), (table.p_speech >= 0.5) == speech
    expected |= {
        "confidence_mean": sure.mean(), "confidence_right": sure[right].mean(), "confidence_wrong": sure[~right].mean(),
        "confidence_gap": sure[right].mean() - sure[~right].mean(),
    }  # fmt: skip
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-12, rel=0)


def test_they_are_evaluates_metrics_and_its_combination():
    kinds = (DecisionMetric("accuracy", metrics.accuracy), ScoreMetric("brier", metrics.brier))
    assert all(isinstance(metric, evaluate.Metric) for metric in kinds)
    combined = evaluate.combine(list(kinds))
    combined.add_batch(predictions=[1.0, np.nan], references=[1, 1], p_speech=[1.0, 0.5])
    combined.add_batch(predictions=[1.0], references=[0], p_speech=[0.0])
    assert combined.compute() == {"accuracy": pytest.approx(1 / 3), "brier": pytest.approx(0.25 / 3)}


def test_classes_of_a_recipe_name_their_own_metrics():
    table = answers(0).replace({S: "VOICE", N: "OTHER"})
    found = point_metrics(table, ("VOICE", "OTHER"))
    assert found["recall_voice"] == pytest.approx(POINT["recall_speech"](answers(0)), abs=1e-12)
    assert found["f1_other"] == pytest.approx(POINT["f1_nonspeech"](answers(0)), abs=1e-12)


def test_a_table_of_decisions_has_no_metric_of_scores():
    decisions = answers(0).drop(columns="p_speech")
    assert not {"roc_auc", "brier", "ece"} & point_metrics(decisions, CLASSES).keys()
    some = answers(0).assign(p_speech=lambda t: t.p_speech.where(t.index > 0))
    assert point_metrics(some, CLASSES).keys() == point_metrics(decisions, CLASSES).keys()
    assert point_metrics(some, CLASSES, ["accuracy"]) == {"accuracy": POINT["accuracy"](some)}


@pytest.mark.parametrize(
    ("rows", "names", "message"),
    [
        (answers(0), ["accuracy", "acc"], "no metric is called 'acc'"),
        (answers(0).assign(prediction=N), None, "no clip was answered SPEECH"),
        (answers(0).assign(label="MUSIC"), None, "name the positive"),
        (answers(0).assign(p_speech=1.2), ["brier"], "row 0 is 1.2"),
        (answers(0).iloc[:0], None, "at least one clip"),
    ],
)
def test_a_metric_without_a_value_is_refused(rows, names, message):
    with pytest.raises(ValueError, match=message):
        point_metrics(rows, CLASSES, names)


def test_transformers_is_hidden_from_the_thread_that_asked_and_from_no_other():
    hidden, elsewhere = _WithoutTransformers(), []
    with pytest.raises(ModuleNotFoundError, match="need no transformers"):
        hidden.find_spec("transformers")
    assert hidden.find_spec("transformers.models") is None
    thread = threading.Thread(target=lambda: elsewhere.append(hidden.find_spec("transformers")))
    thread.start()
    thread.join()
    assert elsewhere == [None]
    assert not any(isinstance(finder, _WithoutTransformers) for finder in sys.meta_path)


def of_folds() -> pd.DataFrame:
    """Answers of seven groups a class in two folds, whose scores have scales of their own."""
    table = answers(1, n=120)
    group = [f"{label}{i % 7}" for i, label in enumerate(table.label)]
    fold = np.arange(120) // 3 % 2
    return table.assign(
        clip_id=[f"c{i}" for i in range(120)], group_id=group, fold=fold, p_speech=table.p_speech / (1 + fold)
    )


def test_the_sums_over_groups_have_the_same_values_under_the_same_names():
    stated = metrics_of(of_folds(), Rule(CLASSES, n_boot=50, seed=0))
    found = point_metrics(of_folds(), CLASSES)
    assert found.keys() == stated.keys()
    for name, value in found.items():
        assert stated[name].value == pytest.approx(value, abs=1e-12), name


def test_a_report_states_the_values_that_the_combination_computes():
    """A combination that counts half of everything shows in the report, but not in what has no value."""
    rows = of_folds().drop(columns="p_speech").assign(detector="a", split="test")
    asked = []

    def halves(rows: pd.DataFrame, classes: Sequence[str], names: Sequence[str]) -> dict[str, float]:
        asked.extend(names)
        return {name: value / 2 for name, value in point_metrics(rows, classes, names).items()}

    how = {"classes": CLASSES, "detector": "a", "seed": None, "n_boot": 50, "factors": []}
    plain, halved = (build_report(rows, point_metrics=by, **how) for by in (point_metrics, halves))
    expected = point_metrics(rows, CLASSES)
    assert {name: metric.value for name, metric in plain.metrics.items() if name in expected} == expected
    assert halved.metrics["f1_speech"].value == expected["f1_speech"] / 2
    assert halved.metrics["roc_auc"] == plain.metrics["roc_auc"]
    assert "roc_auc" not in asked
    assert halved.metrics["accuracy"].ci95 == plain.metrics["accuracy"].ci95
