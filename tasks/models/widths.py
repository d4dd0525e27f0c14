"""The widths of a base, read from its configuration with or without transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.functional.memory import Size

TEXT = (
    "hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "decoder_sparse_step", "mlp_only_layers",
    "num_experts", "moe_intermediate_size", "num_experts_per_tok",
)  # fmt: skip
AUDIO = ("d_model", "encoder_layers", "hidden_size", "num_hidden_layers")  # as Whisper calls them, or as others do
WIDTHS = (*(name for name in TEXT if name != "mlp_only_layers"), *AUDIO)
WIDEST = 10_000_000


def size_of(config: Any) -> Size:
    """The widths of a model, or of the thinker of a whole Omni, by its configuration as transformers has read it."""
    config = getattr(config, "thinker_config", config)
    parts = ((config.text_config, TEXT), (config.audio_config, AUDIO))
    text, audio = ({name: getattr(its, name) for name in names if hasattr(its, name)} for its, names in parts)
    return _sized(text, audio)


def widths_in(config: Path) -> Size | None:
    """The widths that a config.json names; None where it leaves one of them to transformers' own defaults, or names what is
    no width: whoever wrote it may be anybody."""
    its = json.loads(config.read_text(encoding="utf-8"))
    try:
        its = its.get("thinker_config", its)
        parts = (its["text_config"], its["audio_config"])
        named = [part[name] for part in parts for name in WIDTHS if part.get(name) is not None]
        if not all(type(width) is int and 0 <= width <= WIDEST for width in named):
            return None
        return _sized(*parts)
    except (KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None


def _sized(text: Mapping[str, Any], audio: Mapping[str, Any]) -> Size:
    """Raises KeyError where a width is not named."""
    width, layers = ("d_model", "encoder_layers") if "d_model" in audio else ("hidden_size", "num_hidden_layers")
    dense = Size(
        text["hidden_size"], text["num_hidden_layers"], text["intermediate_size"], text["vocab_size"], audio[width],
        audio[layers],
    )  # fmt: skip
    every = text.get("decoder_sparse_step", 1)  # transformers' own default
    routed = {layer for layer in range(dense.layers) if (layer + 1) % every == 0} - {*text.get("mlp_only_layers", ())}
    if not routed or not text.get("num_experts"):
        return dense
    return dense._replace(
        expert_layers=len(routed), expert_intermediate=text["moe_intermediate_size"], experts=text["num_experts"],
        experts_asked=text["num_experts_per_tok"],
    )  # fmt: skip
