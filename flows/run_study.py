"""The whole job: data set, adapters, report, card, by one flow run."""

from contextlib import AbstractContextManager

from prefect import flow
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from pydantic import BaseModel, ConfigDict

from flows.build_dataset import BuiltDataset, build_dataset
from flows.demands import demand_extras, demand_gpu, demand_hub, demand_parts
from flows.evaluate_detectors import evaluate_detectors
from flows.plan_study import look_up, plan_lines
from flows.publish import publish
from flows.runners import Chosen, chosen
from flows.stages import STAGES, Runner, Stage, stages_from
from flows.train_adapters import TrainedFold, train_adapters
from recipes.schema import StudyRecipe, load_study
from tasks.advice import advice
from tasks.hub import link, published_recipe
from tasks.planning import Found
from tasks.reports import summary
from tasks.run_page import fenced, show_markdown
from tasks.slots import make_limit, visible_gpus
from tasks.store import Publication, Report

DEFAULT = "study/demo"


class StudyRun(BaseModel):
    """What a study has come to, as far as it was run."""

    model_config = ConfigDict(frozen=True)
    data: BuiltDataset
    folds: list[TrainedFold] | None = None
    report: Report | None = None
    publication: Publication | None = None


def name_of_run() -> str:
    """What a run is called: recipe, stage and seeds, as far as the recipe can be read."""
    asked = flow_run.parameters
    study, until = asked.get("study", DEFAULT), asked.get("until", STAGES[-1])
    try:
        seeds = load_study(study, asked.get("overrides") or [], published_recipe).train.seeds
    except (ValueError, FileNotFoundError):  # the flow's first line says what is wrong with it
        return f"{study} to {until}"
    return f"{study} to {until}, " + (f"seed {', '.join(map(str, seeds))}" if seeds else "no training")


@flow(name="run study", flow_run_name=name_of_run)
def run_study(
    study: str = DEFAULT,
    overrides: list[str] | None = None,
    until: Stage = "publish",
    refresh: Stage | None = None,
    runner: Runner = "local",
) -> StudyRun:
    """Run a study up to a stage. `study` is a recipe's name or path, `overrides` are key.path=value.

    From the stage `refresh` on nothing is taken from the cache; `runner` says where tasks run. Raises ValueError, before
    anything runs, where the recipe says what it may not.
    """
    with advice(study, overrides or [], until):
        recipe = load_study(study, overrides or [], published_recipe)
        demand_extras(recipe, until)
        demand_hub(recipe)
        found = look_up(recipe, until, refresh)
        demand_gpu(recipe, until, refresh, found)
        demand_parts(recipe, until, refresh, found)
        show_plan(recipe, until, refresh, found)
        if recipe.train.device != "cpu" and (names := visible_gpus()):
            make_limit(names)
        with chosen(runner) as on:
            run = run_stages(recipe, until, refresh, on)
        show_results(recipe, run)
        return run


def run_stages(recipe: StudyRecipe, until: Stage, refresh: Stage | None, on: Chosen) -> StudyRun:
    """One stage after the other, their tasks where `on` puts them."""
    with within("build", refresh):
        run = StudyRun(data=on(build_dataset)(recipe))
    if until == "build":
        return run
    with within("train", refresh):
        run = run.model_copy(update={"folds": on(train_adapters)(recipe, run.data)})
    if until == "train":
        return run
    with within("evaluate", refresh):
        run = run.model_copy(update={"report": on(evaluate_detectors)(recipe, run.data, run.folds)})
    if until == "evaluate" or not recipe.train.seeds:  # a base as it is has nothing of ours to publish
        return run
    with within("publish", refresh):
        return run.model_copy(update={"publication": on(publish)(recipe, run.data, run.folds, run.report)})


def show_plan(recipe: StudyRecipe, until: Stage, refresh: Stage | None, found: Found) -> None:
    """What is about to be done and what is cached, on the run's page."""
    show_markdown("plan", fenced(plan_lines(recipe, found, until, refresh)), f"Plan of {recipe.name} up to {until}")


def show_results(recipe: StudyRecipe, run: StudyRun) -> None:
    """What came of it, and where report, card and repositories lie."""
    place = recipe.publish.to
    lines = [f"- data set: {link(run.data.publication, place)}"]
    if run.report:
        page = run.report.path / "report.html"
        lines = [readable(summary(run.report)), "", f"- report: [{page}]({page.as_uri()})", *lines]
    if run.publication:
        lines += [
            f"- model: {link(run.publication, place)}",
            f"- check it: `earshot verify {run.publication.repo}@{run.publication.sha}`",
        ]
    show_markdown("results", "\n".join(lines), f"Results of {recipe.name}")


def readable(told: str) -> str:
    """A summary as markdown: its sentences as a list, which wraps; its tables, from the test set's line on, as they are."""
    sentences, first, tables = told.partition("\n\ntest: ")
    said = [f"- {line}" for line in sentences.splitlines() if line]
    return "\n".join([*said, "", fenced(f"{first.strip()} {tables}".splitlines())])


def within(stage: Stage, refresh: Stage | None) -> AbstractContextManager[object]:
    """The settings of one stage's flow. From the stage `refresh` on, Prefect runs every task anew, and records it anew.

    Heartbeats are the outer flow's alone: each flow that sends some waits up to a second for their thread at its end.
    """
    anew = stage in stages_from(refresh)
    return temporary_settings(updates={PREFECT_TASKS_REFRESH_CACHE: anew, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
