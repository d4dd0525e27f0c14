"""Hygiene: recordings that are not what their class says, found by a voice activity detector before anything is mixed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recipes.data import HygieneBlock
from recipes.schema import CheckFailed
from tasks import detectors
from tasks.audio_files import decode_flac
from tasks.cache import cached, task
from tasks.detectors import silero, webrtc
from tasks.functional.audio import activity, n_samples, normalise
from tasks.functional.hygiene import count_kept, judge, speech_share
from tasks.run_page import say, show_table
from tasks.store import Hygiene, Recordings, SpeechShares, draft, write_json

ROWS_A_BATCH = 64
COLUMNS = ["recording_id", "role", "label", "group_id", "supergroup_id", "category", "duration_s"]
DROPPED = [*COLUMNS[:2], "class", *COLUMNS[3:], "speech_share", "rule"]
SHOWN = 200  # rows of a table on the page of a run


@task(
    task_run_name="speech in {recordings.source}, by {detector}",
    **cached(libraries=("numpy", "soundfile", "pandas", "pyarrow", *detectors.installed())),
)
def measure_speech(
    recordings: Recordings, detector: str, mode: int | None = None, frame_ms: int | None = None
) -> SpeechShares:
    """The share of speech in each recording of a source; `mode` and `frame_ms` are WebRTC's."""
    rows: list[dict[str, Any]] = []
    file = pq.ParquetFile(recordings.path / "recordings.parquet")
    for batch in file.iter_batches(ROWS_A_BATCH, columns=[*COLUMNS, "flac"]):
        for row in batch.to_pylist():
            share = share_of_speech(decode_flac(row.pop("flac")), detector, mode, frame_ms)
            rows.append({**row, "speech_share": share})
    with draft(SpeechShares) as folder:
        table = pd.DataFrame(rows, columns=[*COLUMNS, "speech_share"])
        table.to_parquet(folder / "shares.parquet", index=False)
        return SpeechShares.of(folder, detector=detector, recordings=len(rows))


def share_of_speech(
    samples: NDArray[np.float32], detector: str, mode: int | None = None, frame_ms: int | None = None
) -> float:
    """Share of a recording's audible part that is speech, heard at the level that its clips will have.

    Silero: its frames of 32 ms count from the vendor's threshold on. Their mean probability would count a little doubt
    over a whole recording as so many seconds of speech. WebRTC: the frames that it calls voiced; it goes by the level, and
    at that of a clip it calls most sounds voiced, so all it can check, with `most_nonspeech: 1`, is the first class.
    """
    loud = normalise(samples).astype(np.float32)
    if detector == "silero":
        is_speech = silero.frame_probabilities(loud) >= silero.VENDOR_THRESHOLD
        return speech_share(is_speech, silero.WINDOW, activity(silero.lengthened(loud)))
    assert mode is not None, "HygieneBlock saw to it"
    assert frame_ms is not None, "HygieneBlock saw to it"
    frame = n_samples(frame_ms)
    whole = np.pad(loud, (0, -len(loud) % frame))
    is_voiced = webrtc.voiced_frames(whole, webrtc.Setting(mode, frame_ms, gain_db=0))
    return speech_share(is_voiced, frame, activity(loud))


@task(task_run_name="label hygiene by {block.detector}", **cached(libraries=("numpy", "pandas", "pyarrow")))
def judge_labels(shares: Sequence[SpeechShares], block: HygieneBlock, classes: tuple[str, str]) -> Hygiene:
    """Which recordings are dropped, and by which measure. Raises CheckFailed where a class or the noise would be empty."""
    measured = pd.concat([pd.read_parquet(its.path / "shares.parquet") for its in shares], ignore_index=True)
    judged = judge(measured, classes, least_first=block.least_speech, most_others=block.most_nonspeech)
    counts = count_kept(judged)
    dropped = judged.loc[~judged["kept"], DROPPED].fillna({"category": ""})
    dropped = dropped.sort_values(["class", "speech_share", "recording_id"])
    show_table("hygiene", records(counts), f"Label hygiene by {described(block)}")
    show_table("hygiene-dropped", records(dropped.head(SHOWN)), f"Dropped: {len(dropped)}, at most {SHOWN} shown here")
    for name, _, n, gone, groups, left in counts.itertuples(index=False):
        say(f"hygiene: dropped {gone} of {n} {name}; {left} of {groups} groups are left")
    if len(empty := counts[counts["groups_left"] == 0]):
        raise CheckFailed(refusal(empty, judged, block))
    with draft(Hygiene) as folder:
        dropped.to_csv(folder / "hygiene.csv", index=False, float_format="%.6g")
        write_json(folder / "hygiene.json", {"detector": described(block), "counts": records(counts)})
        of_class = counts.set_index("class")
        return Hygiene.of(folder, recordings=of_class["recordings"].to_dict(), dropped=of_class["dropped"].to_dict())


def described(block: HygieneBlock) -> str:
    """The detector with its settings."""
    if block.detector == "silero":
        return f"Silero, frames of probability {silero.VENDOR_THRESHOLD:g} and more"
    return f"WebRTC, mode {block.mode}, frames of {block.frame_ms} ms"


def refusal(empty: pd.DataFrame, judged: pd.DataFrame, block: HygieneBlock) -> str:
    """What would be empty, with the counts, the shares that were measured and the ways out."""
    said = []
    for name, rule in empty[["class", "rule"]].itertuples(index=False):
        shares = judged.loc[judged["class"] == name, "speech_share"]
        said.append(
            f"{name}, all {len(shares)} recordings ({rule} of the audible part is to be speech; measured were "
            f"{shares.min():.3f} to {shares.max():.3f}, {shares.median():.3f} in the middle)"
        )
    return (
        f"label hygiene by {described(block)} would drop {'; '.join(said)}. Listen to some of them, then change "
        "dataset.hygiene.least_speech or most_nonspeech, take the other detector, or set dataset.hygiene=null"
    )


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain mappings."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
