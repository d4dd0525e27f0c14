"""Qwen2.5-Omni: its thinker alone, which hears and writes, without eyes; its encoder over a whole batch at once."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.models import thinkers
from tasks.models.thinkers import adjust as adjust
from tasks.models.widths import size_of as size_of

PARTS = {"encoder": "model.audio_tower", "projector": "model.audio_tower.proj"}
UNQUANTISED = ("model.audio_tower", "lm_head")
FIXED = ("audio_bos_eos_token.weight",)  # shipped, and used by nobody


def load_processor(base: str | Path, *, revision: str | None) -> Any:
    """Its own processor, ears only."""
    from transformers import Qwen2_5OmniProcessor

    return thinkers.load_processor(Qwen2_5OmniProcessor, base, revision)


def load(base: str | Path, *, revision: str | None, quantization: Any, dtype: torch.dtype, device: str) -> nn.Module:
    """transformers' own thinker."""
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    return thinkers.load_thinker(
        Qwen2_5OmniThinkerForConditionalGeneration, Qwen2_5OmniThinkerConfig.from_pretrained(base, revision=revision),
        base, revision=revision, quantization=quantization, dtype=dtype, device=device,
    )  # fmt: skip


def encode(model: nn.Module, features: torch.Tensor, mask: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The encoder's own steps over chunks of 2 s, which hear nothing of each other; a shorter batch is one chunk long."""
    tower = model.model.audio_tower
    n, bins, frames = features.shape
    length = min(frames, 2 * tower.n_window)
    behind = -frames % length
    mask = nn.functional.pad(mask, (0, behind)).view(-1, length)
    features = nn.functional.pad(features.to(tower.device, tower.conv1.weight.dtype), (0, behind))
    chunks = features.view(n, bins, -1, length).transpose(1, 2).flatten(0, 1)
    valid = mask.to(tower.device, chunks.dtype)[:, None]
    hidden = nn.functional.gelu(tower.conv1(chunks * valid)) * valid
    hidden = nn.functional.gelu(tower.conv2(hidden)).transpose(1, 2)
    positions = tower.positional_embedding.positional_embedding[: hidden.shape[1]]
    hidden = thinkers.through_layers(tower, hidden + positions.to(hidden.dtype), (mask.sum(-1) - 1) // 2 + 1)
    rows = hidden.view(n, -1, hidden.shape[-1])[:, : 2 * (frames // 4)]
    pooled = (rows[:, ::2] + rows[:, 1::2]) / 2
    return tower.proj(tower.ln_post(pooled.flatten(0, 1).index_select(0, kept.to(tower.device))))
