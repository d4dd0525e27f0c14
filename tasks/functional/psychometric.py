"""How performance grows with a level: psychometric functions, their thresholds, and how sure both are."""

import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc, xlogy

from tasks.functional.metrics import FloatArray
from tasks.functional.resampling import Interval, need_columns, need_two_groups, resample, units_of
from tasks.functional.sigmoid_fits import (
    Fits,
    Model,
    Sigmoid,
    Transform,
    fit_many,
    lapse_is_open,
    sigmoid_inverse,
    sigmoid_parts,
)

ALPHA = 0.05  # a slope with a larger p has no threshold
STARTS_OF_ONE, STARTS_OF_REFITS = 16, 4


class Threshold(NamedTuple):
    """A level in its own unit (ms, dB); None where there is none, and `reason` says why, or what the value is worth.

    `censored`: it lies "below" the lowest or "above" the highest level tested, and is the curve's extrapolation.
    """

    value: float | None
    censored: Literal["below", "above"] | None
    reason: str | None


class PsychometricFit(NamedTuple):
    """psi = guess_rate + (1 - guess_rate - lapse_rate) F(intercept + slope x), x = log10(level) or the level itself.

    `converged` is False where the likelihood has no single maximum: the data are a step, or all right, or all at
    chance, or fewer levels than free parameters. `slope_p_value`: likelihood ratio against a constant rate, 1 df.
    """

    intercept: float
    slope: float
    guess_rate: float
    lapse_rate: float
    deviance: float
    converged: bool
    levels: FloatArray  # in ms or dB
    n_correct: FloatArray
    n_trials: FloatArray
    false_alarms: tuple[float, float] | None  # of how many nonspeech trials, where they set the guess rate
    log_likelihood: float  # without the binomial coefficients
    slope_p_value: float
    model: Model

    def psi(self, levels: npt.ArrayLike) -> FloatArray:
        """The curve at levels (n,) in ms or dB."""
        eta = self.intercept + self.slope * self.model.x_of(np.asarray(levels, dtype=float))
        width = 1 - self.guess_rate - self.lapse_rate
        return self.guess_rate + width * sigmoid_parts(self.model.sigmoid, eta)[0]

    def threshold(self, p: float, *, scaled: bool = True) -> Threshold:
        """The level at which psi = p, or with scaled=False F = p, in ms or dB.

        None for a slope that is not significant (p > .05), and for a p that psi does not pass between the guess rate
        and 1 - lapse rate. Where performance falls with the level it is the level up to which psi is p or more.
        Raises ValueError for p outside (0, 1).
        """
        _check_share(p)
        if reason := self._no_threshold(p, scaled):
            return Threshold(None, None, reason)
        share = (p - self.guess_rate) / (1 - self.guess_rate - self.lapse_rate) if scaled else p
        eta = float(sigmoid_inverse(self.model.sigmoid, share))
        value = float(self.model.level_of((eta - self.intercept) / self.slope))
        lowest, highest = self.levels.min(), self.levels.max()
        censored: Literal["below", "above"] | None = (
            "below" if value < lowest else "above" if value > highest else None
        )  # fmt: skip
        return Threshold(value, censored, self._caveat())

    def _no_threshold(self, p: float, scaled: bool) -> str | None:
        most = 1 - self.lapse_rate
        if scaled and p <= self.guess_rate:
            return f"psi = {p:g} is no threshold: psi is at least the guess rate, {self.guess_rate:.3g}"
        if self.slope_p_value > ALPHA:
            return f"flat: the slope does not differ from 0 (likelihood ratio, p = {self.slope_p_value:.2g})"
        if scaled and p >= most:
            return f"unreachable: with a lapse rate of {self.lapse_rate:.3g}, psi stays below {most:.3g}"
        return None

    def _caveat(self) -> str | None:
        notes = ["performance falls with the level: psi is higher below it"] if self.slope < 0 else []
        if lapse_is_open(self.model):
            notes.append("2 levels leave the lapse rate open, it is taken as 0")
        elif not self.converged:
            notes.append("the data are a step: any level near it fits as well")
        return "; ".join(notes) or None


# --- fits --------------------------------------------------------------------------------------------------------


