"""A report from one predictions table: every detector beside the headline, and what forbids publishing it."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from tasks.functional import report_sections
from tasks.functional.comparisons import compare
from tasks.functional.errors import error_analysis
from tasks.functional.goals import judge_goals, next_study
from tasks.functional.predictions import Decided, decide, headline_protocol, headline_rows
from tasks.functional.predictions import validate_predictions as validate_predictions
from tasks.functional.report_calibration import calibration_section
from tasks.functional.report_document import DetectorReport
from tasks.functional.report_document import Report as Report
from tasks.functional.report_metrics import (
    PointMetrics,
    Rule,
    ThresholdRule,
    cells_of,
    design_effect_of,
    detector_section,
    main_metrics_of,
    resamples_of,
    size_of,
)
from tasks.functional.report_schema import Agreement, Section, Seed, SeedsAlike, SeedsSpread
from tasks.functional.seeds import alike, spread_of
from tasks.functional.verdict import BEATS, unheard, verdict_lines

FACTORS = ("duration_ms", "snr_db", "rt60_s", "band", "room", "context", "family", "category", "source")
MOST_LEVELS = 500
RECORDED = (
    "adapter", "balance", "gate", "leakage", "listening", "looks", "provenance", "shortcuts", "supersedes",
)  # fmt: skip


def build_report(
    predictions: pd.DataFrame,
    *,
    classes: Sequence[str],
    detector: str,
    seed: int | None,
    threshold: ThresholdRule = "fixed",
    n_boot: int = 10_000,
    bootstrap_seed: int = 0,
    recorded: Mapping[str, Any] | None = None,
    factors: Sequence[str] | None = None,
    by: Sequence[str] = (),
    against: Mapping[str, pd.DataFrame] | None = None,
    goals: Sequence[Mapping[str, Any]] = (),
    then: str | None = None,
    otherwise: str | None = None,
    point_metrics: PointMetrics | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """The report on `detector`: its test rows of the published `seed`, beside every other detector.

    predictions: the table of tasks/README.md, all detectors, seeds, protocols and methods, dev and test. Folds are pooled,
    each clip once; without a `seed` so are the seeds, groups being resampled with the clips of all of them. The protocol is
    "group" wherever there is one. threshold "dev" is Youden's on each fold's dev rows. `recorded` is copied into its keys
    as it is. factors: columns of the by-tables, by default the known that vary, in up to 500 levels, and in any case those
    of `by`.
    against: name -> another such table; its detectors are compared on the clips they share with the headline.
    goals, then, otherwise: what the study wants to know and which study follows, as its recipe has them.
    point_metrics: `report_metrics.Rule` says what it computes. say: takes lines on what is computed next.
    Raises ValueError for a table that `validate_predictions` refuses, no rows of `detector` or of `seed`, an unknown
    key of `recorded`, a factor that is no column or has over 500 levels, a detector of `predictions` that was not
    scored on the same clips, and one of `against` that shares none or gives them other labels or groups.
    """
    recorded = _known(recorded or {})
    rule = Rule((classes[0], classes[1]), n_boot, bootstrap_seed, point_metrics)
    table = validate_predictions(predictions, classes)
    table["detector"] = table["detector"].replace("", detector)
    protocol = headline_protocol(table, detector)
    rows = headline_rows(table, detector, seed, protocol)
    decided = {detector: decide(rows, classes, threshold)}
    _check_headline(decided[detector], detector, seed, threshold)
    test = decided[detector].rows
    shown = _factors(test, factors, by)
    decided |= _beside(table, detector, seed, protocol, threshold, rule)
    decided |= _against(against or {}, decided, protocol, threshold, rule)
    rows_of = {name: one.rows for name, one in decided.items()}
    say(f"report: {detector} against the others")
    comparisons = compare(rows_of, shown, rule)
    detectors = _detectors(table, decided, test, shown, threshold, rule, say)
    headline, power = detectors[detector], report_sections.power(detector, rows_of, comparisons, rule)
    judged = judge_goals(goals, detector, detectors, comparisons, split=unheard(protocol, recorded))
    return Report(
        detector=detector, classes=rule.classes, protocol=protocol or None,
        verdict_lines=verdict_lines(detector, headline, comparisons, protocol, recorded),
        beats={name: BEATS[one.verdict] for name, one in comparisons.items()},
        goals=judged, next=next_study(judged, then, otherwise), resamples=resamples_of(rule),
        **_headline_sections(headline, test, shown, rule, power), calibration=calibration_section(rows, rule),
        comparisons=comparisons, detectors=detectors, agreement=_agreement(table, protocol, headline.seed),
        **_seeds(table, detector, headline.seed, protocol, threshold, rule), **recorded,
    )  # fmt: skip


def _headline_sections(
    headline: DetectorReport, test: pd.DataFrame, factors: Sequence[str], rule: Rule, power: Section | str
) -> dict[str, Any]:
    """What the report says at its top level of the headline's answers on test, by key."""
    beyond = {"interaction": report_sections.interaction(test, rule), "power": power}
    shared = ("seed", "n", "threshold", "metrics", "confusion", "by", "psychometric", "inflation")
    return {
        **{name: getattr(headline, name) for name in shared},
        **_there(beyond),
        "absent": headline.absent | _absent(beyond),
        "test": _digest(test),
        "majority_baseline": float(test["label"].value_counts(normalize=True).max()),
        "design_effect": design_effect_of(test, rule),
        "cells": cells_of(test, rule),
        "errors": error_analysis(test, factors, rule.classes),
    }


