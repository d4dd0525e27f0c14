"""The parts of a report: every key below those of the document, with its type and meaning."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tasks.functional.levels import ascending


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
    reason_supergroup: str | None = None  # why there is none, or why it is not reliable; its groups are supergroups


class Resamples(Section):
    """Draws of groups behind each bootstrap interval; t and exact intervals draw none.

    `metrics` is what was asked for and holds for detectors, seeds, comparisons and inflation. `average_precision` is
    1,000 at most, since each draw passes over all clips; `by` (levels of a factor, cells) 2,000 at most, since levels
    are many and their intervals wide beside the error that this leaves in the ends; `thresholds` 1,000 at most, each
    draw being a fit.
    """

    metrics: int
    average_precision: int
    by: int
    thresholds: int


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
    """SPEECH iff p_speech >= value. One value a fold where it was chosen on each fold's dev rows.

    "own": the detector answers as its table says, and not everywhere so; the table does not say at which threshold.
    """

    value: float | None  # None where the folds differ, and where it is the detector's own
    chosen_on: Literal["fixed", "dev", "own"]
    by_fold: dict[str, float] = {}
    flags: dict[str, str] = {}  # fold -> "separable", "inverted" or "constant", where its dev scores were so


class Level(Section):
    """One level of a factor; `extra` holds recall_<class> for both classes under their own names."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, Metric] = Field(init=False)
    clips: int
    groups: int
    accuracy: Metric
    balanced_accuracy: Metric


By = dict[str, Annotated[dict[str, Level], AfterValidator(ascending)]]  # factor -> level -> metrics


class Cell(Section):
    """One cell of duration x SNR; None is the level without noise, or without a set duration."""

    duration_ms: float | None
    snr_db: float | None
    clips: int
    groups: int
    balanced_accuracy: float | None
    ci95: tuple[float, float] | None
    reason: str | None


class Operating(Section):
    """Rates of the answers as they are: what the detector does at its threshold."""

    false_alarm_rate: float
    recall: float
    precision: float | None  # None where no clip was answered as the first class


class ScoreCurves(Section):
    """What any threshold on p_speech would give: some 100 points of each curve, and where the detector stands.

    roc: (false-alarm rate, recall); precision_recall: (recall, precision), precision being 1 at recall 0. Means over
    the models where each fold and seed has its own: their scores have no common scale.
    """

    models: int
    roc: list[tuple[float, float]]
    precision_recall: list[tuple[float, float]]
    at: Operating


class Bin(Section):
    """Top-label confidences in (low, high], their mean, and the share that was right (both None in an empty bin)."""

    low: float
    high: float
    clips: int
    confidence: float | None
    accuracy: float | None


class FoldFit(Section):
    """What one fold's dev rows give: Youden's threshold and the temperature T of sigmoid(logit(p_speech) / T)."""

    clips: int
    groups: int
    threshold: float
    sensitivity: float
    specificity: float
    threshold_flag: Literal["separable", "inverted"] | None
    temperature: float
    nll_before: float  # mean, in nats, at T = 1
    nll_after: float
    at_bound: bool  # T stands at a bound of its search: it says nothing about confidence
    temperature_flag: Literal["separable", "inverted"] | None


class DevCalibration(Section):
    """Threshold and temperature fitted on dev alone, and the test metrics without (`raw`) and with them.

    `raw` decides by the table's own predictions, or at 0.5, and takes p_speech as it is. `calibrated` takes decision
    metrics (accuracy, recalls, ...) at the dev threshold, and those of probabilities after the temperature.
    """

    folds: dict[str, FoldFit]
    constant: list[str]  # folds whose dev clips all have one score: nothing was fitted, they stay raw
    raw: dict[str, Metric]
    calibrated: dict[str, Metric] | None  # None where every fold is constant


class Calibration(Section):
    """Top-label calibration over equal-width bins."""

    kind: Literal["top_label"] = "top_label"
    n_bins: int
    ece: float
    mce: float
    bins: list[Bin]
    dev: DevCalibration | None = None  # None without scored dev rows of both classes in every fold


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
    curves: ScoreCurves | None  # None without p_speech of every clip, or where no model scored both classes


class Seed(Section):
    """One training seed of the headline detector; none is left out."""

    seed: int | None
    published: bool
    n: Size
    metrics: dict[str, Metric]


class SeedsAlike(Section):
    """Seeds that answered every test clip alike: saturation, or with the same probabilities one adapter twice."""

    seeds: list[int]
    to_the_bit: bool  # whether the probabilities are the same too


class SeedsSpread(Section):
    """How far the seeds lie apart: mean and standard deviation (n - 1) of balanced accuracy, and which are no two."""

    balanced_accuracy_mean: float
    balanced_accuracy_sd: float
    alike: list[SeedsAlike]


Verdict = Literal["better", "worse", "not distinguishable"]


