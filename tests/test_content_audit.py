"""Copies between parts are found, listed and described; those that were planted say how many would have been missed."""

import json
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from tasks.functional import content_audit
from tasks.functional.content_audit import (
    CONDITIONS,
    audit_content,
    choose_clips,
    content_record,
    describe_comparison,
    describe_content,
    describe_leaks,
    disguise,
    measure_recall,
)
from tests.bench.bench_duplicates import generated
from tests.bench.plant_copies import copy_of

PLANTED = 4
PART = ["train"] * 12 + ["dev"] * 6 + ["test"] * 6


def rows(**columns: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"clip_id": [f"c{k}" for k in range(24)], "part": PART, **columns})


def clips() -> list[np.ndarray]:
    return list(generated(24, 0.5, seed=1))


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Fewer copies are planted than in a run: each is a search more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content_audit, "PLANTED", PLANTED)
        patch.setattr(content_audit, "DURATIONS_MS", (40, 500, 1000))
        yield


@pytest.fixture(scope="module")
def leaky(few: None) -> dict[str, object]:
    """The record of an audit of three parts in which c20 of test is a copy of c3 of train, and c13 of dev of c4."""
    audio = clips()
    rng = np.random.default_rng(2)
    audio[20], audio[13] = (copy_of(audio[k], rng, seconds=0.4, snr_db=5).samples for k in (3, 4))
    noise = [None] * 24
    noise[4] = noise[13] = "rain"
    found = audit_content(audio, PART, most_pairs=1_000, seed=0)
    return content_record(found, rows(noise_id=noise), {"train": 40, "dev": 6, "test": 6}, 0)


def test_copies_between_any_two_parts_are_leaks_and_name_their_clips(leaky):
    assert leaky["leaks"] == 2
    named = {tuple(pair["clip_id"]): pair for pair in leaky["found"]}
    assert set(named) == {("c3", "c20"), ("c4", "c13")}
    assert named["c3", "c20"]["part"] == ["train", "test"]
    assert all(pair["leak"] and pair["score"] >= leaky["least_score"] for pair in named.values())


def test_a_pair_with_the_same_declared_noise_is_marked_as_that(leaky):
    assert {tuple(pair["clip_id"]): pair["same_noise"] for pair in leaky["found"]} == {
        ("c3", "c20"): False, ("c4", "c13"): True,
    }  # fmt: skip


def test_the_record_is_json_and_counts_what_was_compared(leaky):
    assert json.loads(json.dumps(leaky)) == leaky
    assert leaky["compared"] == {"train": 12, "dev": 6, "test": 6}
    assert leaky["clips"]["train"] == 40
    assert leaky["pairs"] == 12 * 6 + 12 * 6 + 6 * 6


def test_a_reader_is_told_pairs_and_recall(leaky):
    lines = describe_content(leaky)
    assert lines[0].startswith(
        "content: 12 of 40 clips of train, 6 of 6 clips of dev, 6 of 6 clips of test; 180 pairs, 2 beyond"
    )
    assert any("copy: c3 (train) and c20 (test), score" in line for line in lines)
    assert any("c13 (dev)" in line and line.endswith("the same added noise") for line in lines)
    assert f"/{PLANTED}" in lines[-1]
    assert "500 ms 10 dB phone" in lines[-1]
    assert "2 pairs of clips with one recording under two names, e.g. " in describe_leaks(leaky)


def test_where_not_every_pair_is_compared_sample_by_sample_how_many_are_is_said(leaky):
    assert (leaky["correlated"], leaky["pieces"]) == (180, 180)
    assert "likest" not in describe_content(leaky)[0] + describe_comparison({"content": leaky})
    few = content_record(audit_content(clips(), PART, most_pairs=100, seed=0), rows(), dict.fromkeys(PART, 12), 0)
    assert few["correlated"] < few["pieces"] == few["pairs"] == 180
    said = f" (of 180 pairs of their pieces the {few['correlated']} likest sample by sample)"
    assert f"180 pairs{said}, 0 beyond chance" in describe_content(few)[0]
    assert f"SNR or band{said}: 0 pairs beyond chance" in describe_comparison({"content": few})


