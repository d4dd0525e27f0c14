"""Plans: what a study would do, hold, take and be able to decide, found out without doing it."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import soundfile

from recipes.schema import ClipsBlock, DatasetRecipe, Source, StudyRecipe, SyntheticSource, TableSource
from tasks import sources
from tasks.cache import Calls
from tasks.functional.grouping import deal
from tasks.functional.planning import (
    Evidence,
    audio_bytes,
    count_strata,
    evidence_of,
    interval_rule,
    smallest_difference,
)
from tasks.functional.significance import mcnemar_sample_size
from tasks.sources.table import root_of
from tasks.store import Adapter, Base, Predictions, Reference, Sides, home, read_json, shelf

DISCORDANCE = 0.20  # assumed: the upper end of what was measured between detectors of this task (.03 to .20)
COPIES = 3  # of every clip: of its part, in the audited splits, in the hub


class Step(NamedTuple):
    """One task of a study: how often it comes, and where and under which name its time is kept."""

    stage: str
    task: str
    name: str
    calls: int
    shelf: type[Reference] | None = None
    timed: str = ""


def steps_of(recipe: StudyRecipe) -> list[Step]:
    """What a whole study runs, in order; `clips` counts the clean ones for a tiny base as well."""
    splits, train = recipe.dataset.splits, recipe.train
    folds, seeds = splits.folds or 1, len(train.seeds)
    sides = [splits.sides(fold) for fold in range(folds)]
    trained_on = [part for part in splits.parts if any(side[part] == "train" for side in sides)]
    tiny = train.base == "tiny"
    steps = [
        Step("build", "gather_recordings", "recordings", len(recipe.dataset.sources)),
        Step("build", "deal_sides", "sides", 1),
        Step("build", "render_clips", "clips", len(splits.parts)),
        Step("build", "make_splits", "splits", 1),
        Step("train", "render_clips", "clean clips", len(trained_on) if tiny else 0),
        Step("train", "make_base", "tiny base", folds if tiny else 0, Base, "train_s"),
        Step("train", "train_adapter", "adapters", folds * seeds, Adapter, "train_s"),
        Step("evaluate", "score_baseline", "baselines", folds * len(recipe.evaluate.baselines)),
        Step("evaluate", "score_audio_llm", "model scores", folds * (1 + seeds), Predictions, "score_s"),
        Step("evaluate", "make_report", "report", 1),
    ]
    return [step for step in steps if step.calls]


class Found(NamedTuple):
    """What looking up one stage after another came to."""

    calls: Mapping[str, Calls]  # stage -> what was asked for
    stops: str = ""  # the check that would end a run
    complete: bool = True  # every result of the stages is there


def describe(recipe: StudyRecipe, found: Found, stages: Sequence[str], refreshed: Sequence[str] = ()) -> list[str]:
    """The whole plan of these stages, line by line; of `refreshed` ones no result counts.

    Raises ValueError or FileNotFoundError where a source cannot be listed or its groups cannot be dealt.
    """
    sides: list[Sides] = results_of(found, "build", "deal_sides")
    table = pd.read_parquet(sides[0].path / "sides.parquet") if sides else dealt(recipe.dataset)
    steps = [step for step in steps_of(recipe) if step.stage in stages]
    blocks = (
        describe_data(recipe, table), describe_evidence(recipe, table), describe_steps(found, steps, refreshed),
        describe_disk(recipe, table),
    )  # fmt: skip
    return [line for block in blocks for line in ("", *block)]


def results_of(found: Found, stage: str, task: str) -> list[Any]:
    """The recorded results of a stage's task."""
    return [result for result in found.calls.get(stage, {}).get(task, {}).values() if result is not None]


# --- data --------------------------------------------------------------------------------------------------------


def dealt(recipe: DatasetRecipe) -> pd.DataFrame:
    """Every recording with its length, where that is known, and the part it will be dealt to; nothing is decoded."""
    table = pd.concat([listed(source) for source in recipe.sources], ignore_index=True)
    return table.assign(part=deal(table, recipe.splits.parts, recipe.splits.seed))


