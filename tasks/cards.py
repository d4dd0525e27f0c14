"""Publications: a data set, its base, its adapter, each with a card that says no more than was measured."""

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import yaml

from recipes.data import DatasetRecipe
from recipes.hub_terms import size_category
from recipes.schema import CheckFailed, PublishBlock, StudyRecipe
from tasks.cache import ROOT, task
from tasks.card_metadata import card_faults
from tasks.functional.audio import BANDS
from tasks.functional.cards import render_base_card, render_dataset_card, render_licence, render_model_card
from tasks.functional.dataset_card import COUNTED, counts_of
from tasks.functional.report import Report as Document
from tasks.hub import newest, publish
from tasks.hub_client import Wish
from tasks.run_page import HOOKS, say, show_markdown
from tasks.store import (
    Adapter,
    Base,
    Hygiene,
    Publication,
    Report,
    Splits,
    copy_folder,
    file_digests,
    home,
    read_json,
    read_timing,
    timing_folder,
    write_json,
)

TEMPLATES = ROOT / "hub_cards"


@task(task_run_name="publish data set {block.dataset}", **HOOKS)
def publish_dataset(
    splits: Splits, recipe: DatasetRecipe, classes: tuple[str, str], block: PublishBlock, hygiene: Hygiene | None
) -> Publication:
    """The audited parquets with their card and what hygiene dropped, before anything is trained on them."""
    repo = f"{block.namespace}/{block.dataset}"
    with workbench() as folder:
        copy_folder(splits.path, folder)
        if hygiene:
            shutil.copy(hygiene.path / "hygiene.csv", folder)
        write_json(folder / "card.json", dataset_facts(splits, recipe, classes, repo, hygiene))
        facts = read_json(folder / "card.json")  # rendered from the file, as verification does
        card = render_dataset_card(template("dataset_card"), facts)
        add_licence(folder, recipe.licence, repo, facts)
        publication = finish(folder, "dataset", repo, card, block)
    show_markdown(f"card-{block.dataset}", without_header(card), f"Card of {repo}")
    return publication


@task(task_run_name="publish base of fold {fold}", **HOOKS)
def publish_base(base: Base, block: PublishBlock, data: Publication, fold: int) -> Publication:
    """The tiny base, so that an adapter's configuration can name it by repository and sha."""
    repo = f"{block.namespace}/{block.adapter}-base" + (f"-fold{fold}" if fold else "")
    with workbench() as folder:
        copy_folder(base.path, folder)
        facts = {
            "repo": repo,
            "licence": block.licence,
            "parameters": base.parameters,
            "fold": fold,
            "data": data.model_dump(),
        }
        write_json(folder / "base.json", facts)
        card = render_base_card(template("base_card"), facts)
        add_licence(folder, block.licence, repo, data.model_dump())
        return finish(folder, "model", repo, card, block)


@task(task_run_name="publish adapter {recipe.publish.adapter}", **HOOKS)
def publish_adapter(adapters: Sequence[Adapter], report: Report, splits: Splits, recipe: StudyRecipe) -> Publication:
    """The adapter (of K folds: the first, the others beside it), the report, its predictions and evidence, the card.

    Raises CheckFailed where the report may not be published, with every reason.
    """
    repo = f"{recipe.publish.namespace}/{recipe.publish.adapter}"
    if recipe.train.lora is None:
        raise CheckFailed(
            "lora none trained the whole base, and adapters are what is published; `earshot evaluate` ends with its report, "
            "or set train.lora=attention"
        )
    stated = as_of_now(read_json(report.path / "report.json"))
    document, timing = Document.model_validate(stated), times_of(adapters, report)
    try:
        card = render_model_card(template("model_card"), document, timing)
    except ValueError as error:
        raise CheckFailed(f"{str(error).rstrip('.')}; its report is {report.path / 'report.html'}") from error
    with workbench() as folder:
        copy_folder(report.path, folder)
        write_json(folder / "report.json", stated)
        for adapter in adapters:
            place = folder / f"fold-{adapter.fold}" if adapter.fold else folder
            copy_folder(adapter.path, place)
        (folder / "evidence").mkdir(exist_ok=True)  # what listening found lies there already
        for name in ("audit.json", "balance.json"):
            shutil.copy(splits.path / name, folder / "evidence" / name)
        write_json(folder / "evidence" / "timing.json", timing)
        add_licence(folder, recipe.publish.licence, repo, stated["provenance"]["dataset"])
        base = "@".join(stated["provenance"]["base"][key] for key in ("repo", "revision"))
        text = yaml.safe_dump(recipe.in_public(base), sort_keys=False, allow_unicode=True)
        (folder / "recipe.yaml").write_text(text, encoding="utf-8")
        publication = finish(folder, "model", repo, card, recipe.publish)
    show_markdown(f"card-{recipe.publish.adapter}", without_header(card), f"Model card of {repo}")
    return publication


