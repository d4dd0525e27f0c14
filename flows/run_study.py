"""The whole job: data set, adapters, report, card, by one flow run."""

from contextlib import AbstractContextManager

from prefect import flow
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from pydantic import BaseModel, ConfigDict

from flows.build_dataset import BuiltDataset, build_dataset
from flows.evaluate_detectors import evaluate_detectors
from flows.plan_study import look_up
from flows.publish import publish
from flows.stages import Stage, stages_from, stages_to
from flows.train_adapters import TrainedFold, train_adapters
from recipes.schema import StudyRecipe, load_study
from tasks import detectors
from tasks.hub import published_recipe
from tasks.hub_client import demand_token
from tasks.slots import gpus
from tasks.store import Publication, Report


class StudyRun(BaseModel):
    """What a study has come to, as far as it was run."""

    model_config = ConfigDict(frozen=True)
    data: BuiltDataset
    folds: list[TrainedFold] | None = None
    report: Report | None = None
    publication: Publication | None = None


@flow(name="run study", flow_run_name="{study}")
def run_study(
    study: str = "study/demo",
    overrides: list[str] | None = None,
    until: Stage = "publish",
    refresh: Stage | None = None,
) -> StudyRun:
    """Run a study up to a stage. `study` is a recipe's name or path, `overrides` are key.path=value.

    From the stage `refresh` on nothing is taken from the cache. Raises ValueError, before anything runs, where the
    recipe says what it may not.
    """
    recipe = load_study(study, overrides or [], published_recipe)
    demand_extras(recipe, until)
    if recipe.publish.to == "hub":
        demand_token()
    demand_gpu(recipe, until, refresh)
    with cache_of("build", refresh):
        data = build_dataset(recipe)
    if until == "build":
        return StudyRun(data=data)
    with cache_of("train", refresh):
        folds = train_adapters(recipe, data)
    if until == "train":
        return StudyRun(data=data, folds=folds)
    with cache_of("evaluate", refresh):
        report = evaluate_detectors(recipe, data, folds)
    if until == "evaluate":
        return StudyRun(data=data, folds=folds, report=report)
    publication = publish(recipe, data, folds, report)
    return StudyRun(data=data, folds=folds, report=report, publication=publication)


def demand_extras(recipe: StudyRecipe, until: Stage) -> None:
    """Raise ValueError, with the command that installs it, where hygiene or a baseline needs a library that is not there."""
    if hygiene := recipe.dataset.hygiene:
        detectors.demand([hygiene.detector], "dataset.hygiene", "set dataset.hygiene=null")
    if "evaluate" in stages_to(until):
        detectors.demand(recipe.evaluate.baselines)


def demand_gpu(recipe: StudyRecipe, until: Stage, refresh: Stage | None) -> None:
    """Raise ValueError where a stage that is not cached needs a GPU and this machine has none: before anything runs."""
    stages = stages_to(until)
    if recipe.train.device != "cuda" or "train" not in stages or gpus():
        return
    anew = {"train", "evaluate"} & {*stages} & {*stages_from(refresh)}
    if anew or not look_up(recipe, stages).complete:
        raise ValueError(
            f"{recipe.name} has train.device=cuda and no NVIDIA GPU answers here (`earshot doctor` looks closer): run it "
            "where there is one; `earshot build` needs none, and a tiny base trains with --set train.device=cpu"
        )


def cache_of(stage: Stage, refresh: Stage | None) -> AbstractContextManager[object]:
    """The cache as one stage sees it: Prefect runs every task anew, and records it anew, from the stage `refresh` on."""
    return temporary_settings(updates={PREFECT_TASKS_REFRESH_CACHE: stage in stages_from(refresh)})
