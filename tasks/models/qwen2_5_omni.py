"""Qwen2.5-Omni: its thinker alone, which hears and writes, without eyes; its encoder over a whole batch at once."""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.functional.memory import Size

BASE = "Qwen2_5OmniThinkerForConditionalGeneration"
PARTS = {"encoder": "model.audio_tower", "projector": "model.audio_tower.proj"}
UNQUANTISED = ("model.audio_tower", "lm_head")
FIXED = ("audio_bos_eos_token.weight",)  # shipped, and used by nobody
UNREAD = (r"visual\.", r"^talker\.", r"^token2wav\.")
ATTENTION = "earshot_chunks"


def load_processor(base: str | Path, *, revision: str | None) -> Any:
    """Its own processor without the parts for images and video, which would take torchvision."""
    from transformers import AutoTokenizer, Qwen2_5OmniProcessor, WhisperFeatureExtractor

    tokenizer = AutoTokenizer.from_pretrained(base, revision=revision, trust_remote_code=False)
    extractor = WhisperFeatureExtractor.from_pretrained(base, revision=revision)
    settings, _ = Qwen2_5OmniProcessor.get_processor_dict(base, revision=revision)
    template = settings.get("chat_template") or tokenizer.chat_template
    return hearing_processor()(feature_extractor=extractor, tokenizer=tokenizer, chat_template=template)


@functools.cache
def hearing_processor() -> Any:
    """The class of transformers' processor with ears only."""
    from transformers import ProcessorMixin, Qwen2_5OmniProcessor

    class HearingProcessor(Qwen2_5OmniProcessor):
        def __init__(self, feature_extractor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
            ProcessorMixin.__init__(self, feature_extractor, tokenizer, chat_template=chat_template)
            self.audio_token, self.audio_token_id = tokenizer.audio_token, tokenizer.audio_token_id

        @property
        def model_input_names(self) -> list[str]:
            return ["input_ids", "attention_mask", "input_features", "feature_attention_mask"]

    return HearingProcessor


def load(base: str | Path, *, revision: str | None, quantization: Any, dtype: torch.dtype, device: str) -> nn.Module:
    """transformers' own thinker; of a whole Omni, what sees and what speaks is not read, and is not missed."""
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    Qwen2_5OmniThinkerForConditionalGeneration._keys_to_ignore_on_load_unexpected = [*UNREAD]
    config = Qwen2_5OmniThinkerConfig.from_pretrained(base, revision=revision)
    config.vision_config.depth = 0
    return Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
        base, config=config, revision=revision, quantization_config=quantization, dtype=dtype, device_map={"": device},
        use_safetensors=True, trust_remote_code=False,
    )  # fmt: skip


def adjust(model: nn.Module) -> None:
    """No eyes; positions along one axis, as audio and text have them; and attention within chunks in one call.

    transformers keeps, in the model, by how much the last batch's positions were shifted by images, and applies that to
    whatever comes next.
    """
    from transformers import GenerationMixin
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    model.model.visual = None
    model.model.register_forward_pre_hook(along_one_axis, with_kwargs=True)
    along = functools.partial(GenerationMixin._prepare_position_ids_for_generation, model)
    model._prepare_position_ids_for_generation = along
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, within_chunks)
    model.model.audio_tower.config._attn_implementation = ATTENTION


def along_one_axis(
    model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Forward pre-hook: positions by the attention mask where none are given, the first token of every row at 0."""
    mask = keywords.get("attention_mask")
    if keywords.get("position_ids") is None and mask is not None:
        keywords["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return arguments, keywords


def within_chunks(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    heard: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention over chunks that lie one behind the other: (1, heads, chunks * length, width) -> (1, chunks
    * length, heads, width), each position looking at those of its chunk that `heard` (chunks, 1, 1, length) names.

    transformers itself calls attention once for every chunk of every clip, by lengths it asks the device for.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if heard is None:  # its own forward
        return sdpa_attention_forward(module, query, key, value, attention_mask, **others)
    chunks = len(heard)
    apart = (states[0].unflatten(1, (chunks, -1)).transpose(0, 1) for states in (query, key, value))
    found = nn.functional.scaled_dot_product_attention(*apart, attn_mask=heard, scale=others["scaling"])
    return found.transpose(1, 2).flatten(0, 1)[None], None


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
    hidden = (hidden + positions.to(hidden.dtype)).flatten(0, 1)
    lengths = (mask.sum(-1, keepdim=True) - 1) // 2 + 1
    heard = torch.arange(length // 2, device=mask.device) < lengths
    heard = heard | (
        lengths == 0
    )  # of an empty chunk, which nobody asks for, any: a softmax over nothing is no number
    all_at_once = torch.tensor([0, len(hidden)])  # on the host: the layer makes a list of it
    for layer in tower.layers:
        (hidden,) = layer(hidden, cu_seqlens=all_at_once, heard=heard[:, None, None].to(tower.device))
    rows = hidden.view(n, -1, hidden.shape[-1])[:, : 2 * (frames // 4)]
    pooled = (rows[:, ::2] + rows[:, 1::2]) / 2
    return tower.proj(tower.ln_post(pooled.flatten(0, 1).index_select(0, kept.to(tower.device))))


def size_of(config: Any) -> Size:
    """The widths of its thinker from its configuration."""
    config = getattr(config, "thinker_config", config)
    text, audio = config.text_config, config.audio_config
    return Size(
        text.hidden_size, text.num_hidden_layers, text.intermediate_size, text.vocab_size, audio.d_model,
        audio.encoder_layers,
    )  # fmt: skip
