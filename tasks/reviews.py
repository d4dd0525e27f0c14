"""Reviews: the answers to a folder's files as they come in, and those of them that a person should hear."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect.cache_policies import NO_CACHE

from tasks.cache import task
from tasks.functional.drift import Drift, drift
from tasks.hub import locate
from tasks.published_adapters import threshold_of
from tasks.run_page import HOOKS, say, show_table
from tasks.sources.files import audio_under
from tasks.store import read_json, write_json

ANSWERS, REVIEW, DRIFT = "predictions.parquet", "review.parquet", "drift.json"
TO_REVIEW, REVIEWED, CHANGED = "to review", "reviewed", "changed"  # the last: other audio than was reviewed
DRIFTED = 20  # clips of a batch that drifts are heard, beside those that stand out by themselves


@task(task_run_name="new files of {folder}", cache_policy=NO_CACHE, **HOOKS)
def find_new_files(folder: str, out: str, adapter: str) -> dict[str, str]:
    """Audio files below a folder, relative to it, that this adapter has not answered as they are now; and how they are.

    Raises FileNotFoundError where there is no such folder, ValueError where the answers would lie among the audio.
    """
    root, place = Path(folder).expanduser(), Path(out).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    if place.absolute() == root.absolute():
        raise ValueError(f"{place} holds the audio: let the answers lie in a folder of their own")
    known = read_answers(place)
    known = known[known["adapter"] == adapter]
    before = dict(zip(known["path"], known["state"], strict=True))
    now = {file.relative_to(root).as_posix(): state_of(file) for file in audio_under(root)}
    new = {name: state for name, state in now.items() if before.get(name) != state}
    say(f"{folder}: {len(now):,} files, {len(new):,} of them new or changed")
    return new


@task(task_run_name="answers kept in {out}", cache_policy=NO_CACHE, **HOOKS)
def keep_answers(
    answers: pd.DataFrame, states: Mapping[str, str], out: str, adapter: str, confidence: float
) -> dict[str, int]:
    """Add new answers to the table in `out`, and to review.parquet what is unsure or unlike the card; how many of each.

    `states`: the files as they were before they were asked. What a person has reviewed stays as it is while the audio
    does. The table is written last: after a kill the same files are new again.
    """
    place = Path(out).expanduser()
    place.mkdir(parents=True, exist_ok=True)
    answers = answers.assign(state=answers["path"].map(states), adapter=adapter)
    moved = drift_of(answers, adapter)
    if moved:
        write_aside(place / DRIFT, lambda file: write_json(file, moved._asdict()))
        show_table("drift", [moved._asdict()], f"New answers against those of the card of {adapter}")
    doubtful = review_rows(answers, confidence, bool(moved and moved.flagged))
    review = merged_review(place / REVIEW, doubtful, answers)
    write_aside(place / REVIEW, lambda file: review.to_parquet(file, index=False))
    earlier = read_answers(place)
    whole = pd.concat([earlier[~earlier["path"].isin(answers["path"])], answers], ignore_index=True)
    write_aside(place / ANSWERS, lambda file: whole.sort_values("path").to_parquet(file, index=False))
    counts = {
        "new": len(answers),
        "to_review": int(review["status"].isin([TO_REVIEW, CHANGED]).sum()),
        "all": len(whole),
    }
    show_table("answers", answers.drop(columns="state").head(200).astype("str").to_dict("records"), f"New in {out}")
    say(f"{out}: {counts['new']:,} new answers, {counts['all']:,} in all; {counts['to_review']:,} to review")
    return counts


def state_of(file: Path) -> str:
    """By what a file is known to be as it was: its size in bytes and its time in ns."""
    stat = file.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def read_answers(place: Path) -> pd.DataFrame:
    """The answers so far; none where there is no table yet. Raises ValueError where the file is none of ours."""
    file = place / ANSWERS
    if not file.exists():
        return pd.DataFrame({name: pd.Series(dtype=object) for name in ("path", "state", "adapter")})
    table = pd.read_parquet(file)
    if not {"path", "state", "adapter", "p_raw"} <= set(table):
        raise ValueError(f"{file} is no table of answers: give a folder of their own with `out`")
    return table


def drift_of(answers: pd.DataFrame, adapter: str) -> Drift | None:
    """New answers against those of the same adapter, which is that of fold 0, to the card's test clips; None where nothing
    was answered."""
    new = answers["p_raw"].dropna()
    folder, _ = locate(adapter)
    report = read_json(folder / "report.json")
    table = pd.read_parquet(folder / "predictions.parquet")
    its: dict[str, Any] = {"split": "test", "method": "forward", "fold": 0}
    its |= {name: report[name] for name in ("detector", "seed", "protocol")}
    card = table[np.logical_and.reduce([table[name].eq(value).fillna(False) for name, value in its.items()])]
    return drift(new, card["p_speech"], threshold_of(report)) if len(new) else None


def review_rows(answers: pd.DataFrame, confidence: float, drifting: bool) -> pd.DataFrame:
    """The answers that a person should hear, with the reason: confidence below `confidence`, outside what the card was
    measured on, and of a batch that drifts some of the others, spread over P."""
    asked = answers[
        answers["p_raw"].notna()
    ]  # neither what cannot be asked nor silence, of which there is nothing to hear
    sure = asked["p_speech"].clip(0, 1).map(lambda p: max(p, 1 - p))
    why = pd.Series("", index=asked.index, dtype=object)
    why = why.where(sure >= confidence, "low confidence")
    outside = asked["warnings"] != ""
    why = why.where(~outside, (why + "; outside the card: " + asked["warnings"]).str.removeprefix("; "))
    if drifting:
        rest = asked[why == ""].sort_values("p_raw")
        at = np.linspace(0, len(rest) - 1, min(DRIFTED, len(rest))).round().astype(int)
        why[rest.index[np.unique(at)]] = "drift of the batch"
    rows = asked[why != ""]
    return pd.DataFrame({
        "file": rows["path"], "label": rows["label"], "group_id": [group_of(path) for path in rows["path"]],
        "status": TO_REVIEW, "why": why[why != ""], "p_speech": rows["p_speech"], "adapter": rows["adapter"],
        "state": rows["state"],
    }).reset_index(drop=True)  # fmt: skip


def group_of(path: str) -> str:
    """The folder of a file where it lies in one, else the file: what may be one speaker or recording is one group."""
    return path.rsplit("/", 1)[0] if "/" in path else path


def merged_review(file: Path, new: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Reviewed rows as a person left them, and the others of files that were not answered anew; then the new ones.

    A reviewed row whose file holds other audio now is no longer reviewed but `changed`, with the label that it had.
    Raises ValueError where the table does not say which audio was reviewed.
    """
    if not file.exists():
        return new
    old = pd.read_parquet(file)
    if "state" not in old:
        raise ValueError(f"{file} has no column 'state', so which audio was reviewed is unknown: move it elsewhere")
    now = old["file"].map(answers.set_index("path")["state"])  # null where it was not answered anew
    kept = old[(old["status"] != TO_REVIEW) | now.isna()].copy()
    changed = now[kept.index].notna() & (now[kept.index] != kept["state"])
    kept.loc[changed, ["status", "why"]] = CHANGED, "the file changed after it was reviewed"
    kept["state"] = now[kept.index].fillna(kept["state"])
    return pd.concat([kept, new[~new["file"].isin(kept["file"])]], ignore_index=True)


def write_aside(file: Path, write: Callable[[Path], Any]) -> None:
    """Write beside the file and rename: it is whole or as it was."""
    draft = file.with_name(f".{file.name}-{os.getpid()}")
    write(draft)
    draft.replace(file)
