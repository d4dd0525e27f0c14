"""Qwen2-Audio: how it is loaded, and its encoder without the padding to 30 s."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.models.loading import load_whole
from tasks.models.widths import size_of as size_of

PARTS = {"encoder": "model.audio_tower", "projector": "model.multi_modal_projector"}
UNQUANTISED = ("model.audio_tower", "model.multi_modal_projector", "lm_head")
FIXED = ("embed_positions.weight",)  # sinusoids


def load_processor(base: str | Path, *, revision: str | None) -> Any:
    """Its own processor."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(base, revision=revision, trust_remote_code=False)


def load(base: str | Path, *, revision: str | None, quantization: Any, dtype: torch.dtype, device: str) -> nn.Module:
    """transformers' own model."""
    from transformers import Qwen2AudioForConditionalGeneration

    return load_whole(
        Qwen2AudioForConditionalGeneration,
        base,
        revision=revision,
        quantization=quantization,
        dtype=dtype,
        device=device,
    )


def adjust(model: nn.Module) -> None:
    """Nothing: it takes embeddings as they come."""


def encode(model: nn.Module, features: torch.Tensor, mask: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The encoder's own steps over as many positions as there are: its `forward` would take 3000 frames and no other
    number."""
    tower = model.model.audio_tower
    features = features.to(tower.device, tower.conv1.weight.dtype)
    encoded_lengths = (mask.sum(-1) - 1) // 2 + 1
    hidden = nn.functional.gelu(tower.conv2(nn.functional.gelu(tower.conv1(features)))).permute(0, 2, 1)
    positions = torch.arange(hidden.shape[1], device=mask.device)
    hidden = hidden + tower.embed_positions.weight[: len(positions)]
    heard = (positions[None, :] < encoded_lengths[:, None])[:, None, None, :].to(tower.device)
    for layer in tower.layers:
        hidden = layer(hidden, heard)
    pooled = tower.layer_norm(tower.avg_pooler(hidden.permute(0, 2, 1)).permute(0, 2, 1))
    return model.model.multi_modal_projector(pooled.flatten(0, 1).index_select(0, kept.to(tower.device)))
