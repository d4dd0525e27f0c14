"""The rows that the two scoring benchmarks share: the original way, and ours."""

import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tasks.audio_files import decode_flac, encode_flac
from tasks.functional.decoding import answer_scores
from tasks.models.encoder_cache import EncoderCache
from tasks.models.scoring import Method, Question, Scorer

# As many tokens in the bench's own vocabulary as the original's question has in Qwen2's: about 40 behind the audio.
PROMPTS = (
    "Choose one: A) SPEECH (human voice) B) NONSPEECH (music/noise/silence/animals). Choose one: A or B. Answer with A "
    "or B ONLY.",
    "Answer with A or B ONLY. Choose one: A) SPEECH (human voice) B) NONSPEECH (music/noise/silence/animals). A or B.",
    "A) SPEECH (human voice) B) NONSPEECH (music/noise/silence/animals). Choose one: A or B. Answer with A or B ONLY. A"
    " or B ONLY.",
    "(A) SPEECH (human voice) B) NONSPEECH (music/noise/silence/animals). Choose one: A or B. Answer with A or B ONLY. "
    "ONLY A or B.",
)


class Row(NamedTuple):
    """One line of the table: what was done, clips a second, P(first answer) by clip, and the scorer that did it."""

    name: str
    clips_per_s: float
    p_first: NDArray[np.float64]
    scorer: Scorer | None = None
    bytes_peak: int = 0


def make_clips(n: int, durations_ms: Sequence[float]) -> list[bytes]:
    """FLAC of noise that swells and fades, no two alike, the durations in turn."""
    draw = np.random.default_rng(0)
    clips = []
    for k in range(n):
        samples = round(16 * durations_ms[k % len(durations_ms)])
        swell = np.sin(np.linspace(0, draw.uniform(2, 40), samples)) * draw.uniform(0.1, 0.9)
        clips.append(encode_flac(np.clip(swell * draw.standard_normal(samples) / 4, -1, 1)))
    return clips


def original(
    name: str, model: nn.Module, processor: Any, clips: Sequence[bytes], prompt: str, question: Question, tokens: int
) -> Row:
    """The processor and `generate` for one clip after another, padded to 30 s, as the original project did: a letter
    and, with two `tokens`, the end of the turn behind it."""
    message = [{"role": "user", "content": [{"type": "audio", "audio_url": "clip"}, {"type": "text", "text": prompt}]}]
    waveforms = [decode_flac(clip) for clip in clips]
    dtype = model.dtype
    end = [processor.tokenizer.eos_token_id]

    def answer(waveform: NDArray[np.float32]) -> torch.Tensor:
        text = processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=text, audio=[waveform], sampling_rate=16_000, return_tensors="pt", padding=True)
        inputs = inputs.to(model.device)
        inputs["input_features"] = inputs["input_features"].to(dtype)
        length = inputs["input_ids"].shape[1]
        out = model.generate(
            **inputs, max_new_tokens=tokens, do_sample=False, num_beams=1,
            prefix_allowed_tokens_fn=lambda row, ids: question.allowed if len(ids) == length else end,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        processor.batch_decode(out.sequences[:, length:], skip_special_tokens=True)
        return out.logits[0].float().cpu()

    with torch.inference_mode():
        for waveform in waveforms[:3]:
            answer(waveform)
        begin = time.perf_counter()
        logits = [answer(waveform) for waveform in waveforms]
        seconds = time.perf_counter() - begin
    p_first = answer_scores(torch.cat(logits).numpy(), question.ids).p_first
    print(f"  {seconds:6.1f} s {name}", file=sys.stderr, flush=True)
    return Row(name, len(clips) / seconds, p_first)


def ours(
    name: str,
    model: nn.Module,
    processor: Any,
    clips: Sequence[bytes],
    asked: Sequence[Question],
    *,
    method: Method = "forward",
    cache: EncoderCache | None = None,
    batch_size: int | None = None,
) -> Row:
    """All clips scored twice, the second time on the clock: from FLAC in memory to P in memory."""
    cuda = model.device.type == "cuda"
    scorer = Scorer(model, processor, cache, batch_size)
    scorer.score(clips, asked, method)
    scorer.clock.batches.clear()
    seconds = []
    for _ in range(2):
        if cuda:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        answers = scorer.score(clips, asked, method)
        seconds.append(time.perf_counter() - begin)
    print(
        f"  {', '.join(f'{each:6.1f}' for each in seconds)} s {name}, {len(asked)} prompts",
        file=sys.stderr,
        flush=True,
    )
    peak = scorer.sizes.peak_bytes if cuda else 0
    return Row(name, len(clips) / min(seconds), answers[0].p_first, scorer, peak)


def more_prompts(name: str, model: nn.Module, processor: Any, clips: Sequence[bytes], asked: Sequence[Question], *,
                 cache: EncoderCache | None, batch_size: int | None = None) -> Row:  # fmt: skip
    """Clips a second of one more prompt: what all prompts cost more than the first two, shared out."""
    few, many = (
        ours(name, model, processor, clips, some, cache=cache, batch_size=batch_size) for some in (asked[:2], asked)
    )
    seconds = len(clips) / many.clips_per_s - len(clips) / few.clips_per_s
    return many._replace(clips_per_s=len(clips) * (len(asked) - 2) / seconds)