def fit_psychometric(
    levels: npt.ArrayLike,
    n_correct: npt.ArrayLike,
    n_trials: npt.ArrayLike,
    *,
    sigmoid: Sigmoid = "logistic",
    x_transform: Transform = "log10",
    guess_rate: float = 0.5,
    lapse_rate: float | None = None,
    max_lapse: float = 0.1,
) -> PsychometricFit:
    """Maximum-likelihood psychometric function of n_correct of n_trials at levels, (n,) each, in ms or dB.

    x = log10(level), or the level with x_transform=None; the lapse rate is free in [0, max_lapse] or fixed (Wichmann &
    Hill 2001a). "weibull" is F = 1 - exp(-exp(intercept + slope x)), the Weibull function where x is a logarithm.
    Raises ValueError for fewer than 2 levels, a level without trials, counts that are not whole or not
    0 <= n_correct <= n_trials, levels <= 0 under log10, and rates outside [0, 1).
    """
    model = model_of(levels, sigmoid, x_transform, guess_rate, lapse_rate, max_lapse)
    return fit_counts(model, *_counts(model, n_correct, n_trials))


def fit_hit_rate(
    levels: npt.ArrayLike,
    n_yes: npt.ArrayLike,
    n_trials: npt.ArrayLike,
    n_false_alarms: int,
    n_nonspeech: int,
    *,
    sigmoid: Sigmoid = "logistic",
    x_transform: Transform = "log10",
    lapse_rate: float | None = None,
    max_lapse: float = 0.1,
) -> PsychometricFit:
    """As `fit_psychometric`, of the share of SPEECH trials answered SPEECH.

    The guess rate is the false-alarm rate and estimated jointly: n_false_alarms of n_nonspeech trials are one more
    binomial at F = 0, the noise trials of a yes-no task (Klein 2001). One rate is meant for all levels.
    """
    model = model_of(levels, sigmoid, x_transform, None, lapse_rate, max_lapse)
    yes, trials = _counts(model, n_yes, n_trials)
    if n_nonspeech < 1 or not 0 <= n_false_alarms <= n_nonspeech or n_false_alarms % 1 or n_nonspeech % 1:
        raise ValueError(
            f"{n_false_alarms} false alarms of {n_nonspeech} nonspeech trials: give 0 <= n <= trials, whole"
        )
    return fit_counts(model, np.append(yes, n_false_alarms), np.append(trials, n_nonspeech))


def model_of(
    levels: npt.ArrayLike,
    sigmoid: Sigmoid,
    x_transform: Transform,
    guess_rate: float | None,
    lapse_rate: float | None,
    max_lapse: float,
) -> Model:
    """The model that these arguments mean, checked; guess_rate None: from false alarms."""
    if sigmoid not in ("logistic", "norm", "weibull"):
        raise ValueError(f"sigmoid is {sigmoid!r}; accepted are 'logistic', 'norm' and 'weibull'")
    if x_transform not in ("log10", None):
        raise ValueError(f"x_transform is {x_transform!r}; accepted are 'log10' and None")
    for name, rate in (("guess_rate", guess_rate), ("lapse_rate", lapse_rate), ("max_lapse", max_lapse)):
        if rate is not None and not 0 <= rate < 1:
            raise ValueError(f"{name} is {rate}, give a rate in [0, 1)")
    most = max_lapse if lapse_rate is None else lapse_rate
    if (guess_rate or 0) + most >= 1:
        raise ValueError(f"guess rate {guess_rate} and lapse rate {most} leave psi no room: their sum must be below 1")
    return Model(_levels(levels, x_transform), sigmoid, x_transform, guess_rate, lapse_rate, max_lapse)


def fit_counts(model: Model, correct: FloatArray, trials: FloatArray) -> PsychometricFit:
    """The fit of `model` to counts (n_cells,), which need not be whole: quasi-likelihood where they are not."""
    n_levels = len(model.levels)
    fits = fit_many(model, correct[None], trials[None], n_starts=STARTS_OF_ONE)
    parts = slice(n_levels), slice(n_levels, None)  # levels, false alarms
    constant = sum(_log_likelihood_of_rate(correct[part].sum(), trials[part].sum()) for part in parts)
    log_likelihood = float(fits.log_likelihood[0])
    return PsychometricFit(
        intercept=float(fits.intercept[0]),
        slope=float(fits.slope[0]),
        guess_rate=float(fits.guess_rate[0]),
        lapse_rate=float(fits.lapse_rate[0]),
        deviance=float(_deviance(fits, correct, trials)[0]),
        converged=bool(fits.converged[0] and fits.determined[0] and not lapse_is_open(model)),
        levels=model.levels,
        n_correct=correct[:n_levels],
        n_trials=trials[:n_levels],
        false_alarms=(float(correct[-1]), float(trials[-1])) if model.guess_rate is None else None,
        log_likelihood=log_likelihood,
        slope_p_value=float(chdtrc(1, max(0.0, 2 * (log_likelihood - constant)))),
        model=model,
    )


