"""A cue that tells the classes apart on unheard clips is called out, one that only does so on train is not."""

import numpy as np
import pandas as pd
import pytest

from tasks.functional.shortcuts import (
    CALLED_OUT,
    MODEL,
    SHORTCUTS,
    describe_shortcuts,
    folds_of,
    measure_cues,
    measure_shortcuts,
)

N = 400


def table(seed: int = 0) -> pd.DataFrame:
    """Cues that say nothing, of clips of two classes on two parts."""
    rng = np.random.default_rng(seed)
    cues = pd.DataFrame(rng.standard_normal((N, len(SHORTCUTS))), columns=[*SHORTCUTS])
    return cues.assign(is_first=np.arange(N) % 2 == 0, part=["train"] * (N // 2) + ["test"] * (N // 2))


def scored(cues: pd.DataFrame) -> dict[str, dict[str, object]]:
    return measure_shortcuts(cues, folds_of(cues["part"]))


def test_cues_that_say_nothing_are_not_called_out():
    found = scored(table())
    assert set(found) == {*SHORTCUTS, MODEL}
    assert not any(cue["called_out"] for cue in found.values())
    assert describe_shortcuts(found, "200 of 900 clips of train") == [
        "shortcuts: no cue has an AUC over 0.65 on test; measured on 200 of 900 clips of train"
    ]


@pytest.mark.parametrize("cue", SHORTCUTS)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_planted_shortcut_is_called_out_whichever_way_it_points(cue, sign):
    cues = table()
    cues[cue] += sign * 2.0 * cues["is_first"]
    found = scored(cues)
    assert [name for name in SHORTCUTS if found[name]["called_out"]] == [cue]
    assert found[cue]["auc"] > 0.8
    assert found[MODEL]["called_out"]
    lines = describe_shortcuts(found, "5 of 9 clips of test")
    assert lines[0].startswith(f"shortcut: {cue} has an AUC of 0.")
    assert lines[-1] == "  cues measured on 5 of 9 clips of test"


def test_a_cue_is_scored_on_test_and_not_on_train():
    cues = table()
    on_train = cues["part"] == "train"
    cues.loc[on_train, "level_db"] += 3.0 * cues.loc[on_train, "is_first"]
    assert not scored(cues)["level_db"]["called_out"]
    cues.loc[~on_train, "level_db"] -= 3.0 * cues.loc[~on_train, "is_first"]
    assert scored(cues)["level_db"]["auc"] < 0.1, "train says which way it points"


def test_the_model_sees_what_no_single_cue_shows():
    cues = table()
    cues["centroid_hz"] += 2.5 * np.where(
        cues["is_first"], np.sign(cues["bandwidth_hz"]), -np.sign(cues["bandwidth_hz"])
    )
    found = scored(cues)
    assert found["centroid_hz"]["auc"] < CALLED_OUT
    assert found[MODEL]["auc"] > 0.9


def test_a_constant_cue_is_worth_one_half():
    assert scored(table().assign(duration_ms=500.0))["duration_ms"]["auc"] == 0.5


def test_folds_are_scored_one_after_the_other_and_averaged():
    cues = table().assign(part=np.repeat(["part0", "part1", "part2", "part3"], N // 4))
    cues["peak_db"] += 5.0 * (cues["is_first"] & (cues["part"] == "part0"))
    whole = measure_shortcuts(cues, folds_of(cues["part"]))["peak_db"]["auc"]
    each = [measure_shortcuts(cues, [fold])["peak_db"]["auc"] for fold in folds_of(cues["part"])]
    assert len(each) == 4
    assert whole == pytest.approx(np.mean(each), abs=1e-4)


def test_train_and_test_are_the_fold_where_there_are_parts_of_these_names():
    part = pd.Series(["train", "dev", "test", "test"])
    ((train, test),) = folds_of(part)
    assert train.tolist() == [True, False, False, False]
    assert test.tolist() == [False, False, True, True]


def test_a_part_without_one_class_is_left_out_and_nothing_to_score_is_refused():
    cues = table().assign(part=np.repeat(["a", "b", "c", "d"], N // 4))
    cues.loc[cues["part"] == "d", "is_first"] = True
    three = [fold for name, fold in zip("abcd", folds_of(cues["part"]), strict=True) if name != "d"]
    assert measure_shortcuts(cues, folds_of(cues["part"])) == measure_shortcuts(cues, three)
    with pytest.raises(ValueError, match="both classes in train and in test"):
        measure_shortcuts(cues, [(np.ones(N, bool), (cues["part"] == "d").to_numpy())])


def test_the_cues_of_a_clip_are_its_own():
    clip = np.concatenate([np.zeros(800), 0.5 * np.sin(2 * np.pi * 1000 * np.arange(800) / 16_000)]).astype(np.float32)
    cues = dict(zip(SHORTCUTS, measure_cues(clip, 1_234), strict=True))
    assert cues["duration_ms"] == 100
    assert cues["encoded_bytes"] == 1_234
    assert cues["zero_share"] == pytest.approx(0.5, abs=0.05)
    assert cues["level_db"] == pytest.approx(10 * np.log10(0.125 / 2), abs=0.01)
    assert cues["centroid_hz"] == pytest.approx(1000, abs=200)
