"""What a difference or a score is worth: intervals over groups, paired tests, power, and the price of leakage."""

import bisect
import math
import warnings
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.functional.metrics import FloatArray, IntArray, Statistic, WeightedStatistic, weighted_statistic
from tasks.functional.resampling import Interval as Interval
from tasks.functional.resampling import (
    need_columns,
    need_two_groups,
    paired_rows,
    percentile_interval,
    resample,
    units_of,
)

McNemarMethod = Literal["exact", "midp"]


class McNemarResult(NamedTuple):
    """b: clips a has right and b wrong; c: the other way round; difference = mean(a) - mean(b)."""

    b: int
    c: int
    p_value: float
    difference: float


class DesignEffect(NamedTuple):
    """icc: correlation within groups (NaN where no group has two clips); n_eff = clips / deff."""

    icc: float
    deff: float
    n_eff: float
    n_groups: int


class Inflation(NamedTuple):
    """Balanced accuracy under the leaky protocol minus the clean one's, mean over seeds, and for each seed."""

    value: float
    low: float
    high: float
    se: float
    per_seed: dict[int, float]


class LogitFit(NamedTuple):
    """Coefficients in log odds with cluster-robust standard errors, in patsy's names and order."""

    names: tuple[str, ...]
    coef: FloatArray
    se: FloatArray
    mcfadden_r2: float


# --- independent items -------------------------------------------------------------------------------------------


def binomial_interval(
    successes: int, n: int, *, confidence: float = 0.95, method: Literal["wilson", "exact"] = "wilson"
) -> Interval:
    """Interval of a rate in [0, 1] over n independent items: Wilson (1927) score, or exact (Clopper & Pearson 1934).

    Clips of one recording are not independent: use `clustered_interval`. Raises ValueError unless 0 <= successes <= n.
    """
    from scipy.stats import binomtest

    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}: give 0 <= successes <= n with n >= 1")
    if method not in ("wilson", "exact"):
        raise ValueError(f"method is {method!r}; accepted are 'wilson' and 'exact'")
    return Interval(*binomtest(successes, n).proportion_ci(confidence, method=method))


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
    return _expected(_rejection(n, difference, discordance, alpha, _checked(method)), n, discordance)


def _check_effect(difference: float, discordance: float, alpha: float) -> None:
    if not abs(difference) <= discordance <= 1 or discordance == 0:
        raise ValueError(f"give |difference| <= discordance <= 1, not {difference} and {discordance}")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is {alpha}, give a level between 0 and 0.5")


def _expected(by_discordant: FloatArray, n: int, discordance: float) -> float:
    """Mean of by_discordant[b + c] over b + c ~ Binomial(n, discordance), but for tails below 1e-20."""
    from scipy.stats import binom

    mean, spread = n * discordance, 12 * math.sqrt(n * discordance * (1 - discordance)) + 30
    likely = np.arange(max(0, int(mean - spread)), min(n, math.ceil(mean + spread)) + 1)
    return float(binom.pmf(likely, n, discordance) @ by_discordant[likely])


def _rejection(n: int, difference: float, discordance: float, alpha: float, method: McNemarMethod) -> FloatArray:
    """P(test rejects | b + c) for each b + c from 0 to n, (n + 1,)."""
    from scipy.stats import binom

    discordant = np.arange(n + 1)

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
        rejects = _rejection(enough, difference, discordance, alpha, "exact")
    # b + c grows with n and the running maximum never falls in b + c, so neither does its mean.
    running = np.maximum.accumulate(rejects)
    start = bisect.bisect_left(range(enough), power, key=lambda n: _expected(running, n, discordance))
    smallest = next(n for n in range(start, enough + 1) if _expected(rejects, n, discordance) >= power)
    return math.ceil(round(smallest * design_effect, 9))  # 100 x 1.1 is 110, not 111 by rounding error


