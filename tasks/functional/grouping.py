"""Dealing recordings to parts so that nothing that belongs together stands on two of them."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd


class Component(NamedTuple):
    """Recordings that must not be parted: all that hang together by a group or a supergroup."""

    name: str  # its first group
    groups: Mapping[str, int]  # stratum -> number of its groups
    family: str


def deal(table: pd.DataFrame, parts: Mapping[str, float], seed: int, *, by_family: bool = False) -> pd.Series:
    """Part of each row of `table`: role, label, group_id, supergroup_id and, where known, category and family.

    What is dealt is a connected component over group_id and supergroup_id across all roles, so that a noise whose
    uploader also made a NONSPEECH recording goes where that one goes. Within each stratum (a class; the noise; the
    rooms of one RT60) the number of groups is brought near the fractions `parts`, families are spread, and every part
    gets at least one component. `by_family` makes each family of a class a stratum of its own, so that every part holds all
    of them. The same `seed` gives the same parts in any order of the rows.

    Raises ValueError where a stratum has fewer components than there are parts, or its ties to others leave a part
    without one, and where ids or labels are missing.
    """
    _check(table, parts)
    component = _components(table)
    strata = _strata(table, by_family)
    dealt = _deal_components(_describe(table, component, strata), parts, np.random.default_rng(seed))
    return component.map(dealt).rename("part")


def _strata(table: pd.DataFrame, by_family: bool) -> pd.Series:
    """What each row is balanced within: the label of content (and its family), "noise", or "room" and its category (the
    RT60)."""
    content = table["role"] == "content"
    stratum = table["role"].where(~content, table["label"])
    if by_family:
        stratum = stratum.mask(content, table["label"].astype(str) + " " + table["family"].astype(str))
    if "category" in table:
        rooms = table["role"] == "room"
        stratum = stratum.mask(rooms, "room " + table["category"].astype(str))
    return stratum


def _check(table: pd.DataFrame, parts: Mapping[str, float]) -> None:
    if table.empty:
        raise ValueError("there are no recordings to deal")
    if not parts or any(not share > 0 for share in parts.values()):
        raise ValueError(f"parts need fractions above 0, not {dict(parts)}")
    for column in ("group_id", "supergroup_id"):
        if (missing := table[column].isna()).any():
            raise ValueError(f"{int(missing.sum())} recordings have no {column}; a split by group needs one for each")
    if (unlabelled := (table["role"] == "content") & table["label"].isna()).any():
        raise ValueError(f"{int(unlabelled.sum())} content recordings have no label")


def _components(table: pd.DataFrame) -> pd.Series:
    """Name of each row's component: the first group_id in it, in the order of the alphabet."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    group, groups = pd.factorize(table["group_id"].astype(str), sort=True)
    supergroup, supergroups = pd.factorize(table["supergroup_id"].astype(str), sort=True)
    n = len(groups) + len(supergroups)
    edges = coo_array((np.ones(len(table)), (group, supergroup + len(groups))), shape=(n, n))
    _, of_node = connected_components(edges, directed=False)
    first = pd.Series(groups).groupby(of_node[: len(groups)]).first()
    return pd.Series(of_node[group], index=table.index).map(first)


def _describe(table: pd.DataFrame, component: pd.Series, strata: pd.Series) -> list[Component]:
    family = table["family"] if "family" in table else pd.Series("", index=table.index)
    rows = pd.DataFrame(
        {"component": component, "stratum": strata, "group": table["group_id"], "family": family.astype(str)}
    )
    counts = rows.groupby(["component", "stratum"])["group"].nunique()
    families = rows.groupby("component")["family"].min()
    groups: dict[str, dict[str, int]] = defaultdict(dict)
    for name, stratum, count in counts.reset_index(name="count").itertuples(index=False):
        groups[name][stratum] = int(count)
    return [Component(name, groups[name], families[name]) for name in sorted(groups)]


def _deal_components(
    components: Sequence[Component], parts: Mapping[str, float], rng: np.random.Generator
) -> dict[str, str]:
    """Part of each component. Those in several strata go first, for they are the least free."""
    by_stratum: dict[str, list[Component]] = defaultdict(list)
    for component in components:
        for stratum in component.groups:
            by_stratum[stratum].append(component)
    for stratum, of_stratum in sorted(by_stratum.items()):
        if len(of_stratum) < len(parts):
            raise ValueError(_too_few(stratum, len(of_stratum), parts))
    shared = [component for component in components if len(component.groups) > 1]
    hands: dict[str, Counter[str]] = {stratum: Counter() for stratum in by_stratum}
    dealt: dict[str, str] = {}
    for component in _in_turn(shared, rng):
        dealt[component.name] = _emptiest(component, hands, parts, list(parts))
    for stratum in sorted(by_stratum):
        own = [component for component in by_stratum[stratum] if len(component.groups) == 1]
        for left, component in zip(range(len(own), 0, -1), _in_turn(own, rng), strict=True):
            empty = [part for part in parts if not hands[stratum][part]]
            dealt[component.name] = _emptiest(component, hands, parts, empty if left <= len(empty) else list(parts))
        if empty := [part for part in parts if not hands[stratum][part]]:
            raise ValueError(_tied(stratum, empty, shared))
    return dealt


def _in_turn(components: Sequence[Component], rng: np.random.Generator) -> list[Component]:
    """Largest first, then family after family, for neighbours land on different parts; equals are shuffled."""
    families = {family: rng.random() for family in sorted({component.family for component in components})}
    chance = {component.name: rng.random() for component in components}
    return sorted(components, key=lambda c: (-sum(c.groups.values()), families[c.family], chance[c.name]))


def _emptiest(
    component: Component, hands: Mapping[str, Counter[str]], parts: Mapping[str, float], allowed: Sequence[str]
) -> str:
    """Deal the component to the allowed part with the least of its strata, measured by the part's fraction.

    Half of the component itself is counted in (Sainte-Lague's divisors), so that equal components come to each part in
    proportion at every length of the sequence. A part without one of the strata goes before all others.
    """

    def fullness(part: str) -> tuple[bool, float]:
        held = {stratum: hands[stratum][part] for stratum in component.groups}
        full = math.fsum(
            (held[stratum] + n / 2) / parts[part] / sum_of[stratum] for stratum, n in component.groups.items()
        )
        return min(held.values()) > 0 and len(component.groups) > 1, full

    sum_of = {stratum: 1 + hands[stratum].total() for stratum in component.groups}
    part = min(allowed, key=fullness)
    for stratum, n in component.groups.items():
        hands[stratum][part] += n
    return part


def _too_few(stratum: str, n: int, parts: Mapping[str, float]) -> str:
    return (
        f"{stratum} has {n} independent group{'' if n == 1 else 's'} (groups that share no supergroup) for "
        f"{len(parts)} parts ({', '.join(parts)}), and each part needs one of its own. "
        "Add recordings of other groups, or ask for fewer parts"
    )


def _tied(stratum: str, empty: Sequence[str], shared: Sequence[Component]) -> str:
    ties = [component.name for component in shared if stratum in component.groups]
    return (
        f"{stratum} could not be dealt to {', '.join(empty)}: its groups hang together with other classes or noise "
        f"({', '.join(ties[:3])}{', ...' if len(ties) > 3 else ''}). Add recordings of groups of its own, "
        "or try another seed"
    )
