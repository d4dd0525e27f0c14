"""What a recipe may say: every key, its unit and its range. An unknown key is an error, so a typo never trains a model."""

import ast
import copy
import functools
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

RECIPES = Path(__file__).parent
SCHEMA = 1
SAMPLE_RATE_HZ = 16_000  # fixed by the feature extractor of Qwen2-Audio

Kwargs = dict[str, Any]
Unit = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class CheckFailed(ValueError):
    """A check that a study makes of itself did not pass: a leak, the gate, an agreement, a claim without evidence."""


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values as they are. Raises ValueError where one stands twice."""
    if len(set(values)) != len(values):
        raise ValueError(f"values repeat: {list(values)}")
    return values


class Block(BaseModel):
    """One block of a recipe: exact and frozen, so that it can stand in a task's cache key."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- dataset: recordings -----------------------------------------------------------------------------------------


class EspeakSource(Block):
    """Synthetic speech by espeak-ng; a voice is a group. Needs the extra `demo`."""

    kind: Literal["espeak"]
    role: Literal["content"] = "content"
    label: str = "SPEECH"
    voices: int = Field(24, ge=2, le=60)
    utterances: int = Field(4, ge=1, le=40)  # per voice
    seed: int = 0


class SyntheticSource(Block):
    """Generated sounds; a draw is a group and its generator the supergroup. `role: noise` is what gets mixed in."""

    kind: Literal["synthetic"]
    label: str = "NONSPEECH"
    role: Literal["content", "noise"] = "content"
    families: tuple[Literal["noise", "environment", "music", "animals"], ...] = (
        "noise", "environment", "music", "animals",
    )  # fmt: skip
    draws: int = Field(4, ge=1, le=200)  # per generator
    duration_s: float = Field(4.0, ge=1, le=30)
    seed: int = 0


class RoomsSource(Block):
    """Synthetic rooms (exponentially decaying impulse responses); a draw is a group, its RT60 the factor level."""

    kind: Literal["rooms"]
    role: Literal["room"] = "room"
    rt60_s: tuple[Annotated[float, Field(gt=0, le=5)], ...]
    draws: int = Field(6, ge=1, le=200)  # per RT60
    seed: int = 0


class TableSource(Block):
    """Any folder with a metadata table (csv or parquet) that names file, label and group columns."""

    kind: Literal["table"]
    root: str  # a folder; "${EARSHOT_CORPUS}" reads the environment
    metadata: str = "metadata.csv"
    role: Literal["content", "noise", "room"] = "content"
    columns: Mapping[str, str] = Field(default_factory=dict)  # our column -> theirs, where the names differ
    labels: Mapping[str, str] = Field(default_factory=dict)  # their label -> ours, where the names differ
    where: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)  # their column -> the values that are kept
    on_bad_file: Literal["fail", "skip"] = "fail"

    @field_validator("where", mode="before")
    @classmethod
    def _one_or_many(cls, where: Any) -> Any:
        if not isinstance(where, Mapping):
            return where
        return {key: (value,) if isinstance(value, str) else value for key, value in where.items()}


Source = Annotated[EspeakSource | SyntheticSource | RoomsSource | TableSource, Field(discriminator="kind")]

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


class ContextBlock(Block):
    """Padding inside the waveform, as a declared condition: without it 10-20 ms give the model no audio token."""

    kind: Literal["silence", "noise"]
    total_ms: float = Field(ge=25, le=30_000)


class ClipsBlock(Block):
    """The full factorial duration x SNR x room x class, `per_cell` clips in each cell of each part."""

    duration_ms: tuple[Annotated[float, Field(ge=10, le=30_000)], ...] = Field(min_length=1)
    snr_db: tuple[Annotated[float, Field(ge=-40, le=80)] | None, ...] = Field(min_length=1)  # null: no noise added
    rt60_s: tuple[Annotated[float, Field(gt=0, le=5)] | None, ...] = (None,)  # null: anechoic
    per_cell: Count | Mapping[str, Count]  # clips per cell, for every part alike or by part
    context: ContextBlock | None = None
    normalise: Literal["peak", "rms"] = "peak"  # rms only to show what it costs: it hands the level to the model
    seed: int = 7

    @field_validator("duration_ms", "snr_db", "rt60_s")
    @classmethod
    def _distinct(cls, levels: tuple[Any, ...]) -> tuple[Any, ...]:
        return distinct(levels)

    @model_validator(mode="after")
    def _heard(self) -> Self:
        if self.context:
            if self.context.total_ms < max(self.duration_ms):
                raise ValueError(f"context.total_ms ({self.context.total_ms:g}) is shorter than the longest clip")
        elif min(self.duration_ms) <= 20:
            raise ValueError(
                f"duration_ms {min(self.duration_ms):g} gives the model no audio token (20 ms and less give none): "
                "raise it to 25 or declare a context, e.g. `context: {kind: noise, total_ms: 200}`"
            )
        return self

    @property
    def noise_ms(self) -> float:
        """Least length of a noise recording beyond that of the clip: a noisy context takes one stretch of noise."""
        return self.context.total_ms if self.context and self.context.kind == "noise" else 0.0

    @property
    def longest_ms(self) -> float:
        """Length of the longest waveform the model gets."""
        return self.context.total_ms if self.context else max(self.duration_ms)


