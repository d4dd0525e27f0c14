"""Is the model listening? Asked before any of its numbers is reported: a deaf model is stopped, the rest is recorded."""

import itertools
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.audio_files import decode_flac, encode_flac, samples_of
from tasks.functional.timing import of_all_lengths
from tasks.models import family
from tasks.models.decoder import advance
from tasks.models.families import FAMILIES, rate_for
from tasks.models.frames import HOP, MAX_FRAMES, SAMPLE_RATE_HZ, Rate
from tasks.models.scoring import Answers, Question, Scorer, answers_of, embedded, narrowed

LISTENED = 16  # clips, from the shortest to the longest
COUNTED_MS = (10, 20, 25, 60, 61, 81, 1010, 2500)  # around which a family counts a token more, or chunks end
HEARD = 1e-3  # of log odds: less than this is no answer to what is heard
# How far P may be moved by another batch in float32, and in bf16 or 4 bits: there a logit between 16 and 32 is a multiple
# of 1/8, so that two of them off by one step each move a P of .5 by .06.
EXACT, ROUNDED = 1e-5, 0.15


class Listener(NamedTuple):
    """A scorer, the question it is asked, the clips it is asked about and how far rounding may move P."""

    scorer: Scorer
    question: Question
    clips: list[bytes]
    tolerance: float

    def p(self, clips: Sequence[bytes]) -> NDArray[np.float64]:
        """P(first answer) of clips."""
        return self.scorer.score(clips, [self.question])[0].p_first


def check(scorer: Scorer, processor: Any, question: Question, prompt: str, clips: Sequence[bytes]) -> dict[str, Any]:
    """Every check on some of the clips, for a report's `listening`. Raises ValueError with the reason where one fails."""
    exact = scorer.model.dtype == torch.float32 and not getattr(scorer.model, "is_quantized", False)
    listener = Listener(scorer, question, sample(clips), EXACT if exact else ROUNDED)
    prior = no_audio_prior(scorer.model, processor, question, prompt)
    unheard = refuses_unheard(processor, prompt)
    refuses_other_rates(processor)
    return {
        "clips": len(listener.clips),
        "tolerance": listener.tolerance,
        "silence": hears_more_than_silence(listener),
        "swap": follows_the_audio(listener),
        "no_audio": {"p_first": float(prior.p_first[0]), "answer_mass": float(prior.answer_mass[0])},
        "batch_composition": minds_no_neighbours(listener),
        "left_padding": minds_no_padding(listener),
        "zero_token_clips": unheard,
        "other_sampling_rates": "refused",
    }


def sample(clips: Sequence[bytes], most: int = LISTENED) -> list[bytes]:
    """Up to `most` clips of all lengths, the shortest and the longest among them."""
    return [clips[place] for place in of_all_lengths([samples_of(clip) for clip in clips], most)]


def hears_more_than_silence(listener: Listener) -> dict[str, float]:
    """Against digital silence as long as each clip: how far the log odds move. Raises ValueError where they do not."""
    silence = [encode_flac(np.zeros(samples_of(clip))) for clip in listener.clips]
    heard, unheard = listener.p(listener.clips), listener.p(silence)
    moved = np.abs(log_odds(heard) - log_odds(unheard))
    if moved.max() < HEARD:
        raise ValueError(
            f"the model answers {len(silence)} clips as it answers silence of their lengths (log odds moved by at most "
            f"{moved.max():.1g}): what it hears does not reach its answer; its projector or its encoder is broken"
        )
    return {
        "least_asked": HEARD,
        "largest_change_of_log_odds": float(moved.max()),
        "mean_change_of_log_odds": float(moved.mean()),
        "answers_changed": float(np.mean((heard >= 0.5) != (unheard >= 0.5))),
        "p_first_of_silence": float(unheard.mean()),
    }


def follows_the_audio(listener: Listener) -> dict[str, float]:
    """With the clips handed over in another order every P must go with its clip. Raises ValueError where one does not."""
    swapped = listener.p(listener.clips[::-1])[::-1]
    apart = np.abs(swapped - listener.p(listener.clips))
    if apart.max() > listener.tolerance:
        raise ValueError(
            f"in another order the same {len(apart)} clips get other answers (P moves by {apart.max():.2g}, "
            f"{listener.tolerance:g} is allowed): answers do not belong to the clips they stand beside"
        )
    return {"largest_difference": float(apart.max())}


def minds_no_neighbours(listener: Listener) -> dict[str, float]:
    """Each clip alone against all together, and likewise what is left of the clips in one audio token.

    Raises ValueError where P depends on what else is in the batch.
    """
    lone = listener._replace(scorer=listener.scorer.with_batches_of(1))
    found = {}
    short = shortened(listener.clips, lone.scorer.encoder.rate)
    for name, clips in {"largest_difference": listener.clips, "of_one_token": short}.items():
        found[name] = float(np.abs(lone.p(clips) - listener.p(clips)).max())
        if found[name] > listener.tolerance:
            raise ValueError(
                f"alone, clips get other answers than together (P moves by {found[name]:.2g}, {listener.tolerance:g} is "
                "allowed): a clip's answer depends on its neighbours"
            )
    return {**found, "largest_difference": max(found.values())}


