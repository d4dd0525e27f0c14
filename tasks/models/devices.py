"""What a model runs on, and what makes its numbers the same everywhere."""

from typing import Any

import torch
from torch import nn

CPU_THREADS = 2  # sums over threads differ in the last bit: the same number everywhere gives the same weights


def pick_device(wish: str, threads: int | None = None) -> str:
    """The device to use; on a CPU with that many threads. Raises ValueError where CUDA is asked for and absent."""
    if wish == "cuda" and not torch.cuda.is_available():
        raise ValueError("the recipe asks for `device: cuda` and this machine has no CUDA GPU; see `earshot doctor`")
    device = "cuda" if wish == "cuda" or (wish == "auto" and torch.cuda.is_available()) else "cpu"
    if device == "cpu":
        torch.set_num_threads(threads or CPU_THREADS)
    return device


def dtype_on(device: str) -> torch.dtype:
    """In which a model is asked there."""
    return torch.bfloat16 if device == "cuda" else torch.float32


def allow_memory(gigabytes: float) -> None:
    """Let this process use no more than so many GB of its GPU. Raises ValueError where the card has less."""
    total = torch.cuda.mem_get_info()[1] / 1e9
    if gigabytes > total:
        raise ValueError(f"train.memory_gb: {gigabytes:g} GB are more than the {total:.1f} GB of this GPU")
    torch.cuda.set_per_process_memory_fraction(gigabytes / total)


def with_dtype(quantization: dict[str, Any] | None, dtype: torch.dtype) -> dict[str, Any] | None:
    """The quantization block with its compute dtype following the model unless the recipe names one."""
    if not quantization:
        return None
    return {"bnb_4bit_compute_dtype": str(dtype).removeprefix("torch."), **quantization}


def alike_on_every_cpu(model: nn.Module) -> nn.Module:
    """The model with 4-bit layers that answer by the weights they were trained with.

    On a CPU with AVX512-BF16 bitsandbytes would pack them anew for inference: another rounding, and an error where the
    width of a layer is no multiple of its blocks, as in the tiny base.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model
