"""One detector's part of the report: every metric with the interval its groups allow, over all clips and by factor."""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import pandas as pd

from tasks.functional.calibration import Confidences, calibration_error, confidences, reliability
from tasks.functional.intervals import ClusteredInterval, clustered_interval
from tasks.functional.levels import ascending, level_names, varied
from tasks.functional.metrics import OF_SCORES, is_correct
from tasks.functional.predictions import FIXED_THRESHOLD, Decided
from tasks.functional.ranking import models
from tasks.functional.report_schema import (
    Bin,
    Calibration,
    Cell,
    Count,
    DesignEffect,
    Detector,
    Level,
    Metric,
    Resamples,
    Size,
    Threshold,
)
from tasks.functional.score_curves import score_curves
from tasks.functional.significance import design_effect

RANKINGS = ("roc_auc", "average_precision")
OF_BOTH_CLASSES = ("balanced_accuracy", "d_prime", "criterion", *RANKINGS)
MOST_RESAMPLES = {"average_precision": 1000, "by": 2000, "thresholds": 1000}  # report_schema.Resamples says why
N_BINS = 15
ThresholdRule = Literal["fixed", "dev"]
PointMetrics = Callable[
    [pd.DataFrame, Sequence[str], Sequence[str]], Mapping[str, float]
]  # rows, classes, names -> values


class Rule(NamedTuple):
    """What every interval of one report shares; the first class is the positive one.

    point_metrics: computes the value of each metric of a detector over all its clips, e.g. by scikit-learn. Without it, and
    always at the levels of a factor, the value comes from the sums over groups that the intervals are made of.
    """

    classes: tuple[str, str]
    n_boot: int
    seed: int
    point_metrics: PointMetrics | None = None


def resamples_of(rule: Rule) -> Resamples:
    """How many draws stand behind the bootstrap intervals of a report."""
    capped = {name: min(rule.n_boot, most) for name, most in MOST_RESAMPLES.items()}
    return Resamples(metrics=rule.n_boot, **capped)


def detector_section(decided: Decided, factors: Sequence[str], rule: Rule) -> Detector:
    """All that is said of one detector. Factors that its table does not have are left out."""
    rows, first = decided.rows, decided.rows.iloc[0]
    return Detector(
        method=first["method"] or None,
        seed=None if pd.isna(first["seed"]) or rows["seed"].nunique() > 1 else int(first["seed"]),
        n=size_of(rows, rule),
        threshold=_threshold(decided, rule),
        metrics=metrics_of(rows, rule),
        by={factor: by_level(varied(rows, factor), factor, rule) for factor in factors if factor in rows},
        confusion=_confusion(rows, rule),
        curves=score_curves(rows, rule.classes),
    )


def size_of(rows: pd.DataFrame, rule: Rule) -> Size:
    """Clips, base clips, groups, and both classes' shares in them."""

    def count(some: pd.DataFrame) -> Count:
        supergroups = some["supergroup_id"].nunique() if "supergroup_id" in some else None
        return Count(clips=some["clip_id"].nunique(), groups=some["group_id"].nunique(), supergroups=supergroups)

    return Size(
        clips=rows["clip_id"].nunique(),
        base_clips=rows["base_clip_id"].nunique(),
        groups=rows["group_id"].nunique(),
        by_label={name: count(rows[rows["label"] == name]) for name in rule.classes},
        unanswered=int(rows["prediction"].isna().sum()),
    )


def metrics_of(rows: pd.DataFrame, rule: Rule) -> dict[str, Metric]:
    """Every metric of the report over these rows, with intervals by group and, where known, by supergroup."""
    ranking = {name: _metric(_narrow(rows), name, rule) for name in RANKINGS}
    stated = decision_metrics_of(rows, rule) | ranking | probability_metrics_of(rows, rule)
    if rule.point_metrics is None:
        return stated
    defined = [name for name, metric in stated.items() if metric.value is not None]
    values = rule.point_metrics(_narrow(rows), rule.classes, defined)
    return stated | {name: stated[name].model_copy(update={"value": values[name]}) for name in defined}


def decision_metrics_of(rows: pd.DataFrame, rule: Rule) -> dict[str, Metric]:
    """What is a function of the answers, as in `metrics_of`."""
    more = [f"{kind}_{label.lower()}" for kind in ("precision", "f1") for label in rule.classes]
    narrow = _narrow(rows)
    return main_metrics_of(narrow, rule) | {
        name: _metric(narrow, name, rule) for name in (*more, "d_prime", "criterion")
    }


def probability_metrics_of(rows: pd.DataFrame, rule: Rule) -> dict[str, Metric]:
    """What takes p_speech at its word, as in `metrics_of`."""
    return {name: _metric(_narrow(rows), name, rule) for name in ("brier", "log_loss")} | _confidence(rows, rule)


