"""Adapter and report -> model card -> hub."""

from prefect import flow

from flows.build_dataset import BuiltDataset
from flows.train_adapters import TrainedFold
from recipes.schema import StudyRecipe
from tasks.cards import publish_adapter
from tasks.store import Publication, Report


@flow(name="publish", flow_run_name="publish {recipe.publish.adapter}")
def publish(recipe: StudyRecipe, data: BuiltDataset, folds: list[TrainedFold], report: Report) -> Publication:
    """Publish the adapter of the recipe's first seed, one of each fold, with the report and the card made from it."""
    adapters = [fold.adapters[0] for fold in folds if fold.splits == data.splits and not fold.cell]
    return publish_adapter(adapters, report, data.splits, recipe)
