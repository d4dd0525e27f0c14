"""Published adapters as they are asked: what they are, what they were measured on, and where their base lies."""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml
from pydantic import ValidationError

from recipes.clips import ContextBlock
from recipes.explaining import explain
from recipes.prompts import PromptBlock, prompt_block
from tasks.functional.predictions import FIXED_THRESHOLD
from tasks.hub import locate, pull
from tasks.models.families import facts_by_class
from tasks.models.frames import MAX_FRAMES, Rate
from tasks.models.jobs import FULL_WEIGHTS, BaseAt, Question, base_at
from tasks.store import read_json

LONGEST_MS = 10 * MAX_FRAMES


class Published(NamedTuple):
    """A published adapter: what it is asked, and what its card was measured on."""

    name: str
    folder: Path
    base: tuple[str, str]  # repository and revision
    question: Question
    quantization: dict[str, Any] | None
    threshold: float  # of P as the model says it
    temperature: float | None  # fitted on dev; None where the card has none
    durations_ms: tuple[float, float] | None  # shortest and longest test clip
    context: ContextBlock | None
    normalise_to: Any
    rate: Rate  # of the base's audio tokens
    warning: str = ""  # what holds for whatever it is asked

    def asking(self, prompt: str) -> "Published":
        """The adapter under another prompt: a text, or the name or path of a recipe of one.

        Temperature and threshold were fitted to the card's prompt, so neither is used. Raises ValueError where it is no
        prompt, FileNotFoundError where there is no such recipe.
        """
        try:
            block = PromptBlock.model_validate(prompt_block(prompt))
        except ValidationError as error:
            raise ValueError(f"--prompt {prompt}: {explain(error, PromptBlock)}") from error
        if block.text == self.question.prompt:
            return self
        question = self.question.model_copy(
            update={"prompt": block.text, "answers": block.answers or self.question.answers}
        )
        warning = "asked by another prompt than the card was measured with"
        return self._replace(question=question, threshold=FIXED_THRESHOLD, temperature=None, warning=warning)


def find_adapter(name: str) -> Published:
    """What a published adapter's report and recipe say. Raises ValueError where it was not published by Earshot."""
    folder, _ = locate(name)
    weights = FULL_WEIGHTS if (folder / FULL_WEIGHTS).is_file() else "adapter_model.safetensors"
    for file in (weights, "report.json", "recipe.yaml"):
        if not (folder / file).is_file():
            raise ValueError(
                f"{name} holds no {file}: what an adapter is asked, and what it is worth, stand in the report it was "
                "published with"
            )
    report = read_json(folder / "report.json")
    origin = report["provenance"]
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))["dataset"]["clips"]
    test = pd.read_parquet(folder / "predictions.parquet", columns=["split", "duration_ms"]).query("split == 'test'")
    lengths = test["duration_ms"].dropna()
    question = Question(
        classes=tuple(origin["classes"]),
        answers=tuple(origin["answers"]),
        prompt=origin["prompt"],
        longest_ms=LONGEST_MS,
    )
    return Published(
        name=name, folder=folder, base=(origin["base"]["repo"], origin["base"]["revision"]), question=question,
        quantization=origin["quantization"], threshold=threshold_of(report),
        temperature=temperature_of(report),
        durations_ms=(float(lengths.min()), float(lengths.max())) if len(lengths) else None,
        context=ContextBlock(**recipe["context"]) if recipe.get("context") else None,
        normalise_to=recipe.get("normalise", "peak"), rate=facts_by_class(origin.get("base_class"), name).rate,
    )  # fmt: skip


def threshold_of(report: dict[str, Any]) -> float:
    """The threshold by which the adapter of the first fold answers; .5 where the report has none."""
    threshold = report["threshold"]
    value = threshold["by_fold"].get("0") if threshold["value"] is None else threshold["value"]
    return FIXED_THRESHOLD if value is None else float(value)


def temperature_of(report: dict[str, Any]) -> float | None:
    """The temperature that was fitted on dev for the adapter of the first fold; None where there is none, or the report
    itself flags the fit: separable, inverted or at its bound."""
    dev = (report.get("calibration") or {}).get("dev") or {}
    fit = (dev.get("folds") or {}).get("0")
    if fit is None or fit["at_bound"] or fit["temperature_flag"] is not None:
        return None
    return float(fit["temperature"])


def base_of(adapter: str, base: tuple[str, str], other: str | None) -> BaseAt:
    """Where the base of an adapter, repository and revision, is loaded from: a place that is given, Hugging Face's cache,
    the home or the Hub.

    Raises FileNotFoundError where it is nowhere, ValueError where a folder that is given holds another base than the folder
    by whose name and content the adapter names its own.
    """
    repo, revision = base
    if other is not None:
        try:
            given = base_at(other, None, None)
        except (FileNotFoundError, ValueError) as error:  # it was named by no recipe
            raise type(error)(str(error).replace("train.base:", "--base:", 1)) from error
        if "/" not in repo and given.public_revision != revision:
            raise ValueError(
                f"the content of {given.load} is {given.public_revision}, and this is an adapter of {repo}@{revision}: give "
                "a folder that holds that one with --base"
            )
        return given
    if "/" not in repo:
        raise FileNotFoundError(
            f"{adapter} is an adapter of {repo}@{revision}, which is not here: it is a folder of whoever trained the "
            "adapter, called by its name and content; give a folder that holds it with --base"
        )
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(repo, "config.json", revision=revision), str):
        return BaseAt(repo, revision, repo, revision)
    try:
        return BaseAt(str(pull("model", repo, revision)), None, repo, revision)
    except (FileNotFoundError, ValueError) as error:
        raise FileNotFoundError(
            f"{adapter} is an adapter of {repo}@{revision}, which is not here: {error}; "
            "give a folder that holds it with --base"
        ) from error
