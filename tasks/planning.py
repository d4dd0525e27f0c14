"""Plans: what a study would do, hold, take and be able to decide, found out without doing it."""

import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from recipes.clips import ClipsBlock, clean_block
from recipes.data import DatasetRecipe
from recipes.evaluation import WEIGHTS, EvaluateRecipe
from recipes.schema import StudyRecipe
from recipes.sources import Source
from tasks import sources
from tasks.cache import Calls
from tasks.detectors.weights import HOLDS
from tasks.functional.grouping import deal
from tasks.functional.planning import (
    audio_bytes,
    count_strata,
    describe_power,
    evidence_of,
    interval_rule,
)
from tasks.models.room import reckoned
from tasks.slots import device_here
from tasks.store import (
    Adapter,
    Base,
    Hygiene,
    Predictions,
    Recordings,
    Reference,
    Sides,
    home,
    in_units,
    read_json,
    shelf,
)

COPIES = 3  # of every clip: of its part, in the audited splits, in the hub


class Step(NamedTuple):
    """One task of a study: how often it comes, and where and under which name its time is kept."""

    stage: str
    task: str
    name: str
    calls: int
    shelf: type[Reference] | None = None
    timed: str = ""
    base: str = ""  # whose times count, and on which device
    device: str = ""


def steps_of(recipe: StudyRecipe) -> list[Step]:
    """What a whole study runs, in order."""
    steps = [*build_steps(recipe), *train_steps(recipe), *evaluate_steps(recipe)]
    return [step for step in steps if step.calls]


def build_steps(recipe: StudyRecipe) -> list[Step]:
    """Recordings to splits, or one pull."""
    if recipe.dataset_from:
        return [Step("build", "pull_splits", "splits pulled", 1)]
    block = recipe.dataset
    heard = [source for source in block.sources if source.role != "room"]
    at_random = recipe.inflation or block.splits.protocol == "random"
    return [
        Step("build", "gather_recordings", "recordings", len(block.sources)),
        Step("build", "measure_speech", "speech shares", len(heard) if block.hygiene else 0),
        Step("build", "judge_labels", "hygiene", 1 if block.hygiene else 0),
        Step("build", "deal_sides", "sides", 1),
        Step("build", "plan_clips", "plans", len(block.splits.parts)),
        Step("build", "render_clips", "clips", sum(block.clips_of(part).shards for part in block.splits.parts)),
        Step("build", "shuffle_clips", "random clips", int(at_random)),
        Step("build", "make_splits", "splits", 1 + recipe.inflation),
    ]


def train_steps(recipe: StudyRecipe) -> list[Step]:
    """Bases and adapters of every fold, under both protocols where inflation is measured, or one pull a fold."""
    splits, train = recipe.dataset.splits, recipe.train
    folds, tiny = (splits.folds or 1) * (1 + recipe.inflation), train.base == "tiny"
    if recipe.adapter:
        pulled = Step("train", "pull_adapter", "adapter pulls", folds)
        return [Step("train", "pull_base", "bases pulled", folds if tiny else 0), pulled]
    sides = [splits.sides(fold) for fold in range(splits.folds or 1)]
    on_train = [[part for part, side in its.items() if side == "train"] for its in sides]
    clean = {part: clean_block(train.pretrain, len(parts)).shards for parts in on_train for part in parts}
    cells, kinds, on = cells_with_clips(recipe), kinds_of(recipe), (train.base, device_here(train.device))
    again = [block.shards for clips in cells for block in clips.values()]
    return [
        Step("train", "plan_clips", "clean plans", (len(clean) if tiny else 0) + len(again)),
        Step("train", "render_clips", "clean clips", (sum(clean.values()) if tiny else 0) + sum(again)),
        Step("train", "shuffle_clips", "clean random", int(recipe.inflation and tiny)),
        Step("train", "make_base", "tiny base", folds if tiny else 0, Base, "train_s", "tiny", "cpu"),
        Step("train", "make_splits", "cell splits", len(cells)),
        Step("train", "train_adapter", "adapters", folds * len(train.seeds) * kinds, Adapter, "train_s", *on),
    ]


def cells_with_clips(recipe: StudyRecipe) -> list[dict[str, ClipsBlock]]:
    """Part -> clips of those cells of an ablation whose clips are others than the study's."""
    return [clips for clips in map(recipe.cell_clips, recipe.ablation) if clips != recipe.cell_clips()]


