"""What a model card says, line by line from its report: the template lays it out and decides nothing."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from tasks.functional.card_heads import as_yaml, base_of, groups_of, model_head
from tasks.functional.levels import ascending, level_names

Json = Mapping[str, Any]
FACTORS = {"duration_ms": "duration (ms)", "snr_db": "SNR (dB)", "rt60_s": "RT60 (s)", "band": "band", "room": "room",
           "context": "context", "family": "family of sound"}  # fmt: skip
DRAWN = ("duration_ms", "snr_db", "rt60_s")  # the factors that the report draws a figure of
CONDITIONS = ("duration_ms", "snr_db", "band", "room", "context")
OPEN_ENDED = {"duration_ms": ("durations", "ms"), "snr_db": ("SNRs", "dB")}  # levels of what could be any number


class Table(NamedTuple):
    """Rows of text under the names of their columns."""

    columns: list[str]
    rows: list[list[str]]


class Part(NamedTuple):
    """A section that not every card has."""

    title: str
    lines: list[str]
    tables: list[Table]


def model_card(report: Json, timing: Json) -> dict[str, Any]:
    """What the template of an adapter's card takes.

    report: report.json; timing: evidence/timing.json, `train_s` and `energy_j` by adapter, of those that were measured.
    """
    origin = report["provenance"]
    return {
        "head": as_yaml(model_head(report)), "repo": origin["repo"], "verdict": report["verdict_lines"],
        "opening": [*_opening(report), *_leaky(report)],
        "detectors": _detectors(report), "majority": number(report["majority_baseline"]),
        "comparisons": list(_comparisons(report)),
        "audit": report["leakage"]["verdict"], "checks": list(_checks(report["leakage"])),
        "inflation": list(_inflation(report)), "listening": list(_listening(report["listening"])), "seeds": _seeds(report), "factors": list(_by_factor(report)),
        "thresholds": list(_thresholds(report)), "calibration": list(_calibration(report)),
        "question": " or ".join(report["classes"]),
        "conditions": _conditions(origin), "unmeasured": list(_unmeasured(origin)),
        "base": base_of(origin), "prompt": origin["prompt"],
        "answers": ", ".join(f"{a} = {c}" for a, c in zip(origin["answers"], origin["classes"], strict=True)),
        "predictions_sha256": origin["predictions_sha256"], "limits": list(_limits(report)),
        "superseded": list(report["supersedes"]), "superseded_data": list(_superseded_data(origin)),
        "training": _training(report, timing), "licences": _licences(origin), "provenance": _provenance(origin),
    }  # fmt: skip


# --- numbers -----------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval(ci95: Iterable[float]) -> str:
    """Both ends."""
    low, high = ci95
    return f"[{low:.3f}, {high:.3f}]"


def stated(metric: Json) -> str:
    """A metric with its interval, or with the reason why there is none."""
    given = interval(metric["ci95"]) if metric["ci95"] else metric["reason"] and f"({metric['reason']})"
    return f"{number(metric['value'])} {given}" if given else number(metric["value"])


def signed(value: float, ci95: Any, reason: str | None) -> str:
    """A difference with its interval, or with the reason why there is none."""
    return f"{value:+.3f} {interval(ci95) if ci95 else f'({reason})'}"


def level(value: float | None) -> str:
    """A level of a factor that was not among the tested ones: three digits."""
    return "open" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def recalls(report: Json) -> list[str]:
    """The names of both recalls."""
    return [f"recall_{name.lower()}" for name in report["classes"]]


# --- what it says first ------------------------------------------------------------------------------------------


def _opening(report: Json) -> Iterator[str]:
    headline, n = report["metrics"]["balanced_accuracy"], report["n"]
    how = f", {headline['method']}" if headline["method"] else ""
    yield (
        f"Judged on **{groups_of(report)}** that it never heard in training: balanced accuracy **{stated(headline)}**\n"
        f"(95 % interval over groups{how}), from {n['clips']} clips of {n['base_clips']} cuts, {n['unanswered']} without a "
        "usable answer."
    )
    if wider := headline["ci95_supergroup"]:
        yield (
            f"Resampled by supergroup (all draws of one generator or uploader together): "
            f"[{wider[0]:.3f}, {wider[1]:.3f}]."
        )
    if headline["reason"]:
        yield f"Mind: {headline['reason']}."
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
            "what leakage adds, and no property of this model."
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
         _p(one["p_exact"]), _p(one["p_holm"])]
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


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _checks(leakage: Json) -> Iterator[Table]:
    if checks := leakage.get("checks"):
        yield Table(["check", "shared between parts"], [[one["check"], _shared(one)] for one in checks])


def _shared(check: Json) -> str:
    if check["shared"] is None:
        return "no such column"
    return f"{check['shared']}: {check['pairs']}" if check["pairs"] else str(check["shared"])


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
                lines += [f"- {name}: {_reached(at, curves['unit'])}" for name, at in curve["thresholds"].items()]
            if curves["reason"]:
                lines.append(f"- over {'duration' if factor == 'duration_ms' else 'SNR'}: {curves['reason']}")
    lines.append(
        "\nDT75 and SNR75: class-balanced correct responses reach .75; DT50: hits half way from the false alarms to their "
        "upper end. In brackets 95 % intervals over groups."
    )
    if psychometric["duration_ms"] and psychometric["duration_ms"]["correct"]:
        lines.append("\n![Psychometric functions over duration](figures/psychometric_duration_ms.png)")
    yield Part("Thresholds", lines, [])


def _reached(at: Json, unit: str) -> str:
    if at["value"] is None:
        return f"none, {at['reason']}"
    ends = f" [{level(at['ci95'][0])}, {level(at['ci95'][1])}]" if at["ci95"] else ""
    outside = f", {at['censored']} the tested levels and extrapolated" if at["censored"] else ""
    why = f" ({at['reason']})" if at["reason"] else ""
    return f"{level(at['value'])} {unit}{ends}{outside}{why}"


def _calibration(report: Json) -> Iterator[str]:
    its, metrics = report["calibration"], report["metrics"]
    if not its:
        yield "It gives no probabilities for some clips, so none is stated."
        return
    mean, right, wrong = (number(metrics[f"confidence_{name}"]["value"]) for name in ("mean", "right", "wrong"))
    yield (
        f"Top-label ECE {number(its['ece'])} over {its['n_bins']} equal-width bins, MCE {number(its['mce'])}, Brier "
        f"{stated(metrics['brier'])}. Mean confidence {mean}; when right {right}, when wrong {wrong}."
    )
    if dev := its["dev"]:
        for fold, fit in dev["folds"].items():
            bound = ", at the bound of its search: it says nothing about confidence" if fit["at_bound"] else ""
            yield (
                f"Fitted on dev{f' of fold {fold}' if len(dev['folds']) > 1 else ''} and not applied above: temperature "
                f"{number(fit['temperature'])}{bound}, threshold {number(fit['threshold'])}."
            )
    yield "\n![Calibration](figures/reliability.png)"


# --- conditions --------------------------------------------------------------------------------------------------


def measured_conditions(test: pd.DataFrame) -> dict[str, list[str]]:
    """Factor -> its levels among test rows of a predictions table by name, ascending; "no noise" and the like last."""
    there = [factor for factor in CONDITIONS if factor in test]
    return {name: list(ascending(dict.fromkeys(level_names(test[name], name).unique()))) for name in there}


def _conditions(origin: Json) -> Table:
    heard = origin["heard"]
    levels = heard["conditions"]
    rows = [[FACTORS[factor], ", ".join(levels[factor])] for factor in CONDITIONS if factor in levels]
    rows += [[f"{what} from", ", ".join(kinds)] for what, kinds in _sources(heard["sources"]).items()]
    return Table(
        ["", "measured on"], [*rows, ["language of the speech", ", ".join(heard["languages"]) or "not named"]]
    )


def _sources(sources: Iterable[Json]) -> dict[str, list[str]]:
    """Class, or the role of what is no content -> the kinds of its sources."""
    kinds: dict[str, list[str]] = {}
    for one in sources:
        what = one["label"] if one["role"] == "content" and one["label"] else one["role"]
        kinds[what] = [*dict.fromkeys([*kinds.get(what, []), one["kind"]])]
    return kinds


def _unmeasured(origin: Json) -> Iterator[str]:
    """What nothing is known about, since it was not among the test clips."""
    levels, languages = origin["heard"]["conditions"], origin["heard"]["languages"]
    for factor, (what, unit) in OPEN_ENDED.items():
        if numbers := [name for name in levels.get(factor, []) if name.lstrip("-")[:1].isdigit()]:
            low, high = f"{numbers[0]} {unit}", f"{numbers[-1]} {unit}"
            yield (
                f"{what} below {low}, above {high}, and between the levels above"
                if low != high
                else f"{what} other than {low}"
            )
    if levels.get("band") == ["clean"]:
        yield "band-limited sound, such as a telephone's"
    if levels.get("room") == ["anechoic"]:
        yield "reverberation"
    if levels.get("context") == ["none"]:
        yield "clips within longer sound"
    yield f"any language but {', '.join(languages)}" if languages else "speech of any named language"
    yield "other microphones, other kinds of sound, and real life, where the classes are not as frequent as each other"


# --- what stands behind it ---------------------------------------------------------------------------------------


def _limits(report: Json) -> Iterator[str]:
    n, effect, power = report["n"], report["design_effect"], report["power"]
    worth = (
        f": with a design effect of {number(effect['deff'], 2)} the clips are worth {number(effect['n_eff'], 0)} "
        "independent ones"
        if effect
        else ""
    )
    yield f"{n['groups']} groups decide what can be told apart, not {n['clips']} clips{worth}."
    if power:
        against = f", against {power['against']}" if power["against"] else ""
        smallest = power["smallest_detectable_difference"]
        why = f" ({power['reason']})" if power["reason"] else ""
        shown = f"none{why}" if smallest is None else number(smallest)
        yield (
            f"The smallest difference of accuracies this test set could have shown with 80 % power{against}: {shown}. "
            f"For 3 points it would take {power['groups_for_3_points']} groups alike ({power['n_for_3_points']} clips)."
        )
    else:
        yield f"The smallest difference this test set could have shown is not stated: {report['absent']['power']}."
    if report["agreement"]:
        flips = [f"{name} {one['flips']} of {one['n']} decisions differ" for name, one in report["agreement"].items()]
        yield f"Generation against one forward pass: {', '.join(flips)}."
    if report["gate"]:
        passed = "passed" if report["gate"]["passed"] else "**failed**, and published marked as such"
        yield f"Training gate: {passed} (at least {report['gate']['asked']:g} of the training clips answered right)."
    if looks := report["looks"]:
        each = ", ".join(f"{name} {n}" for name, n in looks["by_detector"].items())
        yield (
            f"{looks['count']} distinct models, prompts and thresholds have been scored on these test clips ({each}). The "
            f"ledger is {looks['ledger']}."
        )
    else:
        yield "How often these test clips were looked at is not recorded."


def _training(report: Json, timing: Json) -> list[str]:
    origin, adapter = report["provenance"], report["adapter"]
    quantised = (
        "quantised: " + ", ".join(f"{k} {v}" for k, v in q.items())
        if (q := origin["quantization"])
        else "not quantised"
    )
    lora = ", ".join(f"{key} {value}" for key, value in origin["lora"].items())
    parts = ", ".join(f"{part} {count:,}" for part, count in sorted(adapter["parameters"].items()))
    took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in timing["train_s"].items())
    energy = ", ".join(f"{name} {joules / 3600:.3g} Wh" for name, joules in timing["energy_j"].items())
    return [
        f"LoRA ({lora}) on {origin['scope']}, loss on the {origin['loss_on']}; base in {origin['dtype']}, {quantised}.",
        f"Parameters: {parts}; the adapter has {adapter['bytes']:,} bytes.",
        f"Trained on {origin['device']}; time on the clock, measured once: {took or 'not measured'}; energy: "
        f"{energy or 'not measured'}.",
        f"Libraries: {', '.join(f'{name} {version}' for name, version in sorted(origin['libraries'].items()))}.",
    ]


def _licences(origin: Json) -> Table:
    data = origin["dataset"]
    rows = [["this adapter", origin["licence"], ""], [f"data set {data['repo']}", data["licence"], ""]]
    rows += [
        [f"{heard}, by recording", licence.replace("|", "/"), str(clips)]
        for heard, licences in origin["heard"]["licences"].items()
        for licence, clips in licences.items()
    ]
    return Table(["of", "licence", "clips of the data set"], rows)


def _superseded_data(origin: Json) -> Iterator[str]:
    data = origin["dataset"]
    if later := data.get("superseded_by"):
        yield (
            f"> **Superseded data:** `{data['repo']}` has been published again as `{later}`. Every number here is over the "
            "older one below."
        )


def _provenance(origin: Json) -> list[list[str]]:
    data, base = origin["dataset"], base_of(origin)
    return [
        ["study", f"{origin['study']}, recipe sha256 `{origin['recipe_sha256']}`"],
        ["data", f"[{data['repo']}](https://huggingface.co/datasets/{data['repo']}) at `{data['sha']}`"],
        *([f"base of fold {fold}" if len(origin["bases"]) > 1 else "base", f"{one['repo']} at `{one['sha']}`"]
          for fold, one in enumerate(origin["bases"] or [{"repo": base["repo"], "sha": base["revision"]}])),
        ["adapter", f"fingerprint `{origin['adapter']['fingerprint']}`, seed {origin['adapter']['seed']}"],
        ["prompt", origin["prompt"].replace("\n", " ").replace("|", "\\|")],
        ["code", f"`{origin['code']}`"],
    ]  # fmt: skip
