"""PyAnnote's segmentation (Bredin and Laurent 2021, Plaquet and Bredin 2023): the mean probability that anybody speaks."""

import functools
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.evaluation import TAKES
from tasks.detectors import Labelled
from tasks.detectors.vendor import VendorModel
from tasks.detectors.weights import HOLDS, Weights, folder_of
from tasks.functional.audio import SAMPLE_RATE_HZ
from tasks.functional.calibration import choose_threshold
from tasks.functional.metrics import roc_auc

# What a clip is laid into: as pyannote.audio's own `Inference` does it, silence up to the length that the network was
# trained with; or nothing, but clips under 300 ms to and fro up to 320 ms, as a frame of its first layers takes 62 ms.
SILENCE, MIRRORED = "clips in silence", "clips to and fro"
SHORT, LENGTHENED = 4_800, 5_120  # samples
SETTINGS = ("sincnet", "lstm", "linear")  # of its layers
REFUSED = (pickle.UnpicklingError, RuntimeError, LookupError, TypeError, AttributeError, EOFError, ValueError, OSError)

_loading = threading.Lock()


class Unread:
    """What stands for each object of a checkpoint that is neither a tensor nor a plain value: nothing of it is run."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Whatever it was made of is let go."""

    def __setstate__(self, _: Any) -> None:
        """So is what it held."""

    def __setitem__(self, _: Any, __: Any) -> None:
        """And what it is filled with."""


def read_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint as PyAnnote saves it: a pickle, of which tensors, plain values and what it says of its classes are
    read; whatever else it names (callbacks, settings of the training) is `Unread`.

    Raises ValueError where that cannot be.
    """
    import torch
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    plain = [Problem, Resolution, Specifications, torch.torch_version.TorchVersion]
    known = {f"{its.__module__}.{its.__qualname__}" for its in plain}
    try:
        others = [(Unread, name) for name in get_unsafe_globals_in_checkpoint(file) if name not in known]
        with safe_globals([*plain, *others]):
            found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        its = found["pyannote.audio"]
        _ = its["architecture"]["class"], its["specifications"].resolution, found["state_dict"]
        if not all(isinstance(found["hyper_parameters"].get(name), dict | None) for name in SETTINGS):
            raise TypeError(f"its {', '.join(SETTINGS)} are no plain values")
    except REFUSED as error:
        said = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise ValueError(
            f"evaluate.weights.pyannote: {file} is no checkpoint of PyAnnote that can be read without running what it "
            f"holds ({type(error).__name__}: {said}); name the folder of {TAKES['pyannote']}, whole"
        ) from error
    return found


@functools.cache
def _load(weights: Weights) -> Any:
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"  # it would report every model that is made
    import torch

    from tasks.models.devices import pick_device

    try:
        from pyannote.audio.core.task import Resolution
        from pyannote.audio.models.segmentation import PyanNet
    except (ImportError, OSError) as error:
        raise ValueError(
            f"baselines pyannote: pyannote-audio is installed and cannot be loaded ({str(error).splitlines()[0]}); its "
            f"torchaudio must be of the same build as torch {torch.__version__}: install that from where torch came from, "
            "e.g. pip install --force-reinstall --no-deps torchaudio --index-url https://download.pytorch.org/whl/cpu, or "
            "leave pyannote out of evaluate.baselines"
        ) from error
    pick_device("cpu")  # as many threads as everywhere
    file = folder_of("pyannote", weights) / HOLDS["pyannote"]
    checkpoint = read_checkpoint(file)
    its, settings = checkpoint["pyannote.audio"], checkpoint["hyper_parameters"]
    kind, specifications = its["architecture"]["class"], its["specifications"]
    if kind != PyanNet.__name__ or specifications.resolution != Resolution.FRAME:
        raise ValueError(f"evaluate.weights.pyannote: {file} holds a {kind}; a PyanNet that segments is needed")
    if (rate := settings.get("sample_rate", SAMPLE_RATE_HZ)) != SAMPLE_RATE_HZ:
        raise ValueError(f"evaluate.weights.pyannote: {file} hears {rate} Hz; clips are of {SAMPLE_RATE_HZ} Hz")
    model = PyanNet(**{name: settings.get(name) for name in SETTINGS})
    model.specifications = specifications
    model.build()
    tensors = {name: its for name, its in checkpoint["state_dict"].items() if "loss_func" not in name}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"evaluate.weights.pyannote: the weights in {file} are not those of the network it describes: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    return model.eval()


def load(weights: Weights) -> Any:
    """The network in float32 on the CPU, once in a process.

    Raises ValueError where the library cannot be loaded, and for a checkpoint that is damaged, or of another network.
    """
    with _loading:
        return _load(weights)


def frame_probabilities(weights: Weights, samples: NDArray[np.float32], context: str) -> NDArray[np.float64]:
    """Probability that at least one speaks in each of the clip's frames of 17 ms, (n,).

    Of a powerset's classes it is what is left beside that of nobody; of independent speakers the likeliest one's. In
    silence the frames that touch the clip are kept, as `Inference` keeps them; a clip longer than the network was trained
    with is heard whole.
    """
    import torch
    from pyannote.audio.utils.powerset import Powerset
    from pyannote.core import Segment

    model = load(weights)
    its = model.specifications
    heard = in_silence(samples, int(its.duration * SAMPLE_RATE_HZ)) if context == SILENCE else mirrored(samples)
    with torch.inference_mode():
        scores = model(torch.from_numpy(np.ascontiguousarray(heard))[None, None])[0].double()
    if its.powerset:
        nobody = int(Powerset(len(its.classes), its.powerset_max_classes).mapping.sum(1).argmin())
        found = 1 - scores[:, nobody].exp()
    else:
        found = scores.max(1).values
    probabilities: NDArray[np.float64] = found.clamp(0, 1).numpy()
    if context != SILENCE:
        return probabilities
    touched = model.receptive_field.crop(Segment(0, len(samples) / SAMPLE_RATE_HZ), mode="loose")
    return probabilities[touched[(touched >= 0) & (touched < len(probabilities))]]


def in_silence(samples: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """A clip with zeros after it up to this many samples; a longer one as it is."""
    return np.pad(samples, (0, max(0, length - len(samples))))


def mirrored(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """A clip under 300 ms forth and back up to 320 ms, which has no seams to be heard; others as they are."""
    return np.resize(np.concatenate([samples, samples[::-1]]), LENGTHENED) if len(samples) < SHORT else samples


class PyAnnote(VendorModel):
    """P(first class) is the mean frame probability, in the context of the higher AUC on dev. Runs on the CPU."""

    def __init__(self, weights: Weights, context: str = SILENCE) -> None:
        self.weights: Weights = weights
        self.context = context

    def fit(self, train: Labelled, dev: Labelled) -> None:
        """Choose the context of the higher AUC on dev, its vendor's of equals, then Youden's threshold."""
        ways = [PyAnnote(self.weights, context) for context in (SILENCE, MIRRORED)]
        p = np.array([[way.score([clip])[0] for way in ways] for clip in dev.clips])
        areas = [roc_auc(its, dev.is_first) for its in p.T]
        best = int(np.argmax(areas))
        self.context = ways[best].context
        self.threshold = choose_threshold(p[:, best], dev.is_first).value
        self.chosen = f"{self.context}, threshold {self.threshold:.3f}; AUC {areas[best]:.3f} on dev"

    def afresh(self, clip: NDArray[np.float32]) -> float:
        """The mean probability by the model itself."""
        return float(frame_probabilities(self.weights, clip, self.context).mean())
