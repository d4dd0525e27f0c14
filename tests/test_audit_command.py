"""`earshot audit` on data sets of every kind: a leak of any level is exit 1 with its names, bad input a sentence."""

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from flows import cli
from recipes.schema import CheckFailed
from tasks import audit as audit_module
from tasks import hub, pace
from tasks.audit import audit_dataset
from tasks.functional import content_audit
from tasks.store import read_json
from tests.bench.bench_duplicates import generated
from tests.bench.plant_copies import copy_of

SPLITS = ("train", "dev", "test")


@pytest.fixture(autouse=True)
def few_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two copies a cell instead of ten, for speed."""
    monkeypatch.setattr(content_audit, "PLANTED", 2)


def wav(samples: np.ndarray, rate: int = 16_000, form: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1, 1), rate, format=form, subtype="PCM_16")
    return buffer.getvalue()


def rows_of(seed: int = 1, seconds: float = 0.3) -> dict[str, list[dict[str, Any]]]:
    """Six clips a split, three groups each, two labels, nothing shared."""
    sounds = generated(18, seconds, seed)
    return {
        split: [
            {"audio": {"bytes": wav(sounds[6 * s + k]), "path": f"{split}{k}.wav"}, "clip_id": f"{split}{k}",
             "label": "SPEECH" if k % 2 else "NONSPEECH", "group_id": f"{split}-{k // 2}"}
            for k in range(6)
        ]
        for s, split in enumerate(SPLITS)
    }  # fmt: skip


def parquet(folder: Path, rows: dict[str, list[dict[str, Any]]], shard: str = "") -> Path:
    (folder / "data").mkdir(parents=True)
    for split, table in rows.items():
        pq.write_table(pa.Table.from_pylist(table), folder / "data" / f"{split}{shard}.parquet")
    return folder


def copied(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """test3 is train2 under another name, at another offset, gain and SNR."""
    original = soundfile.read(io.BytesIO(rows["train"][2]["audio"]["bytes"]), dtype="float32")[0]
    copy = copy_of(original, np.random.default_rng(2), seconds=0.25, snr_db=10).samples
    rows["test"][3]["audio"] = {"bytes": wav(copy, form="FLAC"), "path": "other.flac"}
    return rows


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["audit", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        code = 1 if isinstance(result.exception, CheckFailed) else 2
        assert isinstance(result.exception, ValueError | FileNotFoundError | CheckFailed), result.exception
        return code, result.output + str(result.exception)
    return result.exit_code, result.output


def test_a_long_audit_says_how_far_it_has_come(tmp_path, home, monkeypatch):
    monkeypatch.setattr(pace, "EVERY_S", 0.0)
    monkeypatch.setattr(audit_module, "MOST_PAIRS", 60)
    code, said = run(str(parquet(tmp_path / "data", rows_of())), "--out", str(tmp_path / "out"))
    assert code == 0, said
    for line in (
        "18 clips heard, train", "18/18 clips decoded to be compared", "copies between parts: 18/18 spectrograms made",
        "planted copies: ",
    ):  # fmt: skip
        assert line in said
    pairs = re.search(r"copies between parts: ([\d,]+)/([\d,]+) pairs compared sample by sample", said)
    assert pairs


# --- levels ------------------------------------------------------------------------------------------------------


def test_a_clean_data_set_passes_and_says_what_was_looked_for_and_what_would_have_been_found(tmp_path, home):
    code, said = run(str(parquet(tmp_path / "a set é", rows_of())), "--strict", "--out", str(tmp_path / "out"))
    assert code == 0, said
    for line in ("18 clips, 6 of dev, 6 of test, 6 of train", "group: 0 shared", "audio: 0 shared", "verdict: clean"):
        assert line in said
    assert "108 pairs, 0 beyond chance" in said
    assert "200 ms 10 dB " in said
    record = read_json(tmp_path / "out" / "audit.json")
    assert record["verdict"] == "clean"
    planted, found = (sum(row[name] for row in record["content"]["recall"]) for name in ("planted", "found"))
    assert record["content"]["miss_rate"] == pytest.approx(1 - found / planted, abs=1e-4)
    assert set(record["shortcuts"]) >= {"level_db", "zero_share", "encoded_bytes"}
    assert record["measured"] == {"dev": 6, "test": 6, "train": 6}
    assert "measured on 6 of 6 clips of dev, 6 of 6 clips of test, 6 of 6 clips of train" in said
    assert not home.exists()


def test_a_group_in_two_splits_is_a_leak(tmp_path, home):
    rows = rows_of()
    rows["dev"][0]["group_id"] = "train-1"
    code, said = run(str(parquet(tmp_path / "data", rows)))
    assert code == 1
    assert "group: 1 shared, e.g. train-1 (dev, train)" in said
    assert read_json(next((home / "audits").glob("*/audit.json")))["verdict"] == "leaky"


def test_a_column_given_by_group_is_compared_as_well(tmp_path, home):
    rows = rows_of()
    for split in SPLITS:
        for k, row in enumerate(rows[split]):
            row["session"] = f"{split}{k}"
    data = parquet(tmp_path / "one", rows)
    assert run(str(data), "--group", "session", "--group", "group_id")[0] == 0
    rows["test"][5]["session"] = "train0"
    code, said = run(str(parquet(tmp_path / "two", rows)), "--group", "session")
    assert code == 1
    assert "session: 1 shared, e.g. train0 (test, train)" in said


@pytest.mark.parametrize("change", [lambda x: x, lambda x: -x, lambda x: np.pad(x, (160, 320))])
def test_the_same_samples_under_another_name_are_a_leak(tmp_path, home, change):
    rows = rows_of()
    same = soundfile.read(io.BytesIO(rows["train"][2]["audio"]["bytes"]))[0]
    rows["dev"][1]["audio"] = {"bytes": wav(change(same), form="FLAC"), "path": "renamed.flac"}
    code, said = run(str(parquet(tmp_path / "data", rows)))
    assert code == 1
    assert "audio: 1 shared" in said


def test_a_disguised_copy_is_a_leak_that_names_and_hashes_miss(tmp_path, home):
    code, said = run(str(parquet(tmp_path / "data", copied(rows_of()))), "--out", str(tmp_path / "out"))
    assert code == 1
    assert "group: 0 shared" in said
    assert "audio: 0 shared" in said
    assert "copy: test3 (test) and train2 (train), score" in said
    record = read_json(tmp_path / "out" / "audit.json")
    assert (record["verdict"], record["content"]["leaks"]) == ("leaky", 1)
    assert record["content"]["found"][0]["clip_id"] == ["test3", "train2"]


def test_without_groups_level_one_is_said_not_to_be_done_and_strict_fails_on_that(tmp_path, home):
    rows = {split: [{**row, "speaker": "x"} for row in table] for split, table in rows_of().items()}
    for table in rows.values():
        for row in table:
            del row["group_id"]
    data = str(parquet(tmp_path / "data", rows))
    code, said = run(data)
    assert code == 0
    assert (
        "identities could not be compared: there is no column group_id; name others by --group, of label, speaker"
        in said
    )
    assert "verdict: unknown" in said
    assert run(data, "--strict")[0] == 1
    assert run(data, "--group", "speaker")[0] == 1, "one speaker stands in all splits"


def test_a_suspect_fails_only_the_strict(tmp_path, home, monkeypatch):
    monkeypatch.setattr(content_audit, "least_score", lambda lags: 1e6)  # a copy so faint that chance might bring it
    data = str(parquet(tmp_path / "data", copied(rows_of())))
    code, said = run(data)
    assert code == 0
    assert "suspect: test3 (test) and train2 (train)" in said
    code, said = run(data, "--strict")
    assert code == 1
    assert "1 pairs of clips are suspect" in said


def test_a_shortcut_is_called_out(tmp_path, home):
    rows = rows_of(seconds=0.1)
    for table in rows.values():
        for row in table:
            if row["label"] == "SPEECH":
                samples = soundfile.read(io.BytesIO(row["audio"]["bytes"]))[0]
                row["audio"]["bytes"] = wav(np.where(np.arange(len(samples)) % 3, samples, 0))
    code, said = run(str(parquet(tmp_path / "data", rows)))
    assert code == 0
    assert "shortcut: zero_share has an AUC of 1.000 on test" in said


# --- kinds of data sets ------------------------------------------------------------------------------------------


def saved(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> Path:
    parts = {
        split: datasets.Dataset.from_list(table).cast_column("audio", datasets.Audio(decode=False))
        for split, table in rows.items()
    }
    datasets.DatasetDict(parts).save_to_disk(str(folder))
    return folder


def as_files(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> Path:
    for split, table in rows.items():
        (folder / split).mkdir(parents=True)
        for row in table:
            (folder / split / f"{row['clip_id']}.wav").write_bytes(row["audio"]["bytes"])
        known = [
            {"file_name": f"{row['clip_id']}.wav", "group_id": row["group_id"], "label": row["label"]} for row in table
        ]
        pd.DataFrame(known).to_csv(folder / split / "metadata.csv", index=False)
    return folder


def as_hub_shards(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> Path:
    return parquet(folder, rows, "-00000-of-00001")


def published(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> str:
    hub.publish(parquet(folder, rows), "dataset", "mine/clips")
    return "mine/clips"


@pytest.mark.parametrize(
    "kind", [saved, published, *(pytest.param(kind, marks=pytest.mark.slow) for kind in (as_files, as_hub_shards))]
)
def test_every_kind_of_data_set_is_audited_alike(tmp_path, home, kind):
    rows = rows_of()
    same = rows["train"][4]["audio"]["bytes"]
    rows["test"][0] = {**rows["test"][0], "audio": {"bytes": same, "path": "b.wav"}, "group_id": "train-2"}
    code, said = run(str(kind(tmp_path / "set", rows)))
    assert code == 1, said
    assert "18 clips" in said
    for leak in ("group: 1 shared", "audio: 1 shared", "1 pairs of clips with one recording under two names"):
        assert leak in said


def test_other_rates_and_channels_are_read(tmp_path, home):
    rows = rows_of()
    for row in rows["dev"]:
        samples = soundfile.read(io.BytesIO(row["audio"]["bytes"]))[0]
        row["audio"]["bytes"] = wav(np.stack([samples, samples], axis=1), rate=44_100)
    assert run(str(parquet(tmp_path / "data", rows)))[0] == 0


def test_no_row_is_copied_into_a_cache(tmp_path, home, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    audit_dataset(str(parquet(tmp_path / "data", rows_of())), out=tmp_path / "out")
    audit_dataset(str(saved(tmp_path / "saved", rows_of())), out=tmp_path / "out")
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda rows: {"train": rows["train"]}, "has one split, train: an audit compares two or more"),
        (lambda rows: {**rows, "test": rows["test"][:0]}, "the split test is empty"),
        (lambda rows: {s: [{"label": "a"} for _ in t] for s, t in rows.items()}, "no column of audio; it has label"),
        (lambda rows: {**rows, "dev": [{**row, "group_id": None} for row in rows["dev"]]}, "6 of 18 rows have no group_id"),
    ],
)  # fmt: skip
def test_what_cannot_be_audited_is_a_sentence_and_exit_2(tmp_path, home, spoil, sentence):
    rows = spoil(rows_of())
    schema = pa.Table.from_pylist(next(iter(rows.values()))).schema
    (tmp_path / "set" / "data").mkdir(parents=True)
    for split, table in rows.items():
        pq.write_table(pa.Table.from_pylist(table, schema=schema), tmp_path / "set" / "data" / f"{split}.parquet")
    code, said = run(str(tmp_path / "set"))
    assert (code, sentence in said) == (2, True), said


def test_an_unknown_group_column_is_answered_with_those_there_are(tmp_path, home):
    code, said = run(str(parquet(tmp_path / "data", rows_of())), "--group", "speaker")
    assert code == 2
    assert "the audit needs the column speaker; there are clip_id, label, group_id" in said


@pytest.mark.parametrize("bad", [b"", b"no audio at all", wav(generated(1, 0.3, 5)[0])[:900]])
def test_bytes_that_cannot_be_read_are_named_and_the_rest_is_audited(tmp_path, home, bad):
    rows = rows_of()
    rows["dev"][1]["audio"]["bytes"] = bad
    code, said = run(str(parquet(tmp_path / "data", rows)), "--out", str(tmp_path))
    assert code == 2
    assert "1 clips could not be read: dev1: " in said
    assert "17 clips" in said
    assert "verdict: unknown" in said
    assert str(tmp_path) not in json.dumps(read_json(tmp_path / "audit.json")["unreadable"]), (
        "no scratch file is named"
    )


def test_a_path_that_leads_out_of_the_data_set_is_not_read(tmp_path, home):
    (tmp_path / "secret.wav").write_bytes(wav(generated(1, 0.3, 5)[0]))
    rows = {split: [{**row} for row in table] for split, table in rows_of().items()}
    rows["dev"][0]["audio"] = {"bytes": None, "path": "../secret.wav"}
    code, said = run(str(parquet(tmp_path / "data", rows)))
    assert code == 2
    assert "dev0: '../secret.wav' lies outside the data set" in said


def test_a_name_that_is_nowhere_is_a_sentence(home):
    code, said = run("nobody/nothing")
    assert code == 2
    assert "nobody/nothing is neither a folder nor in" in said


def test_a_folder_that_is_no_data_set_is_a_sentence(tmp_path, home):
    (tmp_path / "empty").mkdir()
    code, said = run(str(tmp_path / "empty"))
    assert code == 2
    assert "is not readable as a data set" in said


# --- ESC-50 ------------------------------------------------------------------------------------------------------


def test_folds_in_which_source_recordings_stand_twice_are_flagged_as_esc_50s_own_are(tmp_path, home):
    """Five folds, four sources of which clips stand in two of them, as in ESC-50: other stretches, no sample shared."""
    long, other = generated(4, 1.2, seed=8), generated(11, 0.6, seed=9)
    folds: dict[str, list[dict[str, Any]]] = {f"fold{k}": [] for k in range(1, 6)}
    for k, sound in enumerate(long):
        for half, fold in enumerate((k % 5 + 1, (k + 1) % 5 + 1)):
            folds[f"fold{fold}"].append(
                {"audio": {"bytes": wav(np.split(sound, 2)[half]), "path": f"{k}{half}.wav"}, "src_file": 100 + k}
            )
    for k, sound in enumerate(other):
        folds[f"fold{k % 5 + 1}"].append({"audio": {"bytes": wav(sound), "path": f"o{k}.wav"}, "src_file": k})
    data = str(parquet(tmp_path / "esc", folds))
    code, said = run(data, "--group", "src_file")
    assert code == 1
    assert "src_file: 4 shared, e.g. 100 (fold1, fold2)" in said
    assert "audio: 0 shared" in said
    assert run(data)[0] == 0, "without the source's number nothing shows: the stretches do not overlap"


@pytest.mark.corpus
def test_the_folds_of_esc_50_itself_are_flagged(tmp_path, home):
    if not (place := os.environ.get("EARSHOT_CORPUS")):
        pytest.skip("EARSHOT_CORPUS is not set: ESC-50 is not here")
    table = pd.read_csv(Path(place, "metadata.csv"))
    esc = table[table["dataset"].str.startswith("ESC") & table["fold"].notna() & table["fold"].isin([4, 5])]
    esc = esc[esc["source_id"].str.endswith("234879") | (esc.index % 12 == 0)]
    rows = {
        f"fold{fold:g}": [
            {"audio": {"bytes": Path(place, row.file).read_bytes(), "path": row.file}, "src_file": row.source_id}
            for row in part.itertuples()
        ]
        for fold, part in esc.groupby("fold")
    }
    code, said = run(str(parquet(tmp_path / "esc", rows)), "--group", "src_file")
    assert code == 1
    assert "src_file: 1 shared, e.g. freesound:234879 (fold4, fold5)" in said
