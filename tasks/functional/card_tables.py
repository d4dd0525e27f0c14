"""Numbers, intervals and tables as a card writes them."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Json = Mapping[str, Any]


class Table(NamedTuple):
    """Rows of text under the names of their columns."""

    columns: list[str]
    rows: list[list[str]]


class Part(NamedTuple):
    """A section that not every card has."""

    title: str
    lines: list[str]
    tables: list[Table]


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval(ci95: Iterable[float]) -> str:
    """Both ends."""
    low, high = ci95
    return f"[{low:.3f}, {high:.3f}]"


def stated(metric: Json) -> str:
    """A metric with its interval, or with the reason why there is none."""
    given = interval(metric["ci95"]) if metric["ci95"] else metric["reason"] and f"({metric['reason']})"
    return f"{number(metric['value'])} {given}" if given else number(metric["value"])


def signed(value: float, ci95: Any, reason: str | None) -> str:
    """A difference with its interval, or with the reason why there is none."""
    return f"{value:+.3f} {interval(ci95) if ci95 else f'({reason})'}"


def level(value: float | None) -> str:
    """A level of a factor that was not among the tested ones: three digits."""
    return "open" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def recalls(report: Json) -> list[str]:
    """The names of both recalls."""
    return [f"recall_{name.lower()}" for name in report["classes"]]
