"""What is inspected is counted, measured from the audio itself, and heard from one file that needs no other."""

import base64
import math
import re
from itertools import product

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from flows import cli
from tasks import hub, inspection
from tasks.audio_files import decode_flac, encode_flac
from tasks.functional.inspection import group_sizes, measure, sample_balanced
from tasks.inspection import inspect_dataset


def clip(duration_ms: float, level: float, seed: int) -> bytes:
    noise = np.random.default_rng(seed).standard_normal(round(duration_ms * 16))
    return encode_flac(np.clip(level * noise, -1, 1))


def write(folder, rows: int, *, duration_ms: float = 60.0):
    """Two parts; SPEECH is twice as loud as NONSPEECH."""
    (folder / "data").mkdir(parents=True)
    for part in ("train", "test"):
        table = [
            {
                "audio": {"bytes": clip(duration_ms, 0.1 if i % 2 else 0.05, i), "path": f"{part}{i}.flac"},
                "clip_id": f"{part}{i}", "label": "SPEECH" if i % 2 else "NONSPEECH", "group_id": f"{part}{i // 4}",
                "duration_ms": duration_ms, "snr_db": None if i % 4 < 2 else 10.0, "band": ("clean", "phone")[i // 8 % 2],
                "room": ("anechoic", "stairwell", "rt60 0.3 s")[i // 8 % 3], "context": "silence to 60 ms", "varied": None,
            }
            for i in range(rows)
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(table), folder / "data" / f"{part}.parquet", row_group_size=5)
    return folder


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "a data sét", 24)


def test_the_page_is_one_file_and_its_clips_are_those_of_the_data_set(data, tmp_path, home):
    result = CliRunner().invoke(cli.app, ["inspect", str(data), "--n", "10", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "out" / "listening.html") in result.output
    page = (tmp_path / "out" / "listening.html").read_text(encoding="utf-8")
    assert set(re.findall(r"(?:src|href)=\"(.{0,5})", page)) == {"data:"}
    assert "://" not in page
    assert "@import" not in page
    heard = re.findall(r"data:audio/flac;base64,([^\"]+)\".*?<td>((?:train|test)\d+)</td>", page)
    assert len(heard) == 20, "ten of each class"
    assert sum(int(name.removeprefix("train").removeprefix("test")) % 2 for _, name in heard) == 10
    stored = {
        row["clip_id"]: row["audio"]["bytes"]
        for file in (data / "data").glob("*.parquet")
        for row in pq.read_table(file).to_pylist()
    }
    assert all(base64.b64decode(audio) == stored[name] for audio, name in heard)
    assert not home.exists()


def test_counts_and_levels_are_those_of_the_audio(data, tmp_path):
    lines = inspect_dataset(str(data), n=4, out=tmp_path / "out", seed=0)
    assert lines[0].endswith(": 48 clips")
    counted = [line.split() for line in lines if line.strip().startswith(("test", "train"))]
    assert ["test", "snr_db", "10.0", "6", "6"] in counted
    assert ["train", "band", "phone", "4", "4"] in counted
    assert ["train", "room", "stairwell", "4", "4"] in counted
    assert "all of them: duration_ms 60.0, context silence to 60 ms" in lines
    assert "each of the 12 cells of part, snr_db, band, room holds 2 clips of a class" in lines
    levels = [line.split() for line in lines if re.match(r"(none|10\.0)? +N?O?N?SPEECH", line)]
    assert [float(row[-3]) for row in levels] == pytest.approx([20 * math.log10(0.05), -20] * 2, abs=0.5)
    assert lines[-3].split() == ["2", "12", "12"]  # groups of two clips, by class


def test_the_page_stays_within_its_size_and_says_how_many_it_holds(tmp_path, home, monkeypatch):
    monkeypatch.setattr(inspection, "PAGE_BYTES", 2_000_000)
    data = write(tmp_path / "long", 40, duration_ms=2_000)
    lines = inspect_dataset(str(data), n=40, out=tmp_path / "out", seed=0)
    page = (tmp_path / "out" / "listening.html").read_bytes()
    assert 0.8 * 2_000_000 < len(page) <= 2_000_000
    held = page.count(b"<audio")
    assert 0 < held < 80
    assert lines[-1].startswith(f"{held} clips")
    assert f"{held} of 80 clips".encode() in page


def test_a_hundred_clips_of_two_seconds_a_class_have_room_on_the_page():
    longest = 4 / 3 * len(clip(2_000, 0.2, 0)) + 1_000
    assert 200 * longest < inspection.PAGE_BYTES


def test_every_condition_of_a_clip_stands_beside_it(data, tmp_path):
    inspect_dataset(str(data), n=4, out=tmp_path, seed=0)
    page = (tmp_path / "listening.html").read_text(encoding="utf-8")
    for name in ("duration_ms", "snr_db", "band", "room", "context"):
        assert f"<th>{name}</th>" in page
    assert "<td>stairwell</td>" in page


def test_a_design_of_one_factor_at_a_time_is_counted_by_the_factor_that_was_varied(tmp_path):
    (tmp_path / "data").mkdir()
    conditions = [(60.0, "duration_ms"), (90.0, "duration_ms"), (60.0, "snr_db")]
    rows = [
        {"audio": {"bytes": clip(60, 0.1, i), "path": ""}, "label": label, "duration_ms": ms, "varied": varied}
        for i, (label, (ms, varied)) in enumerate(product("AB", conditions))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "test.parquet")
    lines = [line.split() for line in inspect_dataset(str(tmp_path), n=2, out=tmp_path, seed=0)]
    assert ["test", "varied", "duration_ms", "2", "2"] in lines
    assert ["test", "varied", "snr_db", "1", "1"] in lines


def test_a_published_data_set_is_found_by_its_name(data, home):
    publication = hub.publish(data, "dataset", "us/clips")
    lines = inspect_dataset(f"us/clips@{publication.sha}", n=2, out=None, seed=0)
    assert lines[-1].endswith("listening.html")
    assert str(home) in lines[-1]


def test_labels_cannot_write_html(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"audio": {"bytes": clip(60, 0.1, 0), "path": ""}, "label": "<script>alert(1)</script>"}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "all.parquet")
    inspect_dataset(str(tmp_path), n=1, out=tmp_path, seed=0)
    assert "<script" not in (tmp_path / "listening.html").read_text()


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda folder: None, "holds no data/"),
        (lambda folder: pq.write_table(pa.table({"audio": [b""]}), folder / "data" / "x.parquet"), "no column label"),
        (
            lambda folder: pq.write_table(
                pa.Table.from_pylist([{"audio": {"bytes": b"junk"}, "label": "SPEECH"}]), folder / "data" / "x.parquet"
            ),
            "row 0: .* no FLAC",
        ),
    ],
)
def test_what_is_no_data_set_is_refused_by_name(tmp_path, prepare, sentence):
    (tmp_path / "data").mkdir()
    prepare(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        inspect_dataset(str(tmp_path), n=1, out=tmp_path, seed=0)


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(1, 30), st.integers(0, 9))
def test_a_sample_takes_classes_in_turn_and_every_cell_before_any_again(data, n, seed):
    cells = data.draw(
        st.lists(st.tuples(st.sampled_from("AB"), st.sampled_from([40.0, None, 1.0])), min_size=1, max_size=40)
    )
    table = pd.DataFrame(cells, columns=["label", "snr_db"])
    sample = sample_balanced(table, n, by=["snr_db"], seed=seed)
    assert sample["label"].value_counts().to_dict() == table["label"].value_counts().clip(upper=n).to_dict()
    assert sample.index.is_unique
    for label, of_label in sample.groupby("label"):
        left = table[table["label"] == label].drop(of_label.index)
        taken = of_label.groupby("snr_db", dropna=False).size()
        for level in left["snr_db"].unique():  # one with clips left has given at most one less than any other
            mine = int((of_label["snr_db"].isna() if pd.isna(level) else of_label["snr_db"] == level).sum())
            assert mine >= taken.max() - 1
    first = sample["label"].head(2 * min(sample["label"].value_counts()))
    if table["label"].nunique() == 2:
        assert first.value_counts().nunique() == 1, "in turn, so that a page that is full is full of both"
    assert sample.equals(sample_balanced(table, n, by=["snr_db"], seed=seed))


def test_level_and_activity_of_a_sound_that_is_half_silence():
    tone = np.sin(np.arange(1600) * 0.3)
    samples = decode_flac(encode_flac(np.concatenate([0.5 * tone, np.zeros(1600)])))
    level, active = measure(samples)
    assert level == pytest.approx(20 * math.log10(0.5 / 2), abs=0.05)
    assert active == 0.5


def test_group_sizes_count_groups_not_clips():
    table = pd.DataFrame({"label": ["A"] * 8, "group_id": list("xxxxxyyz")})
    assert group_sizes(table)["A"].to_dict() == {"1": 1, "2": 1, "3-5": 1}
