"""Adapters and everything they stand beside -> predictions -> report."""

from prefect import flow

from flows.build_dataset import BuiltDataset
from flows.train_adapters import TrainedFold, question_of
from recipes.schema import StudyRecipe
from tasks.predictions import score_audio_llm, score_baseline
from tasks.reports import make_report
from tasks.store import Predictions, Report


@flow(name="evaluate detectors", flow_run_name="evaluate {recipe.name}")
def evaluate_detectors(recipe: StudyRecipe, data: BuiltDataset, folds: list[TrainedFold]) -> Report:
    """Every detector on the same clips, each fold's test part scored by what never heard it; one report of all."""
    predictions = [table for trained in folds for table in score_fold(recipe, data, trained)]
    adapters = [adapter for trained in folds for adapter in trained.adapters]
    bases = [trained.published for trained in folds if trained.published]
    return make_report(predictions, data.splits, data.publication, adapters, bases, recipe)


def score_fold(recipe: StudyRecipe, data: BuiltDataset, trained: TrainedFold) -> list[Predictions]:
    """Baselines, base and adapters of one fold."""
    sides = recipe.dataset.splits.sides(trained.fold)
    evaluate, method, question = recipe.evaluate, recipe.train.method, question_of(recipe)
    baselines = [
        score_baseline.submit(name, data.splits, sides, recipe.classes, trained.fold) for name in evaluate.baselines
    ]
    models = [
        score_audio_llm.submit(
            "adapter" if adapter else "base", data.splits, sides, method, question, trained.tiny, trained.published, adapter,
            trained.fold, evaluate.batch_size, evaluate.timeout_min,
        )
        for adapter in (None, *trained.adapters)
    ]  # fmt: skip
    return [future.result() for future in (*baselines, *models)]
