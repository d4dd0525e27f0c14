"""The `psychometric` section of the report: curves over duration and SNR, and the thresholds read from them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import AfterValidator
from scipy.special import chdtrc, xlogy

from tasks.functional.levels import ascending, level_name
from tasks.functional.metrics import FloatArray, dprime
from tasks.functional.psychometric import PsychometricFit, deviance_p_value, model_of
from tasks.functional.ranking import models, roc_auc_within
from tasks.functional.report_schema import Section
from tasks.functional.sigmoid_fits import Transform
from tasks.functional.threshold_intervals import (
    Ends,
    Sought,
    balanced_cells,
    fit_whole,
    hit_cells,
    level_counts,
    threshold_interval,
)

FACTORS = ("duration_ms", "snr_db", "band", "room", "context")  # pooled where they vary
LEFT_OUT = {"duration_ms": "no duration", "snr_db": "no noise added"}
CHANCE, MAX_LAPSE = 0.5, 0.1
N_POINTS = 60  # of a curve to draw


# --- the document ------------------------------------------------------------------------------------------------


class CurveThreshold(Section):
    """DT75 or SNR75, the level at which psi = .75; or DT50, the one at which F = .5 on the hit-rate curve. ms or dB.

    A `censored` value lies outside the levels and is extrapolated, as are ends outside them. An end is None where
    the resamples that do not reach p leave it open.
    """

    definition: Literal["psi = .75", "F = .5"]
    value: float | None
    censored: Literal["below", "above"] | None = None
    ci95: Ends | None = None  # over groups within class
    method: Literal["t", "bootstrap"] | None = None
    not_reached: float | None = None  # share of the resamples
    reason: str | None = None  # why there is no value or interval, or what they are worth
    ci95_supergroup: Ends | None = None
    reason_supergroup: str | None = None  # as `reason`, of the interval by supergroup


class Curve(Section):
    """psi = guess_rate + (1 - guess_rate - lapse_rate) F(intercept + slope x), F logistic, x = log10(ms) or dB.

    The p-values take clips for independent, which clips of one group are not. slope_p: likelihood ratio against a
    constant. deviance_p: parametric bootstrap; a small one means another curve, or clips that resemble each other.
    """

    intercept: float
    slope: float
    slope_p: float
    guess_rate: float
    guess: Literal["fixed", "false alarms"]
    false_alarms_alike_p: float | None = None  # that one false-alarm rate holds at all levels: likelihood ratio
    lapse_rate: float
    lapse_at_bound: bool  # at 0.1: the true one may be larger
    converged: bool
    deviance: float
    deviance_p: float
    thresholds: dict[str, CurveThreshold]
    points: list[tuple[float, float]]  # (level, psi) from the lowest to the highest level


class CurveLevel(Section):
    """One level: the rates that the curves are fitted to; d' and criterion (log-linear) and AUC need no curve.

    A clip without a usable answer is wrong: one of the second class counts in false_alarm_rate, d' and criterion, though
    `Errors` lists it as no false alarm.
    """

    level: float
    clips: int
    groups: int
    correct: float  # mean of both classes' recalls
    hit_rate: float
    false_alarm_rate: float
    d_prime: float
    criterion: float  # below 0 the first class is favoured
    roc_auc: (
        float | None
    )  # within models, one a fold and seed; None where a clip has no p_speech, or all have one class


class Curves(Section):
    """All that is said of one factor. There is no DT50 on the scale of correct responses, which starts at .5.

    correct: class-balanced correct responses, guess rate .5, lapse rate free in [0, .1]. Where a level's classes
    differ in clips, `threshold_intervals.balanced_cells` says what it counts.
    hit_rate: speech clips answered so, over duration only; the guess rate is the rate of false alarms at all levels.
    """

    unit: Literal["ms", "dB"]
    at: dict[str, float]  # factors that are held
    pooled: dict[str, float]  # factors that vary -> how far a level's mix is from the whole mix, 0 (crossed) to 1
    clips: int
    groups: dict[str, int]
    left_out: dict[str, int]  # why -> clips
    levels: list[CurveLevel]
    correct: Curve | None
    hit_rate: Curve | None
    reason: str | None  # why there is no curve


class Psychometric(Section):
    """Curves over duration, over SNR, and over SNR at each duration; what else varies is pooled."""

    n_boot: int
    duration_ms: Curves | None
    snr_db: Curves | None
    snr_db_by_duration: Annotated[dict[str, Curves], AfterValidator(ascending)]


# --- the section -------------------------------------------------------------------------------------------------


class _Rule(NamedTuple):
    classes: Sequence[str]  # the first is the positive one
    n_boot: int
    seed: int


def psychometric_section(
    rows: pd.DataFrame, *, classes: Sequence[str], n_boot: int = 1000, seed: int
) -> Psychometric | None:
    """The section of one detector's decided test rows; None where no row has a duration or an SNR.

    rows: label, prediction (null is wrong), group_id, duration_ms and/or snr_db; p_speech and supergroup_id if known.
    Raises ValueError for a level that is infinite, and a duration that is not above 0.
    """
    rule, rows = _Rule(classes, n_boot, seed), rows.assign(right=rows["prediction"] == rows["label"])
    rows = rows.assign(**{factor: _numbers(rows, factor) for factor in LEFT_OUT})
    if rows[list(LEFT_OUT)].isna().all(axis=None):
        return None
    with_snr = rows[rows["snr_db"].notna()]
    return Psychometric(
        n_boot=n_boot,
        duration_ms=_curves(rows, "duration_ms", rule) if rows["duration_ms"].notna().any() else None,
        snr_db=_curves(rows, "snr_db", rule) if len(with_snr) else None,
        snr_db_by_duration={
            level_name(duration, "duration_ms"): _curves(
                rows[rows["duration_ms"] == duration], "snr_db", rule, duration_ms=float(duration)
            )
            for duration in with_snr["duration_ms"].dropna().unique()
        },
    )


def _numbers(rows: pd.DataFrame, factor: str) -> pd.Series:
    """The factor as floats, null where the table has none."""
    if factor not in rows:
        return pd.Series(np.nan, index=rows.index)
    level = rows[factor].astype(float)
    bad = np.isinf(level) | (level <= 0) if factor == "duration_ms" else np.isinf(level)
    if bad.any():
        raise ValueError(
            f"{factor} is {level[bad].iloc[0]:g} in {bad.sum()} of {len(rows)} rows: give a number, or null for none"
        )
    return level


def _curves(rows: pd.DataFrame, factor: str, rule: _Rule, **at: float) -> Curves:
    known = rows[rows[factor].notna()]
    both = known.groupby(factor)["label"].transform("nunique") == 2
    used = known[both]
    left_out = {LEFT_OUT[factor]: len(rows) - len(known), "of the only class at their level": int((~both).sum())}
    levels = [_level(level, clips, rule) for level, clips in used.groupby(factor)]
    few = f"{len(levels)} level{'' if len(levels) == 1 else 's'} with clips of both classes: a curve needs at least 3"
    reason = None if len(levels) > 2 else few
    return Curves(
        unit="ms" if factor == "duration_ms" else "dB",
        at=at,
        pooled={other: _unlike(used, factor, other) for other in FACTORS if other != factor and _varies(used, other)},
        clips=len(used),
        groups={name: used.loc[used["label"] == name, "group_id"].nunique() for name in rule.classes},
        left_out={why: clips for why, clips in left_out.items() if clips},
        levels=levels,
        correct=None if reason else _correct(used, factor, rule),
        hit_rate=None if reason or factor != "duration_ms" else _hit_rate(used, factor, rule),
        reason=reason,
    )


def _varies(rows: pd.DataFrame, factor: str) -> bool:
    return factor in rows and rows[factor].nunique(dropna=False) > 1


def _unlike(rows: pd.DataFrame, factor: str, other: str) -> float:
    """Largest total variation distance between a level's mix of the other factor and the mix of all rows."""
    clips = pd.crosstab(rows[factor], pd.factorize(rows[other])[0]).to_numpy(dtype=float)
    of_level, of_all = clips / clips.sum(axis=1, keepdims=True), clips.sum(axis=0) / clips.sum()
    return float(np.abs(of_level - of_all).sum(axis=1).max() / 2)