def kinds_of(recipe: StudyRecipe) -> int:
    """How many trainings a fold and seed has: of cells that differ in test clips or question only, one is enough."""
    return len({recipe.weights_of(name) for name in ("", *recipe.ablation)})


def evaluate_steps(recipe: StudyRecipe) -> list[Step]:
    """Every detector on every fold, and the report."""
    folds, evaluate = (recipe.dataset.splits.folds or 1) * (1 + recipe.inflation), recipe.evaluate
    return [
        Step("evaluate", "score_baseline", "baselines", folds * len(evaluate.baselines)),
        Step(
            "evaluate",
            "score_audio_llm",
            "model scores",
            folds * (1 + len(recipe.train.seeds) * (1 + len(recipe.ablation))),
            Predictions,
            "score_s",
            recipe.train.base,
            device_here(recipe.train.device),
        ),
        Step("evaluate", "score_no_audio", "no audio", folds),
        Step("evaluate", "make_ensemble", "ensembles", folds * len(evaluate.ensembles)),
        Step("evaluate", "make_report", "report", 1),
    ]


class Found(NamedTuple):
    """What looking up one stage after another came to."""

    calls: Mapping[str, Calls]  # stage -> what was asked for
    stops: tuple[str, ...] = ()  # what would end a run on this machine: what it lacks, a check
    complete: bool = True  # every result of the stages is there
    unknown: tuple[str, ...] = ()  # what would be asked of the Hub, which does not answer


def find_sides(recipe: StudyRecipe, found: Found) -> pd.DataFrame:
    """Every recording with its part: as a run dealt them, or as one will unless label hygiene drops some.

    Raises ValueError or FileNotFoundError where a source cannot be listed or its groups cannot be dealt.
    """
    sides: list[Sides] = results_of(found, "build", "deal_sides")
    if sides:
        return pd.read_parquet(sides[0].path / "sides.parquet")
    return dealt(recipe.dataset, results_of(found, "build", "gather_recordings"))


def describe(
    recipe: StudyRecipe,
    table: pd.DataFrame,
    found: Found,
    stages: Sequence[str],
    refreshed: Sequence[str] = (),
    repeats: Sequence[str] = (),
) -> list[str]:
    """The whole plan of these stages, line by line; of `refreshed` ones no result counts. `table`: `find_sides`;
    `repeats`: lines on parts whose recordings hold fewer clips than are asked for."""
    steps = [step for step in steps_of(recipe) if step.stage in stages]
    blocks = (
        [*describe_data(recipe, table), *repeats], [*describe_recordings(recipe, table), *describe_hygiene(recipe, found)],
        describe_evidence(recipe, table), describe_steps(found, steps, refreshed), describe_disk(recipe, table),
        describe_gpu(recipe),
    )  # fmt: skip
    return [line for block in blocks if block for line in ("", *block)]


def results_of(found: Found, stage: str, task: str) -> list[Any]:
    """The recorded results of a stage's task."""
    return [result for result in found.calls.get(stage, {}).get(task, {}).values() if result is not None]


# --- data --------------------------------------------------------------------------------------------------------


def dealt(recipe: DatasetRecipe, gathered: Sequence[Recordings]) -> pd.DataFrame:
    """Every recording with its length, where that is known, and the part it will be dealt to; nothing is decoded.

    gathered: sources that an earlier run has read, which tell the length of whatever they hold.
    """
    table = pd.concat([listed(source) for source in recipe.sources], ignore_index=True)
    for read in gathered:
        columns = ["recording_id", "role", "duration_s"]
        own = pd.read_parquet(read.path / "recordings.parquet", columns=columns).set_index(columns[:2])["duration_s"]
        lengths = own.reindex(pd.MultiIndex.from_frame(table[columns[:2]])).set_axis(table.index)
        table["duration_s"] = lengths.fillna(table["duration_s"])
    return table.assign(part=deal(table, recipe.splits.parts, recipe.splits.seed, by_family=recipe.splits.by_family))


def listed(source: Source) -> pd.DataFrame:
    """The recordings of a source, duration_s NaN where only decoding or speaking tells it."""
    table = sources.recordings(source)
    return table.assign(duration_s=sources.durations_s(source, table))


