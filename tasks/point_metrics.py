"""The point metrics of a report as `evaluate` metrics, which need no network, and all of them combined."""

import importlib
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tasks.functional import metrics
from tasks.functional.calibration import Confidences, calibration_error, confidences
from tasks.functional.metrics import FloatArray, IntArray
from tasks.functional.ranking import average_precision_within, models, roc_auc_within

Measure = Callable[..., float]  # of what the metric reads, in that order, and of the truth (1, 0), a value a clip each


class _WithoutTransformers(MetaPathFinder):
    """Hides transformers from the thread that made this."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Let the next finder look, but for transformers."""
        if name == "transformers" and threading.get_ident() == self.thread:
            raise ModuleNotFoundError("metrics need no transformers", name=name)


def import_evaluate() -> ModuleType:
    """`evaluate` without transformers and torch: only its evaluators use them, and it imports them where it can.

    In a process that has imported neither before, evaluators of `evaluate` then say that transformers is missing.
    """
    hidden = _WithoutTransformers()
    sys.meta_path.insert(0, hidden)
    try:
        return importlib.import_module("evaluate")
    finally:
        sys.meta_path.remove(hidden)


if TYPE_CHECKING:
    import evaluate
else:
    evaluate = import_evaluate()


# --- metrics -----------------------------------------------------------------------------------------------------


class ClipMetric(evaluate.Metric):
    """One value over clips, kept in memory. references: 1 for the positive class, 0 for the other."""

    reads: tuple[str, ...] = ()
    writer: Any

    def __init__(self, name: str, measure: Measure, **settings: Any) -> None:
        self.metric, self.measure = name, measure
        super().__init__(keep_in_memory=True, **settings)

    def _info(self) -> Any:
        from datasets import Features, Value

        class Columns(Features):
            """Features that take arrays as they are: encoding value by value costs a second a detector."""

            def encode_batch(self, batch: Any) -> Any:
                return batch

        features = Columns({**dict.fromkeys(self.reads, Value("float64")), "references": Value("int64")})
        return evaluate.MetricInfo(description=self.metric, citation="", inputs_description="", features=features)

    def _finalize(self) -> None:
        """As evaluate's own, but that the rows get no fingerprint: to hash them takes half of a metric's time."""
        from datasets import Dataset
        from datasets.table import InMemoryTable

        self.writer.finalize()
        self.writer = None
        self.data = Dataset(InMemoryTable.from_buffer(self.buf_writer.getvalue()), fingerprint=self.metric)

    def _compute(self, *, references: Any, **inputs: Any) -> dict[str, float]:
        """The value under the metric's name; what other metrics of a combination read is left alone."""
        read = (np.asarray(inputs[name], dtype=float) for name in self.reads)
        return {self.metric: self.measure(*read, np.asarray(references))}


class DecisionMetric(ClipMetric):
    """predictions: 1, 0, and NaN for no usable answer, which is wrong."""

    reads = ("predictions",)


class ScoreMetric(ClipMetric):
    """p_speech: a probability of the positive class."""

    reads = ("p_speech",)


class RankMetric(ClipMetric):
    """p_speech: any score; models: the number of the model that gave it, within whose clips it ranks."""

    reads = ("p_speech", "models")


def _of_other(measure: Measure) -> Measure:
    """The measure with the classes' parts exchanged."""
    return lambda given, truth: measure(1 - given, 1 - truth)


def _observer(given: FloatArray, truth: IntArray) -> metrics.DPrime:
    """d' and criterion; what is not rejected is a false alarm, also a clip without a usable answer."""
    speech, right = truth == 1, given == truth
    return metrics.dprime(
        float((right & speech).sum()), float(speech.sum()), float((~right & ~speech).sum()), float((~speech).sum())
    )


def measures_of(classes: Sequence[str]) -> dict[str, tuple[type[ClipMetric], Measure]]:
    """Every metric by its key in report.json; the first class is the positive one."""
    of_classes = {"recall": metrics.recall, "precision": metrics.precision, "f1": metrics.f1}
    first, second = (name.lower() for name in classes)
    decisions: dict[str, Measure] = {"accuracy": metrics.accuracy, "balanced_accuracy": metrics.balanced_accuracy}
    for name, measure in of_classes.items():
        decisions |= {f"{name}_{first}": measure, f"{name}_{second}": _of_other(measure)}
    decisions |= {"d_prime": lambda g, t: _observer(g, t).dprime, "criterion": lambda g, t: _observer(g, t).criterion}
    kinds: tuple[tuple[type[ClipMetric], dict[str, Measure]], ...] = (
        (DecisionMetric, decisions),
        (RankMetric, {
            "roc_auc": lambda p, model, truth: roc_auc_within(p, truth, model),
            "average_precision": lambda p, model, truth: average_precision_within(p, truth, model),
        }),
        (ScoreMetric, {
            "brier": metrics.brier, "log_loss": metrics.log_loss, "ece": calibration_error,
            "mce": lambda p, truth: calibration_error(p, truth, norm="max"),
            **{
                f"confidence_{part}": lambda p, truth, part=part: getattr(confidences(p, truth), part)
                for part in Confidences._fields
            },
        }),
    )  # fmt: skip
    return {name: (kind, measure) for kind, of_kind in kinds for name, measure in of_kind.items()}


# --- combined ----------------------------------------------------------------------------------------------------


def point_metrics(rows: pd.DataFrame, classes: Sequence[str], names: Sequence[str] | None = None) -> dict[str, float]:
    """Point metrics of test rows by `evaluate.combine`, as report.json names them; the first class is positive.

    rows: label and prediction (null is wrong), and p_speech; fold and seed if known. names: which ones; by default all
    those of decisions, and those of scores where every row has p_speech.
    Raises ValueError for an unknown name, and where a metric has no value on these rows.
    """
    known = measures_of(classes)
    scored = "p_speech" in rows and rows["p_speech"].notna().all()
    wanted = (
        [name for name, (kind, _) in known.items() if scored or kind is DecisionMetric] if names is None else names
    )
    if unknown := sorted(set(wanted) - set(known)):
        raise ValueError(f"no metric is called {unknown[0]!r}; there are {sorted(known)}")
    clips = metrics.answered(rows["prediction"], rows["label"], positive=classes[0])
    inputs = {"references": clips.truth.astype(int), "predictions": clips.said, "models": models(rows).astype(float)}
    if "p_speech" in rows:
        inputs["p_speech"] = rows["p_speech"].to_numpy(dtype=float)
    chosen = {name: known[name] for name in wanted}
    with tempfile.TemporaryDirectory() as folder:  # where each makes itself a folder, though it keeps nothing there
        combined = evaluate.combine(
            [kind(name, measure, cache_dir=folder) for name, (kind, measure) in chosen.items()]
        )
        return {name: float(value) for name, value in combined.compute(**inputs).items()}
