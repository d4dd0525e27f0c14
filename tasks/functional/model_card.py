"""What a model card says, line by line from its report: the template lays it out and decides nothing."""

from collections.abc import Iterator
from typing import Any

from tasks.functional.card_evidence import DRAWN, FACTORS, evidence_of
from tasks.functional.card_heads import as_yaml, base_of, groups_of, model_head
from tasks.functional.card_tables import (
    Json,
    Part,
    Table,
    by_supergroup,
    footnote,
    number,
    recalls,
    signed,
    stated,
    table_of_checks,
)
from tasks.functional.content_audit import describe_comparison
from tasks.functional.levels import fit_doubts, stated_end, stated_level, stated_p
from tasks.functional.shortcuts import state_shortcuts


def model_card(report: Json, timing: Json) -> dict[str, Any]:
    """What the template of an adapter's card takes.

    report: report.json; timing: evidence/timing.json, what was measured: `train_s` by adapter, `latency` by
    detector.
    """
    origin = report["provenance"]
    return {
        "head": as_yaml(model_head(report)), "repo": origin["repo"], "verdict": report["verdict_lines"],
        "opening": [*_opening(report), *_leaky(report)],
        "detectors": _detectors(report), "majority": number(report["majority_baseline"]),
        "comparisons": list(_comparisons(report)),
        "audit": report["leakage"]["verdict"], "compared": describe_comparison(report["leakage"]),
        "checks": list(_checks(report["leakage"])),
        "shortcuts": state_shortcuts(report["shortcuts"], report["leakage"]),
        "inflation": list(_inflation(report)),
        "listening": list(_listening(report["listening"])), "seeds": _seeds(report), "spread": _spread(report),
        "factors": list(_by_factor(report)),
        "thresholds": list(_thresholds(report)), "calibration": list(_calibration(report)),
        "question": " or ".join(report["classes"]),
        "base": base_of(origin), "prompt": origin["prompt"],
        "answers": ", ".join(f"{a} = {c}" for a, c in zip(origin["answers"], origin["classes"], strict=True)),
        "predictions_sha256": origin["predictions_sha256"], "superseded": list(report["supersedes"]),
        **evidence_of(report, timing),
    }  # fmt: skip


# --- what it says first ------------------------------------------------------------------------------------------


def _opening(report: Json) -> Iterator[str]:
    headline, n = report["metrics"]["balanced_accuracy"], report["n"]
    how = f", {headline['method']}" if headline["method"] else ""
    yield (
        f"Judged on **{groups_of(report)}** that it never heard in training: balanced accuracy **{stated(headline)}**\n"
        f"(95 % interval over groups{how}), from {n['clips']} clips of {n['base_clips']} cuts, {n['unanswered']} without a "
        "usable answer."
    )
    if wider := by_supergroup(headline):
        yield wider
    if mind := footnote(headline["ci95"], headline["reason"]):
        yield mind.strip()
    method = report["detectors"][report["detector"]]["method"]
    yield (
        f"Scored by {f'`{method}`' if method else 'its own score'} over the whole test split, protocol "
        f"`{report['protocol']}`, threshold {_threshold(report['threshold'])}."
    )


def _threshold(threshold: Json) -> str:
    chosen = "of its own" if threshold["chosen_on"] == "own" else threshold["chosen_on"]
    if threshold["value"] is not None:
        return f"{chosen} ({threshold['value']:.3f})"
    if by_fold := threshold["by_fold"]:
        return f"{chosen} (by fold: {', '.join(map(number, by_fold.values()))})"
    return chosen


def _leaky(report: Json) -> Iterator[str]:
    if its := report["inflation"]:
        yield (
            f"\nApart from it, the leaky figure: under random folds the same clips score {number(its['leaky'])}, "
            f"{signed(its['value'], its['ci95'], its['reason'])} against {number(its['clean'])} under folds by group. It is "
            f"what leakage adds, and no property of this model.{footnote(its['ci95'], its['reason'])}"
        )


