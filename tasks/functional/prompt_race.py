"""Successive elimination of prompts on paired blocks of clips, whole groups at a time."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tasks.functional.metrics import BoolArray, FloatArray, IntArray

PRIOR_DF = 6.0  # with how many observations the spread pooled over all prompts counts beside a prompt's own
DESIGN_EFFECT = (
    1.5  # how much more whole groups vary than single clips, once what they share with other prompts is out
)
RIDGE = 1e-3  # of the regression on other prompts, per clip
PRIOR_CLIPS = 15.0  # that tell of a prompt no more of a clip's class than the others do
MOST_KNOWN = 3  # prompts known on all clips that another one's answers are predicted from, the latest ones

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

    def right(self, clips: Clips) -> FloatArray:
        """1 for a right answer, 0 for a wrong one, NaN where there is none, (prompts, n)."""
        return np.where(np.isnan(self.margin), np.nan, self.margin * clips.sign > 0)


def clips_in_blocks(group: Sequence[object], is_first: Sequence[bool], blocks: int, seed: int) -> Clips:
    """Whole groups in blocks of about as many clips, drawn in turn from the class that is behind, so that every block but
    one of very few groups holds both. Raises ValueError for clips of one class.
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
    _, dealt = np.unique((ends - 1) * blocks // ends[-1], return_inverse=True)
    block = np.empty(len(names), dtype=int)
    block[order] = dealt
    return Clips(code, first, block[code])


def race(
    ask: Ask, clips: Clips, standing: Standing, runners: Sequence[int], penalty: FloatArray, confidence: float
) -> Standing:
    """Ask the runners block after block, and drop each that will, with `confidence`, not become the best.

    After a block the answers to the others are predicted (`predict`). A runner that is predicted to be the best is asked
    of all clips at once, so that the others are measured against what is known; those whose prediction lies too far below
    the best known score are dropped. Who survives all blocks is known as well, so the choice is that of asking every
    clip unless the best one was dropped. Of equals the one with the lower number is best.
    ask: (prompts, clips) margins for numbers of prompts and of clips. penalty: (prompts,). Some prompt of `standing`
    was asked of all clips.
    """
    margin, score, best = standing.margin.copy(), standing.score.copy(), standing.best
    alive = list(runners)

    def complete(number: int) -> None:
        nonlocal best
        missing = np.flatnonzero(np.isnan(margin[number]))
        if len(missing):
            margin[number, missing] = ask([number], missing)[0]
        score[number] = known_score(margin[number], clips) - penalty[number]
        if (score[number], -number) > (score[best], -best):
            best = number

    for block in range(clips.blocks):
        here = np.flatnonzero(clips.block == block)
        margin[np.array(alive)[:, None], here] = ask(alive, here)
        if block + 1 == clips.blocks:
            for number in alive:
                complete(number)
            break
        seen = clips.block <= block
        known = np.flatnonzero(~np.isnan(margin).any(axis=1))
        references = margin[sorted({*known[-MOST_KNOWN:].tolist(), best})]
        guess = predict(margin[alive], references, clips, seen)
        score[alive] = guess.score - penalty[alive]
        if score[top := alive[int(np.argmax(score[alive]))]] > score[best]:
            complete(top)
        far = _far_below(score[best] + penalty[alive], guess, confidence)
        alive = [number for number, out in zip(alive, far, strict=True) if not out and np.isnan(margin[number]).any()]
        if not alive:
            break
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
    """Balanced accuracy of the margins (n,) of one prompt."""
    return float((margin * clips.sign > 0) @ clips.weight)


# --- what is predicted -------------------------------------------------------------------------------------------


class Guess(NamedTuple):
    """For each runner: balanced accuracy over all clips as predicted, its standard error, and the most it can come to."""

    score: FloatArray
    error: FloatArray
    most: FloatArray
    df: float  # of the error


def predict(margin: FloatArray, references: FloatArray, clips: Clips, seen: BoolArray) -> Guess:
    """Balanced accuracy over all clips from the answers to those seen.

    Prompts shift and stretch a model's log odds more than they reorder clips. So each runner's margins are regressed on
    those of prompts that are known on all clips, and on the clips' classes, held near 0 by `PRIOR_CLIPS`, for a prompt
    may make a model hear what no known one does. An unseen clip counts by the probability that its predicted margin has
    the right sign (Student's t). The error holds that of single clips and that of the coefficients, both times
    `DESIGN_EFFECT`; a runner's residual spread is moderated by that of all (Smyth 2004, doi:10.2202/1544-6115.1027), and
    never below its own.
    margin: (runners, n), NaN where unseen; references: (k, n).
    """
    from scipy.special import stdtr

    x = np.vstack([np.ones(margin.shape[1]), clips.sign, references]).T
    a, y = x[seen], margin[:, seen]
    gram = a.T @ a + np.diag([0.0, PRIOR_CLIPS] + [RIDGE * len(a)] * len(references))
    inverse = np.linalg.pinv(gram)
    beta = y @ a @ inverse  # (runners, k + 2)
    squares = ((y - beta @ a.T) ** 2).sum(axis=1)
    df = max(1, len(a) - x.shape[1])
    pooled = (PRIOR_DF * squares.mean() / df + squares) / (PRIOR_DF + df)
    spread = np.sqrt(np.maximum(pooled, squares / df)) + 1e-9
    weight, sign = clips.weight[~seen], clips.sign[~seen]
    z = (beta @ x[~seen].T) / spread[:, None]
    leverage = np.einsum("ci,ij,cj->c", x[~seen], inverse, x[~seen])
    right = stdtr(PRIOR_DF + df, sign * z / np.sqrt(1 + leverage))
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    slope = (weight * sign * density) @ x[~seen]  # of the score, per sd of coefficient
    variance = (right * (1 - right)) @ weight**2 + np.einsum("ri,ij,rj->r", slope, inverse, slope)
    so_far = (y * clips.sign[seen] > 0) @ clips.weight[seen]
    return Guess(so_far + right @ weight, np.sqrt(DESIGN_EFFECT * variance), so_far + weight.sum(), PRIOR_DF + df)


def _far_below(best: FloatArray, guess: Guess, confidence: float) -> BoolArray:
    """Which runners will stay below what they have to reach, (runners,)."""
    from scipy.special import stdtrit

    return (best - guess.score > float(stdtrit(guess.df, confidence)) * guess.error) | (guess.most < best - 1e-12)
