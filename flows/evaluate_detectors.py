"""Adapters and everything they stand beside -> predictions -> report."""

from collections.abc import Sequence

from prefect import flow

from flows.build_dataset import BuiltDataset
from flows.train_adapters import TrainedFold, asking
from recipes.schema import StudyRecipe
from tasks import child
from tasks.adapters import marked
from tasks.detectors.weights import weights_for
from tasks.looks import note_looks
from tasks.predictions import make_ensemble, score_audio_llm, score_baseline, score_no_audio
from tasks.prompts import check_untested
from tasks.reports import make_report
from tasks.store import Predictions, Report


@flow(name="evaluate detectors", flow_run_name="evaluate {recipe.name}")
@child.EndedByInterrupts()
def evaluate_detectors(recipe: StudyRecipe, data: BuiltDataset, folds: list[TrainedFold]) -> Report:
    """Every detector on the same clips, each fold's test part scored by what never heard it; one report of all.

    Raises CheckFailed where `evaluate.prompt` was chosen on clips that would be tested.
    """
    for trained in folds:
        asked = (recipe.cell(trained.cell) if trained.cell else recipe).evaluate.prompt
        check_untested(asked, trained.splits, test_parts(recipe, trained.fold))
    names = cell_names(recipe, folds)
    predictions = [
        table
        for trained in folds
        for table in (
            score_cell(recipe, trained, names[trained.cell]) if trained.cell else score_fold(recipe, trained)
        )
    ]
    audited = [trained for trained in folds if trained.splits == data.splits and not trained.cell]
    adapters = [adapter for trained in audited for adapter in trained.adapters]
    bases = [trained.published for trained in audited if trained.published]
    looks = note_looks(predictions, data.splits, recipe.evaluate.threshold)
    return make_report(predictions, looks, data.splits, data.publication, adapters, bases, recipe)


def test_parts(recipe: StudyRecipe, fold: int) -> list[str]:
    """The parts that are tested in one fold."""
    return [part for part, side in recipe.dataset.splits.sides(fold).items() if side == "test"]


def cell_names(recipe: StudyRecipe, folds: Sequence[TrainedFold]) -> dict[str, str]:
    """What each cell of an ablation is called in all folds, also where it has failed the gate in one of them alone."""
    adapters_of = {
        cell: [one for its in folds if its.cell == cell for one in its.adapters] for cell in recipe.ablation
    }
    return {cell: marked(cell, adapters, recipe.train.gate) for cell, adapters in adapters_of.items()}


def score_cell(recipe: StudyRecipe, trained: TrainedFold, name: str) -> list[Predictions]:
    """The adapters of one cell of an ablation in one fold."""
    cell, evaluate = recipe.cell(trained.cell), recipe.evaluate
    question = asking(recipe, cell.asked.text, cell.asked.answers or recipe.answers)
    scored = [
        score_audio_llm.submit(
            name, trained.splits, cell.dataset.splits.sides(trained.fold), cell.train.method, question, trained.tiny,
            trained.published, adapter, trained.fold, evaluate.batch_size, evaluate.timeout_min, None, evaluate.limit,
        )
        for adapter in trained.adapters
    ]  # fmt: skip
    return [future.result() for future in scored]


def score_fold(recipe: StudyRecipe, trained: TrainedFold) -> list[Predictions]:
    """Baselines, base and adapters of one fold, what the adapter says unheard, and the ensembles of them."""
    sides = recipe.dataset.splits.sides(trained.fold)
    evaluate, method = recipe.evaluate, recipe.train.method
    question = asking(recipe, recipe.asked.text, recipe.asked.answers or recipe.answers)
    baselines = [
        score_baseline.submit(
            name,
            trained.splits,
            sides,
            recipe.classes,
            trained.fold,
            evaluate.limit,
            weights_for(name, evaluate.weights),
        )
        for name in evaluate.baselines
    ]
    models = [
        score_audio_llm.submit(
            "adapter" if adapter else "base", trained.splits, sides, method, question, trained.tiny, trained.published,
            adapter, trained.fold, evaluate.batch_size, evaluate.timeout_min, evaluate.open, evaluate.limit,
        )
        for adapter in (None, *trained.adapters)
    ]  # fmt: skip
    scored = [future.result() for future in (*baselines, *models)]
    headline = models[1 if trained.adapters else 0].result()  # the adapter of the first seed, or the base
    unheard = score_no_audio(headline, trained.splits, recipe.classes, trained.fold)
    first = recipe.train.seeds[0] if recipe.train.seeds else None
    ensembles = [
        make_ensemble.submit(name, block, scored, trained.splits, recipe.classes, first, trained.fold)
        for name, block in evaluate.ensembles.items()
    ]
    return [*scored, unheard, *(future.result() for future in ensembles)]
