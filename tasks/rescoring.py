"""Some published clips asked again of the published weights, on this machine."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow.parquet as pq
import yaml

from recipes.schema import StudyRecipe, load_study
from tasks import forkserver
from tasks.hub import pull
from tasks.models.jobs import Question, ScoringJob, base_at
from tasks.store import read_json

CHILD = "tasks.detectors.audio_llm"
KEYS = ["clip_id", "fold"]
# P may move by this where machines round differently: in fp32, and in bf16 or 4 bits.
TOLERANCE = {"exact": 1e-4, "rounded": 0.08}


class Rescored(NamedTuple):
    """How far the second answers are from the published ones."""

    clips: int
    farthest: float  # of P
    flips: int  # other answers
    tolerance: float
    device: str


def rescore(folder: Path, n: int) -> Rescored:
    """Ask `n` test clips of an adapter's repository again, as many of each class, each of its own fold's weights.

    Clips come from the data set that the report names, weights from the folder, the base from the home or the Hub; no
    kept score or encoding is read. Raises FileNotFoundError where one of them is nowhere, ValueError where the clips
    are not there.
    """
    report = read_json(folder / "report.json")
    study = load_study(yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")))
    published = drawn(headline(folder, report), n)
    origin = report["provenance"]
    data = pull("dataset", origin["dataset"]["repo"], origin["dataset"]["sha"])
    question = Question(
        classes=study.classes, answers=origin["answers"], prompt=origin["prompt"], longest_ms=study.longest_ms
    )
    tables, rounded = [], False
    for fold in sorted(published["fold"].unique().tolist()):
        clips = published["clip_id"][published["fold"] == fold].tolist()
        with tempfile.TemporaryDirectory() as place:
            scores, timing = asked_again(study, question, folder, data, fold, clips, Path(place))
        tables.append(scores.assign(fold=fold))
        rounded |= bool(timing["rounded"] or study.train.quantization)
    both = published.merge(pd.concat(tables), on=KEYS, suffixes=("", "_again"), validate="one_to_one")
    return Rescored(
        clips=len(both),
        farthest=float((both["p_speech"] - both["p_speech_again"]).abs().max()),
        flips=int((both["prediction"] != both["prediction_again"]).sum()),
        tolerance=TOLERANCE["rounded" if rounded else "exact"],
        device=str(timing["latency"]["device"]),
    )


def headline(folder: Path, report: dict[str, object]) -> pd.DataFrame:
    """The published rows that the headline rests on: the adapter's own generated answers on test."""
    table = pd.read_parquet(folder / "predictions.parquet")
    ours = (table["detector"] == "adapter") & (table["split"] == "test") & (table["method"] == "generate")
    return table[ours & (table["seed"] == report["seed"]) & (table["protocol"] == report["protocol"])]


def drawn(rows: pd.DataFrame, n: int) -> pd.DataFrame:
    """`n` rows, as many of each class as there are; always the same."""
    each = [its.sample(min(len(its), -(-n // 2)), random_state=0) for _, its in rows.groupby("label")]
    return pd.concat(each).iloc[:n]


def asked_again(
    study: StudyRecipe, question: Question, folder: Path, data: Path, fold: int, clips: list[str], place: Path
) -> tuple[pd.DataFrame, dict[str, dict[str, object]]]:
    """Scores of some clips of one fold, and how the child computed."""
    adapter = folder / f"fold-{fold}" if fold else folder
    config = read_json(adapter / "adapter_config.json")
    name, revision = config["base_model_name_or_path"], config["revision"]
    load = (
        str(pull("model", name, revision))
        if study.train.base == "tiny"
        else base_at(study.train.base, None, None).load
    )
    table = pq.read_table(data / "data", filters=[("clip_id", "in", clips)])
    if missing := set(clips) - {*table["clip_id"].to_pylist()}:
        raise ValueError(f"{data} lacks {len(missing)} of the published clips, e.g. {min(missing)}")
    pq.write_table(table, place / "clips.parquet")
    (place / "scores").mkdir()
    job = ScoringJob(
        base=load, revision=None if Path(load).is_dir() else revision, quantization=study.train.quantization,
        question=question,
        device=study.train.device, output=str(place / "scores"), adapter=str(adapter.absolute()),
        clips={"test": (str(place / "clips.parquet"),)}, generate_on=("test",), batch_size=None, base_revision=revision,
        code="rescored",
    )  # fmt: skip
    with home_at(place / "home"):
        try:
            job.run(CHILD, what="scoring again", on_line=lambda line: None, timeout_min=study.evaluate.timeout_min)
        finally:
            forkserver.stop()
    scores = pd.read_parquet(place / "scores" / "scores.parquet").query("method == 'generate'")
    return scores[["clip_id", "p_speech", "prediction"]], read_json(place / "scores" / "timing.json")


@contextlib.contextmanager
def home_at(folder: Path) -> Iterator[None]:
    """Inside, children keep what they keep in an empty home."""
    before = os.environ.get("EARSHOT_HOME")
    os.environ["EARSHOT_HOME"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["EARSHOT_HOME"]
        else:
            os.environ["EARSHOT_HOME"] = before
