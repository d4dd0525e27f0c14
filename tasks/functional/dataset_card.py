"""What the card of a data set says, line by line from its card.json: the template lays it out and decides nothing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from tasks.functional.card_evidence import CONDITIONS
from tasks.functional.card_heads import as_yaml, dataset_head, is_of_speech
from tasks.functional.card_tables import Json, Table, table_of_checks
from tasks.functional.content_audit import describe_comparison
from tasks.functional.design import cross_durations_and_snrs
from tasks.functional.overlap import sharing
from tasks.functional.shortcuts import state_shortcuts

LICENCES = {"content": "licence", "noise": "noise_licence", "rooms": "room_licence"}  # what is heard -> its column
COUNTED = (
    "part", "label", "clip_id", "group_id", "supergroup_id", "base_clip_id", "recording_id", "varied", *CONDITIONS,
    *LICENCES.values(),
)  # fmt: skip
CONTEXTS = {
    "noise": "{:g} ms of noise, the noise that was mixed into it (of silence where none was)",
    "silence": "{:g} ms of silence",
}


def dataset_card(data: Json) -> dict[str, Any]:
    """What the template of a data set's card takes, from card.json."""
    asked, random = data["clips_recipe"], data["splits_recipe"]["protocol"] == "random"
    return {
        "head": as_yaml(dataset_head(data)), "repo": data["repo"], "licence": data["licence"],
        "fingerprint": data["fingerprint"], "first_part": data["parts"][0]["name"],
        "opening": list(_opening(data)), "counts": _counts(data), "folds": list(_folds(data)),
        "verdict": data["audit"]["verdict"], "protocol": data["audit"]["protocol"],
        "compared": describe_comparison(data["audit"]), "checks": table_of_checks(data["audit"]["checks"]),
        "shortcuts": state_shortcuts(data["audit"].get("shortcuts"), data["audit"]),
        "balance": list(_balance(data["balance"])), "factors": _factors(data), "factor_notes": list(_factor_notes(data)),
        "design": list(_design(data, asked)), "cells": [Table(its["columns"], its["data"]) for its in data["cells"]],
        "families": list(_families(data, asked)), "shared": list(_shared(data.get("shared"))),
        "context": _context(asked["context"]),
        "hygiene": _hygiene(data["hygiene"]), "hygiene_counts": list(_hygiene_counts(data["hygiene"])),
        "dealt": RANDOM if random else APART, "normalise": asked["normalise"],
        "languages": ", ".join(data["languages"]) or ("not named by the recipe" if is_of_speech(data["classes"]) else ""),
        "classes": " from ".join(data["classes"]),
        "sources": list(_sources(data)), "licences": _licences(data),
    }  # fmt: skip


def licences_of(clips: pd.DataFrame) -> dict[str, dict[str, int]]:
    """What is heard (content, noise, rooms) -> licence of its recordings -> clips."""
    return {
        heard: {str(name): int(n) for name, n in clips[column].value_counts().items()}
        for heard, column in LICENCES.items()
    }


def counts_of(clips: pd.DataFrame, classes: Sequence[str], design: str) -> dict[str, Any]:
    """What a card counts of all clips of a data set: by part and class, by licence, by factor, those that share audio within
    their condition, and in the cells of even margins."""
    keys = ["part", "label"]
    counted = clips.groupby(keys, sort=False).agg(
        clips=("clip_id", "size"), groups=("group_id", "nunique"), supergroups=("supergroup_id", "nunique")
    )
    return {
        "clips": len(clips),
        "licences": licences_of(clips),
        "counts": counted.reset_index().to_dict("records"),
        "shared": sharing(clips).to_dict("records"),
        "factors": {name: _levels(clips[name]) for name in CONDITIONS},
        "cells": [
            cross_durations_and_snrs(its[its["label"] == classes[0]])
            .rename(columns={"duration": part})
            .to_dict("split")
            for part, its in clips.groupby("part", sort=False)
            if design == "margins"
        ],
    }


def _levels(column: pd.Series) -> list[Any]:
    """Distinct levels, sorted; null (no noise) last."""
    known = sorted(column.dropna().unique().tolist())
    return [*known, *([None] if column.isna().any() else [])]


APART = "no voice, noise file or room stands on two parts"
RANDOM = (
    "the finished clips were then dealt anew at random, whatever they share: this set measures what a leak adds, and no "
    "result on it is one"
)


def _opening(data: Json) -> Iterator[str]:
    if data["description"]:
        yield f"{data['description']}\n"
    yield (
        f"{data['clips']} clips of {' or '.join(data['classes'])}, 16 kHz mono FLAC in parquet. The groups (voices, source "
        "recordings) count, not the clips:"
    )


def _counts(data: Json) -> Table:
    keys = ("part", "label", "groups", "supergroups", "clips")
    rows = [[str(row[key]) for key in keys] for row in data["counts"]]
    return Table(["part", "class", "groups", "supergroups", "clips"], rows)


def _folds(data: Json) -> Iterator[str]:
    if data["folds"]:
        yield (
            f"There are {data['folds']} parts for {data['folds']} folds: fold k tests on part k, develops on part k+1 and "
            "trains on the others."
        )


def _balance(balance: Json) -> Iterator[str]:
    if "largest_imbalance" in balance:
        yield f"Within one part, duration and SNR the classes differ by {balance['largest_imbalance']} clips at most."


