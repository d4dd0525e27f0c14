"""Recipe -> recordings -> sides -> clips -> audited splits, published."""

from collections.abc import Mapping

from prefect import flow
from pydantic import BaseModel, ConfigDict

from recipes.clips import ClipsBlock
from recipes.data import DatasetRecipe, HygieneBlock
from recipes.schema import StudyRecipe
from tasks.cards import publish_dataset
from tasks.clips import plan_clips, render_clips, tell_repeats
from tasks.hub import pinned
from tasks.hygiene import judge_labels, measure_speech
from tasks.recordings import deal_sides, gather_recordings, source_state
from tasks.splits import make_splits, pull_splits, shuffle_clips
from tasks.store import Clips, Hygiene, Publication, Recordings, Sides, Splits


class BuiltDataset(BaseModel):
    """What a study's later stages need of its data set."""

    model_config = ConfigDict(frozen=True)
    recordings: tuple[Recordings, ...]  # none of these two where it was pulled
    sides: Sides | None
    splits: Splits
    publication: Publication
    leaky: Splits | None = None  # the same clips dealt at random, where the study measures what that adds


def check_labels(
    recordings: tuple[Recordings, ...], recipe: DatasetRecipe, hygiene: HygieneBlock, classes: tuple[str, str]
) -> Hygiene:
    """What a voice activity detector finds mislabelled in the content and the noise."""
    heard = [its for its, source in zip(recordings, recipe.sources, strict=True) if source.role != "room"]
    measuring = [measure_speech.submit(its, hygiene.detector, hygiene.mode, hygiene.frame_ms) for its in heard]
    return judge_labels([future.result() for future in measuring], hygiene, classes)


def deal_sources(
    block: DatasetRecipe, classes: tuple[str, str]
) -> tuple[tuple[Recordings, ...], Sides, Hygiene | None]:
    """The recordings of every source, dealt to the parts but for what hygiene drops."""
    gathering = [gather_recordings.submit(source, source_state(source)) for source in block.sources]
    recordings = tuple(future.result() for future in gathering)
    hygiene = check_labels(recordings, block, block.hygiene, classes) if block.hygiene else None
    sides = deal_sides(recordings, block.splits, hygiene)
    return recordings, sides, hygiene


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
    """Drop what is mislabelled; deal recordings, noise and rooms; render each part's clips from its own; audit; publish."""
    block = recipe.dataset
    if recipe.dataset_from:
        published = pinned("dataset", recipe.dataset_from)
        splits = pull_splits(published, block, recipe.classes)
        return BuiltDataset(recordings=(), sides=None, splits=splits, publication=published)
    recordings, sides, hygiene = deal_sources(block, recipe.classes)
    blocks = {part: block.clips_of(part) for part in block.splits.parts}
    tell_repeats(sides, blocks, recipe.classes)
    clips = render_parts(recordings, sides, blocks, recipe.classes)
    if block.splits.protocol == "random":
        clips = shuffle_clips(clips, block.splits.seed)
    splits = make_splits(clips, block)
    leaky = make_splits(shuffle_clips(clips, block.splits.seed), block.at_random) if recipe.inflation else None
    publication = publish_dataset(splits, block, recipe.classes, recipe.publish, hygiene)
    return BuiltDataset(recordings=recordings, sides=sides, splits=splits, publication=publication, leaky=leaky)
