"""Every corpus in its own layout: who is a group, what is left out, what a wrong folder is told."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile

from recipes.schema import load_study
from recipes.sources import ESC50_HUMAN, KINDS, FileSource, Source
from tasks import recordings, sources
from tasks.audio_files import decode_flac
from tasks.recordings import gather_recordings, read_index, source_state
from tests.layouts import CORPORA, corpus, sound, text

SPEECH = {"ami", "audiomnist", "common_voice", "fsdd", "librispeech", "voxconverse"}


def listed(block: Any) -> pd.DataFrame:
    return sources.recordings(block)


def groups(table: pd.DataFrame) -> dict[str, list[str]]:
    return {str(group): rows["path"].tolist() for group, rows in table.groupby("group_id")}


# --- what holds for all of them ----------------------------------------------------------------------------------


def test_every_source_of_files_has_a_miniature() -> None:
    assert {kind for kind, block in KINDS.items() if issubclass(block, FileSource)} == {*CORPORA, "table"}


@pytest.mark.parametrize("kind", CORPORA)
def test_every_corpus_gives_every_column_and_its_audio(kind: str, tmp_path: Path) -> None:
    block = corpus(kind, tmp_path)
    table = listed(block)
    assert table.columns.tolist() == list(sources.COLUMNS)
    told = table[["recording_id", "role", "label", "group_id", "supergroup_id", "licence", "path"]]
    assert not told.isna().any(axis=None)
    assert (told != "").all(axis=None)
    if kind != "folder":
        assert set(table["label"]) == ({"SPEECH"} if kind in SPEECH else {"NONSPEECH"})
        families = {"speech"} if kind in SPEECH else {"environment", "music", "animals", "noise"}
        assert set(table["family"]) <= families
        assert table["group_id"].str.contains(":").all(), "a group's name says whose it is: 01 is a speaker twice"
    lengths = [len(sources.waveform(block, row)) / 16_000 for row in table.itertuples()]
    np.testing.assert_allclose(
        sources.durations_s(block, table), lengths, atol=0.06 if kind in {"common_voice"} else 2e-4
    )


@pytest.mark.parametrize("kind", CORPORA)
def test_a_folder_that_is_another_corpus_is_told_what_was_sought_and_found(kind: str, tmp_path: Path) -> None:
    block = corpus(kind, tmp_path / "right")
    (tmp_path / "wrong").mkdir()
    text(tmp_path / "wrong" / "unexpected.txt", "something else")
    with pytest.raises(FileNotFoundError, match=rf"source {kind} looks for .+; found there: .*unexpected\.txt"):
        listed(block.model_copy(update={"root": str(tmp_path / "wrong")}))
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist; check `root`"):
        listed(block.model_copy(update={"root": str(tmp_path / "nowhere")}))


@pytest.mark.parametrize("kind", CORPORA)
def test_where_keeps_by_any_column_and_says_what_a_column_holds(kind: str, tmp_path: Path) -> None:
    block = corpus(kind, tmp_path)
    table = listed(block)
    category = table["category"].iloc[-1]
    kept = listed(block.model_copy(update={"where": {"category": (category,)}}))
    assert set(kept["category"]) == {category}
    assert len(kept) == (table["category"] == category).sum()
    with pytest.raises(ValueError, match=r"no row is left after where category = \['no such'\]; it holds \w"):
        listed(block.model_copy(update={"where": {"category": ("no such",)}}))
    with pytest.raises(ValueError, match=r"has no column 'colour'; it has .*path"):
        listed(block.model_copy(update={"where": {"colour": ("red",)}}))


@pytest.mark.parametrize("kind", CORPORA)
def test_a_change_of_the_files_gathers_anew_and_nothing_else_does(kind: str, tmp_path: Path) -> None:
    block = corpus(kind, tmp_path)
    before = source_state(block)
    assert before == source_state(block)
    text(tmp_path / "unrelated.log", "a note")
    assert source_state(block) == before
    file = tmp_path / listed(block)["path"].iloc[0]
    stat = file.stat()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000))
    assert source_state(block) != before


def test_generated_sources_take_where_too() -> None:
    rain = KINDS["synthetic"].model_validate({"kind": "synthetic", "where": {"category": "rain"}})
    assert set(listed(rain)["category"]) == {"rain"}


def test_a_bad_file_stops_the_gathering_or_is_left_out(home: Path, tmp_path: Path) -> None:
    block: Source = corpus("fsdd", tmp_path)  # type: ignore[assignment]
    file = tmp_path / "recordings/7_jackson_0.wav"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"7_jackson_0\.wav: is truncated"):
        gather_recordings.fn(block, "")
    kept = gather_recordings.fn(block.model_copy(update={"on_bad_file": "skip"}), "")
    assert (kept.recordings, kept.groups) == (2, 2)
    assert "fsdd:recordings/7_jackson_0.wav" not in read_index(kept)["recording_id"].tolist()


def test_hours_of_audio_are_written_as_they_come(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block: Source = corpus("fsdd", tmp_path)  # type: ignore[assignment]
    whole = pq.ParquetFile(gather_recordings.fn(block, "").path / "recordings.parquet")
    assert whole.num_row_groups == 1
    monkeypatch.setattr(recordings, "BYTES_A_GROUP", 5_000)
    apart = pq.ParquetFile(gather_recordings.fn(block, "").path / "recordings.parquet")
    assert apart.num_row_groups == 3
    assert apart.read().equals(whole.read())


def test_a_file_at_full_scale_is_kept_whole_though_resampling_overshoots(home: Path, tmp_path: Path) -> None:
    square = np.where(np.arange(22_050) // 40 % 2, 0.999, -0.999)
    (tmp_path / "ann").mkdir()
    soundfile.write(tmp_path / "ann/loud.wav", square, 44_100)
    block = KINDS["folder"].model_validate({"kind": "folder", "root": str(tmp_path), "label": "A", "group_by": "file"})
    raw = sources.waveform(block, next(listed(block).itertuples()))  # type: ignore[arg-type]
    assert np.abs(raw).max() > 1
    kept = pq.read_table(gather_recordings.fn(block, "").path / "recordings.parquet").to_pylist()  # type: ignore[arg-type]
    samples = decode_flac(kept[0]["flac"])
    np.testing.assert_allclose(samples, raw / np.abs(raw).max(), atol=2e-4)


def test_noise_has_no_class(tmp_path: Path) -> None:
    table = listed(corpus("esc50", tmp_path, role="noise"))
    assert set(table["role"]) == {"noise"}
    assert table["label"].isna().all()


def test_a_class_that_the_study_does_not_have_is_refused_for_content_only(tmp_path: Path) -> None:
    given = {"kind": "folder", "root": str(tmp_path), "labels": {"dogs": "DOGS"}}
    with pytest.raises(ValueError, match="label 'DOGS' is none of the classes"):
        load_study("study/smoke", [f"dataset.sources.0={json.dumps(given)}"])
    noise = {"kind": "musan", "root": str(tmp_path), "role": "noise"}
    load_study("study/smoke", [f"dataset.sources.2={json.dumps(noise)}", "classes=[VOICE, OTHER]",
                               "dataset.sources.0.label=VOICE", "dataset.sources.1.label=OTHER"])  # fmt: skip


@pytest.mark.parametrize(
    ("file", "given", "group", "supergroup"),
    [
        ("ann/1.wav", {"label": "A"}, "ann", "ann"),
        ("monday/ann/1.wav", {"label": "A"}, "monday/ann", "monday"),
        ("dogs/monday/rex/1.wav", {"labels": {"dogs": "A"}}, "dogs/monday/rex", "dogs/monday"),
        ("hall/one/1.wav", {"role": "room"}, "hall/one", "hall/one"),
        ("monday/ann/1.wav", {"label": "A", "group_by": "file"}, "monday/ann/1.wav", "monday/ann/1.wav"),
    ],
)  # fmt: skip
def test_a_group_is_the_folder_of_a_file_and_its_supergroup_the_first_one_down(
    tmp_path: Path, file: str, given: dict[str, Any], group: str, supergroup: str
) -> None:
    sound(tmp_path / "root" / file)
    sound(tmp_path / "root" / file.replace("monday", "tuesday").replace("ann", "bob").replace("one", "two"))
    table = listed(KINDS["folder"].model_validate({"kind": "folder", "root": str(tmp_path / "root"), **given}))
    found = table[table["path"].astype(str).str.endswith(file)][["group_id", "supergroup_id"]]
    assert found.to_numpy().tolist() == [[f"root/{group}", f"root/{supergroup}"]]


# --- what is cut and thinned -------------------------------------------------------------------------------------


def test_long_files_become_equal_stretches_and_the_middle_ones_stay(tmp_path: Path) -> None:
    sound(tmp_path / "ann/long.wav", 10.0)
    given = {"kind": "folder", "root": str(tmp_path), "label": "SPEECH", "group_by": "file"}
    cut = listed(KINDS["folder"].model_validate({**given, "max_s": 3.0}))
    assert cut[["start_s", "end_s"]].to_numpy().tolist() == [[0, 2.5], [2.5, 5], [5, 7.5], [7.5, 10]]
    assert cut["group_id"].nunique() == 1
    assert cut["recording_id"].is_unique
    thin = listed(KINDS["folder"].model_validate({**given, "max_s": 1.0, "per_group": 3}))
    assert thin["start_s"].tolist() == [1, 5, 8]
    whole = listed(KINDS["folder"].model_validate({**given, "max_s": None}))
    assert whole["start_s"].isna().all()


def test_stretches_of_a_file_are_its_samples(tmp_path: Path) -> None:
    file = sound(tmp_path / "ann/long.wav", 1.0, 16_000)
    block = KINDS["folder"].model_validate(
        {"kind": "folder", "root": str(tmp_path), "label": "SPEECH", "group_by": "file", "max_s": 0.3}
    )
    parts = [sources.waveform(block, row) for row in listed(block).itertuples()]  # type: ignore[arg-type]
    assert len(parts) == 4
    np.testing.assert_allclose(np.concatenate(parts), soundfile.read(file)[0], atol=1e-6)


def test_a_header_that_claims_years_is_left_to_the_reader(tmp_path: Path) -> None:
    file = sound(tmp_path / "ann/forged.flac")
    flac = bytearray(file.read_bytes())
    flac[21:26] = bytes([flac[21] | 0x0F, 0xFF, 0xFF, 0xFF, 0xFF])  # 2 ** 36 - 1 samples in STREAMINFO
    file.write_bytes(bytes(flac))
    block = KINDS["folder"].model_validate({"kind": "folder", "root": str(tmp_path), "label": "A", "group_by": "file"})
    table = listed(block)
    assert len(table) == 1
    assert sources.durations_s(block, table).isna().all()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"forged\.flac: claims .* s; at most"):
        sources.waveform(block, next(table.itertuples()))  # type: ignore[arg-type]


# --- one by one --------------------------------------------------------------------------------------------------


def test_a_reader_is_a_group_and_readers_of_one_name_a_supergroup(tmp_path: Path) -> None:
    table = listed(corpus("librispeech", tmp_path))
    assert {group: len(paths) for group, paths in groups(table).items()} == {
        "librispeech:14": 4, "librispeech:16": 2, "librispeech:17": 2,
    }  # fmt: skip
    named = table.groupby("group_id")["supergroup_id"].first()
    assert named.tolist() == ["librivox:Ann | B.", "librivox:Dawn", "librivox:Dawn"]
    women = listed(corpus("librispeech", tmp_path, where={"sex": "F", "chapter": [208, 122797]}))
    assert set(women["group_id"]) == {"librispeech:14", "librispeech:16"}
    assert len(women) == 4


def test_a_speaker_of_voxconverse_is_known_within_a_file_only(tmp_path: Path) -> None:
    table = listed(corpus("voxconverse", tmp_path))
    assert set(table["group_id"]) == {"voxconverse:abjxc:spk00", "voxconverse:abjxc:spk01", "voxconverse:bspxd:spk00"}
    assert set(table["supergroup_id"]) == {"voxconverse:abjxc", "voxconverse:bspxd"}
    alone = table[table["path"] == "audio/abjxc.wav"]
    assert alone[["start_s", "end_s"]].to_numpy().tolist() == [[0, 1.5], [2, 3]], (
        "1.5-2 is shared, 3.2-3.5 is too short"
    )
    assert table[table["path"] == "audio/bspxd.wav"][["start_s", "end_s"]].to_numpy().tolist() == [[0.5, 2], [2, 3.5]]


def test_a_conversation_without_its_audio_or_with_another_is_refused(tmp_path: Path) -> None:
    block = corpus("voxconverse", tmp_path)
    short = sound(tmp_path / "audio/bspxd.wav", 2.0)
    with pytest.raises(ValueError, match=r"bspxd\.wav is 2 s long and its RTTM goes on to 3\.5 s"):
        listed(block)
    short.unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 recordings .* first bspxd; files there: abjxc"):
        listed(block)


def test_a_speaker_of_ami_is_one_group_over_all_meetings(tmp_path: Path) -> None:
    block = corpus("ami", tmp_path)
    table = listed(block)
    assert len(groups(table)["ami:FEE005"]) == 3
    assert set(table["supergroup_id"]) == {"ami:ES2002", "ami:IS1000"}
    assert table["path"].str.endswith("Mix-Headset.wav").all()
    lone = listed(block.model_copy(update={"microphone": "Headset-0"}))
    assert lone["path"].str.endswith("Headset-0.wav").all()
    shutil.copytree(tmp_path / "only_words", tmp_path / "word_and_vocalsounds")
    with pytest.raises(ValueError, match=r"both tell of ES2002a; point root at one set"):
        listed(block)


def test_a_client_of_common_voice_is_a_group_whatever_its_sentences_quote(tmp_path: Path) -> None:
    table = listed(corpus("common_voice", tmp_path))
    assert {group: len(paths) for group, paths in groups(table).items()} == {
        "common_voice:ann": 2,
        "common_voice:bob": 1,
    }
    assert set(table["licence"]) == {"CC0 1.0"}
    text(tmp_path / "validated.tsv", "client_id\tpath\n\tcv_1.mp3\n")
    with pytest.raises(ValueError, match="1 rows have no client_id"):
        listed(KINDS["common_voice"].model_validate({"kind": "common_voice", "root": str(tmp_path)}))


def test_tables_of_a_corpus_cannot_lead_out_of_it(tmp_path: Path) -> None:
    block = corpus("common_voice", tmp_path)
    text(tmp_path / "validated.tsv", "client_id\tpath\nann\t../../secret.mp3\n")
    with pytest.raises(ValueError, match="leaves the folder"):
        listed(block)


@pytest.mark.parametrize(("kind", "group"), [("audiomnist", "audiomnist:02"), ("fsdd", "fsdd:lucas")])
def test_a_speaker_of_digits_is_a_group_and_the_digit_the_category(kind: str, group: str, tmp_path: Path) -> None:
    table = listed(corpus(kind, tmp_path))
    assert group in set(table["group_id"])
    assert set(table["category"]) == {"3", "7"}
    assert listed(corpus(kind, tmp_path, where={"digit": 7}))["category"].unique().tolist() == ["7"]


def test_esc50_is_grouped_by_source_recording_and_not_by_fold(tmp_path: Path) -> None:
    table = listed(corpus("esc50", tmp_path))
    assert groups(table)["freesound:100"] == ["audio/1-100-A-0.wav", "audio/1-100-B-0.wav", "audio/4-100-A-6.wav"]
    by_path = table.set_index("path")
    assert by_path.loc["audio/1-100-B-0.wav", "supergroup_id"] == "freesound-user:ann", (
        "LICENSE misspells one of its files"
    )
    assert by_path.loc["audio/2-200-A-10.wav", "supergroup_id"] == "freesound-user:Bob by night"
    assert by_path.loc["audio/3-400-A-41.wav", "supergroup_id"] == "freesound:400", "who uploaded it is not told"
    assert by_path.loc["audio/2-200-A-10.wav", "licence"] == "CC-BY (clip); CC BY 3.0 (ESC-10)"
    assert by_path.loc["audio/4-100-A-6.wav", "licence"] == "CC0 (clip); CC BY-NC 3.0 (ESC-50)"
    assert set(by_path.loc[["audio/1-100-A-0.wav", "audio/4-100-A-6.wav"], "family"]) == {"animals"}


def test_esc50_leaves_the_human_group_out_and_names_its_categories(tmp_path: Path) -> None:
    block = corpus("esc50", tmp_path)
    assert "laughing" not in set(listed(block)["category"])
    assert all(name in block.left_out for name in ESC50_HUMAN)
    kept = corpus("esc50", tmp_path, keep_human=True)
    assert "laughing" in set(listed(kept)["category"])
    assert kept.left_out == ""


def test_esc50_and_fsd50k_call_a_freesound_recording_by_one_name(tmp_path: Path) -> None:
    esc, fsd = listed(corpus("esc50", tmp_path / "a")), listed(corpus("fsd50k", tmp_path / "b"))
    assert set(esc["group_id"]) & set(fsd["group_id"]) == {"freesound:100"}
    assert set(esc["supergroup_id"]) & set(fsd["supergroup_id"]) == {"freesound-user:ann"}


def test_fsd50k_gives_voices_to_one_class_only_and_laughter_to_none(tmp_path: Path) -> None:
    nonspeech = listed(corpus("fsd50k", tmp_path)).set_index("group_id")
    speech = listed(corpus("fsd50k", tmp_path, take="speech"))
    assert nonspeech["family"].to_dict() == {
        "freesound:63": "music", "freesound:99": "animals", "freesound:100": "environment", "freesound:7": "animals",
    }  # fmt: skip
    assert speech["group_id"].tolist() == ["freesound:101"]
    assert speech["label"].tolist() == ["SPEECH"]
    assert nonspeech["licence"].tolist() == ["CC0 1.0", "CC BY 3.0", "CC BY-NC 3.0", "unstated"]
    assert listed(corpus("fsd50k", tmp_path, where={"split": "test"}))["group_id"].tolist() == ["freesound:7"]


def test_musan_leaves_sung_music_out_and_cuts_what_is_left(tmp_path: Path) -> None:
    block = corpus("musan", tmp_path)
    table = listed(block)
    assert {group: len(paths) for group, paths in groups(table).items()} == {
        "musan:music-fma-0000": 3, "musan:noise-free-sound-0000": 2,
    }  # fmt: skip
    assert set(table["family"]) == {"music", "noise"}
    assert table["supergroup_id"].iloc[0] == "musan-artist:Some_Artist"
    sung = listed(corpus("musan", tmp_path, keep_vocals=True))
    assert {"musan:music-fma-0001", "musan:music-fma-0002"} <= set(sung["group_id"])
    speech = listed(corpus("musan", tmp_path, take="speech"))
    assert (set(speech["label"]), set(speech["family"])) == ({"SPEECH"}, {"speech"})
    text(tmp_path / "music/fma/ANNOTATIONS", "music-fma-0000 pop Some_Artist\n")
    with pytest.raises(ValueError, match=r"line 1: .* is not `file genres vocals artist`"):
        listed(block)


def test_gtzan_takes_its_genres_and_no_pictures(tmp_path: Path) -> None:
    table = listed(corpus("gtzan", tmp_path))
    assert table["group_id"].tolist() == ["gtzan:blues.00000", "gtzan:blues.00001", "gtzan:jazz.00054"]
    assert set(table["category"]) == {"blues", "jazz"}


def test_fma_is_grouped_by_artist_and_drops_the_spoken_and_the_unknown(tmp_path: Path) -> None:
    table = listed(corpus("fma", tmp_path)).set_index("group_id")
    assert table.index.tolist() == ["fma:2", "fma:5"], "7 is spoken, 9 stands in no table"
    assert table["supergroup_id"].tolist() == ["fma-artist:1"] * 2
    assert table["licence"].tolist() == ["Attribution-NonCommercial 3.0", "unstated"]
    assert "fma:7" in set(listed(corpus("fma", tmp_path, keep_spoken=True))["group_id"])


def test_any_folder_is_grouped_by_folder_or_file(tmp_path: Path) -> None:
    table = listed(corpus("folder", tmp_path))
    name = tmp_path.name
    assert table["group_id"].nunique() == 6
    assert set(table[table["label"] == "SPEECH"]["supergroup_id"]) == {f"{name}/voices/ann", f"{name}/voices/bob"}
    single = listed(corpus("folder", tmp_path, group_by="file"))
    assert single["group_id"].equals(single["recording_id"])
    with pytest.raises(
        FileNotFoundError, match=r"looks for the folder cats of `labels` in .*; found there: dogs/, notes/"
    ):
        listed(corpus("folder", tmp_path).model_copy(update={"labels": {"cats": "NONSPEECH"}}))
    with pytest.raises(ValueError, match="give either `label: CLASS` for all files or `labels"):
        corpus("folder", tmp_path, label="SPEECH")


def test_a_class_that_lies_in_one_folder_is_asked_how_to_be_grouped(tmp_path: Path) -> None:
    sound(tmp_path / "1.wav")
    sound(tmp_path / "2.wav")
    given = {"kind": "folder", "root": str(tmp_path), "label": "SPEECH"}
    with pytest.raises(ValueError, match=r"one group.*say `group_by: file`"):
        listed(KINDS["folder"].model_validate(given))
    assert len(listed(KINDS["folder"].model_validate({**given, "group_by": "file"}))) == 2


# --- excerpts of the real corpora --------------------------------------------------------------------------------

EXCERPTS: dict[str, tuple[str, dict[str, Any], int, int]] = {  # kind -> folder, keys, recordings, groups
    "ami": ("ami_pyannote", {}, 10, 5),
    "audiomnist": ("AudioMNIST", {}, 40, 2),
    "esc50": ("ESC-50-master", {}, 9, 6),
    "fsdd": ("free-spoken-digit-dataset", {}, 40, 2),
    "librispeech": ("LibriSpeech", {}, 6, 2),
    "voxconverse": ("voxconverse", {"parts": ["dev"]}, 17, 6),
}


@pytest.mark.corpus
@pytest.mark.parametrize("kind", EXCERPTS)
def test_an_excerpt_of_the_real_corpus_is_read(kind: str, home: Path) -> None:
    if not os.environ.get("EARSHOT_LAYOUTS"):
        pytest.skip("EARSHOT_LAYOUTS is not set: it names the folder of excerpts in their original layouts")
    name, keys, recordings, n_groups = EXCERPTS[kind]
    block = KINDS[kind].model_validate({"kind": kind, "root": f"${{EARSHOT_LAYOUTS}}/{name}", **keys})
    gathered = gather_recordings.fn(block, "")  # type: ignore[arg-type]
    assert (gathered.recordings, gathered.groups) == (recordings, n_groups)
    index = read_index(gathered)
    np.testing.assert_allclose(index["duration_s"], sources.durations_s(block, listed(block)), atol=2e-4)  # type: ignore[arg-type]
