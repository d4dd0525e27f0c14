"""The child process that scores clips with an audio LLM."""

import functools
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
import transformers
from numpy.typing import NDArray
from torch import nn

from tasks.functional.decoding import map_open_answer
from tasks.models import family
from tasks.models.adapted import with_adapter
from tasks.models.batches import BatchSizes
from tasks.models.devices import alike_on_every_cpu, dtype_on, pick_device, with_dtype
from tasks.models.encoding import kept_encodings
from tasks.models.families import rate_for
from tasks.models.jobs import FULL_WEIGHTS, AskingJob, ScoringJob
from tasks.models.latency import measure
from tasks.models.listening import NoProcessorWarnings, check
from tasks.models.score_log import Rows, ScoreLog
from tasks.models.scoring import Method, Question, Scorer, answers_of, costs_of, questions, recalled

SAY_EVERY_S = 15.0


def main(path: str) -> None:
    """Write scores.parquet: clip_id, split, method, p_speech, prediction, answer_mass; listening.json and times apart.

    Every batch is kept as it comes, so that after a kill only what is missing is asked; where nothing is missing, and only
    answers are wanted, no model is loaded.
    """
    job = ScoringJob.model_validate_json(Path(path).read_text(encoding="utf-8"))
    processor = family.load_processor(job.base, job.revision)
    with NoProcessorWarnings():
        late = LateScorer(job, processor)
        (question,) = questions(processor, [job.question.prompt], job.question.answers)
        clips = {split: read(files, job.only) for split, files in job.clips.items() if files}
        first = next(iter(clips.values())).flacs
        heard = {} if job.only_answers else check(late.scorer, processor, question, job.question.prompt, first)
        tables = [
            table_of(job, late, processor, split, its, question, method)
            for split, its in clips.items()
            for method in methods_of(job, split)
        ]
        times = {} if job.only_answers else measure(late.scorer.model, processor, question, clips["test"].flacs)
    pd.concat(tables, ignore_index=True).to_parquet(Path(job.output, "scores.parquet"), index=False)
    heard["processor_warnings"] = 0  # any would have ended the run
    Path(job.output, "listening.json").write_text(json.dumps(heard), encoding="utf-8")
    rounded = dtype_on(late.device) != torch.float32
    timing = {"device": late.device, "rounded": rounded, "latency": times}
    Path(job.output, "timing.json").write_text(json.dumps(timing), encoding="utf-8")
    if late.loaded and (waited := late.scorer.clock.waiting_share()) is not None:
        print(f"the GPU waited {waited:.1%} of the time between batches", flush=True)


class LateScorer:
    """The scorer of a job, whose model is loaded at the first clip that no log knows."""

    def __init__(self, job: ScoringJob, processor: Any) -> None:
        self.job, self.processor = job, processor
        self.device, self.rate = device_of(job), rate_for(processor)
        self.loaded = False

    @functools.cached_property
    def scorer(self) -> Scorer:
        """With the model."""
        model = load(self.job)
        self.loaded = True
        return Scorer(model, self.processor, kept_encodings(model, self.processor), self.job.batch_size)

    def scored(
        self, clips: Sequence[bytes], asked: Sequence[Question], method: Method, log: ScoreLog | None
    ) -> Iterator[tuple[list[int], Rows]]:
        """As `Scorer.scored` gives it."""
        sizes = BatchSizes(torch.device(self.device), self.job.batch_size)
        known, left = recalled(clips, costs_of(clips, asked, self.rate), sizes, log)
        return self.scorer.scored(clips, asked, method, log) if left else iter(known)


def methods_of(job: ScoringJob, split: str) -> list[Method]:
    """In which ways the clips of a split are asked."""
    methods: list[Method] = ["forward"]
    if split in job.generate_on:
        methods.append("generate")
        if job.open_rules is not None:
            methods.append("open")
    return methods


def table_of(
    job: ScoringJob, late: LateScorer, processor: Any, split: str, clips: "Clips", question: Question, method: Method
) -> pd.DataFrame:
    """The scores of one split asked in one way, from the log as far as it has them.

    Raises ValueError where the device stops in the middle: what was scored is kept.
    """
    log = ScoreLog.of(identity(job), [question], method)
    what, begin = f"{split}, {method}", time.perf_counter()
    before = sum(log.clip(clip) is not None for clip in clips.flacs)
    try:
        if method == "open":
            scores = score_open(late, processor, clips.flacs, question, job, log, what)
        else:
            scores = score(late, clips.flacs, question, job.question.classes, method, log, what)
    except torch.AcceleratorError as error:
        known = sum(log.clip(clip) is not None for clip in clips.flacs)
        raise ValueError(
            f"the GPU stopped at {what} ({str(error).splitlines()[0]}); {known} of {len(clips.ids)} clips are scored and "
            "kept: run the same command again to go on"
        ) from error
    seconds = time.perf_counter() - begin
    kept = f", {before} of them kept from before" if before else ""
    kept += "" if late.loaded else "; no model was loaded"
    print(f"{what}: {len(clips.ids)}/{len(clips.ids)} clips in {seconds:.1f} s{kept}", flush=True)
    return scores.assign(clip_id=clips.ids, split=split, method=method)


