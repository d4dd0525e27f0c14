"""Successive elimination of prompts on paired blocks of clips: first whole groups at random, then what is least certain."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tasks.functional.metrics import BoolArray, FloatArray, IntArray

PRIOR_DF = 6.0  # with how many observations the spread pooled over all prompts counts beside a prompt's own
GROUP_SHARE = 0.2  # of the variance left over that the clips of a group share
RIDGE = 1e-3  # of the regression on other prompts, per clip
PRIOR_CLIPS = 15.0  # that tell of a prompt no more of a clip's class than the others do
MOST_KNOWN = 6  # prompts known on all clips that another one's answers are predicted from, the latest ones
DRAWS = 500  # of the answers that are missing
SURE = 0.95  # a prompt that is better than the best with this probability is asked of all clips at once
EQUAL = 1e-9  # closer scores are equal

Ask = Callable[[Sequence[int], IntArray], FloatArray]


class Clips(NamedTuple):
    """What is known of n clips beforehand: group (n,) as numbers from 0, is_first (n,), block (n,) from 0, each group in
    one block."""

    group: IntArray
    is_first: BoolArray
    block: IntArray

    @property
    def blocks(self) -> int:
        """Blocks there are."""
        return int(self.block.max()) + 1

    @property
    def weight(self) -> FloatArray:
        """What a right clip adds to balanced accuracy, (n,)."""
        first = int(self.is_first.sum())
        return np.where(self.is_first, 0.5 / first, 0.5 / (len(self.is_first) - first))

    @property
    def sign(self) -> FloatArray:
        """1 where the first class is right, else -1, (n,)."""
        return np.where(self.is_first, 1.0, -1.0)


class Standing(NamedTuple):
    """Of prompts: margin (prompts, n), log odds of the first answer, NaN where not asked; score (prompts,): balanced
    accuracy over all clips, less its penalty, as known or as last predicted; best: the number of the best one that was
    asked of all clips."""

    margin: FloatArray
    score: FloatArray
    best: int

    @property
    def whole(self) -> BoolArray:
        """Which prompts were asked of all clips, (prompts,)."""
        return np.array(~np.isnan(self.margin).any(axis=1))

    @property
    def evaluations(self) -> int:
        """Answers that were asked for."""
        return int((~np.isnan(self.margin)).sum())


def clips_in_blocks(group: Sequence[object], is_first: Sequence[bool], blocks: int, seed: int) -> Clips:
    """Whole groups in blocks of about as many clips, drawn in turn from the class that is behind; the first block holds
    groups of both. Raises ValueError for clips of one class.
    """
    first = np.asarray(is_first, dtype=bool)
    if first.all() or not first.any():
        raise ValueError(
            f"all {len(first)} clips to search on are of one class: balanced accuracy needs both, widen the dev part"
        )
    names = {name: k for k, name in enumerate(sorted({*group}, key=str))}
    code = np.array([names[name] for name in group])
    size, share = np.bincount(code), np.bincount(code, weights=first) / np.bincount(code)
    shuffled = np.random.default_rng(seed).permutation(len(names)).tolist()
    waiting = {side: [g for g in shuffled if (share[g] > 0.5) == side] for side in (True, False)}
    whole = {side: sum(int(size[g]) for g in its) for side, its in waiting.items()}
    held, order = {True: 0, False: 0}, list[int]()
    while any(waiting.values()):
        side = min((side for side in waiting if waiting[side]), key=lambda each: held[each] / whole[each])
        order.append(waiting[side].pop())
        held[side] += int(size[order[-1]])
    ends = np.cumsum(size[order])
    both = max(int(np.argmax(share[order] > 0)), int(np.argmax(share[order] < 1)))  # up to here it has both classes
    dealt = (ends - 1) * blocks // ends[-1]
    _, dealt = np.unique(np.where(np.arange(len(order)) <= both, 0, dealt), return_inverse=True)
    block = np.empty(len(names), dtype=int)
    block[order] = dealt
    return Clips(code, first, block[code])


def race(
    ask: Ask,
    clips: Clips,
    standing: Standing,
    runners: Sequence[int],
    penalty: FloatArray,
    confidence: float,
    seed: int,
) -> Standing:
    """Ask the runners block after block, and drop each that will, with `confidence`, not become the best.

    What is asked first, before any is dropped, is that of `opening`. Then, and after each block, the missing answers are
    drawn anew many times (`simulate`). A runner that is surely better than the best is asked of all clips, so that the
    others are measured against what is known; one that comes to what it has to reach in too few draws is dropped. The next
    block holds the clips on which the others' answers are least certain: they decide, and most clips are answered alike by
    any prompt. Who is left is known on all clips, so the choice is that of asking every clip unless the best one was
    dropped. Of equals the one with the lower number is best.
    ask: (prompts, clips) margins for numbers of prompts and of clips. penalty: (prompts,). Some prompt of `standing`
    was asked of all clips, the runners of none.
    """
    margin, score, best = standing.margin.copy(), standing.score.copy(), standing.best
    random, size = np.random.default_rng(seed), -(-len(clips.group) // clips.blocks)
    alive, places = np.array(runners, dtype=int), opening(clips, known_beside(margin, best), size)

    def complete(numbers: IntArray) -> None:
        nonlocal best
        for number in numbers.tolist():
            if len(missing := np.flatnonzero(np.isnan(margin[number]))):
                margin[number, missing] = ask([number], missing)[0]
            score[number] = known_score(margin[number], clips) - penalty[number]
            if (score[number], -number) > (score[best], -best):
                best = number

    def goal() -> FloatArray:
        return np.array(score[best] + penalty[alive] + np.where(alive > best, EQUAL, -EQUAL))

    while len(alive):
        margin[np.ix_(alive, places)] = ask(alive.tolist(), places)
        missing = np.isnan(margin[alive[0]])  # the same clips of all
        if missing.sum() <= size:
            complete(alive)
            break
        drawn = simulate(margin[alive], known_beside(margin, best), clips, random)
        score[alive] = drawn.score.mean(axis=1) - penalty[alive]
        top = int(np.argmax(score[alive]))
        if drawn.chance(goal())[top] > SURE:
            complete(alive[[top]])
        chance, may = drawn.chance(goal()), drawn.most > goal()
        stays = np.isnan(margin[alive]).any(axis=1) & may & (chance >= 1 - confidence)
        alive, places = alive[stays], least_certain(drawn.right[stays], chance[stays], missing, size)
    return Standing(margin, score, best)


def ask_all(ask: Ask, clips: Clips, standing: Standing, runners: Sequence[int], penalty: FloatArray) -> Standing:
    """Ask every runner of all clips: the search that a race is measured against."""
    margin, score, best = standing.margin.copy(), standing.score.copy(), standing.best
    for number in runners:
        margin[number] = ask([number], np.arange(len(clips.group)))[0]
        score[number] = known_score(margin[number], clips) - penalty[number]
        if (score[number], -number) > (score[best], -best):
            best = number
    return Standing(margin, score, best)


def standing_so_far(standing: Standing, clips: Clips, penalty: FloatArray) -> Standing:
    """The scores and the best of the prompts that all clips are known of, where a race was cut short. Some prompt is."""
    score, whole = standing.score.copy(), np.flatnonzero(standing.whole)
    score[whole] = [known_score(standing.margin[number], clips) - penalty[number] for number in whole]
    return Standing(standing.margin, score, int(whole[np.argmax(score[whole])]))


def known_score(margin: FloatArray, clips: Clips) -> float:
    """Balanced accuracy of the margins (n,) of one prompt, rounded so that equal ones are equal."""
    return round(float((margin * clips.sign > 0) @ clips.weight), 12)


# --- what is predicted -------------------------------------------------------------------------------------------


class Simulated(NamedTuple):
    """Of each runner: balanced accuracy over all clips in every draw (runners, draws), the most it can come to (runners,),
    the share of draws in which it answers a clip rightly (runners, n), 0 or 1 where that is known, and whether it does in
    each draw (runners, draws, missing clips)."""

    score: FloatArray
    most: FloatArray
    right: FloatArray
    drawn: BoolArray

    def chance(self, goal: FloatArray) -> FloatArray:
        """With which probability each runner scores above its goal, (runners,)."""
        return np.array((self.score > goal[:, None]).mean(axis=1))


def simulate(margin: FloatArray, references: FloatArray, clips: Clips, random: np.random.Generator) -> Simulated:
    """The answers that are missing, drawn from their posterior predictive distribution.

    Prompts shift and stretch a model's log odds more than they reorder clips. So each runner's margins are regressed on
    those of prompts that are known on all clips, and on the clips' classes, held near 0 by `PRIOR_CLIPS`, for a prompt
    may make a model hear what no known one does; by generalised least squares, for what is left over is alike within a
    group. A draw holds a spread (scaled inverse chi square), coefficients that fit with it, and what is left over. The
    spread of a runner is moderated by that of all (Smyth 2004, doi:10.2202/1544-6115.1027), and never below its own.
    Every runner is drawn with the same random numbers.
    margin: (runners, n), NaN at the same clips of all; references: (k, n).
    """
    seen = ~np.isnan(margin[0])
    x = np.vstack([np.ones(len(seen)), clips.sign, references]).T
    mixed, ahead = whitened(np.column_stack([x[seen], margin[:, seen].T]), clips.group[seen]), x[~seen]
    a, y = mixed[:, : x.shape[1]], mixed[:, x.shape[1] :].T
    gram = a.T @ a + np.diag([0.0, PRIOR_CLIPS] + [RIDGE * len(a)] * len(references))
    inverse = np.linalg.pinv(gram, hermitian=True)
    beta = y @ a @ inverse  # (runners, k + 2)
    squares, df = ((y - beta @ a.T) ** 2).sum(axis=1), max(1, len(a) - x.shape[1])
    variance = np.maximum((PRIOR_DF * squares.mean() / df + squares) / (PRIOR_DF + df), squares / df) + 1e-12
    spread = np.sqrt(variance[:, None] * (PRIOR_DF + df) / random.chisquare(PRIOR_DF + df, DRAWS))  # (runners, draws)
    values, vectors = np.linalg.eigh(inverse)
    root = vectors * np.sqrt(np.maximum(values, 0))
    shift = random.standard_normal((DRAWS, len(values))) @ root.T @ ahead.T  # of the fit, (draws, missing)
    by_group = random.standard_normal((DRAWS, int(clips.group.max()) + 1))[:, clips.group[~seen]]
    by_clip = random.standard_normal(shift.shape)
    noise = shift + np.sqrt(GROUP_SHARE) * by_group + np.sqrt(1 - GROUP_SHARE) * by_clip
    says = ((beta @ ahead.T)[:, None] + spread[:, :, None] * noise) * clips.sign[
        ~seen
    ] > 0  # (runners, draws, missing)
    right = (margin * clips.sign > 0).astype(float)
    so_far = right[:, seen] @ clips.weight[seen]
    right[:, ~seen] = says.mean(axis=1)
    return Simulated(so_far[:, None] + says @ clips.weight[~seen], so_far + clips.weight[~seen].sum(), right, says)


def whitened(rows: FloatArray, group: IntArray) -> FloatArray:
    """Rows (n, k) whose errors share `GROUP_SHARE` of their variance within a group, made such that they share none: each
    less a part of its group's mean, divided so that a row keeps its weight."""
    _, code, size = np.unique(group, return_inverse=True, return_counts=True)
    sums = np.zeros((len(size), rows.shape[1]))
    np.add.at(sums, code, rows)
    part = 1 - np.sqrt((1 - GROUP_SHARE) / (1 - GROUP_SHARE + size * GROUP_SHARE))
    return (rows - (part / size)[code, None] * sums[code]) / np.sqrt(1 - GROUP_SHARE)


