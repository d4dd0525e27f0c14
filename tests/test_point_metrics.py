"""The combined `evaluate` metrics are the functional ones to the last digits, offline, and without torch."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tasks.functional import metrics
from tasks.functional.calibration import calibration_error
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


def test_they_load_no_torch_ask_no_network_and_leave_no_file(tmp_path):
    program = """
import socket, sys
def refuse(*arguments, **keywords): raise OSError("a metric asked the network")
socket.socket.connect = socket.create_connection = refuse
import pandas as pd
from tasks.point_metrics import point_metrics
rows = pd.DataFrame({"label": ["SPEECH", "NONSPEECH"], "prediction": ["SPEECH", None], "p_speech": [0.9, 0.4]})
found = point_metrics(rows, ("SPEECH", "NONSPEECH"), ["balanced_accuracy", "roc_auc"])
assert found == {"balanced_accuracy": 0.5, "roc_auc": 1}, found
print(sorted({"torch", "transformers", "prefect"} & set(sys.modules)))
import transformers  # which is found again
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[]"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_report_has_the_same_values_under_the_same_names():
    from tasks.functional.report_metrics import Rule, metrics_of

    table = answers(1, n=120).assign(group_id=lambda t: [f"{label}{i % 7}" for i, label in enumerate(t.label)])
    stated = metrics_of(table, Rule(CLASSES, n_boot=50, seed=0))
    for name, value in point_metrics(table, CLASSES).items():
        assert stated[name].value == pytest.approx(value, abs=1e-12), name
