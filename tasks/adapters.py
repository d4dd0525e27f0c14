"""Bases and adapters: trained in a child process, gated, named by their weights."""

import hashlib
import importlib.metadata
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from recipes.data import DatasetRecipe
from recipes.schema import CheckFailed, StudyRecipe
from recipes.training import GateBlock, PretrainBlock, TrainMethod
from tasks.cache import cached, code_digest, task
from tasks.functional.goals import FAILED
from tasks.hub import pinned, pull
from tasks.models.base_content import content_of_base
from tasks.models.jobs import LAUNCH, BaseAt, PretrainingJob, Question, TrainingJob, base_at
from tasks.progress import Bar, Curve
from tasks.repo_checks import Tensor, check_adapter, read_header
from tasks.run_page import HOOKS, say
from tasks.store import Adapter, Base, Clips, Publication, Splits, copy_folder, draft, home, read_json, write_timing

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "numpy")


@task(task_run_name="tiny base, fold {fold}", **cached(libraries=LIBRARIES, runs=("tasks.models.pretraining",)))
def make_base(clips: Sequence[Clips], block: PretrainBlock, question: Question, fold: int, timeout_min: float) -> Base:
    """A tiny Qwen2-Audio, pre-trained on clean long clips of training groups only."""
    with draft(Base) as folder:
        job = PretrainingJob(
            clips=tuple(str(part.path / "clips.parquet") for part in clips), steps=block.steps, batch_size=block.batch_size,
            learning_rate=block.learning_rate, seed=block.seed, device="cpu", question=question, output=str(folder),
        )  # fmt: skip
        module, what = "tasks.models.pretraining", "pre-training the tiny base"
        seconds = job.run(
            module, what=what, on_line=Bar(f"base-{fold}", f"Tiny base, fold {fold}"), timeout_min=timeout_min
        )
        base = Base.of(folder, parameters=count_parameters(folder / "model.safetensors"))
        keep_progress(folder, base)
    write_timing(base, {"train_s": seconds, "base": "tiny", "device": "cpu"})
    return base


def keep_progress(draft: Path, trained: Base | Adapter) -> None:
    """What was logged while it was trained goes from beside the draft to beside the folder, never into it."""
    progress = Path(f"{draft}.progress.jsonl")
    if progress.is_file():
        progress.replace(trained.path.with_name(f"{trained.fingerprint}.progress.jsonl"))


def count_parameters(file: Path) -> int:
    """Numbers in a safetensors file, from its header."""
    from math import prod

    from safetensors import safe_open

    with safe_open(file, "np") as weights:
        return sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


@task(
    task_run_name="{shown_as}, seed {seed}, fold {fold}",
    **cached(libraries=LIBRARIES, runs=("tasks.models.training",), reads=content_of_base),
)
def train_adapter(
    splits: Splits,
    parts: Sequence[str],
    method: TrainMethod,
    question: Question,
    tiny: Base | None,
    published: Publication | None,
    seed: int,
    fold: int,
    timeout_min: float,
    dev: Sequence[str] = (),
    shown_as: str = "adapter",
) -> Adapter:
    """One adapter by SFTTrainer on the clips of `parts`; under `accelerate launch` unless the recipe says `device: cpu`.

    The loss on the parts `dev` is watched where the method asks for it. `shown_as` is its name while it is trained. A run
    that was killed goes on from its last whole checkpoint, where code and libraries are still the same.
    """
    at, page = base_at(method.base, tiny, published), Curve(seed, fold, shown_as)
    files = [[str(splits.path / "data" / f"{part}.parquet") for part in its] for its in (parts, dev)]
    with draft(Adapter) as folder:
        job = TrainingJob(
            base=at.load, revision=at.revision, base_name=at.name, base_revision=at.public_revision,
            quantization=method.quantization, question=question, device=method.device, output=str(folder), lora=method.lora,
            scope=method.scope, clips=tuple(files[0]), dev=tuple(files[1]), loss_on=method.loss_on, training=method.training,
            batch_size=method.batch_size, memory_gb=method.memory_gb, gpus=method.gpus, loss=method.loss,
            augment=method.augment, sampling=method.sampling, max_audio_ms=method.max_audio_ms,
            early_stopping=method.early_stopping, seed=seed,
        )  # fmt: skip
        job = job.model_copy(update={"checkpoints": str(checkpoints_of(job))})
        module, what = "tasks.models.training", f"training with seed {seed}"
        seconds = job.run(module, what=what, on_line=page, timeout_min=timeout_min, launcher=LAUNCH)
        facts = read_json(folder / "training.json")
        adapter = Adapter.of(
            folder,
            base=f"{at.name}@{at.public_revision}",
            seed=seed,
            fold=fold,
            train_accuracy=facts["train_accuracy"],
        )
        keep_progress(folder, adapter)
    shutil.rmtree(checkpoints_of(job), ignore_errors=True)
    write_timing(adapter, {"train_s": seconds, "base": method.base, "device": facts["device"]})
    say("trainable parameters: " + ", ".join(f"{part} {count:,}" for part, count in facts["parameters"].items()))
    page.draw(facts["history"], last=True)
    return adapter


