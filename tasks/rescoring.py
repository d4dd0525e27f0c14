"""Some published clips asked again of the published weights, on this machine."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import pyarrow.parquet as pq
import yaml

from recipes.schema import StudyRecipe, load_study
from tasks import forkserver
from tasks.functional.predictions import FIXED_THRESHOLD
from tasks.hub import pull
from tasks.models.jobs import Question, ScoringJob
from tasks.published_adapters import base_of
from tasks.store import read_json

CHILD = "tasks.detectors.audio_llm"
KEYS = ["clip_id", "fold"]
# P may move by this where machines round differently: both in fp32, or one of them in bf16 or 4 bits, which moves a trained
# adapter's log odds by .14, root mean square (tests.bench.bench_rounding_gpu): P near .5 by .15 is four times that.
TOLERANCE = {"exact": 1e-4, "rounded": 0.15}
Say = Callable[[str], None]


class Rescored(NamedTuple):
    """How far the second answers are from the published ones."""

    asked: int
    clips: int  # answered again
    farthest: float  # of P
    flips: int  # other answers
    false_flips: int  # clips that rounding cannot explain: another answer though P is sure, or P on one side only
    tolerance: float
    how: str  # on what, where the published ones are from, and the base if it was given

    @property
    def equal(self) -> bool:
        """Whether every clip was answered, P moved no farther than allowed, and no answer changed that could not."""
        return self.clips == self.asked and self.farthest <= self.tolerance and not self.false_flips


class Asking(NamedTuple):
    """What is the same for every fold."""

    study: StudyRecipe
    question: Question
    folder: Path
    data: Path
    base: str | None
    say: Say


def rescore(
    folder: Path,
    n: int,
    base: str | None = None,
    say: Say = lambda line: print(line, file=sys.stderr, flush=True),
) -> Rescored:
    """Ask `n` test clips of an adapter's repository again, as many of each class, each of its own fold's weights.

    Clips come from the data set that the report names, weights from the folder, the base from Hugging Face's cache, the
    home, the Hub or the folder `base`; no kept score or encoding is read. What was published from a GPU is asked on a CPU
    where there is no GPU, in fp32 instead of bf16, and then P may move as far as that rounding moves it. Raises
    FileNotFoundError where one of them is nowhere, ValueError where the clips are not there.
    """
    report = read_json(folder / "report.json")
    study = load_study(yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")))
    published = drawn(headline(folder, report), n)
    origin = report["provenance"]
    question = Question(
        classes=study.classes, answers=origin["answers"], prompt=origin["prompt"], longest_ms=study.longest_ms
    )
    data = pull("dataset", origin["dataset"]["repo"], origin["dataset"]["sha"])
    asking = Asking(study, question, folder, data, base, say)
    tables, devices, rounded = [], set[str](), bool(study.train.quantization) or origin["device"] != "cpu"
    for fold in sorted(published["fold"].unique().tolist()):
        clips = published["clip_id"][published["fold"] == fold].tolist()
        with tempfile.TemporaryDirectory() as place:
            scores, timing = asked_again(asking, fold, clips, Path(place))
        tables.append(scores.assign(fold=fold))
        devices.add(timing["device"])
        rounded |= timing["rounded"]
    tolerance = TOLERANCE["rounded" if rounded else "exact"]
    how = told(" and ".join(sorted(devices)), origin["device"], base)
    return apart(published, pd.concat(tables), tolerance, how)


def apart(published: pd.DataFrame, again: pd.DataFrame, tolerance: float, how: str) -> Rescored:
    """How far the answers of `again` are from the published ones. Both: clip_id, fold, p_speech, prediction.

    Another answer is rounding where the published P is within the tolerance of the threshold, and nowhere else.
    """
    both = published.merge(again, on=KEYS, suffixes=("", "_again"), validate="one_to_one")
    flips = both["prediction"].fillna("") != both["prediction_again"].fillna("")
    close = (both["p_speech"] - FIXED_THRESHOLD).abs() <= tolerance  # without a P nothing is
    one_sided = both["p_speech"].isna() != both["p_speech_again"].isna()
    moved = (both["p_speech"] - both["p_speech_again"]).abs().fillna(0)
    return Rescored(
        asked=len(published),
        clips=len(both),
        farthest=max(moved, default=0.0),
        flips=int(flips.sum()),
        false_flips=int((flips & ~close | one_sided).sum()),
        tolerance=tolerance,
        how=how,
    )


def told(device: str, published: str, base: str | None) -> str:
    """On what the clips were asked again, where that was another device, and which base was given."""
    apart = "" if device == published else f", published from {published}, which rounds otherwise"
    return f"on {device}{apart}" + (f", with the base in {base}" if base else "")


def headline(folder: Path, report: dict[str, object]) -> pd.DataFrame:
    """The published rows that the headline rests on: the adapter's own generated answers on test."""
    table = pd.read_parquet(folder / "predictions.parquet")
    ours = (table["detector"] == "adapter") & (table["split"] == "test") & (table["method"] == "generate")
    return table[ours & (table["seed"] == report["seed"]) & (table["protocol"] == report["protocol"])]


def drawn(rows: pd.DataFrame, n: int) -> pd.DataFrame:
    """`n` rows, as many of each class as there are; always the same."""
    each = [its.sample(min(len(its), -(-n // 2)), random_state=0) for _, its in rows.groupby("label")]
    return pd.concat(each).iloc[:n]


def asked_again(asking: Asking, fold: int, clips: list[str], place: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Scores of some clips of one fold, and on what the child computed."""
    study = asking.study
    adapter = asking.folder / f"fold-{fold}" if fold else asking.folder
    config = read_json(adapter / "adapter_config.json")
    base = base_of(str(asking.folder), (config["base_model_name_or_path"], config["revision"]), asking.base)
    table = pq.read_table(asking.data / "data", filters=[("clip_id", "in", clips)])
    if missing := set(clips) - {*table["clip_id"].to_pylist()}:
        raise ValueError(f"{asking.data} lacks {len(missing)} of the published clips, e.g. {min(missing)}")
    pq.write_table(table, place / "clips.parquet")
    (place / "scores").mkdir()
    device: Literal["cpu", "auto"] = "cpu" if study.train.device == "cpu" else "auto"
    job = ScoringJob(
        base=base.load, revision=base.revision, quantization=study.train.quantization, question=asking.question,
        device=device, output=str(place / "scores"), adapter=str(adapter.absolute()), only_answers=True,
        clips={"test": (str(place / "clips.parquet"),)}, generate_on=("test",), batch_size=None,
        base_revision=base.public_revision, code="rescored",
    )  # fmt: skip

    def on_line(line: str) -> None:
        if line.startswith("test, "):  # how far it has come; the rest is what libraries print
            asking.say(f"scoring again, {line.removeprefix('test, ')}")

    with home_at(place / "home"):
        try:
            job.run(CHILD, what="scoring again", on_line=on_line, timeout_min=study.evaluate.timeout_min)
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