def known_beside(margin: FloatArray, best: int) -> FloatArray:
    """What others are predicted from: the margins of the best prompt and of the latest ones known on all clips."""
    whole = np.flatnonzero(~np.isnan(margin).any(axis=1))
    return margin[sorted({*whole[-MOST_KNOWN:].tolist(), best})]


def opening(clips: Clips, references: FloatArray, size: int) -> IntArray:
    """Clips that every runner is asked before any is dropped: the first block and, up to two blocks' worth, those on which
    prompts known on all clips lie nearest to saying the other thing.

    Whole groups at random show how a prompt shifts and stretches, but hold few clips near its boundary: where most answers
    are plain, a prompt was judged by none of those on which prompts differ. references: (k, n).
    """
    first = np.flatnonzero(clips.block == 0)
    distance = np.where(clips.block == 0, np.inf, np.abs(references.mean(axis=0)))
    more = min(2 * size, len(distance)) - len(first)
    return np.concatenate([first, np.argsort(distance, kind="stable")[: max(0, more)]])


def least_certain(right: FloatArray, chance: FloatArray, missing: BoolArray, size: int) -> IntArray:
    """`size` of the missing clips, those whose answers are least certain, above all of runners that may or may not win."""
    doubt = (chance * (1 - chance) + 1e-3) @ (right * (1 - right))
    return np.argsort(np.where(missing, -doubt, np.inf), kind="stable")[:size]