def times_of(adapters: Sequence[Adapter], report: Report) -> dict[str, dict[str, Any]]:
    """What was measured while the adapters were trained and the detectors timed; nothing of an adapter that was pulled."""
    measured = {f"seed {adapter.seed}, fold {adapter.fold}": read_timing(adapter) for adapter in adapters}
    trained = {name: its["train_s"] for name, its in measured.items() if "train_s" in its}
    latency = timing_folder(report) / "timing.json"
    return {"train_s": trained, "latency": read_json(latency) if latency.is_file() else {}}


def as_of_now(report: dict[str, Any]) -> dict[str, Any]:
    """A report that names what was published under the name of its data set since, where that is another one."""
    data = report["provenance"]["dataset"]
    later = newest("dataset", data["repo"])
    if later in (None, data["sha"]):
        return report
    return {**report, "provenance": {**report["provenance"], "dataset": {**data, "superseded_by": later}}}


def template(name: str) -> str:
    """The text of a template."""
    return (TEMPLATES / f"{name}.md.j2").read_text(encoding="utf-8")


def add_licence(folder: Path, licence: str, repo: str, made_from: Mapping[str, Any]) -> None:
    """LICENSE.md, where the licence is `other`: the card's head points there."""
    if licence == "other":
        (folder / "LICENSE.md").write_text(render_licence(template("licence"), repo, made_from), encoding="utf-8")


def finish(folder: Path, kind: Any, repo: str, card: str, block: PublishBlock) -> Publication:
    """Card, list of files with their hashes, and into the hub. Raises CheckFailed where the card's head is not valid."""
    if faults := card_faults(card, kind):
        raise CheckFailed(f"the card of {repo} is not published: {'; '.join(faults)}")
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_json(folder / "files.json", dict(sorted(file_digests(folder).items())))
    publication = publish(folder, kind, repo, block.to, Wish(block.private, block.create_pr))
    say(f"{kind} {repo}@{publication.sha}")
    return publication


def dataset_facts(
    splits: Splits, recipe: DatasetRecipe, classes: tuple[str, str], repo: str, hygiene: Hygiene | None
) -> dict[str, Any]:
    """What the card of a data set says, all counted from its parquets but for what the recipe asked for."""
    parts = list(splits.clips)
    tables = [
        pq.read_table(splits.path / "data" / f"{part}.parquet", columns=list(COUNTED)).to_pandas() for part in parts
    ]
    clips = pd.concat(tables, ignore_index=True)
    return {
        **counts_of(clips, classes, recipe.clips.design),
        "repo": repo,
        "name": recipe.name,
        "description": recipe.description,
        "licence": recipe.licence,
        "languages": list(recipe.languages),
        "size": size_category(len(clips)),
        "classes": list(classes),
        "folds": recipe.splits.folds,
        "parts": [{"name": part, "file": f"data/{part}.parquet"} for part in parts],
        "conditions": recipe.clips.conditions,
        "bands": {name: BANDS[name] for name in recipe.clips.bands},
        "hygiene": read_json(hygiene.path / "hygiene.json") if hygiene else None,
        "audit": read_json(splits.path / "audit.json"),
        "balance": read_json(splits.path / "balance.json"),
        "sources": [source.model_dump(mode="json") | {"left_out": source.left_out} for source in recipe.sources],
        "clips_recipe": recipe.clips.model_dump(mode="json"),
        "splits_recipe": recipe.splits.model_dump(mode="json"),
        "fingerprint": splits.fingerprint,
    }


@contextmanager
def workbench() -> Iterator[Path]:
    """A folder in the home to put a repository together in, removed afterwards."""
    with tempfile.TemporaryDirectory(dir=home(), prefix=".publish-") as folder:
        yield Path(folder)


def without_header(card: str) -> str:
    """A card without its YAML, for the run's page, and with the names of figures that lie in the repository alone."""
    text = card.split("\n---\n", 1)[-1]
    return re.sub(r"!\[([^\]]*)\]\((?!data:|https?:)([^)]*)\)", r"(\1: `\2`)", text)
