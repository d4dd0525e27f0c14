"""Where a GPU's time goes, by kind of kernel: for the GPU benches."""

import re
import time
from collections import Counter
from collections.abc import Mapping

import torch

# The first that a kernel's name fits; a flash kernel is also made of cutlass's parts, a cast is also elementwise.
KINDS = {
    "NF4 to bf16": r"dequantize",
    "attention": r"flash|fmha|sdpa|attention",
    "matrix products": r"gemm|gemv|nvjet|xmma|cutlass|cublas|splitk",
    "optimizer": r"multi_tensor|adam|lpnorm",
    "between processes": r"nccl",
    "fused by torch_compile": r"triton",
    "copies and casts": r"memcpy|memset|copy|catarray|index|gather|scatter",
    "norms, activations, dropout, sums": r"norm|elementwise|reduce|dropout|silu|softmax",
}
OTHERS = "others"
ANNOTATIONS = ("Optimizer.", "ProfilerStep")  # stretches that hold kernels which are listed themselves


def kind_of(kernel: str) -> str:
    """What a kernel does, by its name."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, kernel, re.IGNORECASE)), OTHERS)


class Watch:
    """Between `start` and `stop`: seconds of every kernel of this process, and seconds by the clock."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.kernels: Counter[str] = Counter()
        self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])

    def start(self) -> None:
        """Let kernels be counted from now on."""
        torch.cuda.synchronize()
        self.profiler.start()
        self.seconds = -time.perf_counter()

    def stop(self) -> None:
        """Count no more, and add up."""
        torch.cuda.synchronize()
        self.seconds += time.perf_counter()
        self.profiler.stop()
        for event in self.profiler.key_averages():
            if event.self_device_time_total and not event.key.startswith(ANNOTATIONS):
                self.kernels[event.key] += event.self_device_time_total / 1e6


def shares(kernels: Mapping[str, float], seconds: float) -> dict[str, float]:
    """The share of so many seconds by kind, the largest first, and last what the GPU waited. Raises ValueError where no
    kernel ran: it was not watched."""
    if not kernels:
        raise ValueError("no kernel ran while it was watched")
    by_kind: Counter[str] = Counter()
    for name, its in kernels.items():
        by_kind[kind_of(name)] += its / seconds
    return {**dict(by_kind.most_common()), "nothing to do": max(0.0, 1 - sum(by_kind.values()))}


def lines_of(watch: Watch, longest: int = 5) -> list[str]:
    """Shares in one line, then the kernels that take longest, so that a reader sees what was counted as what."""
    found = shares(watch.kernels, watch.seconds)
    first = ", ".join(f"{kind} {share:.1%}" for kind, share in found.items())
    top = sorted(watch.kernels.items(), key=lambda its: -its[1])[:longest]
    return [first, *(f"  {its / watch.seconds:6.1%}  {kind_of(name)}: {name[:100]}" for name, its in top)]
