"""Psychometric functions fitted by maximum likelihood: many data sets over the same levels at once."""

import itertools
import math
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri, xlogy

from tasks.functional.metrics import BoolArray, FloatArray, IntArray

Sigmoid = Literal["logistic", "norm", "weibull"]
Transform = Literal["log10"] | None

INTERCEPT, SLOPE, LAPSE, GUESS = range(4)
MOST_STEPS = 300
MOST_HALVINGS = 40
NO_GAIN = 1e-9  # log-likelihood that a step must promise for another one to be worth taking
ROUNDING = 1e-12  # of a log-likelihood, relative
OF_NOISE = -800.0  # F's argument for the false alarms: F and its derivatives are 0 to the last bit
FURTHEST = 5.0  # most that F's argument may move in the first step
NO_INFORMATION = 1e-5  # on F's argument, of a level that says nothing of intercept and slope
STEP_RISE = 80.0  # of F's argument between the two levels of a step: F is 0 at the one and 1 at the other
OUTSIDE = np.array([1.2, 1.5, 2.0])  # places of starts beyond the levels, which are scaled to [-1, 1]
STEEPEST = 20.0  # rise of F's argument between the two nearest levels, of the steepest start
N_SLOPES = 8  # of starts
ROWS_AT_ONCE = 1000  # on the grid of starts, which takes some 20 kB a row


class Model(NamedTuple):
    """psi = guess + (1 - guess - lapse) F(intercept + slope x), x = log10(level) or the level, (n_levels,) in ms or dB.

    A rate that is None is free: the lapse rate in [0, max_lapse]; the guess rate in [0, 1 - lapse], from a cell of
    false alarms behind the levels, where F is 0 and psi therefore the guess rate.
    """

    levels: FloatArray
    sigmoid: Sigmoid
    x_transform: Transform
    guess_rate: float | None
    lapse_rate: float | None
    max_lapse: float

    def x_of(self, levels: FloatArray) -> FloatArray:
        """Levels in ms or dB on the scale of x."""
        return np.log10(levels) if self.x_transform else levels

    def level_of(self, x: FloatArray | float) -> FloatArray:
        """x in ms or dB; -inf is 0 ms."""
        return np.power(10.0, x) if self.x_transform else np.asarray(x)


class Fits(NamedTuple):
    """Parameters and log-likelihood (n_fits,) and psi (n_fits, n_cells) of each data set.

    `converged`: no step promises more. `determined`: F is neither 0 nor 1 at 2 levels or more; elsewhere the
    likelihood has no maximum, it rises with the slope for ever, and the parameters stand for the limit.
    """

    intercept: FloatArray
    slope: FloatArray
    lapse_rate: FloatArray
    guess_rate: FloatArray
    log_likelihood: FloatArray
    psi: FloatArray
    converged: BoolArray
    determined: BoolArray


class _Data(NamedTuple):
    correct: FloatArray  # (n, n_cells)
    trials: FloatArray

    def of(self, rows: IntArray) -> "_Data":
        return _Data(self.correct[rows], self.trials[rows])


class _Cells(NamedTuple):
    """F, 1 - F, F' and F'' in each cell, psi, and 1 - psi without cancellation, all (n_fits, n_cells)."""

    below: FloatArray
    above: FloatArray
    density: FloatArray
    bend: FloatArray
    psi: FloatArray
    complement: FloatArray


def lapse_is_open(model: Model) -> bool:
    """Whether there are too few levels for the lapse rate that they should tell."""
    return model.lapse_rate is None and len(np.unique(model.levels)) < 3


# --- the sigmoids ------------------------------------------------------------------------------------------------


