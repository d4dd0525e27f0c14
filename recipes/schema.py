"""What a study may say: every key, its unit and its range. An unknown key is an error, so a typo never trains a model."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from recipes.block import CELL, NAME, PINNED, REPOSITORY, Block
from recipes.clips import ClipsBlock
from recipes.data import DatasetRecipe
from recipes.evaluation import OTHERS, SEEDS, Baseline, EvaluateRecipe
from recipes.explaining import explain, keys_of
from recipes.goals import GoalBlock
from recipes.hub_terms import Licence
from recipes.prompts import PromptBlock, PromptRecipe, prompt_block, spelt
from recipes.reading import apply_overrides, opened, read_yaml
from recipes.sampling import OF_SOURCES, Sampled, refuse_absent_levels, refuse_unknown_factors
from recipes.training import TrainRecipe

SCHEMA = 1


class CheckFailed(ValueError):
    """A check that a study makes of itself did not pass: a leak, the gate, an agreement, a claim without evidence."""


OF_CELLS = ("train.", "dataset.clips.", "evaluate.prompt")
TRAINED, TESTED = "train.clips.", "test.clips."  # of the clips that train; of those of dev and test
SHARED_BY_CELLS = tuple(
    f"train.{key}" for key in ("base", "pretrain", "seeds", "gate", "name", "timeout_min", "device")
)
RepositoryName = Annotated[str, Field(pattern=REPOSITORY)]
Pinned = Annotated[str, Field(pattern=PINNED)]  # a repository and its commit


class PublishBlock(Block):
    """Under which names the parts are published, and where: in the home's own hub, or on the Hub (HF_ENDPOINT, HF_TOKEN)."""

    namespace: RepositoryName = "earshot"
    dataset: RepositoryName
    adapter: RepositoryName
    licence: Licence = "mit"  # of the adapter
    to: Literal["home", "hub"] = "home"
    private: bool = True  # this and the next are read where `to` is hub
    create_pr: bool = False  # propose to a repository instead of committing to it

    @model_validator(mode="after")
    def _own_names(self) -> Self:
        if self.dataset == self.adapter:
            raise ValueError(f"dataset and adapter are both called {self.dataset!r}; give each a name of its own")
        return self


def by_name(kind: str) -> BeforeValidator:
    """A block may be the name of a recipe of its kind, or `like: NAME` with what is different."""
    return BeforeValidator(partial(opened, kind=kind))


