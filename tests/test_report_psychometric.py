"""The psychometric section against simulated detectors, hand-made tables and a jackknife written out."""

import itertools
import json
import math

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tasks.functional import report_psychometric
from tasks.functional.metrics import dprime, roc_auc
from tasks.functional.psychometric import bootstrap_threshold, fit_hit_rate, fit_psychometric
from tasks.functional.report_psychometric import Curves, CurveThreshold, Psychometric, psychometric_section
from tasks.functional.threshold_intervals import balanced_cells

CLASSES = ("SPEECH", "NONSPEECH")
MS = (20.0, 40.0, 80.0, 200.0, 500.0)
DB = (-10.0, -5.0, 0.0, 5.0, 10.0)


def clips_of(
    groups: int = 8,
    per_cell: int = 2,
    durations: tuple[float, ...] = MS,
    snrs: tuple[float, ...] = DB,
    speech_per_nonspeech: int = 1,
) -> pd.DataFrame:
    """A crossed design: every group at every duration and SNR."""
    rows = [
        (f"{label}{group}", label, duration, snr)
        for label, group, duration, snr in itertools.product(CLASSES, range(groups), durations, snrs)
        for _ in range(per_cell * (speech_per_nonspeech if label == "SPEECH" else 1))
    ]
    table = pd.DataFrame(rows, columns=["group_id", "label", "duration_ms", "snr_db"])
    return table.assign(clip_id=[f"c{i}" for i in range(len(table))])


def answered(clips: pd.DataFrame, right: npt.ArrayLike) -> pd.DataFrame:
    """Predictions that are right where `right` says so."""
    other = clips["label"].map(dict(zip(CLASSES, CLASSES[::-1], strict=True)))
    return clips.assign(prediction=clips["label"].where(np.asarray(right, dtype=bool), other))


def heard(
    clips: pd.DataFrame, seed: int = 0, dt75: float = 80.0, slope: float = 4.0, sd: float = 0.3, lapse: float = 0.0
) -> pd.DataFrame:
    """A detector whose balanced curve over log10 duration has that DT75 and slope in each group, give or take sd."""
    rng = np.random.default_rng(seed)
    names, group = np.unique(clips["group_id"], return_inverse=True)
    eta = slope * np.log10(clips["duration_ms"] / dt75) + sd * rng.normal(size=len(names))[group]
    return answered(clips, rng.random(len(clips)) < 0.5 + (0.5 - lapse) / (1 + np.exp(-eta)))


def section(rows: pd.DataFrame, n_boot: int = 20, seed: int = 0) -> Psychometric:
    found = psychometric_section(rows, classes=CLASSES, n_boot=n_boot, seed=seed)
    assert found is not None
    return found


def over_duration(rows: pd.DataFrame, **options: int) -> Curves:
    found = section(rows.drop(columns="snr_db", errors="ignore"), **options).duration_ms
    assert found is not None
    return found


def dt75(rows: pd.DataFrame, **options: int) -> CurveThreshold:
    curve = over_duration(rows, **options).correct
    assert curve is not None
    return curve.thresholds["DT75"]


# --- the curve ---------------------------------------------------------------------------------------------------


def test_the_threshold_of_a_simulated_detector_comes_back_within_its_interval():
    found = section(heard(clips_of(groups=22, per_cell=2)), n_boot=200)
    threshold = found.duration_ms.correct.thresholds["DT75"]
    assert (threshold.definition, threshold.method, threshold.reason) == ("psi = .75", "bootstrap", None)
    assert threshold.ci95[0] < 80 < threshold.ci95[1]
    assert threshold.value == pytest.approx(80, rel=0.15)
    assert threshold.not_reached == 0
    assert found.duration_ms.unit == "ms"
    assert found.snr_db.correct.thresholds["SNR75"].reason.startswith("flat")  # the SNR does nothing here
    assert set(found.snr_db_by_duration) == {"20", "40", "80", "200", "500"}


