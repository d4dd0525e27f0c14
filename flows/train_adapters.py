"""Audited splits -> one adapter a fold and seed, each past the gate."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from prefect import flow
from pydantic import BaseModel, ConfigDict

from flows.build_dataset import BuiltDataset, deal_sources, render_parts
from recipes.clips import clean_block
from recipes.schema import StudyRecipe
from tasks import child
from tasks.adapters import check_gate, make_base, pull_adapter, pull_base, train_adapter
from tasks.cards import publish_base
from tasks.hub import pinned
from tasks.models.jobs import Question
from tasks.splits import check_dealt, make_splits, shuffle_clips
from tasks.store import Adapter, Base, Clips, Publication, Recordings, Sides, Splits


class TrainedFold(BaseModel):
    """The base and the adapters (one a seed) that never heard the test part of one fold of some splits."""

    model_config = ConfigDict(frozen=True)
    splits: Splits
    fold: int
    tiny: Base | None
    published: Publication | None
    adapters: tuple[Adapter, ...]
    cell: str = ""  # of the study's ablation


@flow(name="train adapters", flow_run_name="train {recipe.name}")
@child.EndedByInterrupts()
def train_adapters(recipe: StudyRecipe, data: BuiltDataset) -> list[TrainedFold]:
    """One adapter a fold and seed, spread over the GPUs or cores there are. Leaky folds, where there are any, come last."""
    if recipe.adapter:
        folds = [pull_fold(recipe, data, recipe.adapter, fold) for fold in range(data.splits.folds)]
        check_gate([adapter for fold in folds for adapter in fold.adapters], recipe.train.gate)
        return folds
    protocols = [data.splits, *([data.leaky] if data.leaky else [])]
    places = [(splits, fold) for splits in protocols for fold in range(splits.folds)]
    bases = [start_base(recipe, data, splits, fold) for splits, fold in places]
    training = [
        start_adapters(recipe, data, *place, base.result() if base else None)
        for place, base in zip(places, bases, strict=True)
    ]
    started = {(recipe.weights_of(), its.fold): its for its in training}
    cells = [its for name in recipe.ablation for its in start_cell(recipe, data, name, training, started)]
    folds = [its.finished() for its in training]
    check_gate([adapter for fold in folds for adapter in fold.adapters], recipe.train.gate)
    return [*folds, *(its.finished() for its in cells)]


def start_cell(
    recipe: StudyRecipe,
    data: BuiltDataset,
    name: str,
    training: list["Training"],
    started: dict[tuple[str, int], "Training"],
) -> Iterator["Training"]:
    """Start on the adapters of one cell of an ablation, over the bases of the study; its clips are rendered where they are
    others. `started` has the adapters of equal weights, which are not trained twice."""
    cell, blocks, splits = recipe.cell(name), recipe.cell_clips(name), data.splits
    if blocks != recipe.cell_clips():
        recordings, sides = dealt(recipe, data)
        splits = make_splits(render_parts(recordings, sides, blocks, cell.classes), cell.dataset)
    for its in training:
        key = (recipe.weights_of(name), its.fold)
        if key not in started:
            adapters = submitted(cell, question_of(recipe), splits, its.fold, its.tiny, its.published, name)
            started[key] = its._replace(adapters=adapters)
        yield its._replace(splits=splits, adapters=started[key].adapters, cell=name)


class Training(NamedTuple):
    """One fold whose adapters are being trained."""

    splits: Splits
    fold: int
    tiny: Base | None
    published: Publication | None
    adapters: list[Any]  # futures, one a seed
    cell: str = ""

    def finished(self) -> TrainedFold:
        """The fold, when the last of its adapters is there."""
        adapters = tuple(future.result() for future in self.adapters)
        return TrainedFold(**{**self._asdict(), "adapters": adapters})


def start_base(recipe: StudyRecipe, data: BuiltDataset, splits: Splits, fold: int) -> Any:
    """The future of a tiny base from clean clips of this fold's training parts, None where the recipe wants another."""
    train = recipe.train
    if train.base != "tiny":
        return None
    clips = clean_clips(recipe, data, splits, train_parts(recipe, fold))
    return make_base.submit(clips, train.pretrain, question_of(recipe), fold, train.timeout_min)


