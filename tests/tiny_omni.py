"""Tiny Omnis of the real classes with random weights, and saved as the Hub holds the real ones: for tests alone."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from tasks.models import qwen2_5_omni, qwen3_omni, tiny
from tasks.models.families import QWEN2_5_OMNI, QWEN3_OMNI, Facts
from tasks.models.thinkers import hearing_processor

WIDTH = 96
EXTRA = (
    "image_token",
    "audio_token",
    "video_token",
    "vision_bos_token",
    "vision_eos_token",
    "audio_bos_token",
    "audio_eos_token",
)
# As the real ones, their images and videos left out.
TURN = (
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'audio' or 'audio_url' in content %}"
    "AUDIO{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = (
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
)


class Omni(NamedTuple):
    """A family as these tests need it."""

    module: ModuleType
    facts: Facts
    named: tuple[str, ...]  # what its tokenizer calls `EXTRA`
    template: str
    config: Callable[[Any], Any]
    wrapped: dict[str, Any]  # what a whole one says of itself around its thinker
    unread: dict[str, torch.Tensor]  # what a whole one holds beside it
    chunk_length: dict[str, int]  # seconds that its preprocessor_config.json names, if it does


def make_processor(omni: "Omni", padded_s: int = 40) -> Any:
    """The real processor class, ears only, over a small vocabulary, which pads to less than 300 s and more than 30."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny.make_processor().tokenizer.backend_tokenizer, eos_token="<|im_end|>",
        pad_token="<|endoftext|>", extra_special_tokens=dict(zip(EXTRA, omni.named, strict=True)), padding_side="left",
    )  # fmt: skip
    extractor = transformers.WhisperFeatureExtractor(
        feature_size=128, sampling_rate=16_000, chunk_length=padded_s, return_attention_mask=True
    )
    hearing: Any = hearing_processor(getattr(transformers, omni.facts.processor_class))
    return hearing(feature_extractor=extractor, tokenizer=tokenizer, chat_template=omni.template)


def text_of(tokenizer: Any) -> dict[str, Any]:
    """Two layers, with grouped keys as the real ones have."""
    return {
        "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
    }  # fmt: skip


AUDIO = {
    "d_model": WIDTH, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 4 * WIDTH,
    "output_dim": WIDTH,
}  # fmt: skip
EYES = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": WIDTH}


def qwen2_5_config(processor: Any) -> Any:
    """Positions along three axes in three sections."""
    tokenizer = processor.tokenizer
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 4, 4]}
    return transformers.Qwen2_5OmniThinkerConfig(
        audio_config={"model_type": "qwen2_5_omni_audio_encoder", **AUDIO},
        vision_config={"model_type": "qwen2_5_omni_vision_encoder", **EYES},
        text_config={
            "model_type": "qwen2_5_omni_text", **text_of(tokenizer), "rope_parameters": rope,
            "tie_word_embeddings": False,
        },
        audio_token_index=tokenizer.audio_token_id, image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        vision_start_token_id=tokenizer.vision_bos_token_id, audio_start_token_id=tokenizer.audio_bos_token_id,
        audio_end_token_id=tokenizer.audio_eos_token_id,
    )  # fmt: skip


def qwen3_config(processor: Any) -> Any:
    """Two of eight experts a token, heads wider than their share, and positions along three axes that interleave."""
    tokenizer = processor.tokenizer
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    return transformers.Qwen3OmniMoeThinkerConfig(
        audio_config={"model_type": "qwen3_omni_moe_audio_encoder", **AUDIO, "downsample_hidden_size": 16},
        vision_config={
            "model_type": "qwen3_omni_moe_vision_encoder", **EYES, "deepstack_visual_indexes": [0],
            "num_position_embeddings": 16,
        },
        text_config={
            "model_type": "qwen3_omni_moe_text", **text_of(tokenizer), "rope_parameters": rope, "head_dim": 32,
            "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": WIDTH // 2,
        },
        audio_token_id=tokenizer.audio_token_id, image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id, audio_start_token_id=tokenizer.audio_bos_token_id,
        audio_end_token_id=tokenizer.audio_eos_token_id, vision_start_token_id=tokenizer.vision_bos_token_id,
    )  # fmt: skip