def test_with_as_many_clips_of_each_class_the_curve_is_that_of_the_clips():
    rows = heard(clips_of())
    found = section(rows)
    right = (rows["prediction"] == rows["label"]).astype(int)
    counts = right.groupby(rows["duration_ms"]).agg(["sum", "count"])
    fit = fit_psychometric(counts.index, counts["sum"], counts["count"])
    curve = found.duration_ms.correct
    assert (curve.intercept, curve.slope, curve.lapse_rate) == pytest.approx(fit[:2] + fit[3:4], abs=1e-6)
    assert (curve.deviance, curve.slope_p) == pytest.approx((fit.deviance, fit.slope_p_value), abs=1e-6)
    assert curve.thresholds["DT75"].value == pytest.approx(fit.threshold(0.75).value)
    assert (curve.guess, curve.guess_rate) == ("fixed", 0.5)


def test_the_bootstrap_is_bootstrap_threshold_with_the_tails_of_student():
    rows = heard(clips_of(groups=20, per_cell=1, snrs=(0.0, 5.0)))
    found = dt75(rows, n_boot=400, seed=5)
    trials = rows.assign(correct=(rows["prediction"] == rows["label"]).astype(int))
    of_student = 2 * stats.norm.cdf(stats.t.ppf(0.975, 19) * math.sqrt(20 / 19)) - 1
    wider, plain = (
        bootstrap_threshold(trials, level="duration_ms", n_boot=400, seed=5, confidence=confidence)
        for confidence in (of_student, 0.95)
    )
    assert found.ci95 == pytest.approx(wider, rel=1e-6)
    assert wider.low < plain.low < plain.high < wider.high


def test_always_speech_is_at_chance_however_many_clips_are_speech():
    clips = clips_of(speech_per_nonspeech=3)
    deaf = clips.assign(prediction="SPEECH")
    threshold = dt75(deaf)
    assert threshold.value is None
    assert threshold.reason.startswith("flat")
    assert {level.correct for level in over_duration(deaf).levels} == {0.5}
    assert (deaf["prediction"] == deaf["label"]).mean() == 0.75  # what pooled clips would call a threshold


def test_levels_of_unlike_classes_are_weighed_by_class():
    rows = heard(clips_of(groups=12, speech_per_nonspeech=4), seed=1)
    biased = rows.assign(
        prediction=rows["prediction"].mask(rows["label"] == "SPEECH", "SPEECH")
    )  # speech always right
    found = over_duration(biased)
    nonspeech = biased[biased["label"] == "NONSPEECH"]
    share = (nonspeech["prediction"] == "NONSPEECH").groupby(nonspeech["duration_ms"]).mean()
    assert [level.correct for level in found.levels] == pytest.approx(((1 + share) / 2).tolist())
    assert np.interp(200, *zip(*found.correct.points, strict=True)) == pytest.approx((1 + share[200]) / 2, abs=0.05)


@given(st.integers(1, 50), st.integers(1, 50), st.floats(0.05, 0.95))
def test_a_levels_trials_have_the_variance_of_its_balanced_accuracy(n_speech, n_nonspeech, rate):
    counts = {"S": n_speech, "N": n_nonspeech}
    drawn = {name: (np.array([[rate * n]]), np.array([[float(n)]])) for name, n in counts.items()}
    correct, trials = (part[0, 0] for part in balanced_cells(drawn))
    variance = rate * (1 - rate) * (1 / n_speech + 1 / n_nonspeech) / 4
    assert correct / trials == pytest.approx(rate)
    assert rate * (1 - rate) / trials == pytest.approx(variance)
    if n_speech == n_nonspeech:
        assert trials == pytest.approx(2 * n_speech)


def test_a_draw_without_one_class_at_a_level_has_no_trials_there():
    right, n = np.array([[0.0, 3.0]]), np.array([[0.0, 4.0]])
    correct, trials = balanced_cells({"S": (right, n), "N": (np.array([[2.0, 3.0]]), np.array([[4.0, 4.0]]))})
    assert (correct.tolist(), trials.tolist()) == ([[0, 6]], [[0, 8]])


