"""Answers: what a published adapter says of anybody's audio.

from tasks.answers import predict

table = predict("earshot/demo-adapter", ["clip.wav", "folder"])
"""

import io
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from numpy.typing import NDArray
from prefect.cache_policies import NO_CACHE

from tasks import run_page
from tasks.audio_files import encode_flac, is_silent, read_clip, stretches
from tasks.audio_inputs import Input, expand
from tasks.cache import code_digest, task
from tasks.functional.audio import SAMPLE_RATE_HZ, embed, n_samples, normalise, ramp
from tasks.functional.calibration import soften
from tasks.functional.segments import rttm_lines, segments, window_starts
from tasks.models.frames import Rate
from tasks.models.jobs import ScoringJob
from tasks.published_adapters import LONGEST_MS, Published, base_of, find_adapter
from tasks.run_page import HOOKS
from tasks.store import make_home

CHILD = "tasks.detectors.audio_llm"
STRETCH_S = 300.0  # of a long recording in memory
ROWS_A_GROUP = 256
ABRUPT = 0.02  # of the peak: an edge that is louder has not faded
SAME_LEVEL = 2.0**-15  # one step of 16 bits
SPEECH = "SPEECH"  # as a recipe calls the class that silence is none of
COLUMNS = ("path", "start_s", "end_s", "label", "p_speech", "p_raw", "duration_ms", "warnings", "error")
SCHEMA = pa.schema({"clip_id": pa.string(), "audio": pa.struct({"bytes": pa.binary(), "path": pa.string()})})


