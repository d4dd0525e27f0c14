"""A recipe says what it may, in its own words; anything else is refused before anything runs."""

import re
from typing import get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.block import IN_WORDS
from recipes.data import SplitsBlock
from recipes.evaluation import Baseline
from recipes.leaderboard import LeaderboardRecipe, is_leaderboard, load_leaderboard
from recipes.reading import RECIPES, apply_overrides, read_yaml
from recipes.schema import SCHEMA, StudyRecipe, load_study
from recipes.sources import KINDS
from recipes.training import TrainMethod

STUDIES = sorted(str(path.relative_to(RECIPES).with_suffix("")) for path in (RECIPES / "study").glob("*.yaml"))
PARTS = sorted(path for path in RECIPES.rglob("*.yaml"))


def refused(*overrides: str, study: str = "study/smoke") -> str:
    with pytest.raises(ValueError, match=r"\w") as error:
        load_study(study, overrides)
    return str(error.value)


# --- shipped recipes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_every_shipped_study_is_valid(name):
    study = load_leaderboard(name) if is_leaderboard(name) else load_study(name)
    assert study.name == name.removeprefix("study/")


@pytest.mark.parametrize("path", PARTS, ids=lambda path: str(path.relative_to(RECIPES)))
def test_every_shipped_block_is_valid_in_a_study_and_opens_with_its_cost(path):
    kind, name = path.parent.name, path.stem
    study = f"study/{name}" if kind == "study" else "study/smoke"
    key = "search" if kind == "prompt" else kind
    if kind == "study" and is_leaderboard(study):
        load_leaderboard(study)
    else:
        load_study(study, () if kind == "study" else (f"{key}={kind}/{name}",))
    opening = path.read_text().split("\nname:")[0]
    assert opening.startswith("# ")
    assert "Cost: " in opening


def test_a_name_a_path_and_a_mapping_are_the_same_study(tmp_path):
    (tmp_path / "mine.yaml").write_text((RECIPES / "study" / "smoke.yaml").read_text())
    named = load_study("study/smoke")
    assert load_study(tmp_path / "mine.yaml") == named
    assert load_study(read_yaml("study/smoke")) == named


def test_what_a_study_writes_down_reads_back_as_itself():
    study = load_study("study/demo")
    assert load_study(yaml.safe_load(yaml.safe_dump(study.model_dump(mode="json", by_alias=True)))) == study


# --- refusals ----------------------------------------------------------------------------------------------------


def test_an_unknown_key_is_refused_with_the_accepted_ones():
    said = refused("train.epochs=3")
    assert said.startswith("train.epochs: no such key; accepted here: ")
    assert {"training", "lora", "seeds", "gate"} <= set(said.partition("accepted here: ")[2].split(", "))


