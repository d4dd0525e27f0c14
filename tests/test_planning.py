"""A plan says what a run would do, by the run's own way, and does none of it."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE
from typer.testing import CliRunner

from flows import cli, demands
from flows.build_dataset import build_dataset
from flows.demands import demand_extras
from flows.plan_study import plan_study
from flows.run_study import run_study, within
from recipes.reading import read_yaml
from recipes.sampling import OF_SOURCES
from recipes.schema import CheckFailed, load_study
from tasks import cache, detectors, sources, store
from tasks.clips import check_cells
from tasks.functional.intervals import clustered_interval
from tasks.functional.mcnemar import mcnemar_sample_size
from tasks.functional.planning import Evidence, describe_power, interval_rule
from tasks.planning import dealt, describe_data, describe_disk, length_of, steps_of
from tests.building import build
from tests.layouts import sound


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A home in which study/smoke was built, every task run and recorded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EARSHOT_HOME", str(tmp_path_factory.mktemp("built") / "home"))
        return store.home(), build(load_study("study/smoke"))


@pytest.fixture
def built(original, home):
    """What the build made, in a home of this test's own."""
    shutil.copytree(original[0], home)
    return original[1]


def steps(plan: list[str]) -> dict[str, str]:
    """Step -> what the plan says of it."""
    at = next(i for i, line in enumerate(plan) if line.startswith("steps"))
    return {line[2:16].strip(): line[16:] for line in plan[at + 1 : plan.index("", at)]}


def data_of(plan: list[str]) -> list[list[str]]:
    """Part, class, groups, supergroups, recordings, length and clips of each stratum."""
    rows = plan[plan.index("") + 3 : plan.index("", plan.index("") + 1)]
    return [re.sub(r" (?=(h|min)\b)", "_", line).split() for line in rows if not line.startswith("all ")]


def test_a_plan_in_an_empty_home_runs_nothing_and_makes_nothing(home):
    result = CliRunner().invoke(cli.app, ["plan", "study/smoke"])
    assert result.exit_code == 0, result.output
    assert not home.exists()
    found = steps(result.output.splitlines())
    assert found["recordings"] == "0 of 3 cached, 3 to run"
    assert found["adapters"] == "up to 1 to run, not measured here"
    assert "80 clips" in result.output


def test_a_plan_finds_what_a_build_left_and_publishes_nothing(built, home):
    before = store.file_digests(home)
    found = steps(plan_study("study/smoke"))
    assert [found[name] for name in ("recordings", "sides", "clips", "splits")] == [
        "3 of 3 cached", "1 of 1 cached", "3 of 3 cached", "1 of 1 cached",
    ]  # fmt: skip
    assert (found["clean plans"], found["clean clips"]) == ("0 of 1 cached, 1 to run", "up to 1 to run")
    assert found["tiny base"].startswith("up to 1 to run")
    assert store.file_digests(home) == before


def test_a_plan_foretells_what_the_build_then_holds(built, home, monkeypatch, tmp_path):
    after = data_of(plan_study("study/smoke"))
    monkeypatch.setenv("EARSHOT_HOME", str(tmp_path / "another"))
    assert data_of(plan_study("study/smoke")) == after
    rows = [(part, name, int(groups), int(clips)) for part, name, groups, *_, clips in after if name != "noise"]
    assert {(part, 2 * clips) for part, _, _, clips in rows} == set(built.splits.clips.items())
    heard = {(part, name): min(groups, clips) for part, name, groups, clips in rows}  # one clip a group at least
    assert heard == {(part, name): n for part, of in built.splits.groups.items() for name, n in of.items()}


def test_a_damaged_result_counts_as_missing_and_is_left_where_it_is(built, home):
    (built.sides.path / "sides.parquet").write_bytes(b"")
    records = sorted(cache.results().iterdir())
    found = steps(plan_study("study/smoke"))
    assert found["sides"] == "0 of 1 cached, 1 to run"
    assert found["clips"] == "up to 3 to run"
    assert sorted(cache.results().iterdir()) == records


