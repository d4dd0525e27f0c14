"""Anything that gives P(first class) for clips: one file a detector, behind `fit` (optional) and `score`.

README.md beside this file shows one of your own, whole.
"""

import abc
import importlib
import importlib.metadata
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.detectors.weights import Weights as Weights
from tasks.functional.predictions import FIXED_THRESHOLD

Waveforms = Iterable[NDArray[np.float32]]  # mono, 16 kHz, each of its own length; gone through once
Scores = NDArray[np.float64]


class Labelled(NamedTuple):
    """Clips of one side, decoded as they are gone through, and (n,) whether each is of the first class."""

    clips: Waveforms
    is_first: NDArray[np.bool_]


class Detector(abc.ABC):
    """Gives P(first class); answers the first class where P >= threshold."""

    threshold: float = FIXED_THRESHOLD
    only_decides: bool = False  # hand on answers without P, so that no report moves the threshold
    chosen: str = ""  # what `fit` settled, for the page of the run

    def fit(self, train: Labelled, dev: Labelled) -> None:  # noqa: B027 - optional
        """Learn from train and choose on dev. Test clips are never seen here."""

    @abc.abstractmethod
    def score(self, clips: Waveforms) -> Scores:
        """(n,) probabilities of the first class, in the order of the clips."""

    def afresh(self, clip: NDArray[np.float32]) -> float:
        """P of one clip that is worked out whatever is known already: what the clock is held to."""
        return float(self.score([clip])[0])


class Entry(NamedTuple):
    """Where a detector lies, and what must be installed for it beyond Earshot's own dependencies."""

    module: str  # in this package
    name: str
    extra: str = ""
    libraries: tuple[str, ...] = ()  # distributions of the extra


# Loaded by name, so that a detector nobody asked for costs no import.
BASELINES = {
    "majority": Entry("majority", "Majority"),
    "loudness": Entry("loudness", "Loudness"),
    "six_cues": Entry("six_cues", "SixCues"),
    "mel_statistics": Entry("mel_statistics", "MelStatistics"),
    "webrtc": Entry("webrtc", "WebRTC", "vad", ("webrtcvad-wheels",)),
    "silero": Entry("silero", "Silero", "vad", ("silero-vad", "onnxruntime")),
    "silero_default": Entry("silero", "SileroDefault", "vad", ("silero-vad", "onnxruntime")),
    "pyannote": Entry("pyannote", "PyAnnote", "pyannote", ("pyannote-audio",)),
    "whisper": Entry("whisper", "Whisper"),
    "whisper_transcript": Entry("whisper", "WhisperTranscript"),
}


# Baselines are made in threads, and a library whose modules import each other (scikit-learn) is handed out half made
# where two threads enter it at different places.
_importing = threading.Lock()


def make(name: str, weights: Weights | None = None) -> Detector:
    """A baseline that has yet to be fitted, over its weights where it takes some. Raises ValueError as `demand` does."""
    demand([name])
    entry = BASELINES[name]
    with _importing:
        module = importlib.import_module(f"{__name__}.{entry.module}")
    detector: Detector = getattr(module, entry.name)(*([weights] if weights else []))
    return detector


def demand(
    names: Sequence[str], what: str = "baselines", way_out: str = "leave them out of evaluate.baselines"
) -> None:
    """Raise ValueError, with the install command, where one of these detectors needs an extra that is not installed."""
    lacking = {name: missing for name in names if (missing := set(BASELINES[name].libraries) - set(installed()))}
    if lacking:
        extras = ",".join(sorted({BASELINES[name].extra for name in lacking}))
        raise ValueError(
            f"{what} {', '.join(lacking)}: {', '.join(sorted(set().union(*lacking.values())))} not installed; "
            f"pip install -c constraints.txt -e '.[{extras}]', or {way_out}"
        )


def installed() -> Iterator[str]:
    """Those libraries of the extras that are installed."""
    for library in sorted({library for entry in BASELINES.values() for library in entry.libraries}):
        try:
            importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
        yield library
