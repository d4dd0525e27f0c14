"""What a detector gets wrong: error rates by factor, group and sound family, and the clips themselves."""

from collections.abc import Sequence

import pandas as pd

from tasks.functional.levels import level_names, varied
from tasks.functional.report_schema import ErrorRate, Errors, GroupErrors, WrongClip

FAMILIES = ("family", "category", "source")  # the first that is there says which sound a clip is of
WORST_GROUPS = 10
MOST_LISTED = 200


def error_analysis(rows: pd.DataFrame, factors: Sequence[str], classes: tuple[str, str]) -> Errors:
    """Counts and lists of wrong answers; the first class is the one that is missed, the other alarms falsely.

    rows: one detector's test rows, a row a clip and seed, with label, prediction (null is unanswered, and wrong),
    p_speech, group_id and the columns `factors`. An unanswered clip of the first class is missed; an unanswered clip of
    the second is wrong but no false alarm. `by` counts the rows that vary the factor (`levels.varied`).
    """
    rows = _judged(rows, classes)
    family = next((name for name in FAMILIES if name in rows and rows[name].notna().any()), None)
    of_second = rows[rows["label"] == classes[1]]
    return Errors(
        answers=len(rows),
        wrong=int(rows["wrong"].sum()),
        by={name: _rates(varied(rows, name), name) for name in dict.fromkeys((*factors, "group_id"))},
        worst_groups=_worst_groups(rows),
        family_column=family,
        false_alarms_by_family=_rates(of_second, family) if family and len(of_second) else {},
        missed=_listed(rows[rows["missed"]], factors, ascending=True),
        false_alarms=_listed(rows[rows["false_alarm"]], factors, ascending=False),
        n_missed=int(rows["missed"].sum()),
        n_false_alarms=int(rows["false_alarm"].sum()),
    )


# --- parts -------------------------------------------------------------------------------------------------------


def _judged(rows: pd.DataFrame, classes: tuple[str, str]) -> pd.DataFrame:
    first, second = classes
    said, truth = rows["prediction"], rows["label"]
    return rows.assign(
        wrong=said != truth,
        missed=(truth == first) & (said != first),
        false_alarm=(truth == second) & (said == first),
        unanswered=said.isna(),
    )


def _rates(rows: pd.DataFrame, factor: str) -> dict[str, ErrorRate]:
    levels = rows.groupby(level_names(rows[factor], factor), sort=True)
    counts = levels.agg(
        clips=("clip_id", "nunique"), groups=("group_id", "nunique"), answers=("clip_id", "size"),
        wrong=("wrong", "sum"), missed=("missed", "sum"), false_alarms=("false_alarm", "sum"),
        unanswered=("unanswered", "sum"),
    )  # fmt: skip
    return {
        str(level): ErrorRate.model_validate({**row, "rate": row["wrong"] / row["answers"]})
        for level, row in counts.to_dict("index").items()
    }


def _worst_groups(rows: pd.DataFrame) -> list[GroupErrors]:
    by = rows.groupby(["group_id", "label"])["wrong"].agg(["size", "sum", "mean"]).reset_index()
    by = by[by["sum"] > 0].sort_values(["mean", "sum", "group_id"], ascending=[False, False, True], kind="stable")
    return [
        GroupErrors(group_id=row["group_id"], label=row["label"], answers=row["size"], wrong=row["sum"], rate=row["mean"])
        for row in by.head(WORST_GROUPS).to_dict("records")
    ]  # fmt: skip


def _listed(wrong: pd.DataFrame, factors: Sequence[str], *, ascending: bool) -> list[WrongClip]:
    """The first wrong answers, the surest before the others: p_speech ascending or descending, then by clip."""
    order = wrong.sort_values(["p_speech", "clip_id"], ascending=[ascending, True], kind="stable")
    shown = order.head(MOST_LISTED)
    named = {name: level_names(shown[name], name).tolist() for name in factors}
    return [
        WrongClip(
            clip_id=row["clip_id"], group_id=row["group_id"], label=row["label"], prediction=row["prediction"],
            p_speech=None if pd.isna(row["p_speech"]) else row["p_speech"],
            seed=None if pd.isna(row["seed"]) else int(row["seed"]),
            factors={name: levels[at] for name, levels in named.items()},
        )
        for at, row in enumerate(shown.to_dict("records"))
    ]  # fmt: skip
