"""The report is derived from the predictions table, says what it cannot say, and refuses what may not be published."""

import functools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.functional.predictions import decide
from tasks.functional.report import Report, build_report, publication_refusals, validate_predictions

CLASSES = ("SPEECH", "NONSPEECH")
SKILL = {"adapter": 1.6, "base": 0.4, "mel_statistics": 1.7, "majority": 0.0}
LEAKAGE = {"verdict": "clean", "rows": [{"check": "group_id", "pairs": "train/test", "shared": 0}]}


def make_clips(groups: int = 6, per_cell: int = 1) -> pd.DataFrame:
    """Clips of a duration x SNR design: `groups` a class, speech groups by voice, nonspeech by generator (4 of them)."""
    rows = [
        {
            "clip_id": f"{label[:1]}{group:02d}-{duration_ms:g}-{snr_db}-{take}",
            "group_id": f"{label[:1]}{group:02d}",
            "supergroup_id": f"gen{group % 4}" if label == "NONSPEECH" else None,
            "label": label,
            "duration_ms": duration_ms,
            "snr_db": snr_db,
            "family": "voice" if label == "SPEECH" else ("music", "noise")[group % 2],
        }
        for label in CLASSES
        for group in range(groups)
        for duration_ms in (40.0, 200.0, 1000.0)
        for snr_db in (-5.0, 5.0, None)
        for take in range(per_cell)
    ]
    return pd.DataFrame(rows)


def score(clips: pd.DataFrame, skill: float, draw: int, **columns: Any) -> pd.DataFrame:
    """Predictions whose logit is skill +- group and clip noise, harder when short and noisy; skill 0 is constant."""
    rng = np.random.default_rng(draw)
    easier = np.log2(clips["duration_ms"] / 140) / 3 + clips["snr_db"].fillna(15) / 15
    names, group = np.unique(clips["group_id"], return_inverse=True)
    sign = np.where(clips["label"] == "SPEECH", 1, -1)
    noise = 0.5 * rng.normal(size=len(names))[group] + rng.normal(size=len(clips))
    logit = 0.3 if skill == 0 else skill * np.clip(0.5 + easier / 2, 0, 2) * sign + noise
    return clips.assign(p_speech=1 / (1 + np.exp(-logit)), **columns)


def make_predictions(groups: int = 6, per_cell: int = 1, seeds: tuple[int, ...] = (42, 43)) -> pd.DataFrame:
    """One table as a study makes it: adapter (two seeds) and base by generate and forward, two baselines."""
    test = make_clips(groups, per_cell)
    dev = test.assign(clip_id="dev-" + test["clip_id"], group_id="dev-" + test["group_id"])
    parts = []
    for split, clips in (("test", test), ("dev", dev)):
        for order, (name, skill) in enumerate(SKILL.items()):
            seed_of = seeds if name == "adapter" else (None,)
            methods = ("generate", "forward") if name in ("adapter", "base") else (None,)
            for seed in seed_of:
                one = score(clips, skill, (seed or 0) + order, detector=name, split=split, seed=seed)
                parts += [one.assign(protocol="group", fold=0, method=method) for method in methods]
    return pd.concat(parts, ignore_index=True)


def recorded(**others: Any) -> dict[str, Any]:
    gate = {"passed": True, "train_accuracy": {"seed 42, fold 0": 0.93}, "asked": 0.85, "on_fail": "stop"}
    return {"leakage": LEAKAGE, "gate": gate, "provenance": {"protocol": "group", "seeds": [42, 43]}} | others


def build(predictions: pd.DataFrame, **options: Any) -> Report:
    """A report with few resamples; by-tables only where `factors` asks for them."""
    defaults = {"classes": CLASSES, "detector": "adapter", "seed": 42, "n_boot": 60, "factors": []}
    return build_report(predictions, **(defaults | {"recorded": recorded()} | options))


