"""No split exists that was not audited: a leak raises and names who leaks; the protocol that leaks is marked as one."""

import zlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, load_dataset

from recipes.data import DatasetRecipe
from recipes.reading import read_yaml
from recipes.schema import CheckFailed
from tasks import splits as splits_module
from tasks.audio_files import decode_flac, encode_flac
from tasks.clips import SCHEMA
from tasks.functional.leakage import pcm_hash
from tasks.splits import make_splits, read_index, shuffle_clips, spread
from tasks.store import Clips, draft, read_json, shelf
from tasks.store import Splits as SplitsReference

PARTS = ("train", "dev", "test")


def recipe(protocol: str = "group") -> DatasetRecipe:
    block = read_yaml("dataset/smoke")
    return DatasetRecipe.model_validate({**block, "splits": {**block["splits"], "protocol": protocol}})


def rows_of(part: str, n: int = 8) -> list[dict]:
    """Clips of one part, two to a group, with nothing that another part has."""
    random = np.random.default_rng(zlib.crc32(part.encode()))
    rows = []
    for i in range(n):
        samples = random.uniform(-0.5, 0.5, 960)
        group = f"{part}-{i // 2}"
        rows.append({
            "audio": {"bytes": encode_flac(samples), "path": f"{part}{i}.flac"}, "clip_id": f"{part}{i}", "part": part,
            "label": "SPEECH" if i % 4 < 2 else "NONSPEECH", "group_id": group, "supergroup_id": f"super-{group}",
            "base_clip_id": f"cut-{group}", "recording_id": f"rec-{group}", "noise_id": f"noise-{part}",
            "room": "anechoic", "pcm_hash": pcm_hash(samples), "duration_ms": 60.0, "snr_db": 20.0,
        })  # fmt: skip
    return rows


def clips_of(rows: list[dict]) -> Clips:
    with draft(Clips) as folder:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "clips.parquet")
        return Clips.of(folder, part=rows[0]["part"], clips=len(rows), hours=0.0)


def dealt(**planted) -> list[Clips]:
    """The clips of the three parts; `planted` overwrites columns of the first test clip."""
    rows = {part: rows_of(part) for part in PARTS}
    rows["test"][0].update(planted)
    return [clips_of(rows[part]) for part in PARTS]


def test_a_clean_split_is_stored_with_its_audit(home):
    splits = make_splits.fn(dealt(), recipe())
    audit = read_json(splits.path / "audit.json")
    assert (splits.verdict, audit["verdict"], audit["protocol"]) == ("clean", "clean", "group")
    assert {check["check"]: check["shared"] for check in audit["checks"]}["group"] == 0
    assert splits.clips == dict.fromkeys(PARTS, 8)
    assert splits.groups["train"] == {"SPEECH": 2, "NONSPEECH": 2}
    assert read_json(splits.path / "balance.json") == {"largest_imbalance": 0.0}


def test_the_audit_of_a_split_says_what_was_heard_and_what_would_have_been_missed(home):
    audit = read_json(make_splits.fn(dealt(), recipe()).path / "audit.json")
    content, shortcuts = audit["content"], audit["shortcuts"]
    assert content["compared"] == dict.fromkeys(PARTS, 8)
    assert (content["pairs"], content["leaks"], content["found"]) == (3 * 64, 0, [])
    assert {row["duration_ms"] for row in content["recall"]} == {40}, "the clips are 60 ms long"
    assert 0 <= content["miss_rate"] <= 1
    assert shortcuts["duration_ms"] == {"auc": 0.5, "called_out": False}
    assert {"level_db", "encoded_bytes", "all together"} <= set(shortcuts)
    assert audit["measured"] == dict.fromkeys(PARTS, 8)


def test_where_cues_are_measured_on_some_clips_the_run_says_on_how_many(home, monkeypatch):
    said = []
    monkeypatch.setattr(splits_module, "MEASURED", 4)
    monkeypatch.setattr(splits_module, "say", said.append)
    audit = read_json(make_splits.fn(dealt(), recipe()).path / "audit.json")
    assert audit["measured"] == dict.fromkeys(PARTS, 4)
    assert any(
        line.endswith("measured on 4 of 8 clips of train, 4 of 8 clips of dev, 4 of 8 clips of test") for line in said
    )


def disguised(flac: bytes) -> dict:
    """The audio column of a copy under another name: later, softer, turned over and in other noise."""
    samples = decode_flac(flac)
    copy = np.concatenate([np.zeros(80), -0.4 * samples[:-80]])
    samples = copy + 0.02 * np.random.default_rng(9).standard_normal(copy.size)
    return {"audio": {"bytes": encode_flac(samples), "path": "other.flac"}, "pcm_hash": pcm_hash(samples)}