class DatasetRecipe(Block):
    """Recordings -> sides -> clips -> audited splits."""

    name: str
    description: str = ""
    licence: str = "other"
    sources: tuple[Source, ...] = Field(min_length=1)
    splits: SplitsBlock
    clips: ClipsBlock

    @model_validator(mode="after")
    def _parts_are_known(self) -> Self:
        if isinstance(self.clips.per_cell, Mapping) and set(self.clips.per_cell) != set(self.splits.parts):
            raise ValueError(
                f"clips.per_cell names {sorted(self.clips.per_cell)}, the parts are {list(self.splits.parts)}"
            )
        return self

    def clips_of(self, part: str) -> ClipsBlock:
        """The clips block of one part: what another part holds does not matter to it."""
        per_cell = self.clips.per_cell
        return self.clips.model_copy(
            update={"per_cell": per_cell[part] if isinstance(per_cell, Mapping) else per_cell}
        )


# --- train -------------------------------------------------------------------------------------------------------


@functools.cache
def accepted_keys(package: str, *sources: tuple[str, str]) -> frozenset[str]:
    """Keywords a class of an installed library takes, read from its source: importing the library takes seconds.

    `sources` are (file inside the package, class) pairs, the class and the bases whose fields it inherits.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{package} is not installed: pip install -c constraints.txt -e .")
    keys: set[str] = set()
    for file, name in sources:
        tree = ast.parse((Path(spec.submodule_search_locations[0]) / file).read_text())
        body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                keys.add(node.target.id)
            elif isinstance(node, ast.FunctionDef) and node.name == "__init__":
                keys |= {argument.arg for argument in node.args.args[1:]}
    return frozenset(keys)


def _refuse_unknown(block: str, given: Kwargs, accepted: frozenset[str], owned: Mapping[str, str]) -> None:
    for key in given:
        if key in owned:
            raise ValueError(f"{block}.{key}: {owned[key]}")
        if key not in accepted:
            near = _alike(key, accepted)
            raise ValueError(
                f"{block}.{key} is no such keyword; " + (f"did you mean {near}?" if near else "see its docs")
            )


def _alike(key: str, accepted: frozenset[str]) -> list[str]:
    """Up to three accepted keywords that `key` may stand for: `rank` for r, `lr` for learning_rate, a slip of the pen."""
    import difflib

    def stands_for(name: str) -> bool:
        words = name.split("_")
        return set(key.split("_")) <= set(words) or key.startswith(name) or key == "".join(word[:1] for word in words)

    close = difflib.get_close_matches(key, accepted, n=3)
    return list(dict.fromkeys([*filter(stands_for, sorted(accepted, key=len)), *close]))[:3]


class PretrainBlock(Block):
    """How the tiny base learns to hear at all: clean, long clips of training groups only."""

    steps: int = Field(200, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    clips: int = Field(800, ge=2)  # cut anew from the training recordings, balanced over classes and groups
    duration_ms: float = Field(1000, ge=100, le=30_000)
    seed: int = 1

    def clips_block(self, parts: int) -> ClipsBlock:
        """Clean clips of one of `parts` training parts, both classes alike."""
        per_cell = max(1, self.clips // (2 * parts))
        return ClipsBlock(duration_ms=(self.duration_ms,), snr_db=(None,), per_cell=per_cell, seed=self.seed)


class GateBlock(Block):
    """The restricted A/B accuracy on train that a finished adapter must reach; the loss alone tells too little."""

    accuracy: Unit = 0.85
    on_fail: Literal["stop", "mark"] = "stop"


class TrainMethod(Block):
    """How one adapter comes about. `lora`, `quantization`, `training` are the libraries' own keywords."""

    base: str = "tiny"  # "tiny", a Hub id with its revision ("Qwen/Qwen2-Audio-7B-Instruct@<40 hex>"), or a folder
    quantization: Kwargs | None = None  # transformers.BitsAndBytesConfig
    lora: Kwargs = Field(default_factory=lambda: {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05})  # peft.LoraConfig
    scope: Literal["language_model", "language_model+encoder"] = "language_model"
    training: Kwargs = Field(default_factory=dict)  # trl.SFTConfig
    loss_on: Literal["answer", "turn", "sequence"] = "answer"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @field_validator("base")
    @classmethod
    def _pinned(cls, base: str) -> str:
        is_path = base == "tiny" or base.startswith((".", "/", "~"))
        if not is_path and not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", base):
            raise ValueError(
                f"{base!r} is neither `tiny`, nor a folder, nor a Hub id with its revision: NAMESPACE/NAME@<40 hex digits>"
            )
        return base

    @field_validator("lora")
    @classmethod
    def _lora(cls, given: Kwargs) -> Kwargs:
        bases = (
            ("config.py", "PeftConfigMixin"),
            ("config.py", "PeftConfig"),
            ("tuners/lora/config.py", "LoraConfig"),
        )
        owned = dict.fromkeys(("exclude_modules", "task_type"), "`scope` decides it")
        _refuse_unknown("lora", given, accepted_keys("peft", *bases), owned)
        return given

    @field_validator("quantization")
    @classmethod
    def _quantization(cls, given: Kwargs | None) -> Kwargs | None:
        file = "utils/quantization_config.py"
        owned = {"llm_int8_skip_modules": "the encoder, projector and head are always left unquantised"}
        _refuse_unknown(
            "quantization", given or {}, accepted_keys("transformers", (file, "BitsAndBytesConfig")), owned
        )
        return given

    @field_validator("training")
    @classmethod
    def _training(cls, given: Kwargs) -> Kwargs:
        sft = accepted_keys("trl", ("trainer/base_config.py", "_BaseConfig"), ("trainer/sft_config.py", "SFTConfig"))
        owned = {
            "seed": "use `seeds`", "data_seed": "use `seeds`", "output_dir": "the store decides it",
            "push_to_hub": "use `publish` of the study", "hub_token": "tokens come from the environment only",
            "max_length": "audio tokens are never cut", "dataset_kwargs": "the collator decides it",
            "remove_unused_columns": "the collator decides it", "use_cpu": "use `device`",
        }  # fmt: skip
        trainer = accepted_keys("transformers", ("training_args.py", "TrainingArguments"))
        _refuse_unknown("training", given, sft | trainer, owned)
        return given