def tiny(right: dict[str, list[int]], **columns: Any) -> pd.DataFrame:
    """Test rows whose correctness is given: 6 groups a class, detectors without p_speech."""
    n = len(next(iter(right.values())))
    clips = pd.DataFrame({"clip_id": [f"c{i:03d}" for i in range(n)], "label": [CLASSES[i % 2] for i in range(n)]})
    clips["group_id"] = [f"{label}-{i // 2 % 6}" for i, label in enumerate(clips["label"])]
    wrong = clips["label"].map({"SPEECH": "NONSPEECH", "NONSPEECH": "SPEECH"})
    parts = [
        clips.assign(detector=name, prediction=clips["label"].where(np.array(given) == 1, wrong), **columns)
        for name, given in right.items()
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def small() -> pd.DataFrame:
    """Two groups a class; the adapter and the base, by generate and by forward."""
    two = make_predictions(groups=2, seeds=(42,)).query("detector in ('adapter', 'base')")
    return two.drop(columns="supergroup_id")


@pytest.fixture(scope="module")
def predictions() -> pd.DataFrame:
    return make_predictions()


@functools.cache
def studied() -> Report:
    """The report of `make_predictions`: four detectors, two seeds, every factor. Cards and figures are made of it."""
    return build(make_predictions(), factors=None)


@pytest.fixture(scope="module")
def report() -> Report:
    return studied()


# --- what is derived ---------------------------------------------------------------------------------------------


def test_headline_is_the_published_seed_by_generate_on_test(predictions: pd.DataFrame, report: Report) -> None:
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    of_headline = {"detector": "adapter", "split": "test", "seed": 42, "method": "generate"}
    rows = predictions[np.logical_and.reduce([predictions[key] == value for key, value in of_headline.items()])]
    said = np.where(rows["p_speech"] >= 0.5, "SPEECH", "NONSPEECH")
    assert report.metrics["balanced_accuracy"].value == pytest.approx(balanced_accuracy_score(rows["label"], said))
    assert report.metrics["roc_auc"].value == pytest.approx(roc_auc_score(rows["label"] == "SPEECH", rows["p_speech"]))
    assert (report.n.clips, report.n.groups, report.seed) == (108, 12, 42)
    assert report.confusion["SPEECH"]["SPEECH"] == ((said == "SPEECH") & (rows["label"] == "SPEECH")).sum()


def test_no_detector_and_no_seed_is_left_out(report: Report) -> None:
    assert list(report.detectors) == ["adapter", "base", "majority", "mel_statistics"]
    assert [(one.seed, one.published) for one in report.seeds] == [(42, True), (43, False)]
    assert set(report.comparisons) == set(report.beats) == set(report.detectors) - {"adapter"}
    assert report.seeds_pooled is not None
    means = [one.metrics["accuracy"].value for one in report.seeds]
    assert report.seeds_pooled["accuracy"].value == pytest.approx(np.mean(means))


def test_one_altered_probability_changes_the_report(predictions: pd.DataFrame, report: Report) -> None:
    mine = (predictions["detector"] == "adapter") & (predictions["method"] == "generate") & (predictions["seed"] == 42)
    altered = predictions[mine & (predictions["split"] == "test")].copy()
    assert build(altered).metrics == report.metrics
    altered.iloc[7, altered.columns.get_loc("p_speech")] += 1e-6
    assert build(altered).metrics["brier"] != report.metrics["brier"]


@pytest.mark.slow
def test_order_of_rows_and_index_does_not_matter(small: pd.DataFrame) -> None:
    shuffled = small.sample(frac=1, random_state=1)
    assert build(shuffled).model_dump_json() == build(small).model_dump_json()


def test_mcnemar_and_holm_agree_with_statsmodels() -> None:
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(0)
    right = {name: rng.binomial(1, p, 80) for name, p in (("adapter", 0.9), ("base", 0.6), ("loudness", 0.85))}
    report = build(tiny({name: given.tolist() for name, given in right.items()}), seed=None)
    expected = []
    for name in ("base", "loudness"):
        both = pd.crosstab(right["adapter"], right[name]).reindex(index=[0, 1], columns=[0, 1], fill_value=0)
        one = report.comparisons[name]
        assert (one.b, one.c) == (both.loc[1, 0], both.loc[0, 1])
        assert one.p_exact == pytest.approx(float(mcnemar(both, exact=True).pvalue))
        expected.append(one.p_exact)
    holm = multipletests(expected, method="holm")[1]
    assert [report.comparisons[name].p_holm for name in ("base", "loudness")] == pytest.approx(holm)


def test_agreement_counts_flips_and_the_largest_gap(small: pd.DataFrame) -> None:
    table = small.copy()
    forward = (table["detector"] == "base") & (table["method"] == "forward") & (table["split"] == "test")
    three = table[forward & table["p_speech"].between(0.1, 0.4)].index[:3]
    table.loc[three, "p_speech"] += 0.5
    agreement = build(table).agreement
    assert agreement is not None
    assert (agreement["base"].n, agreement["base"].flips) == (forward.sum(), 3)
    assert agreement["base"].max_abs_dp == pytest.approx(0.5)
    assert agreement["adapter"].flips == 0


# --- what leakage adds -------------------------------------------------------------------------------------------


def both_protocols(**columns: Any) -> pd.DataFrame:
    """One clip of eight better under random folds by the adapter, two by mel statistics; two folds and one seed."""
    under = {
        "group": {"adapter": [1, 1, 1, 0, 0, 1, 1, 1] * 4, "mel_statistics": [1, 0, 0, 1, 1, 1, 0, 1] * 4},
        "random": {"adapter": [1, 1, 1, 0, 1, 1, 1, 1] * 4, "mel_statistics": [1, 0, 1, 1, 1, 1, 1, 1] * 4},
    }
    tables = [tiny(right, protocol=name, **columns) for name, right in under.items()]
    table = pd.concat(tables, ignore_index=True)
    table["fold"] = np.arange(len(table)) // 2 % 2
    table["seed"] = table["detector"].map({"adapter": 42}).astype("Int64")
    return table


def test_inflation_is_the_paired_difference_of_the_protocols_for_every_detector() -> None:
    report = build(both_protocols())
    found = report.inflation
    assert found is not None
    assert found == report.detectors["adapter"].inflation
    assert (found.clean, found.leaky, found.value) == pytest.approx((6 / 8, 7 / 8, 1 / 8))
    assert (found.per_seed, found.folds) == ({"42": found.value}, {"group": 2, "random": 2})
    assert (found.clips, found.groups, found.method) == (32, 12, "t")
    assert report.protocol == "group"
    assert report.metrics["balanced_accuracy"].value == found.clean, "the corrected figure is the headline"
    floor = report.detectors["mel_statistics"].inflation
    assert floor is not None
    assert (floor.value, floor.per_seed) == (pytest.approx(2 / 8), {})


def test_inflation_decides_as_the_rest_of_the_report_does() -> None:
    """A detector that answers at 0.9: scores on both sides of 0.5 change nothing, its answers do."""
    table = both_protocols(p_speech=0.7)
    found = build(table).inflation
    assert found is not None
    assert found.value == pytest.approx(1 / 8)


def without_interval(report: Report) -> Report:
    bare = report.metrics["balanced_accuracy"].model_copy(
        update={"ci95": None, "reason": "the same answer for every clip"}
    )
    return report.model_copy(update={"metrics": report.metrics | {"balanced_accuracy": bare}})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t: t[t["protocol"] == "group"], "not scored under both protocols"),
        (lambda t: t[(t["protocol"] == "group") | (t["clip_id"] != "c000")], "not scored on the same clips"),
        (lambda t: t.assign(group_id=t["label"]), "fewer than 2 groups in SPEECH"),
    ],
)
def test_inflation_over_other_clips_or_one_group_is_not_stated(
    spoil: Callable[[pd.DataFrame], pd.DataFrame], reason: str
) -> None:
    report = build(spoil(both_protocols()))
    assert report.inflation is None
    assert reason in report.absent["inflation"]


