"""The report as a document: every key of report.json with its type and meaning. Its JSON schema ships."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of the report: exact, frozen, and finite, so that its JSON is plain and reads back equal."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Metric(Section):
    """One number with its interval. What cannot be stated honestly is None, and `reason` says why."""

    value: float | None
    ci95: tuple[float, float] | None = None  # over groups within class
    method: str | None = None  # of the interval: "bootstrap" (the report's `resamples` says of how many), "t", "exact"
    reason: str | None = None  # why there is no value or interval, or why the interval is not reliable
    ci95_supergroup: tuple[float, float] | None = None  # by supergroup: draws of one generator are alike


class Resamples(Section):
    """Draws of groups behind each bootstrap interval; t and exact intervals draw none.

    `metrics` is what was asked for and holds for detectors, seeds, comparisons and inflation. `average_precision` is
    1,000 at most, since each draw passes over all clips; `by` (levels of a factor) 2,000 at most, since levels are
    many and their intervals wide beside the error that this leaves in the ends.
    """

    metrics: int
    average_precision: int
    by: int


class Count(Section):
    """How many clips, from how many groups."""

    clips: int
    groups: int
    supergroups: int | None = None


class Size(Section):
    """What the headline rests on: test clips, the cuts they were made from, and the groups, which is what counts."""

    clips: int
    base_clips: int
    groups: int
    by_label: dict[str, Count]
    unanswered: int


class Threshold(Section):
    """SPEECH iff p_speech >= value. One value a fold where it was chosen on each fold's dev rows."""

    value: float | None  # None where the folds differ
    chosen_on: Literal["fixed", "dev", "test"]  # "test" can be said so that it can be refused
    by_fold: dict[str, float] = {}
    flags: dict[str, str] = {}  # fold -> "separable" or "inverted", where its dev rows were so


class Level(Section):
    """One level of a factor; `extra` holds recall_<class> for both classes under their own names."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, Metric] = Field(init=False)
    clips: int
    groups: int
    accuracy: Metric
    balanced_accuracy: Metric


def _ascending(levels: dict[str, Level]) -> dict[str, Level]:
    """Levels by number, those that are none behind them: a file that sorts its keys would put "1000" before "40"."""

    def place(level: str) -> tuple[float, str]:
        try:
            return float(level), level
        except ValueError:
            return math.inf, level

    return {level: levels[level] for level in sorted(levels, key=place)}


By = dict[str, Annotated[dict[str, Level], AfterValidator(_ascending)]]  # factor -> level -> metrics


class Cell(Section):
    """One cell of duration x SNR; None is the level without noise, or without a set duration."""

    duration_ms: float | None
    snr_db: float | None
    clips: int
    groups: int
    balanced_accuracy: float | None


class Bin(Section):
    """Top-label confidences in (low, high], their mean, and the share that was right (both None in an empty bin)."""

    low: float
    high: float
    clips: int
    confidence: float | None
    accuracy: float | None


class Calibration(Section):
    """Top-label calibration over equal-width bins."""

    kind: Literal["top_label"] = "top_label"
    n_bins: int
    ece: float
    mce: float
    bins: list[Bin]


class DesignEffect(Section):
    """ANOVA ICC(1) of being right, the variance inflation it causes, and the clips the test set is really worth."""

    icc: float
    deff: float
    n_eff: float


class Detector(Section):
    """Everything said of one detector, at the same rows and by the same rules as the headline."""

    method: str | None
    seed: int | None
    n: Size
    threshold: Threshold
    metrics: dict[str, Metric]
    by: By
    confusion: dict[str, dict[str, int]]  # truth -> predicted, or "unanswered" -> clips


class Seed(Section):
    """One training seed of the headline detector; none is left out."""

    seed: int | None
    published: bool
    n: Size
    metrics: dict[str, Metric]


class Comparison(Section):
    """The headline detector against another on the same clips. b: it is right and the other wrong; c: the reverse.

    `difference` is of balanced accuracy, with a paired interval over groups; McNemar's tests count single clips and
    are therefore too sure of themselves wherever clips of one group resemble each other.
    """

    n: int
    b: int
    c: int
    difference: float
    ci95: tuple[float, float] | None
    method: str | None
    reason: str | None
    p_exact: float
    p_midp: float
    p_holm: float  # Holm over all comparisons of the report, from p_exact


class Agreement(Section):
    """The same adapter or base scored by constrained generation and by one forward pass."""

    n: int
    flips: int
    max_abs_dp: float | None
    mean_abs_dp: float | None


class Report(Section):
    """DESIGN's report.json. Keys of later work stand as null; what `recorded` gave is copied, all else is derived."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True, validate_by_name=True
    )
    schema_version: Literal[1] = Field(1, alias="schema")
    detector: str
    classes: tuple[str, str]  # the first one is the positive one
    protocol: str | None
    seed: int | None
    verdict_lines: list[str]
    beats: dict[str, Literal["yes", "no", "undecided"]]
    n: Size
    threshold: Threshold
    resamples: Resamples
    metrics: dict[str, Metric]
    majority_baseline: float  # accuracy of always naming the most frequent class
    design_effect: DesignEffect | None
    confusion: dict[str, dict[str, int]]
    by: By
    cells: list[Cell]
    calibration: Calibration | None
    psychometric: dict[str, Any] | None = None
    interaction: dict[str, Any] | None = None
    power: dict[str, Any] | None = None
    comparisons: dict[str, Comparison]
    detectors: dict[str, Detector]
    seeds: list[Seed]
    seeds_pooled: dict[str, Metric] | None
    agreement: dict[str, Agreement] | None
    listening: dict[str, Any] | None = None
    leakage: dict[str, Any] | None = None
    inflation: dict[str, Any] | None = None
    shortcuts: dict[str, Any] | None = None
    balance: Any = None
    gate: dict[str, Any] | None = None
    looks: Any = None
    adapter: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None
    supersedes: list[Any] = []
