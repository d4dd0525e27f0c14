"""Everything that knows Qwen2-Audio: its prompt, its features, the exact encoder without padding, loading and scope."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tasks.models.frames import HOP, SAMPLE_RATE_HZ, audio_tokens, trimmed_frames

ENCODER = "audio_tower"
UNQUANTISED = ["model.audio_tower", "model.multi_modal_projector", "lm_head"]


class Prompt(NamedTuple):
    """Token ids before and after the audio tokens of one turn."""

    before: list[int]
    after: list[int]
    audio_token: int


def tokenise_prompt(processor: Any, prompt: str) -> Prompt:
    """The chat turn that ends with the assistant's first position. Raises ValueError where the template has no audio."""
    message = {"role": "user", "content": [{"type": "audio", "audio_url": "clip"}, {"type": "text", "text": prompt}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    before, token, after = text.partition(processor.audio_token)
    if not token:
        raise ValueError(f"the chat template of this processor leaves no {processor.audio_token} for the audio")
    encode = functools.partial(processor.tokenizer.encode, add_special_tokens=False)
    return Prompt(encode(before), encode(after), processor.tokenizer.convert_tokens_to_ids(token))


class Clip(NamedTuple):
    """What the model needs of one clip: log-mel features (mel bins, frames) and their valid length."""

    features: torch.Tensor
    frames: int
    tokens: int


def extract(processor: Any, samples: NDArray[np.float32], frames: int) -> Clip:
    """Features of one waveform, padded to `frames` by the extractor itself: bit-identical to the first ones of 3000.

    Raises ValueError for a waveform of no audio token, which the model would answer without hearing it, and for one
    longer than `frames`.
    """
    tokens = audio_tokens(len(samples))
    if tokens == 0:
        raise ValueError(
            f"a clip of {len(samples) / 16:.0f} ms gives the model no audio token and would be answered unheard; "
            "declare a context in the recipe, e.g. clips.context: {kind: noise, total_ms: 200}"
        )
    if trimmed_frames(len(samples)) > frames:
        raise ValueError(
            f"a clip of {len(samples) / 16:.0f} ms is longer than the {frames * 10} ms the model was cut to"
        )
    extracted = processor.feature_extractor(
        samples, sampling_rate=SAMPLE_RATE_HZ, max_length=frames * HOP, padding="max_length", truncation=True,
        return_attention_mask=True, return_tensors="pt",
    )  # fmt: skip
    return Clip(extracted["input_features"][0], int(extracted["attention_mask"].sum()), tokens)


def collate(
    clips: Sequence[Clip], prompt: Prompt, completions: Sequence[Sequence[int]], pad: int
) -> dict[str, torch.Tensor]:
    """A left-padded batch: prompt with each clip's audio tokens, then its completion, so that answers end every row."""
    rows = [
        [*prompt.before, *[prompt.audio_token] * clip.tokens, *prompt.after, *completion]
        for clip, completion in zip(clips, completions, strict=True)
    ]
    width = max(map(len, rows))
    frames = clips[0].features.shape[1]
    valid = torch.arange(frames)[None, :] < torch.tensor([clip.frames for clip in clips])[:, None]
    return {
        "input_ids": torch.tensor([[pad] * (width - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
        "input_features": torch.stack([clip.features for clip in clips]),
        "feature_attention_mask": valid.long(),
    }


def load(
    base: str | Path,
    *,
    revision: str | None,
    frames: int,
    quantization: Mapping[str, Any] | None,
    dtype: torch.dtype,
    device: str,
) -> nn.Module:
    """The model, quantised or not, with the encoder cut to `frames` and audio merged by `merge_audio`."""
    from transformers import BitsAndBytesConfig, Qwen2AudioForConditionalGeneration

    quantised = BitsAndBytesConfig(**quantization, llm_int8_skip_modules=UNQUANTISED) if quantization else None
    model = Qwen2AudioForConditionalGeneration.from_pretrained(
        base, revision=revision, quantization_config=quantised, dtype=dtype, device_map={"": device},
        use_safetensors=True, trust_remote_code=False,
    )  # fmt: skip
    return prepare(model, frames)


def prepare(model: nn.Module, frames: int) -> nn.Module:
    """Cut the encoder's positions to `frames` and let `merge_audio` feed the language model; before any LoRA."""
    cut_encoder(model, frames)
    model.register_forward_pre_hook(merge_audio, with_kwargs=True)
    return model


def cut_encoder(model: nn.Module, frames: int) -> None:
    """Keep the encoder's first `frames`/2 positions, exact by `trimmed_frames`: its own length check then passes.

    Only the adapter is ever saved, and it is the same in both layouts.
    """
    tower = model.get_submodule(f"model.{ENCODER}")
    weight = tower.embed_positions.weight.data[: frames // 2].clone()
    tower.embed_positions = nn.Embedding.from_pretrained(weight, freeze=True)
    tower.config.max_source_positions = frames // 2


def merge_audio(model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Forward pre-hook: put the encoder's vectors in the places of the audio tokens and pass embeddings on.

    transformers does the same inside, except in a batch where every clip gives one token: there it takes a legacy
    path that rebuilds the batch (and fails under bf16 autocast). Doing it here leaves one path for every batch.
    """
    features = keywords.pop("input_features", None)
    mask = keywords.pop("feature_attention_mask", None)
    if features is None or keywords.get("inputs_embeds") is not None:
        return arguments, keywords
    ids = keywords.pop("input_ids")
    vectors = encode(model, features, mask)
    embeddings = model.get_input_embeddings()(ids)
    places = (ids == model.config.audio_token_id).unsqueeze(-1)
    if int(places.sum()) != len(vectors):
        raise ValueError(
            f"{int(places.sum())} audio tokens in the batch, {len(vectors)} audio vectors from the encoder"
        )
    keywords["inputs_embeds"] = embeddings.masked_scatter(places, vectors.to(embeddings.device, embeddings.dtype))
    return arguments, keywords


def encode(model: nn.Module, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Audio vectors (sum of tokens, text width) of a batch of features (n, bins, frames), in the order of the batch."""
    from transformers.masking_utils import create_bidirectional_mask

    inner = model.model
    tower = inner.audio_tower
    features, mask = features.to(tower.device), mask.to(tower.device)
    encoded_lengths, token_lengths = tower._get_feat_extract_output_lengths(mask.sum(-1))
    positions = torch.arange((features.shape[-1] - 2) // 2 + 1, device=tower.device)
    attention = create_bidirectional_mask(
        config=tower.config,
        inputs_embeds=torch.zeros(
            len(features), len(positions), 1, dtype=tower.conv1.weight.dtype, device=tower.device
        ),
        attention_mask=(positions[None, :] < encoded_lengths[:, None]).long(),
    )
    vectors = inner.multi_modal_projector(tower(features, attention_mask=attention).last_hidden_state)
    kept = torch.arange(vectors.shape[1], device=tower.device)[None, :] < token_lengths[:, None]
    return vectors[kept]


def lora_config(lora: Mapping[str, Any], scope: str) -> Any:
    """peft.LoraConfig for a scope: attention of the language model, or of encoder and language model.

    The names q_proj, k_proj, v_proj stand in the encoder too, so leaving it out takes an `exclude_modules`.
    """
    from peft import LoraConfig

    keywords = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], **lora, "task_type": "CAUSAL_LM"}
    if scope == "language_model":
        keywords["exclude_modules"] = rf".*{ENCODER}.*"
    return LoraConfig(**keywords)


def trainable_by_part(model: nn.Module) -> dict[str, int]:
    """Trainable parameters in the encoder, the projector and the language model, and all parameters."""
    parts = {"encoder": 0, "projector": 0, "language_model": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = (
                "encoder" if ENCODER in name else "projector" if "multi_modal_projector" in name else "language_model"
            )
            parts[part] += parameter.numel()
    return {**parts, "trainable": sum(parts.values()), "all": model.num_parameters()}


def last_logits(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Next-token logits (n, vocabulary) of a left-padded batch by one forward; the head sees the last position only."""
    _, keywords = merge_audio(model, (), dict(batch))
    hidden = model.model(**keywords, use_cache=False).last_hidden_state[:, -1]
    return model.lm_head(hidden.to(model.lm_head.weight.dtype)).float()


def generated_logits(
    model: nn.Module, batch: Mapping[str, torch.Tensor], allowed: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens (n,), logits (n, vocabulary)) of one token by constrained generation.

    Logits are those before the constraint. Greedy and free of penalties whatever the shipped generation_config says.
    """
    constraint: Callable[[int, torch.Tensor], list[int]] = lambda row, ids: list(allowed)  # noqa: E731
    out = model.generate(
        **batch, max_new_tokens=1, prefix_allowed_tokens_fn=constraint, do_sample=False, num_beams=1,
        repetition_penalty=1.0, return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    return out.sequences[:, -1], out.logits[0].float()