def test_lengths_that_an_earlier_run_has_read_are_told_before_anything_is_dealt(built, home, monkeypatch):
    """Sources that speak tell no length; those that were gathered do, whether or not they were dealt."""
    monkeypatch.setattr(sources, "durations_s", lambda block, table: pd.Series(np.nan, index=table.index))
    again = ["dataset.splits.seed=8"]
    read = plan_study("study/smoke", again)
    assert steps(read)["sides"] == "0 of 1 cached, 1 to run"
    assert not any("?" in line or "recordings of unknown length" in line for line in read)
    other = plan_study("study/smoke", [*again, "dataset.sources.0.seed=9"])
    assert steps(other)["recordings"] == "2 of 3 cached, 1 to run"
    lengths = {(part, name): length for part, name, *_, length, _ in (row for row in data_of(other) if len(row) == 7)}
    assert "?" in lengths.values()
    assert any(re.fullmatch(r"[\d.]*[1-9][\d.]*_(h|min)", value) for value in lengths.values()), lengths
    assert "?: known once the source has been read or spoken" in other


def test_lengths_of_which_only_some_are_known_are_told_as_the_least():
    counts = pd.DataFrame({"hours": [1.5, 1.5, 0.0], "unknown": [0, 2, 3], "recordings": [3, 3, 3]})
    assert length_of(counts).tolist() == ["1.50 h", "1.50+ h", "?"]


def test_little_data_is_told_in_minutes_and_never_as_nothing():
    counts = pd.DataFrame({"hours": [0.1, 0.099, 0.004, 0.0003], "unknown": [0, 0, 1, 0], "recordings": 2})
    assert length_of(counts).tolist() == ["0.10 h", "5.9 min", "0.24+ min", "0.018 min"]


def test_a_part_whose_groups_are_all_of_one_supergroup_is_told(home, tmp_path):
    for corpus in ("ami", "fsdd", "librispeech"):
        for speaker in range(4):
            sound(tmp_path / f"speech/{corpus}/{speaker}/1.wav")

    def told(*roots):
        given = [{"kind": "folder", "root": str(tmp_path / root), "label": "SPEECH"} for root in roots]
        sources = [*given, *read_yaml("dataset/smoke")["sources"][1:]]
        recipe = load_study("study/smoke", [f"dataset.sources={json.dumps(sources)}"])
        lines = describe_data(recipe, dealt(recipe.dataset, []))
        return [line for line in lines if " SPEECH groups of " in line]

    one_a_part = told("speech")
    assert [line.partition(" are of")[0] for line in one_a_part] == [
        f"all 4 SPEECH groups of {part}" for part in ("train", "dev", "test")
    ]
    assert {line.split("supergroup, ")[1].split(",")[0] for line in one_a_part} == {
        f"speech/{corpus}" for corpus in ("ami", "fsdd", "librispeech")
    }
    assert told("speech/ami", "speech/fsdd", "speech/librispeech") == []


def test_another_block_is_another_result(built):
    found = steps(plan_study("study/smoke", ["dataset.clips.seed=8"]))
    assert (found["sides"], found["plans"]) == ("1 of 1 cached", "0 of 3 cached, 3 to run")


def test_a_refreshed_stage_will_run_whatever_is_cached(built):
    found = steps(plan_study("study/smoke", refresh="build"))
    assert found["recordings"] == "3 to run"
    assert steps(plan_study("study/smoke", until="build", refresh="train"))["splits"] == "1 of 1 cached"


@pytest.mark.parametrize(("stage", "anew"), [("build", False), ("train", True), ("evaluate", True)])
def test_refresh_overrules_the_cache_from_its_stage_on(stage, anew):
    with within(stage, "train"):
        assert PREFECT_TASKS_REFRESH_CACHE.value() is anew
    with within(stage, None):
        assert PREFECT_TASKS_REFRESH_CACHE.value() is False


