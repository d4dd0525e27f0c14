"""Bases of real size with random weights on one GPU, what they compute, and what the GPU reaches: for the GPU benches."""

from typing import Any

import numpy as np
import torch
from torch import nn

from tests import tiny_omni

AUDIO = {
    "model_type": "qwen2_audio_encoder", "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120, "num_mel_bins": 128, "max_source_positions": 1500,
}  # fmt: skip
TEXT = {
    "model_type": "qwen2", "vocab_size": 156_032, "hidden_size": 4096, "intermediate_size": 11_008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip
OMNI_TEXTS = {
    "Qwen2.5-Omni": {  # 7B
        "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "Qwen3-Omni": {  # 30B-A3B
        "vocab_size": 152_064, "hidden_size": 2048, "intermediate_size": 768, "num_hidden_layers": 48,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "moe_intermediate_size": 768,
        "num_experts": 128, "num_experts_per_tok": 8,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True,
        },
    },
}  # fmt: skip


def make_omni_config(omni: tiny_omni.Omni, processor: Any) -> Any:
    """The configuration of an Omni's thinker; what transformers has by default is the real encoder's."""
    config = omni.config(processor)
    text = OMNI_TEXTS[omni.facts.name]
    own = {name: getattr(config.text_config, name) for name in ("pad_token_id", "eos_token_id")}
    tokens = {name: its for name, its in config.to_dict().items() if name.endswith(("_token_id", "_token_index"))}
    return type(config)(
        audio_config={"model_type": config.audio_config.model_type, "output_dim": text["hidden_size"]},
        vision_config={"model_type": config.vision_config.model_type, "depth": 1},  # nobody looks through it
        text_config={"model_type": config.text_config.model_type, **text, **own}, **tokens,
    )  # fmt: skip


def make_omni(omni: tiny_omni.Omni, processor: Any, device: str, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """An Omni's thinker with random weights."""
    return random_weights(tiny_omni.thinker(omni), make_omni_config(omni, processor), device, dtype)


def make_config(processor: Any) -> Any:
    """The configuration of Qwen2-Audio-7B; the processor's own few tokens lie within its vocabulary."""
    from transformers import Qwen2AudioConfig

    tokenizer = processor.tokenizer
    text = {
        **TEXT,
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    audio_id = tokenizer.convert_tokens_to_ids(processor.audio_token)
    return Qwen2AudioConfig(audio_config=AUDIO, text_config=text, audio_token_index=audio_id)


def make_model(processor: Any, device: str) -> nn.Module:
    """Qwen2-Audio-7B in bf16 with random weights."""
    from transformers import Qwen2AudioForConditionalGeneration

    return random_weights(Qwen2AudioForConditionalGeneration, make_config(processor), device)


def random_weights(whole: Any, config: Any, device: str, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """A model of a class, made on the device."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            made: nn.Module = whole(config).eval()
            return made
    finally:
        torch.set_default_dtype(torch.float32)


def quantise(model: nn.Module, *, everything: bool = False) -> nn.Module:
    """Linear layers in NF4, in place, as bitsandbytes does while loading: those of the language model, or `everything`
    but the head, with the original project's settings (constants quantised too, products in float16)."""
    import bitsandbytes as bnb

    settings = {"quant_type": "nf4", "compress_statistics": everything}
    compute = torch.float16 if everything else torch.bfloat16
    for parent in list((model.model if everything else model.model.language_model).modules()):
        for name, linear in list(parent.named_children()):
            if isinstance(linear, nn.Linear):
                four = bnb.nn.Linear4bit(
                    linear.in_features, linear.out_features, bias=linear.bias is not None, compute_dtype=compute,
                    device="meta", **settings,
                )  # fmt: skip
                weight = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, **settings)
                four.weight, four.bias = weight.to(linear.weight.device), linear.bias
                setattr(parent, name, four)
    torch.cuda.empty_cache()
    return model


def measured_peak() -> tuple[float, float]:
    """FLOP/s of a bf16 matrix product of 8192 x 8192 x 8192, and bytes/s of a copy, read and written: both medians."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    big = torch.empty(2_000_000_000, device="cuda", dtype=torch.int8)
    target = torch.empty_like(big)
    return 2 * 8192**3 / median_seconds(lambda: a @ b), 2 * big.nbytes / median_seconds(lambda: target.copy_(big))


def median_seconds(work: Any, repeats: int = 20) -> float:
    """By CUDA events, after three calls to warm up."""
    for _ in range(3):
        work()
    events = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(repeats)]
    for begin, end in events:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return float(np.median([begin.elapsed_time(end) for begin, end in events])) / 1000


def language_flop(new: int, before: int) -> float:
    """Operations of the language model for one clip's `new` tokens behind `before` others, and of the head."""
    width, inner, layers = TEXT["hidden_size"], TEXT["intermediate_size"], TEXT["num_hidden_layers"]
    token = 2 * (4 * width**2 + 3 * width * inner)
    keys = sum(range(before + 1, before + new + 1))
    whole = new * token + 4 * width * keys
    last = 2 * new * 2 * width**2 + (token - 4 * width**2) + 4 * width * (before + new)
    return (layers - 1) * whole + last + 2 * width * TEXT["vocab_size"]


def encoder_flop(frames: int) -> float:
    """Operations of the encoder and the projector for one clip of so many mel frames."""
    width, inner = AUDIO["d_model"], AUDIO["encoder_ffn_dim"]
    places = frames // 2
    layer = places * 2 * (4 * width**2 + 2 * width * inner) + 4 * width * places**2
    convolutions = 2 * 3 * (frames * AUDIO["num_mel_bins"] * width + places * width**2)
    return AUDIO["encoder_layers"] * layer + convolutions + 2 * (places // 2) * width * TEXT["hidden_size"]