class StudyRecipe(Block):
    """One study: a data set, an adapter, the detectors it stands beside, and where the result is published."""

    schema_version: int = Field(SCHEMA, alias="schema")
    name: str = Field(pattern=NAME)
    description: str = ""
    classes: tuple[str, str] = ("SPEECH", "NONSPEECH")  # the first one is the positive one
    answers: Annotated[tuple[str, str], BeforeValidator(spelt)] = (
        "A",
        "B",
    )  # in the order of the classes, one token each
    prompt: str = (
        "Choose one: A) SPEECH (human voice) B) NONSPEECH (music/noise/silence/animals). Answer with A or B ONLY."
    )
    dataset: Annotated[DatasetRecipe, by_name("dataset")]
    dataset_from: Pinned | None = (
        None  # set by `dataset: NAMESPACE/NAME@sha`: pulled from there and audited, not built
    )
    adapter: Pinned | None = None  # evaluated instead of one that is trained
    train: Annotated[TrainRecipe, by_name("train")]
    evaluate: Annotated[EvaluateRecipe, by_name("evaluate")]
    search: Annotated[PromptRecipe | None, by_name("prompt")] = (
        None  # what `earshot prompts` does; null: prompt/racing
    )
    publish: PublishBlock
    goals: tuple[GoalBlock, ...] = ()  # judged by the intervals of the report
    then: str | None = None  # the study that follows where every goal is met
    otherwise: str | None = Field(None, alias="else")  # the one that follows where some goal is not, or is undecidable
    # cell -> what it changes, as --set has it: each a training of its own, scored on the same clips, in one report;
    # train.clips. and test.clips. change clips that train or clips that judge, evaluate.prompt only the question
    ablation: dict[Annotated[str, Field(pattern=CELL)], tuple[str, ...]] = Field(default_factory=dict)
    inflation: bool = False  # train and score the same clips under random folds as well: what leakage would have added

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)

    def in_public(self, base: str) -> dict[str, Any]:
        """The recipe as it is published: a folder of this machine goes by what the `base` is called, NAME@content."""
        content = self.model_dump(mode="json", by_alias=True)
        if self.train.base != "tiny":  # a Hub id is called by itself
            content["train"]["base"] = base
        return content

    @property
    def longest_ms(self) -> float:
        """Length of the longest waveform that its base ever gets, in any cell."""
        every = [block for name in ("", *self.ablation) for block in self.cell_clips(name).values()]
        longest_ms = max(block.longest_ms for block in every)
        return max(longest_ms, self.train.pretrain.duration_ms) if self.train.base == "tiny" else longest_ms

    @property
    def shortest_ms(self) -> float:
        """Length of the shortest waveform that its base ever gets, in any cell."""
        every = [block for name in ("", *self.ablation) for block in self.cell_clips(name).values()]
        return min(block.shortest_ms for block in every)

    @model_validator(mode="before")
    @classmethod
    def _open_published(cls, content: Any, info: ValidationInfo) -> Any:
        """`dataset: NAMESPACE/NAME@sha` stands for the recipe that lies in that data set."""
        named = content.get("dataset") if isinstance(content, dict) else None
        if not isinstance(named, str) or "@" not in named:
            return content
        if (read := (info.context or {}).get("published")) is None:
            raise ValueError(f"dataset: {named} is a published data set, and only recipes are read here")
        return {**content, "dataset": read(named), "dataset_from": named}

    @model_validator(mode="before")
    @classmethod
    def _open_prompt(cls, content: Any) -> Any:
        """`prompt` may be a recipe of one, by name, path or as a block: its text, and its answers where it has some."""
        given = prompt_block(content.get("prompt")) if isinstance(content, dict) else None
        if not isinstance(given, Mapping) or "text" not in given:
            return content
        block = PromptBlock.model_validate(given)
        return {**content, "prompt": block.text, **({"answers": block.answers} if block.answers else {})}

    @model_validator(mode="after")
    def _published_parts_suffice(self) -> Self:
        if self.dataset_from and self.inflation:
            raise ValueError(
                "inflation deals the clips anew at random; build the data set for that instead of pulling it"
            )
        if self.adapter and (self.inflation or len(self.train.seeds) != 1):
            raise ValueError(
                "adapter: one adapter is evaluated; leave out inflation and name its seed, train.seeds=[N]"
            )
        splits = self.dataset.splits
        if self.inflation and (not splits.folds or splits.protocol == "random"):
            raise ValueError(
                "inflation compares folds by group with random folds on the same clips: it needs dataset.splits "
                "{protocol: group, folds: K}; two different test sets show no inflation"
            )
        return self

    def cell(self, name: str) -> "StudyRecipe":
        """The study as one cell of its ablation has it, its data set as it is judged there.

        Raises ValueError where the cell changes what all cells share.
        """
        return self._changed(self._overrides_of(name, TESTED))

    def cell_clips(self, name: str = "") -> dict[str, ClipsBlock]:
        """Part -> its clips in one cell, by default in the study: cells may train on other clips than judge them."""
        tested = self.cell(name).dataset if name else self.dataset
        trained = self._changed(self._overrides_of(name, TRAINED)).dataset if name else self.dataset
        sides = self.dataset.splits.sides(0)
        return {part: (trained if side == "train" else tested).clips_of(part) for part, side in sides.items()}

    def sampled(self) -> Iterator[Sampled]:
        """Where clips of some levels are drawn oftener, cell by cell and fold by fold."""
        splits = self.dataset.splits
        for name in ("", *self.ablation):
            sampling, clips = (self.cell(name) if name else self).train.sampling, self.cell_clips(name)
            key = f"ablation.{name}: train.sampling" if name else "train.sampling"
            for fold in range(splits.folds or 1) if sampling else ():
                sides, of = splits.sides(fold), f" of fold {fold}" if splits.folds else ""
                heard = {part: block for part, block in clips.items() if sides[part] == "train"}
                yield Sampled(key, sampling, heard, of)

    def weights_of(self, name: str = "") -> str:
        """What the weights of one cell's adapters, by default the study's, depend on beside fold and seed."""
        method = (self.cell(name) if name else self).train.method
        sides, clips = self.dataset.splits.sides(0), self.cell_clips(name)
        heard = [
            block.model_dump_json()
            for part, block in clips.items()
            if self.dataset.splits.folds or sides[part] == "train"
        ]
        return "".join([method.model_dump_json(), *heard])

    def _overrides_of(self, name: str, own: str) -> list[str]:
        """A cell's overrides as --set has them, those of the clips of `own` sides as if of all. Raises ValueError."""
        overrides = []
        for override in self.ablation[name]:
            key = override.partition("=")[0].strip()
            of_sides = key.startswith((TRAINED, TESTED))
            if not of_sides and (not key.startswith(OF_CELLS) or key.startswith(SHARED_BY_CELLS)):
                raise ValueError(
                    f"{key} is the same for all cells, which share base, seeds, gate and groups; a cell changes other keys "
                    "of train., those of dataset.clips. (train.clips. and test.clips. where clips that train and clips that "
                    "judge differ), or evaluate.prompt"
                )
            if of_sides and self.dataset.splits.folds:
                raise ValueError(f"{key}: in folds every part trains and is judged; give dataset.splits.fractions")
            if key.startswith(own):
                overrides.append(f"dataset.clips.{override.strip().removeprefix(own)}")
            elif not of_sides:
                overrides.append(override)
        return overrides

    def _changed(self, overrides: Sequence[str]) -> "StudyRecipe":
        content = self.model_dump(mode="json", by_alias=True, exclude={"ablation", "goals", "then", "otherwise"})
        return StudyRecipe.model_validate(apply_overrides(content, overrides))

    @model_validator(mode="after")
    def _cells_are_right(self) -> Self:
        if self.ablation and (self.inflation or self.adapter):
            raise ValueError("ablation trains cells beside each other: leave out inflation and adapter")
        for name in self.ablation:
            if name in {*OTHERS, *get_args(Baseline), *self.evaluate.ensembles}:
                raise ValueError(f"ablation.{name} has the name of a detector; give it one of its own")
            try:
                changed, clips = self.cell(name), self.cell_clips(name)
            except ValidationError as error:
                raise ValueError(f"ablation.{name}: {explain(error, StudyRecipe)}") from error
            except ValueError as error:
                raise ValueError(f"ablation.{name}: {error}") from error
            if (changed.train, changed.evaluate, clips) == (self.train, self.evaluate, self.cell_clips()):
                raise ValueError(f"ablation.{name} changes nothing: it would be the study itself once more")
        return self

    @model_validator(mode="after")
    def _adapters_are_there(self) -> Self:
        for name, block in self.evaluate.ensembles.items():
            if SEEDS in block.of and len(self.train.seeds) < 2:
                raise ValueError(
                    f"evaluate.ensembles.{name}: seeds are {len(self.train.seeds)}; name two in train.seeds"
                )
        if self.train.seeds:
            return self
        if self.ablation or self.inflation:
            raise ValueError("train.seeds=[] trains no adapter: leave out ablation and inflation, or name a seed")
        if self.search and "adapter" in self.search.over:
            raise ValueError("train.seeds=[] trains no adapter: set search.over=[base], or name a seed")
        for name, block in self.evaluate.ensembles.items():
            if "adapter" in block.of:
                raise ValueError(f"evaluate.ensembles.{name}: train.seeds=[] trains no adapter; name a seed")
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are scored, the headline first."""
        return ("adapter", "base") if self.train.seeds else ("base",)

    @model_validator(mode="after")
    def _goals_can_be_judged(self) -> Self:
        scored = [*self.models, "no_audio", *self.evaluate.baselines, *self.evaluate.ensembles, *self.ablation]
        scored += [f"{model}_open" for model in self.models] if self.evaluate.open else []
        for at, goal in enumerate(self.goals):
            try:
                goal.check(self.classes, scored)
            except ValueError as error:
                raise ValueError(f"goals.{at}: {error}") from error
        if (self.then or self.otherwise) and not self.goals:
            raise ValueError("then and else follow from `goals`, and there are none")
        return self

    @property
    def asked(self) -> PromptBlock:
        """What every test clip is asked: `evaluate.prompt`, else the study's own prompt; with its answers."""
        block = self.evaluate.prompt or PromptBlock(text=self.prompt, origin="the study's own")
        return block if block.answers else block.model_copy(update={"answers": self.answers})

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if len(set(self.classes)) != 2 or len(set(self.answers)) != 2:
            raise ValueError("classes and answers are two different names each")
        if self.evaluate.open and (unknown := sorted(set(self.evaluate.open.words) - set(self.classes))):
            raise ValueError(f"evaluate.open.words: {unknown[0]!r} is none of the classes {list(self.classes)}")
        if unknown := sorted(set(self.train.loss.class_weight) - set(self.classes)):
            raise ValueError(f"train.loss.class_weight: {unknown[0]!r} is none of the classes {list(self.classes)}")
        noise = self.train.augment.noise
        if noise and noise.kind == "clips" and self.classes[1] == "SPEECH":
            raise ValueError(
                "train.augment.noise: clips of the second class, SPEECH, behind the others would make their labels untrue: "
                "use white or pink noise, or put SPEECH first"
            )
        asked = self.asked
        by_itself = asked.kind == "open" or {*map(str.lower, asked.answers or ())} == {
            "yes",
            "no",
        }  # as any question does
        for answer in () if by_itself else asked.answers or ():
            if not re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", asked.text):
                raise ValueError(
                    f"prompt: {asked.text!r} leaves out the choices: it does not offer the answer {answer!r}, so no model "
                    "could know to give it; name both answers in it, or set `answers`"
                )
        for source in self.dataset.sources:
            named = [getattr(source, "label", None), *getattr(source, "labels", {}).values()]
            for label in named if source.role == "content" else []:
                if label is not None and label not in self.classes:
                    raise ValueError(
                        f"source {source.kind}: label {label!r} is none of the classes {list(self.classes)}"
                    )
        return self


