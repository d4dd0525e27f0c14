"""A tiny Qwen2.5-Omni of the real classes with random weights, saved as the Hub holds the real one: for tests alone."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.models import tiny
from tasks.models.qwen2_5_omni import hearing_processor

NAMED = {
    "image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>", "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}  # fmt: skip
# As Qwen2.5-Omni's own, its images and videos left out.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'audio' or 'audio_url' in content %}"
    "<|audio_bos|><|AUDIO|><|audio_eos|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WIDTH = 96


def make_processor(padded_s: int = 40) -> Any:
    """The real processor class, ears only, over a small vocabulary; the real one pads audio to 300 s."""
    from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny.make_processor().tokenizer.backend_tokenizer, eos_token="<|im_end|>",
        pad_token="<|endoftext|>", extra_special_tokens=NAMED, padding_side="left",
    )  # fmt: skip
    extractor = WhisperFeatureExtractor(
        feature_size=128, sampling_rate=16_000, chunk_length=padded_s, return_attention_mask=True
    )
    return hearing_processor()(feature_extractor=extractor, tokenizer=tokenizer, chat_template=TEMPLATE)


def make_config(processor: Any) -> Any:
    """Two layers of everything, grouped keys as the real one has, and three axes of positions."""
    from transformers import Qwen2_5OmniThinkerConfig

    tokenizer = processor.tokenizer
    return Qwen2_5OmniThinkerConfig(
        audio_config={
            "model_type": "qwen2_5_omni_audio_encoder", "d_model": WIDTH, "encoder_layers": 2,
            "encoder_attention_heads": 4, "encoder_ffn_dim": 4 * WIDTH, "output_dim": WIDTH,
        },
        vision_config={
            "model_type": "qwen2_5_omni_vision_encoder", "depth": 1, "hidden_size": 32, "num_heads": 2,
            "intermediate_size": 32, "out_hidden_size": WIDTH,
        },
        text_config={
            "model_type": "qwen2_5_omni_text", "vocab_size": len(tokenizer), "hidden_size": WIDTH,
            "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 2048, "pad_token_id": tokenizer.pad_token_id, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 4, 4]},
            "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        },
        audio_token_index=tokenizer.audio_token_id, image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        vision_start_token_id=tokenizer.vision_bos_token_id, audio_start_token_id=tokenizer.audio_bos_token_id,
        audio_end_token_id=tokenizer.audio_eos_token_id,
    )  # fmt: skip


def make_model(processor: Any, seed: int) -> nn.Module:
    """As transformers makes it, with weights large enough that what is heard reaches the answer."""
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    torch.manual_seed(seed)
    model = Qwen2_5OmniThinkerForConditionalGeneration(make_config(processor))
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    nn.init.normal_(model.get_input_embeddings().weight, std=0.3)
    return model.eval()


def save(folder: Path) -> Path:
    """The thinker, and the processor, in a folder."""
    processor = make_processor()
    make_model(processor, seed=3).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
