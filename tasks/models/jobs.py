"""What a parent tells a child that trains or scores: a JSON file, checked on both sides, without torch."""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from recipes.training import AugmentBlock, EarlyStoppingBlock, LossBlock
from tasks import child, forkserver
from tasks.hub import content_sha
from tasks.hub_client import endpoint, fetch_file
from tasks.models.base_content import model_sha
from tasks.models.families import refuse_others, type_of
from tasks.slots import slot
from tasks.store import Base, Publication, read_json

FULL_WEIGHTS = "model.safetensors"  # where no adapter but the base itself was trained
ON_THE_HUB = r"(.+)@([0-9a-f]{40})"
ADAPTER = "adapter_config.json"


class Question(BaseModel):
    """What is asked of every clip, and how long the longest one is: all that a model must know of a study."""

    model_config = ConfigDict(frozen=True)
    classes: tuple[str, str]
    answers: tuple[str, str]
    prompt: str
    longest_ms: float


class BaseAt(NamedTuple):
    """Where a base is loaded from, and what it is called in public."""

    load: str
    revision: str | None  # to load a Hub id by
    name: str
    public_revision: str


def base_at(base: str, tiny: Base | None, published: Publication | None) -> BaseAt:
    """The tiny base by its publication (a leaky one has none), a Hub id by its revision, a folder by its content.

    Raises FileNotFoundError for a folder without a model, ValueError for one of a family that is not supported and for a
    folder that is only named.
    """
    if tiny and published:
        return BaseAt(str(tiny.path), None, published.repo, published.sha)
    if tiny:
        return BaseAt(str(tiny.path), None, "unpublished/tiny-base", content_sha(tiny.path))
    refuse_unknown(base)
    if match := re.fullmatch(ON_THE_HUB, base):
        return BaseAt(match[1], match[2], match[1], match[2])
    folder = Path(base).expanduser()
    return BaseAt(str(folder), None, name_of(folder), model_sha(folder))


def refuse_unknown(base: str) -> None:
    """Raise what `base_at` raises of a base, before anything is made that it would have to hear; no weight is read.

    Of a Hub id that was never downloaded nothing is known yet: `refuse_unknown_on_the_hub` asks.
    """
    if config := config_of(base):
        refuse_others(type_of(config), base)
        if not re.fullmatch(ON_THE_HUB, base) and not any(config.parent.glob("*.safetensors")):
            raise FileNotFoundError(
                f"train.base: {config.parent} holds no *.safetensors, and weights of any other format are not read: they "
                "may run code. transformers' own save_pretrained writes them; or name another base"
            )


def refuse_unknown_on_the_hub(base: str) -> None:
    """Raise what `refuse_unknown` raises, also of a Hub id that was never downloaded: its config.json is, and no weight.

    Raises ValueError for an adapter, and where the Hub refuses, FileNotFoundError where it has no such model, Unreached
    where it does not answer.
    """
    if (match := re.fullmatch(ON_THE_HUB, base)) and config_of(base) is None:
        repo, sha = match.groups()
        what = f"train.base: the family of {base}, by its config.json"
        if fetch_file(repo, sha, "config.json", what) is None:
            raise ValueError(no_model(base, fetch_file(repo, sha, ADAPTER, what)))
    refuse_unknown(base)


def config_of(base: str) -> Path | None:
    """The config.json of a base that lies here: a folder's, or of a Hub id what has been downloaded.

    Raises FileNotFoundError for a folder without one or that is not there, ValueError for a folder that is only named.
    """
    refuse_mere_names(base)
    if match := re.fullmatch(ON_THE_HUB, base):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(match[1], "config.json", revision=match[2])
        return Path(found) if isinstance(found, str) else None
    file = Path(base).expanduser() / "config.json"
    if not file.parent.is_dir():
        raise FileNotFoundError(
            f"train.base: {file.parent} is no folder. What was made over a folder is kept under its content, which is "
            "needed even where all results are cached: put it back, or give another folder, a Hub id@revision or `tiny`"
        )
    if not file.is_file():
        raise FileNotFoundError(no_model(str(file.parent), file.with_name(ADAPTER)))
    return file


def no_model(base: str, adapter: Path | None) -> str:
    """What is said of a place without a config.json; `adapter`: where the configuration of one would be."""
    if adapter is None or not adapter.is_file():
        return f"train.base: {base} holds no config.json; give a model folder, a Hub id@revision or `tiny`"
    its = read_json(adapter)
    of = its.get("base_model_name_or_path") if isinstance(its, dict) else None
    return (
        f"train.base: {base} is an adapter, of {of!a}: name that one here, and in `adapter` one that Earshot published, "
        "NAMESPACE/NAME@<40 hex digits>"
    )


def refuse_mere_names(base: str) -> None:
    """Raise ValueError for NAME@content, as a published recipe calls a folder: it does not say where that lies."""
    if re.fullmatch(r"[^/]+@[0-9a-f]{40}", base):
        raise ValueError(
            f"train.base: {base} is a folder of whoever published the recipe, called by its name and content; set "
            "train.base to a folder that holds it, or to a Hub id with its revision: NAMESPACE/NAME@<40 hex digits>"
        )


def name_of(folder: Path) -> str:
    """What a folder is called, also where it is given as `.`. Raises ValueError for the root, which has no name."""
    name = os.path.basename(os.path.abspath(folder))  # of a link its own name, not its target's
    if not name:
        raise ValueError(f"train.base: {folder} has no name that an adapter could call it by; give a folder below it")
    return name


