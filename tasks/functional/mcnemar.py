"""McNemar's paired test: its p-values, its power by enumeration, and the sample it needs."""

import bisect
import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.functional.metrics import FloatArray, IntArray

McNemarMethod = Literal["exact", "midp"]
MANY, NEARLY_ALL = 1_000_000, 0.999  # items, and a power that no tooth of the exact test's saw takes away


class McNemarResult(NamedTuple):
    """b: clips a has right and b wrong; c: the other way round; difference = mean(a) - mean(b)."""

    b: int
    c: int
    p_value: float
    difference: float


def mcnemar_test(
    correct_a: npt.ArrayLike, correct_b: npt.ArrayLike, *, method: McNemarMethod = "exact"
) -> McNemarResult:
    """Two-sided McNemar test that two detectors are right equally often on the same (n,) clips, given as 1/0.

    mid-p = 2 P(X < m) + P(X = m) with m = min(b, c) and X ~ Binomial(b + c, 1/2), 1 - P(X = m) / 2 at b = c > 0
    (Fagerland et al. 2013); no discordant clip gives 1. Raises ValueError for lengths that differ or no clips.
    """
    from scipy.stats import binom

    a, b = (np.asarray(correct, dtype=float) for correct in (correct_a, correct_b))
    if a.shape != b.shape or a.ndim != 1 or not len(a) or not np.isin([a, b], (0, 1)).all():
        raise ValueError(f"correct_a and correct_b are 1/0 for the same clips, not shapes {a.shape} and {b.shape}")
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    smaller, discordant = min(only_a, only_b), only_a + only_b
    p_value = min(1.0, 2 * binom.cdf(smaller, discordant, 0.5))
    if _checked(method) == "midp" and discordant:
        of_tie = binom.pmf(smaller, discordant, 0.5)
        p_value = 1 - of_tie / 2 if only_a == only_b else p_value - of_tie
    return McNemarResult(only_a, only_b, float(p_value), float(a.mean() - b.mean()))


def _checked(method: McNemarMethod) -> McNemarMethod:
    if method not in ("exact", "midp"):
        raise ValueError(f"method is {method!r}; accepted are 'exact' and 'midp'")
    return method


def mcnemar_power(
    n: int, difference: float, discordance: float, *, alpha: float = 0.05, method: McNemarMethod = "exact"
) -> float:
    """Probability that McNemar's test on n independent clips rejects at `alpha`, by enumeration.

    `difference` is the true difference of the two accuracies, `discordance` the share of clips on which just one is
    right. The sum runs over the trinomial of (b, c): b + c is Binomial(n, discordance), and b given b + c is binomial.
    Raises ValueError unless |difference| <= discordance <= 1, n >= 1 and 0 < alpha < 0.5.
    """
    _check_effect(difference, discordance, alpha)
    if n < 1:
        raise ValueError(f"n is {n}, at least one clip is needed")
    from scipy.stats import binom

    discordant = _likely(n, discordance)
    rejects = _rejection(discordant, difference, discordance, alpha, _checked(method))
    return float(binom.pmf(discordant, n, discordance) @ rejects)


def _check_effect(difference: float, discordance: float, alpha: float) -> None:
    if not abs(difference) <= discordance <= 1 or discordance == 0:
        raise ValueError(f"give |difference| <= discordance <= 1, not {difference} and {discordance}")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is {alpha}, give a level between 0 and 0.5")


def _likely(n: int, discordance: float) -> IntArray:
    """The values of b + c ~ Binomial(n, discordance) but for tails below 1e-20: of n clips, some 24 sqrt(n) at most."""
    mean, spread = n * discordance, 12 * math.sqrt(n * discordance * (1 - discordance)) + 30
    return np.arange(max(0, int(mean - spread)), min(n, math.ceil(mean + spread)) + 1)


def _expected(by_discordant: FloatArray, n: int, discordance: float) -> float:
    """Mean of by_discordant[b + c] over b + c ~ Binomial(n, discordance)."""
    from scipy.stats import binom

    likely = _likely(n, discordance)
    return float(binom.pmf(likely, n, discordance) @ by_discordant[likely])


def _rejection(
    discordant: IntArray, difference: float, discordance: float, alpha: float, method: McNemarMethod
) -> FloatArray:
    """P(test rejects | b + c) for each b + c of `discordant`."""
    from scipy.stats import binom

    def p_value(smaller: IntArray) -> FloatArray:
        of_tie = binom.pmf(smaller, discordant, 0.5) if method == "midp" else 0.0
        return 2 * binom.cdf(smaller, discordant, 0.5) - of_tie

    critical = binom.ppf(alpha / 2, discordant, 0.5).astype(int)  # the largest min(b, c) that rejects, or one above it
    critical = np.where(p_value(critical) <= alpha, critical, critical - 1)
    share = (1 + difference / discordance) / 2
    rejects = binom.cdf(critical, discordant, share) + binom.sf(discordant - critical - 1, discordant, share)
    return np.where(critical < 0, 0.0, rejects)


def mcnemar_sample_size(
    difference: float, discordance: float, *, alpha: float = 0.05, power: float = 0.8, design_effect: float = 1.0
) -> int:
    """Clips that McNemar's exact test needs: the smallest n with power >= `power`, times `design_effect`, rounded up.

    Exact power is saw-toothed, so a slightly larger n may fall short again; the n returned is the first to reach it.
    The search starts where an upper bound of the power, monotone in n, reaches the goal: no smaller n can.
    Raises ValueError for a difference of 0, a power outside (alpha, 1), design_effect <= 0, and as `mcnemar_power`.
    """
    _check_effect(difference, discordance, alpha)
    if difference == 0 or not alpha < power < 1 or design_effect <= 0:
        raise ValueError(
            f"difference {difference}, power {power}, design_effect {design_effect}: give a difference other than 0, "
            f"a power between alpha ({alpha}) and 1, and a design effect above 0"
        )
    enough, rejects = 1, np.zeros(2)
    while _expected(rejects, enough, discordance) < power:
        enough *= 2
        rejects = _rejection(np.arange(enough + 1), difference, discordance, alpha, "exact")
    # b + c grows with n and the running maximum never falls in b + c, so neither does its mean.
    running = np.maximum.accumulate(rejects)
    start = bisect.bisect_left(range(enough), power, key=lambda n: _expected(running, n, discordance))
    smallest = next(n for n in range(start, enough + 1) if _expected(rejects, n, discordance) >= power)
    return math.ceil(round(smallest * design_effect, 9))  # 100 x 1.1 is 110, not 111 by rounding error


def smallest_difference(
    n: int, *, discordance: float, step: float = 0.01, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """Smallest difference of two accuracies, in steps of `step`, that McNemar's exact test shows with this power.

    n: independent items, answered by both detectors; `discordance`: share of them on which just one is right. A larger
    difference raises the discordance to itself (all disagreements point one way). None where even that does not do.
    """
    steps = range(1, round(1 / step) + 1)

    def power_of(count: int, items: int) -> float:
        difference = min(1.0, count * step)
        return mcnemar_power(items, difference, max(discordance, difference), alpha=alpha)

    if n > MANY and power_of(1, MANY) > max(power, NEARLY_ALL):  # more items show no less: none need be gone through
        return step
    at = bisect.bisect_left(steps, True, key=lambda count: power_of(count, n) >= power)
    return None if at == len(steps) else round(steps[at] * step, 12)
