"""Numbers, intervals and tables as a card writes them."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Json = Mapping[str, Any]
MARK = "†"  # behind an interval that has a reason beside it
MEANING = f"{MARK}: an interval that is not to be relied on"


class Table(NamedTuple):
    """Rows of text under the names of their columns."""

    columns: list[str]
    rows: list[list[str]]

    @property
    def notes(self) -> list[str]:
        """What the mark means, once, where a cell has one."""
        return meaning(cell for row in self.rows for cell in row)


def meaning(cells: Iterable[str]) -> list[str]:
    """What the mark means, once, where one of the cells of a table has it."""
    return [f"{MEANING}; `reason` beside it in report.json says why."] * any(MARK in cell for cell in cells)


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
    """A metric with its interval, marked where that is not to be relied on, or with the reason why there is none."""
    given = (
        marked(metric["ci95"], metric["reason"]) if metric["ci95"] else metric["reason"] and f"({metric['reason']})"
    )
    return f"{number(metric['value'])} {given}" if given else number(metric["value"])


def signed(value: float, ci95: Any, reason: str | None) -> str:
    """A difference with its interval, marked as in `stated`, or with the reason why there is none."""
    return f"{value:+.3f} {marked(ci95, reason) if ci95 else f'({reason})'}"


def marked(ci95: Iterable[float], reason: str | None) -> str:
    """Both ends, and the mark where there is a reason not to rely on them."""
    return interval(ci95) + mark(ci95, reason)


def mark(ci95: Iterable[float] | None, reason: str | None) -> str:
    """The mark behind an interval, where there is a reason not to rely on it."""
    return f" {MARK}" if ci95 and reason else ""


def footnote(ci95: Any, reason: str | None) -> str:
    """What the mark means, behind a sentence that has one."""
    return f"{mark(ci95, reason)}: {reason}." if ci95 and reason else ""


def by_supergroup(metric: Json) -> str:
    """A sentence with the interval over supergroups, or why there is none; "" where no group has a supergroup beside it."""
    what = "supergroup (all draws of one generator or uploader together)"
    why = metric["reason_supergroup"]
    if ends := metric["ci95_supergroup"]:
        return f"Resampled by {what}: {interval(ends)}{f' ({why})' if why else ''}."
    lacking = (why or "").removesuffix(": no interval").replace(" groups ", " supergroups ")
    return f"By {what} there is no interval: {lacking}." if why else ""


def likeness(effect: Json) -> str:
    """What the clips of a group are worth beside each other, as a sentence."""
    icc, worth = number(effect["icc"], 2), f"{number(effect['n_eff'], 0)} independent ones"
    if effect["icc"] <= 0:
        return (
            f"The answers to clips of one group are no more alike here than others (ICC {icc}): they count as {worth}."
        )
    effect_by = f"with a design effect of {number(effect['deff'], 2)}"
    return f"Clips of one group resemble each other (ICC {icc}): {effect_by} they are worth {worth}."


def recalls(report: Json) -> list[str]:
    """The names of both recalls."""
    return [f"recall_{name.lower()}" for name in report["classes"]]


def table_of_checks(checks: Iterable[Json]) -> Table:
    """What a leakage audit found shared between parts, a row a check."""

    def shared(check: Json) -> str:
        if check["shared"] is None:
            return "no such column"
        return f"{check['shared']}: {check['pairs']}" if check["pairs"] else str(check["shared"])

    return Table(["check", "shared between parts"], [[one["check"], shared(one)] for one in checks])
