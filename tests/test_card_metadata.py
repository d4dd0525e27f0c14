"""The head of a card is complete, of the Hub's vocabulary and plain, and huggingface_hub reads it; what is not is named."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

from recipes.hub_terms import LICENCES, TASKS, languages, size_category
from recipes.schema import load_study
from tasks.card_metadata import card_faults
from tasks.functional.cards import render_base_card, render_dataset_card, render_licence
from tests.test_card_templates import DATA, PROVENANCE, card, read, report

__all__ = ["card", "report"]  # fixtures

BASE = {"repo": "earshot/demo-base", "licence": "mit", "parameters": 700_000, "fold": 0,
        "data": {"repo": "earshot/demo-clips", "sha": "c" * 40}}  # fmt: skip


def data_card(**changes: Any) -> str:
    return render_dataset_card(read("dataset_card.md.j2"), DATA | changes)


def test_our_own_cards_are_valid(card: str) -> None:
    assert card_faults(card, "model") == []
    assert card_faults(render_base_card(read("base_card.md.j2"), BASE), "model") == []
    assert card_faults(data_card(), "dataset") == []
    assert card_faults(data_card(licence="other"), "dataset") == []


def test_huggingface_hub_reads_all_of_it(card: str) -> None:
    data = DatasetCard(data_card(licence="other", languages=["en", "de"])).data
    assert (data.license, data.license_link, data.language) == ("other", "LICENSE.md", ["en", "de"])
    assert (data.size_categories, data.task_categories) == (["n<1K"], ["audio-classification"])
    model = ModelCard(card).data
    assert (model.library_name, model.base_model_relation, model.language) == ("peft", "adapter", ["en"])
    assert model.eval_results is not None
    assert {result.dataset_revision for result in model.eval_results} == {PROVENANCE["dataset"]["sha"]}


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[str], str]:
    """A card whose head was changed."""

    def spoil(text: str) -> str:
        head = yaml.safe_load(text.split("---\n")[1])
        change(head)
        return f"---\n{yaml.dump(head)}---\n# x\n"

    return spoil


def metric(head: dict[str, Any]) -> Any:
    return head["model-index"][0]["results"][0]["metrics"][0]


MODELS = {
    "no head": (lambda text: text.split("---\n", 2)[2], "has no head"),
    "no YAML": (lambda text: text.replace("license: mit", "license: [mit"), "is not YAML|not YAML"),
    "an object of Python": (
        lambda text: text.replace("license: mit", "license: !!python/name:os.system"), "aliases or tags"),
    "no licence": (changed(lambda head: head.pop("license")), "license is missing"),
    "a licence nobody knows": (changed(lambda head: head.update(license="MIT License")), "'MIT License' is no identifier"),
    "other without a name": (changed(lambda head: head.update(license="other")), "needs license_name"),
    "a language nobody speaks": (changed(lambda head: head.update(language=["english"])), "no list of ISO 639"),
    "a language that is no list": (changed(lambda head: head.update(language="en")), "no list of ISO 639"),
    "no base": (changed(lambda head: head.pop("base_model")), "an adapter has a base_model"),
    "another relation": (changed(lambda head: head.update(base_model_relation="child")), "an adapter has a base_model"),
    "a base that is said to be none": (
        changed(lambda head: head["tags"].append("base-of-a-folder")), "tagged base-of-a-folder has no base_model"),
    "a base that is a path": (changed(lambda head: head.update(base_model="/home/me/base")), "is no repository name"),
    "no library": (changed(lambda head: head.pop("library_name")), "library_name is missing"),
    "an unknown task": (changed(lambda head: head.update(pipeline_tag="hearing")), "'hearing' is no task"),
    "a tag twice": (changed(lambda head: head.update(tags=["a", "a"])), "tags says a word twice"),
    "no results": (changed(lambda head: head.pop("model-index")), "model-index is missing"),
    "a branch for a revision": (
        changed(lambda head: head["model-index"][0]["results"][0]["dataset"].update(revision="main")), "40 hex digits"),
    "a number as text": (changed(lambda head: metric(head).update(value="0.9")), "'0.9', no plain finite number"),
    "a number that is none": (changed(lambda head: metric(head).update(value=float("nan"))), "no plain finite number"),
    "a date": (lambda text: text.replace("license: mit", "license: mit\ndate: 2020-01-01"), "neither text nor a number"),
}  # fmt: skip


@pytest.mark.parametrize("how", MODELS)
def test_a_model_card_that_the_hub_would_misread_is_named(card: str, how: str) -> None:
    spoil, said = MODELS[how]
    assert re.search(said, "; ".join(card_faults(spoil(card), "model")))


DATASETS = {
    "an unknown task": (changed(lambda head: head.update(task_categories=["hearing"])), "'hearing' is no task"),
    "an unknown size": (changed(lambda head: head.update(size_categories=["many"])), "'many' is no size"),
    "no configs": (changed(lambda head: head.pop("configs")), "configs is missing"),
    "files without a split": (
        changed(lambda head: head["configs"][0].update(data_files=[{"path": "a"}])), "with split and path"),
    "files outside": (
        changed(lambda head: head["configs"][0]["data_files"][0].update(path="../x.parquet")), "outside the repository"),
}  # fmt: skip


@pytest.mark.parametrize("how", DATASETS)
def test_a_data_card_that_the_hub_would_misread_is_named(how: str) -> None:
    spoil, said = DATASETS[how]
    assert re.search(said, "; ".join(card_faults(spoil(data_card()), "dataset")))


def test_what_has_no_single_licence_counts_those_of_its_recordings() -> None:
    text = render_licence(read("licence.md.j2"), "earshot/demo-clips", DATA)
    assert "| content | GPL-3.0+ | 10 |" in text
    weights = render_licence(read("licence.md.j2"), "earshot/demo", BASE["data"])  # type: ignore[arg-type]
    assert f"`earshot/demo-clips` at `{'c' * 40}`" in weights


def test_words_of_the_hub() -> None:
    assert {"mit", "cc-by-4.0", "other"} <= LICENCES
    assert {"audio-classification", "audio-text-to-text"} <= TASKS
    assert {"en", "de"} <= languages()
    assert [size_category(rows) for rows in (999, 1000, 21_340)] == ["n<1K", "1K<n<10K", "10K<n<100K"]


@pytest.mark.parametrize("override", ["dataset.licence=MIT", "publish.licence=free", "dataset.languages=[english]"])
def test_a_recipe_with_a_word_the_hub_does_not_know_is_refused_before_anything_runs(override: str) -> None:
    with pytest.raises(ValueError, match=f"{override.partition('=')[0]}.*is no"):
        load_study("study/smoke", [override])
