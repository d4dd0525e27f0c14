"""The model families there are, and the little that each must say of itself; without torch until a model is used."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tasks.functional.memory import QWEN2_5_OMNI_7B, QWEN2_AUDIO_7B, QWEN3_OMNI_30B, Size
from tasks.models.frames import CHUNKED, POOLED, Rate


class Facts(NamedTuple):
    """What is known of a family before any of its models is loaded."""

    name: str  # as people call it
    base_class: str  # of transformers, that an adapter is loaded into
    processor_class: str  # of transformers
    rate: Rate  # of its audio tokens
    sizes: Mapping[str, Size]  # of bases that a plan knows by their name


QWEN2_AUDIO = Facts(
    "Qwen2-Audio", "Qwen2AudioForConditionalGeneration", "Qwen2AudioProcessor", POOLED,
    {"Qwen2-Audio-7B": QWEN2_AUDIO_7B},
)  # fmt: skip
QWEN2_5_OMNI = Facts(
    "Qwen2.5-Omni", "Qwen2_5OmniThinkerForConditionalGeneration", "Qwen2_5OmniProcessor", POOLED,
    {"Qwen2.5-Omni-7B": QWEN2_5_OMNI_7B},
)  # fmt: skip
QWEN3_OMNI = Facts(
    "Qwen3-Omni", "Qwen3OmniMoeThinkerForConditionalGeneration", "Qwen3OmniMoeProcessor", CHUNKED,
    {"Qwen3-Omni-30B-A3B": QWEN3_OMNI_30B},
)  # fmt: skip
# By the `model_type` of a base's config.json; a thinker may be saved alone.
FAMILIES = {
    "qwen2_audio": QWEN2_AUDIO,
    "qwen2_5_omni": QWEN2_5_OMNI,
    "qwen2_5_omni_thinker": QWEN2_5_OMNI,
    "qwen3_omni_moe": QWEN3_OMNI,
    "qwen3_omni_moe_thinker": QWEN3_OMNI,
}


class Family(Protocol):
    """A module of this package that knows one family; tasks/models/README.md shows how to write one.

    Its model holds `model.language_model` with Qwen's layers (`tasks.models.decoder` goes through them) and `lm_head`,
    and hears Whisper's log-mel features.
    """

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
        is 1; `kept` are the places of tokens among all (n * as many as `frames` give) that the encoder makes."""

    def size_of(self, config: Any) -> Size:
        """The widths of a base from its configuration."""


def family_named(model_type: str) -> Family:
    """The family of a `model_type`. Raises ValueError, naming those there are, where it is none of them."""
    refuse_others(model_type)
    from tasks.models import qwen2_5_omni, qwen2_audio, qwen3_omni

    families: dict[str, Family] = {
        QWEN2_AUDIO.name: qwen2_audio,
        QWEN2_5_OMNI.name: qwen2_5_omni,
        QWEN3_OMNI.name: qwen3_omni,
    }
    return families[FAMILIES[model_type].name]


def refuse_others(model_type: str, base: str = "the base") -> None:
    """Raise ValueError for the `model_type` of a family that is not supported."""
    if model_type not in FAMILIES:
        known = ", ".join(f"{facts.name} ({type_})" for type_, facts in FAMILIES.items())
        raise ValueError(
            f"train.base: {base} is a model of the type {model_type!r}, which Earshot does not know how to ask; it knows "
            f"{known}. tasks/models/README.md says what another one takes"
        )


def type_of(config: str | Path) -> str:
    """The `model_type` that a config.json names, "" where it names none. Raises ValueError where it is no such file."""
    try:
        return str(json.loads(Path(config).read_text(encoding="utf-8")).get("model_type", ""))
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{config} is no configuration of a model: {error}") from error


def facts_of(model: Any) -> Facts:
    """What is known of the family of a model that is loaded."""
    return FAMILIES[model.config.model_type]


def rate_for(processor: Any) -> Rate:
    """How many audio tokens there are of what a family's processor makes. Raises ValueError for another's processor."""
    classes = [its.__name__ for its in type(processor).__mro__]
    for facts in FAMILIES.values():
        if facts.processor_class in classes:
            return facts.rate
    raise ValueError(f"{classes[0]} is the processor of no family that is supported")


def facts_by_class(base_class: str | None, adapter: str) -> Facts:
    """The family whose adapters are loaded into a class of transformers; what names none is of the first there was.

    Raises ValueError where it is the class of no family that is supported.
    """
    if base_class is None:
        return QWEN2_AUDIO
    by_class = {facts.base_class: facts for facts in FAMILIES.values()}
    if base_class not in by_class:
        raise ValueError(
            f"{adapter} was trained of a {base_class}, which Earshot does not know how to ask; it knows "
            f"{', '.join(by_class)}: a newer Earshot may know more, and tasks/models/README.md says what another one takes"
        )
    return by_class[base_class]


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