def device_of(job: AskingJob) -> str:
    """What a job's model runs on; on a CPU with one thread, for base and adapters are scored side by side."""
    return pick_device(job.device, threads=1)


def identity(job: AskingJob) -> dict[str, Any]:
    """All that decides the numbers of a job's model: weights, code, libraries, and what it runs on."""
    device = device_of(job)
    return {
        "base": job.base_revision, "adapter": weights_of(job.adapter), "quantization": job.quantization,
        "code": job.code, "torch": torch.__version__, "transformers": transformers.__version__, "device": device,
        "dtype": str(dtype_on(device)), "threads": torch.get_num_threads() if device == "cpu" else 0,
    }  # fmt: skip


def weights_of(adapter: str | None) -> str | None:
    """SHA-256 over the files of an adapter that decide its answers."""
    if adapter is None:
        return None
    digest = hashlib.sha256()
    for name in ("adapter_config.json", "adapter_model.safetensors", FULL_WEIGHTS):
        if (file := Path(adapter, name)).is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def load(job: AskingJob) -> nn.Module:
    """The base with or without an adapter, ready to be asked. Raises ValueError where the adapter does not fit whole."""
    device = device_of(job)
    dtype = dtype_on(device)
    model = family.load(
        job.base,
        revision=job.revision,
        quantization=with_dtype(job.quantization, dtype),
        dtype=dtype,
        device=device,
    )
    model = alike_on_every_cpu(model)
    if job.adapter:
        model = with_adapter(model, job.adapter)
    return model.eval()


class Clips(NamedTuple):
    """Clips of one split: ids and FLAC."""

    ids: list[str]
    flacs: list[bytes]


def read(files: Sequence[str], only: Sequence[str] | None = None) -> Clips:
    """The clips of clip parquets, in the order of the files; of `only` some, those."""
    clips, wanted = Clips([], []), None if only is None else {*only}
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(256, columns=["clip_id", "audio"]):
            for row in batch.to_pylist():
                if wanted is None or row["clip_id"] in wanted:
                    clips.ids.append(row["clip_id"])
                    clips.flacs.append(row["audio"]["bytes"])
    if not clips.ids:
        raise ValueError(f"{', '.join(Path(file).name for file in files)} holds no clip: there is nothing to score")
    return clips


def score(
    scorer: Scorer | LateScorer,
    clips: Sequence[bytes],
    question: Question,
    classes: tuple[str, str],
    method: Method,
    log: ScoreLog | None = None,
    what: str = "scoring",
) -> pd.DataFrame:
    """p_speech, prediction and answer_mass of clips in their order.

    The prediction is the likeliest allowed token, as greedy generation has it; P sums over the tokens of an answer, so
    near .5 the two may differ.
    """
    answers = answers_of(gathered(scorer, clips, question, method, log, what), question)
    said = np.where(answers.said_first, *classes)
    return pd.DataFrame({"p_speech": answers.p_first, "prediction": said, "answer_mass": answers.answer_mass})


def score_open(
    scorer: Scorer | LateScorer,
    processor: Any,
    clips: Sequence[bytes],
    question: Question,
    job: ScoringJob,
    log: ScoreLog | None = None,
    what: str = "scoring",
) -> pd.DataFrame:
    """prediction and the text that was said, of clips in their order; no prediction where the rules map the text to none."""
    assert job.open_rules is not None
    tokens = gathered(scorer, clips, question, "open", log, what)
    texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    said = [map_open_answer(text, job.open_rules) for text in texts]
    return pd.DataFrame(
        {"p_speech": np.nan, "prediction": pd.Series(said, dtype=object), "answer_mass": np.nan, "said": texts}
    )


def gathered(
    scorer: Scorer | LateScorer,
    clips: Sequence[bytes],
    question: Question,
    method: Method,
    log: ScoreLog | None,
    what: str,
) -> NDArray[Any]:
    """What was answered to every clip, a row each in their order, with a line of progress now and then."""
    done, spoken, rows = 0, time.monotonic(), dict[int, NDArray[Any]]()
    for places, (found,) in scorer.scored(clips, [question], method, log):
        rows |= zip(places, found, strict=True)
        done += len(places)
        if time.monotonic() - spoken > SAY_EVERY_S:
            spoken = time.monotonic()
            print(f"{what}: {done}/{len(clips)} clips", flush=True)
    return np.stack([rows[i] for i in range(len(clips))])