# --- tables ------------------------------------------------------------------------------------------------------


def _detectors(report: Json) -> Table:
    own = report["detector"]
    names = [own, *(name for name in report["detectors"] if name != own)]
    rows = []
    for name in names:
        its = report["detectors"][name]
        metrics = [stated(its["metrics"][key]) for key in ("balanced_accuracy", *recalls(report), "roc_auc")]
        rows.append([f"**{name}**" if name == own else name, str(its["n"]["groups"]), *metrics])
    of_class = [f"recall {name}" for name in report["classes"]]
    return Table(["detector", "groups", "balanced accuracy", *of_class, "ROC AUC"], rows)


def _comparisons(report: Json) -> Iterator[Table]:
    """One table, or none where nothing was compared."""
    rows = [
        [name, report["beats"][name], signed(one["difference"], one["ci95"], one["reason"]), f"{one['b']} / {one['c']}",
         stated_p(one["p_exact"], "–"), stated_p(one["p_holm"], "–")]
        for name, one in report["comparisons"].items()
    ]  # fmt: skip
    columns = [
        "beats it",
        "difference of balanced accuracy",
        "right alone / wrong alone",
        "p (McNemar, exact)",
        "p (Holm)",
    ]
    if rows:
        yield Table([f"{report['detector']} against", *columns], rows)


def _checks(leakage: Json) -> Iterator[Table]:
    if checks := leakage.get("checks"):
        yield table_of_checks(checks)


def _inflation(report: Json) -> Iterator[Part]:
    if not (own := report["inflation"]):
        return
    rows = [
        [name, ", ".join(its["per_seed"]) or "–", number(its["clean"]), number(its["leaky"]),
         signed(its["value"], its["ci95"], its["reason"])]
        for name, one in report["detectors"].items()
        if (its := one["inflation"])
    ]  # fmt: skip
    folds = " and ".join(str(k) for k in dict.fromkeys(own["folds"].values()))
    line = (
        f"What leakage adds, on the same clips, each out of fold (n = {own['groups']} groups, {own['clips']} clips; "
        f"K = {folds}):"
    )
    columns = ["detector", "seeds", "folds by group", "random folds", "difference, 95 % interval over groups"]
    yield Part("", [line], [Table(columns, rows)])


def _listening(listening: Json | None) -> Iterator[Part]:
    if listening:
        line = (
            "Asked of every model before any of its clips was scored; failing one of these stops the run. The worst of "
            f"{len(listening['models'])} models, *recorded* by the run (evidence/listening.json)."
        )
        keys = ("check", "asked", "found", "allowed")
        yield Part(
            "Is it listening?",
            [line],
            [Table([*keys], [[str(row[key]) for key in keys] for row in listening["checks"]])],
        )


def _seeds(report: Json) -> Table:
    def row(name: str, metrics: Json) -> list[str]:
        return [name, *(stated(metrics[key]) for key in ("balanced_accuracy", *recalls(report)))]

    rows = [
        row(
            f"{'–' if one['seed'] is None else one['seed']}{' (published)' if one['published'] else ''}",
            one["metrics"],
        )
        for one in report["seeds"]
    ]
    if report["seeds_pooled"]:
        rows.append(row("all, groups resampled with all their seeds", report["seeds_pooled"]))
    return Table(["seed", "balanced accuracy", *(f"recall {name}" for name in report["classes"])], rows)


def _spread(report: Json) -> list[str]:
    """How far the seeds lie apart, and which are no two."""
    if not (spread := report["seeds_spread"]):
        return []
    lines = [
        f"Balanced accuracy over {len(report['seeds'])} seeds: mean {spread['balanced_accuracy_mean']:.3f}, standard "
        f"deviation {spread['balanced_accuracy_sd']:.3f}."
    ]
    for one in spread["alike"]:
        seeds = ", ".join(map(str, one["seeds"]))
        why = (
            "with the same probabilities: they are one adapter"
            if one["to_the_bit"]
            else ("which shows a saturated test, not stability")
        )
        lines.append(f"**The seeds {seeds} answered every clip alike, {why}.**")
    return lines


