"""How far single cues tell the classes apart without anybody listening: fitted on train, scored on test."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.functional.audio import SAMPLE_RATE_HZ, Waveform
from tasks.functional.cues import CUES, cues
from tasks.functional.leakage import clips_of
from tasks.functional.metrics import roc_auc

SHORTCUTS = (*CUES, "duration_ms", "encoded_bytes")
MODEL = "all together"
CALLED_OUT = 0.65  # the AUC above which a cue is named as a shortcut
MOST_TRAINED = 5_000  # clips that the model over all cues sees
SEED = 0  # decides between splits of a tree that are equally good


def measure_cues(samples: Waveform, encoded_bytes: int) -> NDArray[np.float64]:
    """The eight `SHORTCUTS` of one clip at 16 kHz. Raises ValueError for an empty one."""
    return np.array([*cues(samples), 1000 * samples.size / SAMPLE_RATE_HZ, encoded_bytes])


def measure_shortcuts(
    measured: pd.DataFrame, folds: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_]]]
) -> dict[str, dict[str, Any]]:
    """Cue -> auc (mean over folds) and called_out (above .65), and the same for a small model over all cues.

    `measured` has the columns `SHORTCUTS` and is_first; a fold is (rows of train, rows of test). Train says which way a cue
    points, so that an AUC under one half is a cue that points the other way on test. Folds in which train or test
    lacks a class are left out. Raises ValueError where no fold is left.
    """
    first = measured["is_first"].to_numpy(bool)
    whole = [fold for fold in folds if all(first[rows].any() and not first[rows].all() for rows in fold)]
    if not whole:
        raise ValueError("no fold has both classes in train and in test: there is nothing to fit or to score a cue on")
    scored = [_score(measured[[*SHORTCUTS]].to_numpy(float), first, train, test) for train, test in whole]
    aucs = {name: float(np.mean([fold[name] for fold in scored])) for name in (*SHORTCUTS, MODEL)}
    return {name: {"auc": round(auc, 4), "called_out": auc > CALLED_OUT} for name, auc in aucs.items()}


def _score(
    values: NDArray[np.float64], first: NDArray[np.bool_], train: NDArray[np.bool_], test: NDArray[np.bool_]
) -> Mapping[str, float]:
    """AUC on test of every cue and of the model."""
    from sklearn.ensemble import GradientBoostingClassifier

    scores = {}
    for name, value in zip(SHORTCUTS, values.T, strict=True):
        points = 1 if roc_auc(value[train], first[train]) >= 0.5 else -1
        scores[name] = roc_auc(points * value[test], first[test])
    rows = np.flatnonzero(train)
    rows = rows[:: -(-len(rows) // MOST_TRAINED)]
    model = GradientBoostingClassifier(random_state=SEED).fit(values[rows], first[rows])
    return {**scores, MODEL: roc_auc(model.predict_proba(values[test])[:, 1], first[test])}


def describe_shortcuts(scored: Mapping[str, Mapping[str, Any]], measured: str) -> list[str]:
    """On which clips cues were measured, and a line a cue that is called out, or one that none is."""
    loud = {name: its["auc"] for name, its in scored.items() if its["called_out"]}
    if not loud:
        return [f"shortcuts: no cue has an AUC over {CALLED_OUT:g} on test; measured on {measured}"]
    lines = [f"shortcut: {name} has an AUC of {auc:.3f} on test" for name, auc in loud.items()]
    return [*lines, f"  cues measured on {measured}"]


def folds_of(part: pd.Series) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """(train, test) by the parts of these names, else every part as the test of a fold that trains on the others."""
    if {"train", "test"} <= set(part):
        return [((part == "train").to_numpy(), (part == "test").to_numpy())]
    return [((part != name).to_numpy(), (part == name).to_numpy()) for name in sorted(part.unique())]


def state_shortcuts(scored: Mapping[str, Mapping[str, Any]] | None, audit: Mapping[str, Any]) -> str:
    """The same as sentences of a card; `scored` is None where nobody looked, `audit` is audit.json."""
    if not scored:
        return "Whether single cues tell the classes apart without anybody listening was not looked at."
    loud = [f"{name} {its['auc']:.3f}" for name, its in scored.items() if its["called_out"]]
    if not loud:
        return (
            f"No single cue ({', '.join(SHORTCUTS)}) tells the classes apart with an AUC over {CALLED_OUT:g} on test; a "
            f"small model over all of them reaches {scored[MODEL]['auc']:.3f}.{state_measured(audit)}"
        )
    return (
        f"**Some cues tell the classes apart without anybody listening**, fitted on train, AUC on test over {CALLED_OUT:g}: "
        f"{', '.join(loud)}.{state_measured(audit)}"
    )


def state_measured(audit: Mapping[str, Any]) -> str:
    """A sentence on how many clips the cues were measured on; "" where on all, or where an older audit does not say."""
    measured = audit.get("measured") or {}
    whole = audit["content"]["clips"] if measured else {}
    return "" if measured == whole else f" Cues were measured on {clips_of(measured, whole)}."
