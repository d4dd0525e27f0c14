"""A report's files follow from the document alone; the page draws what is there and nothing else."""

import json
import re
from typing import Any

import pandas as pd
import pytest

from tasks.functional.report import Report
from tasks.functional.report_files import MOST_HEARD, Heard, clips_to_hear, page, report_files
from tasks.functional.report_tables import csv_tables, summary_lines
from tasks.table_reports import TEMPLATE
from tests.test_report import studied

SECTIONS = {
    "psychometric": "Psychometric functions", "interaction": "SNR and duration together", "power": "can decide",
    "listening": "Listening", "looks": "Looks at this test set", "shortcuts": "Shortcuts",
}  # fmt: skip


@pytest.fixture(scope="module")
def template() -> str:
    return TEMPLATE.read_text(encoding="utf-8")


def text(template: str, **changes: Any) -> str:
    """The page's words, in one line."""
    html = page(studied().model_copy(update=changes), template, {}, {})
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html.split("</style>")[1]))


def test_sections_that_are_null_print_nothing(template):
    plain = text(template)
    assert [title for title in SECTIONS.values() if title in plain] == []


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_is_drawn_whatever_it_holds(template, name):
    content = {
        "share_heard": {"value": 0.9312, "ci95": [0.9, 0.96], "method": "t", "reason": None},
        "by": {"SPEECH": {"clips": 60, "rate": None}, "NONSPEECH": {"clips": 57, "rate": 0.25}},
        "rows": [{"model": "m1", "at": 0.5}, {"model": "m2", "at": 0.75}],
        "plain": ["a", "b"], "nothing": None, "none": [], "empty": {}, "yes": True, "<b>": "<i>",
    }  # fmt: skip
    words = text(template, **{name: content})
    assert SECTIONS[name] in words
    for shown in ("share heard 0.9312 0.900 to 0.960", "SPEECH 60 –", "NONSPEECH 57 0.25", "m2 0.75", "a, b", "nothing –",
                  "yes yes", "&lt;b&gt; &lt;i&gt;"):  # fmt: skip
        assert shown in words, shown


def test_the_page_says_how_many_resamples_and_how_levels_compare(template):
    words = text(template)
    assert "draws them 100 times, for levels of a factor 100 and for average precision 100 times" in words
    assert "By level: adapter minus base" in words
    assert "Calibration from dev" in words


def test_clips_to_hear_take_turns_and_are_few():
    report = studied()
    order = clips_to_hear(report)
    assert order[:2] == [report.errors.missed[0].clip_id, report.errors.false_alarms[0].clip_id]
    assert len(order) == len(set(order)) <= MOST_HEARD


def test_clips_are_played_until_the_page_is_full(template):
    order = clips_to_hear(studied())
    heard = {clip: Heard(bytes(500_000), b"png") for clip in order}
    html = page(studied(), template, {}, heard)
    assert 4_000_000 < len(html.encode()) <= 5_000_000
    assert html.count("<audio") == 7
    assert f"spectrogram of {order[0]}" in html
    assert f"spectrogram of {order[7]}" not in html


def test_files_are_the_same_after_a_file_that_sorts_its_keys(template):
    report = studied()
    again = Report.model_validate_json(json.dumps(report.model_dump(mode="json"), sort_keys=True))
    files, repeated = (report_files(one, template) for one in (report, again))
    assert set(files) == set(repeated)
    assert [
        name for name in files if files[name] != repeated[name] and not name.startswith(("report.html", "tables"))
    ] == []
    assert json.loads(files["report.json"]) == report.model_dump(mode="json")


def test_tables_hold_what_the_document_says():
    report, tables = studied(), csv_tables(studied())
    levels = tables["levels"].set_index(["detector", "factor", "level", "metric"])["value"]
    assert (
        levels["base", "duration_ms", "40", "accuracy"]
        == report.detectors["base"].by["duration_ms"]["40"].accuracy.value
    )
    assert tables["comparisons"].set_index("against").loc["base", "p_holm"] == report.comparisons["base"].p_holm
    assert len(tables["comparison_levels"]) == sum(
        len(by) for c in report.comparisons.values() for by in c.by.values()
    )
    assert tables["error_rates"].query("factor == 'group_id'")["wrong"].sum() == report.errors.wrong
    assert not any(
        isinstance(cell, dict | list | tuple) for table in tables.values() for cell in table.to_numpy().ravel()
    )
    assert set(tables["missed"]["clip_id"]) == {clip.clip_id for clip in report.errors.missed}
    assert isinstance(tables["seeds"], pd.DataFrame)


def test_a_study_plays_what_its_adapter_got_wrong(smoke):
    assert smoke.first.code == 0, smoke.first.err[-3000:]
    (file,) = smoke.home.glob("store/report/*/report.html")
    errors = json.loads(file.with_name("report.json").read_text())["errors"]
    html = file.read_text(encoding="utf-8")
    assert html.count("<audio") == min(errors["n_missed"] + errors["n_false_alarms"], MOST_HEARD) > 0
    assert len(html.encode()) <= 5_000_000


def test_the_summary_names_every_detector_and_comparison():
    lines = summary_lines(studied())
    for name in ("base", "majority", "mel_statistics"):
        assert sum(line.startswith(name) for line in lines) == 2
    assert any(line.startswith("adapter ") for line in lines)
