"""The report as a document: the keys of report.json. Its JSON schema ships."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from tasks.functional.interaction import Interaction
from tasks.functional.power import Power
from tasks.functional.report_psychometric import Psychometric
from tasks.functional.report_schema import (
    Agreement,
    By,
    Calibration,
    Cell,
    Comparison,
    DesignEffect,
    Detector,
    Errors,
    Goal,
    Inflation,
    Metric,
    Next,
    Resamples,
    Section,
    Seed,
    SeedsSpread,
    Size,
    Threshold,
)


class DetectorReport(Detector):
    """A detector with its psychometric functions, and with what random folds add to it; `absent` says why there are none."""

    psychometric: Psychometric | None
    inflation: Inflation | None
    absent: dict[str, str]


class PowerAgainst(Power):
    """Power of the test set for a difference from the best of the other detectors, or from one just as good."""

    against: str | None


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
    goals: list[Goal] = Field(default_factory=list)  # of the study's recipe
    next: Next | None = None
    n: Size
    test: str  # digest of the test clips' ids and labels: reports of the same clips have the same
    threshold: Threshold
    resamples: Resamples
    metrics: dict[str, Metric]
    majority_baseline: float  # accuracy of always naming the most frequent class
    design_effect: DesignEffect | None
    confusion: dict[str, dict[str, int]]
    by: By
    cells: list[Cell]
    calibration: Calibration | None
    errors: Errors
    psychometric: Psychometric | None
    interaction: Interaction | None
    power: PowerAgainst | None
    inflation: Inflation | None
    absent: dict[str, str]  # of these four, those that are null, and why
    comparisons: dict[str, Comparison]
    detectors: dict[str, DetectorReport]
    seeds: list[Seed]
    seeds_pooled: dict[str, Metric] | None
    seeds_spread: SeedsSpread | None = None  # of two seeds or more
    agreement: dict[str, Agreement] | None
    listening: dict[str, Any] | None = None
    leakage: dict[str, Any] | None = None
    shortcuts: dict[str, Any] | None = None
    balance: Any = None
    gate: dict[str, Any] | None = None
    looks: dict[str, Any] | None = None
    adapter: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None
    supersedes: list[Any] = Field(default_factory=list)
