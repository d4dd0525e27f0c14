"""What a recipe may say: every key, its unit and its range. An unknown key is an error, so a typo never trains a model."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from recipes.block import Block, Count, Unit, distinct
from recipes.hub_terms import known_language, known_licence
from recipes.prompts import Prompt, PromptBlock, PromptRecipe, prompt_block, spelt
from recipes.reading import apply_overrides, read_yaml
from recipes.sources import KINDS, Source
from recipes.training import PretrainBlock, TrainRecipe

SCHEMA = 1
SHARD_CLIPS = 2_000
SAMPLE_RATE_HZ = 16_000  # fixed by the feature extractor of Qwen2-Audio


class CheckFailed(ValueError):
    """A check that a study makes of itself did not pass: a leak, the gate, an agreement, a claim without evidence."""


Licence = Annotated[str, AfterValidator(known_licence)]
Language = Annotated[str, AfterValidator(known_language)]


# --- dataset: sides and clips ------------------------------------------------------------------------------------


class Fractions(Block):
    """Share of the groups of each class that goes to each side."""

    train: float = Field(0.6, gt=0, lt=1)
    dev: float = Field(0.2, gt=0, lt=1)
    test: float = Field(0.2, gt=0, lt=1)

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        if abs((total := self.train + self.dev + self.test) - 1) > 1e-6:
            raise ValueError(f"train + dev + test must be 1, not {total:g}")
        return self


class SplitsBlock(Block):
    """How recordings, noise and rooms are dealt, before anything is mixed."""

    protocol: Literal["group", "random"] = "group"  # random exists to measure leakage; it can never be a headline
    fractions: Fractions | None = None
    folds: int | None = Field(None, ge=3, le=20)  # K parts: fold k tests on part k, develops on part k+1
    by_family: bool = False  # deal each family of a class on its own, so that every part holds all of them
    seed: int = 42

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.fractions is None) == (self.folds is None):
            raise ValueError("give either `fractions: {train, dev, test}` or `folds: K`, not both and not neither")
        return self

    @property
    def parts(self) -> dict[str, float]:
        """Part -> its share of the groups."""
        if self.folds:
            return {f"part{k}": 1 / self.folds for k in range(self.folds)}
        assert self.fractions
        return self.fractions.model_dump()

    def sides(self, fold: int) -> dict[str, str]:
        """Part -> the side ("train", "dev" or "test") it takes in this fold."""
        if not self.folds:
            return {part: part for part in self.parts}
        return {
            f"part{k}": "test" if k == fold else "dev" if k == (fold + 1) % self.folds else "train"
            for k in range(self.folds)
        }


WEBRTC = {"mode": 3, "frame_ms": 30}


class HygieneBlock(Block):
    """Which recordings are what their class says, heard by a voice activity detector before anything is mixed.

    Measured is the share of speech in a recording's audible part, at the level of a clip. What holds less than
    `least_speech` in the first class, or more than `most_nonspeech` in the second and in the noise, is dropped.
    """

    detector: Literal["silero", "webrtc"] = "silero"  # needs the extra `vad`
    least_speech: Unit = 0.7
    most_nonspeech: Unit = 0.05
    mode: Literal[0, 1, 2, 3] | None = None  # of webrtc, by default 3, which lets least through
    frame_ms: Literal[10, 20, 30] | None = None  # of webrtc, by default 30

    @model_validator(mode="before")
    @classmethod
    def _as_webrtc_was_run(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("detector") != "webrtc":
            return given
        return {**given, **{name: value for name, value in WEBRTC.items() if given.get(name) is None}}

    @model_validator(mode="after")
    def _only_webrtc_has_settings(self) -> Self:
        if self.detector != "webrtc" and (self.mode is not None or self.frame_ms is not None):
            raise ValueError(f"mode and frame_ms belong to detector webrtc, {self.detector} has none: leave them out")
        return self


class ContextBlock(Block):
    """Padding inside the waveform, as a declared condition: without it 10-20 ms give the model no audio token."""

    kind: Literal["silence", "noise"]
    total_ms: float = Field(ge=25, le=30_000)


FAMILIES = ("environment", "music", "animals", "noise")


def _families(given: Any) -> Any:
    return FAMILIES if given is True else () if given in (False, None) else given


Duration = Annotated[float, Field(ge=10, le=30_000)]
Snr = Annotated[float, Field(ge=-40, le=60)] | None  # null: no noise added; 16 bits keep no noise much below 60 dB
Band = Literal["clean", "phone", "am_radio", "lowpass", "highpass"]


def _named_room(room: float | str | None) -> float | str | None:
    if isinstance(room, str) and room.strip().lower() in ("", "none", "null", "anechoic", "dry"):
        raise ValueError(f"room {room!r}: write null for no room; a name is the category of a source with role room")
    if isinstance(room, str) and re.fullmatch(r"[\d.]+", room):
        raise ValueError(f"room {room!r}: an RT60 is a number, without quotes")
    return room


# RT60 in s, the category of measured rooms, null: anechoic
Room = Annotated[Annotated[float, Field(gt=0, le=5)] | str | None, AfterValidator(_named_room)]


class ReferenceBlock(Block):
    """The condition that a one-at-a-time design leaves in one factor at a time."""

    duration_ms: Duration = 1000
    snr_db: Snr = None
    band: Band = "clean"
    room: Room = None
    alone: bool = False  # also a condition of its own, beside the levels that equal it


class ClipsBlock(Block):
    """Which clips each part has: the levels of each factor, and how they come together.

    `factorial` puts `per_cell` clips of each class into every combination; `margins` spreads `per_class` clips of each
    class over the combinations so that every level has equally many, for numbers that do not divide; `one_at_a_time`
    renders the same `per_class` cuts of each class in the reference and in every level of every factor.
    """

    design: Literal["factorial", "margins", "one_at_a_time"] = "factorial"
    duration_ms: tuple[Duration, ...] = Field(min_length=1)
    snr_db: tuple[Snr, ...] = Field(min_length=1)
    band: tuple[Band, ...] = Field(("clean",), min_length=1)
    room: tuple[Room, ...] = Field((None,), min_length=1)
    reference: ReferenceBlock = ReferenceBlock()  # read by one_at_a_time
    per_cell: Count | Mapping[str, Count] | None = None  # of factorial; for every part alike or by part
    per_class: Count | Mapping[str, Count] | None = None  # of the other two, likewise
    context: ContextBlock | None = None
    # equal shares of these families in every cell of the second class; true: FAMILIES. Wants splits.by_family
    balance_families: Annotated[tuple[str, ...], BeforeValidator(_families), AfterValidator(distinct)] = ()
    normalise: Literal["peak", "rms"] = "peak"  # rms only to show what it costs: it hands the level to the model
    seed: int = 7

    @field_validator("duration_ms", "snr_db", "band", "room")
    @classmethod
    def _distinct(cls, levels: tuple[Any, ...]) -> tuple[Any, ...]:
        return distinct(levels)

    @model_validator(mode="after")
    def _counted(self) -> Self:
        asked, other = ("per_cell", "per_class") if self.design == "factorial" else ("per_class", "per_cell")
        if getattr(self, asked) is None or getattr(self, other) is not None:
            raise ValueError(f"design {self.design} counts by `{asked}`: give it, and no `{other}`")
        return self

    @model_validator(mode="after")
    def _heard(self) -> Self:
        longest, shortest = max(self.durations_ms), min(self.durations_ms)
        if self.context:
            if self.context.total_ms < longest:
                raise ValueError(f"context.total_ms ({self.context.total_ms:g}) is shorter than the longest clip")
        elif shortest <= 20:
            raise ValueError(
                f"duration_ms {shortest:g} gives the model no audio token (20 ms and less give none): "
                "raise it to 25 or declare a context, e.g. `context: {kind: noise, total_ms: 200}`"
            )
        return self

    @property
    def durations_ms(self) -> tuple[float, ...]:
        """Every duration that occurs."""
        return (*self.duration_ms, *((self.reference.duration_ms,) if self.design == "one_at_a_time" else ()))

    @property
    def bands(self) -> tuple[str, ...]:
        """Every band that occurs."""
        reference = (self.reference.band,) if self.design == "one_at_a_time" else ()
        return tuple(dict.fromkeys((*self.band, *reference)))

    @property
    def conditions(self) -> int:
        """How many conditions there are."""
        sizes = [len(levels) for levels in (self.duration_ms, self.snr_db, self.band, self.room)]
        return sum(sizes) + self.reference.alone if self.design == "one_at_a_time" else math.prod(sizes)

    @property
    def clips_of_a_class(self) -> int:
        """Clips of each class in one part, where the number is that part's own (`DatasetRecipe.clips_of`)."""
        assert isinstance(self.per_part, int), "a part's block comes from DatasetRecipe.clips_of"
        return self.per_part if self.design == "margins" else self.conditions * self.per_part

    @property
    def shards(self) -> int:
        """Shards that one part is rendered in: each is a task of its own, kept when a run is killed."""
        return math.ceil(2 * self.clips_of_a_class / SHARD_CLIPS)

    @property
    def per_part(self) -> int | Mapping[str, int]:
        """Clips per cell or per class, for every part alike or by part."""
        given = self.per_cell if self.design == "factorial" else self.per_class
        assert given is not None, "_counted saw to it"
        return given

    @property
    def noise_ms(self) -> float:
        """Least length of a noise recording beyond that of the clip: a noisy context takes one stretch of noise."""
        return self.context.total_ms if self.context and self.context.kind == "noise" else 0.0

    @property
    def longest_ms(self) -> float:
        """Length of the longest waveform the model gets."""
        return self.context.total_ms if self.context else max(self.durations_ms)


