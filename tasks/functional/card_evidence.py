"""What stands behind a model card's numbers: conditions, limits, training, times, licences, provenance."""

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from tasks.functional.card_heads import base_of, is_folder, is_of_speech
from tasks.functional.card_tables import Json, Part, Table, likeness, number
from tasks.functional.levels import ascending, level_names
from tasks.functional.timing import BESIDE

AGAIN = {
    "cpu": "on a CPU the same recipe and seed give the same weights, bit for bit",
    "gpu": "on a GPU the same recipe and seed promise no equal bits: kernels, batch size and the order of sums depend on "
    "card and libraries, so answers near .5 may differ",
}
FACTORS = {"duration_ms": "duration (ms)", "snr_db": "SNR (dB)", "rt60_s": "RT60 (s)", "band": "band", "room": "room",
           "context": "context", "family": "family of sound"}  # fmt: skip
DRAWN = ("duration_ms", "snr_db", "rt60_s")  # the factors that the report draws a figure of
CONDITIONS = ("duration_ms", "snr_db", "band", "room", "context")
TRIED = ("Qwen2AudioForConditionalGeneration",)  # a test runs the example that names it
OPEN_ENDED = {"duration_ms": ("durations", "ms"), "snr_db": ("SNRs", "dB")}  # levels of what could be any number


def evidence_of(report: Json, timing: Json) -> dict[str, Any]:
    """The part of what the template of an adapter's card takes that is no result."""
    origin = report["provenance"]
    return {
        "conditions": _conditions(origin), "unmeasured": list(_unmeasured(origin)), "limits": list(_limits(report)),
        "measured": _measured(origin), **_example(origin),
        "training": _training(report, timing), "latency": list(_latency(timing)), "licences": _licences(origin),
        "superseded_data": list(_superseded_data(origin)), "provenance": _provenance(origin),
    }  # fmt: skip


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
    if heard["languages"] or is_of_speech(origin["classes"]):
        rows.append(["language of the speech", ", ".join(heard["languages"]) or "not named"])
    return Table(["", "measured on"], rows)


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
    if languages or is_of_speech(origin["classes"]):
        yield f"any language but {', '.join(languages)}" if languages else "speech of any named language"
    yield "other microphones, other kinds of sound, and real life, where the classes are not as frequent as each other"


# --- what stands behind it ---------------------------------------------------------------------------------------


def _limits(report: Json) -> Iterator[str]:
    if is_folder(base := base_of(report["provenance"])):
        yield (
            f"Its base, {base['repo']}, is a folder and lies in no repository: only who has the very same one can use or "
            "check the adapter."
        )
    n, effect, power = report["n"], report["design_effect"], report["power"]
    worth = f" {likeness(effect)}" if effect else ""
    yield f"{n['groups']} groups decide what can be told apart, not {n['clips']} clips.{worth}"
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
        asked = report["gate"]["asked"]
        said = (
            f"{passed} (at least {asked:g} of the training clips answered right)"
            if asked
            else "the recipe asked nothing"
        )
        yield f"Training gate: {said}."
    if looks := report["looks"]:
        each = ", ".join(f"{name} {n}" for name, n in looks["by_detector"].items())
        yield (
            f"{looks['count']} distinct models, prompts and thresholds have been scored on these test clips ({each}). The "
            f"ledger is {looks['ledger']}."
        )
    else:
        yield "How often these test clips were looked at is not recorded."


def _measured(origin: Json) -> str:
    """How the numbers came about, beside lines of use that may be shorter than that."""
    base = f"the base quantised ({_quantisation(origin)})" if origin["quantization"] else "the base unquantised"
    context = ", ".join(origin["heard"]["conditions"].get("context", [])) or "none"
    how = f"Measured with {base}, context {context}, and only {' and '.join(origin['answers'])} allowed as answers"
    if not _example(origin)["base_classes"]:
        return f"{how}; these lines ask it so."
    return (
        f"{how}; these lines load the base unquantised, put the clip into no context and allow any answer. Clips under "
        "25 ms give the model nothing to hear: `earshot predict` puts them into the context, or refuses them where there is "
        "none."
    )


def _example(origin: Json) -> dict[str, list[Any]]:
    """The class into which lines for the libraries alone load the base; of a family without such lines, and of a base that
    is a folder of somebody's, Earshot's own, with the argument that says where such a base lies."""
    named, folder = origin.get("base_class"), is_folder(base_of(origin))
    tried = named in TRIED and not folder
    where = ', base="FOLDER"' if folder else ""
    return {"base_classes": [named] * tried, "asked_by_earshot": [where] * (not tried)}


def _quantisation(origin: Json) -> str:
    return ", ".join(f"{key} {value}" for key, value in origin["quantization"].items())


def _training(report: Json, timing: Json) -> list[str]:
    origin, adapter = report["provenance"], report["adapter"]
    quantised = f"quantised: {_quantisation(origin)}" if origin["quantization"] else "not quantised"
    lora = ", ".join(f"{key} {value}" for key, value in (origin["lora"] or {}).items())
    method = f"LoRA ({lora})" if lora else "Every parameter trained,"
    parts = ", ".join(f"{part} {count:,}" for part, count in sorted(adapter["parameters"].items()))
    took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in timing["train_s"].items())
    return [
        f"{method} on {origin['scope']}, loss on the {origin['loss_on']}; base in {origin['dtype']}, {quantised}.",
        f"Parameters: {parts}; the adapter has {adapter['bytes']:,} bytes.",
        f"Trained on {origin['device']}; time on the clock, measured once: {took or 'not measured'}; energy: not measured.",
        f"Libraries: {', '.join(f'{name} {version}' for name, version in sorted(origin['libraries'].items()))}.",
    ]


def _latency(timing: Json) -> Iterator[Part]:
    """The median detector by detector, where any was timed."""
    rows = [
        [name, f"{one['median_ms']:.2f}", f"{one['p95_ms']:.2f}", str(one["clips"])]
        for name, one in sorted(timing["latency"].items(), key=lambda item: float(item[1]["median_ms"]))
    ]
    if rows:
        line = f"Warm, one clip at a time, on the machine of the run, {BESIDE}; *recorded* (evidence/timing.json)."
        yield Part(
            "Time a clip takes", [line], [Table(["detector", "median, ms", "95 % below, ms", "clips timed"], rows)]
        )


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
    bases = [{"repo": base["repo"], "sha": base["revision"]}] if not origin["bases"] else origin["bases"]
    at = ", a folder in no repository, its content" if is_folder(base) else " at"
    return [
        ["study", f"{origin['study']}, recipe sha256 `{origin['recipe_sha256']}`"],
        ["data", f"{data['repo']} at `{data['sha']}`"],
        *([f"base of fold {fold}" if len(bases) > 1 else "base", f"{one['repo']}{at} `{one['sha']}`"]
          for fold, one in enumerate(bases)),
        ["adapter", f"fingerprint `{origin['adapter']['fingerprint']}`, seed {origin['adapter']['seed']}"],
        ["made again", AGAIN["cpu" if origin["device"] == "cpu" else "gpu"]],
        ["prompt", origin["prompt"].replace("\n", " ").replace("|", "\\|")],
        ["code", f"`{origin['code']}`"],
    ]  # fmt: skip
