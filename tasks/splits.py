"""Splits: the clips of all parts, audited. No split exists that was not."""

import shutil
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recipes.clips import SAMPLE_RATE_HZ
from recipes.data import DatasetRecipe
from recipes.schema import CheckFailed
from tasks.audio_files import decode_flac, samples_of
from tasks.cache import cached, task
from tasks.functional.content_audit import (
    audit_content,
    choose_clips,
    content_record,
    describe_content,
    describe_leaks,
)
from tasks.functional.design import balance
from tasks.functional.leakage import Audit, audit, clips_of, pcm_hash
from tasks.functional.shortcuts import SHORTCUTS, describe_shortcuts, folds_of, measure_cues, measure_shortcuts
from tasks.hub import pull
from tasks.pace import Paced
from tasks.run_page import say, show_table
from tasks.store import Clips, Publication, Sides, Splits, draft, read_json, write_json

ROWS_A_GROUP = 256
EVIDENCE = ("audit.json", "balance.csv", "balance.json", "recipe.json")  # beside data/PART.parquet
LONGEST_SAMPLES = 30 * SAMPLE_RATE_HZ  # of a clip, as in a recipe
# `earshot audit` compares more; a study waits for this.
COMPARED, PAIRS = 500, 10_000  # clips of a part whose content is compared, and pairs of them sample by sample
MEASURED = 1_000  # clips of a part whose cues are measured
LIBRARIES = ("numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "soundfile")


@task(task_run_name="splits of {recipe.name}, audited", **cached(libraries=LIBRARIES))
def make_splits(clips: Sequence[Clips], recipe: DatasetRecipe) -> Splits:
    """Gather the shards of all parts and audit them. Under `protocol: group` a leak raises CheckFailed, pairs named."""
    columns = pd.concat([read_index(reference) for reference in clips], ignore_index=True)
    counted = columns.groupby(["part", "label"], sort=False).agg(
        clips=("clip_id", "size"), groups=("group_id", "nunique")
    )
    show_table("data", counted.reset_index().to_dict("records"), f"Clips and groups of {recipe.name}")
    record = audited(columns, [reference.path / "clips.parquet" for reference in clips], recipe)
    with draft(Splits) as folder:
        (folder / "data").mkdir()
        for part in recipe.splits.parts:
            gather([reference for reference in clips if reference.part == part], folder / "data" / f"{part}.parquet")
        even = balance(columns)
        even.counts.to_csv(folder / "balance.csv", index=False)
        write_json(folder / "audit.json", record)
        write_json(folder / "balance.json", {"largest_imbalance": even.largest})
        write_json(folder / "recipe.json", recipe.model_dump(mode="json"))
        return Splits.of(folder, **facts(columns, record, recipe))


def audited(columns: pd.DataFrame, files: Sequence[Path], recipe: DatasetRecipe) -> dict[str, Any]:
    """The audit of the clips in these files, `columns` their rows in order: what audit.json holds, on the run's page too.

    Under `protocol: group` a leak raises CheckFailed, pairs named. Random parts share their cuts by intent: nothing is
    heard of them.
    """
    found, protocol = audit(columns), recipe.splits.protocol
    show_table("audit", records(found), f"Leakage audit of {recipe.name}: {found.verdict}")
    if protocol == "random":
        say(f"the split is leaky, as protocol random is: {describe(found)}")
        return {
            "verdict": "leaky", "protocol": protocol, "checks": records(found), "content": None, "shortcuts": None,
            "measured": None,
        }  # fmt: skip
    if found.verdict != "clean":
        raise CheckFailed(describe(found))
    heard = listen(columns, files, recipe.splits.seed)
    tell(heard, recipe.name)
    if heard["content"]["leaks"]:
        raise CheckFailed(describe_leaks(heard["content"]))
    return {"verdict": found.verdict, "protocol": protocol, "checks": records(found), **heard}


def listen(columns: pd.DataFrame, files: Sequence[Path], seed: int) -> dict[str, dict[str, Any]]:
    """What the audio of some clips of each part tells: `content`, copies between the parts; `shortcuts`, how far single
    cues tell the classes apart; `measured`, on how many clips of each part."""
    compared, measured = choose_clips(columns, COMPARED), spread(columns["part"], MEASURED)
    audio, cues = {}, {}
    for position, flac in read_flac(files, {*compared.tolist(), *measured.tolist()}):
        samples = decode_flac(flac)
        cues[position] = measure_cues(samples, len(flac))
        if position in compared:
            audio[position] = samples
    some = columns.loc[compared]
    content = audit_content(
        [audio[k] for k in compared], some["part"].tolist(), most_pairs=PAIRS, seed=seed, say=Paced(say)
    )
    heard = columns.loc[measured]
    first = heard["label"] == heard["label"].min()
    table = pd.DataFrame([cues[k] for k in measured], columns=[*SHORTCUTS]).assign(is_first=first.to_numpy())
    return {
        "content": content_record(content, some, counts(columns["part"]), seed),
        "shortcuts": measure_shortcuts(table, folds_of(heard["part"])),
        "measured": counts(heard["part"]),
    }


def counts(part: pd.Series) -> dict[str, int]:
    """Clips of each part."""
    return {str(name): int(n) for name, n in part.value_counts(sort=False).items()}


def spread(part: pd.Series, most: int) -> NDArray[np.intp]:
    """Positions of at most `most` rows of each part, evenly spread over it."""
    rows = [np.flatnonzero(part == name) for name in part.unique()]
    return np.concatenate([its[:: -(-len(its) // most)] for its in rows])


def read_flac(files: Sequence[Path], wanted: Container[int]) -> Iterator[tuple[int, bytes]]:
    """Position among the rows of all files, and encoded audio, of the wanted rows, a row group in memory at a time."""
    position = 0
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(ROWS_A_GROUP, columns=["audio"]):
            for row in batch.column("audio"):
                if position in wanted:
                    yield position, row.as_py()["bytes"]
                position += 1


def tell(heard: dict[str, dict[str, Any]], name: str) -> None:
    """What was heard, on the terminal and on the run's page."""
    content, shortcuts = heard["content"], heard["shortcuts"]
    measured = clips_of(heard["measured"], content["clips"])
    for line in (*describe_content(content), *describe_shortcuts(shortcuts, measured)):
        say(line)
    show_table("content", content["found"], f"Pairs of clips in different parts of {name} that are or may be copies")
    show_table("planted-copies", content["recall"], f"Copies planted in {name} and how many of them were found")
    rows = [{"cue": cue, **scored} for cue, scored in shortcuts.items()]
    show_table("shortcuts", rows, f"How far single cues tell the classes of {name} apart on test")


def facts(columns: pd.DataFrame, record: dict[str, Any], recipe: DatasetRecipe) -> dict[str, Any]:
    """What a reference to splits says of them."""
    groups = columns.groupby(["part", "label"])["group_id"].nunique()
    sizes = columns["part"].value_counts()
    return {
        "clips": {part: int(sizes[part]) for part in recipe.splits.parts},
        "groups": {part: groups.xs(part).to_dict() for part in recipe.splits.parts},
        "verdict": record["verdict"],
        "folds": recipe.splits.folds or 1,
    }


def read_index(clips: Clips) -> pd.DataFrame:
    """All columns of one shard but the audio."""
    return read_columns(clips.path / "clips.parquet")


def read_columns(path: Path) -> pd.DataFrame:
    """All columns of a file of clips but the audio."""
    file = pq.ParquetFile(path)
    return file.read([name for name in file.schema_arrow.names if name != "audio"]).to_pandas()


def gather(shards: Sequence[Clips], path: Path) -> None:
    """One part's shards as one file, read and written a row group at a time."""
    files = [pq.ParquetFile(shard.path / "clips.parquet") for shard in shards]
    with pq.ParquetWriter(path, with_features(files[0].schema_arrow)) as writer:
        for file in files:
            for batch in file.iter_batches(ROWS_A_GROUP):
                writer.write_batch(batch.cast(writer.schema))


def records(found: Audit) -> list[dict[str, Any]]:
    """The audit's rows as plain mappings."""
    return [{str(key): value for key, value in row.items()} for row in found.rows.to_dict("records")]


def describe(found: Audit) -> str:
    """The leaks in one sentence, the pairs named."""
    leaks = found.rows[found.rows["shared"] > 0]
    named = "; ".join(f"{row.check}: {row.shared} shared, e.g. {row.pairs}" for row in leaks.itertuples())
    return f"the parts of this data set share {named}. Deal by a larger unit (supergroup), or remove the copies"


@task(task_run_name="clips dealt at random", **cached(libraries=("numpy", "pyarrow")))
def shuffle_clips(clips: Sequence[Clips], seed: int) -> list[Clips]:
    """The same clips dealt at random within class, every part keeping its size: the protocol that leaks."""
    whole = pa.concat_tables([pq.read_table(reference.path / "clips.parquet") for reference in clips])
    labels, parts = (np.array(whole[name].to_pylist()) for name in ("label", "part"))
    random = np.random.default_rng(seed)
    dealt = parts.copy()
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        dealt[rows] = random.permutation(parts[rows])
    at = whole.column_names.index("part")
    whole = whole.set_column(at, "part", pa.array(dealt.tolist(), pa.string()))
    shuffled = []
    for part in dict.fromkeys(parts.tolist()):
        with draft(Clips) as folder:
            table = whole.filter(pa.array(dealt == part))
            pq.write_table(table, folder / "clips.parquet", row_group_size=ROWS_A_GROUP)
            hours = sum(clip.hours for clip in clips if clip.part == part)
            shuffled.append(Clips.of(folder, part=part, clips=len(table), hours=hours))
    return shuffled


def with_features(schema: pa.Schema) -> pa.Schema:
    """The schema with the features that `datasets` reads from a parquet's own metadata: audio as audio."""
    from datasets import Audio, Features

    features = Features({**Features.from_arrow_schema(schema), "audio": Audio(sampling_rate=16_000)})
    return features.arrow_schema


# --- published by somebody else ----------------------------------------------------------------------------------


@task(
    task_run_name="splits of {published.repo}, pulled and audited",
    **cached(libraries=LIBRARIES),
)
def pull_splits(published: Publication, recipe: DatasetRecipe, classes: tuple[str, str]) -> Splits:
    """The parts of a published data set, to the byte, audited again over audio that was hashed again.

    Raises CheckFailed where parts share something or a clip is not what its row says, ValueError where a file or column is
    missing or the recipe in it is another one.
    """
    source = pull("dataset", published.repo, published.sha)
    files = [f"data/{part}.parquet" for part in recipe.splits.parts]
    with draft(Splits) as folder:
        (folder / "data").mkdir()
        for name in (*files, *EVIDENCE):
            if not (source / name).is_file():
                raise ValueError(
                    f"{published.repo}@{published.sha} holds no {name}: it is no data set that Earshot published"
                )
            shutil.copyfile(source / name, folder / name)
        if DatasetRecipe.model_validate(read_json(folder / "recipe.json")) != recipe:
            raise ValueError(f"{published.repo}@{published.sha} was made by another recipe than the study's `dataset`")
        for part in recipe.splits.parts:
            check_part(folder / "data" / f"{part}.parquet", part, classes)
        columns = pd.concat([read_columns(folder / name) for name in files], ignore_index=True)
        if columns["clip_id"].duplicated().any():
            raise CheckFailed(
                f"clip {columns['clip_id'][columns['clip_id'].duplicated()].iloc[0]!r} stands there twice"
            )
        return Splits.of(folder, **facts(columns, audited(columns, [folder / name for name in files], recipe), recipe))


def check_part(path: Path, part: str, classes: tuple[str, str]) -> None:
    """Raise CheckFailed, naming the clip, unless every row is of this part and these classes and its audio has its hash."""
    file = pq.ParquetFile(path)
    if missing := {"clip_id", "part", "label", "group_id", "pcm_hash", "audio"} - {*file.schema_arrow.names}:
        raise ValueError(f"{path.name} has no column {sorted(missing)[0]}: it is no part that Earshot published")
    for batch in file.iter_batches(ROWS_A_GROUP, columns=["clip_id", "part", "label", "pcm_hash", "audio"]):
        for row in batch.to_pylist():
            if row["part"] != part or row["label"] not in classes:
                raise CheckFailed(
                    f"clip {row['clip_id']!r} of {path.name} is {row['label']!r} of part {row['part']!r}"
                )
            if fault := audio_fault((row["audio"] or {}).get("bytes") or b"", row["pcm_hash"]):
                raise CheckFailed(f"clip {row['clip_id']!r} of {path.name} {fault}")


def audio_fault(flac: bytes, hashed: str) -> str:
    """Why a clip's audio is not taken, as the rest of a sentence; "" where it is what was hashed."""
    try:
        if (claimed := samples_of(flac)) > LONGEST_SAMPLES:  # before room is made for them
            return f"claims {claimed:,} samples, more than any clip has"
        same = pcm_hash(decode_flac(flac)) == hashed
    except ValueError as error:
        return f"cannot be read: {error}"
    return "" if same else "does not have the audio that its row was hashed over"


@task(task_run_name="the published parts are as dealt here")
def check_dealt(sides: Sides, splits: Splits) -> None:
    """Raise CheckFailed where a recording of a published part is dealt to another part by the sources of this machine."""
    dealt = pd.read_parquet(sides.path / "sides.parquet").set_index("recording_id")["part"].to_dict()
    for part in splits.clips:
        named = read_columns(splits.path / "data" / f"{part}.parquet")
        for column in ("recording_id", "noise_id", "room_id"):
            for name in named[column].dropna().unique():
                if dealt.get(name) != part:
                    raise CheckFailed(
                        f"{name} is in the published part {part} and here in {dealt.get(name, 'none')}: the sources of this "
                        "machine are not those of the published data set, so no tiny base can be made for it; give "
                        "`adapter: NAMESPACE/NAME@sha` or another train.base"
                    )
