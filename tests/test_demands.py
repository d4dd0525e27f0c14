"""What only the Hub knows of a study, its base's family and its published adapter, is asked before anything is built."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from flows import optimize_prompt, run_study
from flows.demands import demand_parts
from flows.plan_study import plan_study
from recipes.schema import load_study
from tasks import repo_checks, store
from tasks.hub import publish
from tasks.planning import Found
from tests.local_hub import Fault, LocalHub, local_hub

TALKER = b'{"model_type": "qwen2_5_omni_talker"}'
NOWHERE = "Qwen/Qwen2-Audio-7B-Instruct@" + "a" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A Hub, and the unmodified client in this process, which otherwise is offline, with an empty cache."""
    with local_hub() as its:
        monkeypatch.setenv("HF_ENDPOINT", its.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
        yield its


def refused(flow: str, *overrides: str) -> str:
    """What a flow says before anything is built, and that nothing was."""
    called = {"run": run_study.run_study, "prompts": optimize_prompt.optimize_prompt}[flow]
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        called.fn("study/smoke", [*overrides])
    assert not (store.home() / "store").exists()
    return str(error.value)


def told(*overrides: str) -> list[str]:
    """What a plan says of base, adapter and GPU."""
    said = ("not known yet", "would stop", "GPU, by", "base: ")
    return [line for line in plan_study("study/smoke", [*overrides]) if any(its in line for its in said)]


def demanded(*overrides: str, complete: bool = False) -> None:
    """Nothing, where a run goes on."""
    demand_parts(load_study("study/smoke", [*overrides]), "publish", None, Found({}, complete=complete))


# --- the family of a base ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", ["run", "prompts"])
def test_a_base_of_another_family_that_was_never_downloaded_is_refused_before_anything_is_built(home, hub, flow):
    sha = hub.add("models", "me/talker", {"config.json": TALKER, "model.safetensors": bytes(70_000)}).head.oid
    said = refused(flow, f"train.base=me/talker@{sha}")
    assert said.startswith(f"train.base: me/talker@{sha} is a model of the type 'qwen2_5_omni_talker'")
    assert "Qwen2-Audio (qwen2_audio)" in said
    asked = {seen.path for seen in hub.requests("me/talker")}
    assert asked == {f"/me/talker/resolve/{sha}/config.json"}, "no weight, and no other revision"


def test_a_plan_foretells_it_and_knows_a_base_of_the_hub_by_its_own_configuration(home, hub):
    text = {"hidden_size": 1024, "num_hidden_layers": 10, "intermediate_size": 4096, "vocab_size": 1000}
    config = {"model_type": "qwen2_audio", "text_config": text, "audio_config": {"d_model": 64, "encoder_layers": 1}}
    bases = {"talker": TALKER, "mine": json.dumps(config).encode()}
    names = {its: hub.add("models", f"me/{its}", {"config.json": text}).head.oid for its, text in bases.items()}
    stop, *_ = told(f"train.base=me/talker@{names['talker']}")
    assert stop.startswith("  a run would stop here: train.base: me/talker@")
    lines = told(f"train.base=me/mine@{names['mine']}")
    assert not [line for line in lines if "stop" in line or "not known" in line]
    assert lines[-1].startswith("GPU, by arithmetic: 0."), lines


@pytest.mark.parametrize("config", [
    b"[" * 100_000, b"\xff", b"3", b'{"model_type": "qwen2_audio", "text_config": 3, "audio_config": []}',
    b'{"model_type": "qwen2_audio", "text_config": {"hidden_size": "x"}, "audio_config": {"d_model": 1e99}}',
    b'{"model_type": "qwen2_audio", "thinker_config": 7}',
    b'{"model_type": "qwen2_audio", "text_config": {"hidden_size": 8, "num_hidden_layers": 1000000000000000, '
    b'"intermediate_size": 8, "vocab_size": 8}, "audio_config": {"d_model": 8, "encoder_layers": 1}}',
])  # fmt: skip
def test_a_configuration_that_anybody_wrote_ends_no_plan(home, hub, config):
    sha = hub.add("models", "me/hostile", {"config.json": config}).head.oid
    assert plan_study("study/smoke", [f"train.base=me/hostile@{sha}"])[0].endswith("nothing was run")


def test_a_configuration_beyond_all_measure_is_not_downloaded(home, hub, monkeypatch):
    monkeypatch.setitem(repo_checks.LARGEST, "text", 20)
    sha = hub.add("models", "me/large", {"config.json": b" " * 1000}).head.oid
    assert "config.json has 1,000 bytes, at most 20 are read" in refused("run", f"train.base=me/large@{sha}")
    assert hub.requests("^GET .*/config.json") == []


def test_an_adapter_is_no_base_and_the_refusal_names_its_own(home, hub):
    config = json.dumps({"base_model_name_or_path": "Qwen/Qwen2-Audio-7B-Instruct"}).encode()
    for files, said in (({"adapter_config.json": config}, "is an adapter, of 'Qwen/Qwen2-Audio-7B-Instruct': name that"),
                        ({"README.md": b"x"}, "holds no config.json; give a model folder")):  # fmt: skip
        sha = hub.add("models", f"me/no-{len(files)}-{len(said)}", files).head.oid
        assert said in refused("run", f"train.base=me/no-{len(files)}-{len(said)}@{sha}")


@pytest.mark.parametrize("how", ["drops the connection", "is not there"])
def test_where_the_hub_does_not_answer_a_plan_says_so_in_one_line_asks_once_and_goes_on(home, hub, monkeypatch, how):
    """The client by itself tries five times again: half a minute, and with timeouts a minute and a half."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: pytest.fail("it waits to try again"))
    if how == "is not there":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    hub.faults = [Fault("^(HEAD|GET) /Qwen", status=None, times=50)]
    (line,) = [its for its in told(f"train.base={NOWHERE}") if "not known yet" in its]
    assert line.startswith("  not known yet, and asked before a run builds anything: train.base: the family of Qwen/")
    assert "cannot be reached" in line
    assert len(hub.requests("/Qwen/")) == (how == "drops the connection")
    assert "cannot be reached" in refused("run", f"train.base={NOWHERE}")


def test_where_the_hub_is_not_there_an_adapter_is_not_waited_for_either(home, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: pytest.fail("it waits to try again"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (line,) = [its for its in told("adapter=me/adapter@" + "a" * 40) if "not known yet" in its]
    assert "model me/adapter@aaaa" in line
    assert "cannot be reached" in refused("run", "adapter=me/adapter@" + "a" * 40)


def test_offline_a_plan_says_so_and_a_run_is_refused_before_anything_is_built(home):
    (line,) = [its for its in told(f"train.base={NOWHERE}") if "not known yet" in its]
    assert line.endswith("HF_HUB_OFFLINE is set, so the Hub is not asked")
    assert refused("run", f"train.base={NOWHERE}").endswith("HF_HUB_OFFLINE is set, so the Hub is not asked")
    demanded(f"train.base={NOWHERE}", complete=True)  # what is cached whole asks nobody


# --- a published adapter -----------------------------------------------------------------------------------------


@pytest.fixture
def published(home, tmp_path):
    """Publishes an adapter of study/smoke that differs in this; its name."""

    def make(study=(), **changes: object) -> str:
        recipe = load_study("study/smoke", study)
        folder = tmp_path / "adapter"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.in_public("tiny")))
        origin = {"dataset": {"repo": "me/clips", "sha": "b" * 40}, "adapter": {"seed": 42},
                  "bases": [{"repo": "me/base", "sha": "c" * 40}],
                  "base": {"repo": "me/base", "revision": "c" * 40}}  # fmt: skip
        (folder / "report.json").write_text(json.dumps({"provenance": {**origin, **changes}}))
        config = {"base_model_name_or_path": "me/base", "revision": "c" * 40, "peft_type": "LORA", "r": 2}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        its = publish(folder, "model", "me/adapter")
        return f"adapter={its.repo}@{its.sha}"

    return make


FOLDS = ["dataset.splits={folds: 3, seed: 1}", "dataset.clips.per_cell=2"]


@pytest.mark.parametrize(
    ("study", "changes", "asked", "said"),
    [
        (["dataset.clips.seed=8"], {}, [], r"was trained on me/clips@b{40}, of another recipe than the study's "
         r"\(dataset\.clips\): it may have heard these test clips\. Set dataset=me/clips@b{40}$"),
        (FOLDS, {}, [], r"of another recipe than the study's \(dataset\.clips, dataset\.splits\)"),
        (FOLDS, {}, FOLDS, "holds no adapter of fold 1$"),
        ([], {"adapter": {"seed": 7}}, [], r"has seed 7, the study 42: set train\.seeds=\[7\]"),
        ([], {"bases": []}, [], r"is an adapter of me/base@c{40}, the study has train\.base=tiny: set"),
    ],
    ids=["data", "folds", "fold", "seed", "base"],
)  # fmt: skip
def test_an_adapter_that_is_not_one_of_the_study_is_refused_before_anything_is_built_and_foretold_by_a_plan(
    home, published, study, changes, asked, said
):
    wish = [published(study, **changes), *asked]
    with pytest.raises(ValueError, match=said):
        run_study.run_study.fn("study/smoke", wish, until="evaluate")
    assert not (home / "store").exists()
    (stop,) = [line for line in told(*wish) if "would stop" in line]
    assert re.search(said, stop)


def test_an_adapter_of_another_commit_of_the_data_than_the_one_that_is_named_is_refused(published, monkeypatch):
    recipe = load_study("study/smoke", [published()]).model_copy(update={"dataset_from": "me/clips@" + "d" * 40})
    with pytest.raises(ValueError, match=r"was trained on me/clips@b{40}, the study has me/clips@d{40}"):
        demand_parts(recipe, "evaluate", None, Found({}, complete=False))
    demand_parts(
        recipe.model_copy(update={"dataset_from": "me/clips@" + "b" * 40}), "evaluate", None, Found({}, complete=False)
    )


def test_an_adapter_of_the_study_goes_on_and_one_that_earshot_did_not_publish_does_not(published, tmp_path):
    demanded(published())
    (folder := tmp_path / "foreign").mkdir()
    (folder / "adapter_config.json").write_text("{}")
    its = publish(folder, "model", "you/adapter")
    with pytest.raises(
        ValueError, match=r"you/adapter@\w+ holds no report\.json: Earshot evaluates adapters that it has"
    ):
        demanded(f"adapter={its.repo}@{its.sha}")
