"""Qwen3-Omni: its thinker alone, whose layers hold experts, all or some; its encoder over a whole batch at once."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.models import thinkers
from tasks.models.experts import refuse_quantised_experts
from tasks.models.frames import CHUNK, CHUNK_TOKENS, CHUNKED, STRIDE
from tasks.models.thinkers import adjust as adjust
from tasks.models.widths import size_of as size_of

PARTS = {"encoder": "model.audio_tower", "projector": "model.audio_tower.proj2"}  # to the width of the text
UNQUANTISED = ("model.audio_tower", "lm_head")
FIXED = ()
NARROWEST = 2 * STRIDE  # frames; on a CPU the last convolution makes no number in bf16 of what is 2 wide


def load_processor(base: str | Path, *, revision: str | None) -> Any:
    """Its own processor, ears only."""
    from transformers import Qwen3OmniMoeProcessor

    return thinkers.load_processor(Qwen3OmniMoeProcessor, base, revision)


def load(base: str | Path, *, revision: str | None, quantization: Any, dtype: torch.dtype, device: str) -> nn.Module:
    """transformers' own thinker. Raises ValueError where experts are to be quantised, and where its encoder has chunks of
    another length than `tasks.models.frames` counts tokens for, or windows
    of less than one."""
    from transformers import Qwen3OmniMoeThinkerConfig, Qwen3OmniMoeThinkerForConditionalGeneration

    config = Qwen3OmniMoeThinkerConfig.from_pretrained(base, revision=revision)
    refuse_quantised_experts(size_of(config), quantization, str(base))
    audio = config.audio_config
    if audio.n_window * 2 != CHUNK or audio.n_window_infer < CHUNK:
        raise ValueError(
            f"{base}: its encoder hears chunks of {2 * audio.n_window} frames in windows of {audio.n_window_infer}, and "
            f"tasks/models/frames.py counts audio tokens for chunks of {CHUNK}, of which a window holds at least one"
        )
    config.vision_config.deepstack_visual_indexes = []
    return thinkers.load_thinker(
        Qwen3OmniMoeThinkerForConditionalGeneration, config, base, revision=revision,
        quantization=quantization, dtype=dtype, device=device,
    )  # fmt: skip


def encode(model: nn.Module, features: torch.Tensor, mask: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The encoder's own steps over chunks of 1 s, which meet in windows of 8 s; a shorter batch is one chunk long.

    transformers makes a chunk as long as the longest of its batch, so that there the last token of a clip under 1 s, and
    through attention all of them, depend on its neighbours. Here every clip is heard as transformers hears it alone: up to
    1 s its convolutions end where it ends, beyond that the last chunk is as long as the others.
    """
    tower = model.model.audio_tower
    n, bins, frames = features.shape
    length = min(max(frames, NARROWEST), CHUNK)
    features = (features.to(tower.device) * mask.to(tower.device)[:, None]).to(tower.conv2d1.weight.dtype)
    features = nn.functional.pad(features, (0, -frames % length))
    chunks = features.view(n, bins, -1, length).transpose(1, 2).flatten(0, 1)
    frames_heard = mask.sum(-1)
    ends = frames_heard.clamp(max=length).repeat_interleave(len(chunks) // n).to(tower.device)
    parts = zip(chunks.split(tower.conv_chunksize), ends.split(tower.conv_chunksize), strict=True)
    hidden = torch.cat([convolved(tower, part[:, None], end) for part, end in parts])
    positions = tower.positional_embedding.positional_embedding[: hidden.shape[1]]
    rows = (hidden + positions.to(hidden.dtype)).view(n, -1, hidden.shape[-1])
    window = min(rows.shape[1], tower.n_window_infer // CHUNK * CHUNK_TOKENS)
    places = CHUNKED.tokens_of(frames)
    windows = nn.functional.pad(rows, (0, 0, 0, -rows.shape[1] % window)).view(-1, window, rows.shape[-1])
    starts = torch.arange(len(windows) // n, device=mask.device) * window
    lengths = (CHUNKED.tokens_of(frames_heard[:, None]) - starts).clamp(0, window).flatten()
    rows = thinkers.through_layers(tower, windows, lengths).view(n, -1, rows.shape[-1])[:, :places]
    tokens = tower.ln_post(rows.flatten(0, 1).index_select(0, kept.to(tower.device)))
    return tower.proj2(tower.act(tower.proj1(tokens)))


def convolved(tower: nn.Module, chunks: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """(chunks, tokens, width) of features (chunks, 1, bins, frames), each chunk with nothing behind its first `ends`
    (chunks,) frames at any stage, as where a convolution pads it there."""
    for convolution in (tower.conv2d1, tower.conv2d2, tower.conv2d3):
        chunks, ends = nn.functional.gelu(convolution(chunks)), (ends + 1) // 2
        inside = torch.arange(chunks.shape[-1], device=ends.device) < ends[:, None]
        chunks = chunks * inside[:, None, None]
    made: torch.Tensor = tower.conv_out(chunks.permute(0, 3, 1, 2).flatten(2))
    return made
