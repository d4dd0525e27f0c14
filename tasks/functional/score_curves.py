"""ROC and precision-recall curves, thinned to what a figure can show, and where a detector stands on them."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from tasks.functional.metrics import BoolArray, FloatArray, answered, is_positive
from tasks.functional.ranking import models
from tasks.functional.report_schema import Operating, ScoreCurves

MOST_POINTS = 100


def score_curves(rows: pd.DataFrame, classes: Sequence[str]) -> ScoreCurves | None:
    """Both curves of one detector's test rows; None where a clip has no p_speech, or no model scored both classes.

    rows: label, p_speech and the final prediction (null is wrong), fold and seed. The first class is the positive one.
    Equal scores fall together (Fawcett 2006); precision at recall 0 is set to 1. Of several models, one a fold and
    seed, the curves are the means whose areas are the AUC and the average precision of the report: recall at a rate of
    false alarms weighed by a model's pairs of clips, precision at a recall by its positive clips.
    """
    if rows["p_speech"].isna().any():
        return None
    score, truth = rows["p_speech"].to_numpy(dtype=float), is_positive(rows["label"], positive=classes[0])
    of_model, model = [], models(rows)
    for name in np.unique(model):
        mine = model == name
        if truth[mine].any() and not truth[mine].all():
            of_model.append(
                (*_curves(score[mine], truth[mine]), float(truth[mine].sum()), float((~truth[mine]).sum()))
            )
    if not of_model:
        return None
    rocs, prs, positives, negatives = (list(part) for part in zip(*of_model, strict=True))
    pairs = [n * m for n, m in zip(positives, negatives, strict=True)]
    return ScoreCurves(
        models=len(of_model),
        roc=_points(_thinned(rocs[0]) if len(rocs) == 1 else _mean(rocs, _recall_at, pairs)),
        precision_recall=_points(_thinned(prs[0]) if len(prs) == 1 else _mean(prs, _precision_at, positives)),
        at=_operating(rows, classes),
    )


def _curves(score: FloatArray, truth: BoolArray) -> tuple[FloatArray, FloatArray]:
    """(false-alarm rate, recall) and (recall, precision) at every threshold, (n, 2) each."""
    order = np.argsort(-score, kind="stable")
    last_of_equals = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    hits, alarms = (np.cumsum(each[order])[last_of_equals].astype(float) for each in (truth, ~truth))
    recall = np.append(0.0, hits / hits[-1])
    precision = np.append(1.0, hits / (hits + alarms))
    return np.column_stack([np.append(0.0, alarms / alarms[-1]), recall]), np.column_stack([recall, precision])


def _recall_at(roc: FloatArray, false_alarm_rate: FloatArray) -> FloatArray:
    """Recall on the ROC's lines; where it rises straight up, its upper end."""
    return np.interp(false_alarm_rate, roc[:, 0], roc[:, 1])


def _precision_at(curve: FloatArray, recall: FloatArray) -> FloatArray:
    """Precision where that much recall is first reached: the steps of average precision."""
    return curve[np.searchsorted(curve[:, 0], recall - 1e-12), 1]


def _mean(
    curves: Sequence[FloatArray], at: Callable[[FloatArray, FloatArray], FloatArray], weights: Sequence[float]
) -> FloatArray:
    even = np.linspace(0, 1, MOST_POINTS)
    return np.column_stack([even, np.average([at(curve, even) for curve in curves], axis=0, weights=weights)])


def _thinned(curve: FloatArray) -> FloatArray:
    """At most 100 of the points (n, 2), evenly along the curve, both ends among them."""
    if len(curve) <= MOST_POINTS:
        return curve
    way = np.append(0.0, np.cumsum(np.abs(np.diff(curve, axis=0)).sum(axis=1)))
    even = np.searchsorted(way, np.linspace(0, way[-1], MOST_POINTS) - 1e-12)
    return curve[np.unique(np.clip(even, 0, len(curve) - 1))]


def _points(curve: FloatArray) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in curve]


def _operating(rows: pd.DataFrame, classes: Sequence[str]) -> Operating:
    clips = answered(rows["prediction"], rows["label"], positive=classes[0])
    said, truth = clips.said == 1, clips.truth
    return Operating(
        false_alarm_rate=float(said[~truth].mean()),
        recall=float(said[truth].mean()),
        precision=float(truth[said].mean()) if said.any() else None,
    )
