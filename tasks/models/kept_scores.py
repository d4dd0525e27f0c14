"""Log odds of one model by prompt and clip, on disk as they come: a killed search asks nothing twice."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.models.encoder_cache import clip_key
from tasks.store import home, make_home


def folder() -> Path:
    """Where they lie, a file a prompt."""
    return home() / "store" / "scores"


class KeptScores:
    """What one model, told by all that decides its numbers, answered; lines are only added, and one cut short counts as
    none."""

    def __init__(self, **model: Any) -> None:
        self.model = model
        self._known: dict[str, dict[str, float]] = {}

    def key(self, prompt: str, answers: Sequence[str]) -> str:
        """The name of a prompt's file."""
        asked = {"model": self.model, "prompt": prompt, "answers": list(answers), "method": "forward"}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]

    def read(self, key: str, clips: Sequence[bytes]) -> NDArray[np.float64]:
        """(clips,) log odds, NaN where a clip was never asked."""
        known = self._of(key)
        return np.array([known.get(clip_key(clip), np.nan) for clip in clips], dtype=float)

    def write(self, key: str, clips: Sequence[bytes], margins: NDArray[np.float64]) -> None:
        """Keep answers: on disk when this returns. Raises ValueError for one that is no number."""
        if not np.isfinite(margins).all():
            raise ValueError("the model's answers are not finite numbers: it is broken or overflowed")
        new = dict(zip(map(clip_key, clips), margins.tolist(), strict=True))
        text = json.dumps(new).encode()
        make_home()
        folder().mkdir(parents=True, exist_ok=True)
        with (folder() / f"{key}.jsonl").open("ab") as log:
            log.write(b"\n" + digest(text) + b" " + text)  # a line that a kill cut short ends here
            log.flush()
            os.fsync(log.fileno())
        self._of(key).update(new)

    def _of(self, key: str) -> dict[str, float]:
        if key not in self._known:
            path, known = folder() / f"{key}.jsonl", dict[str, float]()
            for line in path.read_bytes().split(b"\n") if path.exists() else ():
                told, _, text = line.partition(b" ")
                if text and told == digest(text):
                    known |= json.loads(text)
            self._known[key] = known
        return self._known[key]


def digest(text: bytes) -> bytes:
    """Sixteen hex digits."""
    return hashlib.sha256(text).hexdigest()[:16].encode()
