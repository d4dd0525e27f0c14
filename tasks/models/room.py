"""What a training takes of a GPU, and whether it fits: asked before the base is loaded, answered with what would fit."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from recipes.training import TrainMethod
from tasks.functional.memory import Asked, Size, clip_bytes, largest_batch, loading_bytes, operations, weight_bytes
from tasks.models.experts import refuse_quantised_experts
from tasks.models.families import FAMILIES, Facts, family_named, type_of
from tasks.models.frames import SAMPLE_RATE_HZ, Rate
from tasks.models.jobs import TrainingJob, config_of
from tasks.models.widths import widths_in

QUESTION_TOKENS = 64  # of the chat turn around the audio, answer included
RATE = 100e12  # operations a second that a plan counts with: a tenth of an H100's bf16 peak, a GPU of the desk in full
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


class Known(NamedTuple):
    """What is known of a base before it is loaded."""

    family: str  # as people call it
    rate: Rate
    size: Size | None  # None where its configuration leaves a width to transformers' own defaults


def known_before(base: str) -> Known | None:
    """A base by its config.json where that lies here, else by its name; None of `tiny` and where neither says anything."""
    config = None if base == "tiny" else config_of(base)
    if config and (facts := FAMILIES.get(type_of(config))):
        return Known(facts.name, facts.rate, widths_in(config) or by_name(facts, base))
    every = (Known(its.name, its.rate, size) for its in FAMILIES.values() if (size := by_name(its, base)))
    return next(every, None)


def by_name(facts: Facts, base: str) -> Size | None:
    """The widths of a base that a plan knows by its name."""
    return next((size for name, size in facts.sizes.items() if name in base), None)


def refuse_before(train: TrainMethod) -> None:
    """Raise ValueError where a base would be refused once it is loaded, as far as `known_before` knows it."""
    if (known := known_before(train.base)) and known.size:
        refuse_quantised_experts(known.size, train.quantization, train.base)


def refuse_unheard(base: str, shortest_ms: float) -> None:
    """Raise ValueError where the shortest clip would be refused once a base hears it, as far as `known_before` knows it."""
    known = known_before(base)
    if known and known.rate.audio_tokens(round(shortest_ms * SAMPLE_RATE_HZ / 1000)) == 0:
        raise ValueError(
            f"dataset.clips: {shortest_ms:g} ms give {known.family} no audio token, {known.rate.shortest_ms:g} ms are the "
            "least: raise clips.duration_ms, or declare a context, e.g. clips.context={kind: noise, total_ms: 200}"
        )


def reckoned(train: TrainMethod, longest_ms: float, seen: float) -> list[str]:
    """What training a base takes of a GPU, by arithmetic: memory by batch, operations of `seen` clips, minutes at a rate; or
    why it is refused. Nothing of a base of which nothing is known, or that no run would take."""
    try:
        known = known_before(train.base)
    except (FileNotFoundError, ValueError):  # told among what would stop a run
        return []
    if known is None or known.size is None:
        return []
    size = known.size
    try:
        refuse_quantised_experts(size, train.quantization, train.base)
    except ValueError as error:
        return [f"a run would be refused: {error}"]
    asked = asked_of(
        train.quantization, train.training, train.scope, full=train.lora is None, heard=bool(train.augment)
    )
    tokens = tokens_of(longest_ms, known.rate)
    weights, clip = weight_bytes(size, asked) / 1e9, clip_bytes(size, asked, tokens) / 1e9
    work = seen * operations(size, asked, tokens)
    return [
        f"GPU, by arithmetic: {weights:.1f} GB of weights and {clip:.2f} GB a clip at once, {weights + 16 * clip:.0f} GB "
        f"with batches of 16, {loading_bytes(size, asked) / 1e9:.1f} GB when it is loaded",
        f"  {seen:,.0f} clips there and back, {work / 1e15:,.0f} PFLOP: {work / RATE / 60:,.0f} minutes at "
        f"{RATE / 1e12:.0f} TFLOP/s",
    ]


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
    smallest = (
        {"lora=attention, quantization=nf4, scope=language_model and gradient_checkpointing": Asked(4, False, True)}
        if not size.expert_layers
        else {"lora=attention, scope=language_model and gradient_checkpointing": Asked(16, False, True)}
    )
    named = {
        "as it is": asked,
        "training.gradient_checkpointing=true": asked._replace(checkpointing=True),
        "scope=language_model and gradient_checkpointing": asked._replace(checkpointing=True, with_encoder=False),
        **smallest,
    }
    seen: set[Asked] = set()
    for name, its in named.items():
        if its not in seen and (fits := largest_batch(size, its, tokens, limit_bytes)):
            yield f"{name}: batches of {fits}"
        seen.add(its)
