"""The arithmetic around a search for a prompt: which clips choose, which judge, and what chance alone would promise."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from tasks.functional.grouping import deal
from tasks.functional.metrics import FloatArray
from tasks.functional.prompt_race import Clips, clips_in_blocks

SEARCH, HELD_OUT = "search", "held out"


class Roles(NamedTuple):
    """role: (n,) "search", "held out" or "" (a dev clip of a group that is not needed); block: (n,) from 0, -1 outside the
    search."""

    role: pd.Series
    block: pd.Series

    def searched(self, table: pd.DataFrame, first: str) -> Clips:
        """The search clips of the table they were dealt from, in its order."""
        own = table[self.role == SEARCH]
        group, _ = pd.factorize(own["group_id"], sort=True)
        return Clips(group, (own["label"] == first).to_numpy(), self.block[self.role == SEARCH].to_numpy())


def deal_roles(
    dev: pd.DataFrame, classes: tuple[str, str], *, held_out: float, clips: int, blocks: int, seed: int
) -> Roles:
    """Dev groups dealt to those that choose a prompt and those that judge it, apart by group and supergroup; of the first
    as many whole groups of each class as hold about `clips` clips, in blocks.

    dev: clip_id, group_id, label, perhaps supergroup_id and family. Raises ValueError for no clips, one class, or too few
    groups of a class for both sides.
    """
    if dev.empty:
        raise ValueError("the dev part has no clips: a prompt is chosen on dev, give dev a share in dataset.splits")
    if missing := [name for name in classes if not (dev["label"] == name).any()]:
        raise ValueError(
            f"all {len(dev)} dev clips are of one class, none is {missing[0]}: balanced accuracy needs both classes"
        )
    supergroup = dev["supergroup_id"] if "supergroup_id" in dev else dev["group_id"]
    table = dev.assign(role="content", supergroup_id=supergroup.fillna(dev["group_id"]))
    try:
        part = deal(table, {SEARCH: 1 - held_out, HELD_OUT: held_out}, seed)
    except ValueError as error:
        raise ValueError(
            f"dev cannot be parted into clips that choose a prompt and clips that judge it: {error}"
        ) from error
    kept = _whole_groups(dev[part == SEARCH], classes, clips, seed)
    role = part.where((part != SEARCH) | dev["group_id"].isin(kept), "")
    own = dev[role == SEARCH]
    made = clips_in_blocks(own["group_id"].tolist(), (own["label"] == classes[0]).tolist(), blocks, seed)
    block = pd.Series(-1, index=dev.index)
    block[own.index] = made.block
    return Roles(role, block)


def _whole_groups(rows: pd.DataFrame, classes: Sequence[str], clips: int, seed: int) -> set[str]:
    """Groups drawn in turn from the class with fewer clips so far, until about `clips` are held; two of each class at least
    where there are two."""
    random, kept = np.random.default_rng(seed), set[str]()
    waiting = {
        name: list(random.permutation(sorted(rows.loc[rows["label"] == name, "group_id"].unique())))
        for name in classes
    }
    size = rows.groupby("group_id").size()
    held, taken = dict.fromkeys(classes, 0), dict.fromkeys(classes, 0)
    while any(waiting.values()):
        name = min((name for name in classes if waiting[name]), key=lambda each: held[each])
        group = waiting[name].pop()
        if group in kept:
            continue
        n = int(size[group])
        if sum(held.values()) + n / 2 > clips and min(taken[name], 2) == 2:
            waiting[name] = []
            continue
        kept.add(group)
        held[name] += n
        taken[name] += 1
    return kept


# --- what chance promises ----------------------------------------------------------------------------------------


def expected_maximum(n: int) -> float:
    """Mean of the largest of n independent standard normal draws: 0 for one, 2.16 for 40."""
    from scipy.integrate import quad
    from scipy.special import ndtr

    if n < 1:
        raise ValueError(f"the largest of {n} is none")

    def survives(x: float) -> float:
        return float(1 - ndtr(x) ** n - ndtr(-x) ** n)  # E max = integral of P(max > x) - P(max < -x) over x > 0

    return float(quad(survives, 0, 12, limit=200)[0])


def chance_optimism(answers: FloatArray, clips: Clips, n: int) -> float:
    """By how much the best of n equally good prompts is expected to score above what it is worth, on these clips.

    Two prompts differ by a standard error e (over groups); were all n equal, their scores would scatter by e / sqrt(2)
    around the value they share, and the best lie `expected_maximum(n)` of that above it. e: the root mean square over all
    pairs of prompts, and over draws. answers: (draws, prompts, clips), 1 for a right one, 0 for a wrong one, drawn where
    it is missing: probabilities scatter less than answers, and would promise too little. NaN for a prompt that was asked
    nothing. 0 for fewer than two prompts, and where a class has fewer than two groups.
    """
    there = answers[:, ~np.isnan(answers).all(axis=(0, 2))]
    if n < 2 or there.shape[1] < 2:
        return 0.0
    scatter = 0.0  # e^2 / 2: half the mean square difference of all pairs is the variance
    for side in (True, False):
        here = clips.is_first == side
        code, names = pd.factorize(clips.group[here])
        if len(names) < 2:
            return 0.0
        own = there[:, :, here]
        sums = (own - own.mean(axis=2, keepdims=True)) @ np.eye(len(names))[code]  # (draws, prompts, groups)
        between = sums.var(axis=1, ddof=1).sum(axis=1).mean()
        scatter += 0.25 * len(names) / (len(names) - 1) * float(between) / float(here.sum()) ** 2
    return expected_maximum(n) * float(np.sqrt(scatter))


# --- style -------------------------------------------------------------------------------------------------------


class Effect(NamedTuple):
    """Mean balanced accuracy of prompts with a trait less that of those without, its interval, and how many there are."""

    trait: str
    with_it: int
    without: int
    difference: float | None
    low: float | None
    high: float | None
    reason: str | None


def style_effects(
    right: FloatArray,
    answers: FloatArray,
    clips: Clips,
    traits: Mapping[str, Sequence[bool]],
    *,
    n_boot: int,
    seed: int,
) -> list[Effect]:
    """One effect a trait, over prompts and groups drawn anew and crosswise (Owen 2007, the pigeonhole bootstrap).

    Each prompt counts by how it did beside the first. right: (prompts, clips) right answers or their probabilities, for the
    differences; answers: (draws, prompts, clips) the same with the missing ones drawn, for the intervals, each bootstrap
    draw over the next of them; NaN for a prompt that was asked nothing. A trait that fewer than two prompts have, or lack,
    has no interval.
    """
    return [
        _effect(name, np.asarray(has, dtype=bool), right, answers, clips, n_boot, seed) for name, has in traits.items()
    ]


def _effect(
    name: str, has: np.ndarray, right: FloatArray, answers: FloatArray, clips: Clips, n_boot: int, seed: int
) -> Effect:
    n_with, n_without = int(has.sum()), int((~has).sum())
    if not n_with or not n_without:
        return Effect(name, n_with, n_without, None, None, None, "all prompts are alike in it")
    n_groups = int(clips.group.max()) + 1
    lead = _leads(right, clips, np.ones((1, n_groups)))[0]
    value = _mean(lead[has]) - _mean(lead[~has])
    if np.isnan(value):
        return Effect(name, n_with, n_without, None, None, None, "none on a side was asked of both classes")
    if min(n_with, n_without) < 2:
        return Effect(name, n_with, n_without, value, None, None, "one prompt on a side: no interval")
    random, drawn = np.random.default_rng(seed), np.empty(n_boot)
    times = np.stack([_draw(random, clips, n_groups) for _ in range(n_boot)])
    leads = np.empty((n_boot, len(right)))
    for k, one in enumerate(answers[:n_boot]):
        leads[k :: len(answers)] = _leads(one, clips, times[k :: len(answers)])
    for k in range(n_boot):
        own, others = (random.choice(np.flatnonzero(side), int(side.sum())) for side in (has, ~has))
        drawn[k] = _mean(leads[k, own]) - _mean(leads[k, others])
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Effect(name, n_with, n_without, value, float(low), float(high), None)


def _mean(leads: FloatArray) -> float:
    """Mean of the leads there are: a prompt may have been asked of one class only, or of no group that was drawn."""
    there = leads[~np.isnan(leads)]
    return float(there.mean()) if len(there) else np.nan


def _draw(random: np.random.Generator, clips: Clips, n_groups: int) -> FloatArray:
    """How often each group comes where those of each class are drawn with replacement."""
    times = np.zeros(n_groups)
    first = np.bincount(clips.group, weights=clips.is_first, minlength=n_groups) > 0
    for side in (first, ~first):
        ours = np.flatnonzero(side)
        times += np.bincount(random.choice(ours, len(ours)), minlength=n_groups)
    return times


def _leads(right: FloatArray, clips: Clips, times: FloatArray) -> FloatArray:
    """Each prompt's balanced accuracy less the first one's on the clips it saw, groups weighted: (draws, prompts)."""
    lead = np.nan_to_num(right - right[0])
    seen = (~np.isnan(right)).astype(float)
    found = np.zeros((len(times), len(right)))
    for side in (True, False):
        here = clips.is_first == side
        onto = np.eye(times.shape[1])[clips.group[here]]  # (clips, groups)
        above, below = times @ (lead[:, here] @ onto).T, times @ (seen[:, here] @ onto).T
        found += 0.5 * np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    return found
