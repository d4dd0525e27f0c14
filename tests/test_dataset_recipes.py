"""The shipped designs have the numbers in their names, and their cells can be filled."""

import numpy as np
import pandas as pd
import pytest

from recipes.data import DatasetRecipe
from recipes.schema import load_study
from tasks.clips import conditions_of
from tasks.functional.design import balance, design

FAMILIES = ("environment", "music", "animals", "noise")
PARTS = {  # name -> clips of train, dev and test
    "crossed-640": (400, 120, 120), "clean-160": (96, 32, 32), "extended-96": (192, 96, 96),
    "psychoacoustic-1400": (840, 280, 280), "conditions-22": (12_804, 4_268, 4_268), "factorial-500": (300, 100, 100),
    "factorial-1000": (600, 200, 200), "factorial-2000": (1_200, 400, 400), "factorial-3000": (1_800, 600, 600),
}  # fmt: skip


def recipe(name: str) -> DatasetRecipe:
    return load_study("study/smoke", [f"dataset=dataset/{name}"]).dataset


def recordings(part: str, groups: int = 40) -> pd.DataFrame:
    """Recordings of six seconds: speech, sounds of four families, noises, and rooms of three RT60s."""
    rows = [("content", "SPEECH", f"s{k}", "speech", "") for k in range(groups)]
    rows += [("content", "NONSPEECH", f"n{k}", FAMILIES[k % 4], "") for k in range(groups)]
    rows += [("noise", None, f"b{k}", "noise", "") for k in range(groups)]
    rows += [("room", None, f"r{rt60}{k}", "", rt60) for k in range(6) for rt60 in ("0.3", "1", "2.5")]
    table = pd.DataFrame(rows, columns=["role", "label", "group_id", "family", "category"])
    return table.assign(recording_id=table["group_id"], supergroup_id=table["group_id"], part=part, duration_s=6.0)


def planned(name: str, part: str) -> pd.DataFrame:
    block = recipe(name).clips_of(part)
    return design(
        recordings(part), conditions_of(block), classes=("SPEECH", "NONSPEECH"), noise_ms=block.noise_ms,
        same_cuts=block.design == "one_at_a_time", balance_families=block.balance_families, seed=block.seed,
    )  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_every_part_has_its_clips_half_of_each_class(name: str) -> None:
    for part, clips in zip(("train", "dev", "test"), PARTS[name], strict=True):
        block = recipe(name).clips_of(part)
        assert 2 * block.clips_of_a_class == 2 * sum(conditions_of(block).values()) == clips
        assert len(conditions_of(block)) == block.conditions


@pytest.mark.parametrize("name", PARTS)
def test_a_plan_is_even_over_class_duration_and_snr(name: str) -> None:
    plan = planned(name, "test")
    assert len(plan) == PARTS[name][2]
    assert plan["clip_id"].is_unique
    assert balance(plan).largest <= (1 if name == "clean-160" else 0)
    if recipe(name).clips.design != "one_at_a_time":
        for factor in ("duration_ms", "snr_db"):
            counts = plan.groupby("label")[factor].value_counts().groupby("label").agg(["min", "max"])
            assert (counts["max"] - counts["min"] <= 1).all()


def test_the_20_psychoacoustic_and_22_conditions_are_those_of_the_notes() -> None:
    psychoacoustic, follow_up = (planned(name, "test")["varied"] for name in ("psychoacoustic-1400", "conditions-22"))
    assert (psychoacoustic.value_counts() / 14).to_dict() == {
        "none": 1, "duration_ms": 7, "snr_db": 6, "band": 3, "room": 3,
    }  # fmt: skip
    assert (follow_up.value_counts() / 194).to_dict() == {"duration_ms": 8, "snr_db": 6, "room": 4, "band": 4}


@pytest.mark.parametrize("n", [1000, 2000, 3000])
def test_sounds_are_a_quarter_of_each_family_in_every_cell(n: int) -> None:
    plan = planned(f"factorial-{n}", "train").query("label == 'NONSPEECH'")
    cells = plan.groupby(["duration_ms", "snr_db"])["family"].value_counts().unstack(fill_value=0)
    assert list(cells.columns) == sorted(FAMILIES)
    assert (cells.max(axis=1) - cells.min(axis=1) <= 1).all()
    assert np.ptp(plan["family"].value_counts().to_numpy()) <= 4
