"""Scores on disk as they come, batch by batch: what a killed evaluation has asked is not asked again."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tasks.models.encoder_cache import clip_key
from tasks.store import home, make_home

Rows = list[NDArray[Any]]  # for every question (clips, k): `narrowed` logits, or the tokens that were said


def folder() -> Path:
    """Where score logs lie."""
    return home() / "store" / "scores"


def log_name(**asked: Any) -> str:
    """32 hex digits for all that decides a score beside the clip: model, adapter, prompt, method and what they run on."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


class Line(NamedTuple):
    """One batch of a log: its clips by their keys, in their order, and what was answered to them."""

    clips: tuple[str, ...]
    rows: Rows


class ScoreLog:
    """What one model answered to the same questions in one way, a line a batch, only added to.

    A line opens with the digest of the rest: one that a kill cut short, or that was altered, counts as none.
    """

    def __init__(self, name: str) -> None:
        self.path = folder() / f"{name}.jsonl"
        self._batches: dict[tuple[str, ...], Line] = {}
        self._place: dict[str, tuple[Line, int]] = {}
        if self.path.exists():
            for text in self.path.read_bytes().split(b"\n"):
                if (line := parsed(text)) is not None:
                    self._note(line)

    @classmethod
    def of(cls, model: Mapping[str, Any], asked: Iterable[Any], method: str) -> Self:
        """The log of a model, told by what decides its numbers, asked these questions in this way."""
        questions = [[*map(list, question.prompt[:2]), question.ids] for question in asked]
        return cls(log_name(model=dict(model), questions=questions, method=method))

    def __len__(self) -> int:
        """Clips that are known."""
        return len(self._place)

    def batch(self, clips: Sequence[bytes]) -> Rows | None:
        """What was answered to these very clips in one batch: to the bit what asking them again would give."""
        line = self._batches.get(tuple(map(clip_key, clips)))
        return line.rows if line else None

    def clip(self, clip: bytes) -> Rows | None:
        """What was answered to a clip, whatever was beside it in its batch."""
        if (found := self._place.get(clip_key(clip))) is None:
            return None
        line, at = found
        return [rows[at : at + 1] for rows in line.rows]

    def add(self, clips: Sequence[bytes], rows: Rows) -> None:
        """Keep a batch: in the file when this returns, whatever then becomes of this process."""
        line = Line(tuple(map(clip_key, clips)), rows)
        make_home()
        folder().mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as log:
            log.write(b"\n" * cut_short(self.path) + written(line))
        self._note(line)

    def _note(self, line: Line) -> None:
        self._batches[line.clips] = line
        self._place |= {clip: (line, at) for at, clip in enumerate(line.clips)}


def written(line: Line) -> bytes:
    """A line as it lies in the file. Raises ValueError for a number that is not finite."""
    rows = [{"dtype": str(its.dtype), "values": its.tolist()} for its in line.rows]
    text = json.dumps({"clips": line.clips, "rows": rows}, allow_nan=False).encode()
    return digest(text) + b" " + text + b"\n"


def parsed(text: bytes) -> Line | None:
    """A line of the file; None where it is not whole."""
    told, _, content = text.partition(b" ")
    if not content or told != digest(content):
        return None
    found = json.loads(content)
    return Line(tuple(found["clips"]), [np.array(its["values"], dtype=its["dtype"]) for its in found["rows"]])


def digest(text: bytes) -> bytes:
    """Sixteen hex digits."""
    return hashlib.sha256(text).hexdigest()[:16].encode()


def cut_short(path: Path) -> bool:
    """Whether the last line has no end: what a kill left of it must not swallow the next one."""
    with path.open("rb") as file:
        return file.seek(0, os.SEEK_END) > 0 and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
