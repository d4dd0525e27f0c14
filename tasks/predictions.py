"""Predictions: one fixed table for every detector, whatever it is."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recipes.evaluation import SEEDS, EnsembleBlock, OpenBlock
from recipes.schema import CheckFailed
from recipes.training import TrainMethod
from tasks import detectors
from tasks.audio_files import decode_flac, samples_of
from tasks.cache import cached, code_digest, task
from tasks.functional.decoding import open_rules
from tasks.functional.ensemble import ensemble
from tasks.functional.metrics import probabilities
from tasks.functional.predictions import FIXED_THRESHOLD, headline_rows, validate_predictions
from tasks.functional.timing import WARM, latency_of, of_all_lengths
from tasks.models.base_content import content_of_base
from tasks.models.jobs import Question, ScoringJob, base_at
from tasks.pace import Paced
from tasks.progress import Bar
from tasks.run_page import say
from tasks.store import Adapter, Base, Predictions, Publication, Splits, draft, read_json, write_json, write_timing

CLIP_COLUMNS = (
    "clip_id", "group_id", "supergroup_id", "base_clip_id", "label", "duration_ms", "snr_db", "band", "room", "context",
    "varied", "category", "family", "recording_id", "noise_id", "room_id",
)  # fmt: skip
CHILD = "tasks.detectors.audio_llm"


class Allowed(NamedTuple):
    """How far rounding may move P between one forward and a generated token: of any clip, and of all by root mean square."""

    farthest: float
    rms: float


# In bf16 and 4 bits a trained adapter's log odds move by .1, root mean square (tests.bench.bench_rounding_gpu): P near .5 by
# .025, and of many thousand such clips the farthest by five times that. What is wrong is wrong of most clips.
EXACT, ROUNDED = Allowed(1e-5, 1e-5), Allowed(0.25, 0.05)


@task(
    task_run_name="{name}, fold {fold}",
    **cached(
        libraries=(
            "numpy",
            "scipy",
            "scikit-learn",
            "librosa",
            "soundfile",
            "pandas",
            "torch",
            "transformers",
            *detectors.installed(),
        )
    ),
)
def score_baseline(
    name: str, splits: Splits, sides: Mapping[str, str], classes: tuple[str, str], fold: int, limit: int | None = None,
    weights: detectors.Weights | None = None,
) -> Predictions:  # fmt: skip
    """Fit one baseline on the train and dev sides and score dev and test, of a quick look `limit` clips of each part.

    `sides` maps part -> side.

    Raises ValueError where the baseline needs an extra that is not installed, or gives no probability for every clip.
    """
    detector = detectors.make(name, weights)
    detector.fit(
        labelled(splits, sides, "train", classes),
        labelled(splits, sides, "dev", classes, f"{name}, fold {fold}: choosing on dev"),
    )
    if detector.chosen:
        say(f"{name}, fold {fold}: {detector.chosen}")
    tables = [
        answered(detector, name, splits, part, classes, limit).assign(
            split=sides[part], answer_mass=np.nan, method=None
        )
        for part in scored(sides)
    ]
    predictions = save(pd.concat(tables, ignore_index=True), name, splits, fold, seed=None, prompt=None)
    write_timing(predictions, {"latency": timed(detector, on_the_clock(splits, sides, limit))})
    return predictions


def labelled(
    splits: Splits, sides: Mapping[str, str], side: str, classes: tuple[str, str], told: str = ""
) -> detectors.Labelled:
    """The clips of one side with their truth; nothing is decoded before the clips are gone through, which may be `told`."""
    parts = [part for part, its in sides.items() if its == side]
    labels = [label for part in parts for label in read_columns(splits, part, ["label"])["label"]]
    clips = waveforms(splits, parts)
    return detectors.Labelled(counted(clips, told, len(labels)) if told else clips, np.array(labels) == classes[0])


def counted(clips: detectors.Waveforms, told: str, total: int) -> detectors.Waveforms:
    """Clips that are gone through and, where that takes long, how many of them were."""
    pace = Paced(say)
    for done, clip in enumerate(clips):
        pace(f"{told}: {done}/{total} clips")
        yield clip


def answered(
    detector: detectors.Detector, name: str, splits: Splits, part: str, classes: tuple[str, str], limit: int | None
) -> pd.DataFrame:
    """One part's clips with p_speech and prediction. Raises ValueError where a clip has no probability."""
    clips = read_columns(splits, part, CLIP_COLUMNS)
    try:
        heard = counted(waveforms(splits, [part]), f"{name}: {part}", len(clips))
        p_first = probabilities(detector.score(heard), len(clips))
    except ValueError as error:
        raise ValueError(f"baseline {name}, {part}: {error}") from error
    if limit is not None:
        chosen = clips["clip_id"].isin(quick_look(clips, limit)).to_numpy()
        clips, p_first = clips[chosen].reset_index(drop=True), p_first[chosen]
    said = np.where(p_first >= detector.threshold, *classes)
    return clips.assign(p_speech=np.nan if detector.only_decides else p_first, prediction=said)