# --- factors and design ------------------------------------------------------------------------------------------


def _level(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value)


def _factors(data: Json) -> Table:
    def named(factor: str, value: Any) -> str:
        return _level(value) + (_corners(*data["bands"][value]) if factor == "band" else "")

    rows = [[name, ", ".join(named(name, value) for value in data["factors"][name])] for name in CONDITIONS]
    return Table(["factor", "levels"], rows)


def _corners(low: float | None, high: float | None) -> str:
    if low and high:
        return f" ({low:g} to {high:g} Hz)"
    return f" (from {low:g} Hz on)" if low else f" (up to {high:g} Hz)" if high else ""


def _factor_notes(data: Json) -> Iterator[str]:
    if None in data["factors"]["snr_db"]:
        yield "`snr_db` none: no noise was added."
    if [*data["bands"]] != ["clean"]:
        yield "A band limits content and noise alike: Butterworth of order 4, forth and back, -6 dB at its corners."


def _design(data: Json, asked: Json) -> Iterator[str]:
    conditions, reference = data["conditions"], asked["reference"]
    if asked["design"] == "factorial":
        yield (
            f"Factorial: each of the {conditions} combinations of the levels has {_counted(asked['per_cell'], data)} clips "
            "of each class in a part."
        )
    elif asked["design"] == "margins":
        yield (
            f"Even margins: {_counted(asked['per_class'], data)} clips of each class in a part, spread over the "
            f"{conditions} combinations of the levels. Combinations, and the levels of each factor, differ by one clip at "
            "most. Clips of each class by duration and SNR:"
        )
    else:
        yield (
            f"One factor at a time: the same {_counted(asked['per_class'], data)} cuts of each class in a part, rendered in "
            f"{conditions} conditions. `varied` names the factor that a condition was made for; the others stay at "
            f"{reference['duration_ms']:g} ms, `snr_db` {_level(reference['snr_db'])}, `band` {reference['band']}, `room` "
            f"{reference['room'] or 'anechoic'}. A shorter clip is the middle of the longest one."
        )


def _shared(shared: Sequence[Json] | None) -> Iterator[str]:
    if shared is None:  # of a set that was published before this was counted
        return
    told = ", ".join(
        f"{row['shared']} of {row['clips']} ({row['label']}, {row['part']})" for row in shared if row["shared"]
    )
    yield (
        f"Clips that share audio, at least in part, with another clip of their condition: {told}. They were cut from the "
        "same stretch of a recording, and are less evidence than their number says."
        if told
        else "No two clips of one condition share audio."
    )


def _counted(number: Any, data: Json) -> str:
    """A number for all parts alike, or one each."""
    if not isinstance(number, Mapping):
        return str(number)
    return ", ".join(f"{number[part['name']]} ({part['name']})" for part in data["parts"])


def _families(data: Json, asked: Json) -> Iterator[str]:
    if asked["balance_families"]:
        yield f"{data['classes'][1]} comes in equal shares from {', '.join(asked['balance_families'])}."


def _context(context: Json | None) -> str:
    if not context:
        return "Context: none, the waveform is the clip."
    within = CONTEXTS[context["kind"]].format(context["total_ms"])
    return f"Context: every clip stands in the middle of {within}. `duration_ms` is that of the clip itself."


# --- labels and licences -----------------------------------------------------------------------------------------


def _hygiene(hygiene: Json | None) -> str:
    if not hygiene:
        return "None: labels are those of the sources, and no detector has checked them."
    return (
        "Before anything was mixed, the audible part of each recording was listened to at the level of a clip "
        f"({hygiene['detector']}). Dropped were recordings with another share of speech than their class may have; "
        "hygiene.csv names them. What a detector takes for the other class is gone, so that every detector finds these "
        "clips easier than unchecked ones, and the one that chose them most of all."
    )


def _hygiene_counts(hygiene: Json | None) -> Iterator[Table]:
    if hygiene:
        keys = ("class", "rule", "recordings", "dropped", "groups", "groups_left")
        rows = [[str(row[key]) for key in keys] for row in hygiene["counts"]]
        yield Table(["class", "share of speech", "recordings", "dropped", "groups", "groups left"], rows)


def _sources(data: Json) -> Iterator[str]:
    for one in data["sources"]:
        label = f", {one['label']}" if one["role"] == "content" and one["label"] else ""
        left_out = f"; leaves out {one['left_out']}" if one["left_out"] else ""
        yield f"{one['kind']}, role {one['role']}{label}{left_out}"


def _licences(data: Json) -> Table:
    rows = [
        [heard, licence.replace("|", "/"), str(clips)]
        for heard, licences in data["licences"].items()
        for licence, clips in licences.items()
    ]
    return Table(["heard as", "licence of the recording", "clips"], rows)


def licences_text(made_from: Json) -> tuple[list[str], list[Table]]:
    """Lines and tables of LICENSE.md, for a data set (its card.json) or for weights (`repo` and `sha` of their data)."""
    if "licences" in made_from:
        line = (
            "Every clip keeps the licences of its recording, noise and room; its row in the parquet files names them."
        )
        return [line], [_licences(made_from)]
    named = f"`{made_from['repo']}` at `{made_from['sha']}`"
    return [
        f"No single licence is stated for these weights. They were trained on {named}, whose LICENSE.md or card counts the",
        "licences of its recordings; some of those may restrict what the weights are used for.",
    ], []