# --- reading -----------------------------------------------------------------------------------------------------


def load_study(
    recipe: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    published: Callable[[str], Mapping[str, Any]] | None = None,
) -> StudyRecipe:
    """A checked study, from its name, path or mapping, with overrides applied; `published` reads the recipe that lies in
    NAMESPACE/NAME@sha.

    Raises ValueError in one sentence a key, each naming the key, the value and what is accepted.
    """
    content = dict(recipe) if isinstance(recipe, Mapping) else read_yaml(recipe)
    content = apply_overrides(content, overrides)
    if "adapters" in content:
        raise ValueError(
            f"{recipe} compares what was published: `earshot run` and `earshot plan` take it, and no other"
        )
    _refuse_block(recipe, content)
    if isinstance(version := content.get("schema", SCHEMA), int) and version > SCHEMA:
        raise ValueError(f"the recipe has schema {version}, this Earshot reads up to {SCHEMA}: update Earshot")
    try:
        study = StudyRecipe.model_validate(content, context={"published": published})
    except ValidationError as error:
        raise ValueError(explain(error, StudyRecipe)) from error
    _refuse_absent_samples(study)
    if not isinstance(recipe, Mapping):  # a published recipe may name studies of the machine it was written on
        for follows in filter(None, (study.then, study.otherwise)):
            read_yaml(follows)
    return study


