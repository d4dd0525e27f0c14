"""What a difference or a score is worth: intervals over groups, paired tests, power, and the price of leakage."""

import math
import warnings
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.functional.mcnemar import McNemarResult as McNemarResult
from tasks.functional.mcnemar import mcnemar_power as mcnemar_power
from tasks.functional.mcnemar import mcnemar_sample_size as mcnemar_sample_size
from tasks.functional.mcnemar import mcnemar_test as mcnemar_test
from tasks.functional.metrics import FloatArray, IntArray
from tasks.functional.resampling import Interval as Interval
from tasks.functional.resampling import (
    need_columns,
    need_two_groups,
    paired_rows,
    percentile_interval,
    resample,
    units_of,
)
from tasks.functional.weighted_metrics import Statistic, WeightedStatistic, weighted_statistic


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
    from scipy.special import betaincinv, ndtri

    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}: give 0 <= successes <= n with n >= 1")
    tail = (1 - confidence) / 2
    if method == "exact":
        low = betaincinv(successes, n - successes + 1, tail) if successes else 0.0
        high = betaincinv(successes + 1, n - successes, 1 - tail) if successes < n else 1.0
        return Interval(float(low), float(high))
    if method != "wilson":
        raise ValueError(f"method is {method!r}; accepted are 'wilson' and 'exact'")
    z, rate = float(ndtri(1 - tail)), successes / n
    centre, half = rate + z**2 / (2 * n), z * math.sqrt(rate * (1 - rate) / n + (z / (2 * n)) ** 2)
    low, high = ((centre + side * half) / (1 + z**2 / n) for side in (-1, 1))
    return Interval(float(low) if successes else 0.0, float(high) if successes < n else 1.0)


def adjust_pvalues(p: npt.ArrayLike, *, method: Literal["holm", "fdr_bh"] = "holm") -> FloatArray:
    """p-values (n,) adjusted for being n: Holm (1979), or the false discovery rate of Benjamini & Hochberg (1995)."""
    values = np.asarray(p, dtype=float)
    if values.ndim != 1 or not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p-values lie in [0, 1] and there is at least one, not {values.tolist()}")
    if method not in ("holm", "fdr_bh"):
        raise ValueError(f"method is {method!r}; accepted are 'holm' and 'fdr_bh'")
    order, n = np.argsort(values, kind="stable"), len(values)
    if method == "holm":
        stepped = np.maximum.accumulate(values[order] * np.arange(n, 0, -1))
    else:
        stepped = np.minimum.accumulate((values[order] * n / np.arange(1, n + 1))[::-1])[::-1]
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


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
    icc, deff = likeness(x, code, np.zeros(len(x), dtype=int))
    return DesignEffect(icc, deff, len(x) / deff, len(names))


def likeness(x: npt.NDArray[np.number], group: IntArray, stratum: IntArray) -> tuple[float, float]:
    """ICC(1) of values (n,) within the groups of their strata, and the design effect that follows.

    Both codes count from 0 and a group lies in one stratum. One-way analysis of variance around each stratum's mean;
    with one stratum the ICC of Donner & Koval (1980). NaN and 1 where no group has two values; NaN and Kish's mean
    group size, which is the most there can be, where every stratum has one group or the values do not vary.
    """
    n, n_groups, size = len(x), int(group.max()) + 1, np.bincount(group)
    if n == n_groups:
        return math.nan, 1.0
    of_stratum = np.zeros(n_groups, dtype=int)
    of_stratum[group] = stratum
    clips, n_strata = np.bincount(stratum), int(stratum.max()) + 1
    mean, expected = np.bincount(group, weights=x) / size, np.bincount(stratum, weights=x) / clips
    between = float((size * (mean - expected[of_stratum]) ** 2).sum())
    within = float(((x - mean[group]) ** 2).sum()) / (n - n_groups)
    kish = float((size**2).sum() / n)
    if n_groups == n_strata or between == within == 0:
        return math.nan, kish
    between /= n_groups - n_strata
    typical_size = float((n - (np.bincount(of_stratum, weights=size**2) / clips).sum()) / (n_groups - n_strata))
    icc = (between - within) / (between + (typical_size - 1) * within)
    return icc, max(1.0, 1 + (kish - 1) * icc)


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
