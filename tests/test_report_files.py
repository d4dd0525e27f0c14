"""A report's files follow from the document alone; the page draws what is there and nothing else."""

import io
import json
import re
from html import unescape
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.functional import plot_canvas
from tasks.functional.card_tables import Table, meaning
from tasks.functional.levels import stated_end
from tasks.functional.report import Report
from tasks.functional.report_files import MOST_HEARD, Heard, clips_to_hear, page, report_files
from tasks.functional.report_schema import Metric, SeedsAlike
from tasks.functional.report_tables import csv_tables, evaluation_notes, evaluation_rows, summary_lines
from tasks.table_reports import TEMPLATE
from tests.test_report import both_protocols, build, studied

ORDER = (
    "What this rests on", "Detectors", "Against each of them", "Psychometric functions", "By factor", "Calibration",
    "Errors", "What this test set can decide", "SNR and duration together", "Leakage, shortcuts, looks", "Seeds",
    "Every metric of adapter", "Provenance",
)  # fmt: skip
SECTIONS = {"listening": "Is it listening?", "shortcuts": "Shortcuts"}
LOOKS = {"test": "ab", "count": 7, "by_detector": {"adapter": 5, "base": 2}, "ledger": "kept here, not tamper-proof"}


@pytest.fixture(scope="module")
def template() -> str:
    return TEMPLATE.read_text(encoding="utf-8")


def text(template: str, **changes: Any) -> str:
    """The page's words, in one line."""
    html = page(studied().model_copy(update=changes), template, {}, {})
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html.split("</style>")[1])))


def test_sections_stand_in_a_readers_order(template):
    html = page(studied(), template, {}, {})
    titles = re.findall(r"<h2>(.*?)</h2>", html)
    places = [next(at for at, title in enumerate(titles) if title.startswith(name)) for name in ORDER]
    assert places == sorted(places)
    assert html.index('class="headline"') < html.index('class="verdict"') < html.index("<h2>")


def test_sections_that_are_null_say_why_or_print_nothing(template):
    plain = text(template)
    assert [
        title for title in (*SECTIONS.values(), "random folds would have added", "Looks at") if title in plain
    ] == []
    null = {"psychometric": None, "interaction": None, "power": None}
    words = text(template, **null, absent={name: f"no {name} here" for name in null})
    for name in null:
        assert f"no {name} here." in words


def test_thresholds_stand_in_one_compact_table(template):
    words = text(template)
    assert "adapter DT75 none: flat: the slope does not differ from 0" in words
    floor = studied().detectors["mel_statistics"].psychometric.duration_ms
    dt75, dt50 = (curve.thresholds[name] for curve, name in ((floor.correct, "DT75"), (floor.hit_rate, "DT50")))
    lowest, highest = floor.levels[0].level, floor.levels[-1].level
    low, high = (stated_end(end, lowest, highest, "ms") for end in dt75.ci95)
    assert f"mel_statistics DT75 {dt75.value:.3g} ms {low} to {high} " in words
    assert dt50.censored == "below"
    assert f"mel_statistics DT50 below the levels extrapolated {dt50.value:.3g} ms" in words
    assert "majority DT75" not in words
    assert "adapter at each duration (ms): rates, d′ and AUC" in words


def test_power_and_interaction_are_said_in_words(template):
    words, power = text(template), studied().power
    assert f"shows a difference of accuracies of {power.smallest_detectable_difference:.3f} or more" in words
    assert f"Measured against {power.against}, the best of the others" in words
    assert "per tenfold duration" in words
    assert "A mixed model" in words
    assert "all clips" in words


def test_looks_are_counted_and_the_ledger_is_no_proof(template):
    words = text(template, looks=LOOKS)
    assert "7 distinct models, prompts and thresholds have been scored on them (adapter 5, base 2)." in words
    assert "The ledger is kept here, not tamper-proof." in words


