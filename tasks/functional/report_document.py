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
    """One detector on one set of test clips, and all it stands beside. What `recorded` gave is copied, the rest derived."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True, validate_by_name=True
    )
    schema_version: Literal[1] = Field(1, alias="schema")
    detector: str  # the headline's
    classes: tuple[str, str]  # the first one is the positive one
    protocol: str | None  # group or random: how the headline's split was dealt
    seed: int | None  # of the headline's adapter
    verdict_lines: list[str]  # the sentences that open page and card
    beats: dict[str, Literal["yes", "no", "undecided"]]  # detector -> whether the headline is better, by the interval
    goals: list[Goal] = Field(default_factory=list)  # of the study's recipe
    next: Next | None = None  # the study that follows, by what the goals came to
    n: Size
    test: str  # digest of the test clips' ids and labels: reports of the same clips have the same
    threshold: Threshold
    resamples: Resamples
    metrics: dict[str, Metric]  # accuracy, balanced_accuracy, recall_<class>, roc_auc, d_prime, ece and the like
    majority_baseline: float  # accuracy of always naming the most frequent class
    design_effect: DesignEffect | None
    confusion: dict[str, dict[str, int]]  # truth -> predicted, or "unanswered" -> clips
    by: By  # factor -> level -> metrics
    cells: list[Cell]
    calibration: Calibration | None
    errors: Errors
    psychometric: Psychometric | None
    interaction: Interaction | None
    power: PowerAgainst | None
    inflation: Inflation | None
    absent: dict[str, str]  # of these four, those that are null, and why
    comparisons: dict[str, Comparison]  # other detector -> the paired difference
    detectors: dict[str, DetectorReport]  # every other one, none left out
    seeds: list[Seed]  # every one, the published one marked
    seeds_pooled: dict[str, Metric] | None  # groups drawn with all their seeds; null for one seed
    seeds_spread: SeedsSpread | None = None  # of two seeds or more
    agreement: dict[str, Agreement] | None
    listening: dict[str, Any] | None = None  # model -> whether it hears: swap, silence, no audio, padding, neighbours
    leakage: dict[str, Any] | None = None  # the audit of the splits
    shortcuts: dict[str, Any] | None = None  # cue -> the AUC that it alone gives
    balance: Any = None  # largest_imbalance: clips by which the classes differ within one part, duration and SNR
    gate: dict[str, Any] | None = None  # accuracy on train of each adapter, and what it had to reach
    looks: dict[str, Any] | None = None  # how often these test clips were scored before
    adapter: dict[str, Any] | None = None  # parameters by part, bytes
    provenance: dict[str, Any] | None = None  # recipe, data set, base, adapter, code, libraries
    supersedes: list[Any] = Field(default_factory=list)  # earlier results that this one replaces, and why
