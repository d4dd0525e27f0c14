"""Detectors on the same test clips in their order, each pair compared, Holm over all pairs."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from tasks.functional.comparisons import ALPHA, compare, holm
from tasks.functional.levels import stated_p
from tasks.functional.report_document import Report
from tasks.functional.report_metrics import Rule
from tasks.functional.report_schema import Comparison
from tasks.functional.report_series import NOT_AUDITED, threshold_remarks
from tasks.functional.verdict import unheard


class Pair(NamedTuple):
    """Two detectors, the better one first; `found` is of the first minus the second, its p_holm over all pairs."""

    first: str
    second: str
    found: Comparison


def ranked(reports: Mapping[str, Report]) -> dict[str, Report]:
    """Best balanced accuracy first; those without a value last."""

    def place(name: str) -> tuple[bool, float, str]:
        value = reports[name].metrics["balanced_accuracy"].value
        return value is None, -(value or 0.0), name

    return {name: reports[name] for name in sorted(reports, key=place)}


def paired(rows: Mapping[str, pd.DataFrame], rule: Rule) -> list[Pair]:
    """Every pair of detectors on the clips of both. rows: name -> test rows with final predictions, the best first.

    Raises ValueError where two share no clip, or disagree about a clip's label or group.
    """
    names = list(itertools.combinations(rows, 2))
    found = [compare({a: rows[a], b: rows[b]}, [], rule)[b] for a, b in names]
    adjusted = holm([one.p_exact for one in found])
    return [
        Pair(*pair, one.model_copy(update={"p_holm": p})) for pair, one, p in zip(names, found, adjusted, strict=True)
    ]


def told_apart(pair: Pair) -> bool:
    """Whether a pair differs by its interval and, after Holm over all pairs, by its test; without a test it does not."""
    p = pair.found.p_holm
    return pair.found.verdict != "not distinguishable" and p is not None and p <= ALPHA


def pair_rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """One row a pair, as pairs.csv has it."""
    return [
        {
            "first": pair.first, "second": pair.second, "clips": pair.found.n, "difference": pair.found.difference,
            "low": (pair.found.ci95 or (None, None))[0], "high": (pair.found.ci95 or (None, None))[1],
            "b": pair.found.b, "c": pair.found.c, "p_exact": pair.found.p_exact, "p_holm": pair.found.p_holm,
            "told_apart": told_apart(pair), "reason": pair.found.reason,
        }
        for pair in pairs
    ]  # fmt: skip


def pair_lines(pairs: Sequence[Pair]) -> list[str]:
    """The pairs for a terminal."""
    width = max(len(f"{pair.first} − {pair.second}") for pair in pairs) + 2
    lines = [f"{'pair':<{width}}{'difference':<30}{'McNemar p, Holm':<18}"]
    for pair in pairs:
        one = pair.found
        ends = "no interval" if one.ci95 is None else f"{one.ci95[0]:+.3f} to {one.ci95[1]:+.3f}"
        p = stated_p(one.p_holm, "-")
        said = "told apart" if told_apart(pair) else "not told apart"
        lines.append(f"{f'{pair.first} − {pair.second}':<{width}}{f'{one.difference:+.3f} ({ends})':<30}{p:<18}{said}")
    return lines


def leaderboard_remarks(reports: Mapping[str, Report], pairs: Sequence[Pair]) -> list[str]:
    """What a reader must know before reading the order as a ranking. reports: name -> report, the best first."""
    best, untested = next(iter(reports)), [pair for pair in pairs if pair.found.p_exact is None]
    apart = [pair for pair in pairs if told_apart(pair)]
    level = [pair.second for pair in pairs if pair.first == best and not told_apart(pair)]
    lines = [f"{name} {doubt}." for name, one in reports.items() if (doubt := doubt_of(one))]
    if level:
        lines.append(f"{best} leads, and is not told apart from {', '.join(level)}.")
    lines.append(
        f"{len(apart)} of {len(pairs)} pairs are told apart: by a paired interval over groups that leaves out 0, and by "
        "McNemar's exact test after Holm over all pairs."
    )
    if untested:
        named = "; ".join(f"{pair.first} and {pair.second}" for pair in untested)
        lines.append(
            f"Not tested, and so not told apart: {named}. A clip has several answers there, as under several seeds, and "
            "McNemar's test takes one."
        )
    return [
        *lines,
        *threshold_remarks(reports),
        f"The order is by the test clips themselves: the best of {len(reports)} on them looks a little better than it is.",
    ]


def doubt_of(report: Report) -> str | None:
    """Why its numbers may not be of unheard recordings, as the rest of a sentence; None where an audit found them so."""
    return {
        "clean": None,
        "leaky": "was scored on a split that is not clean: its place is no result",
        "not audited": f"was not audited: {NOT_AUDITED}",
    }[unheard(report.protocol, {"leakage": report.leakage, "provenance": report.provenance})]