def predict(
    adapter: str,
    audio: Sequence[str | Path],
    *,
    window_ms: float | None = None,
    hop_ms: float | None = None,
    base: str | None = None,
    device: Any = "auto",
    prompt: str | None = None,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> pd.DataFrame:
    """A row a file, or a segment of one with `window_ms`: path, start_s, end_s, label, p_speech, p_raw, duration_ms,
    warnings, error.

    adapter: NAMESPACE/NAME[@sha], or the folder of a published one. audio: files, folders, globs, "-". p_speech is softened
    by the card's temperature where it has one, p_raw is the model's own. A file that is not there, cannot be read, or gives
    the model nothing to hear, has an error instead of a label; the others are answered all the same. Of digital silence, a
    file or a window of one, a model that tells SPEECH is not asked: there is none in it, p_raw is null, and a warning says
    so. Where neither class is SPEECH it is asked, and the warning says that. `base`: another place of the very base the
    adapter is for; `prompt`: another one than the card's, a text or a recipe of one.
    Raises FileNotFoundError or ValueError where nothing can be asked at all.
    """
    published = find_adapter(adapter)
    published = published if prompt is None else published.asking(prompt)
    window, hop = windows_of(window_ms, hop_ms, published.rate)
    make_home()
    with tempfile.TemporaryDirectory(prefix="earshot-predict-") as place:
        inputs = expand(audio, Path(place))
        asked = write_clips(inputs, published, window, hop, Path(place, "clips.parquet"))
        clips = sum(one.clip is not None for one in asked)
        say(f"{counted(len(inputs), 'file')}, {counted(clips, 'clip')} to ask; {told(published)}")
        p_raw = ask(published, asked, Path(place), base, device, say)
    return tabled(asked, p_raw, published, windowed=window is not None)


@task(task_run_name="answers of {adapter}", cache_policy=NO_CACHE, **HOOKS)
def answer_files(adapter: str, root: str, names: Sequence[str], device: str) -> pd.DataFrame:
    """What `predict` gives for files of a folder, named relative to it."""
    table = predict(adapter, [Path(root, name) for name in names], device=device, say=run_page.say)
    return table.assign(path=[Path(path).relative_to(root).as_posix() for path in table["path"]])


def counted(n: int, what: str) -> str:
    """So many of them, in words."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def told(published: Published) -> str:
    """How an answer comes about."""
    softened = "no temperature" if published.temperature is None else f"temperature {published.temperature:.3g}"
    return f"{published.question.classes[0]} where p_raw is {published.threshold:.3g} or more, {softened} on the card"


def windows_of(window_ms: float | None, hop_ms: float | None, rate: Rate) -> tuple[int | None, int]:
    """Window and hop in samples; a hop is half a window unless given. Raises ValueError where they make no sense."""
    if window_ms is None:
        if hop_ms is not None:
            raise ValueError(f"hop_ms {hop_ms:g} without window_ms: give both, or window_ms alone")
        return None, 0
    if not rate.shortest_ms <= window_ms <= LONGEST_MS:
        raise ValueError(
            f"window_ms {window_ms:g}: the model hears from {rate.shortest_ms:g} ms, one audio token, up to {LONGEST_MS} ms"
        )
    hop_ms = window_ms / 2 if hop_ms is None else hop_ms
    if not 1 <= hop_ms <= window_ms:
        raise ValueError(f"hop_ms {hop_ms:g}: from 1 ms up to window_ms, {window_ms:g}")
    return n_samples(window_ms), n_samples(hop_ms)


# --- the clips ---------------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """A clip that is asked (`clip`: its id), one that need not be, or a file that cannot be (`error`: why); times in samples
    of its file at 16 kHz."""

    name: str
    clip: str | None
    start: int
    end: int
    warnings: tuple[str, ...]
    error: str | None


def write_clips(
    inputs: Sequence[Input], published: Published, window: int | None, hop: int, file: Path
) -> list[Asked]:
    """Every clip prepared as the training clips were, into a parquet as scoring reads it; what is to be asked, in order."""
    asked: list[Asked] = []
    with Clips(file) as clips:
        for one in inputs:
            if one.error:
                asked.append(Asked(one.name, None, 0, 0, (), one.error))
                continue
            try:
                for start, samples in cut(one.file, window, hop):
                    known = is_silent(samples) and p_of_silence(published) is not None
                    clip = None if known else clips.add(prepared(samples, published))
                    warnings = tuple(warnings_of(one.file, samples, published))
                    asked.append(Asked(one.name, clip, start, start + len(samples), warnings, None))
            except ValueError as error:
                asked = [its for its in asked if its.name != one.name]  # a file is answered whole or not at all
                asked.append(Asked(one.name, None, 0, 0, (), reason(error, one.file)))
    return asked


def reason(error: ValueError, file: Path) -> str:
    """Why a file cannot be asked, in one line and without its name, which stands beside it."""
    return " ".join(str(error).removeprefix(f"{file}: ").split())


class Clips:
    """A parquet of clips that is being written, a few hundred at a time."""

    def __init__(self, file: Path) -> None:
        self.writer, self.rows, self.written = pq.ParquetWriter(file, SCHEMA), list[dict[str, Any]](), 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.flush()
        self.writer.close()

    def add(self, samples: NDArray[np.float64]) -> str:
        """The id that a clip gets."""
        name = str(self.written + len(self.rows))
        self.rows.append({"clip_id": name, "audio": {"bytes": encode_flac(samples), "path": f"{name}.flac"}})
        if len(self.rows) == ROWS_A_GROUP:
            self.flush()
        return name

    def flush(self) -> None:
        """Write what has come together."""
        self.writer.write_table(pa.Table.from_pylist(self.rows, schema=SCHEMA))
        self.written += len(self.rows)
        self.rows.clear()


def cut(file: Path, window: int | None, hop: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """First sample and samples of a whole file, or of its windows. Raises ValueError as `read_clip` does."""
    if window is None:
        samples = read_clip(file, silence=True)
        if len(samples) > n_samples(LONGEST_MS):
            raise ValueError(
                f"{file}: is {len(samples) / SAMPLE_RATE_HZ:.1f} s long and the model hears {LONGEST_MS / 1000:g} s at "
                "once; give --window-ms"
            )
        yield 0, samples
        return
    step = max(hop, n_samples(1000 * STRETCH_S) // hop * hop)  # whole hops, so that windows go on over a border
    for first, samples in stretches(file, step, window - hop):
        for start in window_starts(len(samples), window, hop):
            yield first + int(start), samples[start : start + window]


def prepared(samples: NDArray[np.float32], published: Published) -> NDArray[np.float64]:
    """A clip as the training clips were made: edges that fade, silent context where theirs was, and their level.

    What is so already is left as it is, so that a published clip gets its published answer; silence has no level. Raises
    ValueError where the clip gives the model no audio token.
    """
    context = published.context
    total = n_samples(context.total_ms) if context else 0
    clip: NDArray[Any] = samples.astype(np.float64)
    if max(abs(clip[0]), abs(clip[-1])) > ABRUPT * np.abs(clip).max():
        clip = ramp(clip)
    if len(clip) < total:
        clip = embed(clip, total)
    if not published.rate.audio_tokens(len(clip)):
        raise ValueError(
            f"a clip of {1000 * len(samples) / SAMPLE_RATE_HZ:g} ms gives the model no audio token, it would be answered "
            f"unheard: {published.rate.shortest_ms:g} ms are the least"
        )
    if is_silent(samples):
        return clip
    level = np.asarray(normalise(clip, published.normalise_to), dtype=np.float64)
    return clip if np.abs(level - clip).max() < SAME_LEVEL else level


def warnings_of(file: Path, samples: NDArray[np.float32], published: Published) -> Iterator[str]:
    """Where a clip, or what is asked of it, lies outside what the card was measured on; of silence, who answered."""
    if is_silent(samples):
        if p_of_silence(published) is None:
            yield "digital silence: the card was measured on no such clip"
        else:
            yield "digital silence holds no SPEECH: the model was not asked about it"
        return
    if published.warning:
        yield published.warning
    ms = 1000 * len(samples) / SAMPLE_RATE_HZ
    if published.durations_ms and not published.durations_ms[0] <= round(ms, 3) <= published.durations_ms[1]:
        low, high = published.durations_ms
        yield f"{ms:g} ms long, the card was measured on {low:g}" + (f" to {high:g} ms" if high > low else " ms")
    rate = soundfile.info(file).samplerate
    if rate < SAMPLE_RATE_HZ:
        yield f"sampled at {rate} Hz: nothing above {rate / 2000:g} kHz is in it"
    if published.context and published.context.kind == "noise" and ms < published.context.total_ms:
        yield f"the card's clips lay in noise of {published.context.total_ms:g} ms, this one in silence"
    if np.mean(np.abs(samples) >= 1 - 2**-14) > 0.001:
        yield "clipped"


# --- asking ------------------------------------------------------------------------------------------------------


def ask(
    published: Published,
    asked: Sequence[Asked],
    place: Path,
    base: str | None,
    device: Any,
    say: Callable[[str], None],
) -> dict[str, float]:
    """P of the first class as the model says it, by clip, from a child process; asked before is known."""
    if not any(one.clip is not None for one in asked):
        return {}
    at = base_of(published.name, published.base, base)
    (place / "out").mkdir()
    job = ScoringJob(
        base=at.load, revision=at.revision, quantization=published.quantization, question=published.question,
        device=device, output=str(place / "out"), adapter=str(published.folder),
        clips={"test": (str(place / "clips.parquet"),)}, generate_on=(), batch_size=None,
        base_revision=at.public_revision, code=code_digest((CHILD,)), only_answers=True,
        only=tuple(one.clip for one in asked if one.clip is not None),  # not what of a failed file had been written
    )  # fmt: skip

    def on_line(line: str) -> None:
        if line.startswith("test, "):  # how far it has come; the rest is what libraries print
            say(line.removeprefix("test, "))

    job.run(CHILD, what=f"asking {published.name}", on_line=on_line, timeout_min=7 * 24 * 60)
    scores = pd.read_parquet(place / "out" / "scores.parquet")
    return dict(zip(scores["clip_id"], scores["p_speech"].astype(float), strict=True))


def tabled(asked: Sequence[Asked], p_raw: dict[str, float], published: Published, *, windowed: bool) -> pd.DataFrame:
    """What was asked with the answers, as COLUMNS; the windows of a file joined to segments."""
    rows = []
    by_file: dict[str, list[Asked]] = {}
    for one in asked:
        by_file.setdefault(one.name, []).append(one)
    for name, its in by_file.items():
        if its[0].error:
            rows.append({"path": name, "error": its[0].error, "warnings": ""})
        elif windowed:
            rows += segment_rows(its, p_raw, published)
        else:
            (one,) = its
            p = p_of(one, p_raw, published)
            rows.append(answer_row(name, one.start, one.end, p >= published.threshold, p, its, published))
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS)).astype({"error": object, "label": object})
    table.attrs["classes"] = list(published.question.classes)
    return table


def p_of(one: Asked, p_raw: dict[str, float], published: Published) -> float:
    """P of the first class as the model says it, or that of silence of which it was not asked."""
    if one.clip is not None:
        return p_raw[one.clip]
    silence = p_of_silence(published)
    assert silence is not None  # else it would have been asked
    return silence


def p_of_silence(published: Published) -> float | None:
    """P of the first class in digital silence, which holds no SPEECH; None where neither class is SPEECH."""
    classes = published.question.classes
    return float(classes[1] == SPEECH) if SPEECH in classes else None


def segment_rows(windows: Sequence[Asked], p_raw: dict[str, float], published: Published) -> list[dict[str, Any]]:
    """The segments of one file."""
    starts, ends = (np.array([getattr(one, name) for one in windows]) for name in ("start", "end"))
    p = np.array([p_of(one, p_raw, published) for one in windows])
    return [
        answer_row(windows[0].name, its.start, its.end, its.is_first, its.p_first, windows, published)
        for its in segments(starts, ends, p, published.threshold)
    ]


def answer_row(
    name: str, start: int, end: int, is_first: bool, p: float, of: Sequence[Asked], published: Published
) -> dict[str, Any]:
    """One row, with the warnings of the clips it rests on; p_raw is null where the model was asked about none of them."""
    under = [one for one in of if one.start < end and one.end > start]
    warnings = dict.fromkeys(text for one in under for text in one.warnings)
    asked = any(one.clip is not None for one in under)
    softened = float(soften(p, published.temperature)) if asked and published.temperature is not None else p
    return {
        "path": name, "start_s": start / SAMPLE_RATE_HZ, "end_s": end / SAMPLE_RATE_HZ,
        "label": published.question.classes[not is_first], "p_speech": softened, "p_raw": p if asked else np.nan,
        "duration_ms": 1000 * (end - start) / SAMPLE_RATE_HZ, "warnings": "; ".join(warnings), "error": None,
    }  # fmt: skip


# --- written down ------------------------------------------------------------------------------------------------


def written(table: pd.DataFrame, form: str) -> bytes:
    """The answers as a table for a reader, jsonl, csv, parquet or rttm."""
    if form == "parquet":
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        return buffer.getvalue()
    if form == "csv":
        return table.to_csv(index=False).encode()
    lines = {"jsonl": as_lines, "rttm": as_rttm, "table": as_table}[form](table)
    return "".join(f"{line}\n" for line in lines).encode()


def as_lines(table: pd.DataFrame) -> Iterator[str]:
    """A JSON object a row, null where there is nothing."""
    for row in table.to_dict("records"):
        yield json.dumps({name: None if pd.isna(value) else value for name, value in row.items()}, ensure_ascii=False)


def as_rttm(table: pd.DataFrame) -> Iterator[str]:
    """The segments of the first class, a line each. A file goes by its name without the ending, and by its whole path
    where another one has that name: one name would make one recording of both."""
    name = table.attrs["classes"][0]
    stems = {path: Path(str(path)).stem for path in table["path"].unique()}
    several = {stem for stem, n in Counter(stems.values()).items() if n > 1}
    first = table[table["label"] == name]
    for path, its in first.groupby("path", sort=False):
        file = stems[path] if stems[path] not in several else Path(str(path)).as_posix()
        yield from rttm_lines(file, name, list(zip(its["start_s"], its["end_s"], strict=True)))


def as_table(table: pd.DataFrame) -> Iterator[str]:
    """For a terminal: times where a file has segments, and what is to be said of a row in one column."""
    times = ["start_s", "end_s"] if table["path"].duplicated().any() else []
    shown = table[["path", *times, "label", "p_speech", "duration_ms"]].round(
        {"start_s": 3, "end_s": 3, "duration_ms": 1}
    )
    shown["p_speech"] = table["p_speech"].map(lambda p: "" if pd.isna(p) else f"{p:.3f}")
    remarks = table["error"].where(table["error"].notna(), table["warnings"])
    yield from shown.assign(remarks=remarks).astype(object).fillna("").to_string(index=False).splitlines()
