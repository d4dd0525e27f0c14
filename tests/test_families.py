"""NONSPEECH in equal shares of its families, where a recipe asks for it: dealt to every part, drawn in every cell."""

import numpy as np
import pandas as pd
import pytest

from recipes.clips import FAMILIES
from recipes.data import DatasetRecipe
from recipes.reading import read_yaml
from recipes.schema import load_study
from tasks.functional.conditions import Condition
from tasks.functional.design import design
from tasks.functional.grouping import deal
from tasks.planning import describe_recordings

CLASSES = ("SPEECH", "NONSPEECH")
GROUPS = {"environment": 12, "music": 3, "animals": 7, "noise": 5}  # as unequal as corpora are


def recordings(groups: dict[str, int] | None = None) -> pd.DataFrame:
    """A group a recording, 10 s each, but for two animals of 150 ms."""
    counted = {"speech": 9, **(GROUPS if groups is None else groups)}
    rows = [(f"{family}{k}", family) for family, n in counted.items() for k in range(n)]
    table = pd.DataFrame(rows, columns=["recording_id", "family"])
    return table.assign(
        role="content", label=np.where(table["family"] == "speech", *CLASSES), group_id=table["recording_id"],
        supergroup_id=table["recording_id"], category=table["family"], licence="CC0",
        duration_s=np.where(table["recording_id"].isin(["animals0", "animals1"]), 0.15, 10.0), part="train",
    )  # fmt: skip


def planned(table: pd.DataFrame, families: tuple[str, ...] = FAMILIES, per_cell: int = 8) -> pd.DataFrame:
    counts = {Condition(duration_ms, None): per_cell for duration_ms in (100, 500)}
    return design(table, counts, classes=CLASSES, balance_families=families, seed=3)


@pytest.mark.parametrize("per_cell", [8, 6])
def test_every_cell_has_equal_shares_of_the_families(per_cell: int) -> None:
    plan = planned(recordings(), per_cell=per_cell)
    for _, cell in plan[plan["label"] == "NONSPEECH"].groupby("duration_ms"):
        counts = cell["family"].value_counts()
        assert set(counts.index) == set(FAMILIES)
        assert counts.max() - counts.min() <= (per_cell % 4 > 0)
    unasked = planned(recordings(), families=(), per_cell=per_cell)
    music = (unasked[unasked["label"] == "NONSPEECH"]["family"] == "music").mean()
    assert music < 0.2, "without being asked, the share of a family is that of its groups"


def test_groups_come_equally_often_within_a_family_and_speech_is_left_alone() -> None:
    plan = planned(recordings(), per_cell=48)
    long = plan[(plan["duration_ms"] == 500)]
    drawn = long.groupby(["family", "group_id"]).size()
    for family in ("environment", "music", "noise", "speech"):
        assert drawn[family].max() - drawn[family].min() <= 1
    assert set(drawn["animals"].index) == {f"animals{k}" for k in range(2, 7)}, (
        "two of them are too short for this level"
    )


def test_a_family_that_a_part_lacks_is_named_with_the_way_out() -> None:
    with pytest.raises(
        ValueError, match=r"NONSPEECH of family music at 100 ms .*`splits\.by_family: true` deals each"
    ):
        planned(recordings({**GROUPS, "music": 0}))
    short = recordings({**GROUPS, "animals": 2})
    with pytest.raises(
        ValueError, match=r"NONSPEECH of family animals at 500 ms \(needs 500 ms; the longest has 150 ms\)"
    ):
        planned(short)


def test_a_family_that_is_not_named_is_refused_and_not_passed_over() -> None:
    with pytest.raises(ValueError, match=r"NONSPEECH has recordings of family 'noise', which balance_families"):
        planned(recordings(), families=("environment", "music", "animals"))
    with pytest.raises(ValueError, match=r"recordings of family ''"):
        planned(recordings().replace({"family": {"noise": ""}}))


@pytest.mark.parametrize("seed", range(8))
def test_dealing_by_family_brings_every_family_to_every_part(seed: int) -> None:
    parts = {"train": 0.6, "dev": 0.2, "test": 0.2}
    table = recordings()
    dealt = table.assign(part=deal(table, parts, seed, by_family=True))
    assert (dealt.groupby(["part", "family"]).size().unstack(fill_value=0) > 0).all(axis=None)
    assert dealt.groupby("group_id")["part"].nunique().max() == 1


def test_without_it_some_part_goes_without_a_family() -> None:
    parts = {"train": 0.6, "dev": 0.2, "test": 0.2}
    table = recordings()
    without = [
        seed
        for seed in range(8)
        if (table.assign(part=deal(table, parts, seed)).groupby(["part", "family"]).size().unstack().isna()).any(
            axis=None
        )
    ]
    assert without, "dealing by class alone already spreads the families: by_family would be no use"


def test_a_family_with_too_few_groups_is_refused() -> None:
    with pytest.raises(ValueError, match=r"NONSPEECH music has 2 independent groups .* for 3 parts"):
        deal(recordings({**GROUPS, "music": 2}), {"train": 0.6, "dev": 0.2, "test": 0.2}, 0, by_family=True)


@pytest.mark.parametrize(
    ("given", "families"), [("true", FAMILIES), ("false", ()), ("[music, noise]", ("music", "noise"))]
)
def test_a_recipe_asks_for_the_four_or_for_those_it_names(given: str, families: tuple[str, ...]) -> None:
    study = load_study("study/smoke", [f"dataset.clips.balance_families={given}"])
    assert study.dataset.clips.balance_families == families
    part: DatasetRecipe = study.dataset
    assert part.clips_of("train").balance_families == families


def test_a_plan_prints_recordings_groups_and_length_of_each_class_and_family() -> None:
    study = load_study({**read_yaml("study/smoke"), "dataset": read_yaml("dataset/demo")})
    lines = describe_recordings(study, recordings())
    table = [line.split() for line in lines[1:]]
    assert table[0] == ["class", "family", "recordings", "groups", "supergroups", "length"]
    assert ["SPEECH", "all", "9", "9", "9", "1.5", "min"] in table[1:]
    assert ["NONSPEECH", "all", "27", "27", "27", "4.2", "min"] in table[1:]
    assert ["NONSPEECH", "music", "3", "3", "3", "0.5", "min"] in table[1:]
    assert not any(row[:2] == ["SPEECH", "speech"] for row in table), "one family needs no row of its own"
    unknown = recordings()
    unknown.loc[0, "duration_s"] = np.nan
    assert ["SPEECH", "all", "9", "9", "9", "1.3+", "min"] in [
        line.split() for line in describe_recordings(study, unknown)
    ]
    unknown.loc[unknown["label"] == "SPEECH", "duration_s"] = np.nan
    assert ["SPEECH", "all", "9", "9", "9", "?"] in [line.split() for line in describe_recordings(study, unknown)]


def test_a_plan_says_what_a_source_leaves_out() -> None:
    given = "{kind: esc50, root: /nowhere, role: noise}"
    study = load_study("study/smoke", [f"dataset.sources.2={given}"])
    said = describe_recordings(study, recordings())
    assert any("esc50 leaves out the human group (crying_baby, " in line for line in said)
