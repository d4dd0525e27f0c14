"""A study's base and adapter -> the prompt that asks them best -> report."""

import contextlib

from prefect import flow

from flows.build_dataset import BuiltDataset, build_dataset
from flows.demands import demand_extras, demand_gpu, demand_parts, with_stops
from flows.plan_study import look_up, plan_lines
from flows.run_study import within
from flows.stages import Stage
from flows.train_adapters import TrainedFold, asking, question_of, train_adapters
from recipes.prompts import PromptRecipe
from recipes.schema import StudyRecipe, load_study
from tasks import child
from tasks.advice import advice
from tasks.cache import Calls, NotCached, looking_up
from tasks.hub import published_recipe, rehearsal
from tasks.looks import note_looks
from tasks.planning import results_of
from tasks.predictions import score_audio_llm
from tasks.prompts import describe_search, make_prompt_report, search_of, search_prompt
from tasks.store import Adapter, Predictions, PromptReport, PromptSearch


@flow(name="optimize prompt", flow_run_name="{study}")
def optimize_prompt(
    study: str = "study/demo", overrides: list[str] | None = None, refresh: Stage | None = None
) -> PromptReport:
    """Search for a prompt on dev, judge it on dev groups that took no part, and test it once beside the study's own.

    Fold 0 where there are folds. Raises ValueError, before anything runs, where the recipe says what it may not.
    """
    with advice(study, overrides or [], "prompts"), child.EndedByInterrupts():
        recipe = load_study(study, overrides or [], published_recipe)
        search = search_of(recipe)
        demand_extras(recipe, "train")
        found = look_up(recipe, "train", refresh)
        demand_gpu(recipe, "train", refresh, found)
        demand_parts(recipe, "train", refresh, found)
        with within("build", refresh):
            data = build_dataset(recipe)
        with within("train", refresh):
            trained = train_adapters(recipe, data)[0]
        with within("evaluate", refresh):
            return search_fold(recipe, search, data, trained)


def search_fold(recipe: StudyRecipe, search: PromptRecipe, data: BuiltDataset, trained: TrainedFold) -> PromptReport:
    """One search a model, then both prompts on test: the 2 x 2 of base and adapter, by hand and searched."""
    models = {"base": None, "adapter": next(iter(trained.adapters), None)}
    searches = [search_model(recipe, search, trained, name, models[name]) for name in search.over]
    predictions = [
        score_model(recipe, trained, models[its.model], asked)
        for its in searches
        for asked in ((recipe.prompt, recipe.answers), (its.prompt, its.answers))
    ]
    looks = note_looks(predictions, data.splits, "fixed")
    return make_prompt_report(searches, predictions, looks, data.splits, trained.fold, search, recipe)


def search_model(
    recipe: StudyRecipe, search: PromptRecipe, trained: TrainedFold, name: str, adapter: Adapter | None
) -> PromptSearch:
    """The search over one model."""
    sides = recipe.dataset.splits.sides(trained.fold)
    return search_prompt(
        name, trained.splits, sides, recipe.train.method, question_of(recipe), trained.tiny, trained.published, adapter,
        trained.fold, search, search.timeout_min,
    )  # fmt: skip


def score_model(
    recipe: StudyRecipe, trained: TrainedFold, adapter: Adapter | None, asked: tuple[str, tuple[str, str]]
) -> Predictions:
    """Dev and test of one model under one prompt, as `evaluate_detectors` scores them."""
    sides, question = recipe.dataset.splits.sides(trained.fold), asking(recipe, *asked)
    return score_audio_llm(
        "adapter" if adapter else "base", trained.splits, sides, recipe.train.method, question, trained.tiny,
        trained.published, adapter, trained.fold, recipe.evaluate.batch_size, recipe.evaluate.timeout_min,
    )  # fmt: skip


# --- what would be done ------------------------------------------------------------------------------------------


def plan_prompts(study: str, overrides: list[str], refresh: Stage | None = None) -> list[str]:
    """What a search would need, ask at most and choose on, line by line; nothing is run.

    Raises ValueError or FileNotFoundError as `optimize_prompt` does before anything runs, and where dev cannot be parted.
    """
    recipe = load_study(study, overrides, published_recipe)
    search = search_of(recipe)
    found = look_up(recipe, "train", refresh)
    splits = next(iter(results_of(found, "build", "make_splits")), None)
    searches = [] if refresh or not found.complete else found_searches(recipe, search)
    return [
        f"{study}, up to its prompts: the recipe is right, nothing was run",
        *plan_lines(recipe, with_stops(recipe, "train", refresh, found), "train", refresh),
        "",
        *describe_search(recipe, search, splits, searches),
    ]


def found_searches(recipe: StudyRecipe, search: PromptRecipe) -> list[PromptSearch]:
    """The searches over a trained study that have been done already."""
    calls: Calls = {}
    with contextlib.suppress(NotCached), rehearsal():
        with looking_up():
            data = build_dataset.fn(recipe)
            trained = train_adapters.fn(recipe, data)[0]
        with looking_up() as calls:
            search_fold(recipe, search, data, trained)
    return [its for its in calls.get("search_prompt", {}).values() if isinstance(its, PromptSearch)]
