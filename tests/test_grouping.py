"""No group, supergroup or noise file on two parts; every class on every part; counts near the fractions."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks.functional.grouping import deal

PARTS = {"train": 0.6, "dev": 0.2, "test": 0.2}


def recordings(rows: list[tuple[str, str | None, str, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["role", "label", "group_id", "supergroup_id"])


def corpus(speakers: int = 10, sounds: int = 15, noises: int = 5, per_group: int = 2) -> pd.DataFrame:
    rows = [("content", "SPEECH", f"s{k}", f"s{k}") for k in range(speakers)]
    rows += [("content", "NONSPEECH", f"n{k}", f"n{k}") for k in range(sounds)]
    rows += [("noise", None, f"b{k}", f"b{k}") for k in range(noises)]
    return recordings([row for row in rows for _ in range(per_group)])


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """Few names for many rows, so that groups and supergroups chain across roles; three free groups a stratum."""
    row = st.tuples(
        st.sampled_from([("content", "SPEECH"), ("content", "NONSPEECH"), ("noise", None)]),
        st.integers(0, 30).map("g{}".format),
        st.integers(0, 25).map("u{}".format),
    )
    rows = [(role, label, group, up) for (role, label), group, up in draw(st.lists(row, max_size=40))]
    free = [("content", "SPEECH"), ("content", "NONSPEECH"), ("noise", None)]
    rows += [
        (role, label, f"free-{role}-{label}-{k}", f"up-{role}-{label}-{k}") for role, label in free for k in range(3)
    ]
    return recordings(rows)


@settings(max_examples=20, deadline=None)
@given(tables(), st.integers(0, 99))
def test_nothing_is_on_two_parts_and_every_class_on_all(table: pd.DataFrame, seed: int) -> None:
    part = deal(table, PARTS, seed)
    for column in ("group_id", "supergroup_id"):
        assert (part.groupby(table[column]).nunique() == 1).all()
    for _, stratum in table.fillna({"label": ""}).groupby(["role", "label"]):
        assert set(part[stratum.index]) == set(PARTS)


@settings(max_examples=12, deadline=None)
@given(tables(), st.integers(0, 99))
def test_the_order_of_the_rows_changes_nothing(table: pd.DataFrame, seed: int) -> None:
    shuffled = table.sample(frac=1, random_state=seed)
    pd.testing.assert_series_equal(deal(shuffled, PARTS, seed).sort_index(), deal(table, PARTS, seed))


@settings(max_examples=10, deadline=None)
@given(st.integers(5, 60), st.integers(5, 60), st.integers(5, 30), st.integers(0, 99))
def test_independent_groups_come_within_one_of_the_fractions(
    speakers: int, sounds: int, noises: int, seed: int
) -> None:
    table = corpus(speakers, sounds, noises)
    part = deal(table, PARTS, seed)
    for stratum, n in (("s", speakers), ("n", sounds), ("b", noises)):
        of_it = table["group_id"].str.startswith(stratum)
        counts = table[of_it].groupby(part[of_it])["group_id"].nunique()
        for name, share in PARTS.items():
            assert abs(counts[name] - share * n) <= 1.2, (stratum, counts.to_dict())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=12, max_size=40), st.integers(0, 99))
def test_unequal_supergroups_come_within_the_largest_of_the_fractions(sizes: list[int], seed: int) -> None:
    rows = [("content", "SPEECH", f"{k}-{i}", f"u{k}") for k, size in enumerate(sizes) for i in range(size)]
    assume(len(sizes) >= 12)
    part = deal(recordings(rows), PARTS, seed)
    for name, share in PARTS.items():
        assert abs((part == name).sum() - share * len(rows)) <= max(sizes)


def test_a_noise_goes_where_its_uploaders_content_goes() -> None:
    table = corpus(noises=0)
    tied = recordings([("noise", None, f"b{k}", f"n{k}") for k in range(15)])
    table = pd.concat([table, tied], ignore_index=True)
    for seed in range(5):
        part = deal(table, PARTS, seed)
        assert (part.groupby(table["supergroup_id"]).nunique() == 1).all()
        assert set(part[table["role"] == "noise"]) == set(PARTS)


def test_dealing_each_role_for_itself_would_part_them() -> None:
    """The failure that pooling over roles guards against."""
    content = recordings([("content", "NONSPEECH", f"n{k}", f"u{k}") for k in range(15)])
    noise = recordings([("noise", None, f"b{k}", f"u{k}") for k in range(15)])
    apart = [deal(table, PARTS, 0).to_numpy() for table in (content, noise)]
    together = deal(pd.concat([content, noise], ignore_index=True), PARTS, 0).to_numpy()
    assert (together[:15] == together[15:]).all()
    assert any((apart[0] != deal(noise, PARTS, seed).to_numpy()).any() for seed in range(5))


def test_rooms_are_dealt_by_level() -> None:
    rooms = recordings([("room", None, f"r{k}", f"r{k}") for k in range(6)]).assign(category=["0.3"] * 3 + ["1"] * 3)
    part = deal(rooms, PARTS, 3)
    assert set(part[:3]) == set(part[3:]) == set(PARTS)


def test_families_are_spread_over_the_parts() -> None:
    families = np.repeat(["animals", "music", "environment", "noise"], 5)
    table = recordings([("content", "NONSPEECH", f"n{k}", f"n{k}") for k in range(20)]).assign(family=families)
    for seed in range(10):
        part = deal(table, PARTS, seed)
        assert (table[part == "train"].groupby("family").size() == 3).all()
        assert table[part == "test"]["family"].nunique() == 4


def test_another_seed_deals_otherwise() -> None:
    deals = {tuple(deal(corpus(), PARTS, seed)) for seed in range(6)}
    assert len(deals) > 3


def test_too_few_groups_name_the_class_the_number_and_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"SPEECH has 2 independent groups .* for 3 parts .*Add recordings"):
        deal(corpus(speakers=2), PARTS, 0)
    with pytest.raises(ValueError, match=r"noise has 1 independent group "):
        deal(corpus(noises=1), PARTS, 0)
    one_uploader = corpus().assign(supergroup_id=lambda t: t["supergroup_id"].mask(t["label"] == "SPEECH", "me"))
    with pytest.raises(ValueError, match="SPEECH has 1 independent group"):
        deal(one_uploader, PARTS, 0)


def test_recordings_without_a_group_are_refused() -> None:
    with pytest.raises(ValueError, match="2 recordings have no group_id"):
        deal(corpus().assign(group_id=lambda t: t["group_id"].mask(t["group_id"] == "s0")), PARTS, 0)
    with pytest.raises(ValueError, match="no recordings"):
        deal(corpus().head(0), PARTS, 0)