def _refuse_absent_samples(study: StudyRecipe) -> None:
    """Raise ValueError where clips of a level are to be drawn oftener and no training clip can have it."""
    for its in study.sampled():
        levels = [block.levels for block in its.clips.values()]
        there = {factor: [level for one in levels for level in one[factor]] for factor in levels[0]}
        there |= {"part": [*its.clips], "label": [*study.classes]}
        refuse_unknown_factors(its, (*there, *OF_SOURCES))
        refuse_absent_levels(its, there)


BLOCKS: Mapping[str, tuple[str, type[BaseModel]]] = {  # key of a study -> what its recipe is called, and what it is
    "dataset": ("a data set", DatasetRecipe), "train": ("a training", TrainRecipe),
    "evaluate": ("an evaluation", EvaluateRecipe), "search": ("a search for prompts", PromptRecipe),
    "prompt": ("a prompt", PromptBlock), "publish": ("a publication", PublishBlock),
}  # fmt: skip


def _refuse_block(recipe: str | Path | Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Raise ValueError, with the way out, where a recipe has more keys of one block of a study than of a study."""

    def shared(model: type[BaseModel]) -> int:
        return len(content.keys() & set(keys_of(model)))

    key, (what, model) = max(BLOCKS.items(), key=lambda block: shared(block[1][1]))
    if shared(model) > shared(StudyRecipe):
        raise ValueError(
            f"{recipe} is the recipe of {what}, which a study names: study/demo with --set {key}={recipe}, for example"
        )