def clean_block(pretrain: PretrainBlock, parts: int) -> ClipsBlock:
    """What a tiny base hears of one of `parts` training parts: clean clips, both classes alike."""
    per_cell = max(1, pretrain.clips // (2 * parts))
    return ClipsBlock(duration_ms=(pretrain.duration_ms,), snr_db=(None,), per_cell=per_cell, seed=pretrain.seed)


class DatasetRecipe(Block):
    """Recordings -> sides -> clips -> audited splits."""

    name: str
    description: str = ""
    licence: Licence = "other"  # of the set as a whole; `other` where that of its clips differs
    languages: Annotated[tuple[Language, ...], AfterValidator(distinct)] = ()  # that are spoken in it, ISO 639
    sources: tuple[Source, ...] = Field(min_length=1)
    hygiene: HygieneBlock | None = None
    splits: SplitsBlock
    clips: ClipsBlock

    @model_validator(mode="after")
    def _parts_are_known(self) -> Self:
        if isinstance(self.clips.per_part, Mapping) and set(self.clips.per_part) != set(self.splits.parts):
            key = "per_cell" if self.clips.design == "factorial" else "per_class"
            raise ValueError(
                f"clips.{key} names {sorted(self.clips.per_part)}, the parts are {list(self.splits.parts)}"
            )
        return self

    @property
    def at_random(self) -> Self:
        """The same clips under the protocol that leaks."""
        return self.model_copy(update={"splits": self.splits.model_copy(update={"protocol": "random"})})

    def clips_of(self, part: str) -> ClipsBlock:
        """The clips block of one part: what another part holds does not matter to it."""
        given = self.clips.per_part
        key = "per_cell" if self.clips.design == "factorial" else "per_class"
        return self.clips.model_copy(update={key: given[part] if isinstance(given, Mapping) else given})


# --- evaluate ----------------------------------------------------------------------------------------------------

Baseline = Literal["majority", "loudness", "six_cues", "mel_statistics", "webrtc", "silero", "silero_default"]
# Names that no ensemble may take: every study has or may have detectors of these.
OTHERS = ("adapter", "base", "no_audio", "adapter_open", "base_open")


class EnsembleBlock(Block):
    """Several detectors made into one: the mean of their probabilities or the vote of their answers."""

    of: Annotated[tuple[str, ...], AfterValidator(distinct)] = Field(min_length=2)
    how: Literal["mean", "vote"] = "mean"


class OpenBlock(Block):
    """Test clips asked a third time, for up to 8 tokens that nothing constrains, which the words of a class map to it.

    An answer counts for a class by its answer (A, B), its name, or one of `words`: class -> further words that name it.
    What names none or both is no answer: counted, and wrong. The rules: `map_open_answer` of tasks/functional/decoding.py.
    """

    words: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)


