"""Which clips resemble each other: patches of the spectrogram as vectors, compared by one matrix product a block.

Magnitudes, so that the phase does not matter; 64 ms windows every 20 ms, so that an offset of 10 ms hardly does;
square roots without their mean over time, so that louder partials say more and steady noise and channel nothing.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.functional.audio import SAMPLE_RATE_HZ, Waveform

WINDOW, HOP = 1024, 320
BAND_HZ = (150.0, 6900.0)
COMPONENTS = 64  # of a frame
PATCH = 5  # frames
DIMENSIONS = 96  # of a patch
LONGEST_PATCHES = 5  # of a query: half a second
LEARNED_FROM = 6_000  # frames, and patches
BLOCK, FEW = 512, 64  # clips on a side of a tile, and how many of its columns are in one matrix product

Matrix = NDArray[np.float32]
Vectors = NDArray[np.float16]  # (positions, DIMENSIONS) of one clip


def frames(samples: Waveform) -> Matrix:
    """Root magnitudes of the spectrogram of 16 kHz samples, less their mean over time, of unit RMS. (frames, bins)."""
    from scipy.fft import rfft

    padded = np.pad(samples.astype(np.float32), WINDOW // 2)
    window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    cut = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    low, high = (round(edge * WINDOW / SAMPLE_RATE_HZ) for edge in BAND_HZ)
    root = np.sqrt(np.abs(rfft(cut * window)[:, low:high]))
    root -= root.mean(axis=0)
    return root / max(float(np.sqrt(np.mean(np.square(root)))), 1e-9)


def patches(components: Matrix) -> Matrix:
    """Overlapping runs of PATCH frames as rows; a shorter clip is one run, filled up with zeros."""
    short = max(0, PATCH - len(components))
    components = np.pad(components, ((0, short), (0, 0)))
    last = len(components) - PATCH + 1
    return np.concatenate([components[k : last + k] for k in range(PATCH)], axis=1)


class Embedding(NamedTuple):
    """Two linear maps, learned from the clips at hand: bins to components, patches to white vectors."""

    of_frame: Matrix
    of_patch: Matrix

    def vectors(self, samples: Waveform) -> Vectors:
        """Of one clip, a row for each position of a patch."""
        return (patches(frames(samples) @ self.of_frame) @ self.of_patch).astype(np.float16)


def learn(clips: Sequence[Waveform]) -> Embedding:
    """The principal components of frames, then of patches, whitened: what all clips share counts little."""
    spectra = [frames(clip) for clip in clips]
    of_frame = _principal(np.concatenate(spectra), COMPONENTS, floor=0.05)
    return Embedding(
        of_frame, _principal(np.concatenate([patches(s @ of_frame) for s in spectra]), DIMENSIONS, floor=0.02)
    )


def _principal(rows: Matrix, n: int, *, floor: float) -> Matrix:
    rows = rows[:: -(-len(rows) // LEARNED_FROM)].astype(np.float64)
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    values, vectors = np.maximum(values[-n:], 0), vectors[:, -n:]
    return (vectors / np.sqrt(values + floor * values.mean() + 1e-12)).astype(np.float32)


# --- comparing ---------------------------------------------------------------------------------------------------


def candidates(
    clips: Sequence[Vectors], parts: NDArray[np.intp], best: int, pool: ThreadPoolExecutor
) -> NDArray[np.intp]:
    """Pairs of clips of different parts of which one is among the `best` for the other: positions, the lower part first.

    Shape (n, 2), sorted.
    """
    blocks = [members for part in np.unique(parts) for members in _blocks(clips, np.flatnonzero(parts == part))]
    tiles = [(a, b) for a in blocks for b in blocks if parts[a[0]] < parts[b[0]]]
    found = list(pool.map(lambda tile: _best_of_tile(clips, tile[0], tile[1], best), tiles))
    pairs = np.concatenate([pair for pair, _ in found])
    likeness = np.concatenate([value for _, value in found])
    chosen = [pairs[_rank(pairs[:, side], likeness) < best] for side in (0, 1)]
    return np.unique(np.concatenate(chosen), axis=0)


def _best_of_tile(
    clips: Sequence[Vectors], rows: NDArray[np.intp], columns: NDArray[np.intp], best: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Pairs of two blocks of which one is among the `best` of the other's block, and their likeness."""
    likeness = compare(clips, rows, columns)
    keep = np.zeros(likeness.shape, bool)
    for axis in (0, 1):
        few = min(best, likeness.shape[axis])
        np.put_along_axis(keep, np.argpartition(likeness, -few, axis).take(range(-few, 0), axis), True, axis)
    i, j = np.nonzero(keep)
    return np.stack([rows[i], columns[j]], axis=1), likeness[i, j]


def _rank(of: NDArray[np.intp], likeness: NDArray[np.float32]) -> NDArray[np.intp]:
    """Place of each pair among those of the same clip, the likest first."""
    order = np.lexsort((-likeness, of))
    starts = np.flatnonzero(np.diff(of[order], prepend=-1))
    rank = np.empty(len(of), np.intp)
    rank[order] = np.arange(len(of)) - np.repeat(starts, np.diff(starts, append=len(of)))
    return rank


def compare(clips: Sequence[Vectors], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Matrix:
    """Cosine of the best match of a stretch of the shorter clip in the longer one, (rows, columns)."""
    if np.mean([len(clips[i]) for i in rows]) > np.mean([len(clips[j]) for j in columns]):
        return compare(clips, columns, rows).T
    n_patches = patches_of(min(len(clips[i]) for i in rows))
    queries, starts = _stretches([clips[i] for i in rows], n_patches, every=False)
    likeness = np.empty((len(rows), len(columns)), np.float32)
    for first in range(0, len(columns), FEW):
        targets, at = _stretches([clips[j] for j in columns[first : first + FEW]], n_patches, every=True)
        cosine = np.maximum.reduceat(queries @ targets.T, at, axis=1)
        likeness[:, first : first + FEW] = np.maximum.reduceat(cosine, starts, axis=0)
    return likeness


def patches_of(positions: int) -> int:
    """Patches side by side in a stretch of a clip with so many positions."""
    return min((positions - 1) // PATCH + 1, LONGEST_PATCHES)


def _stretches(clips: Sequence[Vectors], n_patches: int, *, every: bool) -> tuple[Matrix, NDArray[np.intp]]:
    """Unit vectors of `n_patches` patches side by side: at every position, or few that together cover a clip; and where
    each clip's begin."""
    span = (n_patches - 1) * PATCH + 1
    taken = []
    for clip in clips:
        last = len(clip) - span
        few = np.rint(np.linspace(0, last, 1 + round(last / (n_patches * PATCH)))).astype(int)
        starts = np.arange(last + 1) if every else few
        taken.append(clip[starts[:, None] + PATCH * np.arange(n_patches)].reshape(len(starts), -1))
    vectors = np.concatenate(taken).astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return vectors, np.cumsum([0, *map(len, taken[:-1])])


def _blocks(clips: Sequence[Vectors], members: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Positions of clips of like length, at most BLOCK at a time."""
    length = np.array([len(clips[k]) for k in members])
    order = np.argsort(length, kind="stable")
    classes = np.array([patches_of(n) for n in length[order]])
    for kind in np.unique(classes):
        alike = members[order[classes == kind]]
        yield from (alike[k : k + BLOCK] for k in range(0, len(alike), BLOCK))