def test_the_corrected_figure_leads_and_the_leaky_one_stands_apart(template):
    report = build(both_protocols())
    html = page(report, template, {}, {})
    assert html.index("corrected figure is <strong>0.750</strong>") < html.index("score 0.875, +0.125")
    rows = csv_tables(report)["inflation"].set_index("detector")
    assert rows.loc["mel_statistics", ["clean", "leaky", "value"]].tolist() == pytest.approx([5 / 8, 7 / 8, 2 / 8])
    assert "leakage: balanced accuracy 0.750 under folds by group, 0.875 under random folds" in "\n".join(
        summary_lines(report)
    )


def test_a_section_is_drawn_whatever_it_holds(template):
    content = {
        "share_heard": {"value": 0.9312, "ci95": [0.9, 0.96], "method": "t", "reason": None},
        "by": {"SPEECH": {"clips": 60, "rate": None}, "NONSPEECH": {"clips": 57, "rate": 0.25}},
        "rows": [{"model": "m1", "at": 0.5}, {"model": "m2", "at": 0.75}],
        "plain": ["a", "b"], "nothing": None, "none": [], "empty": {}, "yes": True, "<b>": "<i>",
    }  # fmt: skip
    words = text(template, shortcuts=content)
    assert SECTIONS["shortcuts"] in words
    for shown in ("share heard 0.9312 0.900 to 0.960", "SPEECH 60 –", "NONSPEECH 57 0.25", "m2 0.75", "a, b", "nothing –",
                  "yes yes", "<b> <i>"):  # escaped: as a tag it would be gone here  # fmt: skip
        assert shown in words, shown


def test_every_table_scrolls_by_itself_so_that_no_page_is_wider_than_a_phone():
    for page_template in TEMPLATE.parent.glob("*.html.j2"):
        lines = page_template.read_text(encoding="utf-8").splitlines()
        bare = [line for line in lines if "<table" in line and not re.search(r'<div class="wide[^>]*><table', line)]
        assert not bare, (page_template.name, bare)


def test_the_balance_of_the_classes_is_a_sentence(template):
    said = text(template, balance={"largest_imbalance": 0.0})
    assert "Within one part, duration and SNR the classes differ by 0 clips at most." in said


def test_the_page_says_how_many_resamples_and_how_levels_compare(template):
    words = text(template)
    assert (
        "draws groups 60 times, for levels of a factor 60, for average precision 60 and for thresholds 60 times"
        in words
    )
    assert "By level: adapter minus base" in words
    assert "What dev corrects" in words


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


@pytest.mark.slow
def test_files_are_the_same_after_a_file_that_sorts_its_keys(template, monkeypatch):
    monkeypatch.setattr(plot_canvas, "DPI", 50)
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


def test_a_seeds_score_has_as_many_places_as_its_interval():
    report = studied()
    score = report.seeds[0].metrics["balanced_accuracy"].model_copy(update={"value": 0.9, "ci95": (0.85, 0.95)})
    seeds = [report.seeds[0].model_copy(update={"metrics": {**report.seeds[0].metrics, "balanced_accuracy": score}})]
    lines = summary_lines(report.model_copy(update={"seeds": [*seeds, *report.seeds[1:]]}))
    assert any("0.900 (0.850 to 0.950)" in line for line in lines)


def test_the_summary_shows_every_seed_and_how_far_they_lie_apart():
    report = studied()
    lines = summary_lines(report)
    at = next(k for k, line in enumerate(lines) if line.startswith("adapter, seed"))
    published, other, pooled, spread = lines[at + 1 : at + 5]
    for line, told, metrics in (
        (published, "42, published", report.seeds[0].metrics),
        (other, "43 ", report.seeds[1].metrics),
        (pooled, "all together", report.seeds_pooled),
    ):
        assert line.startswith(told)
        for name in ("balanced_accuracy", "recall_speech", "recall_nonspeech"):
            found = metrics[name]
            assert f"{found.value:.3f} ({found.ci95[0]:.3f} to {found.ci95[1]:.3f})" in line
    values = [one.metrics["balanced_accuracy"].value for one in report.seeds]
    assert spread == (
        f"balanced accuracy over 2 seeds: mean {np.mean(values):.3f}, standard deviation {np.std(values, ddof=1):.3f}"
    )
    alone = report.model_copy(update={"seeds": report.seeds[:1], "seeds_pooled": None, "seeds_spread": None})
    assert not any("seed" in line for line in summary_lines(alone))


