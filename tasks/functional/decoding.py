"""From token scores to answers: which tokens say an answer, and how likely each answer is among them."""

import re
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


# --- free answers ------------------------------------------------------------------------------------------------

OpenRules = Mapping[str, Sequence[str]]  # class -> the words that name it, its letter among them
NEGATIONS = r"(?:no|not|non|without|never|cannot|\w+n't)"
# What may stand between a negation and the word that it negates, as in "does not contain any human speech".
BETWEEN = (
    r"(?:a|an|any|the|some|of|to|be|like|have|has|hear|heard|contain|contains|include|includes|sound|seem|appear|"
    r"human|clear|audible)"
)


def open_rules(
    classes: Sequence[str], answers: Sequence[str], also: OpenRules | None = None
) -> dict[str, tuple[str, ...]]:
    """The words that name each class in a free answer: its answer, its name, and those that are declared beside them."""
    words = zip(classes, answers, strict=True)
    return {name: (answer, name, *(also or {}).get(name, ())) for name, answer in words}


def map_open_answer(text: str, rules: OpenRules) -> str | None:
    """The class that a free answer names, or None where it names none, both, or one by a negation only.

    Capitals and spaces do not matter, "NON-SPEECH" and "non speech" are NONSPEECH. A word of one letter names its class at
    the beginning, alone or before one of `) . : ,`: "A", "A) SPEECH", but not "A dog". Of words that overlap the longest
    counts, and a negated one counts for none: behind "no", "not", "non", "without", "never", "cannot" or a verb with "n't",
    also where words such as "contain", "any" or "human" stand between.
    """
    rest, named = " ".join(text.replace("’", "'").split()).casefold(), set[str]()
    letters = {word.casefold(): name for name, words in rules.items() for word in words if len(word) == 1}
    if (start := re.match(r"\W*(\w)\s*(?:[).:,]|$)", rest)) and start[1] in letters:
        named.add(letters[start[1]])
        rest = rest[start.end() :]
    words = {word: name for name, its in rules.items() for word in its if len(word) > 1}
    for word in sorted(words, key=len, reverse=True):
        spelt = re.sub(r"^non(?=\w)", r"non[\\s-]?", re.escape(word.casefold()))
        found = rf"(?P<negated>\b{NEGATIONS}[\s-]+(?:{BETWEEN}\s+)*)?\b{spelt}\b"
        if any(match["negated"] is None for match in re.finditer(found, rest)):
            named.add(words[word])
        rest = re.sub(found, " ", rest)
    return named.pop() if len(named) == 1 else None