def main_metrics_of(rows: pd.DataFrame, rule: Rule) -> dict[str, Metric]:
    """Accuracy, balanced accuracy and both recalls, as in `metrics_of`."""
    rows, here = _narrow(rows), set(rows["label"].unique())
    stated = {name: _metric(rows, name, rule) for name in ("accuracy", "balanced_accuracy")}
    for label in rule.classes:
        name = f"recall_{label.lower()}"
        stated[name] = stated["accuracy"] if here == {label} else _metric(rows, name, rule)
    return stated


def _narrow(rows: pd.DataFrame) -> pd.DataFrame:
    """Only what intervals need, so that taking rows of it stays cheap."""
    needed = ("clip_id", "label", "prediction", "p_speech", "group_id", "supergroup_id", "fold", "seed")
    return rows[[name for name in needed if name in rows]]


def _metric(rows: pd.DataFrame, statistic: str, rule: Rule) -> Metric:
    """One metric of the rows; without a value, and with the reason, where they do not define it."""
    if reason := _undefined(rows, statistic, rule):
        return Metric(value=None, reason=reason)
    found = _interval(rows, statistic, "group_id", rule)
    wider = _interval(rows, statistic, "supergroup_id", rule) if "supergroup_id" in rows else None
    return Metric(
        value=found.value, ci95=interval_of(found), method=None if found.method == "none" else found.method,
        reason=found.reason, ci95_supergroup=wider and interval_of(wider), reason_supergroup=wider and wider.reason,
    )  # fmt: skip


def interval_of(found: ClusteredInterval) -> tuple[float, float] | None:
    """The two ends, or None where the groups allow no interval."""
    return None if found.low is None or found.high is None else (found.low, found.high)


def by_level(rows: pd.DataFrame, factor: str, rule: Rule) -> dict[str, Level]:
    """Metrics at each level of a factor, levels ascending, the one without a value last and by its plain name."""
    rule, levels = rule._replace(n_boot=resamples_of(rule).by), {}
    narrow = _narrow(rows).drop(columns="supergroup_id", errors="ignore")
    for level, at in narrow.groupby(level_names(rows[factor], factor)):
        levels[str(level)] = Level(
            clips=at["clip_id"].nunique(), groups=at["group_id"].nunique(), **main_metrics_of(at, rule)
        )  # fmt: skip
    return ascending(levels)


def cells_of(rows: pd.DataFrame, rule: Rule) -> list[Cell]:
    """Balanced accuracy in each cell of duration x SNR where both vary, also in cells that are empty."""
    factors = ["duration_ms", "snr_db"]
    if any(name not in rows or rows[name].nunique(dropna=False) < 2 for name in factors):
        return []
    there = [cell for _, cell in rows.groupby(factors, dropna=False)]
    clips = {tuple(_ordered(cell[name])[0] for name in factors): cell for cell in there}
    durations, snrs = (_ordered(rows[name]) for name in factors)
    rule, nothing = rule._replace(n_boot=resamples_of(rule).by), rows.iloc[:0]
    return [_cell(clips.get(at, nothing), *at, rule) for at in itertools.product(durations, snrs)]


def calibration_of(rows: pd.DataFrame, rule: Rule) -> Calibration | None:
    """Top-label calibration, or None where a clip has no p_speech."""
    if rows["p_speech"].isna().any():
        return None
    scores = rows["p_speech"], rows["label"]
    found = reliability(*scores, n_bins=N_BINS, positive=rule.classes[0])
    bins = zip(*(part.tolist() for part in found), strict=True)
    return Calibration(
        n_bins=N_BINS,
        ece=calibration_error(*scores, n_bins=N_BINS, positive=rule.classes[0]),
        mce=calibration_error(*scores, n_bins=N_BINS, norm="max", positive=rule.classes[0]),
        bins=[
            Bin(low=low, high=high, clips=n, confidence=sure if n else None, accuracy=right if n else None)
            for low, high, n, sure, right in bins
        ],
    )


def design_effect_of(rows: pd.DataFrame, rule: Rule) -> DesignEffect | None:
    """How much the groups' likeness costs; None where all clips are right or wrong, or no group has two clips."""
    right = is_correct(rows["prediction"], rows["label"], positive=rule.classes[0])
    groups = rows["label"] + " " + rows["group_id"]  # a source of both classes is two groups here, as in the intervals
    if right.all() or not right.any() or groups.nunique() in (1, len(groups)):
        return None
    found = design_effect(right, groups)
    return DesignEffect(icc=found.icc, deff=found.deff, n_eff=found.n_eff)


# --- parts -------------------------------------------------------------------------------------------------------


