"""What was published verifies; one digit anywhere does not, even where the list of hashes was altered with it."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.cli import main
from tasks import pace
from tasks.cache import ROOT
from tasks.functional.cards import render_dataset_card
from tasks.functional.report import RECORDED, Report
from tasks.hub import find
from tasks.store import file_digests, read_json, sha256, write_json
from tasks.verification import (
    TEMPLATES,
    as_far_as_readable,
    differences,
    verify_adapters,
    verify_contents,
    verify_dataset,
    verify_evidence,
    verify_files,
    verify_repo,
    verify_report,
    verify_tables,
)


@pytest.fixture(scope="module")
def published(smoke):
    """The folders of the smoke study's adapter, data set and base in its hub."""
    assert smoke.first.code == 0, smoke.first.err[-3000:]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("EARSHOT_HOME", str(smoke.home))
        return tuple(find(f"earshot/smoke-{name}")[0] for name in ("adapter", "clips", "adapter-base"))


@pytest.fixture
def adapter(published, tmp_path):
    """A copy of the adapter's repository that a test may alter."""
    return shutil.copytree(published[0], tmp_path / "adapter")


@pytest.fixture
def data(published, tmp_path):
    """A copy of the data set's repository."""
    return shutil.copytree(published[1], tmp_path / "data")


@pytest.fixture
def base(published, tmp_path):
    """A copy of the base's repository."""
    return shutil.copytree(published[2], tmp_path / "base")


def cover_up(folder) -> None:
    """Write the list of hashes anew, as whoever alters a repository on purpose would."""
    write_json(folder / "files.json", {k: v for k, v in sorted(file_digests(folder).items()) if k != "files.json"})


def another_digit(text: str, at: int) -> str:
    return text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]


def alter_text(file, pattern: str) -> None:
    """Change the last digit of the first place that matches."""
    text = file.read_text(encoding="utf-8")
    found = re.search(pattern, text)
    assert found, pattern
    file.write_text(another_digit(text, found.end() - 1), encoding="utf-8")


def differing(folder) -> list[str]:
    return [finding.what for finding in verify_repo(str(folder)) if finding.verdict == "differs"]


