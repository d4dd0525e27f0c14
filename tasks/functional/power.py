"""What a test set can show of a difference between two detectors, and how large one that shows 3 points would be."""

import math
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from tasks.functional.mcnemar import mcnemar_power, mcnemar_sample_size, smallest_difference
from tasks.functional.metrics import IntArray, is_correct
from tasks.functional.report_schema import Section
from tasks.functional.resampling import need_columns, paired_rows, units_of
from tasks.functional.significance import likeness

ALPHA, POWER, POINTS, STEP = 0.05, 0.8, 0.03, 0.001
Likeness = Literal["the difference", "being right", "groups that stand or fall together"]


class Power(Section):
    """What the test set can show of a difference of two accuracies: McNemar's exact test, two-sided, at `alpha`.

    A clip counts for 1 / design_effect independent ones. `by_interval` is what a t interval over the groups shows with
    the same power, which is more where groups are few. Sizes are for as many clips a group as here.
    """

    alpha: float = ALPHA
    power: float = POWER
    clips: int  # that both answered
    groups: int  # of both classes; a source of both counts twice
    discordance: float  # share of the clips on which just one of the two is right
    discordance_of: Literal["both detectors", "independent errors"]
    design_effect: float
    design_effect_of: Likeness
    n_eff: float
    smallest_detectable_difference: float | None
    by_interval: float | None
    n_for_3_points: int  # clips
    groups_for_3_points: int
    reason: str | None  # why there is no smallest difference


class Design(NamedTuple):
    """A test set as its power sees it."""

    clips: int
    groups: int  # of both classes
    smallest: int  # groups of the smaller class
    discordance: float
    design_effect: float

    @property
    def n_eff(self) -> float:
        """Independent clips that these are worth."""
        return self.clips / self.design_effect


# --- of a design -------------------------------------------------------------------------------------------------


def power_for(difference: float, design: Design) -> float:
    """Probability that McNemar's exact test shows this difference of accuracies; 0 where not one clip is left."""
    n = math.floor(design.n_eff)
    return mcnemar_power(n, difference, _at(difference, design), alpha=ALPHA) if n else 0.0


def clips_for(difference: float, design: Design) -> int:
    """Clips that show this difference with power 0.8, as alike within groups as the design's."""
    return mcnemar_sample_size(
        difference, _at(difference, design), alpha=ALPHA, power=POWER, design_effect=design.design_effect
    )


def groups_for(clips: int, design: Design) -> int:
    """Groups of both classes that so many clips need, at the design's clips a group."""
    return math.ceil(round(clips * design.groups / design.clips, 9))


def smallest_for(design: Design) -> float | None:
    """The smallest difference of accuracies, to 0.001, that McNemar's exact test shows with power 0.8; None for none."""
    n = math.floor(design.n_eff)
    return smallest_difference(n, discordance=design.discordance, step=STEP, alpha=ALPHA, power=POWER) if n else None


def smallest_by_interval(design: Design) -> float:
    """The smallest difference that a t interval over groups tells from 0 with power 0.8: (t_0.975 + t_0.8) SE.

    G - 1 df for the smaller class's G >= 2 groups, SE^2 = discordance x design effect / clips (Bloom 1995). Two accuracies
    differ by no more than the discordance: where it is less than the difference found so, the difference is put in its
    place, d = (t_0.975 + t_0.8)^2 x design effect / clips. May be over 1, which no two accuracies differ by.
    """
    from scipy.special import stdtrit

    multiple = float(stdtrit(design.smallest - 1, 1 - ALPHA / 2) + stdtrit(design.smallest - 1, POWER))
    found = multiple * math.sqrt(design.discordance / design.n_eff)
    return found if 0 < found <= design.discordance else multiple**2 / design.n_eff


def _at(difference: float, design: Design) -> float:
    """The discordance at a difference: at least that much of it, all one way."""
    return max(design.discordance, abs(difference))


# --- of a test set -----------------------------------------------------------------------------------------------


def power_section(rows_a: pd.DataFrame, rows_b: pd.DataFrame | None = None, *, positive: str = "SPEECH") -> Power:
    """What these test rows can show of a difference between their detector and another, on the clips both answered.

    rows: clip_id, label, group_id and the final prediction, a row a clip. Without `rows_b` the discordance is that of
    another detector just as good whose errors are independent of this one's: 2 p (1 - p).
    Raises ValueError where a clip stands twice, no clip is in both tables, or one has another label or group there.
    """
    a, b = _on_the_same_clips(rows_a, rows_b)
    units, right = units_of(a), _right(a, positive)
    if b is None:
        differs, rate = right, float(right.mean())
        discordance = 2 * rate * (1 - rate)
    else:
        differs = right - _right(b, positive)
        discordance = float(np.abs(differs).mean())
    icc, effect = likeness(differs, units.unit, units.stratum)
    of: Likeness = "being right" if b is None else "the difference"
    design = Design(len(a), units.n, units.sizes[units.smallest], discordance, effect)
    reason = None
    if design.smallest < 2:
        reason = f"all clips of {units.smallest} are of one group: no difference can be shown"
    needed = clips_for(POINTS, design)
    return Power(
        clips=design.clips, groups=design.groups, discordance=discordance,
        discordance_of="independent errors" if b is None else "both detectors", design_effect=effect,
        design_effect_of="groups that stand or fall together" if math.isnan(icc) and effect > 1 else of,
        n_eff=design.n_eff, smallest_detectable_difference=None if reason else smallest_for(design),
        by_interval=None if reason else smallest_by_interval(design),
        n_for_3_points=needed, groups_for_3_points=groups_for(needed, design), reason=reason,
    )  # fmt: skip


def _on_the_same_clips(a: pd.DataFrame, b: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    for table in (a, b):
        if table is None:
            continue
        need_columns(table, "clip_id", "label", "group_id", "prediction")
        if (twice := table["clip_id"].duplicated()).any():
            raise ValueError(
                f"clip {table.loc[twice, 'clip_id'].iloc[0]!r} stands twice: give one answer a clip, one seed"
            )
    if b is None:
        return a, None
    both = set(a["clip_id"]) & set(b["clip_id"])
    if not both:
        raise ValueError(f"none of the {len(a):,} clips of one table is among the {len(b):,} of the other")
    return paired_rows(a[a["clip_id"].isin(both)], b[b["clip_id"].isin(both)], ["clip_id"])


def _right(rows: pd.DataFrame, positive: str) -> IntArray:
    return is_correct(rows["prediction"], rows["label"], positive=positive).astype(np.int64)
