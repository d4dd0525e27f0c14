"""How well a detector does: point metrics over clips."""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

OF_SCORES = ("roc_auc", "average_precision", "brier", "log_loss")  # read p_speech, the others the prediction
Correction = Literal["loglinear"] | None


class DPrime(NamedTuple):
    """Sensitivity and bias of an equal-variance Gaussian observer, in sd; criterion < 0 favours SPEECH."""

    dprime: float
    criterion: float


class Answered(NamedTuple):
    """said: (n,) 1 for the positive class, 0 for the other, NaN for no answer; truth: (n,) whether it is positive."""

    said: FloatArray
    truth: BoolArray

    @property
    def right(self) -> BoolArray:
        """Which clips are right, (n,): no answer is wrong."""
        return self.said == self.truth


# --- labels and predictions --------------------------------------------------------------------------------------


def _number(value: object, positive: str) -> float:
    if isinstance(value, str):
        return float(value == positive)
    if isinstance(value, (bool, int, float, np.bool_, np.number)) and value in (0, 1):
        return float(value)
    raise ValueError(f"{value!r} is neither a class name nor 1 (for {positive}) or 0")


def _encode(values: npt.ArrayLike, positive: str) -> tuple[FloatArray, set[str]]:
    """1 for the positive class, 0 for the other, NaN for null; and the names that are not `positive`."""
    column = values if isinstance(values, pd.Series) else np.asarray(values, dtype=object)
    if column.ndim != 1 or not len(column):
        raise ValueError(
            f"a metric needs one value a clip and at least one clip, not an array of shape {column.shape}"
        )
    codes, distinct = pd.factorize(column)
    seen = list(distinct)
    numbers = np.array([*(_number(value, positive) for value in seen), np.nan])
    return numbers[codes], {value for value in seen if isinstance(value, str) and value != positive}


def _check_names(others: set[str], positive: str) -> None:
    if len(others) > 1:
        raise ValueError(f"classes {sorted(others)} beside positive={positive!r}: there are two, name the positive")


def _truth(codes: FloatArray) -> BoolArray:
    if (null := np.isnan(codes)).any():
        raise ValueError(f"label of row {int(null.argmax())} is null: every clip needs its truth")
    return codes == 1


def is_positive(label: npt.ArrayLike, *, positive: str = "SPEECH") -> BoolArray:
    """Which clips, (n,), truly are of the positive class. Labels are class names or 1/0.

    Raises ValueError for no labels, a null label, or more than two classes.
    """
    codes, others = _encode(label, positive)
    _check_names(others, positive)
    return _truth(codes)


