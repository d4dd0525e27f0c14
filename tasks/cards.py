"""Publications: a data set, its base, its adapter, each with a card that says no more than was measured."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import yaml

from recipes.schema import CheckFailed, DatasetRecipe, PublishBlock, StudyRecipe
from tasks.cache import ROOT, task
from tasks.functional.cards import fill, render_model_card
from tasks.functional.report import Report as Document
from tasks.hub import publish
from tasks.run_page import HOOKS, say, show_markdown
from tasks.store import Adapter, Base, Publication, Report, Splits, file_digests, home, read_json, write_json

TEMPLATES = ROOT / "hub_cards"


@task(task_run_name="publish data set {block.dataset}", **HOOKS)
def publish_dataset(
    splits: Splits, recipe: DatasetRecipe, classes: tuple[str, str], block: PublishBlock
) -> Publication:
    """The audited parquets with their card, before anything is trained on them."""
    repo = f"{block.namespace}/{block.dataset}"
    with workbench() as folder:
        shutil.copytree(splits.path, folder, dirs_exist_ok=True)
        write_json(folder / "card.json", dataset_facts(splits, recipe, classes, repo))
        facts = read_json(folder / "card.json")  # rendered from the file, as verification does
        card = fill((TEMPLATES / "dataset_card.md.j2").read_text(encoding="utf-8"), {"data": facts})
        publication = finish(folder, "dataset", repo, card)
    show_markdown(f"card-{block.dataset}", without_header(card), f"Card of {repo}")
    return publication


@task(task_run_name="publish base of fold {fold}", **HOOKS)
def publish_base(base: Base, block: PublishBlock, data: Publication, fold: int) -> Publication:
    """The tiny base, so that an adapter's configuration can name it by repository and sha."""
    repo = f"{block.namespace}/{block.adapter}-base" + (f"-fold{fold}" if fold else "")
    with workbench() as folder:
        shutil.copytree(base.path, folder, dirs_exist_ok=True)
        facts = {
            "repo": repo,
            "licence": block.licence,
            "parameters": base.parameters,
            "fold": fold,
            "data": data.model_dump(),
        }
        card = fill((TEMPLATES / "base_card.md.j2").read_text(encoding="utf-8"), {"base": facts})
        return finish(folder, "model", repo, card)


@task(task_run_name="publish adapter {recipe.publish.adapter}", **HOOKS)
def publish_adapter(adapters: Sequence[Adapter], report: Report, splits: Splits, recipe: StudyRecipe) -> Publication:
    """The adapter (of K folds: the first, the others beside it), the report, its predictions and evidence, the card.

    Raises CheckFailed where the report may not be published, with every reason.
    """
    repo = f"{recipe.publish.namespace}/{recipe.publish.adapter}"
    document = Document.model_validate_json((report.path / "report.json").read_text(encoding="utf-8"))
    try:
        card = render_model_card((TEMPLATES / "model_card.md.j2").read_text(encoding="utf-8"), document)
    except ValueError as error:
        raise CheckFailed(str(error)) from error
    with workbench() as folder:
        shutil.copytree(report.path, folder, dirs_exist_ok=True)
        for adapter in adapters:
            place = folder / f"fold-{adapter.fold}" if adapter.fold else folder
            shutil.copytree(adapter.path, place, dirs_exist_ok=True)
        (folder / "evidence").mkdir()
        for name in ("audit.json", "balance.json"):
            shutil.copy(splits.path / name, folder / "evidence" / name)
        text = yaml.safe_dump(recipe.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)
        (folder / "recipe.yaml").write_text(text, encoding="utf-8")
        publication = finish(folder, "model", repo, card)
    show_markdown(f"card-{recipe.publish.adapter}", without_header(card), f"Model card of {repo}")
    return publication


def finish(folder: Path, kind: Any, repo: str, card: str) -> Publication:
    """Card, list of files with their hashes, and into the hub."""
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_json(folder / "files.json", dict(sorted(file_digests(folder).items())))
    publication = publish(folder, kind, repo)
    say(f"{kind} {repo}@{publication.sha}")
    return publication


def dataset_facts(splits: Splits, recipe: DatasetRecipe, classes: tuple[str, str], repo: str) -> dict[str, Any]:
    """What the card of a data set says, all counted from its parquets."""
    parts = list(splits.clips)
    columns = [
        "part",
        "label",
        "clip_id",
        "group_id",
        "supergroup_id",
        "duration_ms",
        "snr_db",
        "band",
        "room",
        "context",
        "licence",
        "noise_licence",
    ]
    tables = [pq.read_table(splits.path / "data" / f"{part}.parquet", columns=columns).to_pandas() for part in parts]
    clips = pd.concat(tables, ignore_index=True)
    counted = clips.groupby(["part", "label"], sort=False).agg(
        clips=("clip_id", "size"), groups=("group_id", "nunique"), supergroups=("supergroup_id", "nunique")
    )
    return {
        "repo": repo,
        "name": recipe.name,
        "description": recipe.description,
        "licence": recipe.licence,
        "licences": sorted({*clips["licence"].dropna(), *clips["noise_licence"].dropna()}),
        "classes": list(classes),
        "folds": recipe.splits.folds,
        "parts": [{"name": part, "file": f"data/{part}.parquet"} for part in parts],
        "clips": len(clips),
        "counts": counted.reset_index().to_dict("records"),
        "factors": {name: levels(clips[name]) for name in ("duration_ms", "snr_db", "band", "room", "context")},
        "audit": read_json(splits.path / "audit.json"),
        "balance": read_json(splits.path / "balance.json"),
        "sources": [source.model_dump(mode="json") for source in recipe.sources],
        "clips_recipe": recipe.clips.model_dump(mode="json"),
        "splits_recipe": recipe.splits.model_dump(mode="json"),
        "fingerprint": splits.fingerprint,
    }


def levels(column: pd.Series) -> list[Any]:
    """Distinct levels, sorted; null (no noise) last."""
    known = sorted(column.dropna().unique().tolist())
    return [*known, *([None] if column.isna().any() else [])]


@contextmanager
def workbench() -> Iterator[Path]:
    """A folder in the home to put a repository together in, removed afterwards."""
    with tempfile.TemporaryDirectory(dir=home(), prefix=".publish-") as folder:
        yield Path(folder)


def without_header(card: str) -> str:
    """A card without its YAML, for the run's page."""
    return card.split("\n---\n", 1)[-1]
