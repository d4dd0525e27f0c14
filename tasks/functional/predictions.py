"""The predictions table: checks and defaults, the rows a report is about, and the threshold that decides them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from tasks.functional.calibration import choose_threshold

FIXED_THRESHOLD = 0.5
REQUIRED = ("clip_id", "group_id", "label")
KEY = ("detector", "split", "protocol", "seed", "prompt", "method")  # a clip stands once within each
METHODS = ("generate", "", "forward", "open")  # the headline is the first of these that a detector has
ALIKE = ("generate", "forward")  # agree clip by clip, so what is fitted on one holds for the other
SPLITS = ("dev", "test")
PROTOCOLS = ("group", "", "random")  # the headline is the first of these that its detector has


class Decided(NamedTuple):
    """Test rows with their final `prediction`, and the thresholds that made it."""

    rows: pd.DataFrame
    chosen_on: Literal["fixed", "dev"]
    by_fold: dict[str, float]  # empty where fixed
    flags: Mapping[str, str]  # fold -> "separable", "inverted" or "constant" dev scores


class Fold(NamedTuple):
    """One trained detector: its scored dev rows and its test rows. The name is that of the fold, and of the seed where
    there are several."""

    name: str
    dev: pd.DataFrame
    test: pd.DataFrame

    @property
    def constant(self) -> bool:
        """Whether one score answers every dev clip: nothing can be fitted on such."""
        return self.dev["p_speech"].nunique() == 1


# --- checks ------------------------------------------------------------------------------------------------------


def validate_predictions(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """The table sorted by its key, with every optional column of the key and every default filled in.

    `base_clip_id` defaults to clip_id, split to "test", the other strings of the key to "". A detector and method
    that name no prediction at all are decided at p_speech >= 0.5; elsewhere a null prediction is no usable answer.
    Raises ValueError, naming the row (from 0) or how many, for a missing column, an empty table, nulls, a key that
    repeats, unknown classes or splits, one clip with two truths, p_speech outside [0, 1], or NaN where its detector
    gives it elsewhere, a row with neither p_speech nor prediction, a seed or fold that is no whole number, and a
    duration_ms or snr_db that is no finite number.
    """
    _check_columns(table)
    given = table.reset_index(drop=True)
    _check_values(given, classes)
    filled = _with_defaults(given)
    _refuse(filled, ~filled["split"].isin(SPLITS), f"split is none of {list(SPLITS)}", "split")
    _refuse(filled, filled.duplicated([*KEY, "clip_id"]), f"the clip stands twice within one {', '.join(KEY)}")
    _check_answers(filled)
    for truth in ("label", "group_id"):
        several = filled.groupby("clip_id", observed=True)[truth].transform("nunique") > 1
        _refuse(filled, several, f"the clip has more than one {truth}")
    derived = filled["prediction"].isna() & ~_names_any(filled)
    filled["prediction"] = filled["prediction"].mask(derived, _decision(filled["p_speech"], FIXED_THRESHOLD, classes))
    return filled.sort_values([*KEY, "clip_id"], kind="stable", ignore_index=True)


def _check_columns(table: pd.DataFrame) -> None:
    if missing := [column for column in REQUIRED if column not in table]:
        raise ValueError(f"the predictions table has no column {missing[0]!r}, it has {list(table.columns)}")
    if "p_speech" not in table and "prediction" not in table:
        raise ValueError("the predictions table has neither p_speech nor prediction: give at least one of them")
    if table.empty:
        raise ValueError("the predictions table has no rows: there is nothing to report")
    for column in REQUIRED:
        _refuse(table.reset_index(drop=True), table[column].isna().reset_index(drop=True), f"{column} is null")


def _check_values(given: pd.DataFrame, classes: Sequence[str]) -> None:
    for column in ("label", "prediction"):
        if column in given:
            unknown = given[column].notna() & ~given[column].isin(classes)
            _refuse(given, unknown, f"{column} is none of the classes {list(classes)}", column)
    if "p_speech" in given:
        p = pd.to_numeric(given["p_speech"], errors="coerce")
        _refuse(given, given["p_speech"].notna() & ~p.between(0, 1), "p_speech is no number in [0, 1]", "p_speech")
    for column in ("seed", "fold"):
        if column in given:
            number = pd.to_numeric(given[column], errors="coerce").astype(float)
            _refuse(given, given[column].notna() & ~(number % 1 == 0), f"{column} is no whole number", column)
    for column, least, way_out in (
        ("duration_ms", 0.0, "above 0; leave it null where the duration was not varied"),
        ("snr_db", -np.inf, "in dB; leave it null where no noise was added"),
    ):
        if column in given:
            number = pd.to_numeric(given[column], errors="coerce").astype(float)
            bad = given[column].notna() & ~((number > least) & (number < np.inf))
            _refuse(given, bad, f"{column} is no finite number {way_out}", column)


def _check_answers(filled: pd.DataFrame) -> None:
    nothing = filled["p_speech"].isna()
    named = _names_any(filled)
    _refuse(filled, nothing & filled["prediction"].isna() & ~named,
            "p_speech is null or NaN and its detector names no prediction")  # fmt: skip
    scored = filled.groupby(["detector", "split", "method"])["p_speech"].transform("count") > 0
    _refuse(filled, nothing & filled["prediction"].notna() & scored,
            "p_speech is null or NaN beside an answer, and its detector gives p_speech for other clips")  # fmt: skip


def _refuse(table: pd.DataFrame, bad: pd.Series, reason: str, column: str | None = None) -> None:
    """Raise a sentence with the first bad row, its clip, its value and how many there are, if there are any."""
    if not bad.any():
        return
    row = int(bad.to_numpy().argmax())
    clip, n = table["clip_id"].iloc[row], int(bad.sum())
    found = table[column].iloc[row] if column else None
    value = f", it is {found.item() if isinstance(found, np.generic) else found!r}" if column else ""
    raise ValueError(
        f"predictions row {row} (clip {clip!r}): {reason}{value}" + (f"; {n:,} rows are so" if n > 1 else "")
    )


def _with_defaults(given: pd.DataFrame) -> pd.DataFrame:
    filled = given.copy()
    nothing = pd.Series(np.nan, index=filled.index)
    filled["p_speech"] = filled.get("p_speech", nothing).astype(float)
    for column, default in {"prediction": None, **dict.fromkeys(KEY, ""), "split": "test"}.items():
        if column in ("seed", "prediction"):
            continue
        filled[column] = _text(filled.get(column, nothing), default)
    filled["prediction"] = filled.get("prediction", nothing).astype(object).where(lambda x: x.notna(), None)
    for column in ("seed", "fold"):
        filled[column] = pd.to_numeric(filled.get(column, nothing)).astype("Int64")
    filled["fold"] = filled["fold"].fillna(0)
    for column in ("duration_ms", "snr_db"):
        if column in filled:
            filled[column] = pd.to_numeric(filled[column]).astype(float)
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
    """Whether the row's detector and method name a prediction anywhere; a free answer may name no class at all."""
    return (filled.groupby(["detector", "method"])["prediction"].transform("count") > 0) | (filled["method"] == "open")