def _detectors(
    table: pd.DataFrame, decided: Mapping[str, Decided], test: pd.DataFrame, factors: Sequence[str],
    threshold: ThresholdRule, rule: Rule, say: Callable[[str], None],
) -> dict[str, DetectorReport]:  # fmt: skip
    """All detectors on the clips of the headline's `test`."""
    detectors = {}
    for n, (name, one) in enumerate(decided.items(), 1):
        say(f"report: detector {n}/{len(decided)}, {name}")
        detectors[name] = _detector(table, name, one, test, factors, threshold, rule)
    return detectors


def _detector(
    table: pd.DataFrame, name: str, decided: Decided, test: pd.DataFrame, factors: Sequence[str],
    threshold: ThresholdRule, rule: Rule,
) -> DetectorReport:  # fmt: skip
    """One detector on the clips of the headline's `test`."""
    answers = _on_clips_of(test, decided, factors)
    sections = {
        "psychometric": report_sections.psychometrics(answers.rows, rule),
        "inflation": report_sections.inflation(table, name, threshold, rule),
    }
    core = dict(detector_section(answers, factors, rule))
    return DetectorReport.model_validate({**core, **_there(sections), "absent": _absent(sections)})


def _there(sections: Mapping[str, Section | str]) -> dict[str, Any]:
    return {name: None if isinstance(found, str) else found for name, found in sections.items()}


def _absent(sections: Mapping[str, Section | str]) -> dict[str, str]:
    return {name: why for name, why in sections.items() if isinstance(why, str)}


def _digest(test: pd.DataFrame) -> str:
    """The first 16 hex digits of the SHA-256 over the test clips' ids and labels."""
    clips = sorted(set(zip(test["clip_id"], test["label"], strict=True)))
    return hashlib.sha256("".join(f"{clip}\0{label}\0" for clip, label in clips).encode()).hexdigest()[:16]