def command(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["earshot", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


# --- the adapter's repository ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_was_published_verifies_by_name_and_as_a_folder(smoke, adapter, monkeypatch, capsys):
    monkeypatch.setenv("EARSHOT_HOME", str(smoke.home))
    name = re.search(r"earshot verify (\S+)", smoke.first.out)[1]
    assert command(monkeypatch, "verify", name) == 0
    said = capsys.readouterr().out
    assert f"verified: everything that can be recomputed is equal ({name})" in said
    assert {line.split()[0] for line in said.splitlines()[:-1]} == {"equal", "recorded"}
    assert differing(adapter) == []


@pytest.mark.parametrize(
    ("name", "pattern", "found"),
    [
        pytest.param("README.md", r"balanced accuracy \S*\d", "README.md", marks=pytest.mark.slow, id="the card"),
        pytest.param("report.json", r'"value": 0\.\d', "report.json: ", id="the report"),
    ],
)
def test_one_digit_is_found_even_where_the_hashes_were_altered_with_it(
    adapter, monkeypatch, capsys, name, pattern, found
):
    alter_text(adapter / name, pattern)
    cover_up(adapter)
    assert command(monkeypatch, "verify", str(adapter)) == 1
    said = capsys.readouterr()
    assert any(line.startswith("differs") and found in line for line in said.out.splitlines())
    assert "equal     files: " in said.out
    assert "differ from what can be recomputed" in said.err


def test_one_cell_of_the_table_is_found_even_where_the_report_names_the_altered_table(adapter):
    file = adapter / "predictions.parquet"
    table = pd.read_parquet(file)
    at = table.index[(table["detector"] == "adapter") & (table["method"] == "generate")][0]
    table.loc[at, "p_speech"] = 1 - table.loc[at, "p_speech"]
    table.to_parquet(file, index=False)
    assert next(verify_report(adapter)) == ("differs", "predictions.parquet: the table the report names")
    report = read_json(adapter / "report.json")
    report["provenance"]["predictions_sha256"] = sha256(file)
    write_json(adapter / "report.json", report)
    found = [its.what for its in verify_report(adapter) if its.verdict == "differs"]
    assert any(what.startswith("report.json: metrics") for what in found)


OTHERWISE = {
    "another audit": ("evidence/audit.json", '"shared": 0', '"shared": 1', "report.json: leakage"),
    "other parameters": ("training.json", '"language_model": 6144', '"language_model": 6145', "adapter.parameters"),
    "another rank": ("adapter_config.json", '"r": 4', '"r": 5', "adapter_config.json: an adapter of"),
    "another alpha": ("adapter_config.json", '"lora_alpha": 8', '"lora_alpha": 9', "as recipe.yaml has it; another lora_"),
    "another base": ("adapter_config.json", "smoke-adapter-base", "smoke-adapter-case", "names 'earshot/smoke-adapter-case"),
    "other shortcuts": ("report.json", '"zero_share": {', '"zero_shore": {', "report.json: shortcuts"),
    "another recipe": ("recipe.yaml", "max_steps: 4", "max_steps: 5", "recipe.yaml: the recipe the report names"),
    "another schema": ("report.schema.json", '"ece"', '"eec"', "report.schema.json"),
    "another table": ("tables/metrics.csv", "balanced_accuracy", "balanced_accurate", "tables: .*; another: metrics"),
    "other conditions": ("report.json", '"60",', '"61",', "report.json: conditions"),
    "a head that the Hub misreads": ("README.md", "license: mit", "license: mid", "'mid' is no identifier of the Hub"),
}  # fmt: skip


@pytest.mark.parametrize("how", OTHERWISE)
def test_what_disagrees_with_what_it_was_made_from_is_found(adapter, how):
    name, old, new, said = OTHERWISE[how]
    text = (adapter / name).read_text(encoding="utf-8")
    assert old in text
    (adapter / name).write_text(text.replace(old, new), encoding="utf-8")
    stated = read_json(adapter / "report.json")
    compared = (verify_contents(adapter, adapter), verify_evidence(adapter, stated), verify_adapters(adapter, stated),
                verify_tables(adapter, Report.model_validate(stated)))  # fmt: skip
    found = [its.what for stage in compared for its in stage if its.verdict == "differs"]
    assert [what for what in found if re.search(said, what)]


def test_a_schema_with_the_words_of_another_day_is_the_same_schema(adapter):
    schema = read_json(adapter / "report.schema.json")
    schema["description"] = "said otherwise since"
    write_json(adapter / "report.schema.json", schema)
    found = list(verify_tables(adapter, Report.model_validate(read_json(adapter / "report.json"))))
    assert {its.verdict for its in found} == {"equal"}


def test_what_is_hostile_is_refused_by_name(adapter):
    (adapter / "adapter_model.bin").write_bytes(b"\x80\x04.")
    (found,) = as_far_as_readable(verify_contents(adapter, adapter))
    assert found.verdict == "differs"
    assert "'adapter_model.bin' is code, or data that runs code" in found.what


def test_other_weights_are_found(adapter):
    file = adapter / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    found = verify_adapters(adapter, read_json(adapter / "report.json"))
    assert [its.what for its in found if its.verdict == "differs"] == [
        "adapter_model.safetensors: the weights the report names"
    ]


def test_an_altered_snapshot_no_longer_is_the_commit_it_was(smoke, published, tmp_path, monkeypatch):
    """In the hub even a covered-up change is found: the sha is over all files."""
    shutil.copytree(smoke.home / "hub", tmp_path / "home" / "hub")
    monkeypatch.setenv("EARSHOT_HOME", str(tmp_path / "home"))
    folder, sha = find("earshot/smoke-adapter")
    (folder / "figures" / "confusion.png").write_bytes(b"")
    cover_up(folder)
    assert [its.what for its in verify_files(folder, sha) if its.verdict == "differs"] == [
        f"files: all of them together are {sha}"
    ]


@pytest.mark.parametrize("name", ["predictions.parquet", "training.json", "files.json"])
def test_a_file_that_is_missing_is_a_difference(adapter, name):
    stated = read_json(adapter / "report.json")
    (adapter / name).unlink()
    stages = (verify_files(adapter, None), verify_evidence(adapter, stated))
    found = [its.what for stage in stages for its in as_far_as_readable(stage) if its.verdict == "differs"]
    assert any(f"{name}: is missing" in what or f"altered: {name}" in what for what in found)


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_any_digit_of_report_and_card_is_found_by_the_hashes(published, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("altered") / "adapter"
    shutil.copytree(published[0], folder)
    file = folder / data.draw(st.sampled_from(["README.md", "report.json", "files.json"]))
    text = file.read_text(encoding="utf-8")
    at = data.draw(st.sampled_from([found.start() for found in re.finditer(r"\d", text)]))
    file.write_text(another_digit(text, at), encoding="utf-8")
    assert [finding.verdict for finding in verify_files(folder, None)] == ["differs"]
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("recipe.yaml", "a: [", "cannot be read: ParserError, while parsing"),
        ("evidence/audit.json", "[]", "cannot be read: AttributeError, 'list'"),
        ("training.json", "{}", "cannot be read: KeyError, 'parameters'"),
        ("adapter_config.json", "[" * 100_000, "cannot be read: "),
    ],
)
def test_a_file_that_is_of_another_kind_is_a_difference_and_no_traceback(adapter, name, content, said):
    stated = read_json(adapter / "report.json")
    (adapter / name).write_text(content, encoding="utf-8")
    stages = (verify_contents(adapter, adapter), verify_evidence(adapter, stated), verify_adapters(adapter, stated))
    found = [its for stage in stages for its in as_far_as_readable(stage)]
    assert any(its.verdict == "differs" and said in its.what and "\n" not in its.what for its in found), found


def test_a_table_that_cannot_be_read_is_a_difference(adapter):
    (adapter / "predictions.parquet").write_bytes(b"PAR1 nothing PAR1")
    cover_up(adapter)
    assert any(what.startswith("report.json: cannot be rebuilt") for what in differing(adapter))


# --- the data set's repository -----------------------------------------------------------------------------------


def test_the_data_set_verifies(data):
    assert differing(data) == []


def test_a_clip_that_was_moved_to_another_part_is_found_by_the_audit(data):
    parts = {part: data / "data" / f"{part}.parquet" for part in ("train", "test")}
    train, test = (pq.read_table(file) for file in parts.values())
    at = train.column_names.index("group_id")
    leaked = [test["group_id"][0].as_py(), *train["group_id"].to_pylist()[1:]]
    pq.write_table(train.set_column(at, "group_id", [leaked]), parts["train"])
    cover_up(data)
    (found,) = differing(data)
    assert found.startswith("audit.json: leaky")


def test_one_digit_of_the_data_card_is_found(data):
    alter_text(data / "README.md", r"\| \d")
    cover_up(data)
    assert differing(data) == ["README.md: rendered again from card.json"]


@pytest.mark.parametrize(
    ("name", "pattern", "said"),
    [
        ("audit.json", r'"miss_rate": 0\.\d', "card.json: audit, that of audit.json"),
        ("balance.json", r'"largest_imbalance": \d', "card.json: balance, that of balance.json"),
    ],
)
def test_evidence_that_disagrees_with_the_card_is_found(data, name, pattern, said):
    alter_text(data / name, pattern)
    cover_up(data)
    assert differing(data) == [said]


def test_a_card_of_another_language_is_found(data):
    facts = read_json(data / "card.json")
    assert "languages" in facts
    facts["languages"] = ["tlh"]
    write_json(data / "card.json", facts)
    found = [its.what for its in verify_dataset(data) if its.verdict == "differs"]
    assert "card.json: what was asked for, as recipe.json has it; another languages" in found


def test_what_of_a_data_set_is_not_derived_is_said_to_be_recorded(data):
    (recorded,) = [its.what for its in verify_dataset(data) if its.verdict == "recorded"]
    assert recorded.startswith("audit.json: content and shortcuts; card.json: hygiene, sources and fingerprint")


def test_a_card_that_counts_otherwise_than_its_clips_is_found_even_where_card_and_facts_agree(data):
    facts = read_json(data / "card.json")
    facts["counts"][0]["groups"] += 1
    write_json(data / "card.json", facts)
    template = (TEMPLATES / "dataset_card.md.j2").read_text(encoding="utf-8")
    (data / "README.md").write_text(render_dataset_card(template, facts), encoding="utf-8")
    cover_up(data)
    (found,) = differing(data)
    assert found.startswith("card.json: clips, groups, levels and licences, counted again; counts[0].groups: stated")


def test_a_clip_with_other_audio_is_found(data, monkeypatch, capsys):
    monkeypatch.setattr(pace, "EVERY_S", 0.0)
    file = data / "data" / "dev.parquet"
    table = pq.read_table(file)
    audio = table["audio"].to_pylist()
    at = table.column_names.index("audio")
    audio[0], audio[1] = audio[1], audio[0]
    pq.write_table(table.set_column(at, table.schema.field("audio"), [audio]), file)
    cover_up(data)
    (found,) = differing(data)
    assert re.search(r"^data: audio of 80 clips, by its hash; another: ", found)
    assert "test.parquet: 32/32 clips heard\n" in capsys.readouterr().err, "how far it has come, where that takes long"


def test_audio_that_claims_more_than_the_memory_is_a_difference_and_is_not_decoded(data):
    file = data / "data" / "dev.parquet"
    table = pq.read_table(file)
    audio = table["audio"].to_pylist()
    flac = audio[0]["bytes"]
    claimed = int.from_bytes(flac[18:26], "big") >> 36 << 36 | 2**36 - 1
    audio[0]["bytes"] = flac[:18] + claimed.to_bytes(8, "big") + flac[26:]
    pq.write_table(table.set_column(table.column_names.index("audio"), table.schema.field("audio"), [audio]), file)
    cover_up(data)
    (found,) = differing(data)
    assert "the FLAC claims 68,719,476,735 samples; at most 1800 s are read" in found


# --- the base's repository ---------------------------------------------------------------------------------------


def test_a_base_verifies_and_one_digit_of_its_card_or_facts_does_not(base):
    assert differing(base) == []
    alter_text(base / "base.json", r'"parameters": \d+')
    cover_up(base)
    assert [what.partition(":")[0] for what in differing(base)] == ["model.safetensors", "README.md"]


# --- used ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_use_that_the_card_shows_answers_a_clip(smoke, published, tmp_path):
    """The lines of the card as they stand there, against what was published."""
    code = re.search(r"```python\n(.*?)```", (published[0] / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    assert code.count("\n") <= 12
    soundfile.write(tmp_path / "clip.wav", np.sin(np.arange(3200) / 5).astype(np.float32) / 2, 16_000)
    environment = {**os.environ, "EARSHOT_HOME": str(smoke.home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.fullmatch(r"\['.+'\]", done.stdout.strip().splitlines()[-1])


# --- comparing ---------------------------------------------------------------------------------------------------


def test_a_folder_of_something_else_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds neither report\.json, card\.json nor base\.json"):
        list(verify_repo(str(tmp_path)))


def test_what_is_recorded_and_not_derived_is_said_to_be(adapter):
    assert read_json(adapter / "report.json")["shortcuts"]["zero_share"]["auc"] >= 0, "a run measures them"
    findings = verify_evidence(adapter, read_json(adapter / "report.json"))
    recorded = " ".join(finding.what for finding in findings if finding.verdict == "recorded")
    stated = read_json(adapter / "report.json")
    assert [key for key in RECORDED if stated[key] and key not in recorded] == []


LEAVES = st.none() | st.booleans() | st.integers(-2, 2) | st.text("ab", max_size=1)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
)


@settings(max_examples=60, deadline=None)
@given(TREES, TREES)
def test_two_values_differ_exactly_where_their_json_does(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (differences(one, other, "at") == []) == same
    assert differences(one, one, "at") == []


@pytest.mark.parametrize(
    ("stated", "derived", "where"),
    [
        ({"a": 1.0}, {"a": 1.0 + 2e-9}, ["x.a: stated 1.0, recomputed 1.000000002"]),
        ({"a": 1.0}, {"a": 1.0 + 5e-10}, []),
        ({"a": True}, {"a": 1}, ["x.a: stated True, recomputed 1"]),
        ({"a": [1, 2]}, {"a": [1]}, ["x.a: stated [1, 2], recomputed [1]"]),
        ({"a": [{"b": 3}]}, {"a": [{"b": 4}]}, ["x.a[0].b: stated 3, recomputed 4"]),
        ({"a": None}, {"a": 0.0}, ["x.a: stated None, recomputed 0.0"]),
        ({"a": 1}, {"b": 1}, ["x.a is missing on one side", "x.b is missing on one side"]),
    ],
)
def test_a_difference_is_named_with_its_place(stated, derived, where):
    assert differences(stated, derived, "x") == where
