"""Looks: every model, prompt and threshold that was scored on a test set, in a ledger that is only added to."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.cache import task
from tasks.hub import rehearsing
from tasks.run_page import HOOKS
from tasks.store import Looks, Predictions, Splits, home, make_home

KEYS = ["detector", "protocol", "prompt", "seed"]  # what tells a study's models apart; folds together are one model


class Look(BaseModel):
    """One distinct model, prompt and threshold rule on one set of test clips."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    test: str  # digest of the test clips' audio
    detector: str
    model: str  # digest of what it answered: the same model again gives the same answers
    prompt: str | None
    threshold: str  # "fixed" or "dev"


@task(task_run_name="looks at the test clips", **HOOKS)
def note_looks(predictions: Sequence[Predictions], splits: Splits, threshold: str) -> Looks:
    """Enter what a study scored on test, once each, and count what the ledger holds on these clips by now.

    In a rehearsal they are counted and not entered. Raises ValueError where the ledger cannot be read.
    """
    table = pd.concat([pd.read_parquet(reference.path / "predictions.parquet") for reference in predictions])
    looks = looks_of(table, test_digest(splits, table), threshold)
    if not rehearsing():
        enter(looks)
    ledger = dict.fromkeys([*read_ledger(), *looks])
    mine = [look.detector for look in ledger if look.test == looks[0].test]
    return Looks(test=looks[0].test, count=len(mine), by_detector={name: mine.count(name) for name in sorted({*mine})})


def enter(looks: Sequence[Look]) -> None:
    """Add those looks to the ledger that it does not hold yet; a last line that a kill cut short is taken back first."""
    with FileLock(make_home() / "looks.lock"):
        path = home() / "looks.jsonl"
        take_back_half_a_line(path)
        known = {*read_ledger()}
        with path.open("a", encoding="utf-8") as ledger:
            ledger.writelines(f"{look.model_dump_json()}\n" for look in looks if look not in known)


def looks_of(table: pd.DataFrame, test: str, threshold: str) -> list[Look]:
    """One look a detector, protocol, prompt and seed of a predictions table, by its answers to the test rows."""
    rows = table[table["split"] == "test"].sort_values(["clip_id", "method"])
    looks = []
    for _, its in rows.groupby(KEYS, dropna=False):
        detector, prompt = its["detector"].iloc[0], its["prompt"].iloc[0]
        answers = its[["clip_id", "method", "p_speech", "prediction"]].astype("str")
        model = digest(answers.to_numpy().ravel())
        asked = None if pd.isna(prompt) else prompt
        looks.append(Look(test=test, detector=detector, model=model, prompt=asked, threshold=threshold))
    if not looks:
        raise ValueError(f"none of the {len(table)} rows is a test row: nothing was looked at")
    return list(dict.fromkeys(looks))


def test_digest(splits: Splits, table: pd.DataFrame) -> str:
    """Digest of the audio of the test clips, whatever they are called and wherever they lie."""
    scored = set(table.loc[table["split"] == "test", "clip_id"])
    files = sorted((splits.path / "data").glob("*.parquet"))
    clips = pd.concat([pq.read_table(file, columns=["clip_id", "pcm_hash"]).to_pandas() for file in files])
    return digest(sorted(clips.loc[clips["clip_id"].isin(scored), "pcm_hash"]))


def read_ledger() -> list[Look]:
    """Every look so far, in order; a last line without its end is none yet."""
    path = home() / "looks.jsonl"
    if not path.exists():
        return []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    try:
        return [Look.model_validate_json(line) for line in whole.splitlines()]
    except ValidationError as error:
        raise ValueError(
            f"{path} holds a line that is no look: mend it, or move the file away to count anew"
        ) from error


def take_back_half_a_line(path: Path) -> None:
    """Cut the file, if there is one, after its last newline."""
    whole = path.read_bytes() if path.exists() else b""
    if whole and not whole.endswith(b"\n"):
        with path.open("r+b") as ledger:
            ledger.truncate(whole.rfind(b"\n") + 1)


def digest(parts: Iterable[str]) -> str:
    """The first 16 hex digits of the SHA-256 over the parts and their borders."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(f"{part}\0".encode())
    return hashed.hexdigest()[:16]
