"""PyAnnote's segmentation (Bredin and Laurent 2021, Plaquet and Bredin 2023): the mean probability that anybody speaks."""

import functools
import os
import pickle
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.detectors.vendor import VendorModel
from tasks.detectors.weights import HOLDS, Weights

SHORT, TILED = 4_800, 5_120  # clips under 300 ms are repeated to 320 ms: a frame of its first layers takes 62 ms

_loading = threading.Lock()


@functools.cache
def _load(weights: Weights) -> Any:
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"  # it would report every model that is made
    import torch

    from tasks.models.devices import pick_device

    try:
        from pyannote.audio.core.task import Problem, Resolution, Specifications
        from pyannote.audio.models.segmentation import PyanNet
    except (ImportError, OSError) as error:
        raise ValueError(
            f"baselines pyannote: pyannote-audio is installed and cannot be loaded ({str(error).splitlines()[0]}); its "
            f"torchaudio must be of the same build as torch {torch.__version__}: install that from where torch came from, "
            "e.g. pip install torchaudio --index-url https://download.pytorch.org/whl/cpu, or leave pyannote out of "
            "evaluate.baselines"
        ) from error
    pick_device("cpu")  # as many threads as everywhere
    file = weights.file(HOLDS["pyannote"])
    plain = [Problem, Resolution, Specifications, torch.torch_version.TorchVersion]
    try:
        with torch.serialization.safe_globals(plain):
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        its = checkpoint["pyannote.audio"]
        kind, specifications = its["architecture"]["class"], its["specifications"]
    except (pickle.UnpicklingError, KeyError, TypeError) as error:
        raise ValueError(
            f"evaluate.weights.pyannote: {file} is no checkpoint of PyAnnote that can be read without running what it "
            f"holds: {str(error).splitlines()[0]}"
        ) from error
    if kind != PyanNet.__name__ or specifications.resolution != Resolution.FRAME:
        raise ValueError(f"evaluate.weights.pyannote: {file} holds a {kind}; a PyanNet that segments is needed")
    settings = {name: checkpoint["hyper_parameters"].get(name) for name in ("sincnet", "lstm", "linear")}
    model = PyanNet(**settings)
    model.specifications = specifications
    model.build()
    model.load_state_dict({name: its for name, its in checkpoint["state_dict"].items() if "loss_func" not in name})
    return model.eval()


def load(weights: Weights) -> Any:
    """The network, once in a process. Its checkpoint is a pickle, of which tensors and plain values are read alone.

    Raises ValueError for a checkpoint that holds anything else, or another network.
    """
    with _loading:
        return _load(weights)


def frame_probabilities(weights: Weights, samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probability that at least one speaks in each of the clip's frames, (n,).

    Of a powerset's classes it is what is left beside that of nobody; of independent speakers the likeliest one's.
    """
    import torch
    from pyannote.audio.utils.powerset import Powerset

    model = load(weights)
    long = np.resize(samples, TILED) if len(samples) < SHORT else samples
    with torch.inference_mode():
        scores = model(torch.from_numpy(np.ascontiguousarray(long))[None, None])[0].double()
    its = model.specifications
    if its.powerset:
        nobody = int(Powerset(len(its.classes), its.powerset_max_classes).mapping.sum(1).argmin())
        found = 1 - scores[:, nobody].exp()
    else:
        found = scores.max(1).values
    probabilities: NDArray[np.float64] = found.clamp(0, 1).numpy()
    return probabilities


class PyAnnote(VendorModel):
    """P(first class) is the mean frame probability, decided at Youden's threshold on dev. Runs on the CPU."""

    def __init__(self, weights: Weights) -> None:
        self.weights: Weights = weights

    def afresh(self, clip: NDArray[np.float32]) -> float:
        """The mean probability by the model itself."""
        return float(frame_probabilities(self.weights, clip).mean())