def test_an_unknown_key_deep_in_a_list_names_the_keys_of_that_kind():
    said = refused("dataset.sources.0.voices=3")
    assert "voices: no such key" in said
    assert "draws" in said.partition("accepted here: ")[2].split(", ")


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_key_of_any_source_names_the_keys_of_its_kind(kind: str) -> None:
    given = yaml.safe_dump({"kind": kind, "colour": "red"}, default_flow_style=True, width=1_000).strip()
    said = refused(f"dataset.sources.0={given}")
    accepted = next(line for line in said.splitlines() if "colour: no such key" in line).partition("accepted here: ")[
        2
    ]
    assert set(accepted.split(", ")) == set(KINDS[kind].model_fields)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{kind: folder, root: x}", "give either `label: CLASS` for all files or `labels"),
        ("{kind: folder, root: x, label: SPEECH, group_by: name}", "'folder' or 'file'"),
        ("{kind: voxconverse, root: x, parts: [train]}", "'dev' or 'test'"),
        ("{kind: ami, root: x, microphone: ../x}", "accepted are letters, digits"),
        ("{kind: musan, root: x, per_group: 0}", "greater than or equal to 1"),
        ("{kind: esc50, root: x, max_s: 0}", "greater than or equal to 0.1"),
        ("{kind: fsd50k, root: x, take: music}", "'nonspeech' or 'speech'"),
        ("{kind: datasets, repo: me/mine@main}", "NAMESPACE/NAME@<40 hex digits>"),
        ("{kind: table, root: x, labels: {voice: VOICE}}", "label 'VOICE' is none of the classes"),
    ],
)
def test_an_impossible_source_is_refused_with_the_way_out(source: str, said: str) -> None:
    assert said in refused(f"dataset.sources.0={source}")


def test_where_takes_one_value_or_many_of_any_kind() -> None:
    given = "{kind: esc50, root: x, where: {fold: [1, 2], esc10: true, category: dog}}"
    source = load_study("study/smoke", [f"dataset.sources.1={given}"]).dataset.sources[1]
    assert source.where == {"fold": ("1", "2"), "esc10": ("True",), "category": ("dog",)}


def test_every_wrong_key_gets_its_own_sentence():
    said = refused("train.epochs=3", "evaluate.metric=accuracy", "dataset.clips.per_cell=many")
    assert len(said.splitlines()) >= 3
    assert all(key in said for key in ("train.epochs", "evaluate.metric", "dataset.clips.per_cell"))
    assert refused("dataset.clips.snr_db=[90]").count("\n") == 0, "a wrong item does not make its list too short"


@pytest.mark.parametrize("written", ["study/dmeo", "demo"])
def test_a_misspelt_recipe_gets_a_suggestion(written):
    with pytest.raises(FileNotFoundError, match=r"did you mean .*study/demo.*\?"):
        load_study(written)


@pytest.mark.parametrize(
    ("study", "override", "kind"),
    [
        ("xyz", "name=x", "study"),
        ("train/xyz", "name=x", "train"),
        ("study/smoke", "dataset=xyz", "dataset"),
        ("study/smoke", "evaluate.n_boot=3", "evaluate"),
        ("study/smoke", "search={like: xyz}", "prompt"),
    ],
)
def test_a_recipe_like_none_is_told_those_of_its_kind_alone(tmp_path, study, override, kind):
    if override == "evaluate.n_boot=3":  # a block that `--set` opens
        (tmp_path / "own.yaml").write_text(yaml.safe_dump({**read_yaml(study), "evaluate": "xyz"}))
        study = str(tmp_path / "own.yaml")
    with pytest.raises(FileNotFoundError, match="neither a file nor one of") as error:
        load_study(study, [override])
    named = str(error.value).partition("one of ")[2].split(", ")
    assert named == sorted(f"{kind}/{file.stem}" for file in (RECIPES / kind).glob("*.yaml"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dataset.clips.per_cell=0", "dataset.clips.per_cell: Input should be greater than or equal to 1, got 0"),
        ("dataset.clips.per_cell={test: 0}",
         "dataset.clips.per_cell.test: Input should be greater than or equal to 1, got 0"),
        ("dataset.clips.per_cell=many", "dataset.clips.per_cell: Input should be a whole number or a mapping, got 'many'"),
        ("train.gpus=0", "train.gpus: Input should be greater than or equal to 1 or 'all', got 0"),
        ("train.gpus=some", "train.gpus: Input should be a whole number or 'all', got 'some'"),
        ("dataset.clips.duration_ms=[]", "dataset.clips.duration_ms: Input should have at least 1, got []"),
        ("publish=3", "publish: Input should be a mapping, got 3"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_once_and_in_no_words_of_a_library(override, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        load_study("study/demo", [override])


def test_a_duration_that_no_training_clip_has_cannot_be_drawn_oftener():
    with pytest.raises(
        ValueError, match=r"^train\.sampling\.duration_ms: no training clip has 201; there are 80, 200, "
    ):
        load_study("study/demo", ["train.sampling={duration_ms: {201: 3}}"])
    study = load_study("study/demo", ["train.sampling={duration_ms: {200: 3}}"])
    assert study.train.sampling == {"duration_ms": {200: 3}}
    cell = "ablation={short: ['train.clips.duration_ms=[60]', 'train.sampling={duration_ms: {60: 3}}']}"
    assert load_study("study/demo", [cell]).ablation, "a cell may train on other clips than the study"
    with pytest.raises(ValueError, match="no training clip has 80"):
        load_study("study/demo", [cell.replace("{60: 3}", "{80: 3}")])


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ("{snr_db: {7: 2}}", "snr_db: no training clip has 7; there are 0, 10, 20: name one of these, or add 7 to "
         "dataset.clips.snr_db"),
        ("{snr_db: {null: 2}}", "snr_db: no training clip has null; "),
        ("{band: {phone: 2}}", "band: no training clip has phone; there are clean: "),
        ("{room: {0.3: 2}}", "room: no training clip has 0.3; there are anechoic: "),
        ("{part: {test: 2}}", "part: no training clip has test; there are train: name one of these"),
        ("{label: {VOICE: 2}}", "label: no training clip has VOICE; there are SPEECH, NONSPEECH: "),
        ("{snr: {0: 2}}", "snr: clips have no such factor; there are duration_ms, snr_db, band, "),
    ],
)  # fmt: skip
def test_a_level_that_no_training_clip_can_have_is_refused_by_key_and_value_with_those_there_are(sampling, said):
    with pytest.raises(ValueError, match=rf"^train\.sampling\.{re.escape(said)}"):
        load_study("study/demo", [f"train.sampling={sampling}"])


def test_levels_of_every_kind_may_be_drawn_oftener_as_clips_and_reports_name_them():
    design = {"band": "[clean, phone]", "room": "[null, 0.3, church]", "context": "{kind: noise, total_ms: 2000}"}
    others = ("snr_db: {0: 2}", "band: {phone: 2}", "room: {rt60 0.3 s: 2, church: 0}", "family: {music: 2}",
              "context: {noise to 2000 ms: 2}", "label: {SPEECH: 2}", "part: {train: 2}")  # fmt: skip
    wish = [f"dataset.clips.{key}={value}" for key, value in design.items()]
    assert load_study("study/demo", [*wish, f"train.sampling={{{', '.join(others)}}}"]).train.sampling
    with pytest.raises(ValueError, match=r"part: no training clip of fold 0 has part3; there are part2: "):
        load_study(
            "study/inflation", ["train.sampling={part: {part3: 2}}"]
        )  # which is tested in fold 3, and dev in fold 2


@pytest.mark.parametrize(("source", "said"), [("{kind: nope}", "there is no kind 'nope'"), ("{}", "names no kind")])
def test_a_source_of_no_kind_is_told_the_kinds(source, said):
    with pytest.raises(ValueError, match=rf"^dataset\.sources\.0: {said}; there are espeak, "):
        load_study("study/demo", [f"dataset.sources=[{source}]"])


def test_a_published_data_set_without_its_commit_is_told_how_it_is_named():
    with pytest.raises(FileNotFoundError, match=r"named with its commit, me/clips@<40 hex digits>$"):
        load_study("study/demo", ["dataset=me/clips"])
    with pytest.raises(FileNotFoundError, match=r"^there is no file me/clips$"):
        load_study("study/demo", ["train=me/clips"])


@pytest.mark.parametrize("path", ["askd.yaml", "study/smoke.yaml", "mine/askd", "/mine", "./askd"])
def test_a_path_to_nothing_is_no_file(path):
    with pytest.raises(FileNotFoundError, match=f"^there is no file {path}$"):
        load_study(path)


def test_a_misspelt_keyword_of_a_library_gets_a_suggestion():
    said = refused("train.lora={rank: 8}")
    assert "lora.rank is no such keyword" in said
    assert "did you mean r or " in said


@pytest.mark.parametrize(
    ("override", "way_out"),
    [
        ("train.lora={exclude_modules: x}", "`scope` decides it"),
        ("train.training={seed: 1}", "use `seeds`"),
        ("train.training={hub_token: x}", "from the environment only"),
        ("train.quantization={llm_int8_skip_modules: [x]}", "always left unquantised"),
        ("train.base=Qwen/Qwen2-Audio-7B-Instruct", "NAMESPACE/NAME@<40 hex digits>"),
        ("train.base=Qwen/Qwen2-Audio-7B-Instruct@main", "NAMESPACE/NAME@<40 hex digits>"),
        ("dataset.clips.duration_ms=[20, 200]", "declare a context"),
        ("dataset.clips.duration_ms=[200, 200]", "values repeat"),
        ("dataset.clips.snr_db=[80]", "less than or equal to 60"),
        ("dataset.clips.band=[clean, telephone]", "'phone', 'am_radio', 'lowpass' or 'highpass'"),
        ("dataset.clips.room=[none, 0.3]", "write null for no room"),
        ("dataset.clips.per_cell=0", "greater than or equal to 1"),
        ("train.seeds=[42, 42]", "values repeat"),
        ("train.seeds=[-1]", "train.seeds.0: Input should be greater than or equal to 0, got -1"),
        ("dataset.splits.seed=4294967296", "less than or equal to 4294967295"),
        ("evaluate.baselines=[loudness, loudness]", "values repeat"),
        ("dataset.clips.per_cell={train: 4, valid: 2, test: 4}", "the parts are ['train', 'dev', 'test']"),
        ("dataset.clips.context={kind: noise, total_ms: 100}", "shorter than the longest clip"),
        ("dataset.splits.fractions={train: 0.5, dev: 0.2, test: 0.2}", "must be 1, not 0.9"),
        ("dataset.splits.folds=5", "not both and not neither"),
        ("dataset.splits.protocol=leaky", "'group' or 'random'"),
        ("train.loss={class_weight: {VOICE: 2}}", "'VOICE' is none of the classes ['SPEECH', 'NONSPEECH']"),
        ("dataset.sources.0.label=MUSIC", "none of the classes ['SPEECH', 'NONSPEECH']"),
        ("classes=[SPEECH, SPEECH]", "two different names"),
        ("train.gate.accuracy=85", "less than or equal to 1"),
        ("evaluate.baselines=[silero_v9]", "'mel_statistics'"),
        ("publish.adapter=../../escape", "accepted are letters, digits"),
        ("publish.adapter=a--b", "accepted are letters, digits"),
        ("publish.namespace=..", "accepted are letters, digits"),
    ],
)
def test_impossible_values_are_refused_with_the_way_out(override, way_out):
    said = refused(override)
    assert way_out in said
    key = override.split("=")[0].split(".")[-1]
    assert key.rstrip("0123456789") in said or "classes" in said


def test_speech_is_mixed_behind_no_other_class():
    behind = "train.augment.noise={kind: clips}"
    assert "would make their labels untrue" in refused("classes=[NONSPEECH, SPEECH]", behind)
    assert load_study("study/smoke", [behind]).train.augment.noise.kind == "clips"


def test_a_required_key_that_is_missing_is_named():
    study = read_yaml("study/smoke")
    del study["publish"]
    with pytest.raises(ValueError, match=r"^publish: is required and missing$"):
        load_study(study)


def test_the_recipe_of_a_data_set_is_no_study_and_the_way_out_is_said():
    with pytest.raises(ValueError, match="--set dataset=dataset/clean-160"):
        load_study("dataset/clean-160")


@pytest.mark.parametrize(
    ("key", "name", "what"),
    [("dataset", name, "a data set") for name in ("dataset/demo", "dataset/folds")]
    + [("train", name, "a training") for name in ("train/tiny", "train/qwen2-audio-language-model")]
    + [("evaluate", "evaluate/foreign", "an evaluation"), ("search", "prompt/racing", "a search for prompts")],
)
def test_the_recipe_of_any_block_is_no_study_and_the_way_out_is_said_and_goes_on(key, name, what):
    with pytest.raises(ValueError, match=f"^{name} is the recipe of {what}, which .*--set {key}={name}, for example$"):
        load_study(name)
    assert load_study("study/demo", [f"{key}={name}"])


def test_a_prompt_is_no_study_and_a_study_with_a_wrong_key_is_one(tmp_path):
    (tmp_path / "asked.yaml").write_text("text: 'A) SPEECH B) NONSPEECH?'\nanswers: [A, B]\n")
    with pytest.raises(ValueError, match=r"asked\.yaml is the recipe of a prompt, .*--set prompt="):
        load_study(tmp_path / "asked.yaml")
    assert "sources: no such key" in refused("sources=[]", "clips={}")


def test_one_value_for_a_list_is_told_as_a_list():
    assert refused("train.seeds=42") == "train.seeds: takes a list, e.g. [42]; got 42"
    assert refused("train.seeds={a: 1}") == "train.seeds: takes a list; got {'a': 1}"


def test_a_newer_schema_is_refused_before_its_keys_are_read():
    with pytest.raises(ValueError, match=f"has schema {SCHEMA + 1}, this Earshot reads up to {SCHEMA}: update"):
        load_study({**read_yaml("study/smoke"), "schema": SCHEMA + 1, "a_key_of_tomorrow": 1})


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"no recipe 'study/dmeo'.*study/demo"):
        load_study("study/dmeo")


@pytest.mark.parametrize(
    ("text", "reason"), [("a: [1", "is not YAML"), ("- a\n- b", "holds list"), ("# what?\n", "bad.yaml is empty;")]
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, reason):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=reason):
        load_study(tmp_path / "bad.yaml")


def test_a_recipe_cannot_be_changed_once_it_is_checked():
    study = load_study("study/smoke")
    with pytest.raises(ValueError, match="frozen"):
        study.train.seeds = (1,)


# --- overrides ---------------------------------------------------------------------------------------------------


def test_set_reads_lists_numbers_nulls_and_blocks():
    study = load_study(
        "study/smoke",
        ["train.seeds=[42, 123]", "dataset.clips.snr_db=[null, 5]", "train.gate={accuracy: 0.5, on_fail: stop}",
         "train.training.max_steps=7", "prompt=A or B?"],
    )  # fmt: skip
    assert study.train.seeds == (42, 123)
    assert study.dataset.clips.snr_db == (None, 5)
    assert (study.train.gate.accuracy, study.train.gate.on_fail) == (0.5, "stop")
    assert study.train.training == {**load_study("study/smoke").train.training, "max_steps": 7}
    assert study.prompt == "A or B?"


def test_set_opens_a_block_that_is_given_by_name_and_keeps_its_other_keys():
    before, after = load_study("study/smoke"), load_study("study/smoke", ["dataset.clips.seed=8"])
    assert after.dataset.clips == before.dataset.clips.model_copy(update={"seed": 8})
    assert after.dataset.sources == before.dataset.sources


def test_a_block_like_another_has_its_keys_but_for_what_is_different():
    block = "{like: train/smoke, seeds: [7], lora: {r: 8}, gate: {on_fail: stop}}"
    like, plain = load_study("study/smoke", [f"train={block}"]).train, load_study("study/smoke").train
    assert (like.seeds, like.lora, like.gate.on_fail) == ((7,), {**plain.lora, "r": 8}, "stop")
    assert like.model_copy(update={"seeds": plain.seeds, "lora": plain.lora, "gate": plain.gate}) == plain
    again = load_study("study/smoke", [f"train={block}", "train.lora.lora_alpha=1", "train.seeds=[9]"])
    assert (again.train.seeds, again.train.lora) == ((9,), {**plain.lora, "r": 8, "lora_alpha": 1})
    with pytest.raises(FileNotFoundError, match="no recipe 'train/smok'"):
        load_study("study/smoke", ["train={like: train/smok}"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["inflation=true"], "trains no adapter: leave out ablation and inflation"),
        (["ablation={x: [train.lora.r=8]}"], "trains no adapter: leave out ablation and inflation"),
        (["search=prompt/demo"], "set search.over=[base]"),
        (["evaluate.ensembles={x: {of: [adapter, base]}}"], "evaluate.ensembles.x: train.seeds=[] trains no adapter"),
        (["evaluate.ensembles={x: {of: [seeds]}}"], "seeds are 0; name two in train.seeds"),
        (["goals=[{detector: adapter, at_least: 0.7}]"], "'adapter' is not scored here; there are base, no_audio"),
    ],
)
def test_a_study_without_seeds_asks_nothing_of_an_adapter(overrides, said):
    folds = ["dataset=dataset/folds"] if "inflation" in overrides[0] else []
    with pytest.raises(ValueError, match=r"^") as refused:
        load_study("study/smoke", ["train.seeds=[]", *folds, *overrides])
    assert said in str(refused.value)
    assert load_study("study/smoke", ["train.seeds=[]"]).models == ("base",)


def test_set_changes_one_place_of_a_list():
    study = load_study("study/smoke", ["dataset.sources.2.draws=5", "dataset.clips.snr_db.0=15"])
    assert [source.draws for source in study.dataset.sources] == [6, 4, 5]
    assert study.dataset.clips.snr_db == (15, None)


def test_set_takes_another_block_by_name():
    assert load_study("study/smoke", ["train=train/tiny"]).train.name == "tiny"


def test_a_later_set_wins_and_the_recipe_given_is_left_alone():
    given_recipe = read_yaml("study/smoke")
    changed = apply_overrides(given_recipe, ["evaluate.n_boot=100", "evaluate.n_boot=200"])
    assert changed["evaluate"]["n_boot"] == 200
    assert given_recipe["evaluate"]["n_boot"] == 500


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.seeds", "is not key.path=value"),
        ("=3", "is not key.path=value"),
        ("name.first=x", "no recipe 'smoke'"),
        ("dataset.sources.3.draws=5", "no position in a list of 3"),
        ("dataset.sources.first.draws=5", "no position in a list of 3"),
        ("evaluate.n_boot.low=5", "it has no keys"),
        ("train.seeds=[1", "'[1' is not YAML, e.g. [42, 123]"),
    ],
)
def test_a_set_that_cannot_be_read_says_why(override, reason):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load_study("study/smoke", [override])
    assert reason in str(error.value)


# --- what the blocks compute -------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 20), st.data())
def test_folds_test_every_part_once_and_never_train_on_it(folds, data):
    block = SplitsBlock(folds=folds)
    fold = data.draw(st.integers(0, folds - 1))
    sides = block.sides(fold)
    assert list(sides.values()).count("test") == list(sides.values()).count("dev") == 1
    assert sides[f"part{fold}"] == "test"
    tested = [part for k in range(folds) for part, side in block.sides(k).items() if side == "test"]
    assert sorted(tested) == sorted(block.parts)


def test_a_partial_method_leaves_out_what_does_not_reach_the_weights():
    study = load_study("study/smoke", ["train.gate.accuracy=0.5", "train.seeds=[1]", "train.timeout_min=3"])
    assert study.train.method == load_study("study/smoke").train.method
    assert "seeds" not in TrainMethod.model_fields


@pytest.mark.parametrize(
    ("block", "key", "meant"),
    [
        ("lora", "rank", "r"), ("lora", "alpha", "lora_alpha"), ("training", "lr", "learning_rate"),
        ("training", "epochs", "num_train_epochs"), ("training", "batch_size", "per_device_train_batch_size"),
        ("training", "learning_rte", "learning_rate"), ("quantization", "load_4bit", "load_in_4bit"),
    ],
)  # fmt: skip
def test_everyday_names_lead_to_the_keyword(block, key, meant):
    said = refused(f"train.{block}={{{key}: 1}}")
    assert meant in re.search(r"did you mean (.*)\?", said)[1].split(" or ")


def test_the_schema_can_be_exported():
    assert "properties" in StudyRecipe.model_json_schema()


# --- what does not go together -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "way_out"),
    [
        (["inflation=true"], "it needs dataset.splits {protocol: group, folds: K}"),
        (
            ["inflation=true", "dataset.splits={protocol: random, folds: 3}", "dataset.clips.per_cell=2"],
            "protocol: group",
        ),
        (["evaluate.ensembles={e: {of: [adapter, webrtc]}}"], "webrtc is not scored here"),
        (["evaluate.ensembles={base: {of: [adapter, loudness]}}"], "has the name of a detector"),
        (
            ["evaluate.baselines=[silero_default]", "evaluate.ensembles={e: {of: [adapter, silero_default]}}"],
            "how: vote",
        ),
        (["evaluate.baselines=[]"], "at least 1"),
        (["dataset.clips.design=margins"], "design margins counts by `per_class`"),
    ],
)
def test_keys_that_do_not_go_together_are_refused_before_anything_runs(overrides, way_out):
    assert way_out in refused(*overrides)


def test_recipes_may_ask_for_every_baseline_there_is():
    from tasks.detectors import BASELINES

    assert set(get_args(Baseline)) == set(BASELINES)


@pytest.mark.parametrize("prompt", ["Is it speech?", "Apple or Banana?", "A or C?"])
def test_a_prompt_that_does_not_offer_the_answers_is_refused(prompt):
    with pytest.raises(
        ValueError,
        match=r"prompt: .* leaves out the choices: it does not offer the answer '[AB]', so no model could know to give it",
    ):
        load_study("study/demo", [f"prompt={prompt}"])
    assert load_study("study/demo", ["prompt=(A) speech (B) none"]).answers == ("A", "B")
    assert load_study("study/demo", ["prompt=one or two?", "answers=[one,two]"]).answers == ("one", "two")


def test_free_answers_and_a_quick_look_are_keys_of_a_recipe():
    recipe = load_study("study/demo", ["evaluate.limit=8", "evaluate.open={words: {SPEECH: [voice]}}"])
    assert (recipe.evaluate.limit, recipe.evaluate.open.words) == (8, {"SPEECH": ("voice",)})
    with pytest.raises(ValueError, match=r"evaluate\.open\.words: 'VOICE' is none of the classes"):
        load_study("study/demo", ["evaluate.open={words: {VOICE: [talk]}}"])
    with pytest.raises(ValueError, match=r"ensembles\.base_open has the name of a detector"):
        load_study("study/demo", ["evaluate.ensembles={base_open: {of: [base, adapter]}}"])


def test_every_pattern_of_a_recipe_is_told_in_words():
    def patterns(schema):
        if isinstance(schema, dict):
            yield from schema.get("patternProperties", {})
            yield from [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
        for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
            yield from patterns(each)

    found = {its for recipe in (StudyRecipe, LeaderboardRecipe) for its in patterns(recipe.model_json_schema())}
    assert found == set(IN_WORDS)
