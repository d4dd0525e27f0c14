"""Experts are stacked in parameters: what quantises linear layers leaves them as they are."""

from typing import Any

from tasks.functional.memory import Asked, Size, loading_bytes


def refuse_quantised_experts(size: Size, quantization: dict[str, Any] | None, base: str) -> None:
    """Raise ValueError where a base of experts is to be quantised: bitsandbytes takes linear layers, and experts are
    stacked in parameters."""
    if size.expert_layers and quantization is not None:
        share = 1 - size.linear_weights / size.layer_weights
        whole = loading_bytes(size, Asked(16, with_encoder=False, checkpointing=True))
        raise ValueError(
            f"quantization: {share:.0%} of the weights in the layers of {base} are experts, stacked in parameters that "
            "bitsandbytes leaves as they are: 4 or 8 bits would save next to nothing and round the rest; set "
            f"train.quantization=none, for a GPU that holds its {whole / 1e9:.0f} GB in bf16"
        )
