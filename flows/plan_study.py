"""What a study would do: the flows of `run_study`, their tasks looked up in the cache instead of run."""

from collections.abc import Sequence

from flows.build_dataset import build_dataset
from flows.demands import with_stops
from flows.evaluate_detectors import evaluate_detectors
from flows.stages import Stage, stages_from, stages_to
from flows.train_adapters import train_adapters
from recipes.schema import CheckFailed, StudyRecipe, load_study
from tasks.cache import Calls, NotCached, looking_up
from tasks.clips import check_cells, check_drawn, repeats
from tasks.hub import published_recipe, rehearsal
from tasks.planning import Found, describe, find_sides
from tasks.variables import demand_variables


def plan_study(
    study: str, overrides: Sequence[str] = (), until: Stage = "publish", refresh: Stage | None = None
) -> list[str]:
    """What running a study up to a stage would do, hold and be able to decide, line by line; nothing is run.

    Raises ValueError or FileNotFoundError where the recipe or a source of it is wrong, and where a level of a part has
    no recording.
    """
    recipe = load_study(study, overrides, published_recipe)
    found = with_stops(recipe, until, refresh, look_up(recipe, until, refresh))
    lines = plan_lines(recipe, found, until, refresh)
    return [f"{study}, up to {until}: the recipe is right, nothing was run", *lines]


def plan_lines(recipe: StudyRecipe, found: Found, until: Stage, refresh: Stage | None) -> list[str]:
    """The plan of a checked recipe, of which `found` was looked up."""
    sides = find_sides(recipe, found)
    blocks = {part: recipe.dataset.clips_of(part) for part in recipe.dataset.splits.parts}
    check_cells(sides, blocks, recipe.classes)
    for its in () if recipe.dataset_from else recipe.sampled():  # what is pulled was dealt from other recordings
        check_drawn(sides, its)
    shared = repeats(sides, blocks, recipe.classes)
    return describe(recipe, sides, found, stages_to(until), stages_from(refresh), shared)


def look_up(recipe: StudyRecipe, until: Stage, refresh: Stage | None = None) -> Found:
    """Every stage after the other until a result is missing or a check would stop the run; none from `refresh` on.

    Raises ValueError with every environment variable that is not set.
    """
    demand_variables(recipe, stages_to(until))
    stages = [stage for stage in stages_to(until) if stage not in stages_from(refresh)]
    calls: dict[str, Calls] = {}
    try:
        with rehearsal():
            if "build" in stages:
                with looking_up() as calls["build"]:
                    data = build_dataset.fn(recipe)
            if "train" in stages:
                with looking_up() as calls["train"]:
                    folds = train_adapters.fn(recipe, data)
            if "evaluate" in stages:
                with looking_up() as calls["evaluate"]:
                    evaluate_detectors.fn(recipe, data, folds)
    except NotCached:
        return Found(calls, complete=False)
    except CheckFailed as failed:
        return Found(calls, (str(failed),), complete=False)
    return Found(calls)