def sigmoid_parts(sigmoid: Sigmoid, eta: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """F, 1 - F, F' and F'' at eta. "weibull" is 1 - exp(-exp(eta)): over log levels the Weibull function."""
    if sigmoid == "logistic":
        below, above = expit(eta), expit(-eta)
        density = below * above
        return below, above, density, density * (above - below)
    if sigmoid == "norm":
        density = np.exp(-(eta**2) / 2) / math.sqrt(2 * math.pi)
        return ndtr(eta), ndtr(-eta), density, -eta * density
    hazard = np.exp(np.minimum(eta, 50.0))
    density = hazard * np.exp(-hazard)
    return -np.expm1(-hazard), np.exp(-hazard), density, density * (1 - hazard)


def sigmoid_inverse(sigmoid: Sigmoid, share: FloatArray | float) -> FloatArray:
    """The eta at which F is `share`, in (0, 1)."""
    if sigmoid == "logistic":
        return np.asarray(logit(share))
    return np.asarray(ndtri(share) if sigmoid == "norm" else np.log(-np.log1p(-np.asarray(share))))


# --- maximum likelihood ------------------------------------------------------------------------------------------


def fit_many(model: Model, correct: FloatArray, trials: FloatArray, *, n_starts: int) -> Fits:
    """Fit each row of `correct` of `trials`, (n_fits, n_cells).

    Counts need not be whole (quasi-likelihood: Wedderburn 1974), and a cell may be without trials. With a guess rate
    the likelihood may have several maxima: each row climbs from the best curve of each of the `n_starts` most likely
    pairs of lapse rate and slope on a grid, and the highest end counts. Two levels cannot tell a lapse rate from a
    slope: of the equally likely rates a free one is then the smallest, 0.
    """
    if lapse_is_open(model):
        model = model._replace(lapse_rate=0.0)
    correct = np.clip(correct, 0, trials)  # weighted sums may leave their range by rounding
    x, data = model.x_of(model.levels), _Data(correct, trials)
    centre, scale = (x.max() + x.min()) / 2, (x.max() - x.min()) / 2
    z = (x - centre) / scale
    starts = _starts(model, z, data, n_starts)
    n_fits, n_each = starts.shape[:2]
    theta, reached, converged = _climb(model, z, starts.reshape(-1, 4), data.of(np.repeat(np.arange(n_fits), n_each)))
    best = np.arange(n_fits) * n_each + reached.reshape(n_fits, n_each).argmax(axis=1)
    theta, determined = _settle_steps(model, z, theta[best], trials)
    cells = _cells(model, z, theta)
    return Fits(
        intercept=theta[:, INTERCEPT] - theta[:, SLOPE] * centre / scale,
        slope=theta[:, SLOPE] / scale,
        lapse_rate=theta[:, LAPSE],
        guess_rate=theta[:, GUESS],
        log_likelihood=_log_likelihood(cells, data),
        psi=cells.psi,
        converged=converged[best],
        determined=determined,
    )


def _cells(model: Model, z: FloatArray, theta: FloatArray) -> _Cells:
    eta = theta[:, [INTERCEPT]] + theta[:, [SLOPE]] * z
    if model.guess_rate is None:
        eta = np.pad(eta, ((0, 0), (0, 1)), constant_values=OF_NOISE)
    parts = sigmoid_parts(model.sigmoid, eta)
    lapse, guess = theta[:, [LAPSE]], theta[:, [GUESS]]
    width = 1 - guess - lapse
    return _Cells(*parts, psi=guess + width * parts[0], complement=lapse + width * parts[1])


def _log_likelihood(cells: _Cells, data: _Data) -> FloatArray:
    """Binomial, without the constant: (n,)."""
    of_cells = xlogy(data.correct, cells.psi) + xlogy(data.trials - data.correct, cells.complement)
    return np.asarray(of_cells.sum(axis=1))


def _starts(model: Model, z: FloatArray, data: _Data, n_starts: int) -> FloatArray:
    """Each row's most likely curves of a grid, one a lapse rate and slope: (n_fits, n_starts, 4)."""
    guess = model.guess_rate
    if guess is None:
        false_alarms, nonspeech = (float(counts[:, -1].sum()) for counts in data)
        guess = min(max(false_alarms / nonspeech, 0.01), 0.99)
    most = min(model.max_lapse, 0.9 * (1 - guess))
    lapses = sorted({0.0, most / 2, most}) if model.lapse_rate is None else [model.lapse_rate]
    levels = np.unique(z)
    between = np.concatenate([(levels[1:] + levels[:-1]) / 2, OUTSIDE, -OUTSIDE])
    slopes = np.geomspace(0.7, STEEPEST / np.diff(levels).min(), N_SLOPES)
    kinds = itertools.product(lapses, (*slopes, *-slopes))
    grid = np.array([
        [(-slope * at, slope, lapse, guess) for at in between]
        + [(eta - slope * at, slope, lapse, guess) for at in levels for eta in (-1.5, 0, 1.5)]
        for lapse, slope in kinds
    ])  # fmt: skip
    cells = _cells(model, z, grid.reshape(-1, 4))
    log_psi, log_complement = (np.log(np.maximum(part, 1e-300)).T for part in (cells.psi, cells.complement))
    best = []
    for rows in np.array_split(np.arange(len(data.correct)), math.ceil(len(data.correct) / ROWS_AT_ONCE)):
        correct, trials = data.of(rows)
        likelihood = (correct @ log_psi + (trials - correct) @ log_complement).reshape(-1, *grid.shape[:2])
        kind = np.argsort(-likelihood.max(axis=2), axis=1, kind="stable")[:, :n_starts]
        best.append(grid[kind, np.take_along_axis(likelihood.argmax(axis=2), kind, axis=1)])
    return np.concatenate(best)


def _climb(model: Model, z: FloatArray, theta: FloatArray, data: _Data) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Newton steps, halved until they climb: parameters (n, 4), log-likelihood and whether no gain is left, (n,)."""
    converged, live = np.zeros(len(theta), dtype=bool), np.arange(len(theta))
    reached = _log_likelihood(_cells(model, z, theta), data)
    for _ in range(MOST_STEPS):
        step, gain = _newton_step(model, z, theta[live], data.of(live))
        ended, long = gain < NO_GAIN, np.arange(len(live))
        converged[live[ended]] = True
        for _ in range(MOST_HALVINGS):
            rows = live[long]
            moved = _clipped(model, theta[rows] + step[long])
            value = _log_likelihood(_cells(model, z, moved), data.of(rows))
            climbs = value >= reached[rows] - ROUNDING * (1 + np.abs(reached[rows]))
            theta[rows[climbs]], reached[rows[climbs]] = moved[climbs], value[climbs]
            long = long[~climbs]
            step[long] /= 2
            if not len(long):
                break
        ended[long] = True
        live = live[~ended]
        if not len(live):
            break
    return theta, reached, converged


def _newton_step(model: Model, z: FloatArray, theta: FloatArray, data: _Data) -> tuple[FloatArray, FloatArray]:
    """The step (n, 4) of the parameters that are free and not held at a bound, and the gain it promises, (n,).

    Newton's, with the eigenvalues of the Hessian in units of the expected information taken absolute, so that it
    climbs where the likelihood is not concave (Greenstadt 1967). Bounds by projection (Bertsekas 1982).
    """
    cells = _cells(model, z, theta)
    right, wrong = _ratio(data.correct, cells.psi), _ratio(data.trials - data.correct, cells.complement)
    pull, width = right - wrong, 1 - theta[:, [GUESS]] - theta[:, [LAPSE]]
    x = np.append(z, 0.0)[: cells.psi.shape[1]]
    free = _free(model)
    slopes = (width * cells.density, width * cells.density * x, -cells.below, cells.above)  # of psi, by parameter
    jacobian = np.stack([slopes[each] for each in free], axis=1)
    gradient = np.einsum("npc,nc->np", jacobian, pull)
    weighted = jacobian * np.sqrt(_ratio(right, cells.psi) + _ratio(wrong, cells.complement))[:, None, :]
    hessian = weighted @ weighted.transpose(0, 2, 1) - _bent(cells, pull, width, x, len(free))  # of -log-likelihood
    low, high = (bound[:, free] - theta[:, free] for bound in _bounds(model, theta))
    moves = ~((low >= 0) & (gradient <= 0) | (high <= 0) & (gradient >= 0))
    hessian = np.where(moves[:, :, None] & moves[:, None, :], hessian, 0.0)
    gradient = np.where(moves, gradient, 0.0)
    information = data.trials / np.maximum(cells.psi * cells.complement, 1e-15)
    unit = 1 / np.sqrt(np.einsum("npc,nc->np", jacobian**2, information) + 1e-14)
    values, vectors = np.linalg.eigh(hessian * unit[:, :, None] * unit[:, None, :])
    values = np.maximum(np.abs(values), 1e-9 + 1e-12 * np.abs(values).max(axis=1, keepdims=True))
    convex = (vectors * values[:, None, :]) @ vectors.transpose(0, 2, 1)
    step = np.zeros_like(theta)
    step[:, free] = unit * _box_minimum(convex, gradient * unit, low / unit, high / unit)
    length, reach = (np.abs(part[:, [INTERCEPT, SLOPE]]).sum(axis=1) for part in (step, theta))
    furthest = FURTHEST + reach / 2  # the steeper, the farther a curve has to go to change
    step *= (furthest / np.maximum(length, furthest))[:, None]
    return step, (gradient * step[:, free]).sum(axis=1)


def _box_minimum(convex: FloatArray, gradient: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """The step (n, n_free) to the minimum of step' convex step / 2 - gradient' step; what would leave the box ends on it.

    A parameter that ends on its bound is set there, and the others are solved for again.
    """
    step = np.linalg.solve(convex, gradient[:, :, None])[:, :, 0].astype(float)
    if (rows := np.flatnonzero(((step < low) | (step > high)).any(axis=1))).size:
        clipped = np.clip(step[rows], low[rows], high[rows])
        out = clipped != step[rows]
        on_bound = np.where(out, clipped, 0.0)
        left = gradient[rows] - np.einsum("npq,nq->np", convex[rows], on_bound)
        system = np.where(out[:, :, None] | out[:, None, :], np.eye(out.shape[1]), convex[rows])
        step[rows] = np.linalg.solve(system, np.where(out, on_bound, left)[:, :, None])[:, :, 0]
    return step


def _bent(cells: _Cells, pull: FloatArray, width: FloatArray, x: FloatArray, n_free: int) -> FloatArray:
    """Second derivatives of psi, weighted by the pull on it, over the free parameters: (n, n_free, n_free)."""
    bent = np.zeros((len(pull), n_free, n_free))
    curve, rates = pull * width * cells.bend, -pull * cells.density
    for i, j in itertools.product(range(2), range(2)):
        bent[:, i, j] = curve @ x ** (i + j)
    for i in range(2):
        bent[:, i, 2:] = bent[:, 2:, i] = (rates @ x**i)[:, None]
    return bent


def _ratio(count: FloatArray, rate: FloatArray) -> FloatArray:
    """count / rate, 0 where there is no count; a curve that makes counts impossible is far off, so the floor is moot."""
    return np.divide(count, np.maximum(rate, 1e-100), out=np.zeros_like(rate), where=count > 0)


def _free(model: Model) -> list[int]:
    fixed = {LAPSE: model.lapse_rate, GUESS: model.guess_rate}
    return [INTERCEPT, SLOPE, *(rate for rate, value in fixed.items() if value is None)]


def _bounds(model: Model, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Of the parameters, (n, 4) each; fixed ones have none."""
    low, high = np.full(theta.shape, -np.inf), np.full(theta.shape, np.inf)
    if model.lapse_rate is None:
        low[:, LAPSE], high[:, LAPSE] = 0, model.max_lapse
    if model.guess_rate is None:
        low[:, GUESS], high[:, GUESS] = 0, 1 - theta[:, LAPSE]
    return low, high


def _clipped(model: Model, theta: FloatArray) -> FloatArray:
    for rate in (LAPSE, GUESS):
        low, high = _bounds(model, theta)
        theta[:, rate] = np.clip(theta[:, rate], low[:, rate], high[:, rate])
    return theta


def _settle_steps(model: Model, z: FloatArray, theta: FloatArray, trials: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Curves that are a step between two levels, put half way between them; and which curves are determined, (n,).

    Any place between the two fits as well: a climb ends at one of them by chance.
    """
    below, _, density, _, psi, complement = (part[:, : len(z)] for part in _cells(model, z, theta))
    by_eta = (1 - theta[:, [GUESS]] - theta[:, [LAPSE]]) * density
    information = trials[:, : len(z)] * by_eta**2 / np.maximum(psi * complement, 1e-300)
    telling = (information > NO_INFORMATION).sum(axis=1)
    there, sign = trials[:, : len(z)] > 0, np.sign(theta[:, [SLOPE]])
    start = np.where(there & (below < 0.5), sign * z, -np.inf).max(axis=1)
    end = np.where(there & (below >= 0.5), sign * z, np.inf).min(axis=1)
    settled, between = theta.copy(), (telling == 0) & np.isfinite(end - start)
    slope = STEP_RISE / (end - start)[between]
    settled[between, INTERCEPT] = sigmoid_inverse(model.sigmoid, 0.5) - slope * ((start + end) / 2)[between]
    settled[between, SLOPE] = slope * sign[between, 0]
    return settled, telling >= 2