def test_dt50_is_read_from_hits_with_the_rate_of_false_alarms_as_guess_rate():
    rows = heard(clips_of(groups=12))
    found = over_duration(rows)
    speech, nonspeech = (rows[rows["label"] == name] for name in CLASSES)
    hits = (speech["prediction"] == "SPEECH").groupby(speech["duration_ms"]).agg(["sum", "count"])
    false_alarms = int((nonspeech["prediction"] == "SPEECH").sum())
    fit = fit_hit_rate(hits.index, hits["sum"], hits["count"], false_alarms, len(nonspeech))
    threshold = found.hit_rate.thresholds["DT50"]
    assert threshold.definition == "F = .5"
    assert threshold.value == pytest.approx(fit.threshold(0.5, scaled=False).value)
    assert (found.hit_rate.guess, found.hit_rate.guess_rate) == ("false alarms", pytest.approx(fit.guess_rate))
    assert set(found.correct.thresholds) == {"DT75"}  # no DT50 on this scale


def test_one_rate_of_false_alarms_is_tested():
    fewer_when_long = over_duration(heard(clips_of(groups=12))).hit_rate
    assert fewer_when_long.false_alarms_alike_p < 0.001
    clips = clips_of(groups=12)
    steady = np.where(clips["label"] == "NONSPEECH", clips.index % 5 > 0, clips["duration_ms"] > 50)
    assert over_duration(answered(clips, steady)).hit_rate.false_alarms_alike_p > 0.5


def test_an_unanswered_clip_is_wrong():
    rows = heard(clips_of())
    silent = rows.assign(prediction=rows["prediction"].mask(rows.index % 7 == 0, None))
    wrong = answered(rows, (rows["prediction"] == rows["label"]) & (rows.index % 7 != 0))
    assert over_duration(silent) == over_duration(wrong)


def test_levels_tell_d_prime_and_auc_beside_the_curve():
    rows = heard(clips_of())
    rows["p_speech"] = np.random.default_rng(0).random(len(rows))
    at = rows[rows["duration_ms"] == 40]
    level = over_duration(rows).levels[1]
    said = at["prediction"] == "SPEECH"
    speech = at["label"] == "SPEECH"
    expected = dprime(int((said & speech).sum()), int(speech.sum()), int((said & ~speech).sum()), int((~speech).sum()))
    assert (level.level, level.clips, level.groups) == (40, len(at), 16)
    assert (level.d_prime, level.criterion) == pytest.approx(expected)
    assert level.roc_auc == pytest.approx(roc_auc(at["p_speech"], at["label"]))
    assert {level.roc_auc for level in over_duration(rows.drop(columns="p_speech")).levels} == {None}


def test_the_auc_of_a_level_ranks_within_the_clips_of_one_model():
    """Two folds that each separate the classes, on scales of their own: pooled they would not."""
    clips = clips_of(durations=(20.0, 80.0, 200.0))
    rows = answered(clips, np.ones(len(clips)))
    fold = np.arange(len(rows)) % 2
    rows = rows.assign(p_speech=(rows["label"] == "SPEECH") * 0.2 + fold / 2, fold=fold, seed=42)
    assert {level.roc_auc for level in over_duration(rows).levels} == {1.0}
    assert {level.roc_auc for level in over_duration(rows.assign(fold=0)).levels} == {0.75}
    alone = rows.assign(fold=(rows["label"] == "SPEECH").astype(int))
    assert {level.roc_auc for level in over_duration(alone).levels} == {None}


def test_the_curve_to_draw_runs_from_level_to_level():
    curve = over_duration(heard(clips_of())).correct
    at, psi = zip(*curve.points, strict=True)
    assert len(at) == 60
    assert (at[0], at[-1]) == (20, 500)
    assert np.diff(np.log(at)) == pytest.approx(math.log(25) / 59)
    assert list(psi) == sorted(psi)
    snr = section(heard(clips_of())).snr_db.correct.points
    assert np.diff([x for x, _ in snr]) == pytest.approx(20 / 59)


# --- which rows enter --------------------------------------------------------------------------------------------


