"""Lineage: what a published repository was made from, each part with the parents it names, compared where they are here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from recipes.reading import recipe_digest
from tasks.hub import locate, newest, pull
from tasks.store import read_json, sha256


class Link(NamedTuple):
    """One part, the parents it names, and whether what it names is what lies there."""

    part: str  # "recipe", "data set", "base", "adapter", "report" or "card"
    name: str
    parents: tuple[str, ...]
    verdict: Literal["agrees", "differs", "not here"]
    note: str = ""


def lineage(name: str) -> list[Link]:
    """The links of an adapter, a base or a data set (a folder, or NAMESPACE/NAME[@sha] at home or on the Hub), oldest first.

    Raises FileNotFoundError where it is nowhere, or holds nothing that Earshot published, ValueError where what it holds
    does not name its parents as Earshot does.
    """
    folder, sha = locate(name)
    try:
        return links(folder, sha)
    except (LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"{folder} does not name what it was made from: {type(error).__name__}, {error}") from error


def links(folder: Path, sha: str) -> list[Link]:
    """Those of a folder, by what lies in it; its sha where it is a commit."""
    if (folder / "report.json").is_file():
        return list(links_of_adapter(folder))
    if (folder / "base.json").is_file():
        facts = read_json(folder / "base.json")
        data = f"{facts['data']['repo']}@{facts['data']['sha']}"
        base = Link("base", f"{facts['repo']}@{sha}" if sha else facts["repo"], (data,), judge_base(folder, data))
        return [link_of_data(data, None, None), base]
    if (folder / "card.json").is_file():
        repo = read_json(folder / "card.json")["repo"]
        recipe = f"recipe.json {recipe_digest(read_json(folder / 'recipe.json'))[:12]}"
        return [Link("recipe", recipe, (), "agrees"), link_of_data(f"{repo}@{sha}" if sha else repo, recipe, None)]
    raise FileNotFoundError(
        f"{folder} holds neither report.json, card.json nor base.json: nothing here was published by Earshot"
    )


def links_of_adapter(folder: Path) -> Iterator[Link]:
    """From the recipe to the card of one adapter's repository."""
    report, recipe = (
        read_json(folder / "report.json"),
        yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")),
    )
    origin = report["provenance"]
    study, data = (
        f"{origin['study']} {origin['recipe_sha256'][:12]}",
        f"{origin['dataset']['repo']}@{origin['dataset']['sha']}",
    )
    predictions = f"predictions.parquet {origin['predictions_sha256'][:12]}"
    yield Link("recipe", study, (), judge(recipe_digest(recipe) == origin["recipe_sha256"]))
    yield link_of_data(data, study, recipe["dataset"])
    bases = {f"{base['repo']}@{base['sha']}" for base in origin["bases"]}
    for base in sorted(bases):
        yield link_of_base(base, data)
    bases = bases or {f"{origin['base']['repo']}@{origin['base']['revision']}"}
    for fold, weights in report["adapter"]["sha256"].items():
        yield link_of_weights(folder, fold, weights, bases, data)
    same = sha256(folder / "predictions.parquet") == origin["predictions_sha256"]
    named = f"report.json {sha256(folder / 'report.json')[:12]}"
    yield Link("report", named, (study, data, *sorted(bases), predictions), judge(same))
    card = (folder / "README.md").read_text(encoding="utf-8")
    said = all(name in card for name in (origin["dataset"]["sha"], origin["predictions_sha256"]))
    yield Link("card", f"README.md {sha256(folder / 'README.md')[:12]}", (named, data), judge(said))


def link_of_data(name: str, recipe: str | None, block: Any) -> Link:
    """A data set: whether the recipe in it is the study's, and whether another one was published under its name since."""
    repo, _, sha = name.partition("@")
    parents = (recipe,) if recipe else ()
    later = newest("dataset", repo)
    note = f"superseded by {repo}@{later}" if sha and later and later != sha else ""
    try:
        folder = pull("dataset", repo, sha) if sha else None
    except FileNotFoundError:
        return Link("data set", name, parents, "not here", note)
    same = folder is None or block is None or read_json(folder / "recipe.json") == block
    return Link("data set", name, parents, judge(same), note)


def link_of_base(name: str, data: str) -> Link:
    """A tiny base: whether it says that it was made from this data set."""
    repo, _, sha = name.partition("@")
    try:
        folder = pull("model", repo, sha)
    except FileNotFoundError:
        return Link("base", name, (data,), "not here")
    return Link("base", name, (data,), judge_base(folder, data))


def judge_base(folder: Path, data: str) -> Literal["agrees", "differs"]:
    """Whether a base and its card name this data set, NAME@sha."""
    named = read_json(folder / "base.json")["data"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    return judge(f"{named['repo']}@{named['sha']}" == data and named["sha"] in card)


def link_of_weights(folder: Path, fold: str, weights: str, bases: set[str], data: str) -> Link:
    """One fold's weights: whether they are those of the report, and for one of its bases."""
    place = folder if fold == "fold 0" else folder / fold.replace(" ", "-")
    config = read_json(place / "adapter_config.json")
    base = f"{config['base_model_name_or_path']}@{config['revision']}"
    same = sha256(place / "adapter_model.safetensors") == weights and base in bases
    return Link("adapter", f"{fold} {weights[:12]}", (base, data), judge(same))


def judge(same: bool) -> Literal["agrees", "differs"]:
    """The verdict on what could be compared."""
    return "agrees" if same else "differs"
