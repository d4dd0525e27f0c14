"""Prompts without a language model: a deterministic grammar of edits, and prompts put together from parts."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from tasks.functional.prompt_text import Wording, same

OPENINGS = (
    "", "Listen to the audio.", "Based on the audio file:", "Choose one:", "Decide what you hear.",
    "The clip is short and noisy.", "Listen carefully to this very short clip.", "Is there a voice?",
)  # fmt: skip
CHOICES = (
    "{a}) {first} {b}) {second}", "{a}) {first} (human voice) {b}) {second} (music/noise/silence/animals)",
    "{a} = {first}, {b} = {second}", "{a}: {first}. {b}: {second}", "Is it {a}) {first} or {b}) {second}?",
    "{a} for {first}, {b} for {second}", "Is it {first} ({a}) or {second} ({b})?",
    "{a} = contains a human voice, {b} = does not",
)  # fmt: skip
ENDINGS = (
    "", "Answer with {a} or {b}.", "Answer with {a} or {b} ONLY.", "Reply with one letter: {a} or {b}.", "{a} or {b}?",
    "Which one, {a} or {b}?", "Answer:",
)  # fmt: skip
WORDS: Mapping[str, tuple[str, ...]] = {
    "audio": ("clip", "recording", "sound"), "clip": ("audio", "recording"), "human voice": ("speech", "someone talking"),
    "voice": ("human voice", "speaker"), "Answer with": ("Reply with", "Respond with", "Say"),
    "Choose one": ("Pick one", "Select one"),
    "Listen to": ("Hear", "Consider"),
    "music/noise/silence/animals": ("anything else", "no voice", "music, noise or animals"),
    "contains": ("has", "holds"), "Decide": ("Determine", "Judge"),
}  # fmt: skip


def propose(
    best: Sequence[str], n: int, answers: tuple[str, str], classes: Sequence[str], known: Sequence[str], seed: int
) -> list[str]:
    """Up to n prompts that are not among `known`, in turn edits of the best ones and new ones put together from parts.

    The same arguments give the same prompts. The edits of the best prompt come first.
    """
    random = np.random.default_rng(seed)
    taken, found = {same(text) for text in known}, list[str]()
    streams = [_shuffled(list(edits(Wording(text, answers))), random) for text in best]
    streams.append(_shuffled(list(composed(answers, classes)), random))
    turn = 0
    while len(found) < n and any(streams):
        stream = streams[turn % len(streams)]
        turn += 1
        while stream:
            text = same(stream.pop())
            if text not in taken:
                taken.add(text)
                found.append(text)
                break
    return found


def composed(answers: tuple[str, str], classes: Sequence[str]) -> Iterator[str]:
    """Every opening, choice and ending together, in both orders of the choices."""
    names = {"a": answers[0], "b": answers[1], "first": classes[0], "second": classes[1]}
    for opening in OPENINGS:
        for choice in CHOICES:
            for ending in ENDINGS:
                yield " ".join(part.format(**names) for part in (opening, choice, ending) if part)


def edits(prompt: Wording) -> Iterator[str]:
    """Every prompt that one edit makes of this one."""
    text = prompt.text
    for edit in EDITS:
        changed = edit(prompt)
        if same(changed) != same(text):
            yield changed
    for old, others in WORDS.items():
        if re.search(rf"\b{re.escape(old)}\b", text):
            replaced = (re.sub(rf"\b{re.escape(old)}\b", new, text, count=1) for new in others)
            yield from (said for said in replaced if not re.search(r"\b(\w+) \1\b", said))  # "human human voice"
    sentences = re.findall(r"[^.?!]+[.?!]?", text)
    for k in range(len(sentences)) if len(sentences) > 1 else ():
        yield " ".join(sentence.strip() for i, sentence in enumerate(sentences) if i != k)


def _without_brackets(prompt: Wording) -> str:
    return re.sub(r"\s*\([^)]*\w{2,}[^)]*\)", "", prompt.text)


def _with_ending(ending: str) -> Callable[[Wording], str]:
    def edit(prompt: Wording) -> str:
        a, b = prompt.answers
        written = [old.format(a=a, b=b) for old in ENDINGS if old]
        known = next((old for old in written if prompt.text.endswith(old)), "")
        text = prompt.text.removesuffix(known).rstrip()
        return f"{text if text.endswith(('.', '?')) else text + '.'} {ending.format(a=a, b=b)}"

    return edit


def _with_opening(opening: str) -> Callable[[Wording], str]:
    def edit(prompt: Wording) -> str:
        known = next((old for old in OPENINGS if old and prompt.text.startswith(old)), "")
        return f"{opening} {prompt.text.removeprefix(known).strip()}"

    return edit


def _calm(prompt: Wording) -> str:
    """Commands in capitals made lower case; answers, classes and single letters stay."""
    return re.sub(r"\b(ONLY|ONE|MUST|NOT|ALWAYS|WORD|LETTER)\b", lambda found: found.group().lower(), prompt.text)


def _loud(prompt: Wording) -> str:
    return re.sub(r"\b(only|one|voice|human|speech)\b", lambda found: found.group().upper(), prompt.text)


def _lower(prompt: Wording) -> str:
    return re.sub(r"[A-Z]{3,}", lambda found: found.group().lower(), prompt.text)


def _as_question(prompt: Wording) -> str:
    a, b = prompt.answers
    return f"{re.sub(r'^(Choose|Pick|Select) one: *', 'Which is it: ', prompt.text).rstrip(' .')}: {a} or {b}?"


def _swapped(prompt: Wording) -> str:
    """The two choices in the other order, each with its own letter, where they are written as "A) ... B) ..."."""
    a, b = (re.escape(answer) for answer in prompt.answers)
    pattern = rf"({a}\)[^.?!]*?)\s+({b}\)[^.?!]*?)(?=[.?!]|$)"
    return re.sub(pattern, lambda found: f"{found[2].strip()} {found[1].strip()}", prompt.text)


EDITS: tuple[Callable[[Wording], str], ...] = (
    _without_brackets, _calm, _loud, _lower, _as_question, _swapped,
    *(_with_ending(ending) for ending in ENDINGS if ending), *(_with_opening(opening) for opening in OPENINGS if opening),
)  # fmt: skip


def _shuffled(items: list[str], random: np.random.Generator) -> list[str]:
    return [items[k] for k in random.permutation(len(items))]
