"""P over the answers for many clips and one prompt or several, as fast as the machine goes and exact."""

import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tasks.audio_files import samples_of
from tasks.functional.decoding import answer_scores, answers_token_ids
from tasks.models import decoder, family
from tasks.models.batches import BatchSizes, Clock, on_device, on_host, passed
from tasks.models.encoder_cache import EncoderCache
from tasks.models.encoding import Encoder, Ready
from tasks.models.frames import Rate
from tasks.models.score_log import Rows, ScoreLog

Method = Literal["forward", "generate", "open"]
OPEN_TOKENS = 8  # at most so many are said freely


class Answers(NamedTuple):
    """For clips in their order: P(first answer), the free probability of any answer, and whether the likeliest allowed
    token says the first; all (n,)."""

    p_first: NDArray[np.float64]
    answer_mass: NDArray[np.float64]
    said_first: NDArray[np.bool_]


class Question(NamedTuple):
    """A prompt as tokens, and which tokens say each answer."""

    prompt: family.Prompt
    ids: dict[str, list[int]]

    @property
    def allowed(self) -> list[int]:
        """Every token that says an answer."""
        return sorted(token for tokens in self.ids.values() for token in tokens)


def questions(processor: Any, prompts: Sequence[str], answers: Sequence[str]) -> list[Question]:
    """One question a prompt, all with the same answers."""
    ids = answers_token_ids(processor.tokenizer, answers)
    return [Question(family.tokenise_prompt(processor, prompt), ids) for prompt in prompts]


# --- one batch ---------------------------------------------------------------------------------------------------


Starts = dict[tuple[int, ...], Any]  # what stands before the audio -> what is known after it, as the method keeps it


def forward(
    model: nn.Module, clips: Sequence[family.Encoded], asked: Sequence[Question], starts: Starts | None = None
) -> list[torch.Tensor]:
    """`narrowed` logits of every question for clips of one length, with the head at the last position only.

    What stands before the audio is gone through once for all clips (and all batches, by `starts`); with several
    questions, so are a clip's audio and the tokens with which all of them begin. Raises ValueError for clips of
    several lengths.
    """
    if len(lengths := {clip.tokens for clip in clips}) > 1:
        raise ValueError(f"clips of {sorted(lengths)} audio tokens in one batch; they must be of one length")
    text = model.model.language_model
    starts = {} if starts is None else starts
    audio = torch.stack([clip.vectors for clip in clips], dim=1)
    found: dict[int, torch.Tensor] = {}
    for before, group in itertools.groupby(range(len(asked)), key=lambda i: tuple(asked[i].prompt.before)):
        these = list(group)
        if before not in starts:
            known = decoder.advance(text, embedded(model, before, 1), keep=True)[1] if before else decoder.NOTHING
            starts[before] = known
        states = hidden_states(model, audio, [asked[i].prompt.after for i in these], starts[before])
        for i, state in zip(these, states, strict=True):
            found[i] = narrowed(family.head(model, state), asked[i].allowed)
    return [found[i] for i in range(len(asked))]


def hidden_states(
    model: nn.Module, audio: torch.Tensor, afters: Sequence[Sequence[int]], start: decoder.Past
) -> Iterator[torch.Tensor]:
    """The last hidden states (n, width) behind the start, the clips' vectors (tokens, n, width) and each of the texts
    after them."""
    text, n = model.model.language_model, audio.shape[1]
    if len(afters) == 1:
        yield decoder.advance(text, torch.cat([audio, embedded(model, afters[0], n)]), start)[0]
        return
    alike = itertools.takewhile(lambda tokens: len({*tokens}) == 1, zip(*(ids[:-1] for ids in afters), strict=False))
    common = [tokens[0] for tokens in alike]
    _, known = decoder.advance(text, torch.cat([audio, embedded(model, common, n)]), start, keep=True)
    for after in afters:
        yield decoder.advance(text, embedded(model, after[len(common) :], n), known)[0]


def embedded(model: nn.Module, ids: Sequence[int], n: int) -> torch.Tensor:
    """The embeddings (tokens, n, width) of one text for n rows."""
    embed = model.get_input_embeddings()
    tokens = on_device(torch.tensor(ids, dtype=torch.long), embed.weight.device)
    return embed(tokens)[:, None].expand(-1, n, -1)