class LevelDifference(Section):
    """The headline detector minus the other at one level of a factor, on the clips both answered.

    `verdict` asks for both: an interval over groups that leaves out 0, and p_holm <= 0.05, Holm over the factor's levels.
    """

    clips: int
    groups: int
    statistic: Literal["balanced_accuracy", "accuracy"]  # accuracy where one class only stands at the level
    difference: float
    ci95: tuple[float, float] | None
    reason: str | None
    b: int
    c: int
    p_exact: float | None
    p_holm: float | None
    verdict: Verdict


class Overlap(Section):
    """Answers by who was right; b is right alone, c wrong alone. jaccard: errors in common of all errors."""

    both_right: int
    only_this_right: int
    only_other_right: int
    both_wrong: int
    jaccard: float | None  # None where neither errs


class Needed(Section):
    """What would decide: clips at which McNemar's exact test shows the measured difference with power 0.8.

    `clips` is for independent clips times the design effect of the paired difference; `groups`, of both classes, as
    many as that takes at the clips a group has here. Both are None, with the reason, where no test set would decide.
    """

    difference: float  # of accuracy, as measured
    discordance: float  # share of clips on which just one of the two is right
    design_effect: float
    clips: int | None
    groups: int | None
    reason: str | None


class Comparison(Section):
    """The headline detector against another, paired by clip. b: it is right and the other wrong; c: the reverse.

    `difference` is of balanced accuracy (of accuracy where one class only is there), with a paired interval over
    groups. McNemar's tests count single clips and are therefore too sure of themselves wherever clips of one group
    resemble each other; where a clip was answered under several seeds there are none.
    """

    n: int  # clips that pair
    n_this: int  # clips of the headline detector
    n_other: int  # clips of the other
    statistic: Literal["balanced_accuracy", "accuracy"]
    value: float  # of the headline detector, on the pairs
    other: float  # of the other, on the pairs
    b: int
    c: int
    difference: float
    ci95: tuple[float, float] | None
    method: str | None
    reason: str | None
    p_exact: float | None
    p_midp: float | None
    p_holm: float | None  # Holm over all comparisons of the report, from p_exact
    verdict: Verdict  # by the interval alone: "better" above 0, "worse" below; none by one that is not to be relied on
    overlap: Overlap
    needed: Needed
    by: dict[str, Annotated[dict[str, LevelDifference], AfterValidator(ascending)]]


class ErrorRate(Section):
    """Wrong answers among some clips. Missed: the first class answered otherwise; false alarm: the reverse."""

    clips: int
    groups: int
    answers: int  # clips times seeds
    wrong: int
    rate: float  # wrong / answers
    missed: int
    false_alarms: int
    unanswered: int


def _worst_first(levels: dict[str, ErrorRate]) -> dict[str, ErrorRate]:
    return {level: levels[level] for level in sorted(levels, key=lambda level: (-levels[level].rate, level))}


class GroupErrors(Section):
    """One group of one class and how often it was got wrong."""

    group_id: str
    label: str
    answers: int
    wrong: int
    rate: float


class WrongClip(Section):
    """One wrong answer, with the factors of its clip; p_speech is None where there is none."""

    clip_id: str
    group_id: str
    label: str
    prediction: str | None
    p_speech: float | None
    seed: int | None
    factors: dict[str, str]


class Errors(Section):
    """What the headline detector gets wrong, and where. Rates are counts without intervals: those stand in `by`."""

    answers: int
    wrong: int
    by: dict[str, Annotated[dict[str, ErrorRate], AfterValidator(ascending)]]  # factor, group_id -> level
    worst_groups: list[GroupErrors]  # the highest rate first, 10 at most
    family_column: str | None  # what says which sound a clip is of: family, category or source
    false_alarms_by_family: Annotated[dict[str, ErrorRate], AfterValidator(_worst_first)]  # clips of the second class
    missed: list[WrongClip]  # the surest mistakes first, 200 at most
    false_alarms: list[WrongClip]
    n_missed: int
    n_false_alarms: int


class Inflation(Section):
    """Balanced accuracy under random folds minus that under folds by group, on the same clips, each out of fold.

    `clean` is the corrected figure, `leaky` the other; both are means over seeds, as is `value`. The interval is the
    paired one over groups, which carry all their seeds.
    """

    value: float
    ci95: tuple[float, float] | None
    method: str | None
    reason: str | None
    se: float  # standard deviation over resampled groups
    clean: float
    leaky: float
    per_seed: dict[str, float]  # empty for a detector without seeds
    folds: dict[str, int]  # protocol -> K
    clips: int
    groups: int


class Agreement(Section):
    """The same adapter or base scored by constrained generation and by one forward pass."""

    n: int
    flips: int
    max_abs_dp: float | None
    mean_abs_dp: float | None


GoalVerdict = Literal["met", "not met", "undecidable"]


class Goal(Section):
    """One goal of the study's recipe, judged by the interval: undecidable where that holds the bound or is not reliable.

    On a split that is leaky or was not audited every goal is, but for the inflation.
    """

    asks: str
    verdict: GoalVerdict
    found: str  # value and interval, and why they decide nothing, in words
    value: float | None
    ci95: tuple[float | None, float | None] | None  # an end is None where it is open
    bound: float
    reason: str | None


class Next(Section):
    """The study that the goals' verdicts lead to."""

    study: str
    because: str
