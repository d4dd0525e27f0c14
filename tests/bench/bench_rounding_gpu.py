"""How far bf16 moves P from float32 at real size, by the family: what `--rescore` allows where machines round differently.

    python -m tests.bench.bench_rounding_gpu [--family Qwen2-Audio] [--clips 256]

Each base is asked twice over the same random weights, in bf16 as on a GPU and in float32 as on a CPU: as it is and, where it
has no experts, in NF4. Rounding moves logits in proportion to their size, and a base with random weights is less sure than a
trained adapter. So the difference is told as P would show it at the threshold, where it shows most, if the logit of P spread
over clips as an adapter's does: standard deviations of 2 to 8. float32 on the GPU stands for the CPU's: a GPU test holds the
two together. Clips last from 40 ms to 1 s.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logit
from torch import nn

from tasks.models import family, tiny
from tasks.models.families import family_of
from tasks.models.scoring import Question, questions
from tasks.rescoring import TOLERANCE
from tests import tiny_omni
from tests.bench.real_size import make_model, make_omni, quantise
from tests.bench.scoring_rows import PROMPTS, make_clips, ours

SPREADS = (2, 4, 8)


def main() -> None:
    """Print a line a base and a way of keeping its weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=["Qwen2-Audio", *tiny_omni.OMNIS], default="Qwen2-Audio")
    parser.add_argument("--clips", type=int, default=256)
    given = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}; allowed where one of two rounds: {TOLERANCE['rounded']}", flush=True)
    flacs = make_clips(given.clips, [40, 100, 300, 1000])
    with tempfile.TemporaryDirectory() as home:
        os.environ["EARSHOT_HOME"] = home
        for how, processor, model in bases(given.family):
            asked = questions(processor, PROMPTS[:1], ["A", "B"])
            show(f"{given.family}, {how}", *(logits(model, processor, flacs, asked, dtype) for dtype in DTYPES))


DTYPES = (torch.bfloat16, torch.float32)


def bases(name: str) -> Iterator[tuple[str, Any, nn.Module]]:
    """The base as it is, then in NF4, with its processor."""
    make: Callable[[Any, str], nn.Module] = make_model
    processor = tiny.make_processor()
    if name in tiny_omni.OMNIS:
        omni = tiny_omni.OMNIS[name]
        processor = tiny_omni.make_processor(omni, padded_s=300)
        make = lambda its, device: make_omni(omni, its, device)  # noqa: E731
    yield "as it is", processor, (model := family.prepare(make(processor, "cuda")))
    if family_of(model).size_of(model.config).expert_layers == 0:
        yield "in NF4", processor, quantise(model.to(torch.bfloat16))


def logits(
    model: nn.Module, processor: Any, flacs: Sequence[bytes], asked: Sequence[Question], dtype: torch.dtype
) -> NDArray[np.float64]:
    """logit P of the first answer (clips,), everything that is not in 4 bits computed in `dtype`."""
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = dtype
    return logit(ours(str(dtype), model.to(dtype), processor, flacs, asked).p_first)


def show(name: str, rounded: NDArray[np.float64], exact: NDArray[np.float64]) -> None:
    """How far bf16 moves the logit, and P at the threshold for each spread."""
    moved, spread = np.abs(rounded - exact), exact.std()
    told = ", ".join(f"{np.tanh(moved.max() / spread * sd / 4) / 2:.3f} at {sd}" for sd in SPREADS)
    print(f"{name}: logit of P moved by {moved.max():.4f} at most, {np.sqrt((moved**2).mean()):.4f} rms; its sd over clips "
          f"{spread:.4f}; P at the threshold, by sd: {told}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
