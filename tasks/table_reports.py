"""Reports on anybody's predictions: tables read and checked, a report written whole or not at all."""

import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.audio_files import decode_flac
from tasks.functional.audio import SAMPLE_RATE_HZ
from tasks.functional.predictions import choose_detector, validate_predictions, with_dev
from tasks.functional.report import Report, build_report, names_beside
from tasks.functional.report_files import Heard, clips_to_hear, report_files
from tasks.functional.report_tables import summary_lines
from tasks.functional.spectrograms import spectrogram_png
from tasks.functional.timing import Timing, timings
from tasks.hub import locate
from tasks.pace import Paced, to_stderr
from tasks.point_metrics import point_metrics
from tasks.store import need_place, read_json, sha256, write_folder

TEMPLATE = Path(__file__).resolve().parent.parent / "hub_cards" / "report.html.j2"
OURS = {"report.json", "report.schema.json", "report.html", "timing.json", "figures", "tables"}
IDS = ("clip_id", "group_id", "supergroup_id", "base_clip_id", "label", "prediction", "detector", "prompt", "method")
NUMBERS = ("p_speech", "duration_ms", "snr_db", "rt60_s", "latency_ms", "seed", "fold")
NOTHING = ("", "None", "nan", "NaN", "NA", "<NA>", "null")  # how a number or an answer that is not there is written
LIBRARIES = ("numpy", "pandas", "scipy", "scikit-learn", "statsmodels", "evaluate", "matplotlib")


class Asked(NamedTuple):
    """What a report on tables is to be made of, and how."""

    predictions: Path
    against: Sequence[Path]
    dev: Path | None
    audio: str | None  # a data set whose clips the page plays: a folder, or NAMESPACE/NAME[@sha] of the home's hub
    detector: str | None
    by: Sequence[str]
    classes: tuple[str, str]
    n_boot: int
    seed: int


def report_on_tables(asked: Asked, out: Path) -> list[str]:
    """Write the report into the folder `out` and return its summary, line by line.

    `out` is new, empty, or holds nothing but a report of an earlier call, which is replaced. Until everything is
    written nothing is there. Raises ValueError where `out` holds anything else, a table cannot be read or trusted
    (`build_report`), or the data set has none of the clips; FileNotFoundError where a file is missing.
    """
    need_place(out, "report", OURS, is_report)
    tables = read_tables(asked)
    times = times_of(asked, tables)
    document = document_of(asked, tables)
    to_stderr("report computed, drawing it")
    heard = hear(document, asked.audio) if asked.audio else {}
    write_folder(report_files(document, TEMPLATE.read_text(encoding="utf-8"), heard, times), out)
    return [*summary_lines(document), "", f"report     {out / 'report.html'}"]


class Tables(NamedTuple):
    """The validated tables of a report, and the detector it is on."""

    detector: str
    own: pd.DataFrame
    others: dict[str, pd.DataFrame]


def read_tables(asked: Asked) -> Tables:
    """Every table that was named. Raises ValueError or FileNotFoundError naming the file that cannot serve."""
    own = read_table(asked.predictions, asked.classes)
    own["detector"] = own["detector"].replace("", asked.predictions.stem)
    try:
        detector = choose_detector(own, asked.detector)
    except ValueError as error:
        raise ValueError(f"{asked.predictions}: {error}") from error
    if asked.dev:
        dev = only_dev(read_table(asked.dev, asked.classes), asked.dev)
        own = with_dev(own, dev, detector)
    return Tables(detector, own, {name: read_table(path, asked.classes) for name, path in named(asked).items()})


def document_of(asked: Asked, tables: Tables) -> Report:
    """The report's content."""
    beside = f", {len(tables.others)} beside it" if tables.others else ""
    rows = f"{asked.predictions}: {len(tables.own):,} rows"
    to_stderr(f"{rows}, reporting on {tables.detector}{beside}, {asked.n_boot:,} resamples")
    return build_report(
        tables.own, classes=asked.classes, detector=tables.detector, seed=None,
        threshold="dev" if asked.dev else "fixed", n_boot=asked.n_boot, bootstrap_seed=asked.seed, by=asked.by,
        against=tables.others, recorded={"provenance": provenance(asked)}, point_metrics=point_metrics, say=Paced(),
    )  # fmt: skip


def times_of(asked: Asked, tables: Tables) -> dict[str, Timing]:
    """Timing of the report's detectors, under its names for them, from the tables that have latency_ms.

    Raises ValueError naming the file where a latency is none.
    """
    own = timed(asked.predictions, tables.own)
    names = names_beside(set(tables.own.loc[tables.own["split"] == "test", "detector"]), tables.others)
    others = {
        names[source, detector]: one
        for source, path in named(asked).items()
        for detector, one in timed(path, tables.others[source].replace({"detector": {"": source}})).items()
    }
    return own | others