def deviance_p_value(fit: PsychometricFit, *, n_boot: int = 1000, seed: int) -> float:
    """How often data drawn from the fitted curve fit it no better: (1 + hits) / (1 + n_boot), in (0, 1].

    Parametric bootstrap (Wichmann & Hill 2001a): the deviance of few trials is not chi-squared. Trials are drawn
    independently, so a small p means another curve or clips that resemble each other. A number of trials that is not
    whole is drawn as the nearest one. Raises ValueError for n_boot < 1.
    """
    if n_boot < 1:
        raise ValueError(f"n_boot is {n_boot}, at least one draw is needed")
    psi, trials = fit.psi(fit.levels), fit.n_trials
    if fit.false_alarms:
        psi, trials = np.append(psi, fit.guess_rate), np.append(trials, fit.false_alarms[1])
    n = np.maximum(np.rint(trials), 1).astype(int)
    drawn = trials * (np.random.default_rng(seed).binomial(n, psi, (n_boot, len(psi))) / n)  # never above trials
    fits = fit_many(fit.model, drawn, np.tile(trials, (n_boot, 1)), n_starts=STARTS_OF_REFITS)
    return float((1 + (_deviance(fits, drawn, trials) >= fit.deviance - 1e-9).sum()) / (1 + n_boot))


# --- thresholds over groups --------------------------------------------------------------------------------------


