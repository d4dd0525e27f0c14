"""What all model families have in common: the turn, features, the batch, where audio is merged in, and the answers."""

import contextlib
import copy
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tasks.models.families import facts_of, family_at, family_of, rate_for
from tasks.models.frames import HOP, SAMPLE_RATE_HZ, Rate

EXTRACTED_AT_ONCE = 32
LEAST_FRAMES = 64  # products of matrices that are narrower take other kernels, whose last bit differs
AUDIO = ("input_features", "feature_attention_mask", "audio_kept")  # of a batch
SILENT_FRAMES = 2  # behind a waveform, at whose very end the extractor would mirror it


class Prompt(NamedTuple):
    """Token ids before and after the audio tokens of one turn, and the one that ends what is answered to it."""

    before: list[int]
    after: list[int]
    audio_token: int
    end: int


def tokenise_prompt(processor: Any, prompt: str) -> Prompt:
    """The chat turn that ends with the assistant's first position. Raises ValueError where the template has no audio."""
    message = {"role": "user", "content": [{"type": "audio", "audio_url": "clip"}, {"type": "text", "text": prompt}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    before, token, after = text.partition(processor.audio_token)
    if not token:
        raise ValueError(f"the chat template of this processor leaves no {processor.audio_token} for the audio")
    encode = functools.partial(processor.tokenizer.encode, add_special_tokens=False)
    audio_token = processor.tokenizer.convert_tokens_to_ids(token)
    return Prompt(encode(before), encode(after), audio_token, end_of_answer(processor, message, text))


def end_of_answer(processor: Any, message: Mapping[str, Any], turn: str) -> int:
    """The token that ends an assistant's answer to a `message`, whose `turn` ends where that begins: what the chat template
    puts behind it, or where that is no token of its own the end that the tokenizer names.

    Raises ValueError where there is neither.
    """
    tokenizer, answer = processor.tokenizer, {"role": "assistant", "content": "A"}
    answered = processor.apply_chat_template([message, answer], tokenize=False)
    behind = tokenizer.encode(answered.removeprefix(turn + answer["content"]), add_special_tokens=False)
    if answered.startswith(turn) and behind and behind[0] in tokenizer.added_tokens_decoder:
        return int(behind[0])
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "neither the chat template nor the tokenizer of this processor says which token ends an answer"
        )
    return int(tokenizer.eos_token_id)


class Clip(NamedTuple):
    """What the encoder needs of one clip: log-mel features (mel bins, frames) and their valid length."""

    features: torch.Tensor
    frames: int
    tokens: int


class Encoded(NamedTuple):
    """What the language model needs of one clip: the encoder's and the projector's (tokens, text width) vectors."""

    vectors: torch.Tensor

    @property
    def tokens(self) -> int:
        """Audio tokens of the clip."""
        return len(self.vectors)


def extract(processor: Any, waveforms: Iterable[NDArray[np.float32]]) -> list[Clip]:
    """Features of 16 kHz waveforms, each as many frames as its encoding needs, bit-identical to the first ones of 3000.

    Raises ValueError for a waveform of no audio token, which the model would answer without hearing it.
    """
    waiting = iter(waveforms)
    clips: list[Clip] = []
    while some := list(itertools.islice(waiting, EXTRACTED_AT_ONCE)):
        clips += _extract_some(processor, some)
    return clips


def _extract_some(processor: Any, waveforms: list[NDArray[np.float32]]) -> Iterator[Clip]:
    """The extractor itself pads; what is as long as it can pad is mirrored there as in every stack."""
    most, rate = processor.feature_extractor.nb_max_frames, rate_for(processor)
    kept = [rate.trimmed_frames(len(samples), most) for samples in waveforms]
    for samples in waveforms:
        if rate.audio_tokens(len(samples)) == 0:
            raise ValueError(
                f"a clip of {len(samples) / 16:.0f} ms gives the model no audio token and would be answered unheard; "
                "declare a context in the recipe, e.g. clips.context: {kind: noise, total_ms: 200}"
            )
    extracted = processor.feature_extractor(
        waveforms, sampling_rate=SAMPLE_RATE_HZ, padding="max_length", truncation=True,
        max_length=HOP * min(most, max(LEAST_FRAMES, max(kept) + SILENT_FRAMES)),
        return_attention_mask=True, return_tensors="pt",
    )  # fmt: skip
    valid = extracted["attention_mask"].sum(dim=1).tolist()
    for features, frames, width, samples in zip(extracted["input_features"], valid, kept, waveforms, strict=True):
        yield Clip(features[:, :width].clone(), frames, rate.audio_tokens(len(samples)))


def collate(
    clips: Sequence[Clip | Encoded],
    prompt: Prompt,
    completions: Sequence[Sequence[int]],
    pad: int,
    *,
    pad_after: int = 0,
) -> dict[str, torch.Tensor]:
    """A left-padded batch: prompt with each clip's audio tokens, then its completion, so that answers end every row.

    Padding stands behind the first `pad_after` tokens, which are then in the same place in every row.
    """
    rows = [
        [*prompt.before, *[prompt.audio_token] * clip.tokens, *prompt.after, *completion]
        for clip, completion in zip(clips, completions, strict=True)
    ]
    width = max(map(len, rows))

    def padded(row: list[int], filler: int) -> list[int]:
        return [*row[:pad_after], *[filler] * (width - len(row)), *row[pad_after:]]

    return {
        "input_ids": torch.tensor([padded(row, pad) for row in rows]),
        "attention_mask": torch.tensor([padded([1] * len(row), 0) for row in rows]),
        **audio_inputs(clips),
    }


def audio_inputs(clips: Sequence[Clip | Encoded]) -> dict[str, torch.Tensor]:
    """What `merge_audio` takes: features (n, bins, frames) of the longest clip's cut and their mask, or the vectors
    (sum of tokens, text width) of clips that are encoded already."""
    plain = [clip for clip in clips if isinstance(clip, Clip)]
    if not plain:
        return {"input_features": torch.cat([clip.vectors for clip in clips if isinstance(clip, Encoded)])}
    frames = max(clip.features.shape[1] for clip in plain)
    features = torch.zeros(len(plain), plain[0].features.shape[0], frames)
    for row, clip in zip(features, plain, strict=True):
        row[:, : clip.features.shape[1]] = clip.features  # what lies behind a clip's own cut is attended by nobody
    valid = torch.arange(frames)[None, :] < torch.tensor([clip.frames for clip in plain])[:, None]
    return {"input_features": features, "feature_attention_mask": valid.long()}


def token_places(mask: torch.Tensor, rate: Rate) -> torch.Tensor:
    """Which of the encoder's flattened (n * places of a row) are tokens, by the mask (n, frames) of its features.

    Asked of a mask on a GPU, this keeps the GPU waiting.
    """
    places = torch.arange(rate.tokens_of(mask.shape[1]), device=mask.device)
    return (places < rate.tokens_of(mask.sum(-1, keepdim=True))).flatten().nonzero()[:, 0]


def load_processor(base: str | Path, revision: str | None) -> Any:
    """The processor of a base. Raises ValueError for a base of no family that is supported."""
    return family_at(base, revision).load_processor(base, revision=revision)


def load(
    base: str | Path,
    *,
    revision: str | None,
    quantization: Mapping[str, Any] | None,
    dtype: torch.dtype,
    device: str,
) -> nn.Module:
    """The model, quantised or not, with audio merged by `merge_audio`.

    Raises ValueError, before any weight is read, for a base of no family that is supported.
    """
    from transformers import BitsAndBytesConfig

    family = family_at(base, revision)
    skipped = list(family.UNQUANTISED)
    quantised = BitsAndBytesConfig(**quantization, llm_int8_skip_modules=skipped) if quantization else None
    return prepare(family.load(base, revision=revision, quantization=quantised, dtype=dtype, device=device))


def prepare(model: nn.Module) -> nn.Module:
    """Let `merge_audio` feed the language model, from however many frames there are, and fuse its norms; before LoRA."""
    family_of(model).adjust(model)
    model.register_forward_pre_hook(merge_audio, with_kwargs=True)
    for parent in list(model.model.language_model.modules()):
        for name, norm in list(parent.named_children()):
            if hasattr(norm, "variance_epsilon"):
                fused = nn.RMSNorm(norm.weight.shape, eps=norm.variance_epsilon, device="meta")
                fused.weight = norm.weight  # one kernel; Qwen2's own takes half a dozen passes over memory
                setattr(parent, name, fused)
    return model


def merge_audio(model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Forward pre-hook: put the encoder's vectors in the places of the audio tokens and pass embeddings on.

    `input_features` are features, or vectors that were encoded before (see `audio_inputs`).
    transformers does the same inside, except in a batch where every clip gives one token: there it takes a legacy
    path that rebuilds the batch (and fails under bf16 autocast). Doing it here leaves one path for every batch.
    """
    features, mask, kept = (keywords.pop(name, None) for name in AUDIO)
    if features is None or keywords.get("inputs_embeds") is not None:
        return arguments, keywords
    ids = keywords.pop("input_ids")
    vectors = features if features.ndim == 2 else encode(model, features, mask, kept)
    embeddings = model.get_input_embeddings()(ids)
    places = (ids == model.config.audio_token_id).unsqueeze(-1)
    if ids.device.type != "cpu":  # asked there, and answered here, it would keep the device waiting at every step
        torch._assert_async(places.sum() == len(vectors), "as many audio tokens as audio vectors")
    elif int(places.sum()) != len(vectors):
        raise ValueError(
            f"{int(places.sum())} audio tokens in the batch, {len(vectors)} audio vectors from the encoder"
        )
    # masked_scatter would do, but its gradient asks the device how many places there are
    order = (places.flatten().cumsum(0) - 1).clamp(min=0)
    audio = vectors.to(embeddings.device, embeddings.dtype).index_select(0, order).view_as(embeddings)
    keywords["inputs_embeds"] = torch.where(places, audio, embeddings)
    return arguments, keywords


def encode(
    model: nn.Module, features: torch.Tensor, mask: torch.Tensor, kept: torch.Tensor | None = None
) -> torch.Tensor:
    """Audio vectors (sum of tokens, text width) of a batch of features (n, bins, frames), in the order of the batch.

    `mask` (n, frames) is 1 where a clip is. Frames are an even number, no fewer than `trimmed_frames` of every clip.
    `kept`: what `token_places` says of the mask, where it is known.
    """
    if kept is None:
        kept = token_places(mask, facts_of(model).rate)
    return family_of(model).encode(model, features, mask, kept)


def last_logits(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Next-token logits (n, vocabulary) of a left-padded batch by one forward; the head sees the last position only."""
    _, keywords = merge_audio(model, (), dict(batch))
    return head(model, model.model(**keywords, use_cache=False).last_hidden_state[:, -1])


def head(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Logits (n, vocabulary) of the language model's last hidden states (n, width), in float32."""
    return model.lm_head(hidden.to(model.lm_head.weight.dtype)).float()


@torch.no_grad()
def known_start(model: nn.Module, ids: Sequence[int]) -> Any:
    """transformers' own cache of what one row knows after these tokens."""
    from transformers import DynamicCache

    past = DynamicCache(config=model.config.get_text_config())
    model.model.language_model(torch.tensor([ids], device=model.device), past_key_values=past, use_cache=True)
    return past


def generated_logits(
    model: nn.Module, batch: Mapping[str, torch.Tensor], allowed: Sequence[int], start: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens (n,), logits (n, vocabulary)) of one token by constrained generation.

    Logits are those before the constraint. Greedy and free of penalties whatever the shipped generation_config says.
    Goes on from `known_start` of the tokens with which every row begins (see `collate` for padding behind them).
    """
    from transformers import LogitsProcessor

    class Allow(LogitsProcessor):
        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            kept = torch.full_like(scores, -torch.inf)
            kept[:, allowed] = scores[:, allowed]
            return kept

    past = copy.deepcopy(start)
    if past is not None:
        past.batch_repeat_interleave(len(batch["input_ids"]))
    with last_position_only(model), audio_aside(model, batch) as text:
        out = model.generate(
            **text, past_key_values=past, max_new_tokens=1, logits_processor=[Allow()], do_sample=False, num_beams=1,
            repetition_penalty=1.0, return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
    return out.sequences[:, -1], out.logits[0].float()


@contextlib.contextmanager
def audio_aside(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Yields a batch without its audio, which inside goes to the first forward past `generate`: that takes only what the
    family's own `forward` names."""
    audio = {name: its for name, its in batch.items() if name in AUDIO}

    def give(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        keywords.update(audio)
        audio.clear()
        return arguments, keywords

    given = model.register_forward_pre_hook(give, with_kwargs=True, prepend=True)  # before `merge_audio`
    try:
        yield {name: its for name, its in batch.items() if name not in AUDIO}
    finally:
        given.remove()


@contextlib.contextmanager
def last_position_only(model: nn.Module) -> Iterator[None]:
    """Inside, the head sees the last position of every row only."""
    last = model.lm_head.register_forward_pre_hook(lambda _, hidden: (hidden[0][:, -1:],))
    try:
        yield
    finally:
        last.remove()


def said_freely(model: nn.Module, batch: Mapping[str, torch.Tensor], tokens: int, end: int, pad: int) -> torch.Tensor:
    """(n, up to `tokens`) token ids that greedy generation says when nothing constrains it, up to the `end` of the turn,
    filled up with `pad`: an Omni's own thinker knows no end of its turn (QwenLM/Qwen2.5-Omni, issue 371)."""
    _, keywords = merge_audio(model, (), dict(batch))
    known = model.generation_config.eos_token_id or []
    ends = sorted({end, *(known if isinstance(known, list) else [known])})
    with last_position_only(model):
        said: torch.Tensor = model.generate(
            **keywords, max_new_tokens=tokens, do_sample=False, num_beams=1, repetition_penalty=1.0, eos_token_id=ends,
            pad_token_id=pad,
        )  # fmt: skip
    return said