def publication_refusals(report: Report) -> list[str]:
    """Why this result may not be published as a headline, a sentence each; empty where nothing forbids it."""
    provenance, gate = report.provenance or {}, report.gate or {}
    verdict, seeds = (report.leakage or {}).get("verdict"), provenance.get("seeds") or [report.seed]
    refusals = [
        f"{name} has {count.groups} group(s) in the test set: no interval, at least 2 are needed."
        for name, count in report.n.by_label.items()
        if count.groups < 2
    ]
    headline = report.metrics["balanced_accuracy"]
    if headline.ci95 is None and not refusals:
        refusals.append(
            f"The balanced accuracy has no interval ({headline.reason}): it makes no headline without one."
        )
    if verdict is None:
        refusals.append("No leakage audit is recorded: nothing shows that train and test are apart.")
    elif verdict != "clean":
        refusals.append(f"The leakage audit says {verdict!r}: the score may be memory of what was trained on.")
    if limit := provenance.get("quick_look"):
        refusals.append(
            f"It is a quick look at {limit} clips of each part (evaluate.limit), not the whole test split."
        )
    if "random" in (report.protocol, provenance.get("protocol")):
        refusals.append("The protocol is 'random': it exists to measure inflation and never makes a headline.")
    if gate.get("passed") is False and gate.get("on_fail") != "mark":
        refusals.append("The adapter failed its training gate, and the recipe says to stop there.")
    if report.seed != seeds[0]:
        refusals.append(
            f"Seed {report.seed} is published, the recipe's first is {seeds[0]}: no seed is chosen on test."
        )
    return refusals