class EvaluateRecipe(Block):
    """Which detectors are scored and how the headline is taken."""

    name: str
    baselines: Annotated[tuple[Baseline, ...], AfterValidator(distinct)] = Field(
        ("majority", "loudness", "six_cues", "mel_statistics"), min_length=1
    )
    ensembles: Mapping[str, EnsembleBlock] = Field(default_factory=dict)  # name -> what it is made of
    threshold: Literal["fixed", "dev"] = "fixed"  # fixed: p_speech >= 0.5; dev: Youden's on dev
    open: OpenBlock | None = None  # also ask for free answers: a detector of its own, e.g. adapter_open
    limit: Count | None = None  # a quick look at so many clips of each part: marked as such and never published
    prompt: Prompt | None = None  # asked instead of the study's, which base and adapters were trained with
    batch_size: Count | None = None  # clips a forward pass; null: as many as fit
    n_boot: int = Field(10_000, ge=100)
    seed: int = 0
    timeout_min: float = Field(240, gt=0)

    @model_validator(mode="after")
    def _members_are_scored(self) -> Self:
        members = {"adapter", "base", *self.baselines}
        for name, block in self.ensembles.items():
            if name in {*OTHERS, *get_args(Baseline)}:
                raise ValueError(f"ensembles.{name} has the name of a detector; give it one of its own")
            if unknown := sorted(set(block.of) - members):
                raise ValueError(f"ensembles.{name}.of: {unknown[0]} is not scored here; there are {sorted(members)}")
            if block.how == "mean" and "silero_default" in block.of:
                raise ValueError(
                    f"ensembles.{name}: silero_default gives answers and no probability; take silero, or how: vote"
                )
        return self