class TrainRecipe(TrainMethod):
    """Adapters by one method over several seeds, each past the gate."""

    name: str
    pretrain: PretrainBlock = PretrainBlock()  # read where base is tiny
    gate: GateBlock = GateBlock()
    seeds: Annotated[tuple[int, ...], AfterValidator(distinct)] = Field((42,), min_length=1)  # the first is published
    timeout_min: float = Field(240, gt=0)

    @property
    def method(self) -> TrainMethod:
        """What the weights of an adapter depend on, beside seed and data."""
        return TrainMethod(**{name: getattr(self, name) for name in TrainMethod.model_fields})


# --- evaluate ----------------------------------------------------------------------------------------------------

Baseline = Literal["majority", "loudness", "mel_statistics"]


class EvaluateRecipe(Block):
    """Which detectors are scored and how the headline is taken."""

    name: str
    baselines: Annotated[tuple[Baseline, ...], AfterValidator(distinct)] = ("majority", "loudness", "mel_statistics")
    threshold: Literal["fixed", "dev"] = "fixed"  # fixed: p_speech >= 0.5; dev: Youden's on dev
    batch_size: int = Field(64, ge=1)
    n_boot: int = Field(10_000, ge=100)
    seed: int = 0
    timeout_min: float = Field(240, gt=0)


# --- study -------------------------------------------------------------------------------------------------------


RepositoryName = Annotated[str, Field(pattern=r"^\w+([.-]\w+)*$")]  # the Hub allows no "--" and no ".."


