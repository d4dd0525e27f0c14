"""Who chooses a prompt never judges it, and what chance would promise is what chance gives."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.functional.prompt_race import Clips, clips_in_blocks
from tasks.functional.prompt_search import (
    HELD_OUT,
    SEARCH,
    chance_optimism,
    deal_roles,
    expected_maximum,
    style_effects,
)

CLASSES = ("SPEECH", "NONSPEECH")


def dev_of(groups: int = 24, clips: int = 5, shared: int = 1) -> pd.DataFrame:
    """`clips` clips of each of so many groups, every `shared` of them in one supergroup."""
    group = np.repeat(np.arange(groups), clips)
    return pd.DataFrame({
        "clip_id": [f"c{k}" for k in range(len(group))], "group_id": [f"g{g}" for g in group],
        "supergroup_id": [f"s{g % 2}{g // (2 * shared)}" for g in group],
        "label": [CLASSES[g % 2] for g in group], "family": "",
    })  # fmt: skip


def roles_of(dev: pd.DataFrame, **changed):
    return deal_roles(dev, CLASSES, **{"held_out": 0.5, "clips": 30, "blocks": 5, "seed": 0, **changed})


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 3), st.integers(10, 80))
def test_no_group_or_supergroup_both_chooses_and_judges(seed, shared, clips):
    dev = dev_of(shared=shared)
    roles = roles_of(dev, seed=seed, clips=clips)
    for column in ("group_id", "supergroup_id"):
        sides = {role: set(dev.loc[roles.role == role, column]) for role in (SEARCH, HELD_OUT)}
        assert not sides[SEARCH] & sides[HELD_OUT]
    for role in (SEARCH, HELD_OUT):
        own = dev[roles.role == role]
        assert set(own["label"]) == set(CLASSES)
        assert (own.groupby("group_id").size() == 5).all(), "groups are whole"
    searched = dev[roles.role == SEARCH]
    assert len(searched) <= max(clips + 5, 4 * 5)
    assert abs(searched["label"].value_counts().diff().iloc[-1]) <= 5, "classes are even"
    assert ((roles.block >= 0) == (roles.role == SEARCH)).all()
    assert (searched.assign(block=roles.block).groupby("group_id")["block"].nunique() == 1).all()


def test_what_cannot_be_dealt_is_a_sentence():
    with pytest.raises(ValueError, match="the dev part has no clips"):
        roles_of(dev_of().iloc[:0])
    with pytest.raises(ValueError, match="all 60 dev clips are of one class, none is SPEECH"):
        roles_of(dev_of().query("label == 'NONSPEECH'"))
    with pytest.raises(ValueError, match=r"choose a prompt and clips that judge it: SPEECH has 1 independent group"):
        roles_of(dev_of().query("label == 'NONSPEECH' or group_id == 'g0'"))


@pytest.mark.parametrize(("n", "value"), [(1, 0.0), (2, 1 / np.sqrt(np.pi)), (3, 1.5 / np.sqrt(np.pi)), (40, 2.1608)])
def test_the_expected_maximum_is_that_of_the_books(n, value):
    assert expected_maximum(n) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("likeness", [0.0, 0.6])
def test_chance_promises_what_equal_prompts_show(likeness):
    """Forty prompts of one true accuracy, alike within groups and between prompts: the best looks so much better."""
    random, seen, told = np.random.default_rng(0), [], []
    group = np.repeat(np.arange(60), 3)
    clips = clips_in_blocks(group.tolist(), (group % 2 == 0).tolist(), 1, 0)
    for _ in range(60):
        shared = random.standard_normal(60)[group]
        own = random.standard_normal((40, 60))[:, group] + random.standard_normal((40, len(group)))
        right = (np.sqrt(likeness) * shared + np.sqrt(1 - likeness) * own / np.sqrt(2) < 1).astype(float)
        truth = 0.8413
        scores = right @ clips.weight
        seen.append(scores.max() - (scores.mean() if likeness else truth))
        told.append(chance_optimism(right[None, :12], clips, 40))
    assert np.mean(told) == pytest.approx(np.mean(seen), rel=0.2)
    assert chance_optimism(right[None, :1], clips, 1) == 0
    silent = np.vstack([right[:2], np.full((1, len(group)), np.nan)])
    assert chance_optimism(silent[None], clips, 40) == chance_optimism(right[None, :2], clips, 40), "asked nothing"


def test_the_scatter_of_prompts_is_that_of_their_pairs():
    """Two prompts that differ on one clip of two groups a class: e by hand."""
    clips = Clips(np.arange(4), np.array([True, True, False, False]), np.zeros(4, dtype=int))
    right = np.array([[1.0, 1, 1, 1], [0, 1, 1, 1]])
    e = np.sqrt(0.25 * 2 * (0.5**2 + 0.5**2) / 2**2)
    assert chance_optimism(right[None], clips, 2) == pytest.approx(e / np.sqrt(2) / np.sqrt(np.pi))
    both = np.stack([right, right[::-1]])
    assert chance_optimism(both, clips, 2) == pytest.approx(chance_optimism(right[None], clips, 2)), "over draws"
    assert chance_optimism(right[None, :, 1:], Clips(*(its[1:] for its in clips)), 2) == 0, "one group of a class"


def test_equal_prompts_of_the_originals_size_look_three_to_five_points_better():
    """150 clips, 40 prompts, 85 % right, half of what a clip brings shared by all prompts: what HISTORY's reading says."""
    random = np.random.default_rng(1)
    group = np.arange(150)
    clips = clips_in_blocks(group.tolist(), (group % 2 == 0).tolist(), 1, 0)
    shared = random.standard_normal(150)
    right = (np.sqrt(0.6) * shared + np.sqrt(0.4) * random.standard_normal((40, 150)) < 1.036).astype(float)
    assert 0.03 < chance_optimism(right[None], clips, 40) < 0.055


def test_a_trait_that_costs_ten_points_is_found_and_one_that_all_share_is_not_judged():
    random = np.random.default_rng(2)
    group = np.repeat(np.arange(80), 4)
    clips = clips_in_blocks(group.tolist(), (group % 2 == 0).tolist(), 1, 0)
    has = [k % 2 == 0 for k in range(30)]
    right = np.array([random.random(320) < (0.7 if its else 0.8) for its in has]).astype(float)
    right[5:, :100] = np.nan  # most were not asked of all
    found, alike = style_effects(
        right, right[None], clips, {"capitals": has, "short": [True] * 30}, n_boot=200, seed=0
    )
    assert found.low < -0.1 < found.high < 0
    assert (found.with_it, found.without) == (15, 15)
    assert alike.difference is None
    assert alike.reason == "all prompts are alike in it"
    (lone,) = style_effects(right, right[None], clips, {"question": [True] + [False] * 29}, n_boot=50, seed=0)
    assert lone.low is None
    assert "no interval" in lone.reason
