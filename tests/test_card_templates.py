"""Cards and report page say groups before clips, open with what speaks against them, and ask nobody for anything."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.card_metadata import card_faults
from tasks.functional import report_files
from tasks.functional.cards import render_dataset_card, render_model_card
from tasks.functional.report import Report
from tasks.functional.report_schema import DevCalibration, FoldFit, Inflation, Threshold
from tasks.functional.report_tables import summary_lines
from tasks.functional.shortcuts import SHORTCUTS
from tasks.functional.timing import BESIDE
from tests.test_report import recorded, studied

TEMPLATES = Path(__file__).parents[1] / "hub_cards"
PROVENANCE = {
    "repo": "earshot/demo", "study": "demo", "recipe_sha256": "ab" * 32, "licence": "mit", "protocol": "group",
    "dataset": {"repo": "earshot/demo-clips", "sha": "c" * 40, "licence": "cc0-1.0"},
    "base": {"repo": "Qwen/Qwen2-Audio-7B-Instruct", "revision": "d" * 40}, "bases": [],
    "adapter": {"fingerprint": "e" * 16, "seed": 42}, "prompt": 'Is it "speech"?\nA) yes', "seeds": [42, 43],
    "classes": ["SPEECH", "NONSPEECH"], "answers": ["A", "B"], "libraries": {"torch": "2.13.0"}, "code": "f" * 16,
    "predictions_sha256": "0" * 64, "dtype": "torch.float32", "device": "cpu", "quantization": None,
    "base_class": "Qwen2AudioForConditionalGeneration", "lora": {"r": 4},
    "scope": "language_model", "loss_on": "answer",
    "heard": {"sources": [{"kind": "espeak", "role": "content", "label": "SPEECH"}], "languages": ["en"],
              "licences": {"content": {"CC0-1.0": 30}, "noise": {}, "rooms": {}},
              "conditions": {"duration_ms": ["40", "200", "1000"], "snr_db": ["-5", "5", "no noise"], "band": ["clean"]}},
}  # fmt: skip
LEAKAGE = {
    "verdict": "clean",
    "protocol": "group",
    "checks": [
        {"check": "group", "shared": 0, "pairs": ""},
        {"check": "room", "shared": None, "pairs": ""},
    ],
}
DATA: dict[str, Any] = {
    "repo": "earshot/demo-clips", "name": "demo", "description": "Short and noisy.", "licence": "cc0-1.0",
    "licences": {"content": {"CC0-1.0": 30, "GPL-3.0+": 10}, "noise": {"generated": 20}, "rooms": {}},
    "classes": ["SPEECH", "NONSPEECH"], "folds": None, "clips": 40, "languages": ["en"], "size": "n<1K",
    "parts": [{"name": "train", "file": "data/train.parquet"}, {"name": "test", "file": "data/test.parquet"}],
    "counts": [{"part": "train", "label": "SPEECH", "clips": 20, "groups": 4, "supergroups": 4}],
    "factors": {"duration_ms": [40.0, 80.0], "snr_db": [-5.0, None], "band": ["clean", "phone"], "room": ["anechoic"],
        "context": ["none"]},
    "bands": {"clean": [None, None], "phone": [300.0, 3400.0]}, "conditions": 8, "cells": [], "hygiene": None,
    "audit": LEAKAGE, "balance": {"largest_imbalance": 0}, "splits_recipe": {"protocol": "group"}, "fingerprint": "9" * 16,
    "sources": [
        {"kind": "espeak", "role": "content", "label": "SPEECH", "left_out": ""},
        {"kind": "esc50", "role": "content", "label": "NONSPEECH", "left_out": "the human group"},
        {"kind": "rooms", "role": "room", "left_out": ""},
    ],
    "clips_recipe": {
        "design": "factorial", "per_cell": {"train": 5, "test": 5}, "per_class": None, "normalise": "peak", "context": None,
        "balance_families": [], "reference": {"duration_ms": 1000.0, "snr_db": None, "band": "clean", "room": None},
    },
}  # fmt: skip


def read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def header(card: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return content


@pytest.fixture(scope="module")
def report() -> Report:
    adapter = {"parameters": {"language_model": 6144, "all": 811_776}, "bytes": 26_000, "sha256": {"fold 0": "a" * 64}}
    evidence = recorded(provenance=PROVENANCE, leakage=LEAKAGE, balance={"largest_imbalance": 0}, adapter=adapter)
    document = studied().model_copy(update=evidence)
    return Report.model_validate_json(json.dumps(document.model_dump(mode="json"), sort_keys=True))


@pytest.fixture(scope="module")
def card(report: Report) -> str:
    return render_model_card(read("model_card.md.j2"), report)


def test_a_card_says_beside_what_its_times_were_taken(report: Report, card: str) -> None:
    took = {"train_s": {}, "latency": {"adapter": {"clips": 32, "median_ms": 7.8, "p95_ms": 9.0}}}
    told = render_model_card(read("model_card.md.j2"), report, took)
    assert "| adapter | 7.80 | 9.00 | 32 |" in told
    assert "timed while the study's other jobs ran: on a CPU a difference of a few ms means nothing" in told
    assert BESIDE not in card, "nothing was timed"


def page(report: Report, **figures: bytes) -> str:
    return report_files.page(report, read("report.html.j2"), figures, {})


def test_header_is_what_the_hub_reads(card: str, report: Report) -> None:
    data = header(card)
    assert (data["library_name"], data["base_model_relation"]) == ("peft", "adapter")
    assert (data["base_model"], data["datasets"]) == ("Qwen/Qwen2-Audio-7B-Instruct", ["earshot/demo-clips"])
    metrics = data["model-index"][0]["results"][0]["metrics"]
    assert metrics[0]["value"] == report.metrics["balanced_accuracy"].value
    assert all(type(metric["value"]) is float for metric in metrics)
    assert "over 12 groups (6 SPEECH, 6 NONSPEECH), 108 clips" in metrics[0]["name"]


def test_hub_library_finds_the_evaluation_results(card: str) -> None:
    from huggingface_hub import ModelCard

    results = ModelCard(card).data.eval_results
    assert results is not None
    assert [result.metric_type for result in results] == ["balanced_accuracy", "accuracy", "roc_auc"]


def test_card_says_what_speaks_against_it_before_any_number(card: str, report: Report) -> None:
    body = card.split("---\n", 2)[2]
    assert report.verdict_lines
    first = [body.index(line) for line in report.verdict_lines]
    assert first == sorted(first)
    assert max(first) < body.index("Judged on **12 groups (6 SPEECH, 6 NONSPEECH)**") < body.index("108 clips")


def test_card_shows_every_detector_seed_and_level(card: str, report: Report) -> None:
    for name in ("base", "mel_statistics"):
        assert f"\n| {name} | 12 | " in card
    assert "\n| 42 (published) | " in card
    assert "\n| 43 | " in card
    levels = [card.index(f"\n| {level} | 12 | ") for level in report.by["duration_ms"]]
    assert levels == sorted(levels)
    assert "| room | no such column |" in card


def test_card_counts_the_looks_and_says_what_their_ledger_is_worth(report: Report) -> None:
    looks = {
        "test": "ab",
        "count": 7,
        "by_detector": {"adapter": 5, "base": 2},
        "ledger": "kept here, not tamper-proof",
    }
    card = render_model_card(read("model_card.md.j2"), report.model_copy(update={"looks": looks}))
    line = "7 distinct models, prompts and thresholds have been scored on these test clips (adapter 5, base 2). "
    assert f"- {line}The ledger is kept here, not tamper-proof.\n" in card
    unknown = render_model_card(read("model_card.md.j2"), report)
    assert "How often these test clips were looked at is not recorded." in unknown


def test_card_gives_the_leaky_figure_after_the_corrected_one_and_apart(report: Report) -> None:
    found = Inflation(
        value=0.125, ci95=(0.05, 0.2), method="t", reason=None, se=0.04, clean=0.75, leaky=0.875, per_seed={"42": 0.125},
        folds={"group": 3, "random": 3}, clips=108, groups=12,
    )  # fmt: skip
    floor = found.model_copy(update={"value": 0.25, "clean": 0.625, "per_seed": {}})
    given = {"adapter": found, "mel_statistics": floor}
    detectors = {name: one.model_copy(update={"inflation": given.get(name)}) for name, one in report.detectors.items()}
    card = render_model_card(
        read("model_card.md.j2"), report.model_copy(update={"inflation": found, "detectors": detectors})
    )
    apart = "the same clips score 0.875, +0.125 [0.050, 0.200] against 0.750 under folds by group"
    assert card.index("balanced accuracy **") < card.index(apart)
    assert "(n = 12 groups, 108 clips; K = 3)" in card
    assert "\n| mel_statistics | – | 0.625 | 0.875 | +0.250 [0.050, 0.200] |" in card


def test_card_says_thresholds_and_the_smallest_difference(report: Report, card: str) -> None:
    assert "- DT75: none, flat: the slope does not differ from 0" in card
    assert report.power is not None
    smallest = report.power.smallest_detectable_difference
    assert f"could have shown with 80 % power, against {report.power.against}: {smallest:.3f}." in card
    bare = report.model_copy(update={"power": None, "psychometric": None, "absent": {"power": "one seed is needed"}})
    without = render_model_card(read("model_card.md.j2"), bare)
    assert "could have shown is not stated: one seed is needed." in without
    assert "## Thresholds" not in without


FAR = "a t interval reaches further than a bootstrap: unreliable"


def test_card_marks_an_interval_that_is_not_to_be_relied_on_and_says_once_what_the_mark_means(report: Report) -> None:
    sure = {"value": 0.9, "ci95": (0.8, 0.95), "reason": None}
    doubted = {"value": 0.983, "ci95": (0.962, 1.0), "reason": FAR}
    base = report.detectors["base"]

    def card_with(**metric: Any) -> str:
        known = {name: one.model_copy(update=sure) for name, one in base.metrics.items()}
        recall = base.metrics["recall_nonspeech"].model_copy(update=metric)
        compared = {
            name: one.model_copy(update={"reason": metric["reason"]}) for name, one in report.comparisons.items()
        }
        detectors = {
            name: one.model_copy(update={"metrics": known | ({"recall_nonspeech": recall} if name == "base" else {})})
            for name, one in report.detectors.items()
        }
        told = report.model_copy(update={"detectors": detectors, "metrics": known, "comparisons": compared})
        return render_model_card(read("model_card.md.j2"), told)

    def beside(card: str) -> str:
        return card[card.index("## Beside what it must beat") : card.index("## Leakage audit")]

    meaning = "\n\n†: an interval that is not to be relied on; `reason` beside it in report.json says why.\n\n"
    assert "†" not in beside(card_with(**sure))
    marked = beside(card_with(**doubted))
    assert "| 0.983 [0.962, 1.000] † |" in marked
    for part in (marked[: marked.index("McNemar")], marked[marked.index("McNemar") :]):
        assert part.count("] † |") >= 1
    assert marked.count(meaning) == 2, "once below each table"


@pytest.mark.parametrize(
    ("chosen_on", "said"), [("dev", "by which it answered above"), ("fixed", "not applied above")]
)
def test_a_card_says_whether_the_threshold_from_dev_is_the_one_that_decided(
    report: Report, chosen_on: str, said: str
) -> None:
    fit = FoldFit(
        clips=40, groups=20, threshold=0.431, sensitivity=0.8, specificity=0.7, threshold_flag=None, temperature=1.5,
        nll_before=0.6, nll_after=0.5, at_bound=False, temperature_flag=None,
    )  # fmt: skip
    assert report.calibration
    dev = DevCalibration(folds={"0": fit}, constant=[], raw=report.metrics, calibrated=report.metrics)
    by_fold = {"0": 0.431} if chosen_on == "dev" else {}
    threshold = Threshold(value=by_fold.get("0", 0.5), chosen_on=chosen_on, by_fold=by_fold)
    told = {"calibration": report.calibration.model_copy(update={"dev": dev}), "threshold": threshold}
    card = render_model_card(read("model_card.md.j2"), report.model_copy(update=told))
    assert f"Fitted on dev: temperature 1.500, not applied above; threshold 0.431, {said}." in card


def test_card_says_what_is_doubtful_of_a_marked_number_in_a_sentence(report: Report) -> None:
    doubted = {
        name: one.model_copy(update={"ci95": (0.5, 0.9), "reason": FAR}) for name, one in report.metrics.items()
    }
    card = render_model_card(read("model_card.md.j2"), report.model_copy(update={"metrics": doubted}))
    assert "[0.500, 0.900] †**\n" in card
    assert f"\n†: {FAR}.\n" in card
    calibration = card[card.index("## Calibration") : card.index("## Conditions")]
    assert "[0.500, 0.900] †." in calibration
    assert f". †: {FAR}.\n" in calibration


def with_dt75(report: Report, at: dict[str, Any], **curve: Any) -> Report:
    """The report with another DT75, of another fit."""
    found = report.psychometric
    assert found is not None
    assert found.duration_ms is not None
    assert found.duration_ms.correct is not None
    dt75 = found.duration_ms.correct.thresholds["DT75"].model_copy(update={"reason": None} | at)
    correct = found.duration_ms.correct.model_copy(update={"thresholds": {"DT75": dt75}} | curve)
    curves = found.duration_ms.model_copy(update={"correct": correct})
    told = found.model_copy(update={"duration_ms": curves})
    own = report.detectors[report.detector].model_copy(update={"psychometric": told})
    detectors = report.detectors | {report.detector: own}
    return report.model_copy(update={"psychometric": told, "detectors": detectors})


FITS = {"converged": True, "deviance_p": 0.4, "lapse_at_bound": False, "false_alarms_alike_p": None}
REACHED = {"value": 571.03, "censored": None, "ci95": (181.7, 1794.8)}


def test_card_quotes_no_end_that_lies_beyond_the_tested_levels(report: Report) -> None:
    card = render_model_card(read("model_card.md.j2"), with_dt75(report, REACHED, **FITS))
    assert "\n- DT75: 571 ms [182, >1000]\n" in card


@pytest.mark.parametrize(
    ("fit", "said"),
    [
        ({"deviance_p": 0.012}, "the curve fits badly (deviance p 0.012)"),
        ({"lapse_at_bound": True}, "lapse rate at its bound"),
        ({"converged": False, "lapse_at_bound": True}, "did not converge; lapse rate at its bound"),
        ({"false_alarms_alike_p": 0.03}, "false alarms differ between levels (p 0.03)"),
    ],
)
def test_card_page_and_terminal_say_alike_what_to_mind_of_a_fit(
    report: Report, fit: dict[str, Any], said: str
) -> None:
    good, bad = (with_dt75(report, REACHED, **FITS | others) for others in ({}, fit))
    assert f"<td>{said}</td></tr>" in page(bad)
    assert f"\n- DT75: 571 ms [182, >1000]; {said}\n" in render_model_card(read("model_card.md.j2"), bad)
    assert f"DT75  571 ms (182 to >1000); {said}" in summary_lines(bad)
    assert "DT75  571 ms (182 to >1000)" in summary_lines(good)


def test_example_is_python_and_short(card: str) -> None:
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    compile(code[1], "card", "exec")
    assert code[1].count("\n") <= 12


@pytest.mark.parametrize("named", ["Qwen2_5OmniThinkerForConditionalGeneration", None])
def test_example_of_a_family_whose_lines_no_test_runs_is_earshots_own(report: Report, named: str | None) -> None:
    card = render_model_card(
        read("model_card.md.j2"), report.model_copy(update={"provenance": PROVENANCE | {"base_class": named}})
    )
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert 'answers = predict("earshot/demo", ["clip.wav"])' in code
    assert "only A and B allowed as answers; these lines ask it so." in card
    assert "peft" not in code


def test_card_over_a_folder_names_it_by_its_content_and_claims_no_repository(report: Report) -> None:
    folder = {"base": {"repo": "my base", "revision": "d" * 40}}
    card = render_model_card(read("model_card.md.j2"), report.model_copy(update={"provenance": PROVENANCE | folder}))
    assert not list(card_faults(card, "model"))
    head = yaml.safe_load(card.split("---\n")[1])
    assert "base-of-a-folder" in head["tags"]
    assert not {"base_model", "base_model_relation"} & set(head)
    assert f"my base, a folder in no repository, its content `{'d' * 40}`" in card
    assert "only who has the very same one can use or check the adapter" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert 'predict("earshot/demo", ["clip.wav"], base="FOLDER")' in code


def test_card_of_a_leaky_result_is_refused(report: Report) -> None:
    leaky = report.model_copy(update={"leakage": LEAKAGE | {"verdict": "leaky"}})
    with pytest.raises(ValueError, match=r"may not be published: .*'leaky'"):
        render_model_card(read("model_card.md.j2"), leaky)


def test_card_without_its_provenance_is_no_card(report: Report) -> None:
    provenance = {key: value for key, value in PROVENANCE.items() if key != "predictions_sha256"}
    with pytest.raises(ValueError, match="does not say 'predictions_sha256'"):
        render_model_card(read("model_card.md.j2"), report.model_copy(update={"provenance": provenance}))


def test_changed_report_changes_its_card(card: str, report: Report) -> None:
    metrics = report.metrics | {
        "balanced_accuracy": report.metrics["balanced_accuracy"].model_copy(update={"value": 0.9})
    }
    assert render_model_card(read("model_card.md.j2"), report.model_copy(update={"metrics": metrics})) != card


def test_page_is_one_file_that_fetches_nothing(report: Report) -> None:
    html = page(report, confusion=bytes(3))
    assert re.findall(r'(?:src|href)="([^"]*)"', html) == ["data:image/png;base64,AAAA"]
    assert not re.search(r"https?://|url\(|@import|<script|<link", html)


def test_page_opens_with_groups_and_verdict(report: Report) -> None:
    html = page(report)
    body = html[html.index("<body>") :]
    assert (
        body.index("Over 12 test groups (6 SPEECH, 6 NONSPEECH)")
        < body.index('class="verdict"')
        < body.index("<table")
    )
    assert all(f"<td>{name}</td>" in body for name in report.detectors)


def test_card_and_page_mark_an_interval_over_few_supergroups(report: Report, card: str) -> None:
    assert report.metrics["balanced_accuracy"].reason_supergroup == "only 4 groups in NONSPEECH: unreliable"
    for text in (card, page(report)):
        assert re.search(r"by supergroup .*\] \(only 4 groups in NONSPEECH: unreliable\)\.", text)


def test_the_page_marks_an_interval_over_few_supergroups_in_the_list_of_every_metric_too(report: Report) -> None:
    """Recall between 0.002 and 0.999 over two supergroups stood there as if it were sound."""
    few = {"ci95_supergroup": (0.002, 0.999), "reason_supergroup": "only 2 groups in NONSPEECH: unreliable"}
    doubtful = report.metrics["recall_nonspeech"].model_copy(update=few)
    said = page(report.model_copy(update={"metrics": report.metrics | {"recall_nonspeech": doubtful}}))
    assert '<td class="n">0.002 to 0.999 †</td>' in said
    assert "; over supergroups: only 2 supergroups in NONSPEECH: unreliable</td>" in said


def test_page_escapes_what_it_shows(report: Report) -> None:
    html = page(report.model_copy(update={"verdict_lines": ["<script>alert(1)</script>"]}))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_page_says_when_nothing_was_audited(report: Report) -> None:
    assert "No audit is recorded" in page(report.model_copy(update={"leakage": None}))


CONTENT = {
    "clips": {"train": 900, "test": 40}, "compared": {"train": 500, "test": 40}, "unsearchable": 3, "leaks": 0,
    "suspects": 2, "miss_rate": 0.125,
}  # fmt: skip
NOT_LOOKED_FOR = "near-duplicates are not looked for"


@pytest.mark.parametrize(
    ("miss_rate", "worth"),
    [
        (0.125, "of copies planted for that 12 % were missed, so finding none proves no more."),
        (None, "no copies could be planted for that: what was missed is not known."),
    ],
)
def test_cards_and_page_say_what_was_compared_and_what_finding_nothing_is_worth(
    report: Report, miss_rate: float | None, worth: str
) -> None:
    audit = LEAKAGE | {"content": CONTENT | {"miss_rate": miss_rate}}
    heard = report.model_copy(update={"leakage": audit})
    for text in (render_model_card(read("model_card.md.j2"), heard), data_card(audit=audit), page(heard)):
        assert (
            "The content of 500 of 900 clips of train, 40 of 40 clips of test (3 of them silent or under 20 ms) was"
            in text
        )
        assert f"0 pairs beyond chance, 2 suspect; {worth}" in text
        assert NOT_LOOKED_FOR not in text


@pytest.mark.parametrize("audit", [LEAKAGE, LEAKAGE | {"content": None}], ids=["older", "random parts"])
def test_where_content_was_not_compared_cards_and_page_say_so(report: Report, audit: dict[str, Any]) -> None:
    unheard = report.model_copy(update={"leakage": audit})
    for text in (render_model_card(read("model_card.md.j2"), unheard), data_card(audit=audit), page(unheard)):
        assert NOT_LOOKED_FOR in text


QUIET = {name: {"auc": 0.5, "called_out": False} for name in (*SHORTCUTS, "all together")}
LOUD = QUIET | {"zero_share": {"auc": 0.6992, "called_out": True}}


@pytest.mark.parametrize(
    ("shortcuts", "said"),
    [
        (None, "without anybody listening was not looked at."),
        (QUIET, "No single cue (level_db, "),
        (QUIET, "over 0.65 on test; a small model over all of them reaches 0.500."),
        (LOUD, "**Some cues tell the classes apart without anybody listening**"),
        (LOUD, "AUC on test over 0.65: zero_share 0.699."),
    ],
)
def test_cards_say_what_tells_the_classes_apart_without_listening(report: Report, shortcuts: Any, said: str) -> None:
    told = report.model_copy(update={"shortcuts": shortcuts})
    for text in (
        render_model_card(read("model_card.md.j2"), told),
        data_card(audit=LEAKAGE | {"shortcuts": shortcuts}),
    ):
        assert said in text
        assert "\n\n\n\n" not in text


@pytest.mark.parametrize("shortcuts", [QUIET, LOUD], ids=["quiet", "loud"])
def test_cards_and_page_say_on_how_many_clips_cues_were_measured_where_that_is_not_all(
    report: Report, shortcuts: Any
) -> None:
    said = " Cues were measured on 600 of 900 clips of train, 40 of 40 clips of test."
    for train, there in ((600, True), (900, False)):
        audit = LEAKAGE | {"content": CONTENT, "shortcuts": shortcuts, "measured": {"train": train, "test": 40}}
        told = report.model_copy(update={"shortcuts": shortcuts, "leakage": audit})
        for text in (render_model_card(read("model_card.md.j2"), told), data_card(audit=audit), page(told)):
            assert (said in text) is there


def test_card_says_how_it_was_measured_beside_how_it_is_used(report: Report) -> None:
    heard = PROVENANCE["heard"] | {"conditions": PROVENANCE["heard"]["conditions"] | {"context": ["noise, 2000 ms"]}}
    origin = PROVENANCE | {"quantization": {"type": "nf4"}, "heard": heard}
    card = render_model_card(read("model_card.md.j2"), report.model_copy(update={"provenance": origin}))
    measured = (
        "Measured with the base quantised (type nf4), context noise, 2000 ms, and only A and B allowed as answers;"
    )
    assert card.index("## How to use it") < card.index(measured) < card.index("```python")


def test_card_claims_no_energy(card: str) -> None:
    assert "; energy: not measured." in card


def test_page_shows_why_a_number_is_missing(report: Report) -> None:
    silent = report.metrics["roc_auc"].model_copy(
        update={"value": None, "ci95": None, "reason": "108 clips are silent"}
    )
    assert "108 clips are silent" in page(report.model_copy(update={"metrics": report.metrics | {"roc_auc": silent}}))


def misplaced(card: str) -> list[str]:
    """Headings without a blank line before and behind them, and wherever two blank lines stand."""
    body = re.sub(r"```.*?```", "", card.split("\n---\n", 1)[1], flags=re.DOTALL)
    return re.findall(r"[^\n]\n#+ .*|#+ .*\n[^\n].*", body) + re.findall(r".*\n{3,}.*", card)


@pytest.mark.parametrize(
    "changes",
    [{"languages": []}, {"languages": ["en"]}, {"folds": 5}],
    ids=["no language", "language", "folds"],
)
def test_sections_of_a_data_card_stand_one_line_apart(changes: dict[str, Any]) -> None:
    """Without a language "## Use" was glued to the sentence above it."""
    assert misplaced(render_dataset_card(read("dataset_card.md.j2"), DATA | changes)) == []


def test_sections_of_a_model_card_stand_one_line_apart_whatever_it_has(report: Report, card: str) -> None:
    bare = report.model_copy(update={"comparisons": {}, "listening": None})
    assert misplaced(card) == misplaced(render_model_card(read("model_card.md.j2"), bare)) == []


@pytest.mark.parametrize(("icc", "said"), [
    (0.3, "Clips of one group resemble each other (ICC 0.30): with a design effect of 2.00 they are worth 50 independent"),
    (-0.28, "answers to clips of one group are no more alike here than others (ICC -0.28): they count as 50 independent"),
])  # fmt: skip
def test_card_and_page_claim_no_likeness_that_was_not_found(report: Report, icc: float, said: str) -> None:
    effect = report.design_effect.model_copy(update={"icc": icc, "deff": 2.0 if icc > 0 else 1.0, "n_eff": 50.0})
    told = report.model_copy(update={"design_effect": effect})
    assert said in render_model_card(read("model_card.md.j2"), told)
    assert said.replace("-", "−") in page(told)


def test_card_and_page_say_where_all_groups_of_a_class_are_of_one_supergroup(report: Report) -> None:
    lone = {"ci95_supergroup": None, "reason_supergroup": "fewer than 2 groups in SPEECH: no interval"}
    headline = report.metrics["balanced_accuracy"].model_copy(update=lone)
    told = report.model_copy(update={"metrics": report.metrics | {"balanced_accuracy": headline}})
    for text in (render_model_card(read("model_card.md.j2"), told), page(told)):
        assert "uploader together) there is no interval: fewer than 2 supergroups in SPEECH." in text


def test_card_of_a_home_links_to_no_page_that_is_not_there(card: str) -> None:
    assert "https://" not in card.split("\n---\n", 1)[1]


def test_page_has_no_table_of_thresholds_where_no_curve_was_fitted(report: Report) -> None:
    def without(found: Any) -> Any:
        curves = {name: its.model_copy(update={"correct": None, "hit_rate": None})
                  for name in ("duration_ms", "snr_db") if (its := getattr(found, name))}  # fmt: skip
        few = {name: its.model_copy(update={"correct": None}) for name, its in found.snr_db_by_duration.items()}
        return found.model_copy(update={**curves, "snr_db_by_duration": few})

    detectors = {name: one.model_copy(update={"psychometric": one.psychometric and without(one.psychometric)})
                 for name, one in report.detectors.items()}  # fmt: skip
    none = report.model_copy(update={"detectors": detectors, "psychometric": without(report.psychometric)})
    assert "<th>Threshold</th>" in page(report)
    for told in ("<th>Threshold</th>", "Slope p", "SNR75 at each duration"):
        assert told not in page(none)


def test_data_card_names_its_files_and_counts_groups() -> None:
    card = render_dataset_card(read("dataset_card.md.j2"), DATA)
    splits = header(card)["configs"][0]["data_files"]
    assert splits == [{"split": part["name"], "path": part["file"]} for part in DATA["parts"]]
    assert "| train | SPEECH | 4 | 4 | 20 |" in card
    assert "Verdict: **clean**, protocol `group`" in card
    assert "| snr_db | -5, none |" in card
    assert "| content | GPL-3.0+ | 10 |" in card


def data_card(**changes: Any) -> str:
    """The card of a data set, its header read first."""
    card = render_dataset_card(read("dataset_card.md.j2"), DATA | changes)
    assert card.startswith("---\n")
    assert header(card)["license"] == "cc0-1.0"
    assert "\n\n\n\n" not in card
    return card


def test_data_card_states_bands_rooms_context_and_licences_by_what_is_heard() -> None:
    card = data_card()
    assert "| band | clean, phone (300 to 3400 Hz) |" in card
    assert "| room | anechoic |" in card
    assert "Context: none, the waveform is the clip." in card
    assert "| content | GPL-3.0+ | 10 |\n| noise | generated | 20 |\n\n" in card, "no rooms, no line for them"
    assert "- esc50, role content, NONSPEECH; leaves out the human group\n- rooms, role room\n" in card
    noisy = {"context": {"kind": "noise", "total_ms": 2000.0}}
    assert "in the middle of 2000 ms of noise, the noise that was mixed" in data_card(
        clips_recipe=DATA["clips_recipe"] | noisy
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {},
            "Factorial: each of the 8 combinations of the levels has 5 (train), 5 (test) clips of each class in a part.",
        ),
        (
            {"design": "margins", "per_class": 30},
            "Even margins: 30 clips of each class in a part, spread over the 8 comb",
        ),
        (
            {"design": "one_at_a_time", "per_class": {"train": 7, "test": 3}},
            "the same 7 (train), 3 (test) cuts of each class in a part, rendered in 8 conditions. `varied` names the factor "
            "that a condition was made for; the others stay at 1000 ms, `snr_db` none, `band` clean, `room` anechoic.",
        ),
        ({"balance_families": ["music", "noise"]}, "NONSPEECH comes in equal shares from music, noise."),
    ],
)
def test_data_card_says_how_the_conditions_come_together(changes: dict[str, Any], said: str) -> None:
    assert said in data_card(clips_recipe=DATA["clips_recipe"] | changes)


def test_data_card_of_even_margins_shows_its_cells() -> None:
    cells = {"columns": ["test", "0 dB", "no noise", "all"], "data": [["40 ms", 2, 3, 5], ["all", 2, 3, 5]]}
    card = data_card(clips_recipe=DATA["clips_recipe"] | {"design": "margins", "per_class": 5}, cells=[cells])
    assert (
        "\n\n| test | 0 dB | no noise | all |\n|---|---|---|---|\n| 40 ms | 2 | 3 | 5 |\n| all | 2 | 3 | 5 |\n\n"
        in card
    )


def test_data_card_says_which_clips_share_audio_within_their_condition() -> None:
    counted = [
        {"part": "train", "label": "SPEECH", "clips": 20, "shared": 0},
        {"part": "test", "label": "SPEECH", "clips": 20, "shared": 12},
    ]
    assert "with another clip of their condition: 12 of 20 (SPEECH, test). They" in data_card(shared=counted)
    assert "No two clips of one condition share audio." in data_card(shared=counted[:1])
    assert "share audio" not in data_card(), "of a set in which it was never counted nothing is said"


def test_data_card_of_a_random_split_claims_no_separation() -> None:
    assert "no voice, noise file or room stands on two parts" in data_card()
    leaky = data_card(splits_recipe={"protocol": "random"}, audit=LEAKAGE | {"verdict": "leaky", "protocol": "random"})
    assert "stands on two parts" not in leaky
    assert "dealt anew at random" in leaky
    assert "Verdict: **leaky**" in leaky


def test_data_card_counts_what_hygiene_dropped_or_says_that_nobody_listened() -> None:
    assert "None: labels are those of the sources, and no detector has checked them." in data_card()
    counts = {
        "class": "SPEECH", "rule": "at least 0.7", "recordings": 30, "dropped": 4, "groups": 9, "groups_left": 8,
    }  # fmt: skip
    card = data_card(hygiene={"detector": "Silero, frames of probability 0.5 and more", "counts": [counts]})
    assert "| SPEECH | at least 0.7 | 30 | 4 | 9 | 8 |" in card
    assert "listened to at the level of a clip (Silero, frames of probability 0.5 and more)" in card
    assert "the one that chose them most of all" in card


def test_data_card_of_folds_says_how_they_turn() -> None:
    assert "There are 5 parts for 5 folds" in render_dataset_card(read("dataset_card.md.j2"), DATA | {"folds": 5})