# --- study -------------------------------------------------------------------------------------------------------


SHARED_BY_CELLS = tuple(
    f"train.{key}" for key in ("base", "pretrain", "seeds", "gate", "name", "timeout_min", "device")
)
RepositoryName = Annotated[str, Field(pattern=r"^\w+([.-]\w+)*$")]  # the Hub allows no "--" and no ".."
Pinned = Annotated[str, Field(pattern=r"^\w+([.-]\w+)*/\w+([.-]\w+)*@[0-9a-f]{40}$")]  # a repository and its commit


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


def _by_name(folder: str) -> BeforeValidator:
    def read(value: Any) -> Any:
        return read_yaml(value) if isinstance(value, str) else value

    return BeforeValidator(read)


class StudyRecipe(Block):
    """One study: a data set, an adapter, the detectors it stands beside, and where the result is published."""

    schema_version: int = Field(SCHEMA, alias="schema")
    name: str = Field(pattern=r"^[\w.-]+$")
    description: str = ""
    classes: tuple[str, str] = ("SPEECH", "NONSPEECH")  # the first one is the positive one
    answers: Annotated[tuple[str, str], BeforeValidator(spelt)] = (
        "A",
        "B",
    )  # in the order of the classes, one token each
    prompt: str = (
        "Choose one: A) SPEECH (human voice) B) NONSPEECH (music/noise/silence/animals). Answer with A or B ONLY."
    )
    dataset: Annotated[DatasetRecipe, _by_name("dataset")]
    dataset_from: Pinned | None = (
        None  # set by `dataset: NAMESPACE/NAME@sha`: pulled from there and audited, not built
    )
    adapter: Pinned | None = None  # evaluated instead of one that is trained
    train: Annotated[TrainRecipe, _by_name("train")]
    evaluate: Annotated[EvaluateRecipe, _by_name("evaluate")]
    search: Annotated[PromptRecipe | None, _by_name("prompt")] = (
        None  # what `earshot prompts` does; null: prompt/racing
    )
    publish: PublishBlock
    # cell -> what it changes, as --set has it: each a training of its own, scored on the same clips, in one report
    ablation: dict[Annotated[str, Field(pattern=r"^[a-z0-9][\w.+-]*$")], tuple[str, ...]] = Field(default_factory=dict)
    inflation: bool = False  # train and score the same clips under random folds as well: what leakage would have added

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)

    @property
    def longest_ms(self) -> float:
        """Length of the longest waveform that its base ever gets."""
        longest_ms = self.dataset.clips.longest_ms
        return max(longest_ms, self.train.pretrain.duration_ms) if self.train.base == "tiny" else longest_ms

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
        if self.adapter and (self.inflation or len(self.train.seeds) > 1):
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
        """The study as one cell of its ablation has it. Raises ValueError where the cell changes what all cells share."""
        for override in self.ablation[name]:
            key = override.partition("=")[0].strip()
            if not key.startswith(("train.", "dataset.clips.")) or key.startswith(SHARED_BY_CELLS):
                raise ValueError(
                    f"{key} is the same for all cells, which share base, seeds, gate, groups and question; a cell changes "
                    "other keys of train. and of dataset.clips."
                )
        content = self.model_dump(mode="json", by_alias=True, exclude={"ablation"})
        return StudyRecipe.model_validate(apply_overrides(content, self.ablation[name]))

    @model_validator(mode="after")
    def _cells_are_right(self) -> Self:
        if self.ablation and (self.inflation or self.adapter):
            raise ValueError("ablation trains cells beside each other: leave out inflation and adapter")
        for name in self.ablation:
            if name in {*OTHERS, *get_args(Baseline), *self.evaluate.ensembles}:
                raise ValueError(f"ablation.{name} has the name of a detector; give it one of its own")
            try:
                changed = self.cell(name)
            except ValidationError as error:
                raise ValueError(f"ablation.{name}: {explain(error)}") from error
            except ValueError as error:
                raise ValueError(f"ablation.{name}: {error}") from error
            if (changed.train, changed.dataset) == (self.train, self.dataset):
                raise ValueError(f"ablation.{name} changes nothing: it would be the study itself once more")
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
    if isinstance(version := content.get("schema", SCHEMA), int) and version > SCHEMA:
        raise ValueError(f"the recipe has schema {version}, this Earshot reads up to {SCHEMA}: update Earshot")
    try:
        return StudyRecipe.model_validate(content, context={"published": published})
    except ValidationError as error:
        raise ValueError(explain(error)) from error


def explain(error: ValidationError) -> str:
    """Pydantic's findings as sentences: key, value, what is wrong and what is accepted."""
    lines = []
    for found in error.errors():
        if found["type"] == "too_short" and len(found["input"]) >= found["ctx"]["min_length"]:
            continue  # its items are wrong, and have sentences of their own
        key = ".".join(str(part) for part in found["loc"]) or "recipe"
        message = found["msg"].removeprefix("Value error, ")
        if found["type"] == "extra_forbidden":
            message = f"no such key; accepted here: {', '.join(_siblings(found['loc']))}"
        elif found["type"] != "value_error":
            message = f"{message}, got {found['input']!r}" if found["type"] != "missing" else "is required and missing"
        lines.append(f"{key}: {message}")
    return "\n".join(lines)


def _siblings(location: tuple[int | str, ...]) -> list[str]:
    """Keys accepted beside the one at `location`."""
    model: type[BaseModel] = StudyRecipe
    for part in location[:-1]:
        if isinstance(part, str) and part in KINDS:
            model = KINDS[part]
        elif isinstance(part, str) and part in model.model_fields:
            model = _model_of(model.model_fields[part].annotation) or model
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside an annotation such as `Block | None`, if it holds one."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