def test_of_long_clips_pairs_of_clips_and_pairs_of_pieces_are_told_apart(few):
    """5 s are three pieces and more: the pairs that were compared may outnumber the clips'."""
    long, part = list(generated(8, 5.0, seed=1)), [*["train"] * 3, *["dev"] * 2, *["test"] * 3]
    table, counts = pd.DataFrame({"clip_id": list("abcdefgh"), "part": part}), {"train": 3, "dev": 2, "test": 3}
    record = content_record(audit_content(long, part, most_pairs=20, seed=0), table, counts, 0)
    assert record["pairs"] == 21 < record["correlated"] < record["pieces"]
    said = f"21 pairs (of {record['pieces']} pairs of their pieces the {record['correlated']} likest sample by sample)"
    assert said in describe_content(record)[0]


def test_a_reader_is_told_of_which_clips_copies_were_planted(leaky):
    assert leaky["hosts"] == "train"
    assert describe_content(leaky)[-1].startswith("  copies of clips of train, planted in pink noise and found: 40 ms")


def test_clean_parts_have_no_leak_and_the_same_seed_gives_the_same_record():
    records = [
        content_record(audit_content(clips(), PART, most_pairs=1_000, seed=seed), rows(), {}, seed) for seed in (3, 3)
    ]
    assert records[0] == records[1]
    assert (records[0]["leaks"], records[0]["found"]) == (0, [])


def test_one_part_is_refused():
    with pytest.raises(ValueError, match="two or more"):
        audit_content(clips()[:12], PART[:12], most_pairs=1_000, seed=0)


# --- what was missed ---------------------------------------------------------------------------------------------


def test_planted_copies_are_found_where_they_can_be_and_missed_where_they_cannot():
    found = measure_recall(clips(), 8.0, most_pairs=10_000, seed=4).set_index(["duration_ms", "snr_db", "band"])
    assert set(found["planted"]) == {PLANTED}
    assert found.loc[(500, 10.0, "clean"), "found"] >= PLANTED - 1
    assert found.loc[(40, 0.0, "clean"), "found"] < found.loc[(40, 20.0, "clean"), "found"]
    assert 1000 not in found.index.get_level_values("duration_ms"), "no clip is as long"


def test_a_search_that_finds_nothing_would_show():
    deaf = measure_recall(clips(), 1e9, most_pairs=1_000, seed=4)
    assert deaf["found"].sum() == 0
    assert deaf["planted"].sum() == PLANTED * len(CONDITIONS) * 2


def test_too_few_clips_to_plant_in_are_said_so():
    audio = [clip[:320] for clip in clips()]
    record = content_record(audit_content(audio, PART, most_pairs=1_000, seed=0), rows(), dict.fromkeys(PART, 1), 0)
    assert record["miss_rate"] is None
    assert "what was missed is not known" in describe_content(record)[-1]


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_a_planted_copy_has_the_asked_snr(snr_db, monkeypatch):
    monkeypatch.setattr(content_audit, "OVERHANG", 0.0)  # an edge within the copy would spread over all frequencies
    tone = np.sin(2 * np.pi * 3_000 * np.arange(16_000) / 16_000)
    copy = disguise(tone, 8_000, snr_db, "clean", np.random.default_rng(5))
    spectrum = np.abs(np.fft.rfft(copy)) ** 2
    spectrum[1:] *= 2
    signal = spectrum[1_500]
    assert 10 * np.log10(signal / (spectrum.sum() - signal)) == pytest.approx(snr_db, abs=0.3)


# --- which clips -------------------------------------------------------------------------------------------------


def test_each_recording_is_compared_once_before_any_is_twice_and_by_its_longest_and_cleanest_clip():
    table = pd.DataFrame(
        [("train", recording, f"{recording}{cut}", duration, snr)
         for recording in "abc" for cut in (1, 2) for duration in (100, 500) for snr in (0.0, 20.0)],
        columns=["part", "recording_id", "base_clip_id", "duration_ms", "snr_db"],
    )  # fmt: skip
    first = table.iloc[choose_clips(table, 3)]
    assert first["recording_id"].tolist() == ["a", "b", "c"]
    assert set(zip(first["duration_ms"], first["snr_db"], strict=True)) == {(500, 20.0)}
    six = table.iloc[choose_clips(table, 6)]
    assert sorted(six["base_clip_id"]) == ["a1", "a2", "b1", "b2", "c1", "c2"]


def test_a_clip_without_noise_is_the_cleanest():
    table = pd.DataFrame({"part": "train", "recording_id": "a", "snr_db": [20.0, None, 0.0]})
    assert choose_clips(table, 1).tolist() == [1]


def test_few_clips_are_all_compared_whatever_their_columns():
    assert choose_clips(pd.DataFrame({"part": ["a", "b", "a"]}, index=[7, 8, 9]), 5).tolist() == [0, 1, 2]
