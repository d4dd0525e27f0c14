"""Environment variables that a study reads: all that are not set are named at once."""

from collections.abc import Sequence

from recipes.schema import StudyRecipe
from tasks.detectors.weights import unset_weights
from tasks.sources.variables import unset_variables


def demand_variables(recipe: StudyRecipe, stages: Sequence[str]) -> None:
    """Raise ValueError with every environment variable that the sources and weights of these stages read and that is not
    set, each with the way to what it should name."""
    unset = {} if recipe.dataset_from else unset_variables(recipe.dataset.sources)
    if "evaluate" in stages:
        unset |= unset_weights(recipe.evaluate.baselines, recipe.evaluate.weights)
    if unset:
        names = ", ".join(unset)
        one = f"reads the environment variable {names}, which is not set"
        several = f"reads the environment variables {names}, which are not set"
        raise ValueError("\n  ".join([f"{recipe.name} {one if len(unset) == 1 else several}", *unset.values()]))