def clips_of_a_class(recipe: DatasetRecipe) -> dict[str, int]:
    """Part -> clips of one class."""
    return {part: recipe.clips_of(part).clips_of_a_class for part in recipe.splits.parts}


def describe_recordings(recipe: StudyRecipe, table: pd.DataFrame) -> list[str]:
    """Recordings, groups and hours per class, and per family where a class has several; what sources leave out."""
    family = table["family"].fillna("").replace("", "none named")
    whole = count_strata(table.assign(part="all"), ["all"])
    parted = count_strata(table.assign(part=family), sorted(family.unique()))
    several = parted[parted["class"].duplicated(keep=False)]
    counts = pd.concat([whole, several]).rename(columns={"part": "family"}).sort_values("class", kind="stable")
    counts["length"] = length_of(counts)
    return [
        "recordings, by the headers of their files or as an earlier run has read them",
        *counts[["class", "family", "recordings", "groups", "supergroups", "length"]]
        .to_string(index=False)
        .splitlines(),
        *(f"  {source.kind} leaves out {source.left_out}" for source in recipe.dataset.sources if source.left_out),
    ]


def describe_hygiene(recipe: StudyRecipe, found: Found) -> list[str]:
    """What label hygiene dropped, or that it will drop what nobody has listened to yet; nothing where it is off."""
    block = recipe.dataset.hygiene
    if block is None:
        return []
    known: list[Hygiene] = results_of(found, "build", "judge_labels")
    if known:
        counts = (f"{n} of {known[0].recordings[name]} {name}" for name, n in known[0].dropped.items())
        return [f"  label hygiene by {block.detector} has dropped {', '.join(counts)}: they are not counted here"]
    first, second = recipe.classes
    return [
        f"  label hygiene by {block.detector} will drop some of these: {first} under {block.least_speech:g} speech, "
        f"{second} and noise over {block.most_nonspeech:g}",
        "  how many is known once they have been decoded and listened to; groups, parts and evidence may shrink with them",
    ]


def length_of(counts: pd.DataFrame) -> pd.Series:
    """Length of each stratum for a reader, in hours or, under a tenth of one, minutes: "?" where only decoding or speaking
    tells it, "1.50+ h" where of some."""
    some, all_of_it = counts["unknown"] > 0, counts["unknown"] == counts["recordings"]
    hours, minutes = counts["hours"].map("{:.2f}".format), (60 * counts["hours"]).map("{:.2g}".format)
    short, more = counts["hours"] < 0.1, some.map({True: "+", False: ""})
    return hours.mask(short, minutes).add(more).add(short.map({True: " min", False: " h"})).mask(all_of_it, "?")


def describe_data(recipe: StudyRecipe, table: pd.DataFrame) -> list[str]:
    """Groups, hours and clips per part and class."""
    block, clips = recipe.dataset, clips_of_a_class(recipe.dataset)
    counts = count_strata(table, list(clips))
    of_class = counts["class"].isin(recipe.classes)
    counts["clips"] = (
        counts["part"].astype(str).map(clips).where(of_class).map(lambda n: "" if pd.isna(n) else f"{n:,.0f}")
    )
    counts["length"] = length_of(counts)
    notes = {"?": "?: known once the source has been read or spoken", "+": "+: and what is known only then"}
    unknown = [note for sign, note in notes.items() if counts["length"].str.contains(sign, regex=False).any()]
    counts = counts[["part", "class", "groups", "supergroups", "recordings", "length", "clips"]]
    return [
        f"data set {block.name}: {len(table):,} recordings, dealt by {block.splits.protocol}; "
        f"{2 * sum(clips.values()):,} clips in {block.clips.conditions} conditions a class",
        *counts.to_string(index=False).splitlines(),
        *unknown,
        *describe_lone_supergroups(table, counts[of_class]),
    ]