def on_the_clock(splits: Splits, sides: Mapping[str, str], limit: int | None) -> list[bytes]:
    """The test clips that every detector is timed on, an audio LLM too: up to 32 of all lengths, by their length."""
    parts = [part for part, its in sides.items() if its == "test"]
    asked = {clip for part in parts for clip in chosen_clips(splits, part, limit)["clip_id"]}
    places = of_all_lengths([samples_of(flac) for flac in flacs(splits, parts, asked)])
    found = {place: flac for place, flac in enumerate(flacs(splits, parts, asked)) if place in places}
    return [found[place] for place in places]


def timed(detector: detectors.Detector, clips: Sequence[bytes]) -> dict[str, Any]:
    """How long one clip takes, by itself and warm, beside whatever other jobs run: decoded, then scored."""
    stages: dict[str, list[float]] = {"loading": [], "detector": []}
    for flac in [*clips[:WARM], *clips]:
        begin = time.perf_counter()
        waveform = decode_flac(flac)
        loaded = time.perf_counter()
        detector.afresh(waveform)
        stages["loading"].append(1000 * (loaded - begin))
        stages["detector"].append(1000 * (time.perf_counter() - loaded))
    return latency_of({name: its[-len(clips) :] for name, its in stages.items()}, "cpu")


@task(
    task_run_name="{name}, fold {fold}",
    **cached(
        libraries=("torch", "transformers", "peft", "bitsandbytes", "numpy", "pandas"),
        runs=(CHILD,),
        reads=content_of_base,
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
    batch_size: int | None,
    timeout_min: float,
    open_block: OpenBlock | None = None,
    limit: int | None = None,
) -> Predictions:
    """Answer dev and test by one forward and test also by constrained generation; the two must agree.

    With an `open_block` test is answered freely as well, as a detector of its own. What the checks of listening found
    lies beside the table.
    """
    at = base_at(method.base, tiny, published)
    clips = pd.concat([chosen_clips(splits, part, limit) for part in scored(sides)], ignore_index=True)
    with draft(Predictions) as folder:
        files = {side: tuple(str(splits.path / "data" / f"{p}.parquet") for p in scored(sides) if sides[p] == side)
                 for side in ("dev", "test")}  # fmt: skip
        rules = open_rules(question.classes, question.answers, open_block.words) if open_block else None
        job = ScoringJob(
            base=at.load, revision=at.revision, quantization=method.quantization, question=question, device=method.device,
            output=str(folder), adapter=str(adapter.path) if adapter else None, clips=files, generate_on=("test",),
            batch_size=batch_size, base_revision=at.public_revision, code=code_digest((CHILD,)), open_rules=rules,
            only=None if limit is None else tuple(clips["clip_id"]),
        )  # fmt: skip
        bar = Bar(f"scoring-{name}-{fold}", f"Scoring {name}, fold {fold}")
        seconds = job.run(CHILD, what=f"scoring {name}", on_line=bar, timeout_min=timeout_min)
        scores = pd.read_parquet(folder / "scores.parquet")
        timing, heard = (read_json(folder / f"{file}.json") for file in ("timing", "listening"))
    check_agreement(scores, ROUNDED if method.quantization or timing["rounded"] else EXACT)
    table = clips.merge(scores, on="clip_id", validate="one_to_many")
    predictions = save(
        table, name, splits, fold, seed=adapter.seed if adapter else None, prompt=question.prompt, heard=heard,
        base=f"{at.name}@{at.public_revision}",
    )  # fmt: skip
    times = {"score_s": seconds, "base": method.base, "device": timing["device"], "latency": timing["latency"]}
    write_timing(predictions, times)
    return predictions


@task(task_run_name="no_audio, fold {fold}", **cached(libraries=("numpy", "pandas", "pyarrow")))
def score_no_audio(asked: Predictions, splits: Splits, classes: tuple[str, str], fold: int) -> Predictions:
    """What the model of `asked` says of its clips without their sound: the same of all, by the words of the question."""
    p_first = read_json(asked.path / "listening.json")["no_audio"]["p_first"]
    rows = pd.read_parquet(asked.path / "predictions.parquet").query("method == 'forward'")
    table = rows[[*CLIP_COLUMNS, "split"]].assign(
        p_speech=p_first, prediction=classes[int(p_first < FIXED_THRESHOLD)], answer_mass=np.nan, method=None
    )
    return save(table, "no_audio", splits, fold, seed=None, prompt=rows["prompt"].iloc[0])


@task(task_run_name="{name}, fold {fold}", **cached(libraries=("numpy", "pandas", "pyarrow")))
def make_ensemble(
    name: str,
    block: EnsembleBlock,
    scored: Sequence[Predictions],
    splits: Splits,
    classes: tuple[str, str],
    seed: int | None,
    fold: int,
) -> Predictions:
    """Several detectors' tables of one fold made into one; of the adapters the one of `seed`, which is published, or all."""
    tables = [pd.read_parquet(reference.path / "predictions.parquet") for reference in scored]
    rows = validate_predictions(pd.concat(tables, ignore_index=True), classes)
    protocol = rows["protocol"].iloc[0]
    seeds = rows.loc[rows["detector"] == "adapter", "seed"].dropna().unique().tolist()
    named = {its: (its, seed if its == "adapter" else None) for its in block.of if its != SEEDS}
    if SEEDS in block.of:
        named |= {f"adapter, seed {one}": ("adapter", one) for one in seeds}
    members = {its: headline_rows(rows, *which, protocol) for its, which in named.items()}
    together = ensemble(members, classes, block.how).assign(method=None, answer_mass=np.nan)
    return save(together, name, splits, fold, seed=None, prompt=None)


def check_agreement(scores: pd.DataFrame, allowed: Allowed) -> None:
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
    rms = float(np.sqrt((apart**2).mean()))
    flips = (forward["prediction"] != said["prediction"]) & ((forward["p_speech"] - 0.5).abs() > allowed.farthest)
    if not (apart <= allowed.farthest).all() or rms > allowed.rms or flips.any():
        raise CheckFailed(
            f"generation and forward disagree on {len(forward)} test clips: largest difference of P {apart.max():.2g} "
            f"(allowed {allowed.farthest:g}), root mean square {rms:.2g} ({allowed.rms:g}), {int(flips.sum())} other "
            "answers; the scores of this model cannot be trusted"
        )


def scored(sides: Mapping[str, str]) -> list[str]:
    """Parts that get predictions: dev, then test."""
    return [part for side in ("dev", "test") for part, its in sides.items() if its == side]


def read_columns(splits: Splits, part: str, columns: Sequence[str]) -> pd.DataFrame:
    """Some columns of one part."""
    return pq.read_table(splits.path / "data" / f"{part}.parquet", columns=list(columns)).to_pandas()


def waveforms(splits: Splits, parts: Sequence[str]) -> Iterator[NDArray[np.float32]]:
    """The clips of these parts, decoded one after another."""
    return map(decode_flac, flacs(splits, parts))


def flacs(splits: Splits, parts: Sequence[str], only: Collection[str] | None = None) -> Iterator[bytes]:
    """The clips of these parts as they lie there; of `only` some ids, those."""
    for part in parts:
        file = pq.ParquetFile(splits.path / "data" / f"{part}.parquet")
        for batch in file.iter_batches(256, columns=["clip_id", "audio"]):
            for row in batch.to_pylist():
                if only is None or row["clip_id"] in only:
                    yield row["audio"]["bytes"]


def chosen_clips(splits: Splits, part: str, limit: int | None) -> pd.DataFrame:
    """The clips of one part, of a quick look `limit` of them."""
    clips = read_columns(splits, part, CLIP_COLUMNS)
    return clips if limit is None else clips[clips["clip_id"].isin(quick_look(clips, limit))]


def quick_look(clips: pd.DataFrame, limit: int) -> list[str]:
    """The ids of at most `limit` clips, of every class equally many, spread over the rows."""
    classes = clips["label"].nunique()
    ids: list[str] = []
    for place, (_, its) in enumerate(clips.groupby("label", sort=True)):
        share = limit // classes + (place < limit % classes)
        at = np.linspace(0, len(its) - 1, min(share, len(its))).round().astype(int)
        ids += its["clip_id"].iloc[at].tolist()
    return ids


def save(
    table: pd.DataFrame,
    name: str,
    splits: Splits,
    fold: int,
    seed: int | None,
    prompt: str | None,
    heard: Mapping[str, Any] | None = None,
    base: str | None = None,
) -> Predictions:
    """Add what identifies the detector and store the table, with what was found of its model's listening.

    Free answers are those of a detector of its own.
    """
    protocol = "group" if splits.verdict == "clean" else "random"
    facts: dict[str, Any] = {"protocol": protocol, "fold": fold, "prompt": prompt}
    table = table.assign(**facts, seed=pd.array([seed] * len(table), dtype="Int64"))
    table["detector"] = np.where(table["method"] == "open", f"{name}_open", name)
    table["method"] = table["method"].astype("string")
    table["prompt"] = table["prompt"].astype("string")
    with draft(Predictions) as folder:
        table.to_parquet(folder / "predictions.parquet", index=False)
        if heard is not None:
            write_json(folder / "listening.json", heard)
        return Predictions.of(folder, detector=name, rows=len(table), base=base)
