"""Prompts and the search for them: what a recipe may say of either."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from recipes.block import Block, Count, Seed, distinct, is_pinned
from recipes.reading import read_yaml

Kind = Literal["choice", "multiple_choice", "labels", "open"]


def spelt(answers: Any) -> Any:
    """Answers as they were written: YAML reads Yes and No without quotation marks as true and false."""
    if not isinstance(answers, list | tuple):
        return answers
    return [
        {True: "Yes", False: "No"}.get(answer, answer) if isinstance(answer, bool) else answer for answer in answers
    ]


Answers = Annotated[tuple[str, str], BeforeValidator(spelt), AfterValidator(distinct)]
QWEN = "Qwen/Qwen2.5-3B-Instruct@aa8e72537993ba99e69dfaafa59ed015b17504d1"


class ChosenOn(Block):
    """The clips that chose a prompt: it may not be tested on these."""

    splits: str  # fingerprint of the audited splits
    parts: tuple[str, ...]


class PromptBlock(Block):
    """One prompt: what is asked, which single tokens answer it, and where it comes from."""

    name: str = ""
    text: str = Field(min_length=1)
    answers: Answers | None = None  # in the order of the classes; null: the study's
    kind: Kind = "choice"
    origin: str = "unnamed"
    chosen_on: ChosenOn | None = None

    @field_validator("text")
    @classmethod
    def _one_line(cls, text: str) -> str:
        if not text.strip() or "<|" in text:
            raise ValueError(
                f"{text[:60]!r} is no question: give words, and none of a model's own marks such as <|im_end|>"
            )
        return text.strip()


def prompt_block(given: Any) -> Any:
    """A prompt's block from its text, the name or path of a YAML with one, or a mapping.

    A text that ends in .yaml or begins with prompt/ is a recipe, any other is the prompt itself.
    """
    if not isinstance(given, str):
        return given
    if re.fullmatch(r"prompt/[\w.-]+|\S+\.ya?ml", given.strip()):
        return read_yaml(given.strip())
    return {"text": given}


Prompt = Annotated[PromptBlock, BeforeValidator(prompt_block)]


def _listed(given: Any) -> Any:
    content = read_yaml(given) if isinstance(given, str) else given
    return content["prompts"] if isinstance(content, Mapping) and "prompts" in content else content


class ProposerBlock(Block):
    """Who writes new prompts: a local instruct LLM as OPRO has it, or a deterministic grammar of edits.

    `auto` takes the LLM where its files are on this machine, else the grammar, and says which.
    """

    kind: Literal["auto", "llm", "grammar"] = "auto"
    model: str = QWEN  # a Hub id with its revision, or a folder
    device: Literal["auto", "cpu", "cuda"] = "auto"
    load_in_4bit: bool = True  # NF4, where CUDA is
    temperature: float = Field(1.0, gt=0, le=2)
    history: Count = 20  # best prompts shown to it, in ascending order
    errors: int = Field(3, ge=0, le=20)  # clips that the best prompt gets wrong, described
    attempts: Count = 3  # calls a round while it has given too few usable ones
    tokens: int = Field(96, ge=8, le=1000)  # new ones a proposal

    @field_validator("model")
    @classmethod
    def _pinned(cls, model: str) -> str:
        if not model.startswith((".", "/", "~")) and not is_pinned(model):
            raise ValueError(
                f"{model!r} is neither a folder nor a Hub id with its revision: NAMESPACE/NAME@<40 hex digits>"
            )
        return model


class RaceBlock(Block):
    """Successive elimination on paired blocks of clips, the first one of whole groups."""

    blocks: int = Field(
        15, ge=3, le=100
    )  # each holds so small a part of the clips; two are asked before any is dropped
    confidence: float = Field(0.98, gt=0.5, lt=1)  # that an eliminated prompt stays below the leader


class BudgetBlock(Block):
    """When a search ends before its rounds do."""

    evaluations: Count | None = None  # answers to one clip and prompt
    minutes: float | None = Field(None, gt=0)


class PromptRecipe(Block):
    """A search for a prompt on dev clips: candidates, rounds, objective, and who may be asked."""

    name: str = "search"
    prompts: Annotated[tuple[Prompt, ...], BeforeValidator(_listed)] = Field(
        default_factory=lambda: _listed("prompt/handwritten"), validate_default=True, min_length=1
    )
    proposer: ProposerBlock = ProposerBlock()
    over: Annotated[tuple[Literal["base", "adapter"], ...], AfterValidator(distinct)] = Field(
        ("base", "adapter"), min_length=1
    )
    rounds: int = Field(5, ge=0, le=100)  # of new prompts; 0: only those given
    candidates: Count = 8  # new prompts a round
    clips: int = Field(150, ge=2)  # of dev, stratified by class, groups kept whole
    held_out: float = Field(0.5, gt=0, lt=1)  # share of dev groups that take no part and score the winner again
    race: RaceBlock | None = RaceBlock()  # null: every candidate on every clip
    length_penalty: float = Field(0.0, ge=0, le=0.05)  # taken from the objective for every word
    most_words: int = Field(60, ge=3, le=400)  # longer ones are dropped
    budget: BudgetBlock = BudgetBlock()
    batch_size: Count | None = None
    n_boot: int = Field(2000, ge=100)
    seed: Seed = 0
    timeout_min: float = Field(240, gt=0)

    @model_validator(mode="after")
    def _texts_differ(self) -> Self:
        texts = [prompt.text for prompt in self.prompts]
        if twice := [text for text in texts if texts.count(text) > 1]:
            raise ValueError(f"prompts: {twice[0]!r} stands there twice")
        return self


def default_search() -> PromptRecipe:
    """The search of a study that names none."""
    return PromptRecipe.model_validate(read_yaml("prompt/racing"))
