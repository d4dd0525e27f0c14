"""From token scores to answers: which tokens say an answer, and how likely each answer is among them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class AnswerScores(NamedTuple):
    """P(first answer) given that one of the answers is said, and the free probability that any is; both (n,), in [0,1]."""

    p_first: NDArray[np.float64]
    answer_mass: NDArray[np.float64]


def answer_token_ids(tokenizer: Any, answer: str) -> list[int]:
    """Every single token that decodes to the answer, bare or after a space: Qwen2 has "A" = 32 and " A" = 362.

    Raises ValueError where the answer takes more than one token: only a single token can be constrained and scored.
    """
    found = []
    for text in (answer, f" {answer}"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) == 1 and tokenizer.decode(ids) == text:
            found.append(int(ids[0]))
    if not found:
        pieces = tokenizer.encode(answer, add_special_tokens=False)
        raise ValueError(
            f"the answer {answer!r} is {len(pieces)} tokens of this tokenizer; answers are one token, such as A"
        )
    return sorted(set(found))


def answers_token_ids(tokenizer: Any, answers: Sequence[str]) -> dict[str, list[int]]:
    """Answer -> its token ids. Raises ValueError where two answers share a token."""
    ids = {answer: answer_token_ids(tokenizer, answer) for answer in answers}
    flat = [token for tokens in ids.values() for token in tokens]
    if len(set(flat)) != len(flat):
        raise ValueError(f"the answers {list(answers)} share a token: {ids}")
    return ids


def answer_scores(logits: NDArray[np.floating], ids: Mapping[str, Sequence[int]]) -> AnswerScores:
    """Scores of the first of two answers from next-token logits.

    `logits` (n, vocabulary) may hold -inf for tokens that were not allowed. P sums over an answer's variants and is
    normalised over the tokens of both answers; the mass is over the whole vocabulary.
    """
    first, second = (list(tokens) for tokens in ids.values())
    exact = np.asarray(logits, dtype=np.float64)
    log_all = _logsumexp(exact)
    log_first, log_second = _logsumexp(exact[:, first]), _logsumexp(exact[:, second])
    log_either = np.logaddexp(log_first, log_second)
    if not np.isfinite(log_either).all():
        row = int(np.flatnonzero(~np.isfinite(log_either))[0])
        raise ValueError(
            f"row {row}: the logits of the answers {list(ids)} are not finite; the model is broken or overflowed"
        )
    return AnswerScores(np.exp(log_first - log_either), np.exp(log_either - log_all))


def _logsumexp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    top = values.max(axis=1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(values - top).sum(axis=1)) + top[:, 0]
