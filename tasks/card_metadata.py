"""What the Hub reads at the head of a card, checked without a network: complete, of its vocabulary, plain and pinned."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from recipes.block import HUB_ID
from recipes.hub_terms import LICENCES, SIZES, TASKS, languages
from tasks.functional.card_heads import OF_A_FOLDER
from tasks.repo_checks import check_readme

REPO = re.compile(HUB_ID)
SHA = re.compile(r"[0-9a-f]{40}")
NEEDED = {
    "dataset": ("license", "pretty_name", "task_categories", "tags", "size_categories", "configs"),
    "model": ("license", "library_name", "pipeline_tag", "tags", "datasets"),
}
RELATIONS = ("adapter", "finetune", "merge", "quantized")


def card_faults(text: str, kind: str) -> list[str]:
    """What is wrong with the head of a card of this kind ("dataset" or "model"), a sentence each; empty where nothing is."""
    found = re.match(r"---\n(.*?)^---$", text, re.DOTALL | re.MULTILINE)
    if not found:
        return ["the card has no head between two lines of ---"]
    try:
        check_readme(text)
        head = yaml.safe_load(found[1])
    except (ValueError, yaml.YAMLError) as error:
        return [f"the card {error}"]
    if not isinstance(head, dict):
        return ["the card's head is no mapping"]
    missing = [f"{key} is missing" for key in NEEDED[kind] if not head.get(key)]
    return [*missing, *_plain(head, ""), *_words(head), *(_dataset(head) if kind == "dataset" else _model(head))]


def _plain(value: Any, at: str) -> Iterator[str]:
    """Values that are no text, number or truth: numpy's scalars become objects of Python there."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _plain(inner, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _plain(inner, f"{at}[{number}]")
    elif not isinstance(value, str | int | float | bool):
        yield f"{at} is {value!r}, which is neither text nor a number"


def _words(head: Mapping[str, Any]) -> Iterator[str]:
    """Keys that both kinds have, against the Hub's vocabulary."""
    if (licence := head.get("license")) not in LICENCES:
        yield f"license {licence!r} is no identifier of the Hub"
    if licence == "other" and not (head.get("license_name") and head.get("license_link")):
        yield "license other needs license_name and license_link"
    spoken = head.get("language", [])
    if not isinstance(spoken, list) or (unknown := [code for code in spoken if code not in languages()]):
        yield f"language {spoken if not isinstance(spoken, list) else unknown} is no list of ISO 639 codes"
    for key in ("tags", "datasets", "task_categories", "size_categories"):
        its = head.get(key, [])
        if not isinstance(its, list) or not all(isinstance(one, str) and one for one in its):
            yield f"{key} is no list of words"
        elif len(set(its)) != len(its):
            yield f"{key} says a word twice"


def _dataset(head: Mapping[str, Any]) -> Iterator[str]:
    for task in head.get("task_categories") or []:
        if task not in TASKS:
            yield f"task_categories: {task!r} is no task of the Hub"
    for size in head.get("size_categories") or []:
        if size not in (*SIZES.values(), "10M<n<100M"):
            yield f"size_categories: {size!r} is no size of the Hub"
    for config in head.get("configs") or []:
        files = config.get("data_files") if isinstance(config, dict) else None
        if not files or not config.get("config_name") or not all({"split", "path"} <= {*file} for file in files):
            yield "configs: each has a config_name, and data_files with split and path"


def _model(head: Mapping[str, Any]) -> Iterator[str]:
    if (task := head.get("pipeline_tag")) not in TASKS:
        yield f"pipeline_tag {task!r} is no task of the Hub"
    for name in (*(head.get("datasets") or []), *([head["base_model"]] if "base_model" in head else [])):
        if not REPO.fullmatch(str(name)):
            yield f"{name!r} is no repository name"
    if head.get("library_name") == "peft":
        if OF_A_FOLDER in (head.get("tags") or []):
            if "base_model" in head:
                yield f"an adapter tagged {OF_A_FOLDER} has no base_model"
        elif "base_model" not in head or head.get("base_model_relation") not in RELATIONS:
            yield "an adapter has a base_model, and base_model_relation adapter"
        if not head.get("model-index"):
            yield "model-index is missing"
    for model in head.get("model-index") or []:
        for result in model.get("results") or [{}]:
            yield from _result(result)


def _result(result: Mapping[str, Any]) -> Iterator[str]:
    """One entry of a model-index."""
    task, data = result.get("task") or {}, result.get("dataset") or {}
    if task.get("type") not in TASKS:
        yield f"model-index: task {task.get('type')!r} is no task of the Hub"
    if not data.get("name") or not REPO.fullmatch(str(data.get("type"))):
        yield "model-index: dataset has a name, and a repository for its type"
    if not SHA.fullmatch(str(data.get("revision"))):
        yield f"model-index: revision {data.get('revision')!r} is not all 40 hex digits of a sha"
    if not (metrics := result.get("metrics")):
        yield "model-index: no metrics"
    for metric in metrics or []:
        value = metric.get("value")
        if not metric.get("type") or type(value) is not float or not abs(value) < float("inf"):
            yield f"model-index: {metric.get('type')} is {value!r}, no plain finite number"
