"""Recipe -> recordings -> sides -> clips -> audited splits, published."""

from prefect import flow
from pydantic import BaseModel, ConfigDict

from recipes.schema import StudyRecipe
from tasks.cards import publish_dataset
from tasks.clips import render_clips
from tasks.recordings import deal_sides, gather_recordings, source_state
from tasks.splits import make_splits
from tasks.store import Publication, Recordings, Sides, Splits


class BuiltDataset(BaseModel):
    """What a study's later stages need of its data set."""

    model_config = ConfigDict(frozen=True)
    recordings: tuple[Recordings, ...]
    sides: Sides
    splits: Splits
    publication: Publication


@flow(name="build dataset", flow_run_name="build {recipe.dataset.name}")
def build_dataset(recipe: StudyRecipe) -> BuiltDataset:
    """Deal recordings, noise and rooms first; render each part's clips from its own; audit; publish."""
    block = recipe.dataset
    gathering = [gather_recordings.submit(source, source_state(source)) for source in block.sources]
    recordings = tuple(future.result() for future in gathering)
    sides = deal_sides(recordings, block.splits)
    rendering = [
        render_clips.submit(recordings, sides, block.clips_of(part), part, recipe.classes)
        for part in block.splits.parts
    ]
    clips = [future.result() for future in rendering]
    splits = make_splits(clips, block)
    publication = publish_dataset(splits, block, recipe.classes, recipe.publish)
    return BuiltDataset(recordings=recordings, sides=sides, splits=splits, publication=publication)