def checkpoints_of(job: TrainingJob) -> Path:
    """Where the checkpoints of this very job lie: by all that it is told, the code and the libraries."""
    told = job.model_dump_json(exclude={"output", "checkpoints"})
    versions = [importlib.metadata.version(name) for name in LIBRARIES]
    digest = hashlib.sha256(f"{told}\0{code_digest(('tasks.models.training',))}\0{versions}".encode()).hexdigest()
    return home() / "store" / "checkpoints" / digest[:16]


@task(task_run_name="gate of {gate.accuracy} on train", **HOOKS)
def check_gate(adapters: Sequence[Adapter], gate: GateBlock) -> None:
    """Stop, or only say so where the recipe says `mark`, when an adapter has not learnt its own training clips."""
    for adapter in adapters:
        if adapter.train_accuracy < gate.accuracy:
            finding = (
                f"seed {adapter.seed}, fold {adapter.fold}: {adapter.train_accuracy:.3f} of the training clips are answered "
                f"right and the gate asks {gate.accuracy:g}; train longer (train.training.max_steps), or set "
                "train.gate.on_fail=mark to go on and mark the result"
            )
            if gate.on_fail == "stop":
                raise CheckFailed(finding)
            say(finding)


def marked(cell: str, adapters: Sequence[Adapter], gate: GateBlock) -> str:
    """The name under which a cell of an ablation stands in the report: a cell that fails its gate is shown, and says so."""
    worst = min(adapter.train_accuracy for adapter in adapters)
    if worst >= gate.accuracy:
        return cell
    say(f"cell {cell}: {worst:.3f} of the training clips are answered right and the gate asks {gate.accuracy:g}")
    return f"{cell}{FAILED}"


# --- published by somebody else ----------------------------------------------------------------------------------


def check_published(recipe: StudyRecipe) -> None:
    """Raise as `pull_base` and `pull_adapter` would, of all that is known before the study's data set is built.

    Raises CheckFailed where the adapter was made from another data set, ValueError where it is of another seed or base, or
    not of every fold, or was not published by Earshot; FileNotFoundError where it is nowhere.
    """
    assert recipe.adapter
    published, train = pinned("model", recipe.adapter), recipe.train
    folder = pull("model", published.repo, published.sha)
    if missing := [name for name in ("report.json", "recipe.yaml") if not (folder / name).is_file()]:
        raise ValueError(f"{recipe.adapter} holds no {missing[0]}: Earshot evaluates adapters that it has published")
    if recipe.dataset_from:
        check_data(folder, published, pinned("dataset", recipe.dataset_from))
    check_recipe(folder, published, recipe.dataset)
    check_seed(folder, published, train.seeds[0])
    origin = read_json(folder / "report.json")["provenance"]
    if train.base == "tiny" and not origin["bases"]:
        base = f"{origin['base']['repo']}@{origin['base']['revision']}"
        raise ValueError(
            f"{recipe.adapter} is an adapter of {base}, the study has train.base=tiny: set train.base={base}"
        )
    for fold in range(recipe.dataset.splits.folds or 1):
        place = place_of(folder, fold)
        if train.base != "tiny":
            check_base(published, place, fold, base_at(train.base, None, None))


