"""How well scores rank clips, within what one model scored: two models' scores have no common scale."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.functional.metrics import FloatArray, IntArray, average_precision, finite_scores, is_positive, roc_auc


def models(table: pd.DataFrame) -> IntArray:
    """Which model scored each row, numbered from 0: one a fold and seed where the table names them."""
    named = [name for name in ("fold", "seed") if name in table]
    if not named:
        return np.zeros(len(table), dtype=int)
    return np.asarray(table.groupby(named, dropna=False, sort=False).ngroup(), dtype=np.int64)


def roc_auc_within(
    p_speech: npt.ArrayLike, label: npt.ArrayLike, model: npt.ArrayLike, *, positive: str = "SPEECH"
) -> float:
    """ROC AUC over the pairs of clips (n,) that one model scored: the mean of the models' AUCs, weighed by their pairs.

    Raises ValueError where no model scored clips of both classes, and for a score that is not finite.
    """
    return _within(roc_auc, lambda truth: float(truth.sum() * (1 - truth).sum()), p_speech, label, model, positive)


def average_precision_within(
    p_speech: npt.ArrayLike, label: npt.ArrayLike, model: npt.ArrayLike, *, positive: str = "SPEECH"
) -> float:
    """The mean of the models' average precisions, weighed by their positive clips. Raises as `roc_auc_within` does."""
    return _within(average_precision, lambda truth: float(truth.sum()), p_speech, label, model, positive)


def _within(
    metric: Callable[[FloatArray, IntArray], float],
    weigh: Callable[[IntArray], float],
    p_speech: npt.ArrayLike,
    label: npt.ArrayLike,
    model: npt.ArrayLike,
    positive: str,
) -> float:
    truth = is_positive(label, positive=positive).astype(int)
    score, of_model = finite_scores(p_speech, len(truth)), np.asarray(model)
    ranked = list(_of_both_classes(score, truth, of_model))
    if not ranked:
        raise ValueError(f"none of {len(np.unique(of_model))} models scored clips of both classes: nothing to rank")
    return float(np.average([metric(*own) for own in ranked], weights=[weigh(own[1]) for own in ranked]))


def _of_both_classes(score: FloatArray, truth: IntArray, model: npt.NDArray) -> Iterator[tuple[FloatArray, IntArray]]:
    """Scores and truth (1, 0) of each model that scored both classes."""
    for name in np.unique(model):
        mine = model == name
        if 0 < truth[mine].sum() < mine.sum():
            yield score[mine], truth[mine]
