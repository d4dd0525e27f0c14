"""What the parent tells the children that search for a prompt: one asks the audio LLM, one the proposer."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from recipes.prompts import PromptBlock, PromptRecipe
from tasks.models.jobs import AskingJob


class PromptJob(AskingJob):
    """A whole search by one model, with or without an adapter."""

    files: tuple[str, ...]  # of the dev parts
    clips: str  # a parquet: clip_id, label, group_id, role, block and the factors of each dev clip that is asked
    reference: PromptBlock  # the study's own prompt
    recipe: PromptRecipe


class ProposingJob(BaseModel):
    """n answers of an instruct LLM to one chat."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str  # a folder, or a Hub id
    revision: str | None
    device: Literal["auto", "cpu", "cuda"]
    load_in_4bit: bool
    messages: list[dict[str, str]]
    n: int
    temperature: float
    tokens: int
    seed: int
    output: str  # a JSON file