def test_the_summary_says_which_seeds_are_no_two():
    apart = studied().seeds_spread.model_copy(update={"alike": [SeedsAlike(seeds=[42, 43], to_the_bit=True)]})
    lines = summary_lines(studied().model_copy(update={"seeds_spread": apart}))
    assert "seeds 42, 43: every clip answered with the same probabilities: one adapter, not 2" in lines


DOUBT = "fewer than 5 groups of SPEECH"


def doubted(report: Report, detector: str) -> Report:
    """The report with every interval of one detector, and its comparison, not to be relied on, all others sound."""

    def told(its: dict[str, Metric], reason: str | None) -> dict[str, Metric]:
        return {name: one.model_copy(update={"ci95": (0.25, 0.75), "reason": reason}) for name, one in its.items()}

    detectors = {
        name: one.model_copy(update={"metrics": told(one.metrics, DOUBT if name == detector else None)})
        for name, one in report.detectors.items()
    }
    compared = {
        name: one.model_copy(update={"reason": DOUBT if name == detector else None})
        for name, one in report.comparisons.items()
    }
    seeds = [one.model_copy(update={"metrics": told(one.metrics, None)}) for one in report.seeds]
    own = {"metrics": detectors[report.detector].metrics, "seeds_pooled": told(report.seeds_pooled or {}, None)}
    return report.model_copy(update={"detectors": detectors, "comparisons": compared, "seeds": seeds, **own})


def test_terminal_and_runs_page_mark_an_interval_that_is_not_to_be_relied_on_as_the_card_does() -> None:
    report = doubted(studied(), "base")
    lines = summary_lines(report)
    assert len([line for line in lines if "†" in line]) == 3, "its row, its comparison, and once what the mark means"
    row, compared = (line for line in lines if line.startswith("base "))
    assert row.count("(0.250 to 0.750) †") == 2
    assert ") † " in compared
    assert meaning(["†"])[0] in lines
    assert meaning(["†"]) == Table(["a"], [["0.9 †"]]).notes == evaluation_notes(report)
    marked = [row["detector"] for row in evaluation_rows(report) if "†" in row["balanced_accuracy_ci95"]]
    assert marked == ["base"]


def test_the_csv_of_detectors_holds_numbers_and_says_in_a_column_of_its_own_which_interval_is_reliable() -> None:
    """The mark stood in the text of an interval, which no reader of the file could take for two numbers."""
    report = doubted(studied(), "base")
    text = csv_tables(report)["detectors"].to_csv(index=False)
    assert "†" not in text
    assert " to " not in text
    table = pd.read_csv(io.StringIO(text)).set_index("detector")
    assert list(table.index) == [row["detector"] for row in evaluation_rows(report)], "the headline first"
    numbers = table.drop(columns=[f"{name}_reliable" for name in ("balanced_accuracy", "roc_auc", "accuracy")])
    assert all(pd.api.types.is_numeric_dtype(kind) for kind in numbers.dtypes)
    assert set(table["balanced_accuracy_reliable"].items()) == {(name, name != "base") for name in report.detectors}
    at = report.detectors["base"].metrics["accuracy"]
    assert tuple(table.loc["base", ["accuracy", "accuracy_low", "accuracy_high"]]) == (at.value, *at.ci95)


def test_nothing_is_marked_and_no_mark_explained_where_every_interval_is_sound() -> None:
    report = doubted(studied(), "none of them")
    assert "†" not in "\n".join(summary_lines(report))
    assert evaluation_notes(report) == []
