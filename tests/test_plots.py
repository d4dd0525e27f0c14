"""Figures are drawn from the report alone, the same bytes for the same report, and show what has no value."""

import itertools
import json
import struct
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from tasks.functional import plot_canvas
from tasks.functional.plot_canvas import STYLES
from tasks.functional.plot_comparisons import forest
from tasks.functional.plot_detectors import shown
from tasks.functional.plot_latency import accuracy_by_latency, timed_detectors
from tasks.functional.plot_levels import accuracy_by_level, duration_by_snr
from tasks.functional.plot_psychometric import psychometric_curves, snr_curves_by_duration, snr_threshold_by_duration
from tasks.functional.plot_scores import reliability_diagram, roc_and_pr
from tasks.functional.plot_series import accuracy_by_size, evolution
from tasks.functional.plot_training import training_curve
from tasks.functional.plots import figures, figures_of_reports
from tasks.functional.report import Report
from tasks.functional.timing import Timing, frontier, timings
from tests.test_report import build, make_predictions, tiny

OF_SCORES = {"comparisons", "roc_and_pr", "confusion", "reliability"}
OF_LEVELS = {
    "accuracy_by_duration_ms", "accuracy_by_snr_db", "duration_by_snr", "psychometric_duration_ms", "hit_rate_duration_ms",
}  # fmt: skip
OF_SNR = {"psychometric_snr_db", "snr75_by_duration", "psychometric_snr_by_duration"}
TIMES = {"adapter": Timing(100, 20.0, 30.0, 45.0), "mel_statistics": Timing(100, 0.1, 0.2, 0.4)}


def three_snrs() -> pd.DataFrame:
    """The study with a third SNR in place of no noise, so that there are curves over it."""
    table = make_predictions(groups=5)
    return table[table["detector"].isin(["adapter", "mel_statistics", "majority"])].assign(
        snr_db=table["snr_db"].fillna(15.0)
    )