QWEN2_5 = Omni(
    qwen2_5_omni, QWEN2_5_OMNI,
    ("<|IMAGE|>", "<|AUDIO|>", "<|VIDEO|>", "<|vision_bos|>", "<|vision_eos|>", "<|audio_bos|>", "<|audio_eos|>"),
    "{% for message in messages %}" + SYSTEM + TURN.replace("AUDIO", "<|audio_bos|><|AUDIO|><|audio_eos|>"),
    qwen2_5_config, {"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniModel"]},
    {"talker.head.weight": torch.zeros(2), "token2wav.head.weight": torch.zeros(2)},
    {"chunk_length": 300},
)  # fmt: skip
QWEN3 = Omni(
    qwen3_omni, QWEN3_OMNI,
    ("<|image_pad|>", "<|audio_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|audio_start|>",
     "<|audio_end|>"),
    "{% for message in messages %}" + TURN.replace("AUDIO", "<|audio_start|><|audio_pad|><|audio_end|>"),
    qwen3_config, {"model_type": "qwen3_omni_moe", "architectures": ["Qwen3OmniMoeForConditionalGeneration"]},
    {"talker.head.weight": torch.zeros(2), "code2wav.head.weight": torch.zeros(2)},
    {},
)  # fmt: skip
OMNIS = {omni.facts.name: omni for omni in (QWEN2_5, QWEN3)}


def make_model(omni: Omni, processor: Any, seed: int) -> nn.Module:
    """As transformers makes it, with weights large enough that what is heard reaches the answer."""
    torch.manual_seed(seed)
    model: nn.Module = thinker(omni)(omni.config(processor))
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "visual" not in name:
            fan_in = weight.shape[-1] if weight.ndim == 3 and "experts" in name else weight[0].numel()
            nn.init.normal_(weight, std=fan_in**-0.5)
        elif name.endswith("norm.weight"):
            nn.init.uniform_(weight, 0.5, 1.5)
    nn.init.normal_(model.get_input_embeddings().weight, std=0.3)
    return model.eval()


def thinker(omni: Omni) -> Any:
    """transformers' class."""
    return getattr(transformers, omni.facts.base_class)


def save(omni: Omni, folder: Path) -> Path:
    """The thinker, and the processor, in a folder, as today's transformers saves them."""
    processor = make_processor(omni)
    make_model(omni, processor, seed=3).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


# --- as the Hub holds them ---------------------------------------------------------------------------------------

# Of either preprocessor_config.json; Qwen3-Omni's names no chunk_length, by which alone transformers tells the longest clip.
HEARS = {
    "dither": 0.0, "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128, "hop_length": 160,
    "image_processor_type": "Qwen2VLImageProcessor", "max_pixels": 12_845_056, "merge_size": 2, "min_pixels": 3136,
    "n_fft": 400, "n_samples": 4_800_000, "nb_max_frames": 30_000, "padding_side": "right", "padding_value": 0.0,
    "patch_size": 14, "return_attention_mask": True, "sampling_rate": 16_000, "temporal_patch_size": 2,
}  # fmt: skip
SHARDS = 3


def save_whole(omni: Omni, saved: Path, folder: Path) -> Path:
    """What `save` saved, as a whole Omni of the Hub: files and names of transformers 4, shards, speech, drawn answers."""
    named = dict(zip(EXTRA, omni.named, strict=True))
    extractor = {**HEARS, **omni.chunk_length, "processor_class": omni.facts.processor_class}
    tokenizer = json.loads((saved / "tokenizer.json").read_text())
    files = {
        "config.json": {**omni.wrapped, "enable_audio_output": True, "thinker_config": written_by_4(saved)},
        "preprocessor_config.json": extractor, "chat_template.json": {"chat_template": omni.template},
        "generation_config.json": {"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.05},
        "tokenizer.json": tokenizer, "vocab.json": tokenizer["model"]["vocab"],
        "added_tokens.json": {token["content"]: token["id"] for token in tokenizer["added_tokens"]},
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer", "chat_template": "{{ 'not what hears' }}", "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>", "bos_token": None, "unk_token": None, "model_max_length": 32_768, **named,
            "extra_special_tokens": named, "additional_special_tokens": ["<|im_start|>", "<|im_end|>", *omni.named],
            "added_tokens_decoder": {
                token["id"]: {key: its for key, its in token.items() if key != "id"} for token in tokenizer["added_tokens"]
            },
        },
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    merges = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    save_in_shards(omni, load_file(saved / "model.safetensors"), folder)
    return folder


def written_by_4(saved: Path) -> dict[str, Any]:
    """A thinker's configuration as transformers 4 wrote it."""
    config: dict[str, Any] = json.loads((saved / "config.json").read_text())
    rope = config["text_config"].pop("rope_parameters")
    config["text_config"]["rope_theta"] = rope.pop("rope_theta")
    config["text_config"]["rope_scaling"] = {**rope, "type": rope["rope_type"]}
    config["torch_dtype"] = config.pop("dtype")
    return config


def save_in_shards(omni: Omni, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """A thinker's weights under the names of a whole one, beside what speaks, in files with an index."""
    whole = {f"thinker.{name.removeprefix('thinker.')}": its for name, its in weights.items()} | omni.unread
    shards = {f"model-{k + 1:05}-of-{SHARDS:05}.safetensors": sorted(whole)[k::SHARDS] for k in range(SHARDS)}
    for file, names in shards.items():
        save_file({name: whole[name] for name in names}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, names in shards.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
