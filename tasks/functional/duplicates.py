"""Copies under another name: the same recording at another offset, gain, SNR or band, found by content alone.

Pairs whose spectrograms are alike are compared sample by sample. What is judged is the height of the whitened
cross-correlation, against what chance brings over all lags of all pairs of the search.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.functional.audio import SAMPLE_RATE_HZ, Waveform
from tasks.functional.candidates import candidates, learn
from tasks.functional.coherence import BATCH, Signal, compress, confirm, correlate, fft_size, whiten

FAMILY_WISE = 0.01  # pairs that chance alone may bring among all that were searched
SUSPECT = 1.0  # the same, for pairs that are listed and not judged
SPREAD = 1.32  # of a score by chance: real voices came to 1.31 times what noise does (tests/bench/bench_duplicates.py)
LEAST = 8.0  # of a score, however few lags were searched: one speaker's takes of a word come close
SHORTEST_S = 0.02
PIECE_S, OVERLAP_S = 2.0, 0.5
MOST_PAIRS = 100_000  # of pieces, up to which all are compared; of more the likest, about as many in all
CANDIDATES = 8  # but at least so many partners of every piece
LEARNED_FROM = 250  # pieces
SCREEN = 6.5  # deviations over a whole pair from which its overlap is looked at
TILE = 8  # pieces on a side of the tiles in which pairs are taken, so that their spectra serve more than once
MOST_THREADS = 8

Pairs = NDArray[np.intp]  # (n, 2)


def find_duplicates(
    audio_a: Sequence[NDArray[np.floating]], audio_b: Sequence[NDArray[np.floating]], *, sample_rate: int
) -> pd.DataFrame:
    """Pairs judged to be the same recording, at another offset, gain, sign, SNR or band: a, b, score, lag_s.

    `audio_a`, `audio_b`: one-dimensional waveforms. a and b are list positions, b[t] matches a[t + lag_s], score is in
    standard deviations, strongest first. Chance brings .01 such pairs in a whole search. Nothing under 20 ms is
    searched. Raises ValueError on arrays that are not one-dimensional or not finite, and on a sample rate that is not
    positive.
    """
    part = [0] * len(audio_a) + [1] * len(audio_b)
    found = search([*audio_a, *audio_b], part, sample_rate=sample_rate)
    table = found.table[found.table["score"] >= least_score(found.lags)].reset_index(drop=True)
    return table.assign(b=table["b"] - len(audio_a))[["a", "b", "score", "lag_s"]]


class Search(NamedTuple):
    """What a search found and what it could see.

    `table`: a, b (positions, the part of a before that of b), score, lag_s, expected (pairs that chance alone brings so
    high over all lags), strongest first, where expected < 1. `lags`: of all pairs together. `compared`: pairs of pieces
    that were compared sample by sample, `pairs`: all there are. `unsearchable`: positions of clips that are silent or
    under 20 ms.
    """

    table: pd.DataFrame
    lags: float
    compared: int
    pairs: int
    unsearchable: list[int]


def search(
    audio: Sequence[NDArray[np.floating]],
    part: Sequence[int],
    *,
    sample_rate: int,
    most_pairs: int = MOST_PAIRS,
    lags: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Search:
    """Pairs of clips of different parts of which chance brings less than one in `lags` (by default those searched).

    Of more than `most_pairs` pairs about so many are compared sample by sample, those with the likest spectrograms.
    say: takes lines on how far it has come.
    Raises ValueError as `find_duplicates` does.
    """
    pieces = Pieces(audio, sample_rate)
    parts = np.array([part[clip] for clip, _, _ in pieces.at], np.intp)
    own_lags = count_lags(pieces, parts)
    lags = own_lags if lags is None else lags
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        pairs = _choose(pieces, parts, most_pairs, pool, say)
        heights, offsets = _correlate(pieces, pairs, pool, say)
        high = np.flatnonzero(heights >= SCREEN)
        looks = pool.map(lambda k: confirm(pieces[pairs[k, 0]], pieces[pairs[k, 1]], int(offsets[k])), high)
        rows = []
        for k, (score, lag) in zip(high, looks, strict=True):
            rows.append((*pieces.place(pairs[k], lag), score))
            say(f"{len(rows):,}/{len(high):,} pairs that stand out looked at closely")
    table = pd.DataFrame(rows, columns=["a", "b", "lag_s", "score"]).astype({"a": int, "b": int, "lag_s": float})
    table = table.sort_values("score", ascending=False, kind="stable").drop_duplicates(["a", "b"])
    table["expected"] = [expected(score, lags) for score in table["score"]]
    table = table.loc[table["expected"] < SUSPECT, ["a", "b", "score", "lag_s", "expected"]]
    return Search(table.reset_index(drop=True), own_lags, len(pairs), count_pairs(parts), pieces.unsearchable())


def expected(score: float, lags: float) -> float:
    """How many scores at so many lags lie beyond `score` on either side by chance: normal, of standard deviation SPREAD."""
    return lags * math.erfc(score / SPREAD / math.sqrt(2))


def least_score(lags: float) -> float:
    """The score from which a pair is judged to be the same recording where so many lags were searched."""
    return max(LEAST, -SPREAD * NormalDist().inv_cdf(FAMILY_WISE / 2 / max(lags, 1)))


class Pieces(Sequence[NDArray[np.float32]]):
    """Clips at 16 kHz, without the zeros at their ends, in pieces of at most two seconds that overlap by half a second.

    `at`: of each piece the clip, its first sample and the one behind its last.
    """

    def __init__(self, audio: Sequence[NDArray[np.floating]], sample_rate: int) -> None:
        if not sample_rate > 0:
            raise ValueError(f"sample_rate is {sample_rate}: give the samples a second of the waveforms")
        for k, clip in enumerate(audio):
            if np.ndim(clip) != 1 or not np.isfinite(clip).all():
                raise ValueError(f"waveform {k} has shape {np.shape(clip)}: one channel of finite values is needed")
        self.audio = audio if sample_rate == SAMPLE_RATE_HZ else [_resample(clip, sample_rate) for clip in audio]
        self.at = [(k, *span) for k, clip in enumerate(self.audio) for span in _spans(clip)]

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, position: int) -> NDArray[np.float32]:  # type: ignore[override]
        clip, start, stop = self.at[position]
        return np.asarray(self.audio[clip][start:stop], np.float32)

    def place(self, pair: NDArray[np.intp], lag: int) -> tuple[int, int, float]:
        """The clips of a pair of pieces, and the lag between these clips in seconds."""
        (one, start, _), (other, start_b, _) = self.at[pair[0]], self.at[pair[1]]
        return one, other, (start - start_b + lag) / SAMPLE_RATE_HZ

    def unsearchable(self) -> list[int]:
        """Clips without a piece."""
        return sorted(set(range(len(self.audio))) - {clip for clip, _, _ in self.at})


def _resample(clip: NDArray[np.floating], sample_rate: int) -> NDArray[np.float32]:
    import soxr

    resampled: NDArray[np.float32] = soxr.resample(np.asarray(clip, np.float32), sample_rate, SAMPLE_RATE_HZ, "HQ")
    return resampled


def _spans(clip: Waveform) -> list[tuple[int, int]]:
    """First sample of each piece of a clip and the one behind its last; none where it is silent or too short."""
    there = np.flatnonzero(clip)
    if there.size == 0 or there[-1] + 1 - there[0] < SHORTEST_S * SAMPLE_RATE_HZ:
        return []
    first, last = int(there[0]), int(there[-1]) + 1
    longest, overlap = (round(s * SAMPLE_RATE_HZ) for s in (PIECE_S, OVERLAP_S))
    starts = range(first, max(first + 1, last - overlap), longest - overlap)
    return [(start, min(start + longest, last)) for start in starts]


def count_lags(pieces: Pieces, parts: NDArray[np.intp]) -> float:
    """Lags at which pieces of different parts overlap, over all pairs."""
    lengths = np.array([stop - start for _, start, stop in pieces.at], float)
    others = np.array([np.count_nonzero(parts != part) for part in parts], float)
    return float(lengths @ others)


def count_pairs(parts: NDArray[np.intp]) -> int:
    """Pairs of pieces of different parts."""
    sizes = np.unique(parts, return_counts=True)[1]
    return int(sizes.sum() ** 2 - (sizes**2).sum()) // 2


def _choose(
    pieces: Pieces, parts: NDArray[np.intp], most: int, pool: ThreadPoolExecutor, say: Callable[[str], None]
) -> Pairs:
    """The pairs that are compared sample by sample, the piece of the lower part first."""
    n, members = len(pieces), [np.flatnonzero(parts == part) for part in np.unique(parts)]
    if count_pairs(parts) <= most:
        grids = [
            np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1).reshape(-1, 2) for a, b in combinations(members, 2)
        ]
        return np.concatenate([np.empty((0, 2), np.intp), *grids])
    learned = learn([pieces[k] for k in range(0, n, -(-n // LEARNED_FROM))])
    vectors = []
    for vector in pool.map(learned.vectors, pieces):
        vectors.append(vector)
        say(f"{len(vectors):,}/{n:,} spectrograms made, to find the likest")
    return candidates(vectors, parts, max(CANDIDATES, most // n), pool)


def _correlate(
    pieces: Pieces, pairs: Pairs, pool: ThreadPoolExecutor, say: Callable[[str], None]
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Height and lag of each pair's peak."""

    def prepare(piece: NDArray[np.float32]) -> Signal:
        return compress(whiten(piece))

    signals = list(pool.map(prepare, pieces))
    sizes = np.array([fft_size(signals[i].size, signals[j].size) for i, j in pairs], np.intp)
    order = np.lexsort((pairs[:, 1] // TILE, pairs[:, 0] // TILE, sizes))
    batches = []
    for size in np.unique(sizes):
        members, few = order[sizes[order] == size], max(1, BATCH // int(size))
        batches += [members[k : k + few] for k in range(0, len(members), few)]
    heights, offsets = np.zeros(len(pairs), np.float32), np.zeros(len(pairs), np.intp)
    peaks = pool.map(lambda batch: correlate(signals, pairs[batch], int(sizes[batch[0]])), batches)
    done = 0
    for batch, (height, lag) in zip(batches, peaks, strict=True):
        heights[batch], offsets[batch] = height, lag
        done += len(batch)
        say(f"{done:,}/{len(pairs):,} pairs compared sample by sample")
    return heights, offsets
