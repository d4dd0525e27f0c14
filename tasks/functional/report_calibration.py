"""What dev allows to correct: a threshold and a temperature a fold, and the test metrics with and without them."""

import pandas as pd

from tasks.functional.calibration import choose_threshold, fit_temperature, margin_of, soften
from tasks.functional.predictions import Fold, decide, folds_of
from tasks.functional.report_metrics import Rule, calibration_of, decision_metrics_of, probability_metrics_of
from tasks.functional.report_schema import Calibration, DevCalibration, FoldFit


def calibration_section(rows: pd.DataFrame, rule: Rule) -> Calibration | None:
    """Calibration of the test rows, and what each fold's dev rows correct; None where a test clip has no p_speech.

    rows: dev and test of one detector. Raises ValueError where dev rows are test rows (`predictions.folds_of`).
    """
    raw = calibration_of(rows[rows["split"] == "test"], rule)
    return raw and raw.model_copy(update={"dev": _dev_calibration(rows, rule)})


def _dev_calibration(rows: pd.DataFrame, rule: Rule) -> DevCalibration | None:
    folds = list(folds_of(rows))
    if any(fold.dev["label"].nunique() < 2 for fold in folds):
        return None
    fits = {fold.name: _fit(fold, rule) for fold in folds if not fold.constant}
    softened = pd.concat([_softened(fold, fits) for fold in folds])
    at_dev, own = (decide(rows, rule.classes, threshold).rows for threshold in ("dev", "fixed"))
    return DevCalibration(
        folds=fits,
        constant=[fold.name for fold in folds if fold.constant],
        raw=decision_metrics_of(own, rule) | probability_metrics_of(own, rule),
        calibrated=(decision_metrics_of(at_dev, rule) | probability_metrics_of(softened, rule)) if fits else None,
    )


def _fit(fold: Fold, rule: Rule) -> FoldFit:
    positive, dev = rule.classes[0], fold.dev
    chosen = choose_threshold(dev["p_speech"], dev["label"], positive=positive)
    warmth = fit_temperature(margin_of(dev["p_speech"]), dev["label"], positive=positive)
    return FoldFit(
        clips=dev["clip_id"].nunique(), groups=dev["group_id"].nunique(),
        threshold=chosen.value, sensitivity=chosen.sensitivity, specificity=chosen.specificity,
        threshold_flag=chosen.flag, temperature=warmth.value, nll_before=warmth.nll_before, nll_after=warmth.nll_after,
        at_bound=warmth.at_bound, temperature_flag=warmth.flag,
    )  # fmt: skip


def _softened(fold: Fold, fits: dict[str, FoldFit]) -> pd.DataFrame:
    """The fold's test rows under its own temperature; as they are where nothing could be fitted."""
    if fold.name not in fits:
        return fold.test
    return fold.test.assign(p_speech=soften(fold.test["p_speech"], fits[fold.name].temperature))
