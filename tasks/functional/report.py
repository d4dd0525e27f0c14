"""A report from one predictions table: every detector beside the headline, and what forbids publishing it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from tasks.functional.intervals import paired_difference
from tasks.functional.metrics import is_correct
from tasks.functional.predictions import decide, headline_rows
from tasks.functional.predictions import validate_predictions as validate_predictions
from tasks.functional.report_metrics import (
    Rule,
    calibration_of,
    cells_of,
    design_effect_of,
    detector_section,
    interval_of,
    main_metrics_of,
    resamples_of,
    size_of,
)
from tasks.functional.report_schema import Agreement, Comparison, Detector, Metric, Seed
from tasks.functional.report_schema import Report as Report
from tasks.functional.significance import adjust_pvalues, leakage_inflation, mcnemar_test

FACTORS = ("duration_ms", "snr_db", "rt60_s", "band", "room", "context", "family", "category", "source")
RECORDED = (
    "adapter", "balance", "gate", "leakage", "listening", "looks", "provenance", "shortcuts", "supersedes",
)  # fmt: skip
PLAIN_NAMES = {  # how the verdict speaks of a detector, in the verdict's order
    "mel_statistics": "a logistic regression over log-mel statistics",
    "loudness": "a loudness threshold",
    "majority": "always naming the majority class",
    "base": "the base model without the adapter",
}
Beats = Literal["yes", "no", "undecided"]
ThresholdRule = Literal["fixed", "dev"]


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
) -> Report:
    """The report on `detector`: its test rows of the published `seed`, beside every other detector.

    predictions: DESIGN's table, all detectors, seeds, protocols and methods, dev and test. Folds are pooled, each clip
    once. The protocol is "group" wherever there is one. threshold "dev" is Youden's on each fold's dev rows.
    `recorded` is copied into its keys as it is. factors: columns of the by-tables, by default the known that vary.
    Raises ValueError for a table that `validate_predictions` refuses, no rows of `detector` or of `seed`, an unknown
    key of `recorded`, a factor that is no column, and a detector that was not scored on the same clips.
    """
    recorded = recorded or {}
    if unknown := sorted(set(recorded) - set(RECORDED)):
        raise ValueError(f"recorded has the unknown keys {unknown}; accepted are {list(RECORDED)}")
    rule = Rule((classes[0], classes[1]), n_boot, bootstrap_seed)
    table = validate_predictions(predictions, classes)
    table["detector"] = table["detector"].replace("", detector)
    protocol = _headline_protocol(table, detector)
    names = [detector, *sorted(set(table.loc[table["split"] == "test", "detector"]) - {detector})]
    decided = {name: decide(headline_rows(table, name, seed, protocol), classes, threshold) for name in names}
    _check_headline(decided[detector].rows, decided[detector].chosen_on, seed, threshold)
    test = decided[detector].rows
    shown = _factors(test, factors)
    detectors = {name: detector_section(decided[name], shown, rule) for name in names}
    headline = detectors[detector]
    comparisons = _comparisons({name: decided[name].rows for name in names}, rule)
    beats = {name: _beats(comparison) for name, comparison in comparisons.items()}
    runs = table[(table["detector"] == detector) & (table["method"] == (headline.method or ""))]
    seeds, pooled = _seeds(runs[runs["protocol"].isin([protocol, ""])], headline.seed, threshold, rule)
    return Report(
        detector=detector, classes=rule.classes, protocol=protocol or None, seed=headline.seed,
        verdict_lines=[*_warnings(headline, recorded), *_unbeaten(detectors, comparisons, beats)],
        beats=beats, n=headline.n, threshold=headline.threshold, resamples=resamples_of(rule), metrics=headline.metrics,
        majority_baseline=float(test["label"].value_counts(normalize=True).max()),
        design_effect=design_effect_of(test, rule), confusion=headline.confusion, by=headline.by,
        cells=cells_of(test), calibration=calibration_of(test, rule), comparisons=comparisons, detectors=detectors,
        seeds=seeds, seeds_pooled=pooled, agreement=_agreement(table, protocol, headline.seed),
        inflation=_inflation(runs, rule), **recorded,
    )  # fmt: skip


def publication_refusals(report: Report) -> list[str]:
    """Why this result may not be published as a headline, a sentence each; empty where nothing forbids it."""
    provenance, gate = report.provenance or {}, report.gate or {}
    verdict, seeds = (report.leakage or {}).get("verdict"), provenance.get("seeds") or [report.seed]
    refusals = [
        f"{name} has {count.groups} group(s) in the test set: no interval, at least 2 are needed."
        for name, count in report.n.by_label.items()
        if count.groups < 2
    ]
    if verdict is None:
        refusals.append("No leakage audit is recorded: nothing shows that train and test are apart.")
    elif verdict != "clean":
        refusals.append(f"The leakage audit says {verdict!r}: the score may be memory of what was trained on.")
    if "random" in (report.protocol, provenance.get("protocol")):
        refusals.append("The protocol is 'random': it exists to measure inflation and never makes a headline.")
    if gate.get("passed") is False and gate.get("on_fail") != "mark":
        refusals.append("The adapter failed its training gate, and the recipe says to stop there.")
    if report.threshold.chosen_on == "test":
        refusals.append("The threshold was chosen on test.")
    if report.seed != seeds[0]:
        refusals.append(
            f"Seed {report.seed} is published, the recipe's first is {seeds[0]}: no seed is chosen on test."
        )
    return refusals


# --- the headline ------------------------------------------------------------------------------------------------


def _headline_protocol(table: pd.DataFrame, detector: str) -> str:
    mine = table[(table["detector"] == detector) & (table["split"] == "test")]
    if mine.empty:
        raise ValueError(f"no test rows of {detector!r}; the table's detectors are {sorted(set(table['detector']))}")
    there = set(mine["protocol"])
    return next((known for known in ("group", "", "random") if known in there), min(there))


def _check_headline(test: pd.DataFrame, chosen_on: str, seed: int | None, threshold: ThresholdRule) -> None:
    there = set(test["seed"].dropna())
    if there and seed is not None and seed not in there:
        raise ValueError(f"the published seed {seed} has no rows, there are {sorted(there)}")
    if threshold == "dev" and chosen_on != "dev":
        raise ValueError("threshold 'dev' needs dev rows of both classes, with p_speech that varies, in every fold")


def _factors(test: pd.DataFrame, factors: Sequence[str] | None) -> list[str]:
    if unknown := [name for name in factors or () if name not in test]:
        raise ValueError(f"no column {unknown[0]!r} to report by; the table has {list(test.columns)}")
    if factors is not None:
        return list(factors)
    return [name for name in FACTORS if name in test and test[name].nunique(dropna=False) > 1]


def _seeds(
    rows: pd.DataFrame, published: int | None, threshold: ThresholdRule, rule: Rule
) -> tuple[list[Seed], dict[str, Metric] | None]:
    """Every seed by itself, and all together: groups are resampled with the clips of all their seeds."""
    runs = rows.groupby("seed", dropna=False, sort=True)
    each = [(run["seed"].iloc[0], decide(run, rule.classes, threshold).rows) for _, run in runs]
    seeds = [
        Seed(
            seed=None if pd.isna(seed) else int(seed),
            published=published is None if pd.isna(seed) else seed == published,
            n=size_of(test, rule),
            metrics=main_metrics_of(test, rule),
        )
        for seed, test in each
        if len(test)
    ]
    return seeds, main_metrics_of(pd.concat([test for _, test in each]), rule) if len(seeds) > 1 else None


def _agreement(table: pd.DataFrame, protocol: str, seed: int | None) -> dict[str, Agreement] | None:
    """Constrained generation against one forward pass, for every detector that was scored in both ways."""
    rows = table[(table["split"] == "test") & table["protocol"].isin([protocol, ""])]
    rows = rows[rows["seed"].isna() | (rows["seed"] == seed)]
    found = {}
    for name, mine in rows.groupby("detector"):
        generate, forward = (mine[mine["method"] == method] for method in ("generate", "forward"))
        both = generate.merge(forward, on=["clip_id", "prompt"], suffixes=("", "_forward"))
        if both.empty:
            continue
        flips = both["prediction"].fillna("unanswered") != both["prediction_forward"].fillna("unanswered")
        gap = (both["p_speech"] - both["p_speech_forward"]).abs()
        largest, mean = (None if gap.isna().any() else float(x) for x in (gap.max(), gap.mean()))
        found[str(name)] = Agreement(n=len(both), flips=int(flips.sum()), max_abs_dp=largest, mean_abs_dp=mean)
    return found or None


def _inflation(runs: pd.DataFrame, rule: Rule) -> dict[str, Any] | None:
    """What the random protocol adds on the same clips, where the table holds both protocols."""
    test = runs[(runs["split"] == "test") & runs["seed"].notna() & runs["p_speech"].notna()]
    if not {"group", "random"} <= set(test["protocol"]):
        return None
    found = leakage_inflation(test, n_boot=rule.n_boot, seed=rule.seed, positive=rule.classes[0])
    return {
        "value": found.value, "ci95": [found.low, found.high], "se": found.se,
        "per_seed": {str(seed): value for seed, value in found.per_seed.items()},
    }  # fmt: skip


# --- against the others ------------------------------------------------------------------------------------------


def _comparisons(rows: Mapping[str, pd.DataFrame], rule: Rule) -> dict[str, Comparison]:
    """The first detector against each of the others, on the same clips; Holm over all of them."""
    (headline, mine), *others = rows.items()
    if not others:
        return {}
    positive = rule.classes[0]
    right = {name: is_correct(test["prediction"], test["label"], positive=positive) for name, test in rows.items()}
    tests, differences = {}, {}
    for name, theirs in others:
        if set(mine["clip_id"]) != set(theirs["clip_id"]):
            raise ValueError(
                f"{headline!r} was scored on {len(mine)} test clips and {name!r} on {len(theirs)}, and they are not "
                "the same: score every detector on the whole test split"
            )
        order = [pd.Series(right[each], index=rows[each]["clip_id"]).sort_index() for each in (headline, name)]
        tests[name] = [mcnemar_test(*order, method=method) for method in ("exact", "midp")]
        differences[name] = paired_difference(
            mine, theirs, "balanced_accuracy", n_boot=rule.n_boot, seed=rule.seed, positive=positive
        )
    holm = adjust_pvalues([exact.p_value for exact, _ in tests.values()], method="holm")
    return {
        name: Comparison(
            n=len(mine), b=exact.b, c=exact.c, difference=differences[name].value, ci95=interval_of(differences[name]),
            method=None if differences[name].method == "none" else differences[name].method,
            reason=differences[name].reason, p_exact=exact.p_value, p_midp=midp.p_value, p_holm=float(adjusted),
        )
        for (name, (exact, midp)), adjusted in zip(tests.items(), holm, strict=True)
    }  # fmt: skip


def _beats(comparison: Comparison) -> Beats:
    if comparison.ci95 is None or comparison.ci95[0] <= 0 <= comparison.ci95[1]:
        return "undecided"
    return "yes" if comparison.difference > 0 else "no"


def _unbeaten(
    detectors: Mapping[str, Detector], comparisons: Mapping[str, Comparison], beats: Mapping[str, Beats]
) -> list[str]:
    """A sentence for every detector that the headline is not shown to beat; the baselines first."""
    headline = next(iter(detectors))
    lines = []
    for name in sorted(comparisons, key=lambda name: ([*PLAIN_NAMES, name].index(name), name)):
        if beats[name] == "yes":
            continue
        other = PLAIN_NAMES.get(name, f"the detector {name}")
        claim = "does not beat" if beats[name] == "no" else "is not shown to beat"
        ours, theirs = (detectors[each].metrics["balanced_accuracy"].value for each in (headline, name))
        compared = comparisons[name]
        between = "no interval: " + (compared.reason or "") if compared.ci95 is None else (
            f"95 % CI [{compared.ci95[0]:.3f}, {compared.ci95[1]:.3f}]"
        )  # fmt: skip
        lines.append(
            f"The {headline} {claim} {other}: balanced accuracy {ours:.3f} against {theirs:.3f} "
            f"(difference {compared.difference:+.3f}, {between})."
        )
    return lines


def _warnings(headline: Detector, recorded: Mapping[str, Any]) -> list[str]:
    """What a reader must know before any number: a leak, a failed gate, too few groups."""
    lines = []
    if (verdict := (recorded.get("leakage") or {}).get("verdict", "clean")) != "clean":
        lines.append(f"The leakage audit says {verdict!r}: these numbers are not of unheard recordings.")
    gate = recorded.get("gate") or {}
    if gate.get("passed") is False:
        lines.append(
            f"The adapter failed its training gate: accuracy on train {min(gate['train_accuracy'].values()):.3f}, "
            f"{gate['asked']:.3f} was asked."
        )
    if reason := headline.metrics["balanced_accuracy"].reason:
        lines.append(f"The interval of the headline: {reason}.")
    return lines