@pytest.fixture(scope="module", autouse=True)
def coarse() -> Iterator[None]:
    """Few dots: what is drawn is the same, and sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plot_canvas, "DPI", 50)
        yield


@pytest.fixture(scope="module")
def report() -> Report:
    return build(three_snrs(), factors=None, n_boot=30)


@pytest.fixture(scope="module")
def drawn(report: Report) -> dict[str, bytes]:
    return figures(report, TIMES)


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])


def changed(report: Report, name: str, **update: Any) -> Report:
    """The report with another content of one detector."""
    detector = report.detectors[name].model_copy(update=update)
    return report.model_copy(update={"detectors": report.detectors | {name: detector}})


def drawing(monkeypatch: pytest.MonkeyPatch, draw: Any, *arguments: Any) -> Figure:
    """The figure that `draw` makes."""
    figure_of: list[Figure] = []
    monkeypatch.setattr(
        plot_canvas.FigureCanvasAgg, "print_figure", lambda canvas, *a, **k: figure_of.append(canvas.figure)
    )
    draw(*arguments)
    return figure_of[0]


def words(monkeypatch: pytest.MonkeyPatch, draw: Any, *arguments: Any) -> str:
    """All text of the figure that `draw` makes."""
    return "\n".join(text.get_text() for text in drawing(monkeypatch, draw, *arguments).findobj(Text))


# --- which figures, and their bytes ------------------------------------------------------------------------------


def test_every_figure_that_has_its_numbers_is_drawn(drawn: dict[str, bytes]) -> None:
    assert set(drawn) ^ (OF_SCORES | OF_LEVELS | OF_SNR | {"accuracy_by_latency"}) == set()
    assert all(min(size(png)) > 90 for png in drawn.values())
    assert all(b"Software" not in png for png in drawn.values())


@pytest.mark.slow
def test_report_that_was_read_from_a_file_with_sorted_keys_gives_the_same_bytes(
    report: Report, drawn: dict[str, bytes]
) -> None:
    again = Report.model_validate_json(json.dumps(report.model_dump(mode="json"), sort_keys=True))
    assert figures(again, TIMES) == drawn


def test_a_table_of_decisions_has_no_figure_of_scores() -> None:
    silent = build(tiny({"adapter": [1, 0, 1, 1] * 8}), seed=None)
    assert set(figures(silent)) == {"confusion"}
    with pytest.raises(ValueError, match="no p_speech"):
        reliability_diagram(silent)
    with pytest.raises(ValueError, match="there is no ROC"):
        roc_and_pr(silent)
    with pytest.raises(ValueError, match="no duration x SNR cells"):
        duration_by_snr(silent)
    with pytest.raises(ValueError, match="compares its detector with no other"):
        forest(silent)
    with pytest.raises(ValueError, match="no detector of the report has this curve over duration_ms"):
        psychometric_curves(silent, "duration_ms")
    with pytest.raises(ValueError, match="curves over SNR at two durations"):
        snr_threshold_by_duration(silent)
    with pytest.raises(ValueError, match="no curve over SNR at any duration"):
        snr_curves_by_duration(silent)


def test_pyplot_keeps_no_figure_open(drawn: dict[str, bytes]) -> None:
    import matplotlib.pyplot as plt

    assert drawn
    assert plt.get_fignums() == []


def test_every_caption_says_n_and_every_axis_its_unit(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    for draw, arguments, label in (
        (forest, (), "Difference of balanced accuracy"),
        (roc_and_pr, (), "False-alarm rate (NONSPEECH taken for SPEECH)"),
        (psychometric_curves, ("duration_ms",), "Duration (ms)"),
        (psychometric_curves, ("snr_db",), "SNR (dB)"),
        (snr_threshold_by_duration, (), "SNR75 (dB)"),
        (accuracy_by_level, ("snr_db",), "SNR (dB)"),
        (duration_by_snr, (), "Duration (ms)"),
        (reliability_diagram, (), "Share of clips right"),
    ):
        shown_text = words(monkeypatch, draw, report, *arguments)
        assert "n = 10 groups (5 SPEECH + 5 NONSPEECH), 90 clips" in shown_text, draw.__name__
        assert label in shown_text, draw.__name__


# --- what tells detectors apart ----------------------------------------------------------------------------------


def luminance(ink: str) -> float:
    red, green, blue = (int(ink[at : at + 2], 16) for at in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_detectors_differ_in_marker_and_line_and_not_only_in_colour() -> None:
    for part in (0, 1, 2):
        assert len({str(style[part]) for style in STYLES}) == len(STYLES)
    assert max(luminance(style.ink) for style in STYLES) < 160, "every ink is dark enough on white paper"


def test_a_detector_has_one_style_in_all_figures_and_one_that_hears_nothing_none(report: Report) -> None:
    styles = shown(report)
    assert list(styles.styles) == ["adapter", "mel_statistics"]
    assert styles.remark == "not drawn: majority"
    assert styles.only(["mel_statistics"]).styles["mel_statistics"] == styles.styles["mel_statistics"] == STYLES[1]


def test_no_more_detectors_are_drawn_than_can_be_told_apart(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    one = report.detectors["mel_statistics"]
    many = {f"d{i}": one for i in range(9)}
    crowd = report.model_copy(update={"detectors": report.detectors | many})
    assert len(shown(crowd).styles) == len(STYLES)
    assert next(iter(shown(crowd).styles)) == "adapter"
    assert "not drawn: d7, d8, mel_statistics, majority" in words(monkeypatch, accuracy_by_level, crowd, "snr_db")


def test_no_noise_stands_apart_from_the_snrs_and_no_curve_leads_there(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood one step beside the largest SNR, on the same line: a reader took it for the next one."""
    drawn: list[Any] = []
    monkeypatch.setattr("tasks.functional.plot_levels.png", lambda figure: drawn.append(figure) or b"")

    def clean(by: dict[str, Any]) -> dict[str, Any]:
        """The levels with the largest SNR as that without noise."""
        levels = by["snr_db"]
        return by | {"snr_db": {"no noise" if level == "15" else level: at for level, at in levels.items()}}

    detectors = {name: one.model_copy(update={"by": clean(one.by)}) for name, one in report.detectors.items()}
    accuracy_by_level(report.model_copy(update={"by": clean(report.by), "detectors": detectors}), "snr_db")
    (axes,) = drawn[0].axes
    at = dict(zip((label.get_text() for label in axes.get_xticklabels()), axes.get_xticks(), strict=True))
    *snrs, none = sorted(at.values())
    assert none == at["no noise"]
    assert none - snrs[-1] > 1.5 * (snrs[-1] - snrs[-2])
    straight = [line for line in axes.lines if line.get_transform() == axes.get_xaxis_transform()]
    (boundary,) = {line.get_xdata()[0] for line in straight}
    assert snrs[-1] < boundary < none
    curves = [line for line in axes.lines if line.get_linestyle() != "None" and line.get_marker() != "None"]
    assert len(curves) == len(axes.get_legend().get_texts()) > 0
    assert all(max(line.get_xdata()) < boundary for line in curves)


