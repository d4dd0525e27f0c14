"""Predictions: one fixed table for every detector, whatever it is."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recipes.schema import CheckFailed, TrainMethod
from tasks import child
from tasks.audio_files import decode_flac
from tasks.cache import cached, task
from tasks.detectors import BASELINES
from tasks.models.jobs import Question, ScoringJob, base_at
from tasks.run_page import say
from tasks.store import Adapter, Base, Predictions, Publication, Splits, draft, read_json, write_timing

CLIP_COLUMNS = (
    "clip_id", "group_id", "supergroup_id", "base_clip_id", "label", "duration_ms", "snr_db", "room", "category", "family",
    "recording_id", "noise_id", "room_id",
)  # fmt: skip
# One forward and a generated token may differ by rounding: that of fp32, or that of 4-bit and bf16 arithmetic.
TOLERANCE = {"exact": 1e-5, "rounded": 0.03}


@task(
    task_run_name="{name}, fold {fold}",
    **cached(libraries=("numpy", "scikit-learn", "librosa", "soundfile", "pandas")),
)
def score_baseline(
    name: str, splits: Splits, sides: Mapping[str, str], classes: tuple[str, str], fold: int
) -> Predictions:
    """Fit one baseline on the train side and score dev and test. `sides` maps part -> side."""
    module, attribute = BASELINES[name]
    detector = getattr(importlib.import_module(module), attribute)()
    train = [part for part, side in sides.items() if side == "train"]
    labels = [label for part in train for label in read_columns(splits, part, ["label"])["label"]]
    detector.fit(waveforms(splits, train), [label == classes[0] for label in labels])
    tables = []
    for part in scored(sides):
        p_first = detector.score(waveforms(splits, [part]))
        clips = read_columns(splits, part, CLIP_COLUMNS)
        said = np.where(p_first >= 0.5, *classes)
        tables.append(
            clips.assign(split=sides[part], p_speech=p_first, prediction=said, answer_mass=np.nan, method=None)
        )
    return save(pd.concat(tables, ignore_index=True), name, splits, fold, seed=None, prompt=None)


@task(
    task_run_name="{name}, fold {fold}",
    **cached(
        libraries=("torch", "transformers", "peft", "bitsandbytes", "numpy", "pandas"),
        runs=("tasks.detectors.audio_llm",),
    ),
)
def score_audio_llm(
    name: str,
    splits: Splits,
    sides: Mapping[str, str],
    method: TrainMethod,
    question: Question,
    tiny: Base | None,
    published: Publication | None,
    adapter: Adapter | None,
    fold: int,
    batch_size: int,
    timeout_min: float,
) -> Predictions:
    """Answer dev and test by one forward and test also by constrained generation; the two must agree."""
    at = base_at(method.base, tiny, published)
    with draft(Predictions) as folder:
        files = {side: tuple(str(splits.path / "data" / f"{p}.parquet") for p in scored(sides) if sides[p] == side)
                 for side in ("dev", "test")}  # fmt: skip
        job = ScoringJob(
            base=at.load, revision=at.revision, quantization=method.quantization, question=question, device=method.device,
            output=str(folder), adapter=str(adapter.path) if adapter else None, clips=files, generate_on=("test",),
            batch_size=batch_size,
        )  # fmt: skip
        seconds = job.run(
            child.python("-m", "tasks.detectors.audio_llm"),
            what=f"scoring {name}",
            on_line=say,
            timeout_min=timeout_min,
        )
        scores = pd.read_parquet(folder / "scores.parquet")
        timing = read_json(folder / "timing.json")
    check_agreement(scores, TOLERANCE["rounded" if method.quantization or timing["rounded"] else "exact"])
    clips = pd.concat([read_columns(splits, part, CLIP_COLUMNS) for part in scored(sides)], ignore_index=True)
    table = clips.merge(scores, on="clip_id", validate="one_to_many")
    predictions = save(table, name, splits, fold, seed=adapter.seed if adapter else None, prompt=question.prompt)
    write_timing(predictions, {"score_s": seconds, **timing["ms_per_clip"]})
    return predictions


def check_agreement(scores: pd.DataFrame, tolerance: float) -> None:
    """Raise CheckFailed unless forward and generation scored the same test clips, with P no further apart than allowed
    and no other answer farther than that from .5."""
    test = scores[scores["split"] == "test"].set_index("clip_id")
    forward, said = (test[test["method"] == method] for method in ("forward", "generate"))
    if len(lone := forward.index.symmetric_difference(said.index)) or not len(forward):
        raise CheckFailed(
            f"{len(lone)} test clips were asked in one way only, e.g. {lone[0]}"
            if len(lone)
            else "no test clip was asked"
        )
    said = said.loc[forward.index]
    apart = (forward["p_speech"] - said["p_speech"]).abs()
    flips = (forward["prediction"] != said["prediction"]) & ((forward["p_speech"] - 0.5).abs() > tolerance)
    if not (apart <= tolerance).all() or flips.any():
        raise CheckFailed(
            f"generation and forward disagree on {len(forward)} test clips: largest difference of P {apart.max():.2g} "
            f"(allowed {tolerance:g}), {int(flips.sum())} other answers; the scores of this model cannot be trusted"
        )


def scored(sides: Mapping[str, str]) -> list[str]:
    """Parts that get predictions: dev, then test."""
    return [part for side in ("dev", "test") for part, its in sides.items() if its == side]


def read_columns(splits: Splits, part: str, columns: Sequence[str]) -> pd.DataFrame:
    """Some columns of one part."""
    return pq.read_table(splits.path / "data" / f"{part}.parquet", columns=list(columns)).to_pandas()


def waveforms(splits: Splits, parts: Sequence[str]) -> Iterator[NDArray[np.float32]]:
    """The clips of these parts, decoded one after another."""
    for part in parts:
        for batch in pq.ParquetFile(splits.path / "data" / f"{part}.parquet").iter_batches(256, columns=["audio"]):
            for row in batch.to_pylist():
                yield decode_flac(row["audio"]["bytes"])


def save(
    table: pd.DataFrame, name: str, splits: Splits, fold: int, seed: int | None, prompt: str | None
) -> Predictions:
    """Add what identifies the detector and store the table."""
    protocol = "group" if splits.verdict == "clean" else "random"
    facts: dict[str, Any] = {"detector": name, "protocol": protocol, "fold": fold, "prompt": prompt}
    table = table.assign(**facts, seed=pd.array([seed] * len(table), dtype="Int64"))
    table["method"] = table["method"].astype("string")
    table["prompt"] = table["prompt"].astype("string")
    with draft(Predictions) as folder:
        table.to_parquet(folder / "predictions.parquet", index=False)
        return Predictions.of(folder, detector=name, rows=len(table))