def _by_factor(report: Json) -> Iterator[Part]:
    of_class = [f"recall {name}" for name in report["classes"]]
    for factor, title in FACTORS.items():
        if levels := report["by"].get(factor):
            rows = [
                [name, str(one["groups"]), str(one["clips"]),
                 *(stated(one[key]) for key in ("balanced_accuracy", *recalls(report)))]
                for name, one in levels.items()
            ]  # fmt: skip
            picture = f"![Balanced accuracy by {title}](figures/accuracy_by_{factor}.png)"
            yield Part(
                f"By {title}",
                [picture] if factor in DRAWN else [],
                [Table([title, "groups", "clips", "balanced accuracy", *of_class], rows)],
            )


def _thresholds(report: Json) -> Iterator[Part]:
    if not (psychometric := report["psychometric"]):
        return
    lines = []
    for factor in ("duration_ms", "snr_db"):
        if curves := psychometric[factor]:
            for curve in filter(None, (curves["correct"], curves["hit_rate"])):
                lines += [f"- {name}: {_reached(at, curve, curves)}" for name, at in curve["thresholds"].items()]
            if curves["reason"]:
                lines.append(f"- over {'duration' if factor == 'duration_ms' else 'SNR'}: {curves['reason']}")
    lines.append(
        "\nDT75 and SNR75: class-balanced correct responses reach .75; DT50: hits half way from the false alarms to their "
        "upper end. In brackets 95 % intervals over groups."
    )
    if psychometric["duration_ms"] and psychometric["duration_ms"]["correct"]:
        lines.append("\n![Psychometric functions over duration](figures/psychometric_duration_ms.png)")
    yield Part("Thresholds", lines, [])


def _reached(at: Json, curve: Json, curves: Json) -> str:
    if at["value"] is None:
        return f"none, {at['reason']}"
    unit, lowest, highest = curves["unit"], curves["levels"][0]["level"], curves["levels"][-1]["level"]
    stated_ends = [stated_end(end, lowest, highest, unit) for end in at["ci95"] or ()]
    ends = f" [{', '.join(stated_ends)}]" if stated_ends else ""
    outside = f", {at['censored']} the tested levels and extrapolated" if at["censored"] else ""
    why = f" ({at['reason']})" if at["reason"] else ""
    mind = "".join(f"; {doubt}" for doubt in fit_doubts(curve))
    return f"{stated_level(at['value'], unit)} {unit}{ends}{outside}{why}{mind}"


def _calibration(report: Json) -> Iterator[str]:
    its, metrics = report["calibration"], report["metrics"]
    if not its:
        yield "It gives no probabilities for some clips, so none is stated."
        return
    mean, right, wrong = (number(metrics[f"confidence_{name}"]["value"]) for name in ("mean", "right", "wrong"))
    yield (
        f"Top-label ECE {number(its['ece'])} over {its['n_bins']} equal-width bins, MCE {number(its['mce'])}, Brier "
        f"{stated(metrics['brier'])}. Mean top-label confidence {mean}; when right {right}, when wrong {wrong}."
        f"{footnote(metrics['brier']['ci95'], metrics['brier']['reason'])}"
    )
    if dev := its["dev"]:
        for fold, fit in dev["folds"].items():
            bound = ", at the bound of its search: it says nothing about confidence" if fit["at_bound"] else ""
            decides = "by which it answered above" if fold in report["threshold"]["by_fold"] else "not applied above"
            yield (
                f"Fitted on dev{f' of fold {fold}' if len(dev['folds']) > 1 else ''}: temperature "
                f"{number(fit['temperature'])}, not applied above{bound}; threshold {number(fit['threshold'])}, {decides}."
            )
    yield "\n![Calibration](figures/reliability.png)"
