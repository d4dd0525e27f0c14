"""The predictions table: checks and defaults, the rows a report is about, and the threshold that decides them."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from tasks.functional.calibration import choose_threshold

FIXED_THRESHOLD = 0.5
REQUIRED = ("clip_id", "group_id", "label")
KEY = ("detector", "split", "protocol", "seed", "prompt", "method")  # a clip stands once within each
METHODS = ("generate", "", "forward", "open")  # the headline is the first of these that a detector has


class Decided(NamedTuple):
    """Test rows with their final `prediction`, and the thresholds that made it."""

    rows: pd.DataFrame
    chosen_on: Literal["fixed", "dev"]
    by_fold: dict[str, float]  # empty where fixed
    flags: Mapping[str, str]  # fold -> "separable" or "inverted" dev rows


def validate_predictions(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """The table sorted by its key, with every optional column of the key and every default filled in.

    `base_clip_id` defaults to clip_id, split to "test", the other strings of the key to "". A detector and method
    that name no prediction at all are decided at p_speech >= 0.5; elsewhere a null prediction is no usable answer.
    Raises ValueError, naming the row or how many, for a missing column, an empty table, nulls, a key that repeats,
    unknown classes, one clip with two truths, p_speech outside [0, 1], or a row with neither p_speech nor prediction.
    """
    _check_columns(table)
    given = table.reset_index(drop=True)
    for column in ("label", "prediction"):
        known = given[column].isin(classes) if column in given else pd.Series(True, index=given.index)
        allowed = known | given[column].isna() if column == "prediction" and column in given else known
        _refuse(given, ~allowed, f"{column} is none of the classes {list(classes)}")
    if "p_speech" in given:
        p = pd.to_numeric(given["p_speech"], errors="coerce")
        _refuse(given, given["p_speech"].notna() & ~p.between(0, 1), "p_speech is no number in [0, 1]")
    filled = _with_defaults(given)
    _refuse(filled, filled.duplicated([*KEY, "clip_id"]), f"the clip stands twice within one {', '.join(KEY)}")
    _refuse(filled, filled["p_speech"].isna() & filled["prediction"].isna() & ~_names_any(filled),
            "p_speech is null or NaN and its detector names no prediction")  # fmt: skip
    for truth in ("label", "group_id"):
        several = filled.groupby("clip_id", observed=True)[truth].transform("nunique") > 1
        _refuse(filled, several, f"the clip has more than one {truth}")
    derived = filled["prediction"].isna() & ~_names_any(filled)
    filled["prediction"] = filled["prediction"].mask(derived, _decision(filled["p_speech"], FIXED_THRESHOLD, classes))
    return filled.sort_values([*KEY, "clip_id"], kind="stable", ignore_index=True)


def headline_rows(table: pd.DataFrame, detector: str, seed: int | None, protocol: str) -> pd.DataFrame:
    """Dev and test rows of one detector by which it is judged: constrained generation where it has it, one seed.

    table: validated. Rows without a protocol count under every protocol. A detector with several seeds needs the
    published one among them. Raises ValueError where no test row is left, or more than one prompt or seed.
    """
    rows = table[(table["detector"] == detector) & table["protocol"].isin([protocol, ""])]
    test_methods = set(rows.loc[rows["split"] == "test", "method"])
    if not test_methods:
        raise ValueError(f"{detector!r} has no test rows under protocol {protocol!r}; every detector needs some")
    method = next((known for known in METHODS if known in test_methods), min(test_methods))
    rows = rows[rows["method"] == method]
    seeds = sorted(rows["seed"].dropna().unique().tolist())
    if seed in seeds:
        rows = rows[rows["seed"] == seed]
    elif len(seeds) > 1:
        raise ValueError(f"{detector!r} has the seeds {seeds} and none of them is the published one, {seed}")
    if (prompts := rows["prompt"].nunique()) > 1:
        raise ValueError(f"{detector!r} has {prompts} prompts among its rows: keep those of the published prompt only")
    return rows


def decide(rows: pd.DataFrame, classes: Sequence[str], threshold: Literal["fixed", "dev"]) -> Decided:
    """The test rows with predictions by the fixed threshold, or by Youden's on each fold's own dev rows.

    rows: dev and test of one detector. "fixed" leaves the table's own predictions. Scores that do not vary on dev, or
    are not there, leave nothing to choose: such a detector stays at its own predictions and says "fixed".
    Raises ValueError where a fold's dev rows share a clip, or under protocol "group" a group, with its test rows.
    """
    dev, test = rows[rows["split"] == "dev"], rows[rows["split"] == "test"]
    if threshold == "fixed" or test["p_speech"].isna().all():
        return Decided(test, "fixed", {}, {})
    decided, by_fold, flags = test.copy(), {}, {}
    for fold, of_fold in test.groupby("fold", sort=True):
        own = dev[(dev["fold"] == fold) & dev["p_speech"].notna()]
        if own["p_speech"].nunique() < 2 or own["label"].nunique() < 2:
            return Decided(test, "fixed", {}, {})
        _refuse_overlap(own, of_fold, fold)
        chosen = choose_threshold(own["p_speech"], own["label"], positive=classes[0])
        answered = of_fold.index[of_fold["p_speech"].notna() & of_fold["prediction"].notna()]
        decided.loc[answered, "prediction"] = _decision(of_fold.loc[answered, "p_speech"], chosen.value, classes)
        by_fold[str(fold)] = chosen.value
        if chosen.flag:
            flags[str(fold)] = chosen.flag
    return Decided(decided, "dev", by_fold, flags)


def _check_columns(table: pd.DataFrame) -> None:
    if missing := [column for column in REQUIRED if column not in table]:
        raise ValueError(f"the predictions table has no column {missing[0]!r}, it has {list(table.columns)}")
    if "p_speech" not in table and "prediction" not in table:
        raise ValueError("the predictions table has neither p_speech nor prediction: give at least one of them")
    if table.empty:
        raise ValueError("the predictions table has no rows: there is nothing to report")
    for column in REQUIRED:
        _refuse(table.reset_index(drop=True), table[column].isna().reset_index(drop=True), f"{column} is null")


def _refuse(table: pd.DataFrame, bad: pd.Series, reason: str) -> None:
    """Raise a sentence with the first bad row, its clip and how many there are, if there are any."""
    if not bad.any():
        return
    row = int(bad.to_numpy().argmax())
    clip, n = table["clip_id"].iloc[row], int(bad.sum())
    raise ValueError(f"predictions row {row} (clip {clip!r}): {reason}" + (f"; {n} rows are so" if n > 1 else ""))


def _with_defaults(given: pd.DataFrame) -> pd.DataFrame:
    filled = given.copy()
    nothing = pd.Series(np.nan, index=filled.index)
    filled["p_speech"] = filled.get("p_speech", nothing).astype(float)
    for column, default in {"prediction": None, **dict.fromkeys(KEY, ""), "split": "test"}.items():
        if column in ("seed", "prediction"):
            continue
        filled[column] = _text(filled.get(column, nothing), default)
    filled["prediction"] = filled.get("prediction", nothing).astype(object).where(lambda x: x.notna(), None)
    filled["seed"] = filled.get("seed", nothing).astype("Int64")
    filled["fold"] = filled.get("fold", nothing).astype("Int64").fillna(0)
    for column in ("clip_id", "group_id", "label"):
        filled[column] = _text(filled[column], "")
    for column, default in (("base_clip_id", "clip_id"), ("supergroup_id", "group_id")):
        if column in filled and filled[column].notna().any():
            filled[column] = _text(filled[column], filled[default])
        elif column == "base_clip_id":
            filled[column] = filled[default]
        else:
            filled = filled.drop(columns=column, errors="ignore")
    return filled


def _text(column: pd.Series, default: object) -> pd.Series:
    """Strings as plain objects: thousands of intervals look at them, and arrow's strings are slow to look at."""
    plain = column.astype(object)
    return plain.where(plain.notna(), default).map(str).astype(object)


def _names_any(filled: pd.DataFrame) -> pd.Series:
    """Whether the row's detector and method name a prediction anywhere."""
    return filled.groupby(["detector", "method"])["prediction"].transform("count") > 0


def _decision(p_speech: pd.Series, threshold: float, classes: Sequence[str]) -> pd.Series:
    return pd.Series(np.where(p_speech >= threshold, *classes), index=p_speech.index, dtype=object)


def _refuse_overlap(dev: pd.DataFrame, test: pd.DataFrame, fold: object) -> None:
    columns = ["clip_id", "group_id"] if (test["protocol"] == "group").all() else ["clip_id"]
    for column in columns:
        if both := set(dev[column]) & set(test[column]):
            raise ValueError(
                f"fold {fold}: {len(both)} {column}, e.g. {min(both)!r}, stand in dev and in test: "
                "the threshold would be chosen on test"
            )
