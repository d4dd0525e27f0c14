"""What the thinkers of Qwen's Omnis have in common: ears only, positions along one axis, attention over chunks at once."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.models.loading import load_whole

ATTENTION = "earshot_chunks"
EYES = "model.visual."
UNREAD = (r"^model\.visual\.", r"^talker\.", r"^token2wav\.", r"^code2wav\.")


# --- loading -----------------------------------------------------------------------------------------------------


def load_processor(whole: type, base: str | Path, revision: str | None) -> Any:
    """The processor of a `whole` Omni without the parts for images and video, which would take torchvision."""
    from transformers import AutoTokenizer, WhisperFeatureExtractor

    hearing: Any = hearing_processor(whole)
    tokenizer = AutoTokenizer.from_pretrained(base, revision=revision, trust_remote_code=False)
    extractor = WhisperFeatureExtractor.from_pretrained(base, revision=revision)
    settings, _ = hearing.get_processor_dict(base, revision=revision)
    template = settings.get("chat_template") or tokenizer.chat_template
    return hearing(feature_extractor=extractor, tokenizer=tokenizer, chat_template=template)


@functools.cache
def hearing_processor(whole: Any) -> type:
    """The class of transformers' processor with ears only."""
    from transformers import ProcessorMixin

    class HearingProcessor(whole):
        def __init__(self, feature_extractor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
            ProcessorMixin.__init__(self, feature_extractor, tokenizer, chat_template=chat_template)
            self.audio_token, self.audio_token_id = tokenizer.audio_token, tokenizer.audio_token_id

        @property
        def model_input_names(self) -> list[str]:
            return ["input_ids", "attention_mask", "input_features", "feature_attention_mask"]

    return HearingProcessor


def load_thinker(
    thinker: Any,
    config: Any,
    base: str | Path,
    *,
    revision: str | None,
    quantization: Any,
    dtype: torch.dtype,
    device: str,
) -> nn.Module:
    """transformers' own thinker; of a whole Omni, what sees and what speaks is not read, and is not missed.

    Raises ValueError where anything else is missing.
    """
    config.vision_config.depth = 0
    with unread(thinker):
        return load_whole(
            thinker, base, revision=revision, quantization=quantization, dtype=dtype, device=device, unused=[EYES],
            config=config,
        )  # fmt: skip


@contextlib.contextmanager
def unread(thinker: Any) -> Iterator[None]:
    """Inside, transformers lists none of what sees and speaks among the weights it does not expect: there are hundreds."""
    known = thinker._keys_to_ignore_on_load_unexpected
    thinker._keys_to_ignore_on_load_unexpected = [*UNREAD]
    try:
        yield
    finally:
        thinker._keys_to_ignore_on_load_unexpected = known


# --- asking ------------------------------------------------------------------------------------------------------


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


def through_layers(tower: nn.Module, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """What the layers of an encoder make of chunks (chunks, length, width) that hear nothing of each other, the first
    `lengths` (chunks,) positions of each being heard, those behind them being nobody's."""
    chunks, length, _ = hidden.shape
    nobody = lengths == 0  # asks for an empty chunk, where any is heard: a softmax over nothing is no number
    heard = (torch.arange(length, device=lengths.device) < lengths[:, None]) | nobody[:, None]
    heard = heard[:, None, None].to(hidden.device)
    flat = hidden.flatten(0, 1)
    all_at_once = torch.tensor([0, len(flat)])  # on the host: the layer makes a list of it
    for layer in tower.layers:
        (flat,) = layer(flat, cu_seqlens=all_at_once, heard=heard)
    return flat.view(chunks, length, -1)


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
