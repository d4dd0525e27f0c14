"""More clips than the recordings hold are told of, and those that share audio within a condition are counted."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from recipes.clips import ClipsBlock
from tasks.clips import repeats, tell_repeats
from tasks.functional.conditions import Condition
from tasks.functional.mixing import render_clip
from tasks.functional.overlap import Crowded, crowded, sharing
from tasks.store import Sides, draft

CLASSES = ("SPEECH", "NONSPEECH")


def recordings(**lengths_s: list[float]) -> pd.DataFrame:
    rows = [
        {"role": "content", "label": label, "recording_id": f"{label}-{k}", "group_id": label, "duration_s": length}
        for label, lengths in lengths_s.items()
        for k, length in enumerate(lengths)
    ]
    return pd.DataFrame(rows).assign(part="test", family=["a", "b"] * (len(rows) // 2) + ["a"] * (len(rows) % 2))


def counts(n: int, *durations_ms: float) -> dict[Condition, int]:
    return {Condition(ms, snr): n for ms in durations_ms for snr in (0.0, None)}


def test_recordings_hold_as_many_clips_as_lie_side_by_side_in_each() -> None:
    table = recordings(SPEECH=[1.0, 0.45, 0.19], NONSPEECH=[30.0])
    assert crowded(table, counts(7, 200), classes=CLASSES) == []
    assert crowded(table, counts(8, 200), classes=CLASSES) == [Crowded("SPEECH", 200, 8, 2, 7)]
    assert [its.duration_ms for its in crowded(table, counts(3, 50, 500, 1000), classes=CLASSES)] == [500, 1000]


def test_one_cut_for_all_conditions_is_as_long_as_the_longest() -> None:
    table = recordings(SPEECH=[1.0] * 3, NONSPEECH=[30.0])
    assert crowded(table, counts(3, 50, 1000), classes=CLASSES, same_cuts=True) == []
    (found,) = crowded(table, counts(4, 50, 1000), classes=CLASSES, same_cuts=True)
    assert found == Crowded("SPEECH", 1000, 4, 3, 3)


def test_each_family_gives_its_share() -> None:
    table = recordings(SPEECH=[30.0] * 2, NONSPEECH=[30.0, 0.5])
    assert crowded(table, counts(9, 100), classes=CLASSES) == []
    (found,) = crowded(table, counts(11, 100), classes=CLASSES, balance_families=("a", "b"))
    assert found == Crowded("NONSPEECH of family b", 100, 6, 1, 5)


def test_of_a_class_with_a_recording_of_unknown_length_nothing_is_said() -> None:
    table = recordings(SPEECH=[0.1, float("nan")], NONSPEECH=[0.1])
    assert [its.name for its in crowded(table, counts(50, 100), classes=CLASSES)] == ["NONSPEECH"]


def clips(*cuts: tuple[str, int, float], **columns: Any) -> pd.DataFrame:
    rows = [
        {"recording_id": recording, "base_clip_id": f"{recording}@{start}", "duration_ms": ms}
        for recording, start, ms in cuts
    ]
    same = {"part": "test", "label": "SPEECH", "snr_db": None, "band": "clean", "room": "anechoic", "varied": None}
    return pd.DataFrame(rows).assign(**(same | columns))


@pytest.mark.parametrize(
    ("cuts", "shared"),
    [
        ([("a@b", 0, 100.0), ("a@b", 1600, 100.0)], 0),  # end to end, and the recording bears the sign itself
        ([("a", 0, 100.0), ("a", 1599, 100.0)], 2),
        ([("a", 0, 100.0), ("b", 0, 100.0)], 0),
        ([("a", 0, 100.0), ("a", 0, 50.0)], 0),  # of two conditions
        ([("a", 3000, 100.0), ("a", 0, 100.0), ("a", 1500, 100.0)], 3),
        ([("a", 5000, 100.0), ("a", 0, 100.0), ("a", 1500, 100.0)], 2),
    ],
)
def test_clips_that_share_audio_within_a_condition_are_counted(
    cuts: list[tuple[str, int, float]], shared: int
) -> None:
    assert sharing(clips(*cuts)).to_dict("records") == [
        {"part": "test", "label": "SPEECH", "clips": len(cuts), "shared": shared}
    ]


@pytest.mark.parametrize(("apart", "shared"), [(1599, 2), (1600, 0), (3000, 0)])
def test_the_middles_of_two_cuts_share_what_is_heard_of_both(apart: int, shared: int) -> None:
    """Cuts of 1 s that overlap were counted though their middles of 100 ms, which is all that is heard, do not."""
    recording, heard = np.random.default_rng(0).normal(size=40_000), []
    for at in (0, apart):
        clip = render_clip(recording, n=1600, crop_seed=0, cut_from=16_000, starts=lambda n, at=at: np.array([at]))
        heard.append(set(range(clip.content_start, clip.content_start + 1600)))
    assert bool(heard[0] & heard[1]) == bool(shared)
    assert sharing(clips(("a", 0, 100.0), ("a", apart, 100.0), ("c", 0, 1000.0)))["shared"].tolist() == [shared]


def block(per_cell: int) -> ClipsBlock:
    return ClipsBlock(duration_ms=(100, 200), snr_db=(0, None), per_cell=per_cell)


SAID = (
    "clips.per_cell 300 asks for up to 300 clips a condition in test, and its recordings hold fewer that do not overlap: "
    "SPEECH 10 at 200 ms (in 2 recordings). Clips of one condition will share audio, which adds clips and hardly evidence: "
    "lower per_cell, or add recordings"
)


def test_the_plan_and_the_build_name_the_value_what_there_is_and_the_way_out(
    home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, said = recordings(SPEECH=[1.0] * 2, NONSPEECH=[60.0]), list[str]()
    assert repeats(table, {"test": block(10)}, CLASSES) == []
    assert repeats(table, {"test": block(300)}, CLASSES) == [SAID]
    monkeypatch.setattr("tasks.clips.say", said.append)
    with draft(Sides) as folder:
        table.to_parquet(folder / "sides.parquet")
        sides = Sides.of(folder, parts={})
    tell_repeats(sides, {"test": block(300)}, CLASSES)
    assert said == [SAID]
