"""What the Hub reads of a card: the mapping at its head, as YAML."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

OURS, OF_SPEECH = ("earshot",), ("speech-detection", "voice-activity-detection")
BY_CLIP = {"license_name": "by-clip", "license_link": "LICENSE.md"}  # what `other` means here, and where it stands
OF_A_FOLDER = "base-of-a-folder"  # the tag of an adapter whose base lies in no repository
IN_INDEX = ("balanced_accuracy", "accuracy", "roc_auc")


def is_of_speech(classes: Sequence[str]) -> bool:
    """Whether a study tells speech from something else; its recipe may have any two classes."""
    return "SPEECH" in classes


def _tags(classes: Sequence[str]) -> tuple[str, ...]:
    return (*OURS, *(OF_SPEECH if is_of_speech(classes) else ()))


def as_yaml(head: Mapping[str, Any]) -> str:
    """Plain YAML in the given order, without what is empty."""
    return yaml.safe_dump(
        {key: value for key, value in head.items() if value not in (None, [], "")},
        sort_keys=False, allow_unicode=True, width=1000,
    )  # fmt: skip


def dataset_head(data: Mapping[str, Any]) -> dict[str, Any]:
    """Of a data set's card, from card.json."""
    files = [{"split": part["name"], "path": part["file"]} for part in data["parts"]]
    return {
        "license": data["licence"], **(BY_CLIP if data["licence"] == "other" else {}),
        "language": data["languages"], "pretty_name": data["name"], "task_categories": ["audio-classification"],
        "size_categories": [data["size"]], "tags": ["audio", *_tags(data["classes"])],
        "configs": [{"config_name": "default", "data_files": files}],
    }  # fmt: skip


def base_head(base: Mapping[str, Any]) -> dict[str, Any]:
    """Of the card of a tiny base."""
    return {
        "license": base["licence"], **(BY_CLIP if base["licence"] == "other" else {}),
        "library_name": "transformers", "pipeline_tag": "audio-text-to-text", "datasets": [base["data"]["repo"]],
        "tags": ["earshot", "qwen2_audio"],
    }  # fmt: skip


def model_head(report: Mapping[str, Any]) -> dict[str, Any]:
    """Of an adapter's card, from its report. A model-index has no field for n or an interval: they stand in the names."""
    origin = report["provenance"]
    data, base = origin["dataset"], base_of(origin)
    metrics = {name: report["metrics"][name] for name in IN_INDEX if report["metrics"][name]["value"] is not None}
    result = {
        "task": {"type": "audio-classification", "name": " or ".join(report["classes"])},
        "dataset": {"type": data["repo"], "name": data["repo"], "split": "test", "revision": data["sha"]},
        "metrics": [
            {"type": name, "value": float(its["value"]), "name": f"{name} ({_note(its, report)})"}
            for name, its in metrics.items()
        ],
    }
    return {
        "license": origin["licence"], **(BY_CLIP if origin["licence"] == "other" else {}),
        "language": origin["heard"]["languages"], "library_name": "peft", "pipeline_tag": "audio-text-to-text",
        **({} if is_folder(base) else {"base_model": base["repo"], "base_model_relation": "adapter"}),
        "datasets": [data["repo"]], "tags": [*_tags(report["classes"]), "lora", *[OF_A_FOLDER] * is_folder(base)],
        "model-index": [{"name": origin["repo"], "results": [result]}],
    }  # fmt: skip


def base_of(origin: Mapping[str, Any]) -> dict[str, str]:
    """Repository and revision of the base: of a tiny one, that of the first fold as it was published."""
    if bases := origin["bases"]:
        return {"repo": bases[0]["repo"], "revision": bases[0]["sha"]}
    return {"repo": origin["base"]["repo"], "revision": origin["base"]["revision"]}


def is_folder(base: Mapping[str, str]) -> bool:
    """Whether a base is no repository but a folder, called by its name and by its content instead of a revision."""
    return "/" not in base["repo"]


def _note(metric: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    interval = "95 % CI {:.3f} to {:.3f} over".format(*metric["ci95"]) if metric["ci95"] else "no interval,"
    return f"{interval} {groups_of(report)}, {report['n']['clips']} clips"


def groups_of(report: Mapping[str, Any]) -> str:
    """The groups of the test set, and those of each class."""
    n = report["n"]
    of_class = [f"{n['by_label'][name]['groups']} {name}" for name in report["classes"]]
    return f"{n['groups']} groups ({', '.join(of_class)})"
