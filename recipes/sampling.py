"""Levels whose clips are to be drawn oftener: whether a study has any clip of them, before one is made."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

Sampling = Mapping[str, Mapping[str | float, float]]  # factor -> level -> how much oftener than 1
OF_DESIGN = ("duration_ms", "snr_db", "band", "room")  # keys of `dataset.clips` as well
# Factors that recordings, noises and rooms bring along: known once the sources are listed.
OF_SOURCES = (
    "category", "family", "licence", "group_id", "supergroup_id", "recording_id", "noise_id", "noise_group_id",
    "noise_supergroup_id", "noise_licence", "room_id", "room_licence",
)  # fmt: skip

TOLD = 20  # levels


def level_name(level: Any) -> str:
    """A level as recipes and clips both write it: 200 for 200.0, null for none."""
    if level is None or level == "null":
        return "null"
    try:
        return f"{float(level):g}"
    except ValueError:
        return str(level)


class Sampled(NamedTuple):
    """What one training draws oftener."""

    key: str  # of the recipe
    sampling: Sampling
    clips: Mapping[str, Any]  # training part -> its block of clips
    of: str  # " of fold 0", "" where there are none


def refuse_unknown_factors(its: Sampled, known: Collection[str]) -> None:
    """Raise ValueError for a factor that no clip has."""
    if unknown := [factor for factor in its.sampling if factor not in known]:
        raise ValueError(f"{its.key}.{unknown[0]}: clips have no such factor; there are {', '.join(known)}")


def refuse_absent_levels(its: Sampled, there: Mapping[str, Collection[Any]]) -> None:
    """Raise ValueError for a level that no training clip has.

    there: factor -> levels of the training clips, in the order in which they are told; other factors are not judged.
    """
    for factor in (name for name in its.sampling if name in there):
        levels = list(dict.fromkeys(map(level_name, there[factor])))
        told = ", ".join(levels[:TOLD]) + (f" and {len(levels) - TOLD} more" if len(levels) > TOLD else "")
        if absent := [name for name in map(level_name, its.sampling[factor]) if name not in levels]:
            add = f", or add {absent[0]} to dataset.clips.{factor}" if factor in OF_DESIGN else ""
            raise ValueError(
                f"{its.key}.{factor}: no training clip{its.of} has {absent[0]}; there are {told or 'none'}: name one of "
                f"these{add}"
            )