class PublishBlock(Block):
    """Under which names the parts are published in the home's own hub."""

    namespace: RepositoryName = "earshot"
    dataset: RepositoryName
    adapter: RepositoryName
    licence: str = "mit"


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
    answers: tuple[str, str] = ("A", "B")  # in the order of the classes, one token each
    prompt: str = (
        "Choose one: A) SPEECH (human voice) B) NONSPEECH (music/noise/silence/animals). Answer with A or B ONLY."
    )
    dataset: Annotated[DatasetRecipe, _by_name("dataset")]
    train: Annotated[TrainRecipe, _by_name("train")]
    evaluate: Annotated[EvaluateRecipe, _by_name("evaluate")]
    publish: PublishBlock

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if len(set(self.classes)) != 2 or len(set(self.answers)) != 2:
            raise ValueError("classes and answers are two different names each")
        for source in self.dataset.sources:
            label = getattr(source, "label", None)
            if label is not None and label not in self.classes:
                raise ValueError(f"source {source.kind}: label {label!r} is none of the classes {list(self.classes)}")
        return self


# --- reading -----------------------------------------------------------------------------------------------------


def read_yaml(recipe: str | Path) -> dict[str, Any]:
    """A recipe's mapping, by name ("study/demo") or by path ("my/study.yaml").

    Raises FileNotFoundError with the recipes there are, ValueError where the file is no mapping.
    """
    named = RECIPES / f"{recipe}.yaml"
    path = named if named.is_file() else Path(recipe).expanduser()
    if not path.is_file():
        known = sorted(str(file.relative_to(RECIPES).with_suffix("")) for file in RECIPES.rglob("*.yaml"))
        raise FileNotFoundError(f"no recipe {str(recipe)!r}: it is neither a file nor one of {', '.join(known)}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, a recipe is a mapping of keys")
    return content


def apply_overrides(recipe: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The recipe with every `key.path=value` set; values are read as YAML. A block given by name is opened first."""
    recipe = copy.deepcopy(recipe)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path.strip():
            raise ValueError(f"--set {override!r} is not key.path=value, e.g. --set train.training.max_steps=50")
        at: Any = recipe
        *parents, last = path.strip().split(".")
        for key in parents:
            at = _open(at, key, path)
        at[_position(at, last, path) if isinstance(at, list) else last] = _value(text, override)
    return recipe


def _value(text: str, override: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {override}: {text!r} is not YAML, e.g. [42, 123] or {{r: 8}}") from error


def _open(at: Any, key: str, path: str) -> Any:
    """What lies under a key or position, a block given by name read first, an absent one made."""
    place: Any = _position(at, key, path) if isinstance(at, list) else key
    child = at[place] if isinstance(at, list) else at.get(place)
    if isinstance(child, str):
        child = read_yaml(child)
    if child is not None and not isinstance(child, dict | list):
        raise ValueError(f"--set {path}: {key} is {child!r}, it has no keys")
    at[place] = {} if child is None else child
    return at[place]


def _position(at: list[Any], key: str, path: str) -> int:
    if not key.isdigit() or int(key) >= len(at):
        raise ValueError(f"--set {path}: {key} is no position in a list of {len(at)}; the first one is 0")
    return int(key)


def load_study(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> StudyRecipe:
    """A checked study, from its name, path or mapping, with overrides applied.

    Raises ValueError in one sentence a key, each naming the key, the value and what is accepted.
    """
    content = dict(recipe) if isinstance(recipe, Mapping) else read_yaml(recipe)
    content = apply_overrides(content, overrides)
    if isinstance(version := content.get("schema", SCHEMA), int) and version > SCHEMA:
        raise ValueError(f"the recipe has schema {version}, this Earshot reads up to {SCHEMA}: update Earshot")
    try:
        return StudyRecipe.model_validate(content)
    except ValidationError as error:
        raise ValueError(explain(error)) from error


def explain(error: ValidationError) -> str:
    """Pydantic's findings as sentences: key, value, what is wrong and what is accepted."""
    lines = []
    for found in error.errors():
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
    kinds: Mapping[str, type[BaseModel]] = {
        "espeak": EspeakSource, "synthetic": SyntheticSource, "rooms": RoomsSource, "table": TableSource,
    }  # fmt: skip
    model: type[BaseModel] = StudyRecipe
    for part in location[:-1]:
        if isinstance(part, str) and part in kinds:
            model = kinds[part]
        elif isinstance(part, str) and part in model.model_fields:
            model = _model_of(model.model_fields[part].annotation) or model
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside an annotation such as `Block | None`, if it holds one."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
