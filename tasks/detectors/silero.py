"""Silero's voice activity detector: the mean over a clip's frames of its probability of speech."""

import functools
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.detectors import Labelled
from tasks.detectors.vendor import VendorModel

MODEL = "silero_vad/data/silero_vad_16k_sequence.onnx"  # the streaming model, unrolled over a clip's frames
WINDOW, CONTEXT = 512, 64  # samples of a frame, and of the one before that go in front of it
SHORT = 4_800  # 300 ms
TILED = 10 * WINDOW  # what shorter clips are repeated to: whole frames, 320 ms
STATE = (1, 1, 128)
VENDOR_THRESHOLD = 0.5


@functools.cache
def session() -> Any:
    """The vendor's model, in single-threaded onnxruntime: importing `silero_vad` would set torch's threads.

    Raises FileNotFoundError where the installed package has no such model.
    """
    import onnxruntime  # type: ignore[import-untyped]

    file = Path(str(importlib.metadata.distribution("silero-vad").locate_file(MODEL)))
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: pip install -c constraints.txt -e '.[vad]' brings its release")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def lengthened(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """A clip under 300 ms repeated to 320 ms, others as they are."""
    return np.resize(samples, TILED) if len(samples) < SHORT else samples


def frames(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The `lengthened` clip as the model takes it, (n, 576): frames of 32 ms, each after the last 4 ms before it.

    The last frame of a clip is filled up with zeros.
    """
    long = lengthened(samples)
    whole = np.pad(long, (0, -len(long) % WINDOW))
    led = np.concatenate([np.zeros(CONTEXT, np.float32), whole], dtype=np.float32)
    return np.lib.stride_tricks.sliding_window_view(led, CONTEXT + WINDOW)[::WINDOW]


def frame_probabilities(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probability of speech in each of the clip's frames, (n,), from a fresh state."""
    fresh = np.zeros(STATE, np.float32)
    (found,) = session().run(["speech_probs"], {"input": frames(samples), "h": fresh, "c": fresh})
    return np.ravel(found)


def mean_probability(samples: NDArray[np.float32]) -> np.float64:
    """Mean of the clip's frame probabilities."""
    return frame_probabilities(samples).mean(dtype=np.float64)


class Silero(VendorModel):
    """P(first class) is the mean frame probability, decided at Youden's threshold on dev."""

    def afresh(self, clip: NDArray[np.float32]) -> float:
        """The mean probability by the model itself."""
        return float(mean_probability(clip))


class SileroDefault(Silero):
    """The same probabilities decided at the vendor's threshold. Only answers are handed on: P is that of `silero`."""

    threshold = VENDOR_THRESHOLD
    only_decides = True

    def fit(self, train: Labelled, dev: Labelled) -> None:
        """Nothing is chosen."""