def check_recipe(folder: Path, published: Publication, block: DatasetRecipe) -> None:
    """Raise CheckFailed where a published adapter was made from a data set of another recipe, whose content is another."""
    theirs = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))["dataset"]
    ours = block.model_dump(mode="json", by_alias=True)
    if theirs != ours:
        keys = [f"dataset.{key}" for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
        named = read_json(folder / "report.json")["provenance"]["dataset"]
        raise CheckFailed(
            f"{published.repo}@{published.sha} was trained on {named['repo']}@{named['sha']}, of another recipe than the "
            f"study's ({', '.join(keys)}): it may have heard these test clips. Set dataset={named['repo']}@{named['sha']}"
        )


def check_seed(folder: Path, published: Publication, seed: int) -> None:
    """Raise ValueError where a published adapter is of another seed."""
    if (theirs := read_json(folder / "report.json")["provenance"]["adapter"]["seed"]) != seed:
        raise ValueError(
            f"{published.repo}@{published.sha} has seed {theirs}, the study {seed}: set train.seeds=[{theirs}]"
        )


def check_base(
    published: Publication, place: Path, fold: int, at: BaseAt, shapes: Mapping[str, Tensor] | None = None
) -> None:
    """Raise ValueError where a published adapter is for another base, or does not fit it."""
    try:
        check_adapter(place, f"{at.name}@{at.public_revision}", shapes)
    except ValueError as error:
        raise ValueError(f"{published.repo}@{published.sha}, fold {fold}: {error}") from error


CARDS = ("README.md", "LICENSE.md", "base.json", "files.json")  # what publishing adds to a base
OF_AN_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "training.json")


@task(task_run_name="base of {published.repo}, fold {fold}", **cached(libraries=("safetensors",)))
def pull_base(published: Publication, data: Publication, fold: int) -> tuple[Base, Publication]:
    """The tiny base that a published adapter names, and its publication. `data`: the audited data set of the study.

    Raises CheckFailed where the adapter was made from another data set: its test clips may have been heard in training.
    """
    folder = pull("model", published.repo, published.sha)
    check_data(folder, published, data)
    config = read_json(place_of(folder, fold) / "adapter_config.json")
    named = pinned("model", f"{config['base_model_name_or_path']}@{config['revision']}")
    source = pull("model", named.repo, named.sha)
    with draft(Base) as copy:
        copy_folder(source, copy, leave_out=CARDS)
        return Base.of(copy, parameters=count_parameters(copy / "model.safetensors")), named


@task(
    task_run_name="adapter of {published.repo}, fold {fold}",
    **cached(libraries=("safetensors",), reads=content_of_base),
)
def pull_adapter(
    published: Publication, data: Publication, method: TrainMethod, tiny: Base | None, base: Publication | None,
    seed: int, fold: int,
) -> Adapter:  # fmt: skip
    """A published adapter, checked against the base of the study.

    Raises CheckFailed where it was made from another data set, ValueError where it is for another base, does not fit it,
    or is of another seed.
    """
    folder = pull("model", published.repo, published.sha)
    check_data(folder, published, data)
    at, source = base_at(method.base, tiny, base), place_of(folder, fold)
    shapes = as_loaded(read_header(tiny.path / "model.safetensors")) if tiny else None
    check_base(published, source, fold, at, shapes)
    check_seed(folder, published, seed)
    with draft(Adapter) as copy:
        for name in OF_AN_ADAPTER:
            shutil.copyfile(source / name, copy / name)
        accuracy = float(read_json(copy / "training.json")["train_accuracy"])
        return Adapter.of(copy, base=f"{at.name}@{at.public_revision}", seed=seed, fold=fold, train_accuracy=accuracy)


def as_loaded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a saved Qwen2-Audio under the names its modules have once it is loaded."""
    names = {r"^language_model\.model\.": "model.language_model.", r"^audio_tower\.": "model.audio_tower."}

    def name_of(name: str) -> str:
        for saved, loaded in names.items():
            name = re.sub(saved, loaded, name)
        return name

    return {name_of(name): tensor for name, tensor in tensors.items()}


def check_data(folder: Path, published: Publication, data: Publication) -> None:
    """Raise CheckFailed unless a published adapter was made from this very data set."""
    named = read_json(folder / "report.json")["provenance"]["dataset"]
    if named["sha"] != data.sha:
        raise CheckFailed(
            f"{published.repo}@{published.sha} was trained on {named['repo']}@{named['sha']}, the study has {data.repo}@"
            f"{data.sha}: it may have heard these test clips. Set dataset={named['repo']}@{named['sha']}"
        )


def place_of(folder: Path, fold: int) -> Path:
    """Where a published repository holds the adapter of one fold. Raises ValueError where it holds none."""
    place = folder / f"fold-{fold}" if fold else folder
    if not (place / "adapter_config.json").is_file():
        raise ValueError(f"{folder} holds no adapter of fold {fold}")
    return place
