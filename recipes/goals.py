"""What a study wants to know, stated so that its report can answer: a number, its bound, and where the answer leads."""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from recipes.block import Block

THRESHOLDS = ("DT75", "SNR75")  # in ms and dB
AT_LEVELS = ("accuracy", "balanced_accuracy")  # beside the recalls
METRICS = (  # without ECE and MCE, of which no interval could decide
    *AT_LEVELS, "roc_auc", "average_precision", "d_prime", "criterion", "brier", "log_loss",
    "confidence_mean", "confidence_right", "confidence_wrong", "confidence_gap", *THRESHOLDS, "inflation",
)  # fmt: skip


def _one_level(at: dict[str, str | float]) -> dict[str, str | float]:
    if len(at) != 1:
        raise ValueError(f"names {len(at)} factors; a goal is judged at one level of one factor, or over all clips")
    return at


class GoalBlock(Block):
    """One goal: met where the whole interval is on its side, not met where none of it is, undecidable in between.

    Either `at_least` or `at_most` bounds a metric; or the headline detector has to have more balanced accuracy than the
    detector `against`, on the same clips, by more than `by`.
    """

    metric: str = "balanced_accuracy"
    detector: str | None = None  # null: the headline's
    at: Annotated[dict[str, str | float], AfterValidator(_one_level)] | None = None  # e.g. {duration_ms: 200}
    at_least: float | None = None
    at_most: float | None = None
    against: str | None = None
    by: float = Field(0.0, ge=-1, le=1)

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        bounds = [bound for bound in (self.at_least, self.at_most, self.against) if bound is not None]
        if len(bounds) != 1:
            raise ValueError("give one of `at_least: NUMBER`, `at_most: NUMBER` and `against: DETECTOR`")
        if self.against and (self.metric != "balanced_accuracy" or self.detector):
            raise ValueError("`against` compares the balanced accuracy of the headline: leave out metric and detector")
        if self.by and not self.against:
            raise ValueError("`by` goes with `against: DETECTOR`")
        return self

    def check(self, classes: Sequence[str], detectors: Sequence[str]) -> None:
        """Raise ValueError where the report will not have the metric or the detector."""
        by_class = [f"{kind}_{name.lower()}" for kind in ("recall", "precision", "f1") for name in classes]
        known = [*AT_LEVELS, *by_class[:2]] if self.at and not self.against else [*METRICS, *by_class]
        if self.metric not in known:
            raise ValueError(f"metric {self.metric!r} is none of {', '.join(known)}")
        for name in (self.detector, self.against):
            if name and name not in detectors:
                raise ValueError(f"{name!r} is not scored here; there are {', '.join(detectors)}")