def filled(margin: FloatArray, clips: Clips, best: int, seed: int) -> FloatArray:
    """1 for a right answer, 0 for a wrong one, and the probability of a right one where none was asked for; NaN for a prompt
    that was asked nothing. (prompts, n)

    What a race asks beside its first block is chosen, so it is no sample of the clips.
    """
    right = np.where(np.isnan(margin), np.nan, margin * clips.sign > 0)
    for number in np.flatnonzero(np.isnan(margin).any(axis=1) & ~np.isnan(margin).all(axis=1)):
        random = np.random.default_rng(seed)
        right[number] = simulate(margin[[number]], known_beside(margin, best), clips, random).right[0]
    return right


def drawn_answers(margin: FloatArray, clips: Clips, best: int, draws: int, seed: int) -> FloatArray:
    """`filled` with the answers that are missing drawn, not averaged: as many right as their probabilities say, and as
    scattered as answers are. 1 for a right answer, 0 for a wrong one, NaN for a prompt that was asked nothing.
    (draws, prompts, n), at most `DRAWS` draws.

    What says how far two prompts' scores scatter needs these: a probability has lost the variance of its answer. The clips
    of a prompt are drawn together. Prompts share what known ones tell of a clip, and are drawn apart otherwise. Where
    groups share far more of what is left over than `GROUP_SHARE`, the scatter is still too small.
    Raises ValueError for more draws than there are.
    """
    if not 1 <= draws <= DRAWS:
        raise ValueError(f"{draws} draws of the missing answers: from 1 to {DRAWS} can be had")
    right = np.where(np.isnan(margin), np.nan, margin * clips.sign > 0)
    answers, random = np.repeat(right[None], draws, axis=0), np.random.default_rng(seed)
    for number in np.flatnonzero(np.isnan(margin).any(axis=1) & ~np.isnan(margin).all(axis=1)):
        found = simulate(margin[[number]], known_beside(margin, best), clips, random)
        answers[:, number, np.isnan(margin[number])] = found.drawn[0, :draws]
    return answers
