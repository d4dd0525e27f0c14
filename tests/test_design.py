"""Every cell is full, every group, noise and room comes equally often, and neither noise nor room tells the class."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.functional.conditions import Condition, Levels, even_margins, factorial, one_at_a_time
from tasks.functional.design import balance, cross_durations_and_snrs, design, unfilled

CLASSES = ("SPEECH", "NONSPEECH")


def recordings(speakers: int = 4, sounds: int = 5, noises: int = 3, per_group: int = 2) -> pd.DataFrame:
    rows = [("content", "SPEECH", f"s{k}", i) for k in range(speakers) for i in range(per_group)]
    rows += [("content", "NONSPEECH", f"n{k}", i) for k in range(sounds) for i in range(per_group)]
    rows += [("noise", None, f"b{k}", i) for k in range(noises) for i in range(per_group)]
    rows += [("room", None, f"r{k}", 0) for k in range(4)]
    table = pd.DataFrame(rows, columns=["role", "label", "group_id", "i"])
    return table.assign(
        recording_id=table["group_id"] + "-" + table["i"].astype(str),
        supergroup_id="of " + table["group_id"],
        category=[
            "0.3" if group in ("r0", "r1") else "1" if group in ("r2", "r3") else "" for group in table["group_id"]
        ],
        family="",
        part="test",
        duration_s=4.0,
    )


def planned(table: pd.DataFrame | None = None, **changes: object) -> pd.DataFrame:
    asked: dict[str, Any] = {
        "kind": "factorial", "durations_ms": [50, 200, 1000], "snrs_db": [None, 0, 10], "bands": ["clean"],
        "rooms": [None], "per_cell": 5, "classes": CLASSES, "seed": 3,
    } | changes  # fmt: skip
    levels = Levels(*(asked.pop(name) for name in ("durations_ms", "snrs_db", "bands", "rooms")))
    kind = asked.pop("kind")
    n = asked.pop("per_cell")
    counts = {
        "factorial": lambda: dict.fromkeys(factorial(levels), n),
        "margins": lambda: even_margins(levels, n, asked["seed"]),
        "one_at_a_time": lambda: dict.fromkeys(one_at_a_time(levels, Condition(1000, None), alone=True), n),
    }[kind]()
    return design(recordings() if table is None else table, counts, same_cuts=kind == "one_at_a_time", **asked)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 9), st.integers(0, 99))
def test_groups_and_noises_come_equally_often(
    speakers: int, sounds: int, noises: int, per_cell: int, seed: int
) -> None:
    plan = planned(recordings(speakers, sounds, noises), per_cell=per_cell, seed=seed)
    cells = plan.groupby(["label", "duration_ms", "snr_db"], dropna=False)
    assert len(plan) == 2 * 3 * 3 * per_cell
    assert (cells.size() == per_cell).all()
    for label, n in (("SPEECH", speakers), ("NONSPEECH", sounds)):
        of_class = plan[plan["label"] == label]
        for level in (of_class, *(rows for _, rows in of_class.groupby("duration_ms"))):
            counts = level["group_id"].value_counts()
            assert counts.max() - (counts.min() if len(counts) == n else 0) <= 1
        noise = of_class["noise_group_id"].value_counts()
        assert noise.max() - (noise.min() if len(noise) == noises else 0) <= 1
    for _, cell in cells:
        within = cell["group_id"].value_counts()
        assert within.max() <= -(-per_cell // (speakers if cell["label"].iloc[0] == "SPEECH" else sounds))


def test_recordings_of_a_group_come_equally_often() -> None:
    counts = planned(per_cell=8)["recording_id"].value_counts()
    by_group = counts.groupby(counts.index.str.split("-").str[0])
    assert (by_group.max() - by_group.min() <= 1).all()


def test_all_classes_get_the_same_noise_and_rooms_in_each_cell() -> None:
    plan = planned(per_cell=7, rooms=[None, 0.3, 1.0])
    for _, cell in plan.groupby(["duration_ms", "snr_db", "room"], dropna=False):
        for column in ("noise_id", "room_id"):
            speech, nonspeech = (
                cell.loc[cell["label"] == label, column].fillna("-").sort_values() for label in CLASSES
            )
            assert speech.tolist() == nonspeech.tolist()


def test_noise_is_added_where_an_snr_is_and_a_room_of_the_level_where_an_rt60_is() -> None:
    plan = planned(rooms=[None, 0.3, 1.0])
    assert plan["noise_id"].notna().equals(plan["snr_db"].notna())
    assert plan["room_id"].notna().equals(plan["room"].notna())
    assert set(plan.loc[plan["room"] == "0.3", "room_id"]) == {"r0-0", "r1-0"}
    assert set(plan.loc[plan["room"] == "1", "room_id"]) == {"r2-0", "r3-0"}


def test_the_columns_of_a_clip_are_those_of_its_recording_and_noise() -> None:
    table = recordings().set_index("recording_id")
    plan = planned()
    noisy = plan[plan["noise_id"].notna()]
    assert (table.loc[plan["recording_id"], "label"].to_numpy() == plan["label"]).all()
    for ours, theirs in (("group_id", "noise_group_id"), ("supergroup_id", "noise_supergroup_id")):
        assert (table.loc[plan["recording_id"], ours].to_numpy() == plan[ours]).all()
        assert (table.loc[noisy["noise_id"], ours].to_numpy() == noisy[theirs]).all()


def test_only_recordings_that_are_long_enough_are_cut() -> None:
    table = recordings()
    table.loc[table["group_id"].isin(["s0", "n1", "b2"]), "duration_s"] = 0.2
    plan = planned(table)
    long = plan[plan["duration_ms"] == 1000]
    assert not set(long["group_id"]) & {"s0", "n1"}
    assert "b2" not in set(long["noise_group_id"])
    assert {"s0", "n1"} <= set(plan.loc[plan["duration_ms"] == 200, "group_id"])
    in_context = planned(table, durations_ms=[50], noise_ms=500)
    assert "b2" not in set(in_context["noise_group_id"])


def test_a_group_of_short_recordings_does_not_crowd_the_short_clips() -> None:
    """Balanced over all durations together, s0 would get half of the 50 ms clips: duration would tell the speaker."""
    table = recordings(speakers=4)
    table.loc[table["group_id"] == "s0", "duration_s"] = 0.1
    plan = planned(table, durations_ms=[1000, 500, 50], per_cell=4)
    short = plan[(plan["label"] == "SPEECH") & (plan["duration_ms"] == 50)]
    assert short["group_id"].value_counts().tolist() == [3, 3, 3, 3]


def test_clip_ids_are_unique_and_speak() -> None:
    plan = planned(snrs_db=[5, None])
    assert plan["clip_id"].is_unique
    assert {"test-SPEECH-200ms-5dB-004", "test-NONSPEECH-50ms-clean-000"} <= set(plan["clip_id"])
    rooms = planned(rooms=[None, 0.3], snrs_db=[-2.5])
    assert rooms["clip_id"].is_unique
    assert {"test-SPEECH-50ms--2.5dB-rt0.3-000", "test-SPEECH-50ms--2.5dB-dry-000"} <= set(rooms["clip_id"])


def test_the_plan_depends_on_the_seed_and_not_on_the_order_of_the_rows() -> None:
    pd.testing.assert_frame_equal(planned(recordings().sample(frac=1, random_state=1)), planned())
    assert not planned(seed=4)["recording_id"].equals(planned()["recording_id"])
    assert planned()[["crop_seed", "noise_seed"]].drop_duplicates().shape[0] == len(planned())


def test_levels_that_cannot_be_filled_are_all_named() -> None:
    table = recordings()
    table.loc[table["label"] == "SPEECH", "duration_s"] = 0.3
    with pytest.raises(ValueError, match=r"SPEECH at 1000 ms .*longest has 300 ms.*; room 0.7") as error:
        planned(table, rooms=[0.7])
    assert "NONSPEECH at" not in str(error.value)
    with pytest.raises(ValueError, match="noise at 50 ms"):
        planned(table[table["role"] != "noise"], durations_ms=[50])
    assert len(planned(table[table["role"] != "noise"], durations_ms=[50], snrs_db=[None])) == 10
    with pytest.raises(ValueError, match="one part"):
        planned(recordings().assign(part=np.arange(len(recordings())) % 2))


# --- other designs -----------------------------------------------------------------------------------------------


def test_margins_are_even_in_each_class() -> None:
    plan = planned(kind="margins", per_cell=16, durations_ms=[50, 100, 200, 400, 800], snrs_db=[0, 5, 10, 15, 20])
    assert plan["clip_id"].is_unique
    for _, its in plan.groupby("label"):
        assert len(its) == 16
        for factor in ("duration_ms", "snr_db"):
            counts = its[factor].value_counts()
            assert len(counts) == 5
            assert counts.max() - counts.min() <= 1


def test_one_at_a_time_puts_the_same_cuts_into_every_condition() -> None:
    plan = planned(kind="one_at_a_time", durations_ms=[50, 1000], snrs_db=[0, 10], bands=["phone"], rooms=[0.3])
    assert plan["clip_id"].is_unique
    assert len(plan) == 2 * 5 * (2 + 2 + 1 + 1 + 1)
    assert (plan["cut_from_ms"] == 1000).all()
    cuts = plan.groupby(["varied", "duration_ms", "snr_db", "label"], dropna=False)[["recording_id", "crop_seed"]]
    for label in CLASSES:
        found = {tuple(map(tuple, its.to_numpy())) for (*_, its_label), its in cuts if its_label == label}
        assert len(found) == 1, "every condition has the same cuts"
    noisy = plan[plan["snr_db"].notna()]
    by_cut = noisy.groupby(["recording_id", "crop_seed"])[["noise_id", "noise_seed"]].nunique()
    assert (by_cut == 1).all(axis=None), "a cut keeps its noise over the SNRs"
    assert set(plan.loc[plan["varied"] == "room", "room_id"].dropna()) <= {"r0-0", "r1-0"}
    assert plan.loc[plan["varied"] == "duration_ms", ["snr_db", "room_id"]].isna().all(axis=None)


def test_all_classes_get_the_same_noises_and_rooms_in_each_condition_of_the_same_cuts() -> None:
    plan = planned(kind="one_at_a_time", durations_ms=[50], snrs_db=[0, 10], rooms=[0.3])
    for _, its in plan.groupby("varied"):
        for column in ("noise_id", "room_id"):
            speech, nonspeech = (its.loc[its["label"] == label, column].fillna("-") for label in CLASSES)
            assert sorted(speech) == sorted(nonspeech)


def test_every_condition_of_the_same_cuts_needs_recordings_of_the_longest() -> None:
    table = recordings().assign(duration_s=0.5)
    with pytest.raises(ValueError, match="SPEECH at 1000 ms"):
        planned(table, kind="one_at_a_time", durations_ms=[50, 100], snrs_db=[0])
    assert len(planned(table, durations_ms=[50, 100], snrs_db=[0])) == 20


def test_a_measured_room_is_drawn_by_its_name() -> None:
    table = recordings()
    table.loc[table["group_id"] == "r3", "category"] = "stairwell"
    plan = planned(table, rooms=[None, "stairwell"])
    assert set(plan.loc[plan["room"] == "stairwell", "room_id"]) == {"r3-0"}


def test_balance_counts_classes_by_cell_and_names_the_worst() -> None:
    plan = planned()
    found = balance(plan)
    assert found.largest == 0
    assert found.counts.columns.tolist() == ["part", "duration_ms", "snr_db", "NONSPEECH", "SPEECH"]
    assert found.counts[["NONSPEECH", "SPEECH"]].to_numpy().tolist() == [[5, 5]] * 9
    assert balance(plan[plan["clip_id"] != "test-SPEECH-200ms-clean-000"]).largest == 1
    assert balance(plan[(plan["label"] == "SPEECH") | (plan["duration_ms"] > 50)]).largest == 5
    with pytest.raises(ValueError, match="no clips"):
        balance(plan.head(0))


def test_durations_and_snrs_are_crossed_in_their_order_with_sums() -> None:
    plan = planned(kind="margins", per_cell=7, durations_ms=[50, 1000, 200], snrs_db=[None, -5, 10, 5])
    table = cross_durations_and_snrs(plan[plan["label"] == "SPEECH"])
    assert table.columns.tolist() == ["duration", "-5 dB", "5 dB", "10 dB", "no noise", "all"]
    assert table["duration"].tolist() == ["50 ms", "200 ms", "1000 ms", "all"]
    counts = table.drop(columns="duration").to_numpy()
    assert counts[-1, -1] == 7
    assert (counts[:-1, :-1].sum(axis=0) == counts[-1, :-1]).all()
    assert (counts[:-1, :-1].sum(axis=1) == counts[:-1, -1]).all()
    assert ((counts[:-1, :-1] == 0) | (counts[:-1, :-1] == 1)).all()
    with pytest.raises(ValueError, match="no clips"):
        cross_durations_and_snrs(plan.head(0))


@pytest.mark.parametrize("same_cuts", [False, True])
def test_what_cannot_be_filled_is_what_a_design_refuses(same_cuts: bool) -> None:
    table = recordings()
    table.loc[table["label"] == "SPEECH", "duration_s"] = 0.3
    counts = dict.fromkeys(factorial(Levels([50, 1000], [0], ["clean"], [None, "hall"])), 2)
    missing = unfilled(table, counts, classes=CLASSES, same_cuts=same_cuts)
    assert missing == ["SPEECH at 1000 ms (needs 1000 ms; the longest has 300 ms)", "room hall (rooms there: 0.3, 1)"]
    with pytest.raises(ValueError, match=r"^test has no recording for: SPEECH .*; room hall .*\. Add"):
        design(table, counts, classes=CLASSES, same_cuts=same_cuts, seed=1)
    fillable = dict.fromkeys(factorial(Levels([50], [0], ["clean"], [None, 0.3])), 2)
    assert unfilled(table, fillable, classes=CLASSES, same_cuts=same_cuts) == []