def bootstrap_threshold(
    trials: pd.DataFrame,
    *,
    level: str,
    group: str = "group_id",
    p: float = 0.75,
    sigmoid: Sigmoid = "logistic",
    x_transform: Transform = "log10",
    guess_rate: float = 0.5,
    lapse_rate: float | None = None,
    max_lapse: float = 0.1,
    n_boot: int = 1000,
    seed: int,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval, in ms or dB, of the level at which psi = p, over resamples of whole groups.

    trials: a row a trial with the `level` column, `correct` (1/0) and the group. With a `label` column groups are
    drawn within each label, as everywhere; without one, over the table. Refits that do not reach p, or run the other
    way than the fit of all trials, count as +inf, so `high` may be infinite; refits that are at or above p at every
    level and leave the curve open count as -inf, or 0 ms. The slope is not tested. Ends are order statistics.
    Raises ValueError under 2 groups (in a label), for p <= guess_rate, nulls, and as `fit_psychometric`.
    """
    need_columns(trials, level, "correct", group)
    _check_share(p)
    if p <= guess_rate:
        raise ValueError(
            f"psi = {p:g} is no threshold: psi is never below the guess rate, {guess_rate}; give a higher p"
        )
    correct = pd.to_numeric(trials["correct"], errors="coerce").to_numpy(dtype=float)
    if (bad := ~np.isin(correct, (0, 1))).any():
        row = int(bad.argmax())
        raise ValueError(f"correct of row {row} is {trials['correct'].iloc[row]}: give 1 or 0 for every trial")
    units = units_of(trials, group) if "label" in trials else units_of(trials.assign(label="the table"), group)
    need_two_groups(units)
    levels, of_level = np.unique(trials[level].to_numpy(dtype=float), return_inverse=True)
    model = model_of(levels, sigmoid, x_transform, guess_rate, lapse_rate, max_lapse)
    cell, shape = units.unit * len(levels) + of_level, (units.n, len(levels))
    counts = [np.bincount(cell, weights, units.n * len(levels)).reshape(shape) for weights in (correct, None)]
    falling = fit_counts(model, *(count.sum(axis=0).astype(float) for count in counts)).slope < 0
    drawn = resample(lambda weights: weights @ np.hstack(counts), units, n_boot, seed)
    correct, n_trials = np.hsplit(drawn, 2)
    x = refit_thresholds(model, correct, n_trials, p, falling=falling)
    return Interval(*(float(model.level_of(end)) for end in ordered_interval(x, (1 - confidence) / 2)))


def refit_thresholds(
    model: Model, correct: FloatArray, trials: FloatArray, p: float, *, scaled: bool = True, falling: bool
) -> FloatArray:
    """Where each row of counts (n, n_cells) puts its threshold, on the scale of x, (n,): see `bootstrap_threshold`."""
    fits = fit_many(model, correct, trials, n_starts=STARTS_OF_REFITS)
    width = np.maximum(1 - fits.guess_rate - fits.lapse_rate, 1e-12)
    goal = np.full(len(correct), p) if scaled else fits.guess_rate + width * p
    share = (goal - fits.guess_rate) / width
    there = (share > 0) & (share < 1) & (fits.slope < 0 if falling else fits.slope > 0)
    eta = sigmoid_inverse(model.sigmoid, np.where(there, share, 0.5))
    x = np.where(there, (eta - fits.intercept) / np.where(there, fits.slope, 1.0), np.inf)
    tested, at_least = trials[:, : len(model.levels)] > 0, fits.psi[:, : len(model.levels)] >= goal[:, None]
    nowhere, everywhere = ~(tested & at_least).any(axis=1), (~tested | at_least).all(axis=1)
    x[~fits.determined & nowhere] = np.inf
    x[~fits.determined & everywhere] = np.inf if falling else -np.inf
    return x


def ordered_interval(values: FloatArray, tail: float) -> Interval:
    """The middle of values (n,) that leaves `tail` out on each side; infinite values take part, none is averaged."""
    ranked, last = np.sort(values), len(values) - 1
    return Interval(float(ranked[math.floor(tail * last)]), float(ranked[math.ceil((1 - tail) * last)]))


# --- parts -------------------------------------------------------------------------------------------------------


def _check_share(p: float) -> None:
    if not 0 < p < 1:
        raise ValueError(f"p is {p}, a threshold is defined for p between 0 and 1")


def _levels(levels: npt.ArrayLike, x_transform: Transform) -> FloatArray:
    array = np.asarray(levels, dtype=float)
    if array.ndim != 1 or len(np.unique(array)) < 2:
        raise ValueError(f"a psychometric function needs at least 2 levels, not {array.tolist()}")
    if not np.isfinite(array).all():
        raise ValueError(f"level {array[~np.isfinite(array)][0]} is no number: leave out the trials without a level")
    if x_transform == "log10" and array.min() <= 0:
        raise ValueError(
            f"level {array.min():g} has no logarithm: durations are above 0, for dB give x_transform=None"
        )
    return array


def _counts(model: Model, n_correct: npt.ArrayLike, n_trials: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    correct, trials = np.asarray(n_correct, dtype=float), np.asarray(n_trials, dtype=float)
    if correct.shape != model.levels.shape or trials.shape != model.levels.shape:
        raise ValueError(
            f"{len(model.levels)} levels, counts of shape {correct.shape} of {trials.shape}: one each a level"
        )
    for level, right, n in zip(model.levels, correct, trials, strict=True):
        if not (right % 1 == 0 and n % 1 == 0):
            raise ValueError(f"level {level:g}: {right:g} of {n:g} are no whole numbers of trials")
        if n < 1:
            raise ValueError(f"level {level:g} has {n:g} trials: leave it out")
        if not 0 <= right <= n:
            raise ValueError(f"level {level:g}: {right:g} of {n:g} trials; give 0 <= n_correct <= n_trials")
    return correct, trials


def _log_likelihood_of_rate(correct: float, trials: float) -> float:
    """Of the best constant rate; 0 for no trials."""
    rate = correct / max(trials, 1)
    return float(xlogy(correct, rate) + xlogy(trials - correct, 1 - rate))


def _deviance(fits: Fits, correct: FloatArray, trials: FloatArray) -> FloatArray:
    """Twice the log-likelihood that the curve lacks to its own data, (n_fits,), >= 0."""
    correct = np.clip(correct, 0, trials)
    rate = correct / trials
    saturated = (xlogy(correct, rate) + xlogy(trials - correct, 1 - rate)).sum(axis=-1)
    return np.maximum(2 * (saturated - fits.log_likelihood), 0.0)