# --- what has no value -------------------------------------------------------------------------------------------


def test_cells_without_clips_of_both_classes_look_different(report: Report, drawn: dict[str, bytes]) -> None:
    nothing = {"balanced_accuracy": None, "ci95": None, "clips": 0, "groups": 0}
    empty = [cell.model_copy(update=nothing) for cell in report.cells[:2]]
    assert duration_by_snr(report.model_copy(update={"cells": empty + report.cells[2:]})) != drawn["duration_by_snr"]


def with_dt75(report: Report, **update: Any) -> Report:
    """The report with another DT75 of the adapter."""
    found = report.detectors["adapter"].psychometric
    assert found is not None
    assert found.duration_ms is not None
    assert found.duration_ms.correct is not None
    at = found.duration_ms.correct.thresholds["DT75"].model_copy(update=update)
    curve = found.duration_ms.correct.model_copy(update={"thresholds": {"DT75": at}})
    curves = found.duration_ms.model_copy(update={"correct": curve})
    return changed(report, "adapter", psychometric=found.model_copy(update={"duration_ms": curves}))


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"value": 123.4, "censored": None, "ci95": (80.0, None)}, "123 ms [80, open]"),
        ({"value": 123.4, "censored": None, "ci95": None}, "123 ms, no interval"),
        ({"value": 2345.0, "censored": "above", "ci95": (900.0, 5000.0)}, "above 1000 ms"),
        ({"value": 7.0, "censored": "below", "ci95": None}, "below 40 ms"),
        ({"value": None, "censored": None, "ci95": None, "reason": "flat: the slope ..."}, "none: flat"),
    ],
)
def test_a_threshold_outside_the_levels_or_none_is_drawn_as_such(
    report: Report, monkeypatch: pytest.MonkeyPatch, update: dict[str, Any], said: str
) -> None:
    assert said in words(monkeypatch, psychometric_curves, with_dt75(report, **update), "duration_ms")


@pytest.mark.parametrize("durations", [1, 3, 5])
def test_the_label_of_a_rows_heights_stays_beside_its_row(
    report: Report, monkeypatch: pytest.MonkeyPatch, durations: int
) -> None:
    found = report.detectors["adapter"].psychometric
    assert found is not None
    one = next(curves for curves in found.snr_db_by_duration.values() if curves.correct)
    each = {str(100 * order): one for order in range(1, durations + 1)}
    crowd = changed(report, "adapter", psychometric=found.model_copy(update={"snr_db_by_duration": each}))
    figure = drawing(monkeypatch, snr_curves_by_duration, crowd)
    figure.draw_without_rendering()
    caption_in = min(text.get_window_extent().y0 for text in figure.texts if text.get_rotation() == 0.0)
    labels = [text for text in figure.findobj(Text) if "correct" in text.get_text() and text.get_rotation() == 90.0]
    spans = sorted((at.get_window_extent().y0, at.get_window_extent().y1) for at in labels)
    assert len(spans) == (2 if durations == 5 else 1)
    assert all(upper[0] > lower[1] for lower, upper in itertools.pairwise(spans))
    assert spans[0][0] > 0
    assert spans[-1][1] < caption_in


def test_points_have_the_intervals_of_their_level(report: Report, drawn: dict[str, bytes]) -> None:
    level = report.detectors["adapter"].by["duration_ms"]["200"]
    bare = level.model_copy(update={"balanced_accuracy": level.balanced_accuracy.model_copy(update={"ci95": None})})
    by = {**report.detectors["adapter"].by}
    by["duration_ms"] = {**by["duration_ms"], "200": bare}
    assert psychometric_curves(changed(report, "adapter", by=by), "duration_ms") != drawn["psychometric_duration_ms"]


