"""Recipe -> recordings -> sides -> clips -> audited splits, published."""

from collections.abc import Mapping

from prefect import flow
from pydantic import BaseModel, ConfigDict

from recipes.schema import ClipsBlock, StudyRecipe
from tasks.cards import publish_dataset
from tasks.clips import plan_clips, render_clips
from tasks.recordings import deal_sides, gather_recordings, source_state
from tasks.splits import make_splits
from tasks.store import Clips, Publication, Recordings, Sides, Splits


class BuiltDataset(BaseModel):
    """What a study's later stages need of its data set."""

    model_config = ConfigDict(frozen=True)
    recordings: tuple[Recordings, ...]
    sides: Sides
    splits: Splits
    publication: Publication


def render_parts(
    recordings: tuple[Recordings, ...], sides: Sides, blocks: Mapping[str, ClipsBlock], classes: tuple[str, str]
) -> list[Clips]:
    """The clips of several parts, each planned, then all their shards rendered beside each other."""
    planning = {part: plan_clips.submit(sides, block, part, classes) for part, block in blocks.items()}
    plans = {part: future.result() for part, future in planning.items()}
    rendering = [
        render_clips.submit(recordings, sides, plan, blocks[part], shard)
        for part, plan in plans.items()
        for shard in range(plan.shards)
    ]
    return [future.result() for future in rendering]


@flow(name="build dataset", flow_run_name="build {recipe.dataset.name}")
def build_dataset(recipe: StudyRecipe) -> BuiltDataset:
    """Deal recordings, noise and rooms first; render each part's clips from its own; audit; publish."""
    block = recipe.dataset
    gathering = [gather_recordings.submit(source, source_state(source)) for source in block.sources]
    recordings = tuple(future.result() for future in gathering)
    sides = deal_sides(recordings, block.splits)
    clips = render_parts(
        recordings, sides, {part: block.clips_of(part) for part in block.splits.parts}, recipe.classes
    )
    splits = make_splits(clips, block)
    publication = publish_dataset(splits, block, recipe.classes, recipe.publish)
    return BuiltDataset(recordings=recordings, sides=sides, splits=splits, publication=publication)
