"""A base as transformers loads it, all of its weights read: transformers itself makes up, with a line in its log, what is
missing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

NAMED = 5  # of the weights that are missing
AGAIN = "Download it whole (`hf download`), or name another base"


def load_whole(
    model_class: Any,
    base: str | Path,
    *,
    revision: str | None,
    quantization: Any,
    dtype: torch.dtype,
    device: str,
    unused: Sequence[str] = (),
    **keywords: Any,
) -> nn.Module:
    """transformers' model of a class, from safetensors and without remote code.

    `unused`: how names begin of what is taken out of the model, and may be missing. Raises ValueError where anything else
    is, or has another shape than the model's.
    """
    try:
        loaded, found = model_class.from_pretrained(
            base, revision=revision, quantization_config=quantization, dtype=dtype, device_map={"": device},
            use_safetensors=True, trust_remote_code=False, ignore_mismatched_sizes=True, output_loading_info=True,
            **keywords,
        )  # fmt: skip
    except RuntimeError as error:
        if "conversion of the weights" not in str(error):
            raise
        raise ValueError(
            f"train.base: {base} lacks one of its experts, or holds it in another shape. {AGAIN}"
        ) from error
    missing = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    refuse_missing(sorted(name for name in missing if not name.startswith(tuple(unused))), str(base))
    model: nn.Module = loaded
    return model


def refuse_missing(missing: Sequence[str], base: str) -> None:
    """Raise ValueError where a base lacks weights of these names."""
    if missing:
        named = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
        raise ValueError(
            f"train.base: {base} lacks {len(missing)} weights of its model, or holds them in another shape, and they would "
            f"be random: {named}. {AGAIN}"
        )