def test_levels_without_a_number_are_refused_where_there_is_no_other(report: Report) -> None:
    levels = {"music": next(iter(report.by["duration_ms"].values()))}
    with pytest.raises(ValueError, match="is a number"):
        accuracy_by_level(report.model_copy(update={"by": {"family": levels}}), "family")
    with pytest.raises(ValueError, match="no factor 'room'"):
        accuracy_by_level(report, "room")


def test_difference_that_leaves_out_0_is_filled(report: Report, drawn: dict[str, bytes]) -> None:
    one = report.comparisons["mel_statistics"]
    other = "better" if one.verdict == "not distinguishable" else "not distinguishable"
    comparisons = report.comparisons | {"mel_statistics": one.model_copy(update={"verdict": other})}
    assert forest(report.model_copy(update={"comparisons": comparisons})) != drawn["comparisons"]


# --- training and time -------------------------------------------------------------------------------------------


def test_training_curve_has_a_second_panel_where_accuracy_was_logged() -> None:
    steps, loss = [10, 20, 30], [0.7, 0.6, 0.5]
    with_accuracy = training_curve(steps, loss, {10: 0.5, 30: 0.9}, gate=0.85)
    assert size(with_accuracy)[1] > size(training_curve(steps, loss))[1]
    assert with_accuracy != training_curve(steps, loss, {10: 0.5, 30: 0.9})
    with pytest.raises(ValueError, match="0 steps and 0 losses"):
        training_curve([], [])


def test_the_frontier_is_what_nothing_is_faster_and_better_than() -> None:
    spots = {"a": (1.0, 0.6), "b": (2.0, 0.5), "c": (3.0, 0.8), "d": (3.0, 0.7), "e": (9.0, 0.8)}
    assert frontier(spots) == ["a", "c"]


def test_latency_is_of_the_timed_test_clips_of_each_detector() -> None:
    table = pd.DataFrame(
        {
            "clip_id": ["a", "b", "c", "d", "e"], "detector": ["x", "x", "x", "y", "x"],
            "split": ["test", "test", "test", "test", "dev"], "latency_ms": [10.0, 30.0, None, None, 99.0],
        }
    )  # fmt: skip
    found = timings(table)
    assert set(found) == {"x"}
    assert (found["x"].clips, found["x"].median_ms) == (2, 20.0)
    assert timings(table.drop(columns="latency_ms")) == {}
    with pytest.raises(ValueError, match=r"clip 'b' has latency_ms 0\.0, and 1 row is so"):
        timings(table.assign(latency_ms=[10.0, 0.0, None, None, 99.0]))


def test_only_what_was_timed_is_drawn_over_latency(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = timed_detectors(report, TIMES | {"nobody": TIMES["adapter"]})
    assert set(timed) == {"adapter", "mel_statistics"}
    text = words(monkeypatch, accuracy_by_latency, timed, "n = 3")
    assert "Latency (ms a clip)" in text
    assert "majority" not in text
    assert "accuracy_by_latency" not in figures(report)
    with pytest.raises(ValueError, match="column latency_ms"):
        accuracy_by_latency({}, "n = 0")


# --- several reports ---------------------------------------------------------------------------------------------


def test_reports_on_other_test_clips_are_not_joined(report: Report) -> None:
    other = report.model_copy(update={"test": "0" * 16})
    assert evolution({"one": report, "two": report}) != evolution({"one": report, "two": other})
    random = report.model_copy(update={"protocol": "random"})
    assert evolution({"one": report, "two": random}) != evolution({"one": report, "two": report})


def test_size_is_drawn_of_adapters_alone(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = {"bytes": 84_000_000, "parameters": {"language_model": 16_777_216, "audio_tower": 3_932_160}}
    sized = report.model_copy(update={"adapter": adapter})
    assert set(figures_of_reports({"a": sized, "b": report}, {})) == {"evolution", "accuracy_by_size"}
    assert set(figures_of_reports({"a": report, "b": report}, {"a": TIMES})) == {"evolution", "accuracy_by_latency"}
    text = words(monkeypatch, accuracy_by_size, {"a": sized, "b": report})
    assert "not drawn, being of no adapter: b" in text
    assert "Adapter (MB)" in text
    with pytest.raises(ValueError, match="no report is of an adapter"):
        accuracy_by_size({"b": report})