def timed(path: Path, table: pd.DataFrame) -> dict[str, Timing]:
    """Timing of a table's detectors. Raises ValueError naming the file."""
    try:
        return timings(table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


# --- tables in ---------------------------------------------------------------------------------------------------


def read_table(path: Path, classes: Sequence[str]) -> pd.DataFrame:
    """A validated predictions table from parquet or csv. Raises ValueError or FileNotFoundError naming the file."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if not path.is_file():
        raise ValueError(f"{path} is no file: give the predictions table itself")
    try:
        given = _from_csv(path) if is_csv(path) else pq.ParquetFile(path).read().to_pandas()
    except (OSError, pa.ArrowInvalid, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        kind = "csv" if is_csv(path) else "parquet"
        raise ValueError(f"{path} is not readable as {kind}: {error}") from error
    try:
        return validate_predictions(_with_index(given), classes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def is_csv(path: Path) -> bool:
    """Whether a table is read as csv; all others are parquet."""
    return path.suffix.lower() == ".csv"


def _from_csv(path: Path) -> pd.DataFrame:
    """The table with its ids as they are written: a voice may be called NA, null or None."""
    columns = pd.read_csv(path, nrows=0).columns
    missing = {name: list(NOTHING if name in (*NUMBERS, "prediction") else NOTHING[:1]) for name in columns}
    return pd.read_csv(path, dtype=dict.fromkeys(IDS, object), keep_default_na=False, na_values=missing)


def _with_index(given: pd.DataFrame) -> pd.DataFrame:
    """The table with a named index, such as clip_id, as columns."""
    named = [name for name in given.index.names if name is not None and name not in given]
    return given.reset_index(level=named) if named else given


def only_dev(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The dev rows of a table given as such. A table without a split column was read as test and is taken whole."""
    columns = pd.read_csv(path, nrows=0).columns if is_csv(path) else pq.read_schema(path).names
    if "split" not in columns:
        return table.assign(split="dev")
    if not (table["split"] == "dev").any():
        raise ValueError(f"{path}: every row is of split 'test', and nothing is fitted on test: give the dev rows")
    return table[table["split"] == "dev"]


def named(asked: Asked) -> dict[str, Path]:
    """The other tables by their file's name, by their path as well where two files have the same.

    Raises ValueError where one is given twice.
    """
    stems = [path.stem for path in (asked.predictions, *asked.against)]
    names = [path.stem if stems.count(path.stem) == 1 else str(path) for path in asked.against]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"--against names {min(twice)} twice")
    return dict(zip(names, asked.against, strict=True))


def provenance(asked: Asked) -> dict[str, Any]:
    """Which bytes the report was made from, and how."""
    files = [asked.predictions, *asked.against, *([asked.dev] if asked.dev else [])]
    return {
        "tables": {str(path): sha256(path) for path in files},
        "settings": {"classes": list(asked.classes), "n_boot": asked.n_boot, "bootstrap_seed": asked.seed},
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


# --- clips to hear -----------------------------------------------------------------------------------------------


def hear(document: Report, name: str) -> dict[str, Heard]:
    """Audio and spectrogram of the wrongly answered clips, as far as the data set has them.

    Raises FileNotFoundError where there is no data set, ValueError where it has none of the clips or other audio.
    """
    file = Path(name).expanduser()
    files = [file] if file.is_file() else sorted(locate(name)[0].rglob("*.parquet"))
    if not (wanted := clips_to_hear(document)):
        return {}
    flac = {clip: content for file in files for clip, content in read_audio(file, set(wanted))}
    if not flac:
        raise ValueError(
            f"{name}: none of the {len(wanted)} clips to hear, e.g. {wanted[0]!r}, is in its {len(files)} parquet files "
            "with the columns clip_id and audio: give the data set that was scored"
        )
    return {clip: Heard(flac[clip], picture(clip, flac[clip])) for clip in wanted if clip in flac}


def read_audio(file: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """Id and encoded audio of the wanted clips of one file; of none where it lacks the columns.

    Raises ValueError where it is no parquet file, or one of the clips has no encoded audio.
    """
    try:
        names = pq.read_schema(file).names
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is not readable as parquet: {error}") from error
    if not {"clip_id", "audio"} <= set(names):
        return
    for batch in pq.ParquetFile(file).iter_batches(256, columns=["clip_id", "audio"]):
        for at, clip in enumerate(map(str, batch.column("clip_id").to_pylist())):
            if clip in wanted:
                audio = batch.column("audio")[at].as_py()
                if not isinstance(audio, dict) or not audio.get("bytes"):
                    raise ValueError(f"{file}: clip {clip!r} has no encoded audio: the column must hold FLAC bytes")
                yield clip, audio["bytes"]


def picture(clip: str, flac: bytes) -> bytes:
    """The spectrogram of one clip. Raises ValueError naming it where it is no 16 kHz mono FLAC."""
    try:
        return spectrogram_png(decode_flac(flac), SAMPLE_RATE_HZ)
    except ValueError as error:
        raise ValueError(f"clip {clip!r}: {error}") from error


# --- the folder out ----------------------------------------------------------------------------------------------


def is_report(folder: Path) -> bool:
    """Whether a folder holds a report's document."""
    try:
        content = read_json(folder / "report.json")
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"schema", "detector", "metrics"} <= content.keys()