def answered(prediction: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> Answered:
    """What was said of the (n,) clips and what they are.

    Raises ValueError for lengths that differ, a null label, or more than two classes over both arrays.
    """
    said, names = _encode(prediction, positive)
    codes, classes = _encode(label, positive)
    if len(said) != len(codes):
        raise ValueError(f"{len(said)} predictions for {len(codes)} labels")
    _check_names(names | classes, positive)
    return Answered(said, _truth(codes))


def is_correct(prediction: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> BoolArray:
    """Which of the (n,) predictions are right. A null prediction (None, NaN) is wrong. Raises as `answered` does."""
    return answered(prediction, label, positive=positive).right


def finite_scores(score: npt.ArrayLike, n_labels: int) -> FloatArray:
    """The scores as (n_labels,) floats. Raises ValueError for another shape and for a null or infinite one."""
    scores = np.asarray(score, dtype=float)
    if scores.shape != (n_labels,):
        raise ValueError(f"scores of shape {scores.shape} for {n_labels} labels")
    if not np.isfinite(scores).all():
        row = int((~np.isfinite(scores)).argmax())
        raise ValueError(f"the score of row {row} is {scores[row]}: leave out or score the clips without a finite one")
    return scores


def probabilities(p_speech: npt.ArrayLike, n_labels: int) -> FloatArray:
    """p_speech as (n_labels,) floats. Raises ValueError as `finite_scores` does, and outside [0, 1]."""
    p = finite_scores(p_speech, n_labels)
    if (outside := (p < 0) | (p > 1)).any():
        row = int(outside.argmax())
        raise ValueError(f"p_speech of row {row} is {p[row]:g}, a probability lies in [0, 1]")
    return p


def need_both(truth: BoolArray, metric: str) -> None:
    if truth.all() or not truth.any():
        raise ValueError(f"{metric} needs clips of both classes, these {len(truth)} are of one")


# --- metrics of decisions ----------------------------------------------------------------------------------------


def accuracy(prediction: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> float:
    """Share of the clips that are right, in [0, 1]."""
    return float(is_correct(prediction, label, positive=positive).mean())


def balanced_accuracy(prediction: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> float:
    """Mean of the two classes' recalls, in [0, 1]; 0.5 is chance (Brodersen et al. 2010).

    Raises ValueError where a class has no clip.
    """
    clips = answered(prediction, label, positive=positive)
    need_both(clips.truth, "balanced accuracy")
    return float((clips.right[clips.truth].mean() + clips.right[~clips.truth].mean()) / 2)


def recall(prediction: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> float:
    """Share of the clips of class `positive` (name it to get another class's) that were answered so, in [0, 1]."""
    clips = answered(prediction, label, positive=positive)
    if not clips.truth.any():
        raise ValueError(f"no clip is {positive}: its recall is undefined")
    return float(clips.right[clips.truth].mean())


def precision(prediction: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> float:
    """Share of the answers `positive` that are right, in [0, 1]. Raises ValueError where there is no such answer."""
    clips = answered(prediction, label, positive=positive)
    if not (said := clips.said == 1).any():
        raise ValueError(f"no clip was answered {positive}: its precision is undefined")
    return float(clips.truth[said].mean())


def f1(prediction: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> float:
    """Harmonic mean of precision and recall of `positive`, as 2 TP / (2 TP + FP + FN), in [0, 1]."""
    clips = answered(prediction, label, positive=positive)
    said, truth = clips.said == 1, clips.truth
    if not (truth | said).any():
        raise ValueError(f"no clip is {positive} and none was answered so: its F1 is undefined")
    return float(2 * (truth & said).sum() / (truth.sum() + said.sum()))


def dprime(
    hits: float, n_speech: float, false_alarms: float, n_nonspeech: float, *, correction: Correction = "loglinear"
) -> DPrime:
    """d' = z(H) - z(F) and criterion c = -(z(H) + z(F)) / 2 (Macmillan & Creelman 2005, eqs. 1.5, 2.1).

    `loglinear` adds 0.5 to each count and 1 to each n (Hautus 1995). Without correction a rate of 0 or 1 gives an
    infinite d', and what is then undefined (inf - inf) is NaN. Raises ValueError for n = 0 and counts outside 0..n.
    """
    for name, count, n in (("hits", hits, n_speech), ("false_alarms", false_alarms, n_nonspeech)):
        if not (n > 0 and 0 <= count <= n):
            raise ValueError(f"{name} is {count} of {n}: give 0 <= {name} <= n with n > 0")
    if correction not in ("loglinear", None):
        raise ValueError(f"correction is {correction!r}; accepted are 'loglinear' and None")
    extra = 0.5 if correction else 0.0
    sensitivity, bias = gaussian_observer(np.array([hits, n_speech, false_alarms, n_nonspeech], dtype=float), extra)
    return DPrime(float(sensitivity), float(bias))


def gaussian_observer(counts: FloatArray, extra: float) -> tuple[FloatArray, FloatArray]:
    """d' and criterion from counts (..., 4): hits, speech clips, false alarms, nonspeech clips."""
    hits, n_speech, false_alarms, n_nonspeech = np.moveaxis(counts, -1, 0)
    z_hit = ndtri((hits + extra) / (n_speech + 2 * extra))
    z_false_alarm = ndtri((false_alarms + extra) / (n_nonspeech + 2 * extra))
    with np.errstate(invalid="ignore"):  # inf - inf, documented as NaN
        return z_hit - z_false_alarm, -(z_hit + z_false_alarm) / 2


# --- metrics of probabilities ------------------------------------------------------------------------------------


def roc_auc(p_speech: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> float:
    """Probability that a random positive clip scores above a random negative one, ties one half, in [0, 1].

    Any finite score will do, it need not be a probability. Raises ValueError where a class has no clip.
    """
    from sklearn.metrics import roc_auc_score

    truth = is_positive(label, positive=positive)
    need_both(truth, "ROC AUC")
    return float(roc_auc_score(truth, finite_scores(p_speech, len(truth))))


def average_precision(p_speech: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> float:
    """Precision averaged over the steps in recall, without interpolation, in [0, 1]; chance is the positive share."""
    from sklearn.metrics import average_precision_score

    truth = is_positive(label, positive=positive)
    need_both(truth, "average precision")
    return float(average_precision_score(truth, finite_scores(p_speech, len(truth))))


def brier(p_speech: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> float:
    """Mean squared distance of p_speech from the truth, in [0, 1]; 0.25 for a constant 0.5 (Brier 1950)."""
    return float(squared_error(p_speech, is_positive(label, positive=positive)).mean())


def log_loss(p_speech: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> float:
    """Mean negative log-likelihood of the truth in nats, >= 0; ln 2 for a constant 0.5.

    Probabilities are held 2.2e-16 away from 0 and 1, as scikit-learn does, so that one sure mistake stays finite.
    """
    return float(surprise(p_speech, is_positive(label, positive=positive)).mean())


def squared_error(p_speech: npt.ArrayLike, truth: BoolArray) -> FloatArray:
    return (probabilities(p_speech, len(truth)) - truth) ** 2


def surprise(p_speech: npt.ArrayLike, truth: BoolArray) -> FloatArray:
    p, tiny = probabilities(p_speech, len(truth)), np.finfo(float).eps
    return -np.log(np.clip(np.where(truth, p, 1 - p), tiny, 1 - tiny))
