"""Which detectors are scored and how the headline is taken: what `evaluate:` may say."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from recipes.block import Block, Count, Seed, distinct, is_pinned
from recipes.prompts import Prompt

Baseline = Literal[
    "majority", "loudness", "six_cues", "mel_statistics", "webrtc", "silero", "silero_default", "pyannote", "whisper",
    "whisper_transcript",
]  # fmt: skip
# Detectors whose weights no package brings, and what they take.
WEIGHTS = {"pyannote": "pyannote", "whisper": "whisper", "whisper_transcript": "whisper"}
TAKES = {
    "pyannote": "a segmentation model of PyAnnote, e.g. pyannote/segmentation-3.0 (MIT; the Hub asks to accept terms)",
    "whisper": "a Whisper model, e.g. openai/whisper-base (Apache-2.0)",
}
# Detectors that give answers and no probability: no mean is made of them.
ANSWERS_ONLY = ("silero_default", "whisper_transcript")
SEEDS = "seeds"  # the adapters of all seeds, as members of an ensemble
# Names that no ensemble may take: every study has or may have detectors of these.
OTHERS = (SEEDS, "adapter", "base", "no_audio", "adapter_open", "base_open")


class EnsembleBlock(Block):
    """Several detectors made into one: the mean of their probabilities or the vote of their answers.

    `adapter` is that of the first seed, `seeds` are the adapters of all.
    """

    of: Annotated[tuple[str, ...], AfterValidator(distinct)] = Field(min_length=1)
    how: Literal["mean", "vote"] = "mean"  # of their probabilities, or of their answers

    @model_validator(mode="after")
    def _several(self) -> Self:
        if len(self.of) < 2 and self.of != (SEEDS,):
            raise ValueError(f"of: {self.of[0]} alone is no ensemble; name at least two detectors, or `seeds`")
        if SEEDS in self.of and "adapter" in self.of:
            raise ValueError("of: seeds hold the adapter already; leave one of the two out")
        return self


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
    # pyannote, whisper: a folder, "${VARIABLE}" for one, or a Hub id with its revision
    weights: Mapping[str, str] = Field(default_factory=dict)
    ensembles: Mapping[str, EnsembleBlock] = Field(default_factory=dict)  # name -> what it is made of
    threshold: Literal["fixed", "dev"] = "fixed"  # fixed: p_speech >= 0.5; dev: Youden's on dev
    open: OpenBlock | None = None  # also ask for free answers: a detector of its own, e.g. adapter_open
    limit: Count | None = None  # a quick look at so many clips of each part: marked as such and never published
    prompt: Prompt | None = None  # asked instead of the study's, which base and adapters were trained with
    batch_size: Count | None = None  # clips a forward pass; null: as many as fit
    n_boot: int = Field(10_000, ge=100)  # resamples of groups behind an interval
    seed: Seed = 0  # of these
    timeout_min: float = Field(240, gt=0)  # of one model's scoring

    @model_validator(mode="after")
    def _members_are_scored(self) -> Self:
        members = {"adapter", SEEDS, "base", *self.baselines}
        for name, block in self.ensembles.items():
            if name in {*OTHERS, *get_args(Baseline)}:
                raise ValueError(f"ensembles.{name} has the name of a detector; give it one of its own")
            if unknown := sorted(set(block.of) - members):
                raise ValueError(f"ensembles.{name}.of: {unknown[0]} is not scored here; there are {sorted(members)}")
            if block.how == "mean" and (silent := set(ANSWERS_ONLY) & {*block.of}):
                without = min(silent)
                raise ValueError(
                    f"ensembles.{name}: {without} gives answers and no probability; take {without.split('_')[0]}, or "
                    "how: vote"
                )
        return self

    @model_validator(mode="after")
    def _weights_are_named(self) -> Self:
        for key, place in self.weights.items():
            if key not in TAKES:
                raise ValueError(f"weights.{key}: weights are taken for {' and '.join(TAKES)}, under these names")
            if not place.startswith((".", "/", "~", "$")) and not is_pinned(place):
                raise ValueError(
                    f"weights.{key}: {place!r} is neither a folder nor a Hub id with its revision: NAMESPACE/NAME@<40 hex "
                    "digits>"
                )
        for name in self.baselines:
            if name in WEIGHTS and WEIGHTS[name] not in self.weights:
                key = WEIGHTS[name]
                raise ValueError(
                    f"baselines: {name} takes the weights of {TAKES[key]}: say where they are in weights.{key}, a folder or "
                    "NAMESPACE/NAME@<40 hex digits>"
                )
        return self
