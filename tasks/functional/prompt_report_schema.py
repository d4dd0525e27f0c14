"""The keys of prompts.json: what a search for a prompt tried, chose, and what that is worth."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks.functional.report_schema import Metric, Section


class ClipCount(Section):
    """Clips of one role, and groups of each class."""

    clips: int
    groups: dict[str, int]


class PromptRow(Section):
    """A prompt that was asked. accuracy: balanced accuracy on the search clips, known where asked_in_full, else predicted
    when it was dropped; score: that less its length's penalty; asked: search clips that it was asked of."""

    number: int
    text: str
    answers: tuple[str, str]
    kind: str
    origin: str
    round: int
    by: Literal["hand", "llm", "grammar"]
    score: float | None
    accuracy: float | None
    asked_in_full: bool
    asked: int
    words: int
    style: list[str]


class Gains(Section):
    """The winner's balanced accuracy less that of the study's own prompt.

    search: on the clips that chose it, optimistic; held_out: on groups that took no part; chance: by how much the best of
    so many equal prompts is expected to look better than it is, on the clips that choose.
    """

    search: float
    held_out: Metric
    chance: float
    candidates: int


class Compared(Section):
    """A prompt on the held-out clips; gain: over the study's own prompt, paired."""

    number: int
    text: str
    by: str
    search_accuracy: float | None
    held_out: Metric
    gain: Metric


class StyleEffect(Section):
    """Mean balanced accuracy of the prompts with a trait less that of those without, on the search clips."""

    trait: str
    with_it: int
    without: int
    difference: Metric


class Round(Section):
    """One round: its candidates, what it asked, and the best prompt after it with its score."""

    round: int
    candidates: int
    evaluations: int
    best: int
    score: float


class Dropped(Section):
    """A candidate that was never asked."""

    round: int
    text: str
    reason: str


class Evaluations(Section):
    """Answers to one clip and prompt. search, held_out: what the search and the judgement took; full_search: what asking
    every prompt of every search clip takes."""

    search: int
    full_search: int
    held_out: int


class ModelSearch(Section):
    """One model's search; `reference` and `best` are positions in `prompts`; length_penalty: taken from a score a word."""

    reference: int
    best: int
    prompts: list[PromptRow]
    clips: dict[str, ClipCount]
    gains: Gains
    compared: list[Compared]
    styles: list[StyleEffect]
    rounds: list[Round]
    dropped: list[Dropped]
    evaluations: Evaluations
    stopped: str
    length_penalty: float
    listening: dict[str, Any]


class Cell(Section):
    """One cell of the 2 x 2."""

    prompt: str
    balanced_accuracy: Metric


class LevelGain(Section):
    """Both prompts at one level of a factor, on the same test clips."""

    clips: int
    by_hand: Metric
    searched: Metric
    gain: Metric


class Tested(Section):
    """One model on test under both prompts; gain: paired."""

    clips: ClipCount
    by_hand: Cell
    searched: Cell
    gain: Metric
    by: dict[str, dict[str, LevelGain]]


class PromptReport(BaseModel):
    """prompts.json. models: "base" and "adapter" as far as they were searched; test: the 2 x 2; looks: of the test
    clips, these included."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    schema_version: int = Field(1, alias="schema", serialization_alias="schema")
    study: str
    classes: tuple[str, str]
    verdict_lines: list[str]
    models: dict[str, ModelSearch]
    test: dict[str, Tested]
    looks: dict[str, Any]
    provenance: dict[str, Any]