def generate(
    model: nn.Module,
    clips: Sequence[family.Encoded],
    asked: Sequence[Question],
    pad: int,
    starts: Starts | None = None,
) -> list[torch.Tensor]:
    """`narrowed` logits of every question from transformers' own `generate`, constrained to the answers.

    Clips may be of any lengths. Raises ValueError where generation does not say the likeliest of the allowed tokens.
    """
    starts = {} if starts is None else starts
    found = []
    for question in asked:
        before = tuple(question.prompt.before)
        if before not in starts:
            starts[before] = family.known_start(model, before) if before else None
        batch = family.collate(clips, question.prompt, [[]] * len(clips), pad, pad_after=len(before))
        batch = {key: value.to(model.device) for key, value in batch.items()}
        tokens, logits = family.generated_logits(model, batch, question.allowed, starts[before])
        said = torch.tensor(question.allowed, device=model.device)[logits[:, question.allowed].argmax(dim=1)]
        if not torch.equal(tokens, said):
            raise ValueError(
                "generation said another token than the likeliest of those allowed: its constraint failed"
            )
        found.append(narrowed(logits, question.allowed))
    return found


def say_freely(
    model: nn.Module, clips: Sequence[family.Encoded], asked: Sequence[Question], pad: int
) -> list[torch.Tensor]:
    """For every question the tokens (n, OPEN_TOKENS) that transformers' own greedy `generate` says, filled up with `pad`."""
    found = []
    for question in asked:
        batch = family.collate(clips, question.prompt, [[]] * len(clips), pad)
        batch = {key: value.to(model.device) for key, value in batch.items()}
        said = family.said_freely(model, batch, OPEN_TOKENS, question.prompt.end, pad)
        found.append(nn.functional.pad(said, (0, OPEN_TOKENS - said.shape[1]), value=pad))
    return found