# --- thresholds and folds ----------------------------------------------------------------------------------------


def shifted_folds() -> pd.DataFrame:
    """Two folds that are perfect at their own threshold only: scores around 0.2 in fold 0, around 0.8 in fold 1."""
    rows = [
        {
            "clip_id": f"{split}{fold}-{i}", "group_id": f"{split}{fold}-{label}-{i % 3}", "label": label,
            "p_speech": (0.2, 0.8)[fold] + (0.01 + i / 1000) * (1 if label == "SPEECH" else -1),
            "split": split, "fold": fold, "detector": "adapter", "protocol": "group", "seed": 42,
        }
        for split in ("dev", "test") for fold in (0, 1) for i, label in enumerate(CLASSES * 6)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_threshold_from_dev_is_chosen_per_fold_and_applied_to_that_fold() -> None:
    fixed, dev = build(shifted_folds()), build(shifted_folds(), threshold="dev")
    assert fixed.metrics["balanced_accuracy"].value == pytest.approx(0.5)
    assert dev.metrics["balanced_accuracy"].value == pytest.approx(1.0)
    assert dev.threshold.chosen_on == "dev"
    assert dev.threshold.value is None
    assert 0.19 < dev.threshold.by_fold["0"] <= 0.211 < 0.79 < dev.threshold.by_fold["1"] <= 0.811
    assert dev.n.clips == 24


def test_threshold_is_not_touched_by_test_scores() -> None:
    table = validate_predictions(shifted_folds(), CLASSES)
    others = table.assign(p_speech=table["p_speech"].where(table["split"] == "dev", 1 - table["p_speech"]))
    first, second = (decide(rows, CLASSES, "dev") for rows in (table, others))
    assert first.by_fold == second.by_fold
    assert (first.rows["prediction"] != second.rows["prediction"]).any()


@pytest.mark.parametrize("column", ["clip_id", "group_id"])
def test_dev_rows_that_are_test_rows_choose_no_threshold(column: str) -> None:
    table = shifted_folds()
    dev = table.index[(table["split"] == "dev") & (table["fold"] == 1)]
    table.loc[dev[0], column] = table.loc[(table["split"] == "test") & (table["fold"] == 1), column].iloc[0]
    if column == "clip_id":
        table.loc[dev[0], "group_id"] = table.loc[table["clip_id"] == table.loc[dev[0], "clip_id"], "group_id"].iloc[
            -1
        ]
    with pytest.raises(ValueError, match=r"fold 1.*stand in dev and in test"):
        build(table, threshold="dev")


def test_dev_scores_of_a_forward_pass_serve_test_answers_that_were_generated() -> None:
    """A study asks dev by one forward pass only: a threshold from dev must still be found."""
    table = shifted_folds()
    table["method"] = np.where(table["split"] == "dev", "forward", "generate")
    report = build(table, threshold="dev")
    assert (report.threshold.chosen_on, report.metrics["balanced_accuracy"].value) == ("dev", 1)
    with pytest.raises(ValueError, match="needs dev rows"):
        build(table.assign(method=np.where(table["split"] == "dev", "open", "generate")), threshold="dev")


def test_folds_have_thresholds_and_temperatures_of_their_own() -> None:
    fitted = build(shifted_folds()).calibration
    assert fitted is not None
    assert fitted.dev is not None
    assert list(fitted.dev.folds) == ["0", "1"]
    assert fitted.dev.folds["0"].threshold < 0.3 < 0.7 < fitted.dev.folds["1"].threshold
    assert fitted.dev.calibrated is not None
    values = [which["balanced_accuracy"].value for which in (fitted.dev.raw, fitted.dev.calibrated)]
    assert values == [0.5, 1]


def test_without_a_seed_all_of_them_are_the_headline(predictions: pd.DataFrame, report: Report) -> None:
    pooled = build(predictions, seed=None)
    assert pooled.seed is None
    assert [one.published for one in pooled.seeds] == [False, False]
    assert pooled.metrics["accuracy"] == report.seeds_pooled["accuracy"]  # type: ignore[index]
    assert (pooled.n.clips, pooled.errors.answers) == (report.n.clips, 2 * report.n.clips)


def test_threshold_from_dev_needs_dev_rows() -> None:
    table = shifted_folds()
    with pytest.raises(ValueError, match="needs dev rows"):
        build(table[table["split"] == "test"], threshold="dev")


@pytest.mark.slow
def test_answers_that_are_not_those_of_one_half_have_a_threshold_of_their_own() -> None:
    table = SCORED.copy()
    strict = np.where(table["p_speech"] >= 0.8, "SPEECH", "NONSPEECH")
    table["prediction"] = np.where(table["detector"] == "base", strict, np.where(table["p_speech"] >= 0.5, *CLASSES))
    report = build(table, seed=None)
    assert (report.threshold.value, report.threshold.chosen_on) == (0.5, "fixed")
    own = report.detectors["base"].threshold
    assert (own.value, own.chosen_on) == (None, "own")
    decisions = build(tiny({"adapter": [1, 0, 1, 1] * 8}), seed=None)
    assert (decisions.threshold.value, decisions.threshold.chosen_on) == (None, "own")
    unanswered = table.assign(prediction=table["prediction"].where(table.index != 40, None))
    assert build(unanswered, seed=None).detectors["adapter"].threshold.chosen_on == "fixed"


# --- beyond the metrics ------------------------------------------------------------------------------------------


def test_psychometric_functions_power_and_interaction_are_those_of_the_test_rows(
    predictions: pd.DataFrame, report: Report
) -> None:
    from tasks.functional.interaction import interaction_section
    from tasks.functional.power import power_section
    from tasks.functional.report_psychometric import psychometric_section

    table = validate_predictions(predictions, CLASSES).query("split == 'test'")
    rows = {name: table[table["detector"] == name] for name in SKILL}
    mine = rows["adapter"].query("seed == 42 and method == 'generate'")
    assert report.psychometric == psychometric_section(mine, classes=CLASSES, n_boot=60, seed=0)
    assert report.psychometric == report.detectors["adapter"].psychometric
    floor = psychometric_section(rows["mel_statistics"], classes=CLASSES, n_boot=60, seed=0)
    assert report.detectors["mel_statistics"].psychometric == floor
    assert report.interaction == interaction_section(mine)
    assert report.power is not None
    best = max(report.comparisons, key=lambda name: report.comparisons[name].other)
    expected = power_section(mine, rows[best].query("method in ('generate', '')"))
    assert report.power.model_dump() == {**expected.model_dump(), "against": best}
    assert report.absent == {"inflation": "not scored under both protocols, 'group' and 'random'"}


def test_power_without_another_detector_is_against_one_as_good() -> None:
    report = build(tiny({"adapter": [1, 0, 1, 1] * 8}), seed=None)
    assert report.power is not None
    assert (report.power.against, report.power.discordance_of) == (None, "independent errors")


def test_what_the_table_does_not_allow_is_null_with_a_reason(predictions: pd.DataFrame, report: Report) -> None:
    bare = build(tiny({"adapter": [1, 0, 1, 1] * 8}), seed=None)
    assert (bare.psychometric, bare.interaction) == (None, None)
    assert bare.absent["psychometric"] == "no clip has a duration or an SNR"
    assert "vary in both" in bare.absent["interaction"]
    deaf = report.detectors["majority"]
    assert (deaf.psychometric, deaf.absent["psychometric"]) == (None, "the same answer for every clip: no curve")
    pooled = build(predictions, seed=None)
    assert pooled.power is None
    assert pooled.absent["power"].startswith("clips were answered under several seeds")
    assert pooled.psychometric is not None


def test_a_design_of_one_factor_at_a_time_reports_a_factor_by_the_clips_that_vary_it() -> None:
    """At 1000 ms stand the clips of all SNRs too, which are harder: DT75 and by-tables must not count them."""
    rows = [
        {"clip_id": f"{label}{group}-{name}-{level}", "group_id": f"{label}{group}", "label": label, "varied": name,
         "duration_ms": level if name == "duration_ms" else 1000.0, "snr_db": level if name == "snr_db" else None}
        for label in CLASSES for group in range(6)
        for name, levels in {"duration_ms": (40.0, 200.0, 1000.0), "snr_db": (-10.0, 0.0, 10.0)}.items()
        for level in levels
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    other = dict(zip(CLASSES, CLASSES[::-1], strict=True))
    hard = (table["varied"] == "snr_db") & (table["snr_db"] < 10)
    table["prediction"] = table["label"].where(~hard, table["label"].map(other))
    table["detector"] = "adapter"
    report = build(table, seed=None, factors=None)
    assert report.by["duration_ms"]["1000"].accuracy.value == 1
    assert report.by["duration_ms"]["1000"].clips == 12
    assert list(report.by["snr_db"]) == ["-10", "0", "10"]
    assert report.psychometric is not None
    assert report.psychometric.duration_ms is not None
    assert [level.correct for level in report.psychometric.duration_ms.levels] == [1, 1, 1]
    assert report.psychometric.snr_db is not None
    assert [level.clips for level in report.psychometric.snr_db.levels] == [12, 12, 12]
    assert report.errors.by["duration_ms"]["1000"].wrong == 0, "as in `by`"
    bare = table[["clip_id", "group_id", "label", "prediction"]].assign(detector="other")
    beside = build(table, seed=None, factors=["snr_db"], against={"other": bare}).detectors["other"]
    assert beside.psychometric == report.psychometric, "the same answers on the same clips"
    assert beside.by["snr_db"] == report.by["snr_db"]
    whole = build(table.drop(columns="varied"), seed=None, factors=None)
    assert whole.by["duration_ms"]["1000"].accuracy.value == pytest.approx(0.5), "which is what it guards against"


def test_cells_have_intervals_over_their_groups(report: Report) -> None:
    cell = next(cell for cell in report.cells if cell.balanced_accuracy not in (None, 0, 1))
    assert cell.ci95 is not None
    assert cell.ci95[0] < cell.balanced_accuracy < cell.ci95[1]


def test_score_curves_are_those_of_scikit_learn(predictions: pd.DataFrame, report: Report) -> None:
    from sklearn.metrics import roc_auc_score, roc_curve

    rows = predictions.query("split == 'test' and detector == 'mel_statistics'")
    truth, score = rows["label"] == "SPEECH", rows["p_speech"]
    found = report.detectors["mel_statistics"].curves
    assert found is not None
    false_alarms, hits, _ = roc_curve(truth, score, drop_intermediate=False)
    expected = {(round(x, 9), round(y, 9)) for x, y in zip(false_alarms, hits, strict=True)}
    assert {(round(x, 9), round(y, 9)) for x, y in found.roc} <= expected
    area = np.trapezoid(*np.array(found.roc).T[::-1])
    assert area == pytest.approx(roc_auc_score(truth, score), abs=0.01)
    assert (found.roc[0], found.roc[-1]) == ((0, 0), (1, 1))
    assert found.precision_recall[0] == (0, 1)
    assert found.precision_recall[-1] == (1, pytest.approx(truth.mean()))
    assert len(found.roc) <= 100 >= len(found.precision_recall)
    at = report.detectors["mel_statistics"].metrics
    assert found.at.recall == at["recall_speech"].value
    assert found.at.false_alarm_rate == pytest.approx(1 - (at["recall_nonspeech"].value or 0))
    assert found.at.precision == at["precision_speech"].value


def test_curves_of_several_models_are_the_means_that_have_the_stated_areas() -> None:
    """Two folds on scales of their own: each ranks without a mistake, and the scores of both together do not."""
    table = shifted_folds().query("split == 'test'")
    report = build(table, seed=None)
    found = report.detectors["adapter"].curves
    assert found is not None
    assert found.models == 2
    roc, pr = (np.array(curve).T for curve in (found.roc, found.precision_recall))
    assert np.trapezoid(roc[1], roc[0]) == pytest.approx(report.metrics["roc_auc"].value, abs=0.005)
    assert pr[1][1:].mean() == pytest.approx(report.metrics["average_precision"].value, abs=0.005)
    pooled = build(table.drop(columns="fold"), seed=None)
    assert (pooled.metrics["roc_auc"].value or 1) < (report.metrics["roc_auc"].value or 0)


def test_folds_of_one_class_each_rank_nothing() -> None:
    table = score(make_clips(groups=4), SKILL["adapter"], 42, detector="adapter")
    report = build(table.assign(fold=(table["label"] == "SPEECH").astype(int)), seed=None)
    assert report.metrics["roc_auc"].value is None
    assert report.metrics["roc_auc"].reason == "no fold has clips of both classes"
    assert report.detectors["adapter"].curves is None
    assert report.metrics["balanced_accuracy"].value is not None


@pytest.mark.slow
def test_reports_of_the_same_clips_have_the_same_digest(small: pd.DataFrame) -> None:
    report = build(small)
    assert build(small.assign(p_speech=0.7)).test == report.test
    assert build(small[small["clip_id"] != small["clip_id"].iloc[0]]).test != report.test


# --- what cannot be stated ---------------------------------------------------------------------------------------


def test_levels_of_one_class_have_a_recall_but_no_balanced_accuracy(report: Report) -> None:
    music = report.by["family"]["music"]
    assert music.balanced_accuracy.value is None
    assert music.balanced_accuracy.reason == "no SPEECH clips here"
    assert music.model_dump()["recall_nonspeech"]["value"] == music.accuracy.value
    assert list(report.by["duration_ms"]) == ["40", "200", "1000"]
    assert list(report.by["snr_db"]) == ["-5", "5", "no noise"]


def test_detector_without_probabilities_has_no_auc_and_says_so() -> None:
    report = build(tiny({"adapter": [1, 0, 1, 1] * 8}), seed=None)
    assert report.metrics["roc_auc"].value is None
    assert report.metrics["ece"].reason == "32 of 32 clips have no p_speech"
    assert report.calibration is None
    assert report.metrics["accuracy"].value == pytest.approx(0.75)


def test_unusable_answers_count_as_wrong_and_are_counted() -> None:
    table = tiny({"adapter": [1] * 32})
    table.loc[[0, 2, 4], "prediction"] = None
    report = build(table, seed=None)
    assert (report.n.unanswered, report.confusion["SPEECH"]["unanswered"]) == (3, 3)
    assert report.metrics["recall_speech"].value == pytest.approx(13 / 16)


def test_prediction_counts_where_p_speech_says_otherwise() -> None:
    table = tiny({"adapter": [1] * 32}).assign(p_speech=0.9)
    assert build(table, seed=None).metrics["accuracy"].value == 1


def test_one_group_in_a_class_gives_a_value_without_interval_and_no_publication() -> None:
    table = tiny({"adapter": [1, 0, 1, 1] * 8})
    table.loc[table["label"] == "SPEECH", "group_id"] = "only"
    report = build(table, seed=None)
    assert report.metrics["balanced_accuracy"].value == pytest.approx(0.75)
    assert report.metrics["balanced_accuracy"].ci95 is None
    assert "SPEECH" in (report.metrics["balanced_accuracy"].reason or "")
    assert any("SPEECH has 1 group" in line for line in publication_refusals(report))


def test_interval_over_supergroups_is_wider_where_generators_differ() -> None:
    table = score(make_clips(groups=12), SKILL["adapter"], 42, detector="adapter", seed=42)
    table.loc[table["supergroup_id"] == "gen0", "p_speech"] = 0.9
    recall = build(table).metrics["recall_nonspeech"]
    assert recall.ci95 is not None
    assert recall.ci95_supergroup is not None
    assert np.ptp(recall.ci95_supergroup) > 1.2 * np.ptp(recall.ci95)
    assert recall.reason_supergroup == "only 4 groups in NONSPEECH: unreliable"
    assert build(tiny({"adapter": [1, 0, 1, 1] * 8}), seed=None).metrics["accuracy"].ci95_supergroup is None


def test_detector_that_does_not_listen_is_at_chance_by_construction_and_not_by_an_interval(report: Report) -> None:
    majority = report.detectors["majority"]
    chance = {
        "balanced_accuracy": "the same answer for every clip: no interval",
        "roc_auc": "the same score for every clip: no interval",
    }
    for name, reason in chance.items():
        stated = majority.metrics[name]
        assert (stated.value, stated.ci95, stated.method, stated.reason) == (0.5, None, None, reason)
    levels = [level for by in majority.by.values() for level in by.values()]
    assert {level.balanced_accuracy.ci95 for level in levels} == {None}
    assert report.comparisons["majority"].ci95 is not None


def test_resamples_are_those_behind_the_intervals() -> None:
    from tasks.functional.intervals import clustered_interval

    table = score(make_clips(groups=20), SKILL["adapter"], 42, detector="adapter")
    report = build(table, seed=None, n_boot=2100, factors=["duration_ms"])
    assert report.resamples.model_dump() == {
        "metrics": 2100, "average_precision": 1000, "by": 2000, "thresholds": 1000,
    }  # fmt: skip
    rows = validate_predictions(table, CLASSES)
    at_40 = rows[rows["duration_ms"] == 40]
    for stated, over, name, n_boot in (
        (report.metrics["accuracy"], rows, "accuracy", 2100),
        (report.metrics["average_precision"], rows, "average_precision", 1000),
        (report.by["duration_ms"]["40"].accuracy, at_40, "accuracy", 2000),
    ):
        expected = clustered_interval(over, name, n_boot=n_boot, seed=0)
        assert (stated.method, stated.ci95) == ("bootstrap", (expected.low, expected.high))
    assert "2,000 at most" in Report.model_json_schema()["$defs"]["Resamples"]["description"]


# --- the verdict -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged() -> Report:
    mine = [int(i % 5 > 0) for i in range(96)]
    right = {"adapter": mine, "mel_statistics": [1] * 96, "loudness": mine, "base": [1 - own for own in mine]}
    return build(tiny(right), seed=None)


def test_floor_that_is_not_beaten_opens_the_verdict(judged: Report) -> None:
    floor, loudness, several = judged.verdict_lines[-3:]
    assert (judged.beats["mel_statistics"], judged.beats["loudness"]) == ("no", "undecided")
    assert floor.startswith("The adapter does not beat a logistic regression over log-mel statistics: balanced")
    assert "accuracy 0.792 against 1.000 (difference -0.208, 95 % CI [" in floor
    assert loudness.startswith("The adapter is not shown to beat a loudness threshold")
    assert several.startswith("3 comparisons are shown; verdicts are by single intervals")


def test_an_interval_that_is_not_to_be_relied_on_gives_no_verdict() -> None:
    mine = [int(i % 5 > 0) for i in range(96)]
    table = tiny({"adapter": mine, "base": [1 - own for own in mine]})
    few = table.assign(group_id=table["label"] + (table["group_id"].str[-1].astype(int) % 3).astype(str))
    report = build(few, seed=None, factors=["label"])
    compared = report.comparisons["base"]
    assert compared.ci95 is not None
    assert compared.ci95[0] > 0
    assert (compared.verdict, report.beats["base"]) == ("not distinguishable", "undecided")
    assert {at.verdict for at in compared.by["label"].values()} == {"not distinguishable"}
    (line,) = (line for line in report.verdict_lines if " beat " in line)
    assert line.endswith("], only 3 groups in NONSPEECH: unreliable).")
    assert not any("comparisons are shown" in line for line in report.verdict_lines), "there is one"


def test_floor_that_is_beaten_makes_no_line(judged: Report) -> None:
    assert judged.beats["base"] == "yes"
    assert not any("base model" in line for line in judged.verdict_lines)


def test_a_voice_activity_detector_that_is_not_beaten_is_named_before_the_base() -> None:
    mine = [int(i % 5 > 0) for i in range(96)]
    names = ("base", "silero", "webrtc", "silero_default", "six_cues")
    lines = build(tiny({"adapter": mine, **dict.fromkeys(names, [1] * 96)}), seed=None).verdict_lines
    assert [line.split(" beat ")[1].split(":")[0] for line in lines if " beat " in line] == [
        "gradient boosting over six trivial cues", "WebRTC's voice activity detector",
        "Silero's voice activity detector at a threshold chosen on dev", "Silero at its vendor's threshold",
        "the base model without the adapter",
    ]  # fmt: skip


def test_the_verdict_says_in_words_what_is_wrong_with_the_interval() -> None:
    few = tiny({"adapter": [1, 0, 1, 1] * 8})
    few["group_id"] = few["label"] + (few.index % 3).astype(str)
    assert build(few, seed=None).verdict_lines[0] == (
        "The interval of the balanced accuracy is not to be relied on: only 3 groups in NONSPEECH."
    )
    one = few.assign(group_id=few["label"])
    assert build(one, seed=None).verdict_lines[0] == (
        "The balanced accuracy has no interval: fewer than 2 groups in NONSPEECH."
    )
    speech = few[few["label"] == "SPEECH"]
    assert (
        build(speech, seed=None).verdict_lines[0] == "The adapter has no balanced accuracy: no NONSPEECH clips here."
    )


def test_a_percentile_interval_that_is_a_little_short_does_not_open_the_verdict() -> None:
    """22 groups, one of them all wrong: the t interval reaches further, which matters less than the floor."""
    right = [int(i // 2 % 22 > 1) for i in range(176)]
    table = tiny({"adapter": right, "mel_statistics": [1] * 176})
    table["group_id"] = table["label"] + (table.groupby("detector").cumcount() // 2 % 22).astype(str)
    report = build(table, seed=None, n_boot=500)
    reason = report.metrics["balanced_accuracy"].reason
    assert reason is not None
    assert reason.startswith("a t interval")
    assert report.verdict_lines[0].startswith("The adapter does not beat a logistic regression")
    assert report.verdict_lines[-1].startswith(
        "Mind that the interval of the balanced accuracy may be too short: a t "
    )
    assert "unreliable" not in " ".join(report.verdict_lines)


def test_failed_gate_that_is_only_marked_is_said_first() -> None:
    gate = {"passed": False, "train_accuracy": {"seed 42, fold 0": 0.612}, "asked": 0.85, "on_fail": "mark"}
    report = build(tiny({"adapter": [1, 0, 1, 1, 0, 1, 1, 1] * 12}, seed=42), recorded=recorded(gate=gate))
    assert report.verdict_lines[0] == "The adapter failed its training gate: accuracy on train 0.612, 0.850 was asked."
    assert not publication_refusals(report)


def test_a_quick_look_is_marked_first_of_all_and_never_published() -> None:
    origin = recorded()["provenance"] | {"quick_look": 96}
    report = build(tiny({"adapter": [1, 0, 1, 1, 0, 1, 1, 1] * 12}, seed=42), recorded=recorded(provenance=origin))
    assert report.verdict_lines[0].startswith("A quick look at 96 clips of each part, no result")
    assert any("a quick look at 96 clips" in line for line in publication_refusals(report))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda report: report.model_copy(update={"leakage": None}), "No leakage audit"),
        (lambda report: report.model_copy(update={"leakage": {"verdict": "leaky"}}), "'leaky'"),
        (lambda report: report.model_copy(update={"protocol": "random"}), "'random'"),
        (without_interval, "has no interval"),
        (lambda report: report.model_copy(update={"gate": {"passed": False, "on_fail": "stop"}}), "training gate"),
        (lambda report: report.model_copy(update={"seed": 43}), "first is 42"),
    ],
)
def test_nothing_is_published_against_the_rules(
    report: Report, spoil: Callable[[Report], Report], reason: str
) -> None:
    assert publication_refusals(report) == []
    assert [reason in line for line in publication_refusals(spoil(report))] == [True]


# --- the document ------------------------------------------------------------------------------------------------


def test_report_json_has_the_fixed_keys_and_reads_back_equal(report: Report) -> None:
    fixed = {
        "schema", "detector", "classes", "n", "threshold", "metrics", "majority_baseline", "design_effect", "by",
        "calibration", "psychometric", "interaction", "power", "comparisons", "detectors", "seeds", "agreement",
        "listening", "leakage", "inflation", "shortcuts", "looks", "adapter", "provenance", "supersedes",
    }  # fmt: skip
    content = report.model_dump(mode="json")
    assert fixed <= set(content)
    assert content["schema"] == 1
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert "schema" in Report.model_json_schema()["properties"]


def test_levels_stand_in_order_after_a_file_that_sorts_its_keys(report: Report) -> None:
    content = json.dumps(report.model_dump(mode="json"), sort_keys=True)
    assert list(json.loads(content)["by"]["duration_ms"]) == ["1000", "200", "40"]
    assert list(Report.model_validate_json(content).by["duration_ms"]) == ["40", "200", "1000"]


def test_recorded_sections_are_copied_and_others_refused(predictions: pd.DataFrame, report: Report) -> None:
    assert report.leakage == LEAKAGE
    assert report.provenance == {"protocol": "group", "seeds": [42, 43]}
    with pytest.raises(ValueError, match=r"unknown keys \['metrics'\]"):
        build(predictions, recorded={"metrics": {}})


# --- refusals of the table ---------------------------------------------------------------------------------------


SCORED = pd.concat(
    [score(make_clips(groups=2), SKILL[name], 0, detector=name) for name in ("base", "adapter")], ignore_index=True
)


def spoiled(column: str, value: object, row: int = 5) -> pd.DataFrame:
    table = SCORED.astype({"p_speech": object})
    table.loc[row, column] = value
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (spoiled("p_speech", 1.2), r"row 5 .*p_speech is no number in \[0, 1\]"),
        (spoiled("p_speech", "high"), r"row 5 .*p_speech is no number"),
        (spoiled("p_speech", float("nan")), r"row 5 .*null or NaN"),
        (spoiled("label", "MUSIC"), r"row 5 .*label is none of the classes"),
        (spoiled("label", None), "label is null"),
        (spoiled("group_id", None), "group_id is null"),
        (spoiled("group_id", "other"), "more than one group_id"),
        (spoiled("prediction", "A"), r"row 5 .*prediction is none of the classes"),
        (spoiled("label", "NONSPEECH").drop(columns="group_id"), "no column 'group_id'"),
        (SCORED.drop(columns="p_speech"), "neither p_speech nor prediction"),
        (SCORED.head(0), "no rows"),
        (pd.concat([SCORED] * 2), r"stands twice .*rows are so"),
    ],
)
def test_table_that_cannot_be_trusted_is_refused(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate_predictions(table, CLASSES)


def test_defaults_are_filled_in() -> None:
    clips = make_clips(groups=2)
    filled = validate_predictions(clips.assign(p_speech=np.linspace(0, 1, len(clips))), CLASSES)
    assert (filled["base_clip_id"] == filled["clip_id"]).all()
    assert ((filled["prediction"] == "SPEECH") == (filled["p_speech"] >= 0.5)).all()
    assert set(filled["split"]) == {"test"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detector": "nobody"}, "no test rows of 'nobody'"),
        ({"seed": 7}, r"none of them is the published one, 7"),
        ({"factors": ["mood"]}, "no column 'mood'"),
    ],
)
def test_question_that_the_table_cannot_answer_is_refused(
    predictions: pd.DataFrame, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(predictions, **change)


def test_detectors_scored_on_different_clips_are_not_compared() -> None:
    table = tiny({"adapter": [1] * 32, "base": [0] * 32})
    with pytest.raises(ValueError, match="score every detector on the whole test split"):
        build(table[:-1], seed=None)