# --- the rows of one detector ------------------------------------------------------------------------------------


def choose_detector(table: pd.DataFrame, wanted: str | None) -> str:
    """The detector a report is about: the wanted one, the only one, or "adapter". table: validated.

    Raises ValueError, with the list, where the table has no such detector, or several and none of them "adapter".
    """
    names = sorted(set(table.loc[table["split"] == "test", "detector"]))
    if not names:
        raise ValueError("the predictions table has no test rows: every row is of split 'dev'")
    if wanted is not None and wanted not in names:
        raise ValueError(f"no test rows of the detector {wanted!r}; the table has {names}")
    if wanted is None and len(names) > 1 and "adapter" not in names:
        raise ValueError(f"the table holds the detectors {names}: name the one to report on (--detector)")
    return wanted or (names[0] if len(names) == 1 else "adapter")


def with_dev(table: pd.DataFrame, dev: pd.DataFrame, detector: str) -> pd.DataFrame:
    """A validated table with the rows of another, validated as all "dev", in place of its own dev rows.

    Rows of a table that names no detector are the headline's. Raises ValueError where no dev row is of `detector`.
    """
    names = set(dev["detector"])
    if names == {""}:
        dev = dev.assign(detector=detector)
    elif detector not in names:
        raise ValueError(f"the dev table has no rows of {detector!r}, only of {sorted(names)}")
    return pd.concat([table[table["split"] == "test"], dev], ignore_index=True)


def headline_protocol(table: pd.DataFrame, detector: str) -> str:
    """The protocol by which a detector of a validated table is judged: "group" wherever there is one.

    Raises ValueError where it has no test rows.
    """
    mine = table[(table["detector"] == detector) & (table["split"] == "test")]
    if mine.empty:
        known = sorted(set(table.loc[table["split"] == "test", "detector"]))
        raise ValueError(f"no test rows of {detector!r}; detectors with test rows are {known}")
    there = set(mine["protocol"])
    return next((known for known in PROTOCOLS if known in there), min(there))