def narrowed(logits: torch.Tensor, allowed: Sequence[int]) -> torch.Tensor:
    """(n, allowed + 1): the logits of the allowed tokens, and last the logsumexp over all others, so that a softmax
    over a row is that over the vocabulary."""
    index = torch.tensor(allowed, device=logits.device)
    rest = logits.index_fill(1, index, -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.cat([logits[:, index], rest], dim=1)


def answers_of(narrow: NDArray[np.float32], question: Question) -> Answers:
    """Answers from `narrowed` logits."""
    column = {token: i for i, token in enumerate(question.allowed)}
    ids = {answer: [column[token] for token in tokens] for answer, tokens in question.ids.items()}
    p_first, mass = answer_scores(narrow, ids)
    likeliest = narrow[:, :-1].argmax(axis=1)
    return Answers(p_first, mass, np.isin(likeliest, next(iter(ids.values()))))


def refuse_broken(places: Sequence[int], found: Rows, n: int) -> None:
    """Raise ValueError, naming a clip, where a batch's logits are no numbers."""
    for rows in found:
        broken = np.isnan(rows).any(axis=1) | ~np.isfinite(rows[:, :-1]).all(axis=1)
        if broken.any():
            raise ValueError(
                f"clip {places[int(broken.argmax())] + 1} of {n}: the logits of its answers are not finite, so it has no "
                "probability; the model is broken or overflowed, and what was scored before is kept"
            )


def behind(asked: Sequence[Question]) -> int:
    """The most tokens that a question puts behind the audio."""
    return max(len(question.prompt.after) for question in asked)


# --- many batches ------------------------------------------------------------------------------------------------


class Asking(NamedTuple):
    """What is asked of every batch, in which way, and what has been kept of the texts before the audio."""

    questions: Sequence[Question]
    method: Method
    starts: Starts


def cost_of(ready: Sequence[Ready], asking: Asking) -> int:
    """Tokens that a batch takes of the language model."""
    return len(ready) * behind(asking.questions) + sum(item.tokens for item in ready)


def costs_of(clips: Sequence[bytes], asked: Sequence[Question], rate: Rate) -> list[int]:
    """Tokens that each clip takes of the language model."""
    return [rate.audio_tokens(samples_of(clip)) + behind(asked) for clip in clips]


def recalled(
    clips: Sequence[bytes], costs: Sequence[int], sizes: BatchSizes, log: ScoreLog | None
) -> tuple[list[tuple[list[int], Rows]], list[int]]:
    """What a log knows of clips that cost so many tokens, and where the others stand, in rising order of their costs.

    Where batches have a fixed number of rows only whole ones count: those that are left are then the same as ever, and
    so is every bit of their answers. Where memory decides, a clip counts by itself.
    """
    order: list[int] = np.argsort(costs, kind="stable").tolist()
    if log is None or not len(log):
        return [], order
    rising = sorted(costs)
    known, left = [], []
    while order:
        size = sizes.take(rising) if sizes.rows else 1
        places, order, rising = order[:size], order[size:], rising[size:]
        its = [clips[i] for i in places]
        rows = log.batch(its) if sizes.rows else log.clip(its[0])
        if rows is None:
            left += places
        else:
            known.append((places, rows))
    return known, left


class Batch(NamedTuple):
    """A batch that the device has been set to work on: where its clips stand, what is on its way to the host (logits
    for every question, new vectors by clip), and a call that waits for it."""

    places: list[int]
    narrow: list[torch.Tensor]
    vectors: dict[str, torch.Tensor]
    wait: Callable[[], None]


class Scorer:
    """One model's answers for FLAC clips.

    Batches are made of clips of one length; with `batch_size` None they grow on a GPU while its memory allows. Clips
    are made ready in threads while the model works.
    """

    def __init__(
        self, model: nn.Module, processor: Any, cache: EncoderCache | None = None, batch_size: int | None = None
    ) -> None:
        self.model = model
        self.pad: int = processor.tokenizer.pad_token_id
        self.encoder = Encoder(model, processor, cache)
        self.sizes = BatchSizes(self.encoder.device, batch_size)
        self.clock = Clock(self.encoder.device)

    def with_batches_of(self, rows: int) -> Self:
        """The same over batches of so many rows."""
        other = copy.copy(self)
        other.sizes = BatchSizes(self.encoder.device, rows)
        return other

    def score(
        self,
        clips: Sequence[bytes],
        asked: Sequence[Question],
        method: Method = "forward",
        log: ScoreLog | None = None,
    ) -> list[Answers]:
        """The answers to every question for all clips, in their order."""
        narrow = [np.full((len(clips), len(question.allowed) + 1), np.nan, np.float32) for question in asked]
        for places, found in self.scored(clips, asked, method, log):
            for whole, part in zip(narrow, found, strict=True):
                whole[places] = part
        return [answers_of(whole, question) for whole, question in zip(narrow, asked, strict=True)]

    def scored(
        self,
        clips: Sequence[bytes],
        asked: Sequence[Question],
        method: Method = "forward",
        log: ScoreLog | None = None,
    ) -> Iterator[tuple[list[int], Rows]]:
        """Batch by batch, where its clips stand in `clips` and every question's `narrowed` logits (of "open": tokens) for
        them; with a `log`, first what it knows already, and every other batch kept in it before it is handed on.

        A batch is handed on when the next one has been begun, so that a GPU never waits for what is done with it.
        Raises ValueError for a clip that gives the model no audio token, for one that is too much alone, and for logits
        that are no numbers.
        """
        costs = costs_of(clips, asked, self.encoder.rate)
        known, order = recalled(clips, costs, self.sizes, log)
        yield from known
        for places, found in self.asked(clips, order, [costs[i] for i in order], asked, method):
            refuse_broken(places, found, len(clips))
            if log is not None:
                log.add([clips[i] for i in places], found)
            yield places, found

    def asked(
        self, clips: Sequence[bytes], order: list[int], costs: list[int], asked: Sequence[Question], method: Method
    ) -> Iterator[tuple[list[int], Rows]]:
        """The clips that `order` names, asked batch by batch."""
        asking = Asking(asked, method, {})
        begun: deque[Batch] = deque()
        with self.encoder.readers() as pool:
            feed = self.encoder.read_ahead(pool, [clips[i] for i in order], costs, self.sizes)
            while order:
                size = self.sizes.take(costs)
                places, order, costs = order[:size], order[size:], costs[size:]
                for batch in self.begin(places, list(itertools.islice(feed, size)), asking):
                    begun.append(batch)
                    if len(begun) > 1:
                        yield self.end(begun.popleft())
            while begun:
                yield self.end(begun.popleft())
        if self.encoder.cache is not None:
            self.encoder.cache.flush()

    def begin(self, places: list[int], ready: list[Ready], asking: Asking) -> Iterator[Batch]:
        """Set the device to work on a batch; in halves where it is too much for its memory."""
        try:
            batch = self.launch(places, ready, asking)
        except torch.OutOfMemoryError as error:
            if len(places) == 1:
                raise ValueError(
                    "not even one clip fits beside the model into the memory of this GPU; free it or quantise the model"
                ) from error
        else:
            yield batch
            return
        self.sizes.too_much(
            len(ready), cost_of(ready, asking)
        )  # outside of the handler, whose traceback holds on to the memory
        half = len(places) // 2
        yield from self.begin(places[:half], ready[:half], asking)
        yield from self.begin(places[half:], ready[half:], asking)

    @torch.inference_mode()
    def launch(self, places: list[int], ready: list[Ready], asking: Asking) -> Batch:
        """Encode what is yet to be encoded, and ask."""
        with self.clock.working(), self.sizes.measuring(cost_of(ready, asking)):
            clips, new = self.encoder.encode(ready)
            if asking.method == "forward":
                found = forward(self.model, clips, asking.questions, asking.starts)
            elif asking.method == "generate":
                found = generate(self.model, clips, asking.questions, self.pad, asking.starts)
            else:
                found = say_freely(self.model, clips, asking.questions, self.pad)
            narrow = [on_host(logits) for logits in found]
        return Batch(places, narrow, new, passed(self.encoder.device))

    def end(self, batch: Batch) -> tuple[list[int], Rows]:
        """What a batch has given, once it has."""
        batch.wait()
        self.encoder.keep(batch.vectors)
        return batch.places, [logits.numpy() for logits in batch.narrow]