def _level(level: Any, clips: pd.DataFrame, rule: _Rule) -> CurveLevel:
    speech, right = clips["label"] == rule.classes[0], clips["right"]
    hits, n_speech = int((speech & right).sum()), int(speech.sum())
    false_alarms, n_nonspeech = int((~speech & ~right).sum()), int((~speech).sum())
    scored = "p_speech" in clips and clips["p_speech"].notna().all()
    observer = dprime(hits, n_speech, false_alarms, n_nonspeech)
    return CurveLevel(
        level=float(level),
        clips=len(clips),
        groups=clips["group_id"].nunique(),
        correct=(hits / n_speech + 1 - false_alarms / n_nonspeech) / 2,
        hit_rate=hits / n_speech,
        false_alarm_rate=false_alarms / n_nonspeech,
        d_prime=observer.dprime,
        criterion=observer.criterion,
        roc_auc=_auc(clips, rule) if scored else None,
    )


def _auc(clips: pd.DataFrame, rule: _Rule) -> float | None:
    model = models(clips)
    if not (clips["label"].groupby(model).nunique() == 2).any():
        return None
    return roc_auc_within(clips["p_speech"], clips["label"], model, positive=rule.classes[0])


# --- curves ------------------------------------------------------------------------------------------------------


def _correct(rows: pd.DataFrame, factor: str, rule: _Rule) -> Curve:
    counts = level_counts(rows, factor)
    name = "DT75" if factor == "duration_ms" else "SNR75"
    x_transform: Transform = "log10" if factor == "duration_ms" else None
    model = model_of(counts.levels, "logistic", x_transform, CHANCE, None, MAX_LAPSE)
    sought = Sought(model, balanced_cells, 0.75, scaled=True)
    fit = fit_whole(counts, sought)
    return _curve(fit, {name: _threshold(name, fit, sought, rows, factor, rule)}, rule)