def listed(source: Source) -> pd.DataFrame:
    """The recordings of a source, duration_s NaN where only decoding or speaking tells it."""
    table = sources.recordings(source)
    if isinstance(source, SyntheticSource):
        return table.assign(duration_s=source.duration_s)
    if not isinstance(source, TableSource):
        return table.assign(duration_s=float("nan"))
    root = root_of(source)
    whole = {path: file_seconds(root / path) for path in table["path"].unique()}
    lasts = table["end_s"].fillna(table["path"].map(whole))
    return table.assign(duration_s=lasts - table["start_s"].fillna(0.0))


def file_seconds(file: Path) -> float:
    """Length by the header; NaN for what a run would refuse, with its reason, when it decodes."""
    try:
        return float(soundfile.info(file).duration) if file.is_file() else float("nan")
    except (soundfile.LibsndfileError, TypeError):
        return float("nan")


def clips_of_a_class(recipe: DatasetRecipe) -> dict[str, int]:
    """Part -> clips of one class."""
    clips = {}
    for part in recipe.splits.parts:
        block = recipe.clips_of(part)
        assert isinstance(block.per_cell, int), "clips_of gives a part's own number"
        clips[part] = cells(block) * block.per_cell
    return clips


def cells(block: ClipsBlock) -> int:
    """Cells of the factorial."""
    return len(block.duration_ms) * len(block.snr_db) * len(block.rt60_s)


def describe_data(recipe: StudyRecipe, table: pd.DataFrame) -> list[str]:
    """Groups, hours and clips per part and class."""
    block, clips = recipe.dataset, clips_of_a_class(recipe.dataset)
    counts = count_strata(table, list(clips))
    of_class = counts["class"].isin(recipe.classes)
    counts["clips"] = (
        counts["part"].astype(str).map(clips).where(of_class).map(lambda n: "" if pd.isna(n) else f"{n:,.0f}")
    )
    counts["hours"] = counts["hours"].map(lambda hours: "?" if pd.isna(hours) else f"{hours:.2f}")
    unknown = ["?: known once the source has been read or spoken"] if (counts["hours"] == "?").any() else []
    return [
        f"data set {block.name}: {len(table):,} recordings, dealt by {block.splits.protocol}; "
        f"{2 * sum(clips.values()):,} clips in {cells(block.clips)} cells a class",
        *counts.to_string(index=False).splitlines(),
        *unknown,
    ]


# --- evidence ----------------------------------------------------------------------------------------------------


def describe_evidence(recipe: StudyRecipe, table: pd.DataFrame) -> list[str]:
    """What the test part can decide, with the assumptions it rests on."""
    splits = recipe.dataset.splits
    tested = list(splits.parts) if splits.folds else ["test"]
    evidence = evidence_of(table, tested, recipe.classes, clips_of_a_class(recipe.dataset))
    counted = " and ".join(
        f"{its.groups} {name} groups (supergroups: {its.supergroups})" for name, its in evidence.items()
    )
    smallest = min(evidence, key=lambda name: evidence[name].groups)
    lines = [
        f"test: {counted}, {sum(its.clips for its in evidence.values()):,} clips"
        + (f", each scored once over {splits.folds} folds" if splits.folds else ""),
        f"  interval: {evidence[smallest].groups} groups in {smallest} allow {interval_rule(evidence[smallest].groups)}",
        *describe_power(list(evidence.values())),
    ]
    if splits.protocol == "random":
        lines.append("  protocol random lets groups stand on two sides: it measures leakage and is never a headline")
    return lines


