"""Which models Earshot knows how to ask: those it names, each behind the same contract, and no flow knows one of them."""

import inspect
import json
from pathlib import Path

import pytest
import torch
import transformers

from tasks.hub import content_sha
from tasks.models import family
from tasks.models.families import FAMILIES, Family, family_at, family_named
from tasks.models.jobs import base_at
from tasks.reports import named_base

ROOT = Path(__file__).parents[1]
CONTRACT = [name for name, _ in inspect.getmembers(Family) if not name.startswith("_")]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_holds_what_the_contract_asks(model_type):
    its = family_named(model_type)
    assert all(hasattr(its, name) for name in CONTRACT)
    facts = FAMILIES[model_type]
    assert hasattr(transformers, facts.base_class)
    assert hasattr(transformers, facts.processor_class)
    assert set(its.PARTS) == {"encoder", "projector"}
    config = transformers.AutoConfig.for_model(model_type)
    assert its.size_of(config).layer_weights > 10**9, "of the size that transformers has by default"


def unlike(folder: Path, config: str) -> Path:
    """A folder with a configuration and no weights."""
    (folder / "config.json").write_text(config)
    return folder


@pytest.mark.parametrize("config", ['{"model_type": "voxtral"}', "{}"])
def test_another_family_is_refused_by_name_with_those_there_are_before_weights_are_read(tmp_path, config):
    base, named = unlike(tmp_path, config), json.loads(config).get("model_type", "")
    known = r"Qwen2-Audio \(qwen2_audio\), Qwen2\.5-Omni \(qwen2_5_omni\), .* Qwen3-Omni \(qwen3_omni_moe\)"
    refusal = rf"is a model of the type '{named}', .* {known}"
    for asked in (
        lambda: base_at(str(base), None, None),  # by the process that reads the recipe
        lambda: family.load_processor(base, None),
        lambda: family.load(base, revision=None, quantization=None, dtype=torch.float32, device="cpu"),
    ):
        with pytest.raises(ValueError, match=refusal):
            asked()


def test_a_folder_is_called_by_its_name_and_content_and_never_by_its_path(tmp_path):
    (folder := tmp_path / "my base").mkdir()
    unlike(folder, '{"model_type": "qwen3_omni_moe"}')
    assert named_base([], [], str(folder)) == ("my base", content_sha(folder))
    assert named_base([], [], "Qwen/Qwen2-Audio-7B-Instruct@" + "a" * 40) == ("Qwen/Qwen2-Audio-7B-Instruct", "a" * 40)


@pytest.mark.parametrize("config", ["{", "[]"])
def test_a_configuration_that_is_none_is_named(tmp_path, config):
    with pytest.raises(ValueError, match=r"config\.json is no configuration of a model"):
        family_at(unlike(tmp_path, config), None)


def test_flows_and_detectors_hold_the_name_of_no_family():
    names = [*FAMILIES, *(facts.name for facts in FAMILIES.values()), "qwen"]
    for folder in ("flows", "tasks/detectors"):
        for file in (ROOT / folder).glob("*.py"):
            text = file.read_text(encoding="utf-8").lower()
            assert not [name for name in names if name.lower() in text], file


def test_the_page_on_your_own_family_names_all_that_the_contract_asks_and_every_family():
    page = (ROOT / "tasks/models/README.md").read_text(encoding="utf-8")
    assert not [name for name in CONTRACT if f"`{name}" not in page]
    assert not [model_type for model_type in FAMILIES if f"`{model_type}`" not in page]
    assert all(facts.base_class in page for facts in FAMILIES.values())
