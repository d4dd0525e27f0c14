"""How far a detector's probabilities can be believed, and the temperature and threshold that are fitted on dev."""

import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit, logit

from tasks.functional.metrics import BoolArray, FloatArray, IntArray, finite_scores, is_positive, probabilities

Kind = Literal["top_label", "p_speech"]
Flag = Literal["separable", "inverted"]


class Reliability(NamedTuple):
    """A reliability diagram, one value a bin (n_bins,); confidence and observed are NaN in an empty bin."""

    low: FloatArray
    high: FloatArray
    n: IntArray
    confidence: FloatArray
    observed: FloatArray


class Confidences(NamedTuple):
    """Mean confidences in [0.5, 1], NaN over no clip; gap = right - wrong."""

    mean: float
    right: float
    wrong: float
    gap: float


class TemperatureFit(NamedTuple):
    """A temperature, the mean NLL in nats at 1 and at it; `flag` tells why no temperature is the best one."""

    value: float
    nll_before: float
    nll_after: float
    at_bound: bool
    flag: Flag | None


class DecisionThreshold(NamedTuple):
    """SPEECH iff p_speech >= value; `flag` is set where dev classes do not overlap or score the wrong way round."""

    value: float
    sensitivity: float
    specificity: float
    flag: Flag | None


# --- calibration error -------------------------------------------------------------------------------------------