def test_clips_without_noise_are_left_out_of_the_snr_curve_and_counted():
    rows = heard(clips_of())
    quiet = rows.assign(snr_db=rows["snr_db"].mask(rows["snr_db"] == 10))
    found = section(quiet)
    n = int((rows["snr_db"] == 10).sum())
    assert found.snr_db.left_out == {"no noise added": n}
    assert found.snr_db.clips == len(rows) - n
    assert [level.level for level in found.snr_db.levels] == [-10, -5, 0, 5]
    assert found.duration_ms.clips == len(rows)
    assert found.snr_db_by_duration["20"].left_out == {"no noise added": n // 5}


def test_a_level_of_one_class_is_left_out_and_counted():
    rows = heard(clips_of())
    lone = rows[(rows["duration_ms"] > 20) | (rows["label"] == "SPEECH")]
    found = over_duration(lone)
    assert found.left_out == {"of the only class at their level": int((lone["duration_ms"] == 20).sum())}
    assert [level.level for level in found.levels] == [40, 80, 200, 500]


def test_what_is_pooled_is_said_with_how_unlike_the_levels_are():
    rows = heard(clips_of()).assign(room="one", band=["a", "b"] * 400)
    found = section(rows)
    assert found.duration_ms.pooled == {"snr_db": pytest.approx(0), "band": pytest.approx(0)}
    assert found.snr_db_by_duration["40"].at == {"duration_ms": 40}
    assert "duration_ms" not in found.snr_db_by_duration["40"].pooled
    tied = rows[(rows["snr_db"] == 10) == (rows["duration_ms"] == 500)]  # long clips are the clean ones
    assert section(tied).duration_ms.pooled["snr_db"] > 0.7


def test_too_few_levels_have_rates_and_no_curve():
    found = section(heard(clips_of(durations=(40.0, 200.0))))
    assert found.duration_ms.correct is None
    assert found.duration_ms.hit_rate is None
    assert found.duration_ms.reason == "2 levels with clips of both classes: a curve needs at least 3"
    assert len(found.duration_ms.levels) == 2


def test_one_class_alone_has_no_curve():
    rows = heard(clips_of())
    found = section(rows[rows["label"] == "SPEECH"])
    assert found.duration_ms.reason.startswith("0 levels with clips of both classes")
    assert found.duration_ms.left_out == {"of the only class at their level": len(rows) // 2}


@pytest.mark.parametrize("columns", [["duration_ms", "snr_db"], []])
def test_a_table_without_durations_and_snrs_has_no_section(columns):
    rows = heard(clips_of()).drop(columns=columns)
    if not columns:
        rows = rows.assign(duration_ms=None, snr_db=np.nan)
    assert psychometric_section(rows, classes=CLASSES, n_boot=10, seed=0) is None


def test_a_factor_that_is_not_there_is_none():
    rows = heard(clips_of())
    only_duration = section(rows.drop(columns="snr_db"))
    assert (only_duration.snr_db, only_duration.snr_db_by_duration) == (None, {})
    only_snr = section(rows.drop(columns="duration_ms"))
    assert (only_snr.duration_ms, only_snr.snr_db_by_duration) == (None, {})
    assert only_snr.snr_db.clips == len(rows)


@pytest.mark.parametrize(("column", "value"), [("duration_ms", 0.0), ("duration_ms", -5.0), ("snr_db", math.inf)])
def test_levels_that_cannot_be_are_refused_and_counted(column, value):
    rows = heard(clips_of())
    with pytest.raises(ValueError, match=f"{column} is {value:g} in 160 of 800 rows"):
        section(rows.assign(**{column: rows[column].mask(rows.index % 5 == 0, value)}))


# --- intervals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "method", "reason"),
    [
        (1, None, "fewer than 2 groups in NONSPEECH: no interval"),
        (3, "t", "only 3 groups in NONSPEECH: unreliable"),
        (5, "t", None),
        (19, "t", None),
        (20, "bootstrap", None),
    ],
)
def test_the_number_of_groups_decides_what_may_be_said_of_a_threshold(groups, method, reason):
    rows = heard(clips_of(groups=22, per_cell=4, snrs=(0.0, 5.0)))
    fewer = rows[(rows["label"] == "SPEECH") | rows["group_id"].isin([f"NONSPEECH{g}" for g in range(groups)])]
    found = dt75(fewer)
    assert found.value is not None
    assert (found.method, found.reason) == (method, reason)
    assert (found.ci95 is None) == (method is None)
    assert (found.not_reached is None) == (method != "bootstrap")


def test_with_few_groups_the_interval_is_students_on_the_jackknife():
    rows = heard(clips_of(groups=6, per_cell=3, snrs=(0.0,)))
    trials = rows.assign(correct=(rows["prediction"] == rows["label"]).astype(int))

    def log_threshold(kept):
        shares = kept.groupby(["duration_ms", "label"])["correct"].mean().unstack().mean(axis=1)
        fit = fit_psychometric(MS, (shares * 36e6).round(), [36_000_000] * 5)  # balanced: levels are alike in size
        return math.log10(fit.threshold(0.75).value)

    variance = 0.0
    for label in CLASSES:
        names = trials.loc[trials["label"] == label, "group_id"].unique()
        without = np.array([log_threshold(trials[trials["group_id"] != name]) for name in names])
        variance += 5 / 6 * ((without - without.mean()) ** 2).sum()
    half = stats.t.ppf(0.975, 5) * math.sqrt(variance)
    found = dt75(rows)
    expected = [10 ** (math.log10(found.value) + side * half) for side in (-1, 1)]
    assert found.ci95 == pytest.approx(expected, rel=2e-3)


def test_resamples_that_do_not_reach_p_leave_the_end_open(monkeypatch):
    monkeypatch.setattr(report_psychometric, "MAX_LAPSE", 0.4)  # so that curves may end below p
    found = dt75(heard(clips_of(groups=22, snrs=(0.0,)), lapse=0.2), n_boot=300)
    assert found.value is not None
    assert 20 < found.ci95[0] < found.value
    assert found.ci95[1] is None
    assert found.not_reached > 0.025
    assert found.reason == f"p is not reached in {found.not_reached:.1%} of the resamples"


def test_supergroups_have_an_interval_of_their_own():
    rows = heard(clips_of(groups=8), sd=0)
    supergroup = rows["group_id"].str.replace(r"\d", lambda digit: str(int(digit[0]) // 2), regex=True)
    eta = 4 * np.log10(rows["duration_ms"] / 80) + supergroup.str[-1].map({"0": -2, "1": -1, "2": 1, "3": 2})
    rows = answered(rows, np.random.default_rng(0).random(len(rows)) < 0.5 + 0.5 / (1 + np.exp(-eta)))
    found = dt75(rows.assign(supergroup_id=supergroup))
    assert found.ci95_supergroup[0] < found.ci95[0] < found.ci95[1] < found.ci95_supergroup[1]
    assert found.reason_supergroup == "only 4 groups in NONSPEECH: unreliable"
    assert dt75(rows).ci95_supergroup is None


def test_a_flat_curve_has_a_reason_and_no_interval():
    rows = answered(clips := clips_of(), np.random.default_rng(0).random(len(clips)) < 0.8)
    found = dt75(rows)
    assert (found.value, found.ci95, found.method) == (None, None, None)
    assert found.reason.startswith("flat")


def test_performance_that_falls_with_duration_has_no_threshold():
    rows = heard(clips_of())
    falling = rows.assign(duration_ms=10_000 / rows["duration_ms"])
    found = dt75(falling)
    assert found.value is None
    assert found.reason == "performance falls with the level: there is no DT75"
    assert over_duration(falling).correct.slope < 0


def test_a_censored_threshold_keeps_its_value_and_says_so():
    found = dt75(heard(clips_of(groups=12, per_cell=4), dt75=12, slope=3))
    assert found.censored == "below"
    assert found.value < 20


def test_a_step_has_a_threshold_and_no_interval():
    clips = clips_of()
    right = (clips["duration_ms"] > 100) | (clips.index % 2 == 0)
    found = dt75(answered(clips, right))
    assert 80 < found.value < 200
    assert found.ci95 is None
    assert found.reason == "the data are a step: any level near it fits as well: no interval"


# --- the document ------------------------------------------------------------------------------------------------


def test_the_section_reads_back_equal_and_a_seed_gives_one():
    rows = heard(clips_of(groups=20, per_cell=1))
    found = section(rows)
    text = json.dumps(found.model_dump(mode="json"), sort_keys=True)  # would put "200" before "40"
    assert Psychometric.model_validate_json(text) == found
    assert list(Psychometric.model_validate_json(text).snr_db_by_duration) == ["20", "40", "80", "200", "500"]
    assert section(rows.sample(frac=1, random_state=0)) == found
    assert section(rows, seed=1).duration_ms.correct.thresholds != found.duration_ms.correct.thresholds
