"""Levels of a factor: their names and their order; and thresholds and p-values in a reader's words."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import pandas as pd

ABSENT = {"duration_ms": "not set", "snr_db": "no noise", "rt60_s": "anechoic"}
T = TypeVar("T")


def level_names(column: pd.Series, factor: str) -> pd.Series:
    """Every row's level by name, as plain strings."""
    names = {level: level_name(level, factor) for level in column.dropna().unique()}
    return column.astype(object).map(names).where(column.notna(), ABSENT.get(factor, "none"))


def level_name(level: Any, factor: str) -> str:
    """One level by name: null by what it means, whole numbers without a point, others with all their digits."""
    if pd.isna(level):
        return ABSENT.get(factor, "none")
    if isinstance(level, bool | np.bool_) or not isinstance(level, int | float | np.number):
        return str(level)
    return str(int(level)) if float(level).is_integer() else str(level)


def stated_level(value: float, unit: str) -> str:
    """A threshold for a reader: an SNR to a tenth of a dB, a duration in ms with three digits."""
    if unit == "dB":
        return f"{round(value, 1) + 0.0:.1f}"  # without the minus of -0.0
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def stated_p(value: float | None, absent: str) -> str:
    """A p-value for a reader: three digits; one of many pairs can be smaller than any float, and is not 0."""
    if value is None:
        return absent
    return "< 0.0001" if value < 0.0001 else f"{value:.3g}"


def stated_end(end: float | None, lowest: float, highest: float, unit: str) -> str:
    """An interval's end in words: "open" for None, and "<20" or ">500" where it lies beyond the levels that were tested."""
    if end is None:
        return "open"
    if lowest <= end <= highest:
        return stated_level(end, unit)
    return f"<{lowest:g}" if end < lowest else f">{highest:g}"


def fit_doubts(curve: Mapping[str, Any]) -> list[str]:
    """What to mind of a `Curve` of report.json whose thresholds are quoted; nothing where it fits.

    Deviance p under .05: another curve, or clips that resemble each other.
    """
    alike_p, deviance_p = curve["false_alarms_alike_p"], curve["deviance_p"]
    doubts = {
        "did not converge": not curve["converged"],
        f"the curve fits badly (deviance p {stated_p(deviance_p, '-')})": deviance_p < 0.05,
        "lapse rate at its bound": curve["lapse_at_bound"],
        f"false alarms differ between levels (p {stated_p(alike_p, '-')})": alike_p is not None and alike_p <= 0.05,
    }
    return [doubt for doubt, holds in doubts.items() if holds]


def varied(rows: pd.DataFrame, factor: str) -> pd.DataFrame:
    """The rows that were made to vary the factor, where the table says of its rows which one they vary, else all.

    A design that varies one factor at a time holds the others at a reference level: at that level of one factor stand
    the clips of all others too, which are harder.
    """
    if "varied" not in rows:
        return rows
    own = rows["varied"] == factor
    return rows[own] if own.any() else rows


def ascending(levels: dict[str, T]) -> dict[str, T]:
    """Levels by number, those that are none behind them: a file that sorts its keys would put "1000" before "40"."""

    def place(level: str) -> tuple[float, str]:
        try:
            number = float(level)
        except ValueError:
            number = math.inf
        return math.inf if math.isnan(number) else number, level

    return {level: levels[level] for level in sorted(levels, key=place)}