def adjust_pvalues(p: npt.ArrayLike, *, method: Literal["holm", "fdr_bh"] = "holm") -> FloatArray:
    """p-values (n,) adjusted for being n: Holm (1979), or the false discovery rate of Benjamini & Hochberg (1995)."""
    from statsmodels.stats.multitest import multipletests

    values = np.asarray(p, dtype=float)
    if values.ndim != 1 or not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p-values lie in [0, 1] and there is at least one, not {values.tolist()}")
    if method not in ("holm", "fdr_bh"):
        raise ValueError(f"method is {method!r}; accepted are 'holm' and 'fdr_bh'")
    return np.asarray(multipletests(values, method=method)[1])


# --- clips of one group are alike -------------------------------------------------------------------------------


def cluster_bootstrap(
    table: pd.DataFrame,
    statistic: Statistic,
    *,
    group: str = "group_id",
    strata: str = "label",
    n_boot: int = 10_000,
    seed: int,
    confidence: float = 0.95,
    positive: str = "SPEECH",
) -> Interval:
    """Percentile interval over resamples of whole groups, drawn within each stratum (Davison & Hinkley 1997, ch. 3.8).

    table: a row a clip with label and prediction (or p_speech); the drawn unit is (stratum, group). `statistic` is a
    name that `metrics.weighted_statistic` knows or a function of the rows.
    Raises ValueError for a stratum of fewer than 2 groups, and where a resample leaves the statistic undefined.
    """
    units = units_of(table, group, strata)
    need_two_groups(units)
    values = resample(weighted_statistic(table, statistic, units.unit, positive=positive), units, n_boot, seed)
    if undefined := int((~np.isfinite(values)).sum()):
        raise ValueError(f"{statistic} is undefined in {undefined} of {n_boot} resamples: it has no interval")
    return percentile_interval(values, confidence)


def design_effect(correct: npt.ArrayLike, groups: npt.ArrayLike) -> DesignEffect:
    """How much less (n,) clips of few groups tell than as many independent ones.

    ICC(1) from one-way ANOVA (Donner & Koval 1980) and Kish's deff = 1 + (sum n_g^2 / n - 1) icc, held at 1 where the
    ICC is negative: clips never count for more than clips. Group ids of two classes must differ.
    Raises ValueError under 2 groups, for a null group, and where all clips are right or all wrong.
    """
    x, (code, names) = np.asarray(correct, dtype=float), pd.factorize(np.asarray(groups, dtype=object))
    if x.shape != code.shape or not np.isin(x, (0, 1)).all() or (code < 0).any() or len(names) < 2:
        raise ValueError(f"give 1/0 and a group for each clip, from 2 groups: {x.size} clips, {len(names)} groups")
    if x.min() == x.max():
        raise ValueError(f"all {len(x)} clips are {'right' if x[0] else 'wrong'}: their correlation is undefined")
    n, n_groups, size = len(x), len(names), np.bincount(code)
    if n == n_groups:
        return DesignEffect(math.nan, 1.0, float(n), n_groups)
    mean = np.bincount(code, weights=x) / size
    between = float((size * (mean - x.mean()) ** 2).sum()) / (n_groups - 1)
    within = float(((x - mean[code]) ** 2).sum()) / (n - n_groups)
    typical_size = (n - (size**2).sum() / n) / (n_groups - 1)
    icc = float((between - within) / (between + (typical_size - 1) * within))
    deff = max(1.0, float(1 + ((size**2).sum() / n - 1) * icc))
    return DesignEffect(icc, deff, n / deff, n_groups)


# --- leakage, and models of trials ---------------------------------------------------------------------------------


