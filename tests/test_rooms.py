"""Measured rooms and contexts through the whole way from files to clips."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile

from recipes.schema import load_study
from recipes.sources import FolderSource
from tasks import sources
from tasks.audio_files import decode_flac, read_clip
from tasks.functional.audio import exponential_rir, n_samples, reverb
from tasks.functional.mixing import render_clip
from tasks.models.frames import POOLED
from tasks.recordings import gather_recordings
from tests.building import build

SMALL = [
    "dataset.clips.duration_ms=[60,200]", "dataset.clips.snr_db=[10,null]", "dataset.clips.per_cell=2",
    "publish.dataset=rooms",
]  # fmt: skip


def write_rooms(root: Path, kinds: dict[str, float], each: int = 3, lead: int = 0, level: float = 1.0) -> Path:
    """KIND/ROOM/position.wav of synthetic decays: `each` rooms of a kind, two positions in each."""
    for kind, rt60_s in kinds.items():
        for room in range(each):
            for position in range(2):
                rir = exponential_rir(rt60_s, seed=10 * room + position)
                file = root / kind / f"room {room}" / f"{position}.wav"
                file.parent.mkdir(parents=True, exist_ok=True)
                delayed = np.concatenate([np.zeros(lead), rir / np.abs(rir).max() * level])
                soundfile.write(file, delayed, 16_000, subtype="FLOAT")
    return root


def with_rooms(*rooms: dict[str, Any], levels: str = "[null,stairwell,hall]") -> list[str]:
    """Overrides of study/smoke: its sounds, and these sources of rooms."""
    own = [source.model_dump(mode="json") for source in load_study("study/smoke").dataset.sources]
    its = [{"role": "room", **room} for room in rooms]
    return [*SMALL, f"dataset.sources={json.dumps([*own, *its])}", f"dataset.clips.room={levels}"]


def clips_of(overrides: list[str]) -> pd.DataFrame:
    """Every clip of a data set built so, decoded."""
    built = build(load_study("study/smoke", overrides))
    tables = [pq.read_table(file).to_pandas() for file in sorted((built.splits.path / "data").glob("*.parquet"))]
    clips = pd.concat(tables, ignore_index=True)
    return clips.assign(samples=[decode_flac(audio["bytes"]) for audio in clips["audio"]])


# --- measured rooms ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_folder_of_impulse_responses_gives_rooms_by_their_kind(home: Path, tmp_path: Path) -> None:
    write_rooms(tmp_path / "rirs", {"stairwell": 0.4, "hall": 1.5})
    clips = clips_of(with_rooms({"kind": "folder", "root": str(tmp_path / "rirs"), "licence": "CC BY 4.0"}))
    assert set(clips["room"]) == {"anechoic", "stairwell", "hall"}
    assert clips.groupby(["part", "label", "duration_ms", "snr_db", "room"], dropna=False).size().eq(2).all()
    reverberant = clips[clips["room_id"].notna()]
    assert (reverberant["room"] == reverberant["room_id"].str.split("/").str[1]).all()
    assert (reverberant["room_licence"] == "CC BY 4.0").all()
    houses = reverberant["room_id"].str.rsplit("/", n=1).str[0]
    assert reverberant.groupby(houses)["part"].nunique().eq(1).all(), "two positions in one room lie on one side"


@pytest.mark.slow
def test_a_table_names_kind_and_room_of_each_file(home: Path, tmp_path: Path) -> None:
    """The example of the README."""
    root = write_rooms(tmp_path / "rirs", {"a": 0.3, "b": 2.0})
    files = sorted(file.relative_to(root).as_posix() for file in root.rglob("*.wav"))
    table = pd.DataFrame({"file": files, "building": [str(Path(file).parent) for file in files]})
    table.assign(kind=np.where(table["file"].str.startswith("a/"), "stairwell", "0.30")).to_csv(
        root / "metadata.csv", index=False
    )
    columns = {"group": "building", "category": "kind"}
    source = {"kind": "table", "root": str(root), "columns": columns}
    clips = clips_of(with_rooms(source, levels="[stairwell,0.3]"))
    assert set(clips["room"]) == {"stairwell", "rt60 0.3 s"}


def test_leading_delay_level_and_length_of_a_file_change_nothing(home: Path, tmp_path: Path) -> None:
    """A measured response begins when the recorder did; untrimmed, it would move a short clip out of its own crop."""
    sound = np.random.default_rng(0).standard_normal(16_000)
    every = []
    for name, changes in {"plain": {}, "late": {"lead": 2_400}, "quiet": {"level": 0.01}}.items():
        root = write_rooms(tmp_path / name / "rirs", {"stairwell": 0.4, "hall": 1.5}, **changes)  # type: ignore[arg-type]
        block = FolderSource(kind="folder", root=str(root), role="room", max_s=0.2)
        rooms = pq.read_table(gather_recordings.fn(block, "").path / "recordings.parquet").to_pylist()
        clips = [render_clip(sound, n=3_200, crop_seed=1, rir=decode_flac(room["flac"])) for room in rooms]
        every.append([clip.samples for clip in clips])
    assert len(every[0]) == 12
    for others in every[1:]:
        np.testing.assert_allclose(others, every[0], atol=3e-4)


def test_a_response_longer_than_five_seconds_is_taken_whole(home: Path, tmp_path: Path) -> None:
    rir = np.zeros(6 * 16_000)
    rir[[0, 90_000]] = 1.0, 0.5
    for room in range(3):
        (tmp_path / "cavern" / f"{room}").mkdir(parents=True)
        soundfile.write(tmp_path / "cavern" / f"{room}" / "a.wav", rir, 16_000)
    block = FolderSource(kind="folder", root=str(tmp_path), role="room", max_s=1.0)
    recordings = gather_recordings.fn(block, "")
    rows = pq.read_table(recordings.path / "recordings.parquet").to_pylist()
    assert [row["duration_s"] for row in rows] == [6.0] * 3
    sound = np.random.default_rng(0).standard_normal(100_000)
    heard = reverb(sound, decode_flac(rows[0]["flac"]))
    echo = heard[90_000:]
    expected = (sound[90_000:] + 0.5 * sound[:10_000]) / np.sqrt(1.25)
    np.testing.assert_allclose(echo, expected, atol=1e-3)


def test_a_silent_response_is_refused_by_name(home: Path, tmp_path: Path) -> None:
    write_rooms(tmp_path, {"hall": 0.3})
    soundfile.write(tmp_path / "hall" / "room 1" / "dead.wav", np.zeros(8_000), 16_000)
    with pytest.raises(ValueError, match=r"room 1/dead\.wav: is silent"):
        gather_recordings.fn(FolderSource(kind="folder", root=str(tmp_path), role="room"), "")


def test_the_tail_survives_16_bits(home: Path, tmp_path: Path) -> None:
    """Kept at the low level that it was recorded at, a response would end where 16 bits do."""
    rir = 0.05 * exponential_rir(2.5, seed=1)
    for room in range(3):
        (tmp_path / "hall" / f"{room}").mkdir(parents=True)
        soundfile.write(tmp_path / "hall" / f"{room}" / "a.wav", rir, 16_000, subtype="FLOAT")
    recordings = gather_recordings.fn(FolderSource(kind="folder", root=str(tmp_path), role="room"), "")
    kept = decode_flac(pq.read_table(recordings.path / "recordings.parquet").to_pylist()[0]["flac"])

    def decay_db(samples: np.ndarray) -> float:
        left = np.cumsum(samples[::-1] ** 2)[::-1]
        return float(10 * np.log10(left[n_samples(2_500)] / left[0]))

    as_it_was = np.rint(rir * 32_768) / 32_768
    assert decay_db(kept) == pytest.approx(decay_db(rir), abs=0.2)
    assert not as_it_was[n_samples(2_500) :].any()


def test_one_folder_for_a_kind_of_room_is_one_room_unless_said_otherwise(tmp_path: Path) -> None:
    for position in range(3):
        (tmp_path / "hall").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "hall" / f"{position}.wav", exponential_rir(0.3, seed=position), 16_000)
    with pytest.raises(ValueError, match=r"all files of hall .* would be one group.*`group_by: file`"):
        sources.recordings(FolderSource(kind="folder", root=str(tmp_path), role="room"))
    table = sources.recordings(FolderSource(kind="folder", root=str(tmp_path), role="room", group_by="file"))
    assert table["group_id"].nunique() == 3
    flat = sources.recordings(FolderSource(kind="folder", root=str(tmp_path / "hall"), role="room", group_by="file"))
    assert set(flat["category"]) == {"hall"}


def test_a_kind_of_room_that_is_not_there_is_refused_with_those_that_are(home: Path, tmp_path: Path) -> None:
    write_rooms(tmp_path / "rirs", {"stairwell": 0.3})
    with pytest.raises(ValueError, match=r"room hall \(rooms there: stairwell\)"):
        build(load_study("study/smoke", with_rooms({"kind": "folder", "root": str(tmp_path / "rirs")})))


@pytest.mark.parametrize(
    ("room", "said"),
    [("none", "write null for no room"), ("anechoic", "write null for no room"), ("'0.3'", "an RT60 is a number")],
)
def test_a_name_that_means_another_thing_is_refused(room: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"^dataset\.clips\.room\.0: room .*{said}[^\n]*$"):
        load_study("study/smoke", [f"dataset.clips.room=[{room}]"])


@pytest.mark.corpus
@pytest.mark.skipif(not os.environ.get("EARSHOT_CORPUS"), reason="needs the recordings under EARSHOT_CORPUS")
def test_real_impulse_responses_reverberate_without_delay() -> None:
    files = sorted(Path(os.environ["EARSHOT_CORPUS"], "extras", "rir").glob("*.wav"))
    assert files
    click = np.zeros(16_000)
    click[100] = 1.0
    for file in files:
        heard = reverb(click, read_clip(file))
        np.testing.assert_allclose(heard[:100], 0, atol=1e-9)
        assert np.abs(heard[100:110]).max() == np.abs(heard).max(), f"{file.name}: the direct sound comes first"
        assert np.abs(heard[2_000:]).max() > 1e-6


# --- contexts ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["silence", "noise"])
def test_20_ms_stand_in_the_middle_of_their_context_and_are_heard(home: Path, kind: str) -> None:
    context = [f"dataset.clips.context={{kind: {kind}, total_ms: 400}}"]
    clips = clips_of([*SMALL, *context, "dataset.clips.duration_ms=[20,100]"])
    assert set(clips["context"]) == {f"{kind} to 400 ms"}
    assert set(clips["duration_ms"]) == {20, 100}
    for clip in clips.itertuples():
        n = n_samples(clip.duration_ms)
        assert len(clip.samples) == 6_400
        assert POOLED.audio_tokens(len(clip.samples)) > 0
        middle = slice((6_400 - n) // 2, (6_400 + n) // 2)
        around = np.delete(clip.samples, np.r_[middle])
        assert clip.samples[middle].any()
        assert around.any() == (kind == "noise" and not np.isnan(clip.snr_db))
        if not np.isnan(clip.snr_db):
            assert clip.snr_measured_db == pytest.approx(clip.snr_db, abs=0.01)


@pytest.mark.slow
def test_without_a_context_the_waveform_is_the_clip(home: Path) -> None:
    clips = clips_of(SMALL)
    assert set(clips["context"]) == {"none"}
    assert [len(samples) for samples in clips["samples"]] == [n_samples(ms) for ms in clips["duration_ms"]]


def test_without_a_context_20_ms_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gives the model no audio token .* declare a context"):
        load_study("study/smoke", ["dataset.clips.duration_ms=[20]"])
