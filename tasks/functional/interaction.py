"""SNR x duration: whether noise costs more on short clips, by a logistic regression of trials robust to their groups.

A GLMM with random intercepts by clip and group is left out, since no permissive package both fits one soundly and
installs beside the pinned libraries: statsmodels' variational errors are too small, those of gpboost 1.8 come out
undefined in some fits and far too large in others, and Bambi 0.17 on PyMC 5.27, which samples, cannot be imported with
matplotlib 3.11 (arviz-plots 0.8 wants a module that is gone). lme4 is GPL. Cluster-robust errors ask for no model of
how clips of a group are alike; their coefficients are those of the population, not of one group.
"""

import math

import numpy as np
import pandas as pd

from tasks.functional.metrics import is_correct
from tasks.functional.report_schema import Section
from tasks.functional.significance import cluster_logit

TERMS = {"Intercept": "intercept", "snr": "snr_db", "decades": "log10_duration_ms", "snr:decades": "interaction"}
ALL = "all clips"


class Coefficient(Section):
    """A change in log odds of being right: per dB, per decade of duration, per both; None where no error is known."""

    value: float
    se: float | None
    ci95: tuple[float, float] | None
    p: float | None  # two-sided


class TrialFit(Section):
    """correct ~ snr_db * log10(duration_ms), both around `centre`, on the clips with noise and a set duration.

    Errors are cluster-robust over groups, times G / (G - 1); intervals and p by Student's t with `df`, one less than
    the smaller class's number of groups.
    """

    clips: int
    groups: int
    df: int
    mcfadden_r2: float | None  # of trials
    coefficients: dict[str, Coefficient]
    reason: str | None  # why there is no fit or no error, or what it is worth


class Interaction(Section):
    """The fit over all clips, and over each class by itself: a bias that moves with noise or duration hides in the first."""

    centre: dict[str, float]  # snr_db, log10_duration_ms: the means of the clips' levels
    fits: dict[str, TrialFit]


def interaction_section(rows: pd.DataFrame, *, positive: str = "SPEECH") -> Interaction | None:
    """How SNR and duration act together on being right; None where not both vary among clips that have both.

    rows: clip_id, label, group_id, snr_db (dB), duration_ms (ms) and the final prediction; a null one is wrong.
    Jaeger 2008 on logits of trials, Cameron & Miller 2015 on errors over groups.
    Raises ValueError for a duration that is not above 0.
    """
    if not {"snr_db", "duration_ms"} <= set(rows):
        return None
    at = rows[rows["snr_db"].notna() & rows["duration_ms"].notna()]
    if at["snr_db"].nunique() < 2 or at["duration_ms"].nunique() < 2:
        return None
    if (short := at["duration_ms"] <= 0).any():
        raise ValueError(
            f"clip {at.loc[short, 'clip_id'].iloc[0]!r} has a duration of {at.loc[short, 'duration_ms'].iloc[0]:g} ms"
        )
    levels = pd.DataFrame({"snr": at["snr_db"].astype(float), "decades": np.log10(at["duration_ms"].astype(float))})
    centre = levels.mean()
    correct = is_correct(at["prediction"], at["label"], positive=positive).astype(float)
    trials = (levels - centre).assign(correct=correct, group_id=at["group_id"], label=at["label"])
    fits = {ALL: _fit(trials)}
    if trials["label"].nunique() == 2:
        fits |= {str(label): _fit(of) for label, of in trials.groupby("label")}
    return Interaction(centre={TERMS[str(name)]: float(mean) for name, mean in centre.items()}, fits=fits)


def _fit(trials: pd.DataFrame) -> TrialFit:
    groups = trials["group_id"].nunique()
    df = int(trials.groupby("label")["group_id"].nunique().min()) - 1

    def without(reason: str) -> TrialFit:
        return TrialFit(clips=len(trials), groups=groups, df=df, mcfadden_r2=None, coefficients={}, reason=reason)

    if trials["correct"].nunique() < 2:
        return without(f"every clip is {'right' if trials['correct'].iloc[0] else 'wrong'}: nothing to fit")
    if groups < 2:
        return without("all clips are of one group: errors over groups need 2")
    try:
        found = cluster_logit(trials, "correct ~ snr * decades")
    except ValueError as error:
        return without(str(error))
    sure = df >= 1 and groups > len(found.names)  # fewer groups than coefficients leave the sandwich singular
    coefficients = {
        TERMS[name]: _coefficient(float(value), float(se) if sure else None, df)
        for name, value, se in zip(found.names, found.coef, found.se, strict=True)
    }
    few = f"only {df + 1} groups in the smaller class: unreliable" if df < 4 else None
    reason = (
        few
        if sure
        else f"{groups} groups, {df + 1} in the smaller class: too few for errors of {len(found.names)} coefficients"
    )
    return TrialFit(
        clips=len(trials), groups=groups, df=df, mcfadden_r2=found.mcfadden_r2, coefficients=coefficients, reason=reason
    )  # fmt: skip


def _coefficient(value: float, se: float | None, df: int) -> Coefficient:
    from scipy.special import stdtr, stdtrit

    if se is None or not math.isfinite(se) or se <= 0:
        return Coefficient(value=value, se=None, ci95=None, p=None)
    half = float(stdtrit(df, 0.975)) * se
    p = 2 * float(stdtr(df, -abs(value) / se))
    return Coefficient(value=value, se=se, ci95=(value - half, value + half), p=p)
