"""Audited splits -> one adapter a fold and seed, each past the gate."""

from prefect import flow
from pydantic import BaseModel, ConfigDict

from flows.build_dataset import BuiltDataset, render_parts
from recipes.schema import StudyRecipe
from tasks.adapters import check_gate, make_base, train_adapter
from tasks.cards import publish_base
from tasks.models.jobs import Question
from tasks.store import Adapter, Base, Publication


class TrainedFold(BaseModel):
    """The base and the adapters (one a seed) that never heard the test part of one fold."""

    model_config = ConfigDict(frozen=True)
    fold: int
    tiny: Base | None
    published: Publication | None
    adapters: tuple[Adapter, ...]


@flow(name="train adapters", flow_run_name="train {recipe.name}")
def train_adapters(recipe: StudyRecipe, data: BuiltDataset) -> list[TrainedFold]:
    """One fold after another: each has the machine to itself."""
    folds = [train_fold(recipe, data, fold) for fold in range(data.splits.folds)]
    check_gate([adapter for fold in folds for adapter in fold.adapters], recipe.train.gate)
    return folds


def train_fold(recipe: StudyRecipe, data: BuiltDataset, fold: int) -> TrainedFold:
    """A tiny base from clean clips of this fold's training parts where the recipe wants one, then the adapters."""
    train, question = recipe.train, question_of(recipe)
    parts = [part for part, side in recipe.dataset.splits.sides(fold).items() if side == "train"]
    tiny = published = None
    if train.base == "tiny":
        blocks = dict.fromkeys(parts, train.pretrain.clips_block(len(parts)))
        clean = render_parts(data.recordings, data.sides, blocks, recipe.classes)
        tiny = make_base(clean, train.pretrain, question, fold, train.timeout_min)
        published = publish_base(tiny, recipe.publish, data.publication, fold)
    adapters = tuple(
        train_adapter(data.splits, parts, train.method, question, tiny, published, seed, fold, train.timeout_min)
        for seed in train.seeds
    )
    return TrainedFold(fold=fold, tiny=tiny, published=published, adapters=adapters)


def question_of(recipe: StudyRecipe) -> Question:
    """What the study asks of every clip."""
    longest_ms = recipe.dataset.clips.longest_ms
    if recipe.train.base == "tiny":
        longest_ms = max(longest_ms, recipe.train.pretrain.duration_ms)
    return Question(classes=recipe.classes, answers=recipe.answers, prompt=recipe.prompt, longest_ms=longest_ms)
