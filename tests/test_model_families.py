"""Which models Earshot knows how to ask: those it names, each behind the same contract, and no flow knows one of them."""

import inspect
import json
import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from flows.demands import demand_extras
from flows.optimize_prompt import optimize_prompt
from flows.plan_study import plan_study
from flows.run_study import run_study
from recipes.prompts import PromptRecipe
from recipes.schema import load_study
from tasks.adapters import pull_adapter, train_adapter
from tasks.models import base_content, family
from tasks.models.base_content import content_of_base, model_sha
from tasks.models.families import FAMILIES, Family, facts_by_class, family_at, family_named
from tasks.models.frames import MAX_FRAMES, Rate
from tasks.models.jobs import base_at, name_of
from tasks.models.room import reckoned
from tasks.models.widths import size_of, widths_in
from tasks.predictions import score_audio_llm
from tasks.prompts import search_prompt
from tasks.reports import named_base
from tasks.store import Adapter, Predictions, sha256
from tests import tiny_omni
from tests.prefect_server import HANGS_S

PT = {"format": "pt"}
ROOT = Path(__file__).parents[1]
CONTRACT = [name for name, _ in inspect.getmembers(Family) if not name.startswith("_")]


@pytest.fixture(scope="module")
def bases(tiny_base, tmp_path_factory):
    """A folder of each family."""
    omnis = {name: tiny_omni.save(omni, tmp_path_factory.mktemp("omni")) for name, omni in tiny_omni.OMNIS.items()}
    return {"Qwen2-Audio": tiny_base, **omnis}


def loaded(base: Path):
    return family.load(base, revision=None, quantization=None, dtype=torch.float32, device="cpu")


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


@pytest.mark.parametrize(("name", "end"), [
    ("Qwen2-Audio", "layers.0.self_attn.q_proj.weight"), ("Qwen2-Audio", "multi_modal_projector.linear.bias"),
    ("Qwen2.5-Omni", "audio_tower.proj.weight"), ("Qwen3-Omni", "audio_tower.proj1.weight"),
    ("Qwen3-Omni", "model.layers.1.mlp.experts.3.up_proj.weight"),
])  # fmt: skip
def test_a_base_that_lacks_a_weight_is_refused_for_transformers_would_make_it_up(bases, name, end, tmp_path):
    folder = shutil.copytree(bases[name], tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    (lost, *_) = [its for its in tensors if its.endswith(end)]
    save_file({its: value for its, value in tensors.items() if its != lost}, folder / "model.safetensors", PT)
    lacks = "one of its experts" if "experts" in end else rf"1 weights .* random: \S+{end}"
    with pytest.raises(ValueError, match=rf"train\.base: .*base lacks {lacks}.*hf download"):
        loaded(folder)


def test_a_weight_of_another_shape_is_as_good_as_missing_and_eyes_are_not_missed(bases, tmp_path):
    folder = shutil.copytree(bases["Qwen3-Omni"], tmp_path / "base")
    ignored = transformers.Qwen3OmniMoeThinkerForConditionalGeneration._keys_to_ignore_on_load_unexpected
    tensors = {its: value for its, value in load_file(folder / "model.safetensors").items() if "visual" not in its}
    save_file(tensors, folder / "model.safetensors", PT)
    assert loaded(folder).model.visual is None
    assert transformers.Qwen3OmniMoeThinkerForConditionalGeneration._keys_to_ignore_on_load_unexpected == ignored
    (name,) = [its for its in tensors if its.endswith("proj1.bias")]
    save_file({**tensors, name: torch.zeros(3)}, folder / "model.safetensors", PT)
    with pytest.raises(ValueError, match=r"lacks 1 weights .* in another shape.* random: .*proj1\.bias"):
        loaded(folder)


def unlike(folder: Path, config: str) -> Path:
    """A folder with a configuration and no weights."""
    (folder / "config.json").write_text(config)
    return folder


@pytest.mark.parametrize("config", ['{"model_type": "voxtral"}', "{}"])
def test_another_family_is_refused_by_name_with_those_there_are_before_weights_are_read(tmp_path, config):
    base, named = unlike(tmp_path, config), json.loads(config).get("model_type", "")
    known = ", .*".join(re.escape(f"{facts.name} ({type_})") for type_, facts in FAMILIES.items())
    refusal = rf"is a model of the type '{named}', .* {known}\. tasks/models/README\.md"
    for asked in (
        lambda: base_at(str(base), None, None),  # by the process that reads the recipe
        lambda: family.load_processor(base, None),
        lambda: family.load(base, revision=None, quantization=None, dtype=torch.float32, device="cpu"),
    ):
        with pytest.raises(ValueError, match=refusal):
            asked()


TALKER = r"a model of the type 'qwen2_5_omni_talker', .* Qwen2-Audio \(qwen2_audio\), .* Qwen3-Omni \(qwen3_omni_moe\)"


@pytest.fixture(params=["folder", "downloaded", "empty", "gone"])
def unasked(request, tmp_path, monkeypatch):
    """A base that cannot be asked, and what is said of it."""
    if request.param == "gone":
        said = r"train\.base: .*/gone is no folder\. .* needed even where all results are cached: put it back, or give"
        return str(tmp_path / "gone"), said
    if request.param == "empty":
        return str(
            tmp_path
        ), r"train\.base: .* holds no config\.json; give a model folder, a Hub id@revision or `tiny`"
    file = unlike(tmp_path, '{"model_type": "qwen2_5_omni_talker"}') / "config.json"
    if request.param == "folder":
        return str(tmp_path), TALKER
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(file))
    return "me/talker@" + "a" * 40, TALKER


