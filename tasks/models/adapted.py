"""A base with what was trained of it: an adapter, whole, or weights of its own."""

import re
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from tasks.models.jobs import FULL_WEIGHTS

# Names that transformers 4 gave the parts of Qwen2-Audio, and those of today: without them an adapter of that time would
# load by half, with a warning.
RENAMED = {
    r"^language_model\.model\.": "model.language_model.",
    r"^audio_tower\.": "model.audio_tower.",
    r"^multi_modal_projector\.": "model.multi_modal_projector.",
}
WRAPPED = "base_model.model."


def with_adapter(model: nn.Module, folder: str | Path) -> nn.Module:
    """The base with an adapter's layers in it, or with the weights that were trained without one.

    Raises ValueError where a tensor is missing or unknown: it was made for another base or another transformers.
    """
    if (weights := Path(folder, FULL_WEIGHTS)).is_file():
        return with_weights(model, weights)
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    try:
        wrapped = PeftModel.from_pretrained(model, str(folder), key_mapping=RENAMED)
    except RuntimeError as error:  # its weights have other shapes
        mismatch = str(error).splitlines()[1].strip() if "size mismatch" in str(error) else str(error)
        raise ValueError(f"the adapter does not fit this base: it was made for another base; {mismatch}") from error
    stored = {name_now(name) for name in load_peft_weights(str(folder), device="cpu")}
    expected = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))  # as they would be saved
    if stored != expected:
        raise ValueError(
            f"the adapter does not fit this base: {len(expected - stored)} of its {len(expected)} tensors are missing "
            f"and {len(stored - expected)} are unknown; it was made for another base or another transformers"
        )
    return wrapped.get_base_model()  # the adapter's layers stay in it


def name_now(name: str) -> str:
    """The name of a tensor of an adapter in today's transformers."""
    inner = name.removeprefix(WRAPPED)
    for before, now in RENAMED.items():
        inner = re.sub(before, now, inner)
    return WRAPPED + inner if name.startswith(WRAPPED) else inner


def with_weights(model: nn.Module, file: Path) -> nn.Module:
    """The base with those of its weights replaced that were trained."""
    trained, known = load_file(file), dict(model.named_parameters())
    for name, value in trained.items():
        if name not in known or known[name].shape != value.shape:
            raise ValueError(f"{file.name} holds {name!a} {list(value.shape)}, which is no part of this base")
        known[name].data.copy_(value)
    return model