def describe_power(evidence: Sequence[Evidence]) -> list[str]:
    """The smallest difference between two detectors that such a test shows, between the worst and the best case."""
    cases = {
        "all clips of a group stand or fall together": (sum(its.groups for its in evidence), "groups"),
        "the clips of a group are independent": (sum(its.clips for its in evidence), "clips"),
    }
    needed = mcnemar_sample_size(0.03, discordance=DISCORDANCE)
    return [
        "  smallest difference of two accuracies that it shows with 80 % power (McNemar, exact, 5 %), where just one of",
        f"  two detectors is right on {100 * DISCORDANCE:.0f} % of the items (assumed; on more where they differ by more):",
        *(f"    {points(n):<12} if {case} (n = {n:,} {unit})" for case, (n, unit) in cases.items()),
        f"    3 points need {needed:,} independent items; the design effect in the report says what a clip is worth",
    ]


def points(n: int) -> str:
    """The smallest difference in percentage points."""
    smallest = smallest_difference(n, discordance=DISCORDANCE) if n else None
    return "none" if smallest is None else f"{100 * smallest:.0f} points"


# --- work --------------------------------------------------------------------------------------------------------


def describe_steps(found: Found, steps: Sequence[Step], refreshed: Sequence[str] = ()) -> list[str]:
    """Step by step what is cached, what will run, and what earlier runs of it took on this machine."""
    lines = ["steps, with the times of earlier runs where they are kept"]
    for step in steps:
        cached = len(results_of(found, step.stage, step.task))
        asked = len(found.calls.get(step.stage, {}).get(step.task, {}))
        state = [f"{cached} of {step.calls} cached"] if asked else []
        if left := step.calls - cached:
            sure = asked == step.calls or step.stage in refreshed
            state += [f"{left} to run" if sure else f"up to {left} to run", *earlier_times(step)]
        lines.append(f"  {step.name:<14}{', '.join(state)}")
    lines.append("  publications  made anew every time, which changes nothing where nothing has changed")
    return [*lines, *([f"  a run would stop here: {found.stops}"] if found.stops else [])]


def earlier_times(step: Step) -> list[str]:
    """What earlier runs of a step took in this home, other recipes included; nothing for steps that are not timed."""
    if step.shelf is None:
        return []
    files = shelf(step.shelf).glob("*.timing.json")
    seconds = sorted(its[step.timed] for file in files if step.timed in (its := read_json(file)))
    if not seconds:
        return ["not measured on this machine yet"]
    took = f"{seconds[0]:.0f} s" if len(seconds) == 1 else f"{seconds[0]:.0f} to {seconds[-1]:.0f} s"
    return [f"{took} each ({len(seconds)} in this home, any recipe)"]


def describe_disk(recipe: StudyRecipe, table: pd.DataFrame) -> list[str]:
    """Upper bound of what the data set takes, the base that must be at hand, and what is free."""
    block = recipe.dataset.clips
    clips = clips_of_a_class(recipe.dataset)
    mean_ms = block.longest_ms if block.context else sum(block.duration_ms) / len(block.duration_ms)
    rows = 2 * sum(clips.values())
    size = COPIES * audio_bytes(rows * mean_ms / 1000, rows)
    known = table["duration_s"].dropna()
    size += audio_bytes(float(known.sum()), len(table))
    unknown = f" and {len(table) - len(known)} recordings of unknown length" if len(known) < len(table) else ""
    place = next(folder for folder in (home(), *home().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    return [
        f"disk: at most {in_units(size)} for the data set{unknown}, beside base, adapters and report",
        f"  {in_units(free)} free at {home()}",
        *describe_base(recipe.train.base, recipe.train.device),
    ]


def describe_base(base: str, device: str) -> list[str]:
    """Whether a base of the Hub has been downloaded already."""
    repo, _, revision = base.partition("@")
    if not revision:
        return []
    from huggingface_hub import try_to_load_from_cache

    there = isinstance(try_to_load_from_cache(repo, "config.json", revision=revision), str)
    return [f"base: {repo}, on {device}, {'in' if there else 'to be downloaded to'} the cache of Hugging Face"]


def in_units(size: int) -> str:
    """Bytes for a reader."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"