def _hit_rate(rows: pd.DataFrame, factor: str, rule: _Rule) -> Curve:
    counts = level_counts(rows, factor)
    model = model_of(counts.levels, "logistic", "log10", None, None, MAX_LAPSE)
    sought = Sought(model, lambda drawn: hit_cells(drawn, rule.classes[0]), 0.5, scaled=False)
    fit = fit_whole(counts, sought)
    rejections, nonspeech = next(cells for name, cells in counts.whole().items() if name != rule.classes[0])
    alike = _alike(nonspeech[0] - rejections[0], nonspeech[0])
    return _curve(fit, {"DT50": _threshold("DT50", fit, sought, rows, factor, rule)}, rule, false_alarms_alike_p=alike)


def _alike(events: FloatArray, trials: FloatArray) -> float:
    """p-value of one rate for all (n,) levels, by likelihood ratio."""

    def log_likelihood(rate: FloatArray) -> float:
        return float((xlogy(events, rate) + xlogy(trials - events, 1 - rate)).sum())

    gain = log_likelihood(events / trials) - log_likelihood(np.array(events.sum() / trials.sum()))
    return float(chdtrc(len(trials) - 1, max(0.0, 2 * gain)))


def _curve(
    fit: PsychometricFit,
    thresholds: dict[str, CurveThreshold],
    rule: _Rule,
    *,
    false_alarms_alike_p: float | None = None,
) -> Curve:
    lowest, highest = float(fit.levels.min()), float(fit.levels.max())
    spaced = np.geomspace if fit.model.x_transform else np.linspace
    at = np.clip(spaced(lowest, highest, N_POINTS), lowest, highest)
    return Curve(
        intercept=fit.intercept,
        slope=fit.slope,
        slope_p=fit.slope_p_value,
        guess_rate=fit.guess_rate,
        guess="false alarms" if fit.false_alarms else "fixed",
        false_alarms_alike_p=false_alarms_alike_p,
        lapse_rate=fit.lapse_rate,
        lapse_at_bound=fit.lapse_rate >= MAX_LAPSE,
        converged=fit.converged,
        deviance=fit.deviance,
        deviance_p=deviance_p_value(fit, n_boot=rule.n_boot, seed=rule.seed),
        thresholds=thresholds,
        points=list(zip(at.tolist(), fit.psi(at).tolist(), strict=True)),
    )


def _threshold(
    name: str, fit: PsychometricFit, sought: Sought, rows: pd.DataFrame, factor: str, rule: _Rule
) -> CurveThreshold:
    """The threshold with its intervals. Performance that falls with duration or SNR has none: no level is enough."""
    definition: Literal["psi = .75", "F = .5"] = "psi = .75" if sought.scaled else "F = .5"
    found = fit.threshold(sought.p, scaled=sought.scaled)
    if found.value is not None and fit.slope < 0:
        found = found._replace(
            value=None, censored=None, reason=f"performance falls with the level: there is no {name}"
        )
    if found.value is None or not fit.converged:
        reason = f"{found.reason}: no interval" if found.value is not None else found.reason
        return CurveThreshold(definition=definition, value=found.value, censored=found.censored, reason=reason)
    groups = ["group_id", *(["supergroup_id"] if "supergroup_id" in rows else [])]
    own, *wider = (
        threshold_interval(
            level_counts(rows, factor, group=group), sought, found.value, n_boot=rule.n_boot, seed=rule.seed
        )
        for group in groups
    )
    return CurveThreshold(
        definition=definition,
        value=found.value,
        censored=found.censored,
        ci95=own.ends,
        method=own.method,
        not_reached=own.not_reached,
        reason=own.reason,
        ci95_supergroup=wider[0].ends if wider else None,
        reason_supergroup=wider[0].reason if wider else None,
    )
