"""From rows to the batch of a training step, every index that the step needs worked out here, on the host."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import nn

from tasks.audio_files import decode_flac
from tasks.functional.decoding import answers_token_ids
from tasks.models import qwen2_audio as family

IGNORED = -100


class Collator:
    """Rows -> a left-padded batch with labels on the answer, the turn or the whole sequence; -100 elsewhere.

    Clips are what a frozen encoder made of them, in `encoded`, or features that are computed here.
    """

    def __init__(
        self,
        processor: Any,
        clips: Dataset,
        prompt: str,
        answers: dict[str, str],
        loss_on: str,
        encoded: Sequence[family.Encoded] | None = None,
    ) -> None:
        tokenizer = processor.tokenizer
        self.prompt = family.tokenise_prompt(processor, prompt)
        self.answer_ids = answers_token_ids(tokenizer, list(answers.values()))
        self.loss_on = loss_on
        self.pad = tokenizer.pad_token_id
        end = [] if loss_on == "answer" else tokenizer.encode("<|im_end|>", add_special_tokens=False)
        bare = {label: tokenizer.encode(answer, add_special_tokens=False) for label, answer in answers.items()}
        for label, ids in bare.items():
            if len(ids) != 1:
                raise ValueError(
                    f"the answer {answers[label]!r} is {len(ids)} tokens at the start of a turn; choose one token"
                )
        self.completions = {label: [*ids, *end] for label, ids in bare.items()}
        self.labels = list(clips["label"])
        # Features are computed once a clip, not once an epoch; the audio itself is only a few KB of FLAC a row.
        self.clips: Sequence[family.Clip | family.Encoded] = encoded or family.extract(
            processor, (decode_flac(audio["bytes"]) for audio in clips["audio"])
        )

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch of a step: what the model takes, `labels`, and of the row-major flattened positions those before a
        label (`scored`), their `targets`, and which of them say the answer (`answers`)."""
        index = [row["row"] for row in rows]
        completions = [self.completions[self.labels[i]] for i in index]
        batch = family.collate([self.clips[i] for i in index], self.prompt, completions, self.pad)
        ids, mask = batch["input_ids"], batch.pop("attention_mask")
        # A row's first token follows nothing: what it would be told from is padding, or not there.
        behind = nn.functional.pad(mask[:, :-1], (1, 0))
        labels = ids.masked_fill((behind == 0) | (ids == self.prompt.audio_token), IGNORED)
        answer = ids.shape[1] - len(completions[0])
        if self.loss_on != "sequence":
            labels[:, :answer] = IGNORED
        row, column = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        if not mask.all():
            batch["attention_mask"] = attended(mask)
        return {
            **batch,
            "labels": labels,
            "scored": row * ids.shape[1] + column,
            "targets": labels[row, column + 1],
            "answers": (column + 1 == answer).nonzero()[:, 0],
        }

    def prompts(self, index: Sequence[int]) -> dict[str, torch.Tensor]:
        """The batch of these rows without their answers, for scoring."""
        return family.collate([self.clips[i] for i in index], self.prompt, [[]] * len(index), self.pad)


def attended(mask: torch.Tensor) -> torch.Tensor:
    """Which positions each position looks at (rows, 1, positions, positions), of a padding mask (rows, positions).

    As transformers makes it of the mask, which would take it to ask the device whether anything is padded at all.
    Padding looks at itself, for a softmax over nothing is no number, and nobody looks at padding.
    """
    positions = torch.arange(mask.shape[1])
    seen = (positions[None, :] <= positions[:, None]) & mask.bool()[:, None, :]
    return (seen | (positions[None, :] == positions[:, None]))[:, None]
