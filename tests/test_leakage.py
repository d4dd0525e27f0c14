"""A planted leak of any kind is found and named; a clean table passes; a copy in disguise has the same hash."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.functional.leakage import audit, hash_of_pcm, pcm_hash

COLUMN = {
    "group": "group_id",
    "supergroup": "supergroup_id",
    "recording": "recording_id",
    "base clip": "base_clip_id",
    "noise file": "noise_id",
    "noise group": "noise_group_id",
    "noise supergroup": "noise_supergroup_id",
    "room": "room_id",
    "audio": "pcm_hash",
}


def clean(per_part: int = 4) -> pd.DataFrame:
    """Two clips share everything within a part, nothing is shared between parts, and some clips have no noise."""
    parts = np.repeat(["train", "dev", "test"], per_part)
    ids = [f"{part}{k // 2}" for part in ("train", "dev", "test") for k in range(per_part)]
    table = pd.DataFrame({column: [f"{column}-{i}" for i in ids] for column in COLUMN.values()}).assign(part=parts)
    table.loc[::4, ["noise_id", "noise_group_id", "noise_supergroup_id", "room_id"]] = None
    return table


def shared(table: pd.DataFrame) -> dict[str, int]:
    return audit(table).rows.set_index("check")["shared"].to_dict()


def test_a_clean_table_passes() -> None:
    found = audit(clean())
    assert found.verdict == "clean"
    assert found.rows["shared"].tolist() == [0] * len(COLUMN)


@pytest.mark.parametrize("check", sorted(COLUMN))
@settings(max_examples=4, deadline=None)
@given(st.integers(0, 3), st.integers(8, 11), st.integers(0, 99))
def test_a_planted_leak_is_found_and_named(check: str, here: int, there: int, seed: int) -> None:
    table = clean()
    table.loc[[here, there], COLUMN[check]] = "planted"
    found = audit(table.sample(frac=1, random_state=seed))
    assert found.verdict == "leaky"
    row = found.rows.set_index("check").loc[check]
    assert row["shared"] == 1
    assert row["pairs"] == "planted (test, train)"
    assert (found.rows.set_index("check")["shared"].drop(check) == 0).all()


@pytest.mark.parametrize(
    ("content", "noise", "checks"),
    [
        ("group_id", "noise_group_id", {"group", "noise group"}),
        ("supergroup_id", "noise_supergroup_id", {"supergroup", "noise supergroup"}),
        ("recording_id", "noise_id", {"recording", "noise file"}),
    ],
)
def test_content_here_that_is_noise_there_is_a_leak(content: str, noise: str, checks: set[str]) -> None:
    table = clean()
    table.loc[1, content] = table.loc[9, noise] = "rain"
    assert {check for check, n in shared(table).items() if n} == checks
    table.loc[9, noise], table.loc[2, noise] = None, "rain"  # both on train: no leak
    assert audit(table).verdict == "clean"


def test_missing_ids_are_no_identity() -> None:
    assert audit(clean().assign(noise_id=None, room_id=float("nan"))).verdict == "clean"


def test_absent_columns_are_not_reported_as_checked() -> None:
    rows = audit(clean()[["part", "group_id"]]).rows.set_index("check")["shared"]
    assert rows["group"] == 0
    assert rows.drop("group").isna().all()


def test_numbers_are_compared_with_numbers_beside_nulls() -> None:
    table = pd.DataFrame(
        {"split": ["a", "a", "b"], "group_id": [1, 2, 3], "noise_group_id": [float("nan"), 3.0, None]}
    )
    assert audit(table, "split").verdict == "leaky"


def test_any_column_may_be_a_group() -> None:
    table = clean().assign(session=["s1", "s1", "s2", "s2"] * 2 + ["s3"] * 4)
    found = audit(table, groups=("group_id", "session")).rows.set_index("check")["shared"]
    assert found["session"] == 2
    assert "session" not in audit(table).rows["check"].tolist()
    with pytest.raises(ValueError, match="needs the column speaker"):
        audit(table, groups=("speaker",))


def test_without_groups_exact_audio_is_compared_all_the_same() -> None:
    table = clean()[["part", "pcm_hash"]]
    assert audit(table, groups=()).verdict == "clean"
    table.loc[[0, 9], "pcm_hash"] = "same"
    assert audit(table, groups=()).verdict == "leaky"


def test_only_the_first_pairs_are_named() -> None:
    table = pd.DataFrame({"part": ["a", "b"] * 20, "group_id": np.repeat(np.arange(20), 2)})
    row = audit(table).rows.iloc[0]
    assert row["shared"] == 20
    assert row["pairs"].count("(a, b)") == 5
    assert row["pairs"].endswith("...")


def test_what_cannot_be_audited_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the column group_id"):
        audit(clean().drop(columns="group_id"))
    with pytest.raises(ValueError, match="1 of 12 rows have no group_id"):
        audit(clean().assign(group_id=lambda t: t["group_id"].mask(t.index == 0)))
    with pytest.raises(ValueError, match="two or more"):
        audit(clean().assign(part="train"))


pcm = hnp.arrays(np.int16, st.integers(1, 400), elements=st.integers(-32_767, 32_767))


@settings(max_examples=40, deadline=None)
@given(pcm, st.integers(0, 50), st.integers(0, 50))
def test_a_padded_or_inverted_copy_has_the_same_hash(samples: np.ndarray, before: int, after: int) -> None:
    audio = samples / 32_768
    assert pcm_hash(np.pad(audio, (before, after))) == pcm_hash(audio) == pcm_hash(-audio)
    assert pcm_hash(audio.astype(np.float32)) == pcm_hash(audio) == hash_of_pcm(samples) == hash_of_pcm(-samples)


@settings(max_examples=40, deadline=None)
@given(pcm, pcm)
def test_other_audio_has_another_hash(a: np.ndarray, b: np.ndarray) -> None:
    def canonical(x: np.ndarray) -> list[int]:
        trimmed = np.trim_zeros(x).tolist()
        return trimmed if not trimmed or trimmed[0] > 0 else [-value for value in trimmed]

    assert (pcm_hash(a / 32_768) == pcm_hash(b / 32_768)) == (canonical(a) == canonical(b))


def test_the_hash_of_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="no hash"):
        pcm_hash(np.array([0.1, np.nan]))