@pytest.mark.parametrize("flow", [run_study.fn, optimize_prompt.fn], ids=["run", "prompts"])
def test_a_base_that_cannot_be_asked_is_refused_before_anything_is_built_and_foretold_by_a_plan(
    home, monkeypatch, unasked, flow
):
    base, said = unasked
    for built in ("flows.run_study.look_up", "flows.optimize_prompt.look_up"):
        monkeypatch.setattr(built, lambda *_: pytest.fail("looked up, and then it would be built"))
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        flow("study/smoke", [f"train.base={base}"])
    demand_extras(load_study("study/smoke", [f"train.base={base}"]), "build")
    if flow is run_study.fn:
        (stop,) = [line for line in plan_study("study/smoke", [f"train.base={base}"]) if "would stop here" in line]
        assert re.search(said, stop)


def test_a_folder_whose_weights_are_pickled_is_refused_before_anything_is_built(tiny_base, tmp_path):
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    demand_extras(load_study("study/smoke", [f"train.base={folder}"]), "train")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"base holds no \*\.safetensors, .* not read"):
        demand_extras(load_study("study/smoke", [f"train.base={folder}"]), "train")
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        loaded(folder)


def test_what_a_folder_takes_is_told_by_its_configuration_whatever_it_is_called(bases, tmp_path):
    for base in bases.values():
        widths = widths_in(base / "config.json")
        assert widths is not None
        assert widths == size_of(transformers.AutoConfig.from_pretrained(base))
    folder = shutil.copytree(bases["Qwen3-Omni"], tmp_path / "mine")
    method = load_study("study/smoke", [f"train.base={folder}", "train.quantization=nf4"]).train.method
    assert reckoned(method, 200, 100)[0].startswith("a run would be refused: quantization: 75% of the weights")
    with pytest.raises(ValueError, match=r"75% of the weights in the layers of .*mine are experts"):
        demand_extras(load_study("study/smoke", [f"train.base={folder}", "train.quantization=nf4"]), "train")
    config = json.loads((folder / "config.json").read_text())
    del config["text_config"]["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    assert widths_in(folder / "config.json") is None, "transformers would take its own default"
    assert reckoned(method, 200, 100) == []


def test_clips_too_short_for_a_base_are_refused_before_anything_is_built_and_foretold_by_a_plan(bases, monkeypatch):
    """The recipe itself refuses 20 ms; for a family whose tokens are longer a data set was built, and then refused."""
    stacked = Rate(lambda frames: ((frames - 1) // 2 + 1) // 4, lambda frames: MAX_FRAMES, shortest_ms=65)
    study = ["study/smoke", [f"train.base={bases['Qwen2.5-Omni']}"]]
    demand_extras(load_study(*study), "train")
    monkeypatch.setitem(FAMILIES, "qwen2_5_omni_thinker", FAMILIES["qwen2_5_omni"]._replace(rate=stacked))
    said = r"dataset\.clips: 60 ms give Qwen2\.5-Omni no audio token, 65 ms are the least: .*clips\.context"
    with pytest.raises(ValueError, match=said):
        demand_extras(load_study(*study), "train")
    (stop,) = [line for line in plan_study(*study) if "would stop here" in line]
    assert re.search(said, stop)
    heard = "dataset.clips.context={kind: noise, total_ms: 200}"
    demand_extras(load_study(study[0], [*study[1], heard]), "train")


def test_an_adapter_of_another_family_is_refused_and_one_that_names_none_is_of_the_first():
    with pytest.raises(
        ValueError, match=r"me/adapter was trained of a Voxtral.*, .* it knows Qwen2AudioForCond.*, Qwen3Omni"
    ):
        facts_by_class("VoxtralForConditionalGeneration", "me/adapter")
    assert facts_by_class(None, "me/adapter") is FAMILIES["qwen2_audio"]
    assert all(facts_by_class(facts.base_class, "me/adapter") is facts for facts in FAMILIES.values())


def test_a_folder_is_called_by_its_name_wherever_one_stands_and_by_what_a_loader_reads_of_it(
    tiny_base, tmp_path, monkeypatch
):
    (folder := tmp_path / "my base").symlink_to(shutil.copytree(tiny_base, tmp_path / "elsewhere"))
    known = base_at(str(folder), None, None)
    assert known.name == "my base"
    monkeypatch.chdir(folder)
    assert base_at(".", None, None).name == "elsewhere", "as the system calls it"
    with pytest.raises(ValueError, match="/ has no name"):
        name_of(Path("/"))
    for beside in (
        ".cache/huggingface/download/config.json.metadata",
        ".git/config.json",
        "README.md",
        "._model.safetensors",
    ):
        (folder / beside).parent.mkdir(parents=True, exist_ok=True)
        (folder / beside).write_text("another day")
    assert base_at(str(folder), None, None) == known
    for read in ("model.safetensors", "config.json", "tokenizer_config.json", "chat_template.jinja"):
        kept = (folder / read).read_bytes()
        (folder / read).write_bytes(kept + b" ")
        assert base_at(str(folder), None, None).public_revision != known.public_revision, read
        (folder / read).write_bytes(kept)


@pytest.mark.parametrize(
    "task", [train_adapter, score_audio_llm, search_prompt, pull_adapter], ids=lambda its: its.fn.__name__
)
def test_a_task_over_a_folder_is_not_served_what_was_made_over_other_weights(task, tiny_base, tmp_path):
    folder = shutil.copytree(tiny_base, tmp_path / "mine")

    def key(base: object) -> str:
        method = load_study("study/smoke", [f"train.base={base}"]).train.method
        return task.cache_policy.key_of(task, {"method": method, "search": PromptRecipe()})

    before, tiny = key(folder), key("tiny")
    (folder / "README.md").write_text("what is no part of a model")
    assert key(folder) == before
    tensors = load_file(folder / "model.safetensors")
    save_file({its: value * 2 for its, value in tensors.items()}, folder / "model.safetensors", PT)
    assert key(folder) != before
    assert key("tiny") == tiny


def test_two_tasks_that_hash_one_large_file_at_once_both_get_its_digest(home, tmp_path, monkeypatch):
    """Both wrote one draft, which the first moved away from under the second: FileNotFoundError ended its training."""
    home.mkdir(parents=True, exist_ok=True)
    (file := tmp_path / "model.safetensors").write_bytes(b"weights")
    both, replace = threading.Barrier(2, timeout=HANGS_S), Path.replace

    def wait_and_replace(draft, target):
        both.wait()  # until both have written theirs
        return replace(draft, target)

    monkeypatch.setattr(base_content, "LARGE", 4)
    monkeypatch.setattr(Path, "replace", wait_and_replace)
    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(base_content.read_once, [file, file])) == {sha256(file)}


def test_a_search_is_not_served_what_another_model_in_the_proposers_folder_proposed(tmp_path):
    (file := tmp_path / "model.safetensors").write_text("one")
    method = load_study("study/smoke").train.method

    def key(kind: str) -> str:
        search = PromptRecipe(name="s", proposer={"kind": kind, "model": str(tmp_path)})
        return search_prompt.cache_policy.key_of(search_prompt, {"method": method, "search": search})

    before = {kind: key(kind) for kind in ("llm", "grammar")}
    file.write_text("other")
    assert key("llm") != before["llm"]
    assert key("grammar") == before["grammar"], "nobody asks it"


def test_a_large_file_is_read_once_while_it_stays_as_it_is(home, tmp_path, monkeypatch):
    read: list[Path] = []
    monkeypatch.setattr(base_content, "LARGE", 4)
    monkeypatch.setattr(base_content, "sha256", lambda file: read.append(file) or sha256(file))
    (small := tmp_path / "config.json").write_text("{}")
    (large := tmp_path / "model.safetensors").write_text("large")
    first = model_sha(tmp_path)
    home.mkdir(parents=True, exist_ok=True)
    assert {model_sha(tmp_path) for _ in range(3)} == {first}
    assert read.count(large) == 2, "once before there was a home to note it in"
    assert read.count(small) == 4
    os.utime(large, ns=(1, 1))
    assert model_sha(tmp_path) == first
    assert read.count(large) == 3
    large.write_text("other")
    assert model_sha(tmp_path) != first
    assert content_of_base(
        {"method": load_study("study/smoke", [f"train.base={tmp_path}"]).train.method}
    ) == model_sha(tmp_path)


def test_a_report_takes_the_name_of_its_base_from_who_loaded_it_and_looks_for_no_folder():
    scored = [Predictions(fingerprint="a" * 16, detector=name, rows=1, base=base)
              for name, base in (("majority", None), ("base", "my base@" + "a" * 40))]  # fmt: skip
    assert named_base([], [], scored, "/gone/my base") == ("my base", "a" * 40)


def test_tasks_over_a_folder_that_was_altered_in_between_make_no_report():
    old, new = (f"my base@{digit * 40}" for digit in "ab")
    trained = Adapter(fingerprint="a" * 16, base=old, seed=1, fold=0, train_accuracy=1.0)
    scored = [Predictions(fingerprint="b" * 16, detector=name, rows=1, base=base)
              for name, base in (("base", old), ("adapter", new))]  # fmt: skip
    assert named_base([trained], [], scored[:1], "/a/my base") == ("my base", "a" * 40)
    with pytest.raises(ValueError, match=rf"altered between one task and another, which are over {old} and {new}"):
        named_base([trained], [], scored, "/a/my base")


def test_a_recipe_is_published_without_the_place_of_its_base_and_the_same_wherever_that_is():
    public = "my base@" + "a" * 40
    studies = [load_study("study/smoke", [f"train.base={at}"]) for at in ("/home/alice/secret/my base", "./my base")]
    here, there = (study.in_public(public) for study in studies)
    assert here == there
    assert here["train"]["base"] == public
    assert "alice" not in json.dumps(here)
    again = load_study(here)
    assert again.in_public(public) == here, "it is a study, but for where its base lies"
    with pytest.raises(ValueError, match=r"train\.base: my base@a+ is a folder of whoever published the recipe"):
        demand_extras(again, "train")
    for base in ("tiny", "Qwen/Qwen2-Audio-7B-Instruct@" + "a" * 40):
        study = load_study("study/smoke", [f"train.base={base}"])
        assert study.in_public(base) == study.model_dump(mode="json", by_alias=True)


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
