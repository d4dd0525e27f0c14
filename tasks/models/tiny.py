"""A tiny Qwen2-Audio with the real processor class: what CPU studies and tests train instead of the 7 B model."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
# Qwen2's own pre-tokenisation, so that "A" and " A" are single tokens as they are there.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [
    "system\nYou are a helpful assistant.", "user\nAudio 1: \n", "assistant\n", "A", " A", "B", " B",
    "Choose one: A) SPEECH (human voice) B) NONSPEECH (music/noise/silence/animals). Answer with A or B ONLY.",
]  # fmt: skip
WIDTH, LAYERS, HEADS, MEL_BINS = 96, 2, 4, 128


def make_processor() -> Any:
    """The real Qwen2AudioProcessor over a 512-token byte-level BPE trained in place, always the same."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2AudioProcessor, WhisperFeatureExtractor

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, initial_alphabet=alphabet, special_tokens=SPECIALS, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 20, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=[SPECIALS[1], *SPECIALS[3:]], padding_side="left",
    )  # fmt: skip
    extractor = WhisperFeatureExtractor(feature_size=MEL_BINS, sampling_rate=16_000)
    return Qwen2AudioProcessor(feature_extractor=extractor, tokenizer=fast)


def make_model(processor: Any, seed: int, features: NDArray[np.float32] | None = None) -> nn.Module:
    """A model of 0.8 M parameters that can learn within a few hundred steps.

    `features` (frames, 128): log-mel frames of training clips, whose mean and standard deviation the first
    convolution is set to undo.
    """
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

    tokenizer = processor.tokenizer
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder", "num_mel_bins": MEL_BINS, "d_model": WIDTH, "encoder_layers": LAYERS,
            "encoder_attention_heads": HEADS, "encoder_ffn_dim": 4 * WIDTH, "max_source_positions": 1500,
        },
        text_config={
            "model_type": "qwen2", "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH,
            "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
            "max_position_embeddings": 2048, "bos_token_id": None, "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"), "tie_word_embeddings": False,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Qwen2AudioForConditionalGeneration(config)
    _scale(model)
    if features is not None:
        _standardise(model.model.audio_tower.conv1, features)
    return model


def _scale(model: nn.Module) -> None:
    """Weights at the scale of their fan-in: with transformers' default .02 a model this small sits at chance."""
    tower = model.model.audio_tower
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
        elif isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    nn.init.normal_(model.get_input_embeddings().weight, std=0.3)
    tower.embed_positions.weight.data = 0.1 * _sinusoids(*tower.embed_positions.weight.shape)


def _sinusoids(length: int, width: int) -> torch.Tensor:
    """Whisper's fixed positions (Radford et al. 2022): (length, width), sines then cosines."""
    rate = torch.exp(-math.log(10_000) / (width // 2 - 1) * torch.arange(width // 2))
    phase = torch.arange(length)[:, None] * rate[None, :]
    return torch.cat([phase.sin(), phase.cos()], dim=1)


def _standardise(conv: nn.Conv1d, features: NDArray[np.float32]) -> None:
    """Fold (x - mean) / sd of every mel bin into the first convolution."""
    mean = torch.from_numpy(features.mean(axis=0)).float()
    deviation = torch.from_numpy(features.std(axis=0)).float().clamp(min=1e-3)
    with torch.no_grad():
        conv.weight /= deviation[None, :, None]
        assert conv.bias is not None
        conv.bias -= (conv.weight * mean[None, :, None]).sum(dim=(1, 2))