def test_a_dry_run_is_a_plan_up_to_its_stage(home):
    result = CliRunner().invoke(cli.app, ["train", "study/smoke", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "adapters" in result.output
    assert "report  " not in result.output
    assert not home.exists()


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `earshot ARGUMENTS` says when it ends as a command does that is asked for what cannot be done."""
    monkeypatch.setattr("sys.argv", ["earshot", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["study/nothing"], "no recipe 'study/nothing'"),
        (["study/smoke", "--set", "dataset.clips.snr=[0]"], "dataset.clips.snr: no such key"),
        (["study/corpus"], "EARSHOT_CORPUS, which is not set"),
        (
            ["study/smoke", "--set", "dataset.splits={folds: 9}", "--set", "dataset.clips.per_cell=2"],
            "independent groups",
        ),
    ],
)
def test_a_study_that_cannot_run_is_refused_in_a_sentence(home, monkeypatch, capsys, arguments, sentence):
    monkeypatch.delenv("EARSHOT_CORPUS", raising=False)
    said = refusal(monkeypatch, capsys, "plan", *arguments)
    assert sentence in said
    assert "Traceback" not in said


@pytest.mark.parametrize("command", [["plan"], ["build", "--dry-run"], ["prompts", "--dry-run"]], ids=" ".join)
def test_every_environment_variable_that_is_not_set_is_named_at_once(home, monkeypatch, capsys, command):
    names = ("VOXCONVERSE", "ESC50", "GTZAN", "MUSAN", "WHISPER", "PYANNOTE")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    sets = ["dataset=dataset/factorial-500", "evaluate=evaluate/foreign"]
    asked = [part for override in sets for part in ("--set", override)]
    said = refusal(monkeypatch, capsys, *command, "study/smoke", *asked)
    scored = [] if command[0] in ("build", "prompts") else ["PYANNOTE", "WHISPER"]
    named = ["VOXCONVERSE", "ESC50", "GTZAN", "MUSAN", *scored]
    assert f"smoke reads the environment variables {', '.join(named)}, which are not set\n" in said
    assert all(f"export {name}=" in said for name in named)
    assert "`earshot fetch voxconverse --root DIR`, then export VOXCONVERSE=DIR/voxconverse" in said
    assert not home.exists(), "nothing was run"
    with pytest.raises(ValueError, match="VOXCONVERSE, ESC50, GTZAN, MUSAN, PYANNOTE, WHISPER, which are not set"):
        demand_extras(load_study("study/smoke", sets), "publish")


MARGINS = ["dataset.clips.design=margins", "dataset.clips.per_cell=null", "dataset.clips.per_class=9"]
ONE_AT_A_TIME = [
    "dataset.clips.design=one_at_a_time", "dataset.clips.per_cell=null", "dataset.clips.per_class=3",
    "dataset.clips.reference.duration_ms=200",
]  # fmt: skip


@pytest.mark.parametrize("design", [[], MARGINS, ONE_AT_A_TIME], ids=["factorial", "margins", "one_at_a_time"])
@pytest.mark.parametrize("command", [["plan"], ["build", "--dry-run"]], ids=["plan", "dry run"])
def test_every_level_that_cannot_be_filled_is_told_for_every_part_and_nothing_is_decoded(
    home, monkeypatch, capsys, design, command
):
    monkeypatch.setattr(sources, "waveform", lambda *_: pytest.fail("nothing is rendered or decoded"))
    levels = [*design, "dataset.clips.duration_ms=[60,1800]", "dataset.clips.room=[null,hall]"]
    asked = [part for override in levels for part in ("--set", override)]
    said = refusal(monkeypatch, capsys, *command, "study/smoke", *asked)
    for part in ("train", "dev", "test"):
        lacking = (
            f"{part} has no recording for: SPEECH at 1800 ms (needs 1800 ms; the longest has 1500 ms); NONSPEECH at"
        )
        assert lacking in said
    assert said.count("noise at 1800 ms") == said.count("room hall (rooms there: none)") == 3
    assert "at 60 ms" not in said
    assert "Add such recordings or leave these levels out" in said
    assert not home.exists()


def test_a_level_that_only_some_parts_can_fill_is_told_for_the_others(built):
    table = pd.read_parquet(built.sides.path / "sides.parquet")
    table.loc[(table["part"] == "test") & (table["label"] == "SPEECH"), "duration_s"] = 0.1
    recipe = load_study("study/smoke").dataset
    blocks = {part: recipe.clips_of(part) for part in recipe.splits.parts}
    with pytest.raises(ValueError, match=r"^test has no recording for: SPEECH at 200 ms \(.*100 ms\)\. Add"):
        check_cells(table, blocks, ("SPEECH", "NONSPEECH"))
    unknown = table.assign(duration_s=table["duration_s"].where(table["duration_s"] > 0.1))
    check_cells(unknown, blocks, ("SPEECH", "NONSPEECH"))  # what only decoding tells may well be long enough


@pytest.mark.parametrize(
    ("sampling", "said"),
    [("{family: {musik: 2}}", "family: no training clip has musik; there are animals, environment: name one of these$"),
     ("{noise_id: {null: 2, mine: 2}}", "noise_id: no training clip has mine; there are .* and 5 more|null: name"),
     ("{room_id: {hall: 2}}", "room_id: no training clip has hall; there are null: name one of these$")],
)  # fmt: skip
@pytest.mark.parametrize("cell", [False, True], ids=["study", "cell"])
def test_a_level_that_no_recording_of_a_training_part_has_is_refused_by_plan_and_run_before_anything_is_built(
    home, sampling, said, cell
):
    asked = f"train.sampling={sampling}"
    wish = [f"ablation={{more: [{json.dumps(asked)}]}}" if cell else asked]
    key = r"^ablation\.more: train\.sampling\." if cell else r"^train\.sampling\."
    for refusing in (plan_study, run_study.fn):
        with pytest.raises(ValueError, match=key + said):
            refusing("study/smoke", wish)
    assert not (home / "store").exists()
    assert plan_study("study/smoke", ["train.sampling={family: {animals: 2}, room_id: {null: 2}}"])


def test_every_factor_that_recordings_bring_along_is_a_column_of_the_clips(built):
    factors = {*OF_SOURCES, *load_study("study/smoke").dataset.clips.levels, "part", "label"}
    assert factors <= {*pq.read_schema(built.splits.path / "data" / "train.parquet").names}


def test_a_noisy_context_asks_for_noise_of_its_own_length(home):
    context = "dataset.clips.context={kind: noise, total_ms: 1600}"
    with pytest.raises(ValueError, match=r"noise at 60 ms \(needs 1600 ms; the longest has 1500 ms\)"):
        plan_study("study/smoke", [context])
    assert plan_study("study/smoke", [context.replace("noise", "silence")])


def test_a_check_that_would_stop_a_run_is_told(home, monkeypatch):
    def stop(recipe):
        raise CheckFailed("seed 42 has not learnt its training clips")

    monkeypatch.setattr(build_dataset, "fn", stop)
    plan = plan_study("study/smoke")
    assert "  a run would stop here: seed 42 has not learnt its training clips" in plan


ELSEWHERE = ["train=train/qwen2-audio-language-model", "evaluate=evaluate/vads", "dataset.hygiene={}"]


@pytest.fixture
def laptop(home, monkeypatch):
    """A machine without a GPU, without the extra `vad` and without a token."""
    monkeypatch.setattr(demands, "gpus", list)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(detectors, "installed", lambda: iter(()))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)


def test_a_plan_made_where_a_run_would_be_refused_says_each_reason_and_is_whole(laptop):
    overrides = [*ELSEWHERE, "publish.to=hub"]
    asked = [part for override in overrides for part in ("--set", override)]
    result = CliRunner().invoke(cli.app, ["plan", "study/smoke", *asked])
    assert result.exit_code == 0, result.output
    stop = "  a run would stop here: "
    told = [line.removeprefix(stop) for line in result.output.splitlines() if line.startswith(stop)]
    vads = "baselines webrtc, silero, silero_default: onnxruntime, silero-vad, webrtcvad-wheels not installed"
    assert [said.partition(";")[0] for said in told] == [
        "dataset.hygiene silero: onnxruntime, silero-vad not installed",
        vads,
        "publishing to the Hub needs a token that may write: set HF_TOKEN or run `hf auth login`, or publish into the home: "
        "--set publish.to=home",
        "smoke has train.device=cuda and no NVIDIA GPU answers here (`earshot doctor` looks closer): run it where there is "
        "one",
    ]
    assert all(part in result.output for part in ("data set smoke", "interval", "disk: at most", "GPU, by arithmetic"))
    for said, way_out in zip(
        told, ("dataset.hygiene=null", "evaluate=evaluate/default", "publish.to=home", ""), strict=True
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
            run_study.fn("study/smoke", overrides)
        overrides.append(way_out)


def test_a_plan_up_to_a_stage_asks_for_what_that_stage_needs(laptop):
    def stops(*arguments):
        return [line for line in plan_study(*arguments) if "would stop here" in line]

    assert not stops("study/smoke", ELSEWHERE[:2], "build")
    assert len(stops("study/smoke", ELSEWHERE[:2], "train")) == 1
    assert not stops("study/smoke")


def timed(kind: type[store.Reference], seconds: float, on: tuple[str, str], **facts) -> None:
    """A result of an earlier run with the times beside it."""
    with store.draft(kind) as folder:
        (folder / "what").write_text(f"{seconds}")
        made = kind.of(folder, **facts)
    store.write_timing(made, {"train_s": seconds, "base": on[0], "device": on[1]})


def test_times_of_earlier_runs_are_told_with_their_number(home):
    for seconds in (12.0, 30.4):
        timed(store.Base, seconds, ("tiny", "cpu"), parameters=1)
    said = "up to 1 to run, 12 to 30 s each (2 of this base on cpu in this home, any recipe)"
    assert steps(plan_study("study/smoke"))["tiny base"] == said


def test_times_of_another_base_or_device_foretell_nothing(laptop):
    of = {"base": "of a card", "seed": 42, "fold": 0, "train_accuracy": 1.0}
    big = load_study("study/smoke", ELSEWHERE[:1]).train.base
    for seconds, on in ((46.0, ("tiny", "cpu")), (106.0, ("tiny", "cuda")), (9.0, (big, "cpu"))):
        timed(store.Adapter, seconds, on, **of)
    assert steps(plan_study("study/smoke", ELSEWHERE[:1]))["adapters"].endswith("to run, not measured here")
    assert "46 s each (1 of this base on cpu" in steps(plan_study("study/smoke"))["adapters"]
    timed(store.Adapter, 1200.0, (big, "cuda"), **of)
    assert "1200 s each (1 of this base on cuda" in steps(plan_study("study/smoke", ELSEWHERE[:1]))["adapters"]


@pytest.mark.parametrize("groups", [1, 2, 4, 5, 19, 20, 80])
def test_the_interval_foretold_is_the_one_a_report_gives(groups):
    rows = [(label, f"{label}{g}", "SPEECH" if (g + c) % 3 else "NONSPEECH")
            for label in ("SPEECH", "NONSPEECH") for g in range(groups) for c in range(4)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["label", "group_id", "prediction"])
    found = clustered_interval(table, "balanced_accuracy", n_boot=1000, seed=0)
    said = interval_rule(groups)
    assert {"none": "no interval", "t": "a t interval", "bootstrap": "a bootstrap"}[found.method] in said
    if found.method != "bootstrap":
        assert found.reliable is not ("unreliable" in said or "no interval" in said)


def evidence(groups: int, clips: int) -> list[Evidence]:
    return [Evidence(groups, groups, clips)] * 2


@pytest.mark.parametrize(
    ("groups", "clips", "warning"),
    [
        (1, 5000, "a class has one test group: no difference between two detectors can be shown, however large"),
        (40, 400, "3 points cannot be shown: they need 1,800 clips even if the clips of a group were independent"),
        (
            40,
            1800,
            "3 points are shown only where the design effect is at most 2.0 (an ICC of 0.02 at 45 clips a group)",
        ),
        (900, 900, None),
    ],
)
def test_a_plan_warns_of_a_test_split_that_cannot_decide(groups, clips, warning):
    assert mcnemar_sample_size(0.03, 0.2) == 1800
    warnings = [line for line in describe_power(evidence(groups, clips)) if "warning" in line]
    assert len(warnings) == (warning is not None)
    assert warning is None or warning in warnings[0]


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        ("study/corpus", {"tiny base": 5, "adapters": 5, "model scores": 10, "splits": 1}),
        ("study/inflation", {"tiny base": 6, "adapters": 6, "model scores": 12, "splits": 2}),
    ],
)
def test_the_steps_of_a_study_count_every_fold_under_every_protocol(study, expected):
    counted = {step.name: step.calls for step in steps_of(load_study(study))}
    assert {name: counted[name] for name in expected} == expected


@pytest.mark.parametrize(("free", "warned"), [(10**12, False), (1_000_000, True)])
def test_a_data_set_that_the_disk_has_no_room_for_is_warned_of(home, monkeypatch, free, warned):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(free, 0, free))
    told = "\n".join(describe_disk(load_study("study/smoke"), pd.DataFrame({"duration_s": [1.0, 2.0]})))
    assert ("warning: " in told and "too little; fewer clips, or another EARSHOT_HOME" in told) is warned