def reliability(
    p_speech: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    n_bins: int = 15,
    kind: Kind = "top_label",
    positive: str = "SPEECH",
) -> Reliability:
    """Mean confidence and observed frequency in equal-width bins (lo, hi] on [0, 1]; 0 itself is in the first bin.

    `top_label` bins max(p, 1 - p) against accuracy, deciding SPEECH at p >= 0.5 (Guo et al. 2017, sec. 2);
    `p_speech` bins p against the share of SPEECH. labels: 1 = SPEECH, or class names.
    Raises ValueError for p_speech outside [0, 1], lengths that differ, no clips, or n_bins < 1.
    """
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}, at least one is needed")
    truth = is_positive(labels, positive=positive)
    p = probabilities(p_speech, len(truth))
    if kind == "top_label":
        p, truth = np.maximum(p, 1 - p), (p >= 0.5) == truth
    elif kind != "p_speech":
        raise ValueError(f"kind is {kind!r}; accepted are 'top_label' and 'p_speech'")
    edges = np.arange(n_bins + 1) / n_bins  # k / n rounds as the literal does, linspace's k * (1 / n) need not
    bins = np.digitize(p, edges[1:-1], right=True)
    n = np.bincount(bins, minlength=n_bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the documented NaN of an empty bin
        confidence, observed = (np.bincount(bins, weights=x, minlength=n_bins) / n for x in (p, truth))
    return Reliability(edges[:-1], edges[1:], n, confidence, observed)


def calibration_error(
    p_speech: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    n_bins: int = 15,
    norm: Literal["l1", "max"] = "l1",
    kind: Kind = "top_label",
    positive: str = "SPEECH",
) -> float:
    """Distance between confidence and observed frequency over the bins of `reliability`, in [0, 1].

    `l1` is the mean weighted by clips (ECE), `max` the largest over non-empty bins (MCE) (Naeini et al. 2015).
    Raises ValueError as `reliability` does.
    """
    if norm not in ("l1", "max"):
        raise ValueError(f"norm is {norm!r}; accepted are 'l1' (ECE) and 'max' (MCE)")
    bins = reliability(p_speech, labels, n_bins=n_bins, kind=kind, positive=positive)
    filled = bins.n > 0
    gap = np.abs(bins.confidence - bins.observed)[filled]
    return float(gap.max() if norm == "max" else np.average(gap, weights=bins.n[filled]))


def confidences(p_speech: npt.ArrayLike, labels: npt.ArrayLike, *, positive: str = "SPEECH") -> Confidences:
    """Mean top-label confidence max(p, 1 - p) over clips (n,), over those it is right on and wrong on, and the gap.

    Right is the top label, SPEECH at p >= 0.5, as in `reliability`: the confidence is of no other decision.
    labels: 1 = SPEECH, or class names. Raises ValueError as `reliability` does.
    """
    truth = is_positive(labels, positive=positive)
    p = probabilities(p_speech, len(truth))
    sure, correct = np.maximum(p, 1 - p), (p >= 0.5) == truth
    of_right, of_wrong = (float(sure[some].mean()) if some.any() else math.nan for some in (correct, ~correct))
    return Confidences(float(sure.mean()), of_right, of_wrong, of_right - of_wrong)


# --- fitted on dev -----------------------------------------------------------------------------------------------


def fit_temperature(
    margin: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    bounds: tuple[float, float] = (0.05, 20),
    positive: str = "SPEECH",
) -> TemperatureFit:
    """The T in `bounds` that minimises the mean NLL of sigmoid(margin / T) (Guo et al. 2017, sec. 4.2).

    margin: logit of p_speech, (n,); labels: 1 = SPEECH, or class names. The NLL is convex in 1 / T, so the root of its
    slope is the minimum. Where every clip is on its right side of 0 ("separable") the best T is 0, where the margins
    do not rise with the truth ("inverted") it is infinite: T then stands at a bound and says nothing about confidence.
    Raises ValueError for infinite margins, one class, or bounds that are not 0 < low < high.
    """
    low, high = bounds
    if not 0 < low < high:
        raise ValueError(f"bounds are {bounds}; give 0 < low < high")
    truth = _both_classes(labels, positive, "temperature")
    m = finite_scores(margin, len(truth))
    towards_truth = np.where(truth, m, -m)

    def slope(inverse: float) -> float:
        return -float(np.mean(towards_truth * expit(-inverse * towards_truth)))

    def nll(temperature: float) -> float:
        return float(np.logaddexp(0, -towards_truth / temperature).mean())

    if slope(1 / high) >= 0:
        value = high
    elif slope(1 / low) <= 0:
        value = low
    else:
        value = 1 / brentq(slope, 1 / high, 1 / low, xtol=1e-12)
    flag: Flag | None = None
    if slope(0) >= 0:
        flag = "inverted"
    elif (towards_truth >= 0).all():
        flag = "separable"
    return TemperatureFit(value, nll(1), nll(value), value in bounds, flag)


def margin_of(p_speech: npt.ArrayLike) -> FloatArray:
    """The logit of p; a sure answer, 0 or 1, has a finite one, as its log loss is finite."""
    eps = np.finfo(float).eps
    return np.asarray(logit(np.clip(np.asarray(p_speech, dtype=float), eps, 1 - eps)), dtype=float)


def soften(p_speech: npt.ArrayLike, temperature: float) -> FloatArray:
    """P whose logit is divided by a temperature; 0 and 1 are taken for the nearest numbers inside."""
    return np.asarray(expit(margin_of(p_speech) / temperature), dtype=float)


def choose_threshold(
    p_speech: npt.ArrayLike, labels: npt.ArrayLike, *, max_fpr: float | None = None, positive: str = "SPEECH"
) -> DecisionThreshold:
    """The clips' score at which "SPEECH iff p_speech >= value" does best, with its sensitivity and specificity.

    Best is Youden's J = sensitivity + specificity - 1 (Youden 1950); with `max_fpr` the most sensitive threshold whose
    false-positive rate is within it, which may lie just above all scores. Ties go to the higher sensitivity, then to
    the higher specificity. `flag`: "separable" where it makes no mistake, "inverted" where the AUC is below 0.5.
    Raises ValueError for a score that is not finite, one class, or max_fpr outside [0, 1].
    """
    if max_fpr is not None and not 0 <= max_fpr <= 1:
        raise ValueError(f"max_fpr is {max_fpr}, a rate lies in [0, 1]")
    truth = _both_classes(labels, positive, "threshold")
    p = finite_scores(p_speech, len(truth))
    n_speech, n_nonspeech = truth.sum(), (~truth).sum()
    scores = np.unique(p)
    candidates = np.append(scores, np.nextafter(scores[-1], np.inf))
    hits = n_speech - np.searchsorted(np.sort(p[truth]), candidates)
    rejections = np.searchsorted(np.sort(p[~truth]), candidates)
    sensitivity, false_positive_rate = hits / n_speech, (n_nonspeech - rejections) / n_nonspeech
    youden = hits * n_nonspeech + rejections * n_speech  # in whole clips: rounded rates would break ties at random
    goal = youden if max_fpr is None else np.where(false_positive_rate <= max_fpr, hits, -1)
    best = np.lexsort((rejections, hits, goal))[-1]
    flag: Flag | None = None
    if hits[best] == n_speech and rejections[best] == n_nonspeech:
        flag = "separable"
    elif -np.trapezoid(sensitivity, false_positive_rate) < 0.5:
        flag = "inverted"
    specificity = float(rejections[best] / n_nonspeech)
    return DecisionThreshold(float(candidates[best]), float(sensitivity[best]), specificity, flag)


def _both_classes(labels: npt.ArrayLike, positive: str, fitted: str) -> BoolArray:
    truth = is_positive(labels, positive=positive)
    if truth.all() or not truth.any():
        raise ValueError(f"a {fitted} needs clips of both classes, these {len(truth)} are of one")
    return truth
