"""Figures are drawn from the report alone, the same bytes for the same report, and show what has no value."""

import json
import struct

import numpy as np
import pytest

from tasks.functional.plots import accuracy_by_level, duration_by_snr, figures, reliability_diagram, training_curve
from tasks.functional.report import Report
from tests.test_report import build, studied, tiny


@pytest.fixture(scope="module")
def report() -> Report:
    two = {name: studied().detectors[name] for name in ("adapter", "mel_statistics")}
    return studied().model_copy(update={"detectors": two})


@pytest.fixture(scope="module")
def drawn(report: Report) -> dict[str, bytes]:
    return figures(report)


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])


def test_every_figure_that_has_its_numbers_is_drawn(drawn: dict[str, bytes]) -> None:
    expected = {"accuracy_by_duration_ms", "accuracy_by_snr_db", "duration_by_snr", "confusion", "reliability"}
    assert set(drawn) == expected
    assert all(min(size(png)) > 400 for png in drawn.values())
    assert all(b"Software" not in png for png in drawn.values())


def test_report_that_was_read_from_a_file_with_sorted_keys_gives_the_same_bytes(
    report: Report, drawn: dict[str, bytes]
) -> None:
    again = Report.model_validate_json(json.dumps(report.model_dump(mode="json"), sort_keys=True))
    assert figures(again) == drawn


def test_cells_without_clips_of_both_classes_look_different(report: Report, drawn: dict[str, bytes]) -> None:
    empty = [cell.model_copy(update={"balanced_accuracy": None, "clips": 0, "groups": 0}) for cell in report.cells[:2]]
    assert duration_by_snr(report.model_copy(update={"cells": empty + report.cells[2:]})) != drawn["duration_by_snr"]


def test_training_curve_has_a_second_panel_where_accuracy_was_logged() -> None:
    steps, loss = [10, 20, 30], [0.7, 0.6, 0.5]
    with_accuracy = training_curve(steps, loss, {10: 0.5, 30: 0.9}, gate=0.85)
    assert size(with_accuracy)[1] > size(training_curve(steps, loss))[1]
    assert with_accuracy != training_curve(steps, loss, {10: 0.5, 30: 0.9})


def test_figures_without_their_numbers_are_refused(report: Report) -> None:
    silent = build(tiny({"adapter": [1, 0, 1, 1] * 8}), seed=None)
    with pytest.raises(ValueError, match="no p_speech"):
        reliability_diagram(silent)
    with pytest.raises(ValueError, match="no duration x SNR cells"):
        duration_by_snr(silent)
    with pytest.raises(ValueError, match="no factor 'room'"):
        accuracy_by_level(report, "room")
    with pytest.raises(ValueError, match="0 steps and 0 losses"):
        training_curve([], [])
    assert set(figures(silent)) == {"confusion"}


def test_pyplot_keeps_no_figure_open(drawn: dict[str, bytes]) -> None:
    import matplotlib.pyplot as plt

    assert drawn
    assert plt.get_fignums() == []


def test_levels_without_a_number_are_refused_where_there_is_no_other(report: Report) -> None:
    levels = {"music": next(iter(report.by["duration_ms"].values()))}
    with pytest.raises(ValueError, match="is a number"):
        accuracy_by_level(report.model_copy(update={"by": {"family": levels}}), "family")


def test_detectors_differ_in_marker_and_line_and_not_only_in_colour() -> None:
    from tasks.functional.plots import INKS, STYLES

    assert len({marker for marker, _ in STYLES}) == len({str(line) for _, line in STYLES}) == len(STYLES) == len(INKS)
    assert np.unique(INKS).size == len(INKS)
