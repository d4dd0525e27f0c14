"""Conditions of a design: which levels come together, and how many clips of a class each gets."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

Room = float | str | None  # RT60 in s of a synthetic room, the name of a measured one, None: anechoic


class Condition(NamedTuple):
    """One level of each factor. snr_db None adds no noise; `varied` names the factor a condition was made for."""

    duration_ms: float
    snr_db: float | None
    band: str = "clean"
    room: Room = None
    varied: str | None = None


class Levels(NamedTuple):
    """The levels of each factor."""

    duration_ms: Sequence[float]
    snr_db: Sequence[float | None]
    band: Sequence[str] = ("clean",)
    room: Sequence[Room] = (None,)


def factorial(levels: Levels) -> list[Condition]:
    """Every combination of levels, durations outermost."""
    return [Condition(*cell) for cell in product(*levels)]


def one_at_a_time(levels: Levels, reference: Condition, *, alone: bool = False) -> list[Condition]:
    """Each level of each factor with the others at the reference; the reference itself first where it stands `alone`.

    A level that equals the reference's is a condition of its own factor: a curve over durations needs its 1000 ms as
    well, and the number of conditions is the sum over the factors, one more with the reference.
    """
    varied = [
        reference._replace(**{factor: level, "varied": factor})
        for factor, its in levels._asdict().items()
        for level in its
    ]
    return [*([reference._replace(varied="none")] if alone else []), *varied]


def even_margins(levels: Levels, n: int, seed: int) -> Mapping[Condition, int]:
    """`n` clips spread over the full factorial so that cells, and each level of each factor, differ by one at most.

    For numbers that do not divide by the number of cells (64 over 25). What is left after filling all cells alike goes
    along the diagonals of the cells, which pass every level of each factor in turn; `seed` shuffles the levels. Raises
    ValueError where `n` is not positive.
    """
    if n < 1:
        raise ValueError(f"{n} clips of a class: at least 1 is needed")
    random = np.random.default_rng(seed)
    shuffled = Levels(*([its[at] for at in random.permutation(len(its))] for its in levels))
    cells = [factorial(shuffled)[at] for at in diagonals(*map(len, levels))]
    counts = {cell: n // len(cells) + (k < n % len(cells)) for k, cell in enumerate(cells)}
    return {cell: counts[cell] for cell in factorial(levels)}


def diagonals(*sizes: int) -> list[int]:
    """Indices of all cells, the last factor fastest, in an order whose every beginning has each level equally often.

    For two factors the k-th cell is (k mod a, k + k // lcm(a, b) mod b): a diagonal that moves on by one whenever it
    would repeat. Two factors so ordered are one factor of a * b levels, and the next one is joined in the same way.
    """
    total, at = 1, np.zeros(1, dtype=int)
    for size in sizes:
        k = np.arange(total * size)
        at = at[k % total] * size + (k + k // math.lcm(total, size)) % size
        total *= size
    return [int(index) for index in at]