def headline_rows(table: pd.DataFrame, detector: str, seed: int | None, protocol: str) -> pd.DataFrame:
    """Dev and test rows of one detector by which it is judged: constrained generation where it has it.

    table: validated. Rows without a protocol count under every protocol. `seed` None keeps all seeds; a detector with
    several must have the given one among them. Dev rows of a forward pass stand in for generated ones and the reverse,
    and dev rows that name no method, prompt or seed count for any.
    Raises ValueError where no test row is left, or more than one prompt, or not that seed.
    """
    rows = table[(table["detector"] == detector) & table["protocol"].isin([protocol, ""])]
    dev, test = (rows[rows["split"] == split] for split in SPLITS)
    if test.empty:
        raise ValueError(f"{detector!r} has no test rows under protocol {protocol!r}; every detector needs some")
    method = _first_of((*METHODS, test["method"].min()), test["method"])
    test = test[test["method"] == method]
    if len(prompts := sorted(set(test["prompt"]))) > 1:
        raise ValueError(f"{detector!r} has {len(prompts)} prompts among its test rows: keep those of one prompt only")
    seeds = sorted(test["seed"].dropna().unique().tolist())
    if seed in seeds:
        test, dev = test[test["seed"] == seed], dev[(dev["seed"] == seed).fillna(True)]
    elif seed is not None and len(seeds) > 1:
        raise ValueError(f"{detector!r} has the seeds {seeds} and none of them is the published one, {seed}")
    stand_in = METHODS if method == "" else (method, *(ALIKE if method in ALIKE else ()), "")
    dev = dev[(dev["method"] == _first_of(stand_in, dev["method"])) & dev["prompt"].isin([*prompts, ""])]
    return pd.concat([dev, test])


def _first_of(order: Sequence[str], there: pd.Series) -> str | None:
    """The first of `order` that is there, or None."""
    return next((known for known in order if (there == known).any()), None)


def folds_of(rows: pd.DataFrame) -> Iterator[Fold]:
    """Every fold, and seed, of one detector's rows; `dev` holds those of its dev rows that have a score.

    Raises ValueError where a fold's dev rows share a clip, or under protocol "group" a group, with its test rows.
    """
    dev, test = rows[(rows["split"] == "dev") & rows["p_speech"].notna()], rows[rows["split"] == "test"]
    several = test["seed"].nunique() > 1
    for (seed, fold), own_test in test.groupby(["seed", "fold"], sort=True, dropna=False):
        own = dev[dev["fold"] == fold]
        if own_test["seed"].notna().all():
            own = own[(own["seed"] == seed).fillna(True)]
        _refuse_overlap(own, own_test, fold)
        yield Fold(f"seed {seed}, fold {fold}" if several else str(fold), own, own_test)


def decide(rows: pd.DataFrame, classes: Sequence[str], threshold: Literal["fixed", "dev"]) -> Decided:
    """The test rows with predictions by the fixed threshold, or by Youden's on each fold's own dev rows.

    rows: dev and test of one detector. "fixed" leaves the table's own predictions. Where a fold has no scored dev rows
    of both classes the detector as a whole stays at its own predictions and says "fixed"; a fold whose dev scores are
    all the same leaves nothing to choose, stays at its own and is flagged "constant".
    Raises ValueError as `folds_of` does.
    """
    test = rows[rows["split"] == "test"]
    if threshold == "fixed" or test["p_speech"].isna().all():
        return Decided(test, "fixed", {}, {})
    decided, by_fold, flags = test.copy(), {}, {}
    for fold in folds_of(rows):
        if fold.dev["label"].nunique() < 2:
            return Decided(test, "fixed", {}, {})
        if fold.constant:
            flags[fold.name] = "constant"
            continue
        chosen = choose_threshold(fold.dev["p_speech"], fold.dev["label"], positive=classes[0])
        answered = fold.test.index[fold.test["p_speech"].notna() & fold.test["prediction"].notna()]
        decided.loc[answered, "prediction"] = _decision(fold.test.loc[answered, "p_speech"], chosen.value, classes)
        by_fold[fold.name] = chosen.value
        if chosen.flag:
            flags[fold.name] = chosen.flag
    return Decided(decided, "dev" if by_fold else "fixed", by_fold, flags)


def _decision(p_speech: pd.Series, threshold: float, classes: Sequence[str]) -> pd.Series:
    return pd.Series(np.where(p_speech >= threshold, *classes), index=p_speech.index, dtype=object)


def _refuse_overlap(dev: pd.DataFrame, test: pd.DataFrame, fold: object) -> None:
    columns = ["clip_id", "group_id"] if (test["protocol"] == "group").all() else ["clip_id"]
    for column in columns:
        if both := set(dev[column]) & set(test[column]):
            raise ValueError(
                f"fold {fold}: {len(both)} {column}, e.g. {min(both)!r}, stand in dev and in test: "
                "what is fitted on dev would be fitted on test"
            )