def describe_lone_supergroups(table: pd.DataFrame, counts: pd.DataFrame) -> list[str]:
    """A line for each part whose several groups of a class are all of one supergroup. counts: of `count_strata`."""
    lines = []
    for part, name, groups in counts.query("supergroups == 1 and groups > 1")[["part", "class", "groups"]].to_numpy():
        held = table[(table["part"] == part) & (table["role"] == "content") & (table["label"] == name)]
        lines.append(
            f"all {groups} {name} groups of {part} are of one supergroup, {held['supergroup_id'].iloc[0]}, which goes "
            "to one part as a whole; if that is a corpus and no meeting or uploader, give it a source of its own or name "
            "another supergroup"
        )
    return lines


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
    unknown = (f"  not known yet, and asked before a run builds anything: {its}" for its in found.unknown)
    return [*lines, *unknown, *(f"  a run would stop here: {stop}" for stop in found.stops)]


def earlier_times(step: Step) -> list[str]:
    """What earlier runs of a step took in this home with this base on this device, other recipes included; nothing for
    steps that are not timed."""
    if step.shelf is None:
        return []
    kept = map(read_json, shelf(step.shelf).glob("*.timing.json"))
    like = {"base": step.base, "device": step.device}
    seconds = sorted(its[step.timed] for its in kept if step.timed in its and like.items() <= its.items())
    if not seconds:
        return ["not measured here"]
    took = f"{seconds[0]:.0f} s" if len(seconds) == 1 else f"{seconds[0]:.0f} to {seconds[-1]:.0f} s"
    return [f"{took} each ({len(seconds)} of this base on {step.device} in this home, any recipe)"]


def describe_disk(recipe: StudyRecipe, table: pd.DataFrame) -> list[str]:
    """Upper bound of what the data set takes, the base that must be at hand, and what is free."""
    block = recipe.dataset.clips
    clips = clips_of_a_class(recipe.dataset)
    mean_ms = block.longest_ms if block.context else sum(block.durations_ms) / len(block.durations_ms)
    rows = 2 * sum(clips.values())
    size = COPIES * audio_bytes(rows * mean_ms / 1000, rows)
    known = table["duration_s"].dropna()
    size += audio_bytes(float(known.sum()), len(table))
    unknown = f" and {len(table) - len(known)} recordings of unknown length" if len(known) < len(table) else ""
    place = next(folder for folder in (home(), *home().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    short = f": as much as {in_units(size - free)} too little; fewer clips, or another EARSHOT_HOME"
    return [
        f"disk: at most {in_units(size)} for the data set{unknown}, beside base, adapters and report",
        f"  {'warning: ' if size > free else ''}{in_units(free)} free at {home()}{short if size > free else ''}",
        *describe_download("base", recipe.train.base, "config.json", f"on {recipe.train.device}, "),
        *describe_weights(recipe.evaluate),
    ]


def describe_gpu(recipe: StudyRecipe) -> list[str]:
    """What training the base takes of a GPU, by arithmetic, where its widths are known before it is loaded."""
    train = recipe.train
    clips, steps = clips_of_a_class(recipe.dataset), train.training.get("max_steps", -1)
    sides = [recipe.dataset.splits.sides(fold) for fold in range(recipe.dataset.splits.folds or 1)]
    rows = [2 * sum(n for part, n in clips.items() if its[part] == "train") for its in sides]
    seen = sum(rows) * float(train.training.get("num_train_epochs", 3))
    if steps > 0:
        seen = len(rows) * steps * float(train.batch_size or train.training.get("per_device_train_batch_size") or 16)
    return reckoned(train.method, recipe.dataset.clips.longest_ms, seen * len(train.seeds) * kinds_of(recipe))


def describe_weights(evaluate: EvaluateRecipe) -> list[str]:
    """Whether the weights that detectors take of the Hub have been downloaded already."""
    keys = dict.fromkeys(WEIGHTS[name] for name in evaluate.baselines if name in WEIGHTS)
    files = {"pyannote": HOLDS["pyannote"]}
    return [
        line
        for key in keys
        for line in describe_download(f"weights of {key}", evaluate.weights[key], files.get(key, "config.json"))
    ]


def describe_download(what: str, place: str, file: str, where: str = "") -> list[str]:
    """Whether a file of a repository, and with it the others, has been downloaded already; nothing of a folder."""
    repo, _, revision = place.partition("@")
    if not revision:
        return []
    from huggingface_hub import try_to_load_from_cache

    there = isinstance(try_to_load_from_cache(repo, file, revision=revision), str)
    return [f"{what}: {repo}, {where}{'in' if there else 'to be downloaded to'} the cache of Hugging Face"]
