"""Whether a training fits its GPU: asked before the base is loaded, and answered with what would fit."""

from collections.abc import Iterator
from typing import Any

from tasks.functional.memory import Asked, Size, clip_bytes, largest_batch, loading_bytes, weight_bytes
from tasks.models.families import FAMILIES, family_named
from tasks.models.frames import SAMPLE_RATE_HZ, Rate
from tasks.models.jobs import TrainingJob

QUESTION_TOKENS = 64  # of the chat turn around the audio, answer included
ERROR = 1.3  # by how much arithmetic may be wrong before a batch is refused by it


def asked_of(
    quantization: dict[str, Any] | None, training: dict[str, Any], scope: str, *, full: bool, heard: bool
) -> Asked:
    """What of a recipe decides memory; `heard`: the encoder hears clips in every step."""
    given = quantization or {}
    bits = 4 if given.get("load_in_4bit") else 8 if given.get("load_in_8bit") else 32 if full else 16
    checkpointing = bool(training.get("gradient_checkpointing") or training.get("activation_checkpointing"))
    return Asked(bits, scope != "language_model" or heard, checkpointing, full)


def tokens_of(longest_ms: float, rate: Rate) -> int:
    """Tokens of the longest clip with its question."""
    return QUESTION_TOKENS + rate.audio_tokens(round(longest_ms * SAMPLE_RATE_HZ / 1000))


def refuse_quantised_experts(size: Size, quantization: dict[str, Any] | None, base: str) -> None:
    """Raise ValueError where a base of experts is to be quantised: bitsandbytes takes linear layers, and experts are
    stacked in parameters."""
    if size.experts > 1 and quantization is not None:
        share = 1 - size.attention_weights / size.layer_weights
        whole = loading_bytes(size, Asked(16, with_encoder=False, checkpointing=True))
        raise ValueError(
            f"quantization: {share:.0%} of the weights in the layers of {base} are experts, stacked in parameters that "
            "bitsandbytes leaves as they are: 4 or 8 bits would save next to nothing and round the rest; set "
            f"train.quantization=none, for a GPU that holds its {whole / 1e9:.0f} GB in bf16"
        )


def check_room(job: TrainingJob, config: Any, limit_bytes: float) -> None:
    """Raise ValueError where not even one clip fits, or far fewer than the recipe's batch: with what fits instead.

    By arithmetic (`tasks.functional.memory`), so only what misses by far is refused.
    """
    size = family_named(config.model_type).size_of(config)
    refuse_quantised_experts(size, job.quantization, job.base)
    longest_ms = min(job.question.longest_ms, job.max_audio_ms or job.question.longest_ms)
    tokens = tokens_of(longest_ms, FAMILIES[config.model_type].rate)
    asked = asked_of(job.quantization, job.training, job.scope, full=job.lora is None, heard=bool(job.augment))
    fits = largest_batch(size, asked, tokens, ERROR * limit_bytes)
    wanted = job.training.get("per_device_train_batch_size")
    wanted = wanted if isinstance(wanted, int) else 1
    if fits >= wanted:
        return
    needs = max(loading_bytes(size, asked), weight_bytes(size, asked) + wanted * clip_bytes(size, asked, tokens))
    others = "; ".join(alternatives(size, asked, tokens, limit_bytes)) or "nothing of this base fits: use a larger GPU"
    raise ValueError(
        f"a batch of {wanted} clips takes about {needs / 1e9:.0f} GB and this GPU has {limit_bytes / 1e9:.0f} GB for it. "
        f"By estimate these fit: {others}"
    )


def alternatives(size: Size, asked: Asked, tokens: int, limit_bytes: float) -> Iterator[str]:
    """Settings under which something fits, those closest to what was asked first."""
    named = {
        "as it is": asked,
        "training.gradient_checkpointing=true": asked._replace(checkpointing=True),
        "scope=language_model and gradient_checkpointing": asked._replace(checkpointing=True, with_encoder=False),
        "lora=attention, quantization=nf4, scope=language_model and gradient_checkpointing": Asked(4, False, True),
    }
    seen: set[Asked] = set()
    for name, its in named.items():
        if its not in seen and (fits := largest_batch(size, its, tokens, limit_bytes)):
            yield f"{name}: batches of {fits}"
        seen.add(its)
