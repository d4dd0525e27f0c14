"""Groups resampled within class: the units that are drawn, how often each comes, and the interval that follows."""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.functional.metrics import FloatArray, IntArray
from tasks.functional.weighted_metrics import WeightedStatistic

KEPT_COUNTS = 16_000_000  # of one design's draws, 16 MB: a report asks for the same draws once a metric and level
COUNT = np.uint8  # G draws from G groups: one coming 256 times has a chance below 1e-500
Counts = npt.NDArray[np.uint8]


class Interval(NamedTuple):
    """A confidence interval, in the unit of what it is of."""

    low: float
    high: float


class Units(NamedTuple):
    """What is drawn. unit: (n_rows,) number of each row's (stratum, group) pair, a stratum's units being consecutive;
    sizes: stratum -> its number of groups, in that order."""

    unit: IntArray
    sizes: dict[str, int]

    @property
    def n(self) -> int:
        """Number of units."""
        return sum(self.sizes.values())

    @property
    def smallest(self) -> str:
        """The stratum of the fewest groups, which is what an interval rests on."""
        return min(self.sizes, key=lambda stratum: self.sizes[stratum])

    @property
    def stratum(self) -> IntArray:
        """Position of each row's stratum among `sizes`, (n_rows,)."""
        return np.repeat(np.arange(len(self.sizes)), list(self.sizes.values()))[self.unit]


def need_columns(table: pd.DataFrame, *names: str) -> None:
    """Raise ValueError with the first of the columns that is missing and those there are."""
    if missing := [name for name in names if name not in table]:
        raise ValueError(f"the table has no column {missing[0]!r}, it has {list(table.columns)}")


def units_of(table: pd.DataFrame, group: str = "group_id", strata: str = "label") -> Units:
    """The (stratum, group) pairs of a table, sorted: the order of its rows does not matter.

    Raises ValueError for a missing column, no rows, or a row without group or stratum.
    """
    need_columns(table, group, strata)
    if table.empty:
        raise ValueError("the table has no rows: there is nothing to resample")
    of_group, groups = pd.factorize(table[group].to_numpy(), sort=True)
    of_stratum, names = pd.factorize(table[strata].to_numpy(), sort=True)
    for column, code in ((group, of_group), (strata, of_stratum)):
        if code.min() < 0:
            raise ValueError(f"{column} is null in row {int(code.argmin())}: every clip needs one")
    pair = of_stratum * len(groups) + of_group
    there = np.bincount(pair, minlength=len(names) * len(groups)) > 0
    sizes = there.reshape(len(names), len(groups)).sum(axis=1).tolist()
    return Units(np.cumsum(there)[pair] - 1, dict(zip(map(str, names), sizes, strict=True)))


def need_two_groups(units: Units) -> None:
    """Raise ValueError where a stratum has one group only: nothing can be drawn from it."""
    if units.sizes[units.smallest] < 2:
        raise ValueError(f"all clips of {units.smallest} are of one group: an interval needs at least 2 groups")


def resample(evaluate: WeightedStatistic, units: Units, n_boot: int, seed: int) -> FloatArray:
    """The statistic in each of `n_boot` resamples, (n_boot,): every stratum's groups drawn with replacement.

    Raises ValueError for n_boot < 1.
    """
    if n_boot < 1:
        raise ValueError(f"n_boot is {n_boot}, at least one resample is needed")
    design = tuple(units.sizes.values()), n_boot, seed
    blocks = _kept_draws(*design) if n_boot * units.n <= KEPT_COUNTS else _draws(*design)
    return np.concatenate([evaluate(counts.astype(float)) for counts in blocks])


def _draws(sizes: tuple[int, ...], n_boot: int, seed: int) -> Iterator[Counts]:
    """How often each unit comes, in blocks of (n, n_units) that stay in a core's cache."""
    rng, n_units = np.random.default_rng(seed), sum(sizes)
    block = max(16, 100_000 // n_units)
    for done in range(0, n_boot, block):
        n = min(block, n_boot - done)
        yield np.concatenate([_counts(rng, size, n) for size in sizes], axis=1)


@lru_cache(maxsize=8)
def _kept_draws(sizes: tuple[int, ...], n_boot: int, seed: int) -> tuple[Counts, ...]:
    return tuple(_draws(sizes, n_boot, seed))


def _counts(rng: np.random.Generator, size: int, n: int) -> Counts:
    """How often each of `size` groups comes in `size` draws, n times: (n, size)."""
    drawn = rng.integers(size, size=(n, size))
    drawn += np.arange(n)[:, None] * size
    return np.bincount(drawn.ravel(), minlength=n * size).reshape(n, size).astype(COUNT)


def percentile_interval(values: FloatArray, confidence: float) -> Interval:
    """The middle `confidence` of resampled values (Efron & Tibshirani 1993, ch. 13)."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def expanded_tail(confidence: float, n_groups: int) -> float:
    """What percentiles leave out on each side so that they reach as far as Student's t does for a mean of so many groups.

    A bootstrap draws from the spread of the sample, which is too small by sqrt((G - 1) / G), and takes it for known:
    the "expanded percentile" interval (Hesterberg 2015, sec. 5.3; The American Statistician 69).
    """
    from scipy.special import ndtr, stdtrit

    reach = math.sqrt(n_groups / (n_groups - 1)) * float(stdtrit(n_groups - 1, (1 + confidence) / 2))
    return float(ndtr(-reach))


def jackknife_variance(without: FloatArray, sizes: Iterable[int]) -> float:
    """Stratified delete-one-group variance (JKn, Rust & Rao 1996): sum over strata of (G - 1) / G times a sum of squares.

    without: (n_units,) the statistic without each unit, stratum after stratum; sizes: units of each stratum.
    """
    variance, start = 0.0, 0
    for size in sizes:
        own = without[start : start + size]
        variance += (size - 1) / size * float(((own - own.mean()) ** 2).sum())
        start += size
    return variance


def paired_rows(
    a: pd.DataFrame, b: pd.DataFrame, on: list[str], group: str = "group_id"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables in the order of a's clips, which the columns `on` identify.

    Raises ValueError where a table repeats a clip, or they differ in clips, labels or groups.
    """
    for name, table in (("first", a), ("second", b)):
        need_columns(table, *on, "label", group)
        if (repeated := table.duplicated(on)).any():
            raise ValueError(f"the {name} table repeats {table.loc[repeated, on].iloc[0].to_dict()}: one row a clip")
    a, b = a.set_index(on), b.set_index(on)
    if len(unpaired := a.index.symmetric_difference(b.index)):
        raise ValueError(f"{len(unpaired)} clips are in one table only, e.g. {unpaired[0]!r}: compare the same clips")
    b = b.loc[a.index]
    for column in ("label", group):
        if (differs := (a[column] != b[column]).to_numpy()).any():
            raise ValueError(f"{column} of {a.index[differs][0]!r} differs between the tables")
    return a.reset_index(), b.reset_index()
