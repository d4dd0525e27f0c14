"""What a proposer LLM is told, and what is read in its answer: the meta-prompt of OPRO (Yang et al. 2023, appendix C)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

BEGIN, END = "<INS>", "</INS>"
MOST_READ = 4  # lines of an answer that names no instruction


class Scored(NamedTuple):
    """A prompt with its balanced accuracy on the search clips, known or predicted, in [0, 1]."""

    text: str
    score: float


class Mistake(NamedTuple):
    """A clip that the best prompt gets wrong, in words: what it is, and what was answered."""

    clip: str
    answered: str
    truth: str


def meta_prompt(
    history: Sequence[Scored],
    answers: tuple[str, str],
    classes: Sequence[str],
    mistakes: Sequence[Mistake],
    *,
    most: int,
    most_words: int,
) -> list[dict[str, str]]:
    """The chat turn that asks for one new prompt: the task, the best `most` prompts in ascending order, and mistakes."""
    best = sorted(history, key=lambda one: one.score)[-most:]
    shown = "\n\n".join(f"text:\n{one.text}\nscore:\n{100 * one.score:.0f}" for one in best)
    wrong = "".join(f"\n- {one.clip}: answered {one.answered}, true answer {one.truth}" for one in mistakes)
    a, b = answers
    text = (
        "Your task is to write the instruction that an audio language model gets together with one short, noisy clip. It "
        f"must answer {a} where the clip is {classes[0]} and {b} where it is {classes[1]}. "
        "Below are some previous instructions with their scores, worst first. The score is the balanced accuracy in "
        f"percent; higher is better.\n\n{shown}\n\n"
        + (f"Clips that the best of them gets wrong:{wrong}\n\n" if wrong else "")
        + "Write one new instruction that is different from all of the above and has a higher score than any of them. It "
        f"names both choices, {a} and {b}, has at most {most_words} words, and does not give the answer away or mention "
        f"single clips. It begins with {BEGIN} and ends with {END}. Write nothing else."
    )
    return [{"role": "user", "content": text}]


def read_proposals(answers: Sequence[str]) -> list[str]:
    """The instructions in what an LLM said: what stands between the marks, else in square brackets, else its first lines
    without numbers, bullets and names. Whether they can be asked is another question (`prompt_text.usable`)."""
    found = []
    for said in answers:
        marked = re.findall(rf"{BEGIN}(.*?)(?:{END}|$)", said, re.DOTALL)
        bracketed = re.findall(r"^\s*\[(.{8,}?)\]\s*$", said, re.DOTALL | re.MULTILINE)
        lines = [line for line in said.splitlines() if line.strip()][:MOST_READ]
        found += (
            marked
            or bracketed
            or [re.sub(r"^\s*(\d+[.)]|[-*•]|[Tt]ext:|[Ii]nstruction:)\s*", "", line) for line in lines]
        )
    return [" ".join(text.split()) for text in found if text.strip()]


def describe_clip(row: Mapping[Any, Any]) -> str:
    """A clip in words, as far as its factors are known: a language model cannot hear it."""
    parts = [
        f"{row['duration_ms']:g} ms" if _there(row, "duration_ms") else "",
        f"{row['snr_db']:g} dB SNR" if _there(row, "snr_db") else "no noise added",
        f"band {row['band']}" if _there(row, "band") and row["band"] != "clean" else "",
        f"reverberant ({row['room']})" if _there(row, "room") else "",
        str(row["family"]) if _there(row, "family") and row["family"] else "",
    ]
    return ", ".join(part for part in parts if part)


def _there(row: Mapping[Any, Any], name: str) -> bool:
    value = row.get(name)
    return value is not None and value == value
