"""Any folder with a table of files: what it reads, and the sentence for each thing that is missing."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from recipes.schema import load_study
from recipes.sources import DatasetsSource, TableSource
from tasks import sources
from tasks.planning import dealt
from tests.commands import ROOT
from tests.layouts import sound

METADATA = pd.DataFrame(
    {
        "file": ["a/1.wav", "a/2.wav", "b/3.wav"],
        "label": ["speech", "speech", "dog"],
        "group_id": ["007", "NA", "rex"],
        "supergroup_id": ["family", None, None],
        "role": ["content", "content", "extra"],
    }
)


def source(root: Path | str, **changes: Any) -> TableSource:
    return TableSource(kind="table", root=str(root), **changes)


def folder(tmp_path: Path, metadata: pd.DataFrame = METADATA) -> Path:
    metadata.to_csv(tmp_path / "metadata.csv", index=False)
    return tmp_path


def test_a_plain_table_is_read_without_any_mapping(tmp_path: Path) -> None:
    table = sources.recordings(source(folder(tmp_path)))
    assert table.columns.tolist() == list(sources.COLUMNS)
    assert table["recording_id"].tolist() == table["path"].tolist() == ["a/1.wav", "a/2.wav", "b/3.wav"]
    assert table["group_id"].tolist() == ["007", "NA", "rex"]  # as they are spelt
    assert table["supergroup_id"].tolist() == ["family", "NA", "rex"]
    assert table["licence"].tolist() == ["unstated"] * 3
    assert table[["start_s", "end_s"]].isna().all(axis=None)


def test_parquet_gives_the_same_recordings_as_csv(tmp_path: Path) -> None:
    numbered = METADATA.assign(group_id=[1, 2, 3])
    from_csv = sources.recordings(source(folder(tmp_path, numbered)))
    numbered.to_parquet(tmp_path / "metadata.parquet")
    pd.testing.assert_frame_equal(sources.recordings(source(tmp_path, metadata="metadata.parquet")), from_csv)


def test_their_names_become_ours(tmp_path: Path) -> None:
    theirs = METADATA.rename(columns={"file": "clip", "group_id": "who", "label": "kind"}).drop(
        columns="supergroup_id"
    )
    block = source(
        folder(tmp_path, theirs), columns={"file": "clip", "group": "who", "label": "kind", "category": "kind"},
        labels={"speech": "SPEECH", "dog": "NONSPEECH"},
    )  # fmt: skip
    table = sources.recordings(block)
    assert table["label"].tolist() == ["SPEECH", "SPEECH", "NONSPEECH"]
    assert table["category"].tolist() == ["speech", "speech", "dog"]
    assert table["supergroup_id"].equals(table["group_id"])


def test_where_keeps_the_rows_that_are_asked_for(tmp_path: Path) -> None:
    folder(tmp_path)
    assert len(sources.recordings(source(tmp_path, where={"role": "content"}))) == 2
    assert len(sources.recordings(source(tmp_path, where={"role": ["content", "extra"], "label": "dog"}))) == 1
    with pytest.raises(ValueError, match=r"no row is left after where role = \['noise'\]; it holds content, extra"):
        sources.recordings(source(tmp_path, where={"role": "noise"}))
    with pytest.raises(ValueError, match=r"where\.split: metadata\.csv has no column 'split'; it has file, label"):
        sources.recordings(source(tmp_path, where={"split": "train"}))


def test_noise_and_rooms_need_no_label(tmp_path: Path) -> None:
    unlabelled = METADATA.drop(columns="label").assign(rt60=["0.30", "1.0", "hall"])
    folder(tmp_path, unlabelled)
    assert sources.recordings(source(tmp_path, role="noise"))["label"].isna().all()
    rooms = sources.recordings(source(tmp_path, role="room", columns={"category": "rt60"}))
    assert rooms["category"].tolist() == ["0.3", "1", "hall"]
    with pytest.raises(ValueError, match=r"columns\.label: metadata\.csv has no column 'label'"):
        sources.recordings(source(tmp_path))


def test_parts_of_one_file_are_recordings_of_their_own(tmp_path: Path) -> None:
    parts = METADATA.assign(file="long.wav", start_s=[0, 0.5, None], end_s=[0.5, None, None])
    table = sources.recordings(source(folder(tmp_path, parts)))
    assert table["recording_id"].tolist() == ["long.wav#0-0.5", "long.wav#0.5-nan", "long.wav"]
    ramp = np.linspace(0, 0.9, 16_000)
    soundfile.write(tmp_path / "long.wav", ramp, 16_000, subtype="FLOAT")
    first, second, whole = (sources.waveform(source(tmp_path), row) for row in table.itertuples())
    np.testing.assert_array_equal(np.concatenate([first, second]), whole)
    np.testing.assert_allclose(whole, ramp, atol=1e-6)


def test_one_class_for_all_rows_needs_no_label_column(tmp_path: Path) -> None:
    folder(tmp_path, METADATA.drop(columns="label"))
    assert set(sources.recordings(source(tmp_path, label="SPEECH"))["label"]) == {"SPEECH"}


def test_long_files_of_a_table_are_cut_and_groups_thinned_as_any_corpus_is(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.full(48_000, 0.1), 16_000)
    soundfile.write(tmp_path / "short.wav", np.full(8_000, 0.1), 16_000)
    rows = pd.DataFrame({"file": ["long.wav", "short.wav"], "label": "A", "group_id": ["ann", "bob"]})
    cut = sources.recordings(source(folder(tmp_path, rows), max_s=1))
    assert cut["recording_id"].tolist() == ["long.wav#0-1", "long.wav#1-2", "long.wav#2-3", "short.wav"]
    thin = sources.recordings(source(tmp_path, max_s=1, per_group=1))
    assert thin["recording_id"].tolist() == ["long.wav#1-2", "short.wav"]
    assert sources.durations_s(source(tmp_path, max_s=1), cut).tolist() == [1, 1, 1, 0.5]


def test_a_row_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a/1\.wav is listed more than once"):
        sources.recordings(source(folder(tmp_path, METADATA.assign(file="a/1.wav"))))


@pytest.mark.parametrize(
    "file", ["/etc/passwd", "../secret.wav", "a/../../b.wav", "C:\\x.wav", "a\\..\\..\\b.wav", "\\x"]
)
def test_files_that_leave_the_folder_are_refused(tmp_path: Path, file: str) -> None:
    with pytest.raises(ValueError, match="leaves the folder"):
        sources.recordings(source(folder(tmp_path, METADATA.assign(file=[file, "b.wav", "c.wav"]))))


@pytest.mark.parametrize(("column", "name"), [("group_id", "group"), ("file", "file"), ("label", "label")])
def test_nulls_are_refused(tmp_path: Path, column: str, name: str) -> None:
    holed = METADATA.assign(**{column: METADATA[column].mask(METADATA.index == 1)})
    with pytest.raises(ValueError, match=f"1 rows have no {name} "):
        sources.recordings(source(folder(tmp_path, holed)))


def test_an_unset_variable_is_named_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EARSHOT_NOWHERE", raising=False)
    block = source("${EARSHOT_NOWHERE}/here")
    with pytest.raises(ValueError, match=r"EARSHOT_NOWHERE, which is not set: export EARSHOT_NOWHERE="):
        sources.recordings(block)
    (tmp_path / "here").mkdir()
    folder(tmp_path / "here")
    monkeypatch.setenv("EARSHOT_NOWHERE", str(tmp_path))
    assert len(sources.recordings(block)) == 3


def test_a_relative_root_is_told_whole_and_what_it_counts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = "the folder {} does not exist; check `{}`: {} counts from the working directory"
    with pytest.raises(FileNotFoundError, match=said.format(tmp_path / "here/clips", "root", "here/clips") + "$"):
        sources.recordings(source("./here/clips"))
    with pytest.raises(FileNotFoundError, match=said.format(tmp_path / "here", "repo", "here") + "$"):
        sources.recordings(DatasetsSource(kind="datasets", repo="./here", label="SPEECH"))
    with pytest.raises(FileNotFoundError, match=f"the folder {tmp_path}/gone does not exist; check `root`$"):
        sources.recordings(source(str(tmp_path / "gone")))


def test_what_is_missing_is_named_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist; check `root`"):
        sources.recordings(source(tmp_path / "nowhere"))
    METADATA.to_csv(tmp_path / "meta.csv")
    with pytest.raises(FileNotFoundError, match=r"no table .*metadata\.csv; the folder has meta\.csv"):
        sources.recordings(source(tmp_path))
    with pytest.raises(ValueError, match=r"columns\.group: metadata\.csv has no column 'speaker'; it has file, label"):
        sources.recordings(source(folder(tmp_path), columns={"group": "speaker"}))
    with pytest.raises(ValueError, match=r"columns\.speaker is no column of ours; accepted are file, label, group"):
        sources.recordings(source(tmp_path, columns={"speaker": "group_id"}))
    with pytest.raises(ValueError, match="start_s is 'soon', seconds are a number"):
        sources.recordings(source(folder(tmp_path, METADATA.assign(start_s="soon"))))
    with pytest.raises(ValueError, match="has no rows"):
        sources.recordings(source(folder(tmp_path, METADATA.head(0))))


def told_columns() -> list[str]:
    """The columns that the page about sources names for the folder of study/corpus."""
    page = (ROOT / "tasks" / "sources" / "README.md").read_text(encoding="utf-8")
    told = page.split("## The folder of study/corpus")[1].split("\n## ")[0]
    return [name for row in re.findall(r"^\| (`.+?) \|", told, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]


def test_study_corpus_reads_any_folder_that_has_the_columns_which_its_page_names(tmp_path, monkeypatch) -> None:
    kinds = {"speech": "SPEECH", "nonspeech": "NONSPEECH", "noise": None}
    rows = pd.DataFrame(
        {"file": f"{role}/{n}.wav", "role": role, "label": label, "group_id": f"{role}{n}", "dataset": "mine"}
        for role, label in kinds.items()
        for n in range(5)
    ).reindex(columns=told_columns())
    for file in rows["file"]:
        sound(tmp_path / file)
    monkeypatch.setenv("EARSHOT_CORPUS", str(folder(tmp_path, rows)))
    table = dealt(load_study("study/corpus").dataset, [])
    assert len(table) == len(rows)
    assert (table.groupby("part").size() == 3).all(), "a fold has a group of each class and of noise"


@pytest.mark.corpus
def test_the_real_corpus_is_read_by_group_and_uploader() -> None:
    if not os.environ.get("EARSHOT_CORPUS"):
        pytest.skip("EARSHOT_CORPUS is not set: it names the folder of real recordings")
    tables = {}
    for role, where in (("content", ("speech", "nonspeech")), ("noise", ("noise",))):
        block = source("${EARSHOT_CORPUS}", role=role, where={"role": where}, columns={"family": "dataset"})
        tables[role] = sources.recordings(block)
        for row in tables[role].iloc[::60].itertuples():
            samples = sources.waveform(block, row)
            assert samples.dtype == np.float32
            assert 0 < np.abs(samples).max() <= 1
    assert set(tables["content"]["label"]) == {"SPEECH", "NONSPEECH"}
    assert (tables["content"].groupby("group_id")["supergroup_id"].nunique() == 1).all()
    assert tables["noise"]["group_id"].nunique() == 18