def _interval(rows: pd.DataFrame, statistic: str, group: str, rule: Rule) -> ClusteredInterval:
    n_boot = resamples_of(rule).average_precision if statistic == "average_precision" else rule.n_boot
    return clustered_interval(rows, statistic, group=group, n_boot=n_boot, seed=rule.seed, positive=rule.classes[0])


def _threshold(decided: Decided, rule: Rule) -> Threshold:
    if decided.chosen_on == "fixed" and not _follows(decided.rows, FIXED_THRESHOLD, rule):
        return Threshold(value=None, chosen_on="own", flags=dict(decided.flags))
    values = set(decided.by_fold.values()) or {FIXED_THRESHOLD}
    value = values.pop() if len(values) == 1 else None
    return Threshold(value=value, chosen_on=decided.chosen_on, by_fold=decided.by_fold, flags=dict(decided.flags))


def _follows(rows: pd.DataFrame, threshold: float, rule: Rule) -> bool:
    """Whether every answer is the one that p_speech gives at the threshold."""
    said = rows[rows["prediction"].notna()]
    positive = said["prediction"] == rule.classes[0]
    return bool(said["p_speech"].notna().all() and (positive == (said["p_speech"] >= threshold)).all())


def _undefined(rows: pd.DataFrame, statistic: str, rule: Rule) -> str | None:
    """Why the statistic has no value on these rows, or None where it has one."""
    if statistic in OF_SCORES and (silent := _silent(rows)):
        return silent
    here, (kind, _, name) = set(rows["label"].unique()), statistic.partition("_")
    if statistic in OF_BOTH_CLASSES:
        lacking = next((f"no {label} clips here" for label in rule.classes if label not in here), None)
        return lacking or (_unranked(rows) if statistic in RANKINGS else None)
    label = next((each for each in rule.classes if each.lower() == name), None)
    answered = bool((rows["prediction"] == label).any())
    if kind == "recall" and label not in here:
        return f"no {label} clips here"
    if kind == "precision" and not answered:
        return f"no clip was answered {label}"
    if kind == "f1" and not answered and label not in here:
        return f"no clip is {label} and none was answered so"
    return None


def _unranked(rows: pd.DataFrame) -> str | None:
    """Why no clip can be ranked above another: each model, one a fold and seed, scored one class only."""
    both = rows["label"].groupby(models(rows)).nunique() > 1
    return None if both.any() else "no fold has clips of both classes"


def _silent(rows: pd.DataFrame) -> str | None:
    silent = int(rows["p_speech"].isna().sum())
    return f"{silent} of {len(rows)} clips have no p_speech" if silent else None


def _confidence(rows: pd.DataFrame, rule: Rule) -> dict[str, Metric]:
    """Top-label calibration errors and mean confidences, max(p, 1 - p), without intervals."""
    means = [f"confidence_{part}" for part in Confidences._fields]
    calibration = calibration_of(rows, rule)
    if calibration is None:
        return dict.fromkeys(("ece", "mce", *means), Metric(value=None, reason=_silent(rows)))
    biased = "no interval: a binned calibration error is biased upwards, and more so in a resample"
    errors = {name: Metric(value=getattr(calibration, name), reason=biased) for name in ("ece", "mce")}
    values = confidences(rows["p_speech"], rows["label"], positive=rule.classes[0])
    any_right = not pd.isna(values.right)
    return errors | {name: _mean(value, any_right) for name, value in zip(means, values, strict=True)}


def _mean(value: float, any_right: bool) -> Metric:
    if pd.isna(value):
        return Metric(value=None, reason=f"the top label is {'wrong' if any_right else 'right'} on no clip")
    return Metric(value=value, reason="descriptive: no interval")


def _confusion(rows: pd.DataFrame, rule: Rule) -> dict[str, dict[str, int]]:
    counts = Counter(zip(rows["label"], rows["prediction"].fillna("unanswered"), strict=True))
    answers = (*rule.classes, "unanswered")
    return {truth: {answer: counts[truth, answer] for answer in answers} for truth in rule.classes}


def _ordered(levels: pd.Series) -> list[float | None]:
    known = sorted(float(level) for level in levels.dropna().unique())
    return [*known, *([None] if levels.isna().any() else [])]


def _cell(at: pd.DataFrame, duration_ms: float | None, snr_db: float | None, rule: Rule) -> Cell:
    narrow = _narrow(at).drop(columns="supergroup_id", errors="ignore")
    stated = _metric(narrow, "balanced_accuracy", rule) if len(at) else Metric(value=None, reason="no clips here")
    return Cell(
        duration_ms=duration_ms, snr_db=snr_db, clips=at["clip_id"].nunique(), groups=at["group_id"].nunique(),
        balanced_accuracy=stated.value, ci95=stated.ci95, reason=stated.reason,
    )  # fmt: skip
