"""Prompts as text: which may be asked, which are the same, and how they are written."""

import re
from collections.abc import Sequence
from typing import NamedTuple

MOST_WORDS = 60
FEWEST_WORDS = 3
COMMANDS = (
    "answer", "choose", "classify", "categorize", "categorise", "decide", "detect", "determine", "identify", "indicate",
    "judge", "label", "listen", "mark", "name", "output", "pick", "reply", "respond", "return", "say", "select", "tell",
    "write",
)  # fmt: skip
IF = re.compile(
    r"\b(if|when|whenever|where|for|unless|otherwise|else|means?|stands? for|in case)\b|=|:", re.IGNORECASE
)
TELLS = re.compile(
    rf"\b({'|'.join(COMMANDS)}|always|never|correct|right|true|must|should)\b|\b(this|the|it|that)\b.*\b(is|are|contains?|has|holds?)\b",
    re.IGNORECASE,
)
NOT_TEXT = re.compile(r"<\||\|>|</?[a-z_]+>|[\x00-\x08\x0b-\x1f\x7f�]|https?://", re.IGNORECASE)
EXAMPLE = re.compile(
    r"\b(clip|example|recording|file) ?(no\.?|number|#)? ?\d+\b|\bscores?:|\binput:|\b\d+ ?(ms|db)\b", re.IGNORECASE
)


class Wording(NamedTuple):
    """A prompt: what is asked, and the two answers it asks for, the positive class's first."""

    text: str
    answers: tuple[str, str]


class Style(NamedTuple):
    """How a prompt is written."""

    question: bool  # ends with, or consists of, a question
    command: bool  # begins with a verb that commands
    capitals: bool  # words in capitals beside the answers and the classes
    swapped: bool  # names the second class or answer first
    examples: bool  # explains a class in brackets or by a slash
    words: int

    @property
    def short(self) -> bool:
        """Ten words or fewer."""
        return self.words <= 10


def same(text: str) -> str:
    """What two prompts that differ in nothing but spaces and quotation marks have in common. Capitals make a difference."""
    plain = text.translate(str.maketrans("“”‘’`", "\"\"'''"))
    return re.sub(r"\s+", " ", plain).strip().strip("\"'").strip()


def style_of(prompt: Wording, classes: Sequence[str]) -> Style:
    """How a prompt is written; its answers and the classes may stand in capitals without counting as such."""
    words = re.findall(r"[\w'-]+", prompt.text)
    ours = {
        part for name in (*prompt.answers, *classes, "NON-SPEECH", "NONSPEECH") for part in (name, *name.split("-"))
    }
    capitals = [word for word in words if word.isupper() and len(word) > 1 and word not in ours]
    return Style(
        question="?" in prompt.text,
        command=bool(words) and words[0].lower() in COMMANDS,
        capitals=bool(capitals),
        swapped=_first_named(prompt, classes) == 1,
        examples=bool(re.search(r"\([^)]*\w{3,}[^)]*\)|\w{3,}/\w{3,}", prompt.text)),
        words=len(words),
    )


def refusal(prompt: Wording, classes: Sequence[str], most_words: int = MOST_WORDS) -> str | None:
    """Why a prompt may not be asked, or None: it is no sentence, too long, leaves out the choices, or tells the answer."""
    text, n = prompt.text, len(prompt.text.split())
    if n < FEWEST_WORDS or not re.search(r"[A-Za-z]{3}", text):
        return f"has {n} {'word' if n == 1 else 'words'}: no question"
    if n > most_words or len(text) > 12 * most_words:
        return f"too long: {n} words and {len(text)} characters, {most_words} words are the most"
    if found := NOT_TEXT.search(text):
        return f"holds {found.group()!r}, which is no part of a question"
    if missing := unnamed(prompt):
        return f"leaves out the choices: {' and '.join(map(repr, missing))} must stand in it"
    if found := EXAMPLE.search(text):
        return f"quotes an example: {found.group()!r}"
    if leak := leaked(prompt, classes):
        return f"tells the answer: {leak!r}"
    return None


def unnamed(prompt: Wording) -> list[str]:
    """Answers that a prompt does not name. A question that yes and no answer need not name them."""
    if _is_yes_no(prompt) and "?" in prompt.text:
        return []
    return [answer for answer in prompt.answers if not _names(prompt.text, answer)]


def leaked(prompt: Wording, classes: Sequence[str]) -> str | None:
    """The first clause that asserts or commands one answer, or one class, without a condition and without the other one.

    "Answer with A or B" and "Answer A if you hear a voice" do not; "The answer is A" and "This clip is speech" do.
    """
    sides = [{prompt.answers[k], classes[k]} for k in (0, 1)]
    for clause in re.split(r"[.;!\n]+|\?(?=.)", prompt.text):
        if clause.rstrip().endswith("?") or _is_question(clause, prompt.text):
            continue
        named = [any(_names(clause, name) for name in side) for side in sides]
        if sum(named) == 1 and TELLS.search(clause) and not IF.search(clause):
            return clause.strip()
    return None


def usable(
    texts: Sequence[str], known: Sequence[str], answers: tuple[str, str], classes: Sequence[str], most_words: int
) -> tuple[list[str], list[tuple[str, str]]]:
    """Proposals that may be asked, each once, and what was dropped with the reason."""
    taken, kept, dropped = {same(text) for text in known}, [], []
    for given in texts:
        text = same(given)
        reason = (
            "the same as an earlier one" if text in taken else refusal(Wording(text, answers), classes, most_words)
        )
        if reason:
            dropped.append((given[:400], reason))
        else:
            taken.add(text)
            kept.append(text)
    return kept, dropped


# --- words -------------------------------------------------------------------------------------------------------


def _names(text: str, answer: str) -> bool:
    """Whether the answer stands in the text as a word of its own; a single letter as it is written."""
    if len(answer) == 1:
        pattern = rf"(?<![\w'-]){re.escape(answer)}(?![\w'-])"
        return bool(re.search(pattern, text))
    return bool(re.search(rf"(?<![\w-]){re.escape(answer)}(?![\w])", text, re.IGNORECASE))


def _is_yes_no(prompt: Wording) -> bool:
    return tuple(answer.lower() for answer in prompt.answers) == ("yes", "no")


def _is_question(clause: str, text: str) -> bool:
    at = text.find(clause)
    return text[at + len(clause) : at + len(clause) + 1] == "?"


def _first_named(prompt: Wording, classes: Sequence[str]) -> int | None:
    """Which of the two sides is named first, by its answer or its class; None where neither is."""

    def place(k: int) -> int:
        spots = [
            found.start()
            for name in {prompt.answers[k], classes[k], *(("NON-SPEECH",) if classes[k] == "NONSPEECH" else ())}
            if (found := re.search(rf"(?<![\w-]){re.escape(name)}(?![\w])", prompt.text))
        ]
        return min(spots, default=len(prompt.text) + 1)

    first, second = place(0), place(1)
    return None if first == second else int(second < first)
