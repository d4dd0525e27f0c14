"""Power in lines for a reader: of a design one has in mind, or of predictions one has."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from tasks.functional.power import Design, Power, clips_for, groups_for, power_for, power_section, smallest_for
from tasks.functional.predictions import (
    choose_detector,
    headline_protocol,
    headline_rows,
    validate_predictions,
)

TEST = "McNemar's exact test, two-sided, 5 %"


def describe_design(
    difference: float, discordance: float, design_effect: float, clips: int | None, clips_per_group: float | None
) -> list[str]:
    """What showing a difference of two accuracies takes, and what `clips` test clips show, line by line.

    Raises ValueError for a difference of 0 or beyond the discordance, a discordance above 1, and a design effect,
    clips or clips a group below 1.
    """
    for name, value in (("design effect", design_effect), ("clips", clips), ("clips a group", clips_per_group)):
        if value is not None and not 1 <= value < math.inf:
            raise ValueError(f"{name} is {value:g}: give a number of at least 1")
    if not 0 < abs(difference) <= discordance <= 1:
        raise ValueError(
            f"difference {difference:g} and discordance {discordance:g}: give a difference other than 0, and a "
            "discordance from the difference up to 1, since what one detector gains the other must get wrong"
        )
    whole = clips or 1
    groups = math.ceil(whole / clips_per_group) if clips_per_group else whole
    design = Design(whole, groups, groups, discordance, design_effect)
    independent, needed = clips_for(difference, design._replace(design_effect=1.0)), clips_for(difference, design)
    lines = [
        f"to show {points(difference)} with 80 % power ({TEST}),",
        f"where just one of two detectors is right on {percent(discordance)} of the clips:",
        f"  {independent:>9,} independent clips",
        f"  {needed:>9,} clips at a design effect of {design_effect:g}",
    ]
    if clips_per_group:
        lines.append(f"  {math.ceil(needed / clips_per_group):>9,} groups of {clips_per_group:g} clips")
    return lines if clips is None else [*lines, *shown(difference, design)]


def describe_predictions(
    predictions: Path, against: Path | None, detector: str | None, seed: int | None, classes: tuple[str, str],
    difference: float,
) -> list[str]:  # fmt: skip
    """What a test set can show, at the discordance and design effect that its predictions measure, line by line.

    Raises ValueError where a table cannot be read or trusted, holds several detectors and none is named, or several
    seeds and none is given; FileNotFoundError where there is none.
    """
    mine = test_rows(predictions, detector, seed, classes)
    theirs = None if against is None else test_rows(against, None, seed, classes)
    found = power_section(mine, theirs, positive=classes[0])
    design = Design(found.clips, found.groups, 1, found.discordance, found.design_effect)
    pairs = "" if theirs is None else f", of {len(mine):,} and {len(theirs):,} those that pair"
    needed = clips_for(difference, design)
    return [
        f"{found.clips:,} clips from {found.groups:,} groups{pairs}",
        *measured(found),
        *([found.reason] if found.reason else shown(difference, design)),
        *([] if found.by_interval is None else [f"  a t interval over the groups shows {points(found.by_interval)}"]),
        f"{points(difference)} need {needed:,} clips from {groups_for(needed, design):,} groups, alike as here",
    ]


def test_rows(path: Path, detector: str | None, seed: int | None, classes: Sequence[str]) -> pd.DataFrame:
    """The rows by which a table's detector is judged; its only one, "adapter", or the one that is named."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        table = validate_predictions(pd.read_parquet(path), classes)
        name = choose_detector(table, detector)
        rows = headline_rows(table, name, seed, headline_protocol(table, name))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not readable as parquet: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    rows = rows[rows["split"] == "test"]
    if len(seeds := sorted(rows["seed"].dropna().unique())) > 1:
        raise ValueError(f"{path}: {name!r} has the seeds {seeds}: name one (--seed)")
    return rows


def measured(found: Power) -> list[str]:
    """Where the discordance and the design effect come from."""
    assumed = (
        "" if found.discordance_of == "both detectors" else ", of two as good as this one whose errors are independent"
    )
    worst = " (assumed: the groups are too few to measure it)" if found.design_effect_of.startswith("groups") else ""
    return [
        f"  discordance    {percent(found.discordance)}{assumed}",
        f"  design effect  {found.design_effect:.1f}, of {found.design_effect_of}{worst}",
    ]


def shown(difference: float, design: Design) -> list[str]:
    """What a test set of this design shows."""
    smallest = smallest_for(design)
    least = "no difference is shown with 80 % power, however large" if smallest is None else (
        f"the smallest difference shown with 80 % power is {points(smallest)}"
    )  # fmt: skip
    return [
        f"{design.clips:,} clips are worth {design.n_eff:,.0f} independent ones: "
        f"{points(difference)} are shown with a power of {power_for(difference, design):.2f},",
        f"  {least}",
    ]


def points(difference: float) -> str:
    """A difference of accuracies in percentage points."""
    return f"{100 * difference:.3g} points"


def percent(share: float) -> str:
    """A share in per cent."""
    return f"{100 * share:.3g} %"
