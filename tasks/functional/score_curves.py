"""ROC and precision-recall curves, thinned to what a figure can show, and where a detector stands on them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tasks.functional.metrics import FloatArray, answered, is_positive
from tasks.functional.report_schema import Operating, ScoreCurves

MOST_POINTS = 100


def score_curves(rows: pd.DataFrame, classes: Sequence[str]) -> ScoreCurves | None:
    """Both curves of one detector's test rows; None where a clip has no p_speech, or one class only is there.

    rows: label, p_speech and the final prediction (null is wrong). The first class is the positive one. Equal scores
    fall together (Fawcett 2006); precision at recall 0 is set to 1.
    """
    if rows["p_speech"].isna().any() or rows["label"].nunique() < 2:
        return None
    truth = is_positive(rows["label"], positive=classes[0])
    order = np.argsort(-rows["p_speech"].to_numpy(dtype=float), kind="stable")
    score, truth = rows["p_speech"].to_numpy(dtype=float)[order], truth[order]
    last_of_equals = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    hits = np.cumsum(truth)[last_of_equals].astype(float)
    alarms = np.cumsum(~truth)[last_of_equals].astype(float)
    recall, false_alarm_rate = hits / hits[-1], alarms / alarms[-1]
    roc = np.column_stack([np.append(0.0, false_alarm_rate), np.append(0.0, recall)])
    precision_recall = np.column_stack([np.append(0.0, recall), np.append(1.0, hits / (hits + alarms))])
    return ScoreCurves(roc=_thinned(roc), precision_recall=_thinned(precision_recall), at=_operating(rows, classes))


def _thinned(curve: FloatArray) -> list[tuple[float, float]]:
    """At most 100 of the points (n, 2), evenly along the curve, both ends among them; its corners where it has few."""
    way = np.append(0.0, np.cumsum(np.abs(np.diff(curve, axis=0)).sum(axis=1)))
    if len(curve) > MOST_POINTS:
        even = np.searchsorted(way, np.linspace(0, way[-1], MOST_POINTS) - 1e-12)
        curve = curve[np.unique(np.clip(even, 0, len(curve) - 1))]
    return [(float(x), float(y)) for x, y in curve]


def _operating(rows: pd.DataFrame, classes: Sequence[str]) -> Operating:
    clips = answered(rows["prediction"], rows["label"], positive=classes[0])
    said, truth = clips.said == 1, clips.truth
    return Operating(
        false_alarm_rate=float(said[~truth].mean()),
        recall=float(said[truth].mean()),
        precision=float(truth[said].mean()) if said.any() else None,
    )
