"""`earshot compare` puts reports side by side and says what keeps their numbers apart."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flows.cli import main
from tasks import report_series
from tasks.functional.report import Report
from tasks.functional.report_schema import Threshold
from tasks.functional.report_series import series_lines, series_remarks, series_rows
from tests.test_report import build, make_predictions, tiny

ADAPTER = {"bytes": 84_000_000, "parameters": {"language_model": 16_777_216, "audio_tower": 3_932_160}}


@pytest.fixture(scope="module")
def study() -> Report:
    table = make_predictions(seeds=(42,)).query("detector in ('adapter', 'mel_statistics') and method != 'forward'")
    return build(table, factors=["duration_ms"]).model_copy(update={"adapter": ADAPTER})


@pytest.fixture(scope="module")
def other() -> Report:
    return build(tiny({"adapter": [1, 0, 1, 1] * 8}), seed=None)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command in an empty folder; reports given as folder=Report are written there first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report_series, "figures_of_reports", lambda *arguments: {"evolution": b"png"})

    def command(*names: str, out: str = "out", **reports: Report) -> tuple[int, str, str]:
        for name, report in reports.items():
            Path(name).mkdir(exist_ok=True)
            (Path(name) / "report.json").write_text(json.dumps(report.model_dump(mode="json"), sort_keys=True))
        monkeypatch.setattr(sys, "argv", ["earshot", "compare", *names, "--out", out])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return command


def test_reports_become_a_table_figures_and_a_page_in_the_order_given(run, study, other, tmp_path):
    (tmp_path / "second").mkdir()
    timing = {"adapter": {"clips": 9, "p05_ms": 1.0, "median_ms": 2.0, "p95_ms": 3.0}}
    (tmp_path / "second" / "timing.json").write_text(json.dumps(timing))
    code, said, err = run("second/report.json", "first", first=other, second=study)
    assert code == 0, err
    table = pd.read_csv(tmp_path / "out" / "tables" / "reports.csv")
    assert table["report"].tolist() == ["second", "first"]
    row = table.iloc[0]
    headline = study.metrics["balanced_accuracy"]
    assert row[["balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high"]].tolist() == [
        headline.value, *(headline.ci95 or ()),
    ]  # fmt: skip
    assert (row["trainable_parameters"], row["adapter_bytes"], row["latency_ms"]) == (20_709_376, 84_000_000, 2.0)
    assert row["floor"] == study.detectors["mel_statistics"].metrics["balanced_accuracy"].value
    assert pd.isna(table.iloc[1]["latency_ms"])
    assert "rest on 2 different sets of test clips (second; first)" in said
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert f"{headline.value:.3f}" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page), "the page opens offline"
    assert (tmp_path / "out" / "figures" / "evolution.png").read_bytes() == b"png"


def test_an_earlier_comparison_is_replaced_and_anything_else_left_alone(run, study, other, tmp_path):
    assert run("a", "b", a=study, b=other)[0] == 0
    assert run("b", "a", a=study, b=other)[0] == 0
    assert pd.read_csv(tmp_path / "out" / "tables" / "reports.csv")["report"].tolist() == ["b", "a"]
    (tmp_path / "out" / "notes.txt").write_text("mine")
    code, _, err = run("b", "a")
    assert (code, "holds 'notes.txt', which is no part of a comparison" in err) == (2, True)
    code, _, err = run("b", "a", out="a")
    assert (code, "which is no part of a comparison" in err) == (2, True), "a report is not overwritten"
    assert (tmp_path / "a" / "report.json").exists()


def test_what_cannot_be_compared_is_refused(run, study, other, tmp_path):
    assert "1 report given: name at least two" in run("a", a=study, b=other)[2]
    assert "named twice" in run("a", "a/report.json")[2]
    (tmp_path / "empty").mkdir()
    assert "empty: there is no report.json" in run("a", "empty")[2]
    assert "neither a folder nor in" in run("a", "nobody/nothing")[2]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "report.json").write_text('{"schema": 1, "detector": "adapter"}')
    code, _, err = run("a", "old")
    assert code == 2
    assert re.search(r"old/report.json is no report of this version \(classes: .*make it anew", err)
    (tmp_path / "b" / "timing.json").write_text('{"adapter": {"clips": 3}}')
    assert "timing.json is no timing of ours" in run("a", "b")[2]
    assert not (tmp_path / "out").exists()


def test_folders_of_one_name_go_by_their_whole_path(run, study, other):
    Path("x").mkdir()
    Path("y").mkdir()
    code, said, _ = run("x/same", "y/same", **{"x/same": study, "y/same": other})
    assert code == 0
    assert "\nx/same " in said
    assert "\ny/same " in said


def test_remarks_name_what_keeps_numbers_apart(study):
    same: dict[str, Any] = {"a": study, "b": study}
    (pairing,) = series_remarks(same)
    assert "earshot report PREDICTIONS --against OTHER" in pairing
    leaky = study.model_copy(update={"protocol": "random", "leakage": {"verdict": "leaky"}})
    lines = series_remarks({"a": study, "b": leaky})
    assert lines[0] == "b: protocol 'random' exists to measure leakage, its score is no headline."
    assert lines[1] == "b: the leakage audit is not clean."
    apart = series_remarks({"a": study, "b": study.model_copy(update={"test": "0" * 16})})
    assert len(apart) == 1
    assert "2 different sets of test clips (a; b)" in apart[0]


@pytest.mark.parametrize("audit", [{"verdict": "clean"}, None])
def test_what_was_dealt_at_random_is_told_by_the_study_as_well_as_by_the_rows(study, audit):
    told = {"protocol": None, "leakage": audit, "provenance": {**(study.provenance or {}), "protocol": "random"}}
    lines = series_remarks({"a": study, "b": study.model_copy(update=told)})
    assert [line for line in lines if line.startswith("b:")] == [
        "b: protocol 'random' exists to measure leakage, its score is no headline."
    ]


def test_a_report_without_an_audit_is_not_taken_for_a_clean_one(study):
    for nothing in (None, {"checks": []}):
        lines = series_remarks({"a": study, "b": study.model_copy(update={"leakage": nothing})})
        assert lines[0] == ("b: not audited; whether it was trained on recordings of the test clips is not known."), (
            lines
        )
        assert not any(line.startswith("a:") for line in lines)


@pytest.mark.parametrize(
    ("threshold", "stated"),
    [
        ({"value": 0.5, "chosen_on": "fixed"}, "0.5, fixed"),
        ({"value": 0.3123, "chosen_on": "dev", "by_fold": {"0": 0.3123}}, "0.312, from dev"),
        ({"value": None, "chosen_on": "dev", "by_fold": {"0": 0.4, "1": 0.2, "2": 0.3}}, "0.2 to 0.4, from dev"),
        ({"value": None, "chosen_on": "own"}, "its own"),
    ],
)
def test_every_threshold_is_stated_and_a_remark_says_where_they_differ(study, threshold, stated):
    other = study.model_copy(update={"threshold": Threshold(**threshold)})
    (row,) = series_rows({"b": other}, {})
    assert row["decided_at"] == stated
    assert stated in "\n".join(series_lines([row], []))
    remarks = [line for line in series_remarks({"a": study, "b": other}) if "threshold's; ROC AUC needs none" in line]
    assert len(remarks) == (stated != "0.5, fixed")
    assert all(f"(a at 0.5, fixed; b at {stated})" in line for line in remarks)


@pytest.mark.parametrize(
    ("pair", "stated"),
    [
        ((0.5, 0.5004), "a at 0.5, fixed; b at 0.5004, fixed"),
        ((0.0001, 0.0004), "a at 0.0001, fixed; b at 0.0004, fixed"),
    ],
)
def test_thresholds_that_lie_close_are_no_less_different_and_are_told_apart(study, pair, stated):
    reports = {
        name: study.model_copy(update={"threshold": Threshold(value=value, chosen_on="fixed")})
        for name, value in zip("ab", pair, strict=True)
    }
    (remark,) = (line for line in series_remarks(reports) if "threshold's; ROC AUC needs none" in line)
    assert remark.startswith(f"Answers are decided at different thresholds ({stated}): ")


def test_folds_that_change_places_are_different_thresholds(study):
    folds = [
        Threshold(value=None, chosen_on="dev", by_fold=its) for its in ({"0": 0.2, "1": 0.4}, {"0": 0.4, "1": 0.2})
    ]
    reports = {name: study.model_copy(update={"threshold": its}) for name, its in zip("ab", folds, strict=True)}
    assert series_remarks(reports)[0].startswith(
        "Each is decided at the threshold that its own dev clips chose (a at 0.2 to"
    )


def test_thresholds_that_each_chose_on_its_own_dev_clips_are_stated_and_no_doubt(study):
    chosen = {
        name: study.model_copy(update={"threshold": Threshold(value=value, chosen_on="dev", by_fold={"0": value})})
        for name, value in {"a": 0.25, "b": 0.75}.items()
    }
    said = "Each is decided at the threshold that its own dev clips chose (a at 0.25, from dev; b at 0.75, from dev)."
    assert series_remarks(chosen)[0] == said


def test_thresholds_that_nobody_knows_are_not_taken_for_the_same(study):
    own = study.model_copy(update={"threshold": Threshold(value=None, chosen_on="own")})
    assert series_remarks({"a": own, "b": own})[0].startswith(
        "Nothing shows that one threshold decides all answers (a at its own; b at its own): "
    )
    assert not any("decided at different" in line for line in series_remarks({"a": own, "b": study}))


def test_thresholds_outside_the_levels_are_left_out(study):
    (row,) = series_rows({"a": study}, {})
    found = study.psychometric.duration_ms.correct.thresholds["DT75"]
    inside = found.value is not None and not found.censored
    assert row["dt75_ms"] == (found.value if inside else None)
    assert (row["snr75_db"], row["latency_ms"]) == (None, None)


def test_an_interval_that_leaves_the_levels_is_told_as_in_the_report(study):
    """Ends that were extrapolated are no numbers to compare by."""
    study = study.model_copy(deep=True)
    curves = study.psychometric.duration_ms
    found = curves.correct.thresholds["DT75"]
    middle = curves.levels[1].level
    curves.correct.thresholds["DT75"] = found.model_copy(
        update={"value": middle, "censored": None, "ci95": (curves.levels[0].level / 3, middle * 1.1)}
    )
    (row,) = series_rows({"a": study}, {})
    assert row["dt75_ms_ends"] == f"<{curves.levels[0].level:g} to {middle * 1.1:.3g}"
