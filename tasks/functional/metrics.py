"""How well a detector does: point metrics over clips, and the same metrics under group weights, for resampling."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

Statistic = str | Callable[[pd.DataFrame], float]
WeightedStatistic = Callable[[FloatArray], FloatArray]  # weights (n_resamples, n_units) -> values (n_resamples,)
OF_SCORES = ("roc_auc", "average_precision", "brier", "log_loss")  # read p_speech, the others the prediction
Correction = Literal["loglinear"] | None


class DPrime(NamedTuple):
    """Sensitivity and bias of an equal-variance Gaussian observer, in sd; criterion < 0 favours SPEECH."""

    dprime: float
    criterion: float


# --- labels and predictions --------------------------------------------------------------------------------------


def _number(value: object, positive: str) -> float:
    if isinstance(value, str):
        return float(value == positive)
    if isinstance(value, (bool, int, float, np.bool_, np.number)) and value in (0, 1):
        return float(value)
    raise ValueError(f"{value!r} is neither a class name nor 1 (for {positive}) or 0")


def _encode(values: npt.ArrayLike, positive: str) -> tuple[FloatArray, set[str]]:
    """1 for the positive class, 0 for the other, NaN for null; and the names that are not `positive`."""
    array = np.asarray(values, dtype=object)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"a metric needs one value a clip and at least one clip, not an array of shape {array.shape}")
    codes, seen = pd.factorize(array)
    numbers = np.array([*(_number(value, positive) for value in seen), np.nan])
    return numbers[codes], {value for value in seen if isinstance(value, str) and value != positive}


def _check_names(others: set[str], positive: str) -> None:
    if len(others) > 1:
        raise ValueError(f"classes {sorted(others)} beside positive={positive!r}: there are two, name the positive")


def is_positive(label: npt.ArrayLike, *, positive: str = "SPEECH") -> BoolArray:
    """Which clips, (n,), truly are of the positive class. Labels are class names or 1/0.

    Raises ValueError for no labels, a null label, or more than two classes.
    """
    codes, others = _encode(label, positive)
    _check_names(others, positive)
    if np.isnan(codes).any():
        raise ValueError(f"label of row {int(np.isnan(codes).argmax())} is null: every clip needs its truth")
    return codes == 1


def is_correct(prediction: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> BoolArray:
    """Which of the (n,) predictions are right. A null prediction (None, NaN) is wrong.

    Raises ValueError for lengths that differ, a null label, or more than two classes over both arrays.
    """
    return _codes(prediction, label, positive) == is_positive(label, positive=positive)


def _codes(prediction: npt.ArrayLike, label: npt.ArrayLike, positive: str) -> FloatArray:
    """Predictions as 1, 0 and NaN, checked against their labels."""
    said, names = _encode(prediction, positive)
    truth, classes = _encode(label, positive)
    if len(said) != len(truth):
        raise ValueError(f"{len(said)} predictions for {len(truth)} labels")
    _check_names(names | classes, positive)
    return said


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


def _need_both(truth: BoolArray, metric: str) -> None:
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
    truth, right = is_positive(label, positive=positive), is_correct(prediction, label, positive=positive)
    _need_both(truth, "balanced accuracy")
    return float((right[truth].mean() + right[~truth].mean()) / 2)


def recall(prediction: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> float:
    """Share of the clips of class `positive` (name it to get another class's) that were answered so, in [0, 1]."""
    truth = is_positive(label, positive=positive)
    if not truth.any():
        raise ValueError(f"no clip is {positive}: its recall is undefined")
    return float(is_correct(prediction, label, positive=positive)[truth].mean())


def precision(prediction: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> float:
    """Share of the answers `positive` that are right, in [0, 1]. Raises ValueError where there is no such answer."""
    truth, said = is_positive(label, positive=positive), _codes(prediction, label, positive) == 1
    if not said.any():
        raise ValueError(f"no clip was answered {positive}: its precision is undefined")
    return float(truth[said].mean())


def f1(prediction: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> float:
    """Harmonic mean of precision and recall of `positive`, as 2 TP / (2 TP + FP + FN), in [0, 1]."""
    truth, said = is_positive(label, positive=positive), _codes(prediction, label, positive) == 1
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
    sensitivity, bias = _gaussian_observer(np.array([hits, n_speech, false_alarms, n_nonspeech], dtype=float), extra)
    return DPrime(float(sensitivity), float(bias))


def _gaussian_observer(counts: FloatArray, extra: float) -> tuple[FloatArray, FloatArray]:
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
    _need_both(truth, "ROC AUC")
    return float(roc_auc_score(truth, finite_scores(p_speech, len(truth))))


def average_precision(p_speech: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> float:
    """Precision averaged over the steps in recall, without interpolation, in [0, 1]; chance is the positive share."""
    from sklearn.metrics import average_precision_score

    truth = is_positive(label, positive=positive)
    _need_both(truth, "average precision")
    return float(average_precision_score(truth, finite_scores(p_speech, len(truth))))


def brier(p_speech: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> float:
    """Mean squared distance of p_speech from the truth, in [0, 1]; 0.25 for a constant 0.5 (Brier 1950)."""
    return float(_squared_error(p_speech, is_positive(label, positive=positive)).mean())


def log_loss(p_speech: npt.ArrayLike, label: npt.ArrayLike, *, positive: str = "SPEECH") -> float:
    """Mean negative log-likelihood of the truth in nats, >= 0; ln 2 for a constant 0.5.

    Probabilities are held 2.2e-16 away from 0 and 1, as scikit-learn does, so that one sure mistake stays finite.
    """
    return float(_surprise(p_speech, is_positive(label, positive=positive)).mean())


def _squared_error(p_speech: npt.ArrayLike, truth: BoolArray) -> FloatArray:
    return (probabilities(p_speech, len(truth)) - truth) ** 2


def _surprise(p_speech: npt.ArrayLike, truth: BoolArray) -> FloatArray:
    p, tiny = probabilities(p_speech, len(truth)), np.finfo(float).eps
    return -np.log(np.clip(np.where(truth, p, 1 - p), tiny, 1 - tiny))


# --- metrics under group weights ---------------------------------------------------------------------------------


def weighted_statistic(
    table: pd.DataFrame, statistic: Statistic, unit: IntArray, *, positive: str = "SPEECH"
) -> WeightedStatistic:
    """The statistic as a function of how often each unit (group) was drawn: weights (n, n_units) -> values (n,).

    `unit` (n_rows,) numbers the rows' groups from 0. Named statistics are reduced to sums over units first, so that
    a resample costs no pass over the rows: accuracy, balanced_accuracy, recall_*, precision_*, f1_* (class names in
    lower case), d_prime, criterion, roc_auc, average_precision, brier, log_loss. AUC keeps a matrix of positive
    units x negative units. A callable gets the rows repeated, so its weights must be whole numbers.
    Raises ValueError for an unknown name, a missing column, or a class without clips.
    """
    if callable(statistic):
        return _of_rows(table, statistic, unit)
    needed = "p_speech" if statistic in OF_SCORES else "prediction"
    if missing := [column for column in ("label", needed) if column not in table]:
        raise ValueError(f"{statistic} needs the column {missing[0]}, the table has {list(table.columns)}")
    truth = is_positive(table["label"], positive=positive)
    if statistic in ("balanced_accuracy", "roc_auc", "average_precision", "d_prime", "criterion"):
        _need_both(truth, statistic)
    if statistic == "roc_auc":
        return _roc_auc(finite_scores(table["p_speech"], len(truth)), truth, unit)
    if statistic == "average_precision":
        return _average_precision(finite_scores(table["p_speech"], len(truth)), truth, unit)
    if statistic in ("d_prime", "criterion"):
        right = is_correct(table["prediction"], table["label"], positive=positive)
        counts = _unit_sums(np.column_stack([truth & right, truth, ~truth & ~right, ~truth]), unit)
        return lambda weights: _gaussian_observer(weights @ counts, 0.5)[statistic == "criterion"]
    numerator, denominator = (_unit_sums(part, unit) for part in _ratio(table, statistic, truth, positive))
    return lambda weights: _divide(weights @ numerator, weights @ denominator).mean(axis=1)


def _divide(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)


def _unit_sums(rows: npt.NDArray[np.generic], unit: IntArray) -> FloatArray:
    """Sums of the rows (n_rows, k) over each unit: (n_units, k)."""
    return np.column_stack([np.bincount(unit, weights=column) for column in rows.astype(float).T])


def _ratio(table: pd.DataFrame, statistic: str, truth: BoolArray, positive: str) -> tuple[FloatArray, FloatArray]:
    """Row-wise numerators and denominators (n_rows, k) of a statistic that is a mean of k ratios of sums."""
    everyone = np.ones((len(truth), 1))
    if statistic == "brier":
        return _squared_error(table["p_speech"], truth)[:, None], everyone
    if statistic == "log_loss":
        return _surprise(table["p_speech"], truth)[:, None], everyone
    said = _codes(table["prediction"], table["label"], positive)
    right = (said == truth)[:, None]
    if statistic == "accuracy":
        return right.astype(float), everyone
    if statistic == "balanced_accuracy":
        of_class = np.column_stack([truth, ~truth]).astype(float)
        return of_class * right, of_class
    metric, _, name = statistic.partition("_")
    if metric not in ("recall", "precision", "f1"):
        raise ValueError(f"unknown statistic {statistic!r}; give one of weighted_statistic's names or a function")
    wanted = names_positive(name, table, positive)
    of_class, answered = (truth == wanted)[:, None].astype(float), (said == wanted)[:, None].astype(float)
    both = of_class * right
    return {"recall": (both, of_class), "precision": (both, answered), "f1": (2 * both, of_class + answered)}[metric]


def names_positive(name: str, table: pd.DataFrame, positive: str) -> bool:
    """Whether a lower-cased name means the positive class, else the other one, NON<positive> where labels are 1/0."""
    others = {value for value in table["label"].unique() if isinstance(value, str)} - {positive} or {f"NON{positive}"}
    if name != positive.lower() and name not in {other.lower() for other in others}:
        raise ValueError(f"no class is called {name!r} in lower case; the classes are {[positive, *sorted(others)]}")
    return name == positive.lower()


def _of_rows(table: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], unit: IntArray) -> WeightedStatistic:
    rows = np.arange(len(table))

    def values(weights: FloatArray) -> FloatArray:
        times = weights.astype(int)[:, unit]
        return np.array([float(statistic(table.iloc[np.repeat(rows, drawn)])) for drawn in times])

    return values


def _roc_auc(score: FloatArray, truth: BoolArray, unit: IntArray) -> WeightedStatistic:
    """wins[i, j]: pairs of a positive of unit i above a negative of unit j, ties one half (Mann-Whitney U)."""
    of_positive, n_positive = np.unique(unit[truth], return_counts=True)
    of_negative, negative_unit, n_negative = np.unique(unit[~truth], return_inverse=True, return_counts=True)
    order = np.argsort(score[~truth])  # sorted queries keep searchsorted in cache
    negative, negative_unit = score[~truth][order], negative_unit[order]
    wins = np.empty((len(of_positive), len(of_negative)))
    for i, name in enumerate(of_positive):
        own = np.sort(score[truth & (unit == name)])
        not_above = (np.searchsorted(own, negative, "left") + np.searchsorted(own, negative, "right")) / 2
        wins[i] = np.bincount(negative_unit, weights=len(own) - not_above)

    def values(weights: FloatArray) -> FloatArray:
        drawn_positive, drawn_negative = weights[:, of_positive], weights[:, of_negative]
        won = np.einsum("bj,bj->b", drawn_positive @ wins, drawn_negative)
        return _divide(won, (drawn_positive @ n_positive) * (drawn_negative @ n_negative))

    return values


def _average_precision(score: FloatArray, truth: BoolArray, unit: IntArray) -> WeightedStatistic:
    order = np.argsort(-score)
    truth, unit = truth[order], unit[order]
    last_of_tie = np.flatnonzero(np.diff(score[order], append=np.inf))

    def value(weights: FloatArray) -> float:
        drawn = weights[unit]
        answered, found = np.cumsum(drawn)[last_of_tie], np.cumsum(drawn * truth)[last_of_tie]
        share = np.divide(found, answered, out=np.zeros_like(found), where=answered > 0)
        return float((np.diff(found, prepend=0) * share).sum() / found[-1]) if found[-1] else np.nan

    return lambda weights: np.array([value(drawn) for drawn in weights])  # one by one: a row fits into the cache