def test_a_copy_under_another_name_raises_although_every_name_is_another(home):
    copy = disguised(rows_of("train")[2]["audio"]["bytes"])
    with pytest.raises(CheckFailed) as error:
        make_splits.fn(dealt(**copy), recipe())
    assert "1 pairs of clips with one recording under two names, e.g. train2 (train) and test0 (test)" in str(
        error.value
    )
    assert "Remove the copies, or give both one group" in str(error.value)
    assert not list(shelf(SplitsReference).glob("*")), "no split is left behind"


def test_copies_between_folds_raise_whichever_two_they_are_in(home):
    block = read_yaml("dataset/smoke")
    block = {**block, "splits": {"folds": 3}, "clips": {**block["clips"], "per_cell": 4}}
    rows = {f"part{k}": rows_of(f"part{k}") for k in range(3)}
    rows["part2"][5].update(disguised(rows["part1"][1]["audio"]["bytes"]))
    clips = [clips_of(its) for its in rows.values()]
    with pytest.raises(CheckFailed, match=r"part11 \(part1\) and part25 \(part2\)"):
        make_splits.fn(clips, DatasetRecipe.model_validate(block))


def test_of_many_clips_some_of_each_part_are_heard():
    part = pd.Series(["train"] * 10 + ["test"] * 3)
    assert spread(part, 4).tolist() == [0, 3, 6, 9, 10, 11, 12]
    assert spread(part, 100).tolist() == list(range(13))


@pytest.mark.parametrize(
    ("column", "check"),
    [
        ("group_id", "group"), ("supergroup_id", "supergroup"), ("recording_id", "recording"),
        ("base_clip_id", "base clip"), ("noise_id", "noise file"), ("pcm_hash", "audio"),
    ],
)  # fmt: skip
def test_a_planted_leak_raises_and_names_the_pair(home, column, check):
    planted = rows_of("train")[3][column]
    with pytest.raises(CheckFailed) as error:
        make_splits.fn(dealt(**{column: planted}), recipe())
    assert f"{check}: 1 shared, e.g. {planted} (test, train)" in str(error.value)
    assert "Deal by a larger unit" in str(error.value)
    assert not list(shelf(SplitsReference).glob("*")), "no split is left behind"


def test_noise_of_one_part_that_is_content_of_another_raises(home):
    with pytest.raises(CheckFailed, match=r"rec-train-1 \(test, train\)"):
        make_splits.fn(dealt(noise_id="rec-train-1"), recipe())


def test_the_random_protocol_passes_and_is_marked_leaky(home):
    splits = make_splits.fn(shuffle_clips.fn(dealt(), 3), recipe("random"))
    audit = read_json(splits.path / "audit.json")
    assert (splits.verdict, audit["verdict"], audit["protocol"]) == ("leaky", "leaky", "random")
    assert any((check["shared"] or 0) > 0 for check in audit["checks"])
    assert (audit["content"], audit["shortcuts"]) == (None, None), "its parts share their cuts by intent"


def test_the_random_protocol_keeps_every_clip_size_and_balance(home):
    clips = dealt()
    mixed = shuffle_clips.fn(clips, 3)
    before, after = (pd.concat([read_index(shard) for shard in shards]) for shards in (clips, mixed))
    assert sorted(before["clip_id"]) == sorted(after["clip_id"])
    counts = [frame.groupby(["part", "label"]).size().to_dict() for frame in (before, after)]
    assert counts[0] == counts[1]
    assert all((read_index(shard)["part"] == shard.part).all() for shard in mixed)
    moved = before.set_index("clip_id")["part"] != after.set_index("clip_id")["part"].reindex(before["clip_id"])
    assert moved.any()
    assert shuffle_clips.fn(clips, 3) == mixed


def test_shards_of_a_part_are_gathered_in_their_order(home):
    whole = make_splits.fn(dealt(), recipe())
    rows = {part: rows_of(part) for part in PARTS}
    shards = [clips_of(its) for part in PARTS for its in (rows[part][:3], rows[part][3:])]
    split = make_splits.fn(shards, recipe())
    for part in PARTS:
        ours, theirs = (pq.read_table(its.path / "data" / f"{part}.parquet") for its in (split, whole))
        assert ours.equals(theirs)
    assert split.clips == whole.clips


def test_a_split_is_read_by_datasets_with_audio_as_audio(home):
    splits = make_splits.fn(dealt(), recipe())
    files = {part: str(splits.path / "data" / f"{part}.parquet") for part in PARTS}
    loaded = load_dataset("parquet", data_files=files)
    assert isinstance(loaded["test"].features["audio"], Audio)
    row = loaded["test"].cast_column("audio", Audio(decode=False))[0]
    assert pcm_hash(decode_flac(row["audio"]["bytes"])) == row["pcm_hash"]


def test_the_same_clips_give_the_same_split(home):
    assert make_splits.fn(dealt(), recipe()) == make_splits.fn(dealt(), recipe())
