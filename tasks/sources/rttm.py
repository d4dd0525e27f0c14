"""RTTM files: who speaks when, and the stretches in which one speaker talks alone.

Format: NIST, Rich Transcription Time Marked, section 7 of the RT-09 evaluation plan.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from recipes.sources import TurnsSource
from tasks.sources.files import file_seconds

DIGITS = 6  # of seconds: sums of start and duration differ from the next start by less
EDGE_S = 1.0  # a file may end so much before its last turn


class Turn(NamedTuple):
    """A stretch of speech of one speaker in one recording, in s."""

    uri: str
    start_s: float
    end_s: float
    speaker: str


def read_turns(file: Path) -> list[Turn]:
    """The SPEAKER lines of a file. Raises ValueError naming the line that is none, and where there are no turns."""
    turns = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith(";") or fields[0] != "SPEAKER":
            continue
        try:
            uri, start_s, duration_s, speaker = fields[1], float(fields[3]), float(fields[4]), fields[7]
            if not (0 <= start_s < math.inf and 0 <= duration_s < math.inf):
                raise ValueError
        except (IndexError, ValueError) as error:
            raise ValueError(
                f"{file}, line {number}: {line!r} is no SPEAKER line (SPEAKER uri channel start duration <NA> <NA> name)"
            ) from error
        turns.append(Turn(uri, round(start_s, DIGITS), round(start_s + duration_s, DIGITS), speaker))
    if not turns:
        raise ValueError(f"{file} has no SPEAKER line")
    return turns


def single_speaker(turns: Sequence[Turn]) -> list[Turn]:
    """The stretches of one recording in which exactly one speaker talks, as long as they get, in the order of time.

    Turns of one speaker that overlap or touch are one; what two speakers share belongs to neither.
    """
    edges = sorted(
        edge for turn in turns for edge in ((turn.start_s, 1, turn.speaker), (turn.end_s, -1, turn.speaker))
    )
    uri = next((turn.uri for turn in turns), "")
    talking: Counter[str] = Counter()
    alone: list[Turn] = []
    since = 0.0
    for time, step, speaker in edges:
        if len(talking) == 1 and time > since:
            (only,) = talking
            if alone and alone[-1].end_s == since and alone[-1].speaker == only:
                alone[-1] = alone[-1]._replace(end_s=time)
            else:
                alone.append(Turn(uri, since, time, only))
        talking[speaker] += step
        if not talking[speaker]:
            del talking[speaker]
        since = time
    return alone


def listing(block: TurnsSource, root: Path, rttms: Sequence[Path], audio: Mapping[str, Path]) -> pd.DataFrame:
    """One row per stretch of a single speaker that lasts `min_s`: path, start_s, end_s, uri, speaker.

    `audio` is uri -> file. Raises FileNotFoundError where a recording has no file, ValueError where two RTTM files tell of
    it or its file ends more than a second before its last turn.
    """
    of_uri: dict[str, list[Turn]] = defaultdict(list)
    told_by: dict[str, Path] = {}
    for file in rttms:
        for turn in read_turns(file):
            if told_by.setdefault(turn.uri, file) != file:
                raise ValueError(
                    f"source {block.kind}: {told_by[turn.uri]} and {file} both tell of {turn.uri}; point root at one set"
                )
            of_uri[turn.uri].append(turn)
    if missing := sorted(set(of_uri) - set(audio)):
        raise FileNotFoundError(
            f"source {block.kind}: {len(missing)} of {len(of_uri)} recordings of the RTTM files have no audio under {root}, "
            f"first {missing[0]}; files there: {', '.join(sorted(audio)[:12]) or 'none'}"
        )
    rows = [
        (audio[uri].relative_to(root).as_posix(), *stretch)
        for uri in sorted(of_uri)
        for stretch in _within(single_speaker(of_uri[uri]), audio[uri])
    ]
    table = pd.DataFrame(rows, columns=["path", "uri", "start_s", "end_s", "speaker"])
    return table[table["end_s"] - table["start_s"] >= block.min_s].reset_index(drop=True)


def _within(stretches: Sequence[Turn], file: Path) -> list[Turn]:
    """The stretches, ended where the file ends. Raises ValueError where it ends long before they do."""
    seconds = file_seconds(file)
    if stretches and stretches[-1].end_s > seconds + EDGE_S:
        raise ValueError(
            f"{file} is {seconds:g} s long and its RTTM goes on to {stretches[-1].end_s:g} s: they do not belong together"
        )
    ended = (turn._replace(end_s=min(turn.end_s, seconds)) for turn in stretches)
    return [turn for turn in ended if turn.end_s > turn.start_s]
