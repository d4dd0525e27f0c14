"""The model families there are, and the little that each must say of itself; without torch until a model is used."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tasks.functional.memory import Size

# The `model_type` of a base's config.json, and how people call the family.
NAMES = {
    "qwen2_audio": "Qwen2-Audio",
    "qwen2_5_omni": "Qwen2.5-Omni",
    "qwen2_5_omni_thinker": "Qwen2.5-Omni",  # its thinker saved alone
}


class Family(Protocol):
    """A module of this package that knows one family; tasks/models/README.md shows how to write one.

    Its model holds `model.language_model` with Qwen2's layers (`tasks.models.decoder` goes through them) and `lm_head`,
    and hears Whisper's log-mel features, a token every four frames (`tasks.models.frames`).
    """

    @property
    def BASE(self) -> str:
        """The class of transformers that an adapter is loaded into."""

    @property
    def PARTS(self) -> Mapping[str, str]:
        """Where "encoder" and "projector" lie in the model."""

    @property
    def UNQUANTISED(self) -> Sequence[str]:
        """Modules that stay as they are when the rest is quantised."""

    @property
    def FIXED(self) -> Sequence[str]:
        """Endings of the names of parameters that are never trained."""

    def load_processor(self, base: str | Path, *, revision: str | None) -> Any:
        """The processor: `tokenizer`, `feature_extractor`, `audio_token`, `apply_chat_template`."""

    def load(self, base: str | Path, *, revision: str | None, quantization: Any, dtype: Any, device: str) -> Any:
        """transformers' model, from safetensors and without remote code."""

    def adjust(self, model: Any) -> None:
        """What must be altered in a model before audio that is encoded elsewhere may be merged into its tokens."""

    def encode(self, model: Any, features: Any, mask: Any, kept: Any) -> Any:
        """Audio vectors (sum of tokens, text width) of features (n, bins, frames) that are valid where `mask` (n, frames)
        is 1; `kept` are the places of tokens among all (n * frames // 4) pooled positions."""

    def size_of(self, config: Any) -> Size:
        """The widths of a base from its configuration."""


def family_named(model_type: str) -> Family:
    """The family of a `model_type`. Raises ValueError, naming those there are, where it is none of them."""
    refuse_others(model_type)
    from tasks.models import qwen2_5_omni, qwen2_audio

    families: dict[str, Family] = {"Qwen2-Audio": qwen2_audio, "Qwen2.5-Omni": qwen2_5_omni}
    return families[NAMES[model_type]]


def refuse_others(model_type: str, base: str = "the base") -> None:
    """Raise ValueError for the `model_type` of a family that is not supported."""
    if model_type not in NAMES:
        known = ", ".join(f"{name} ({type_})" for type_, name in NAMES.items())
        raise ValueError(
            f"train.base: {base} is a model of the type {model_type!r}, which Earshot does not know how to ask; it knows "
            f"{known}. tasks/models/README.md says what another one takes"
        )


def type_of(config: str | Path) -> str:
    """The `model_type` that a config.json names, "" where it names none. Raises ValueError where it is no such file."""
    try:
        return str(json.loads(Path(config).read_text(encoding="utf-8")).get("model_type", ""))
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{config} is no configuration of a model: {error}") from error


def family_of(model: Any) -> Family:
    """The family of a model that is loaded."""
    return family_named(model.config.model_type)


def family_at(base: str | Path, revision: str | None) -> Family:
    """The family of a base, a folder or a Hub id, by its config.json: no weight is read, nor any code of its own run.

    Raises ValueError where it is none that is supported.
    """
    from transformers.utils import cached_file

    model_type = type_of(cached_file(str(base), "config.json", revision=revision))
    refuse_others(model_type, str(base))
    return family_named(model_type)