# What libraries print on the way is for their developers; our own lines are what a run's log shows. OpenMP's threads
# spin while they wait, which on a small machine starves whatever else runs.
QUIET = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONWARNINGS": "ignore",
}  # fmt: skip
# On a CPU also: as many threads everywhere, none that an import starts (pyarrow's allocator would), and no CUDA, since
# neither lives on in a fork.
ON_CPU = {
    **QUIET,
    "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "CUDA_VISIBLE_DEVICES": "",
}  # fmt: skip
# Imported once for all jobs of a run on a CPU, the libraries by name so that their server can leave in between.
WARM = (
    "torch", "datasets", "transformers", "peft", "trl", "transformers.models.qwen2_audio.modeling_qwen2_audio",
    "tasks.models.pretraining", "tasks.detectors.audio_llm",
)  # fmt: skip
LAUNCH = (
    "-m", "accelerate.commands.accelerate_cli", "launch", "--num_machines", "1", "--num_cpu_threads_per_process", "2",
    "--mixed_precision", "no", "--dynamo_backend", "no",
)  # fmt: skip


def warm_up() -> None:
    """Start importing what jobs on a CPU need, in a process of its own, where that is how they are made."""
    if forkserver.FORKS:
        forkserver.start(WARM, ON_CPU)


class Job(BaseModel):
    """What every job needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: Question
    gpus: int | Literal["all"] = 1  # that do it together
    device: Literal["auto", "cpu", "cuda"]
    output: str  # an empty folder

    def run(
        self,
        module: str,
        *,
        what: str,
        on_line: Callable[[str], None],
        timeout_min: float,
        launcher: Sequence[str] = (),
    ) -> float:
        """Let `main` of a module do this job in a child, each line it prints handed to `on_line`; the seconds it took.

        Raises ValueError where HF_ENDPOINT may not have the token that libraries would send there.
        """
        endpoint()
        file = Path(f"{self.output}.job.json")
        file.write_text(self.model_dump_json(), encoding="utf-8")
        try:
            with slot(self.device, self.gpus) as its:
                begin = time.perf_counter()
                starting = self.starting(module, str(file), launcher, its)
                child.run(starting, what=what, on_line=on_line, timeout_min=timeout_min)
        finally:
            file.unlink(missing_ok=True)
            shutil.rmtree(f"{self.output}.trainer", ignore_errors=True)
        return time.perf_counter() - begin

    def starting(
        self, module: str, file: str, launcher: Sequence[str], its: Mapping[str, str]
    ) -> contextlib.AbstractContextManager[child.Process]:
        """The child: forked on a CPU where that can be; a process of its own elsewhere, under the launcher where a GPU
        may come into it, with the environment of its slot."""
        job = ("-m", "tasks.child", module, file)
        if self.device != "cpu":
            processes = max(1, len([name for name in its.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]))
            together = (
                "--num_processes",
                str(processes),
                *(("--multi_gpu", "--main_process_port", "0") if processes > 1 else ()),
            )
            launched = (*launcher, *together) if launcher else ()
            return child.started(child.python(*launched, *job), environment={**QUIET, **its})
        if forkserver.FORKS:
            return forkserver.forked(module, file, WARM, ON_CPU)
        return child.started(child.python(*job), environment=ON_CPU)


class PretrainingJob(Job):
    """A tiny base: made from `seed`, then every parameter trained on clean, long clips."""

    clips: tuple[str, ...]
    steps: int
    batch_size: int
    learning_rate: float
    seed: int


class ModelJob(Job):
    """A job over a base that is loaded."""

    base: str  # a folder, or a Hub id
    revision: str | None  # of the Hub id
    quantization: dict[str, Any] | None


class TrainingJob(ModelJob):
    """One adapter."""

    base_name: str  # what adapter_config.json names: never a path of this machine
    base_revision: str
    clips: tuple[str, ...]
    lora: dict[str, Any] | None  # None: every parameter in scope is trained
    scope: str
    loss_on: Literal["answer", "turn", "sequence"]
    training: dict[str, Any]
    batch_size: int | None = None  # clips a step, over all devices
    memory_gb: float | None = None  # of each GPU, at most
    dev: tuple[str, ...] = ()  # clips whose loss is watched
    loss: LossBlock = LossBlock()
    augment: AugmentBlock = AugmentBlock()
    sampling: dict[str, dict[str | float, float]] = {}
    max_audio_ms: float | None = None
    early_stopping: EarlyStoppingBlock | None = None
    checkpoints: str | None = None  # a folder of this job's own, in which a killed run left what to go on from
    seed: int


class AskingJob(ModelJob):
    """A job that asks one model, with or without an adapter."""

    adapter: str | None
    base_revision: str  # with `code`, what scores are kept under beside the adapter and the question
    code: str  # digest of all that decides a score


class ScoringJob(AskingJob):
    """Every clip of some files."""

    clips: dict[str, tuple[str, ...]]  # split -> files
    only: tuple[str, ...] | None = None  # of a quick look: the ids of its clips
    generate_on: tuple[str, ...]  # splits that are also answered by constrained generation
    open_rules: dict[str, tuple[str, ...]] | None = (
        None  # class -> words that name it in a free answer; None: not asked
    )
    batch_size: int | None  # None: what the device's memory takes
    only_answers: bool = False  # of a published model: neither asked whether it listens nor timed