def leakage_inflation(
    predictions: pd.DataFrame,
    *,
    leaky: str = "random",
    clean: str = "group",
    threshold: float = 0.5,
    n_boot: int = 10_000,
    seed: int,
    confidence: float = 0.95,
    positive: str = "SPEECH",
) -> Inflation:
    """How much better a leaky split scores: balanced accuracy under `leaky` minus `clean`, paired by clip.

    predictions: clip_id, group_id, label, p_speech (null is wrong), seed, protocol; a clip once a seed and protocol.
    `value` is the mean over seeds; interval (percentile) and `se` (sd) are over groups resampled within class, which
    carry all their seeds.
    Raises ValueError where seeds or protocols were scored on different clips, or a class has fewer than 2 groups.
    """
    need_columns(predictions, "clip_id", "group_id", "label", "p_speech", "seed", "protocol")
    if predictions.empty:
        raise ValueError("the table has no rows: there is no inflation to measure")
    answers = (predictions["p_speech"] >= threshold).astype(float).where(predictions["p_speech"].notna())
    runs = dict(iter(predictions.assign(prediction=answers).groupby(["protocol", "seed"])))
    seeds = sorted(predictions["seed"].unique().tolist())
    if absent := [(name, s) for s in seeds for name in (leaky, clean) if (name, s) not in runs]:
        raise ValueError(f"no predictions for {absent}: each seed is scored under {leaky!r} and {clean!r}")
    first = runs[clean, seeds[0]]
    units = units_of(first)
    need_two_groups(units)

    def scored(protocol: str, seed: int) -> WeightedStatistic:
        rows = paired_rows(first, runs[protocol, seed], ["clip_id"])[1]
        return weighted_statistic(rows, "balanced_accuracy", units.unit, positive=positive)

    pairs = [(scored(leaky, s), scored(clean, s)) for s in seeds]

    def inflation(weights: FloatArray) -> FloatArray:
        return np.array([with_leak(weights) - without(weights) for with_leak, without in pairs])

    per_seed = inflation(np.ones((1, units.n)))[:, 0]
    drawn = resample(lambda weights: inflation(weights).mean(axis=0), units, n_boot, seed)
    by_seed = {int(s): float(value) for s, value in zip(seeds, per_seed, strict=True)}
    return Inflation(
        float(per_seed.mean()), *percentile_interval(drawn, confidence), float(drawn.std(ddof=1)), by_seed
    )


def cluster_logit(table: pd.DataFrame, formula: str, *, group: str = "group_id") -> LogitFit:
    """Logistic regression of trials, e.g. "correct ~ snr_db * np.log10(duration_ms)", errors robust to their groups.

    Sandwich over groups times G / (G - 1), as Stata's vce(cluster) (Cameron & Miller 2015); coefficients in log odds;
    McFadden's R2 = 1 - ll / ll0 of trials, never of aggregated counts.
    Raises ValueError under 2 groups, for a null in a column used, and where the fit does not converge (separable).
    """
    import statsmodels.formula.api as smf
    from patsy import PatsyError  # type: ignore[import-untyped]

    need_columns(table, group)
    if (n_groups := table[group].nunique()) < 2 or table[group].isna().any():
        raise ValueError(f"{group} has {n_groups} values, or a null: cluster-robust errors need 2 groups and no null")
    response = formula.split("~")[0].strip()
    if response in table and table[response].dtype == bool:
        table = table.astype({response: float})  # patsy would make two columns of it
    robust = {"groups": pd.factorize(table[group])[0], "use_correction": False}
    try:
        model = smf.logit(formula, table)
        if dropped := len(table) - len(model.endog):
            raise ValueError(f"{dropped} of {len(table)} rows have a null in {formula!r}: drop or fill them first")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they warn of raises below
            fit = model.fit(disp=0, cov_type="cluster", cov_kwds=robust)
    except (PatsyError, np.linalg.LinAlgError) as error:
        raise ValueError(f"{formula!r} cannot be fitted: {error}; check its names, drop redundant terms") from error
    if not fit.mle_retvals["converged"]:
        raise ValueError(f"{formula!r} did not converge: a term separates right from wrong; drop it or merge levels")
    se = np.asarray(fit.bse) * math.sqrt(n_groups / (n_groups - 1))
    return LogitFit(tuple(model.exog_names), np.asarray(fit.params), se, float(fit.prsquared))
