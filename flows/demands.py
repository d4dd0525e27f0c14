"""What a run needs of this machine: asked before anything runs, and foretold by a plan."""

from collections.abc import Iterator

from flows.stages import Stage, stages_from, stages_to
from recipes.schema import StudyRecipe
from tasks import detectors
from tasks.adapters import check_published
from tasks.detectors.weights import folder_of, weights_for
from tasks.hub_client import Unreached, demand_token
from tasks.models.jobs import refuse_unknown, refuse_unknown_on_the_hub
from tasks.models.room import refuse_before, refuse_unheard
from tasks.planning import Found, describe_gpu
from tasks.slots import gpus
from tasks.variables import demand_variables


def demand_extras(recipe: StudyRecipe, until: Stage) -> None:
    """Raise ValueError or FileNotFoundError, with the way out, where hygiene or a baseline needs a library, or the study an
    environment variable or a base, that is not there, and where a base cannot be asked, or not quantised as asked."""
    demand_variables(recipe, stages_to(until))
    demand_base(recipe, until)
    if "train" in stages_to(until):
        refuse_before(recipe.train.method)
    demand_hygiene(recipe)
    demand_baselines(recipe, until)


def demand_base(recipe: StudyRecipe, until: Stage) -> None:
    """Raise ValueError or FileNotFoundError where the base is no model, one of no family, or a folder of somebody else's,
    and where a clip is too short for it."""
    if "train" in stages_to(until) and recipe.train.base != "tiny":
        refuse_unknown(recipe.train.base)
        refuse_unheard(recipe.train.base, recipe.shortest_ms)


def demand_hygiene(recipe: StudyRecipe) -> None:
    """Raise ValueError where label hygiene needs a library that is not there."""
    if hygiene := recipe.dataset.hygiene:
        detectors.demand([hygiene.detector], "dataset.hygiene", "set dataset.hygiene=null")


def demand_baselines(recipe: StudyRecipe, until: Stage) -> None:
    """Raise ValueError or FileNotFoundError where a baseline needs a library or weights that are not there."""
    if "evaluate" in stages_to(until):
        detectors.demand(recipe.evaluate.baselines)
        for name in recipe.evaluate.baselines:
            weights_for(name, recipe.evaluate.weights)


def demand_hub(recipe: StudyRecipe) -> None:
    """Raise ValueError where the study publishes to the Hub and there is no token for it."""
    if recipe.publish.to == "hub":
        demand_token()


def demand_parts(recipe: StudyRecipe, until: Stage, refresh: Stage | None, found: Found) -> None:
    """Raise ValueError or FileNotFoundError, before anything is built, where what is left to train or score needs a base
    that cannot be asked, a published adapter that is not one of this study, or weights of a detector that cannot be had.
    The Hub is asked for what is not here."""
    if model_is_asked(until, refresh, found):
        demand_weights(recipe, until)
        demand_family(recipe)
        refuse_before(recipe.train.method)  # of what config.json says
        demand_adapter(recipe)


def demand_weights(recipe: StudyRecipe, until: Stage) -> None:
    """Raise as `folder_of`, which downloads what detectors take of the Hub: before a training, not after."""
    if "evaluate" in stages_to(until):
        for name in recipe.evaluate.baselines:
            if weights := weights_for(name, recipe.evaluate.weights):
                folder_of(name, weights)


def demand_family(recipe: StudyRecipe) -> None:
    """Raise as `demand_base`, of a base of the Hub by its config.json, which is downloaded where it is not here."""
    if recipe.train.base != "tiny":
        refuse_unknown_on_the_hub(recipe.train.base)
        refuse_unheard(recipe.train.base, recipe.shortest_ms)


def demand_adapter(recipe: StudyRecipe) -> None:
    """Raise ValueError where the published adapter has another seed, base or data, as far as they are known before."""
    if recipe.adapter:
        check_published(recipe)


def model_is_asked(until: Stage, refresh: Stage | None, found: Found) -> bool:
    """Whether a run has anything left to train or to score, as far as its results were looked up."""
    stages = {"train", "evaluate"} & {*stages_to(until)}
    return bool(stages) and (not found.complete or bool(stages & {*stages_from(refresh)}))


def demand_gpu(recipe: StudyRecipe, until: Stage, refresh: Stage | None, found: Found) -> None:
    """Raise ValueError where a stage that is not cached needs a GPU and this machine has none: before anything runs."""
    if said := lacks_gpu(recipe, until, refresh, found):
        raise ValueError(said + "".join(f". {line.strip()}" for line in describe_gpu(recipe)))


def lacks_gpu(recipe: StudyRecipe, until: Stage, refresh: Stage | None, found: Found) -> str:
    """That a stage that is not cached needs a GPU and this machine has none, and the way out; "" where that is not so."""
    if recipe.train.device != "cuda" or gpus() or not model_is_asked(until, refresh, found):
        return ""
    return (
        f"{recipe.name} has train.device=cuda and no NVIDIA GPU answers here (`earshot doctor` looks closer): run it "
        "where there is one; `earshot build` needs none, and a tiny base trains with --set train.device=cpu"
    )


def with_stops(recipe: StudyRecipe, until: Stage, refresh: Stage | None, found: Found) -> Found:
    """What was looked up, with all that this machine lacks for a run, and what only the Hub knows where it does not answer:
    a plan made here may be run elsewhere."""
    said = [*faults_here(recipe, until, refresh, found)]
    unknown = dict.fromkeys(str(its) for its in said if isinstance(its, Unreached))
    stops = dict.fromkeys(str(its) for its in said if not isinstance(its, Unreached))
    return found._replace(stops=(*stops, *found.stops), unknown=(*unknown,))


def faults_here(recipe: StudyRecipe, until: Stage, refresh: Stage | None, found: Found) -> Iterator[Exception]:
    """Why a run would be refused on this machine before it begins, but for what a plan raises or says by itself."""
    of_the_hub = (lambda: demand_family(recipe), lambda: demand_adapter(recipe))
    for demand in (
        lambda: demand_base(recipe, until),
        *(of_the_hub if model_is_asked(until, refresh, found) else ()),
        lambda: demand_hygiene(recipe),
        lambda: demand_baselines(recipe, until),
        lambda: demand_hub(recipe),
    ):
        try:
            demand()
        except (ValueError, FileNotFoundError) as error:
            yield error
    if said := lacks_gpu(recipe, until, refresh, found):
        yield ValueError(said)