def shortened(clips: Sequence[bytes], rate: Rate) -> list[bytes]:
    """The beginnings of clips that give the model one audio token each: the shortest, the longest and one between."""
    frames = [n for n in range(1, MAX_FRAMES) if rate.tokens_of(n) == 1]
    lengths = itertools.cycle((frames[0], frames[len(frames) // 2], frames[-1]))
    return [encode_flac(decode_flac(clip)[: HOP * n]) for clip, n in zip(clips, lengths, strict=False)]


@torch.inference_mode()
def minds_no_padding(listener: Listener) -> dict[str, float]:
    """transformers' own forward over one left-padded batch of all lengths. Raises ValueError where it says otherwise."""
    scorer, question = listener.scorer, listener.question
    clips, _ = scorer.encoder.encode(scorer.encoder.read(listener.clips))
    batch = family.collate(clips, question.prompt, [[]] * len(clips), scorer.pad)
    batch = {key: value.to(scorer.model.device) for key, value in batch.items()}
    narrow = narrowed(family.last_logits(scorer.model, batch), question.allowed).cpu().numpy()
    apart = np.abs(answers_of(narrow, question).p_first - listener.p(listener.clips))
    if apart.max() > listener.tolerance:
        raise ValueError(
            f"in a left-padded batch P moves by {apart.max():.2g}, {listener.tolerance:g} is allowed: padding is heard, or "
            "the layers of this base are not as tasks/models/decoder.py goes through them"
        )
    return {"largest_difference": float(apart.max()), "shortest_tokens": min(c.tokens for c in clips)}


@torch.inference_mode()
def no_audio_prior(model: Any, processor: Any, question: Question, prompt: str) -> Answers:
    """What is answered to the question alone, no audio in the turn: what the detector `no_audio` says of every clip."""
    message = {"role": "user", "content": [{"type": "text", "text": prompt}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    if processor.audio_token in text:
        raise ValueError(f"the chat template of this processor puts {processor.audio_token} where there is no audio")
    ids = processor.tokenizer.encode(text, add_special_tokens=False)
    hidden, _ = advance(model.model.language_model, embedded(model, ids, 1))
    return answers_of(narrowed(family.head(model, hidden), question.allowed).cpu().numpy(), question)


def refuses_unheard(processor: Any, prompt: str) -> str:
    """What becomes of clips of no audio token, told by the processor's own count of them in some lengths.

    Raises ValueError where it counts otherwise than `tasks.models.frames`, and where such a clip would be answered.
    """
    rate, told = rate_for(processor), tokens_told(processor, prompt, COUNTED_MS)
    for ms, tokens in told.items():
        counted = rate.audio_tokens(ms * SAMPLE_RATE_HZ // 1000)
        if counted != tokens:
            raise ValueError(
                f"the processor gives a clip of {ms} ms {tokens} audio tokens, and tasks/models/frames.py counts {counted}"
            )
    unheard = [ms for ms, tokens in told.items() if tokens == 0]
    for ms in unheard:
        try:
            family.extract(processor, [np.zeros(ms * SAMPLE_RATE_HZ // 1000, np.float32)])
        except ValueError:
            continue
        raise ValueError(f"a clip of {ms} ms, which gives the model no audio token, would be answered unheard")
    return "refused" if unheard else "every clip gives one"


def tokens_told(processor: Any, prompt: str, lengths_ms: Sequence[int]) -> dict[int, int]:
    """By length, how many audio tokens the processor itself puts into the turn of a clip."""
    message = {"role": "user", "content": [{"type": "audio", "audio_url": "clip"}, {"type": "text", "text": prompt}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    lengths = [ms * SAMPLE_RATE_HZ // 1000 for ms in (*lengths_ms, 2 * max(lengths_ms))]  # the longest may be cut
    clips = [np.zeros(samples, np.float32) for samples in lengths]
    inputs = processor(text=[text] * len(clips), audio=clips, sampling_rate=SAMPLE_RATE_HZ, padding=True)
    token = processor.tokenizer.convert_tokens_to_ids(processor.audio_token)
    return {ms: [*ids].count(token) for ms, ids in zip(lengths_ms, inputs["input_ids"], strict=False)}


def refuses_other_rates(processor: Any) -> None:
    """Raises ValueError unless the processor refuses audio that is said to be of another rate than the model's."""
    try:
        processor.feature_extractor(np.zeros(1600, np.float32), sampling_rate=SAMPLE_RATE_HZ // 2)
    except ValueError:
        return
    raise ValueError(f"the processor takes audio of {SAMPLE_RATE_HZ // 2} Hz for a model of {SAMPLE_RATE_HZ} Hz")


def log_odds(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(p / (1 - p)), finite at 0 and 1."""
    inside = np.clip(p, 1e-15, 1 - 1e-15)
    return np.log(inside) - np.log1p(-inside)


class NoProcessorWarnings(logging.Handler):
    """Around a whole run: raises ValueError at its end where processor or feature extractor warned of anything.

    They warn, and go on, of what makes a model deaf: a missing rate, an argument by an old name.
    """

    SPEAKERS = ("feature_extraction", "processing", "audio_utils", *FAMILIES)

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []
        self._logger = logging.getLogger("transformers")

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what a processor says."""
        if any(speaker in record.name for speaker in self.SPEAKERS):
            self.heard.append(record.getMessage())

    def __enter__(self) -> Self:
        self._level = self._logger.level
        self._logger.setLevel(logging.WARNING)
        self._logger.addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)
        if self.heard and error is None:
            raise ValueError(f"the processor warned {len(self.heard)} times, first: {self.heard[0]}")