def _known(recorded: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is recorded, where a report has a place for all of it."""
    if unknown := sorted(set(recorded) - set(RECORDED)):
        raise ValueError(f"recorded has the unknown keys {unknown}; accepted are {list(RECORDED)}")
    return recorded


# --- the headline ------------------------------------------------------------------------------------------------


def _check_headline(decided: Decided, detector: str, seed: int | None, threshold: ThresholdRule) -> None:
    there = set(decided.rows["seed"].dropna())
    if there and seed is not None and seed not in there:
        raise ValueError(f"the published seed {seed} has no rows, there are {sorted(there)}")
    if threshold == "dev" and decided.chosen_on != "dev" and not decided.flags:
        if decided.rows["p_speech"].isna().all():
            raise ValueError(f"{detector!r} gives no p_speech on test: a threshold from dev has nothing to decide")
        raise ValueError("threshold 'dev' needs dev rows of both classes, with p_speech, in every fold")


def _factors(test: pd.DataFrame, factors: Sequence[str] | None, by: Sequence[str]) -> list[str]:
    """The columns to report by; the known ones that vary unless others are given, and those of `by`.

    A known one of very many levels, as a user's `category` may have, is left out: a study could not do without it.
    """
    known = [name for name in FACTORS if name in test and 1 < test[name].nunique(dropna=False) <= MOST_LEVELS]
    shown = list(dict.fromkeys([*(known if factors is None else factors), *by]))
    for name in shown:
        if name not in test:
            raise ValueError(f"no column {name!r} to report by; the table has {list(test.columns)}")
        if (levels := test[name].nunique()) > MOST_LEVELS:
            raise ValueError(
                f"{name} has {levels:,} levels, at most {MOST_LEVELS} make a table: bin it into a new column"
            )
    return shown


def _seeds(
    table: pd.DataFrame, detector: str, published: int | None, protocol: str, threshold: ThresholdRule, rule: Rule
) -> dict[str, Any]:
    """Every seed by itself; where there are several all together, groups being resampled with the clips of all their
    seeds, and how far apart they lie."""
    test = headline_rows(table, detector, None, protocol).query("split == 'test'")
    numbers = sorted(test["seed"].dropna().unique().tolist()) or [None]
    each = {n: decide(headline_rows(table, detector, n, protocol), rule.classes, threshold).rows for n in numbers}
    seeds = [
        Seed(seed=n, published=n == published, n=size_of(rows, rule), metrics=main_metrics_of(rows, rule))
        for n, rows in each.items()
    ]
    if len(seeds) < 2:
        return {"seeds": seeds, "seeds_pooled": None}
    values = {one.seed: one.metrics["balanced_accuracy"].value for one in seeds if one.seed is not None}
    known = {seed: value for seed, value in values.items() if value is not None}
    pooled = main_metrics_of(pd.concat(each.values()), rule)
    return {"seeds": seeds, "seeds_pooled": pooled, "seeds_spread": _spread(known, each)}


def _spread(values: Mapping[int, float], rows: Mapping[Any, pd.DataFrame]) -> SeedsSpread | None:
    if len(values) < 2:
        return None
    mean, sd = spread_of(values)
    found = [SeedsAlike(seeds=[int(seed) for seed in its.seeds], to_the_bit=its.to_the_bit) for its in alike(rows)]
    return SeedsSpread(balanced_accuracy_mean=mean, balanced_accuracy_sd=sd, alike=found)


def _agreement(table: pd.DataFrame, protocol: str, seed: int | None) -> dict[str, Agreement] | None:
    """Constrained generation against one forward pass, for every detector that was scored in both ways."""
    rows = table[(table["split"] == "test") & table["protocol"].isin([protocol, ""])]
    if seed is not None:
        rows = rows[(rows["seed"] == seed).fillna(True)]
    found = {}
    for name, mine in rows.groupby("detector"):
        generate, forward = (mine[mine["method"] == method] for method in ("generate", "forward"))
        both = generate.merge(forward, on=["clip_id", "prompt", "seed"], suffixes=("", "_forward"))
        if both.empty:
            continue
        flips = both["prediction"].fillna("unanswered") != both["prediction_forward"].fillna("unanswered")
        gap = (both["p_speech"] - both["p_speech_forward"]).abs()
        largest, mean = (None if gap.isna().any() else float(x) for x in (gap.max(), gap.mean()))
        found[str(name)] = Agreement(n=len(both), flips=int(flips.sum()), max_abs_dp=largest, mean_abs_dp=mean)
    return found or None


# --- the others --------------------------------------------------------------------------------------------------


def _beside(
    table: pd.DataFrame, detector: str, seed: int | None, protocol: str, threshold: ThresholdRule, rule: Rule
) -> dict[str, Decided]:
    """The other detectors of the headline's own table, which must have been scored on the same clips."""
    mine = set(headline_rows(table, detector, seed, protocol).query("split == 'test'")["clip_id"])
    found = {}
    for name in sorted(set(table.loc[table["split"] == "test", "detector"]) - {detector}):
        found[name] = decide(headline_rows(table, name, seed, protocol), rule.classes, threshold)
        if (theirs := set(found[name].rows["clip_id"])) != mine:
            raise ValueError(
                f"{detector!r} was scored on {len(mine)} test clips and {name!r} on {len(theirs)}, and they are not "
                "the same: score every detector on the whole test split"
            )
    return found


def _against(
    tables: Mapping[str, pd.DataFrame],
    own: Mapping[str, Decided],
    protocol: str,
    threshold: ThresholdRule,
    rule: Rule,
) -> dict[str, Decided]:
    """The detectors of other tables, seeds pooled, under their `names_beside`."""
    valid = {source: validate_predictions(given, rule.classes) for source, given in tables.items()}
    named = {source: table.assign(detector=table["detector"].replace("", source)) for source, table in valid.items()}
    found = {}
    for (source, detector), name in names_beside(own, named).items():
        judged_by = protocol or headline_protocol(named[source], detector)
        found[name] = decide(headline_rows(named[source], detector, None, judged_by), rule.classes, threshold)
    return found


def names_beside(own: Collection[str], tables: Mapping[str, pd.DataFrame]) -> dict[tuple[str, str], str]:
    """(table, detector with test rows) -> its name in a report whose own table has the detectors `own`.

    A detector goes by its own name, by its table's where it has none, and by both where another has that name.
    """
    names: dict[tuple[str, str], str] = {}
    for source, table in tables.items():
        for detector in sorted(set(table.loc[table["split"] == "test", "detector"].replace("", source))):
            taken = detector in own or detector in names.values()
            names[source, detector] = f"{source}: {detector}" if taken else detector
    return names


def _on_clips_of(test: pd.DataFrame, other: Decided, factors: Sequence[str]) -> Decided:
    """The other's answers to the clips of `test`, with what its own table lacks to judge them by the same clips."""
    needed = dict.fromkeys((*factors, "varied", "duration_ms", "snr_db"))
    lacking = [name for name in needed if name in test and name not in other.rows]
    shared = other.rows[other.rows["clip_id"].isin(test["clip_id"])]
    if lacking:
        shared = shared.merge(test[["clip_id", *lacking]].drop_duplicates("clip_id"), on="clip_id")
    return other._replace(rows=shared)
