"""From rows to the batch of a training step, every index that the step needs worked out here, on the host."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset

from recipes.training import AugmentBlock
from tasks.audio_files import decode_flac
from tasks.functional.decoding import answers_token_ids
from tasks.models import family
from tasks.models.augmenting import Augmented
from tasks.models.families import rate_for
from tasks.models.packing import pack

IGNORED = -100


class Collator:
    """Rows -> a packed batch with labels on the answer, the turn or the whole sequence; -100 elsewhere.

    Clips are what a frozen encoder made of them, in `encoded`, or features that are computed here, with `augment` anew in
    every `epoch`, `noises` being the rows that may be heard behind others. Raises ValueError for a label that is no class
    and for an answer of several tokens.
    """

    def __init__(
        self,
        processor: Any,
        clips: Dataset,
        prompt: str,
        answers: dict[str, str],
        loss_on: str,
        encoded: Sequence[family.Encoded] | None = None,
        *,
        augment: AugmentBlock | None = None,
        noises: Sequence[int] = (),
        class_weight: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        tokenizer = processor.tokenizer
        self.prompt = family.tokenise_prompt(processor, prompt)
        self.answer_ids = answers_token_ids(tokenizer, list(answers.values()))
        self.loss_on = loss_on
        self.rate = rate_for(processor)
        self.pad = tokenizer.pad_token_id
        end = [] if loss_on == "answer" else [self.prompt.end]
        bare = {label: tokenizer.encode(answer, add_special_tokens=False) for label, answer in answers.items()}
        for label, ids in bare.items():
            if len(ids) != 1:
                raise ValueError(
                    f"the answer {answers[label]!r} is {len(ids)} tokens at the start of a turn; choose one token"
                )
        self.completions = {label: [*ids, *end] for label, ids in bare.items()}
        self.labels = list(clips["label"])
        if unknown := sorted(set(self.labels) - set(answers)):
            raise ValueError(f"a training clip has the label {unknown[0]!r}, the classes are {list(answers)}")
        self.class_weight = class_weight
        # Features are computed once a clip, not once an epoch; the audio itself is only a few KB of FLAC a row.
        self.clips: Sequence[family.Clip | family.Encoded] = encoded or family.extract(
            processor, (decode_flac(audio["bytes"]) for audio in clips["audio"])
        )
        self.tokens_of = [clip.tokens for clip in self.clips]
        self.epoch = 0
        self.augmented: Augmented | None = None
        if augment:
            plain = [clip for clip in self.clips if isinstance(clip, family.Clip)]
            flacs = [audio["bytes"] for audio in clips["audio"]]
            self.augmented = Augmented(processor, flacs, plain, augment, seed, noises)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The batch of a step, packed: what the model takes, `labels`, and of the tokens those before a label (`scored`),
        their `targets`, and which of these are the answer (`answers`)."""
        index = [row["row"] for row in rows]
        clips = [self.heard(row) for row in rows]
        completions = [self.completions[self.labels[i]] for i in index]
        # Labels on the beginning are every row's own, and then it is not shared.
        shared = self.prompt.before if self.loss_on != "sequence" else []
        own = self.prompt.before[len(shared) :]
        turns = [
            [*own, *[self.prompt.audio_token] * clip.tokens, *self.prompt.after, *completion]
            for clip, completion in zip(clips, completions, strict=True)
        ]
        packed = pack(shared, turns)
        labels = torch.tensor([*[IGNORED] * len(shared), *(label for turn in turns for label in self.labels_of(turn))])
        labelled = (labels != IGNORED).nonzero()[:, 0]
        ends = len(shared) + torch.tensor([len(turn) for turn in turns]).cumsum(0)
        audio = family.audio_inputs(clips)
        if "feature_attention_mask" in audio:
            audio["audio_kept"] = family.token_places(audio["feature_attention_mask"], self.rate)
        batch = {
            "input_ids": packed.ids,
            "position_ids": packed.positions,
            "layout": packed.layout,
            **audio,
            "labels": labels[None],
            "scored": labelled - 1,
            "targets": labels[labelled],
            "answers": torch.searchsorted(labelled, ends - len(completions[0])),
        }
        if packed.places is not None:
            batch["places"] = packed.places
        if self.class_weight:
            weights = torch.tensor([self.class_weight.get(self.labels[i], 1.0) for i in index])
            batch["weights"] = weights[torch.searchsorted(ends, labelled, right=True)]
        return batch

    def heard(self, row: dict[str, Any]) -> family.Clip | family.Encoded:
        """A clip as it is heard in this epoch; one of dev always as it is."""
        if self.augmented and not row.get("dev"):
            return self.augmented.heard(row["row"], self.epoch)
        return self.clips[row["row"]]

    @property
    def tokens(self) -> set[int]:
        """Every token that occurs in a batch."""
        said = {token for completion in self.completions.values() for token in completion}
        return {*self.prompt.before, self.prompt.audio_token, *self.prompt.after, *said, self.pad}

    def labels_of(self, turn: Sequence[int]) -> list[int]:
        """The tokens of a row that the loss falls on, the others ignored. Its first token follows nothing."""
        if self.loss_on == "sequence":
            return [IGNORED, *(IGNORED if token == self.prompt.audio_token else token for token in turn[1:])]
        answered = len(next(iter(self.completions.values())))
        return [*[IGNORED] * (len(turn) - answered), *turn[-answered:]]

    def prompts(self, index: Sequence[int]) -> dict[str, torch.Tensor]:
        """The batch of these rows without their answers, for scoring."""
        return family.collate([self.clips[i] for i in index], self.prompt, [[]] * len(index), self.pad)
