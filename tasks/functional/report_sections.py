"""Sections of a report that not every table allows: each is there, or there is a sentence that says why not."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from tasks.functional.comparisons import REPEATED
from tasks.functional.interaction import Interaction, interaction_section
from tasks.functional.intervals import paired_difference
from tasks.functional.levels import varied
from tasks.functional.metrics import balanced_accuracy
from tasks.functional.power import power_section
from tasks.functional.predictions import decide, headline_rows
from tasks.functional.report_document import PowerAgainst
from tasks.functional.report_metrics import Rule, ThresholdRule, interval_of, resamples_of
from tasks.functional.report_psychometric import Psychometric, psychometric_section
from tasks.functional.report_schema import Comparison, Inflation
from tasks.functional.significance import leakage_inflation

CLEAN, LEAKY = "group", "random"


def psychometrics(rows: pd.DataFrame, rule: Rule) -> Psychometric | str:
    """The curves of one detector's decided test rows, over the rows that vary the factor; or why there are none."""
    if rows["label"].nunique() == 2 and rows["prediction"].nunique(dropna=False) == 1:
        return "the same answer for every clip: no curve"
    found = {
        factor: psychometric_section(
            varied(rows, factor), classes=rule.classes, n_boot=resamples_of(rule).thresholds, seed=rule.seed
        )
        for factor in (("duration_ms", "snr_db") if "varied" in rows else ("duration_ms",))
    }
    of_duration, of_snr = found["duration_ms"], found.get("snr_db")
    if of_duration and of_snr:
        over_snr = {"snr_db": of_snr.snr_db, "snr_db_by_duration": of_snr.snr_db_by_duration}
        return of_duration.model_copy(update=over_snr)
    return of_duration or of_snr or "no clip has a duration or an SNR"


def interaction(rows: pd.DataFrame, rule: Rule) -> Interaction | str:
    """SNR x duration of the headline's decided test rows, or why there is nothing to fit."""
    found = interaction_section(rows, positive=rule.classes[0])
    return found or "no clips that have both a duration and noise, and vary in both"


def power(
    headline: str, rows: Mapping[str, pd.DataFrame], comparisons: Mapping[str, Comparison], rule: Rule
) -> PowerAgainst | str:
    """What the headline's test rows can show of a difference from the best of the others, or from one just as good."""
    mine = rows[headline]
    if mine["clip_id"].duplicated().any():
        return REPEATED
    once = [name for name in comparisons if not rows[name]["clip_id"].duplicated().any()]
    best = max(once, key=lambda name: (comparisons[name].other, name), default=None)
    found = power_section(mine, None if best is None else rows[best], positive=rule.classes[0])
    return PowerAgainst(against=best, **found.model_dump())


def inflation(table: pd.DataFrame, detector: str, threshold: ThresholdRule, rule: Rule) -> Inflation | str:
    """What random folds add to a detector over folds by group, on the same clips, or why that is not measured.

    table: validated. Decisions are made as everywhere in the report; a detector without seeds counts as one seed.
    """
    test = table[(table["detector"] == detector) & (table["split"] == "test")]
    if not {CLEAN, LEAKY} <= set(test["protocol"]):
        return f"not scored under both protocols, {CLEAN!r} and {LEAKY!r}"
    runs = {name: _decided(table, detector, name, threshold, rule) for name in (CLEAN, LEAKY)}
    clean, leaky = runs[CLEAN], runs[LEAKY]
    of_clean, of_leaky = (set(zip(run["seed"], run["clip_id"], strict=True)) for run in (clean, leaky))
    if of_clean != of_leaky:
        return "the two protocols were not scored on the same clips under the same seeds"
    groups = clean.groupby("label")["group_id"].nunique().reindex(list(rule.classes), fill_value=0)
    if groups.min() < 2:
        return f"fewer than 2 groups in {groups.idxmin()}"
    how: dict[str, Any] = {"n_boot": rule.n_boot, "seed": rule.seed, "positive": rule.classes[0]}
    found = leakage_inflation(pd.concat(runs.values()), **how)
    paired = paired_difference(leaky, clean, "balanced_accuracy", on=["seed", "clip_id"], **how)
    scored = {
        name: balanced_accuracy(run["prediction"], run["label"], positive=rule.classes[0])
        for name, run in runs.items()
    }
    return Inflation(
        value=found.value, ci95=interval_of(paired), method=None if paired.method == "none" else paired.method,
        reason=paired.reason, se=found.se, clean=scored[CLEAN], leaky=scored[LEAKY],
        per_seed={} if test["seed"].isna().all() else {str(seed): one for seed, one in found.per_seed.items()},
        folds={name: run["fold"].nunique() for name, run in runs.items()},
        clips=clean["clip_id"].nunique(), groups=clean["group_id"].nunique(),
    )  # fmt: skip


def _decided(table: pd.DataFrame, detector: str, protocol: str, threshold: ThresholdRule, rule: Rule) -> pd.DataFrame:
    """Test rows of one protocol, p_speech being the answer as it was decided: 1, 0, or none."""
    rows = decide(headline_rows(table, detector, None, protocol), rule.classes, threshold).rows
    said = (rows["prediction"] == rule.classes[0]).astype(float).where(rows["prediction"].notna())
    narrow = ["clip_id", "group_id", "label", "prediction", "fold"]
    return rows[narrow].assign(p_speech=said, seed=rows["seed"].fillna(0).astype(int), protocol=protocol)