def start_adapters(recipe: StudyRecipe, data: BuiltDataset, splits: Splits, fold: int, tiny: Base | None) -> Training:
    """Publish the tiny base of a fold, if it has one and may show it, and start on the adapters of all seeds."""
    shown = tiny if splits.verdict == "clean" else None
    published = publish_base(shown, recipe.publish, data.publication, fold) if shown else None
    return Training(
        splits, fold, tiny, published, submitted(recipe, question_of(recipe), splits, fold, tiny, published)
    )


def submitted(
    recipe: StudyRecipe,
    question: Question,
    splits: Splits,
    fold: int,
    tiny: Base | None,
    published: Publication | None,
    shown_as: str = "adapter",
) -> list[Any]:
    """The futures of a fold's adapters, one a seed."""
    train, parts = recipe.train, train_parts(recipe, fold)
    sides = recipe.dataset.splits.sides(fold).items()
    dev = [part for part, side in sides if side == "dev" and train.method.hears_dev]
    return [
        train_adapter.submit(
            splits, parts, train.method, question, tiny, published, seed, fold, train.timeout_min, dev, shown_as
        )
        for seed in train.seeds
    ]


def train_parts(recipe: StudyRecipe, fold: int) -> list[str]:
    """The parts that the adapters of one fold are trained on."""
    return [part for part, side in recipe.dataset.splits.sides(fold).items() if side == "train"]


def pull_fold(recipe: StudyRecipe, data: BuiltDataset, name: str, fold: int) -> TrainedFold:
    """A published adapter of one fold and the tiny base it names, where that is what the recipe wants."""
    source, train = pinned("model", name), recipe.train
    tiny = base = None
    if train.base == "tiny":
        tiny, base = pull_base(source, data.publication, fold)
    adapter = pull_adapter(source, data.publication, train.method, tiny, base, train.seeds[0], fold)
    return TrainedFold(splits=data.splits, fold=fold, tiny=tiny, published=base, adapters=(adapter,))


def dealt(recipe: StudyRecipe, data: BuiltDataset) -> tuple[tuple[Recordings, ...], Sides]:
    """The recordings and their parts: those the data set was built from, or, where it was pulled, those of this machine."""
    if data.sides:
        return data.recordings, data.sides
    recordings, sides, _ = deal_sources(recipe.dataset, recipe.classes)
    check_dealt(sides, data.splits)
    return recordings, sides


def clean_clips(recipe: StudyRecipe, data: BuiltDataset, splits: Splits, parts: list[str]) -> list[Clips]:
    """Clean clips of the training parts; under the random protocol of as many of all parts, dealt like the others."""
    block = clean_block(recipe.train.pretrain, len(parts))
    recordings, sides = dealt(recipe, data)
    if splits.verdict == "clean":
        return render_parts(recordings, sides, dict.fromkeys(parts, block), recipe.classes)
    every = dict.fromkeys(recipe.dataset.splits.parts, block)
    clips = render_parts(recordings, sides, every, recipe.classes)
    return [its for its in shuffle_clips(clips, recipe.dataset.splits.seed) if its.part in parts]


def question_of(recipe: StudyRecipe) -> Question:
    """What the study asks of every clip."""
    return Question(classes=recipe.classes, answers=recipe.answers, prompt=recipe.prompt, longest_ms=recipe.longest_ms)


def asking(recipe: StudyRecipe, prompt: str, answers: tuple[str, str]) -> Question:
    """The study's question in other words."""
    return question_of(recipe).model_copy(update={"prompt": prompt, "answers": answers})
