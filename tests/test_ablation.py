"""Cells of an ablation: what they may change, and one report in which each stands beside the study, failed ones marked."""

import json
from types import SimpleNamespace

import pytest

from flows.evaluate_detectors import cell_names
from recipes.schema import load_study
from recipes.training import GateBlock
from tasks.adapters import marked
from tasks.functional.verdict import verdict_lines
from tasks.planning import steps_of
from tests.commands import Command


def test_the_matrix_of_the_original_questions():
    study = load_study("study/ablation")
    cells = {name: study.cell(name) for name in study.ablation}
    assert cells["loss-on-turn"].train.loss_on == "turn"
    assert cells["rms"].dataset.clips.normalise == "rms"
    assert [cells[f"rank-{r}"].train.lora["r"] for r in (8, 32, 64)] == [8, 32, 64]
    assert {"gate_proj", "up_proj", "down_proj"} <= {*cells["attention+mlp"].train.lora["target_modules"]}
    strengths = [cells[name].train.augment.spec_augment.time_share for name in ("spec-augment", "spec-augment-strong")]
    assert strengths == sorted(strengths)
    assert cells["focal"].train.loss.kind == "focal"
    assert cells["language-model-only"].train.scope == "language_model"
    assert cells["all-parameters"].train.lora is None
    for cell in cells.values():
        assert cell.ablation == {}
        assert (cell.train.seeds, cell.train.gate, cell.train.pretrain) == (
            study.train.seeds, study.train.gate, study.train.pretrain
        )  # fmt: skip


PADDED = "clips.context={kind: noise, total_ms: 400}"
CROSSED = [
    f"ablation.padded-padded=['dataset.{PADDED}']",
    f"ablation.padded-clean=['train.{PADDED}']",
    f"ablation.clean-padded=['test.{PADDED}']",
    "ablation.asked=['evaluate.prompt=Is it A or B?']",
]


def test_cells_train_on_other_clips_than_judge_them_and_weights_are_made_once():
    study = load_study("study/smoke", CROSSED)
    padded = {name: {p for p, its in study.cell_clips(name).items() if its.context} for name in study.ablation}
    every = {"train", "dev", "test"}
    assert padded == {
        "padded-padded": every,
        "padded-clean": {"train"},
        "clean-padded": every - {"train"},
        "asked": set(),
    }
    assert study.weights_of("padded-padded") == study.weights_of("padded-clean") != study.weights_of()
    assert study.weights_of("clean-padded") == study.weights_of("asked") == study.weights_of()
    assert study.cell("asked").asked.text == "Is it A or B?"
    assert study.longest_ms == 400, "the base is as long in every cell"
    assert {step.name: step.calls for step in steps_of(study)}["adapters"] == 2


def test_in_folds_every_part_trains_and_is_judged():
    folds = ["inflation=false", f"ablation={{x: ['train.{PADDED.replace('400', '1400')}']}}"]
    with pytest.raises(ValueError, match=r"in folds every part trains and is judged"):
        load_study("study/inflation", folds)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("other: ['train.seeds=[1]']", "ablation.other: train.seeds is the same for all cells"),
        ("x: [prompt=other]", "ablation.x: prompt is the same for all cells"),
        ("x: ['dataset.splits.seed=1']", "ablation.x: dataset.splits.seed is the same for all cells"),
        ("x: ['train.lora.rank=8']", "ablation.x: train.lora: lora.rank is no such keyword"),
        ("x: [train.loss_on=answer]", "ablation.x changes nothing"),
        ("base: [train.lora.r=8]", "ablation.base has the name of a detector"),
        ("no_audio: [train.lora.r=8]", "ablation.no_audio has the name of a detector"),
    ],
)
def test_a_cell_that_makes_no_fair_comparison_is_refused(cell, said):
    with pytest.raises(ValueError, match=r"^") as refused:
        load_study("study/smoke", ["ablation={" + cell + "}"])
    assert said in str(refused.value)


def test_ablation_and_inflation_are_two_studies():
    with pytest.raises(ValueError, match="leave out inflation and adapter"):
        load_study("study/inflation", ["ablation={x: [train.lora.r=8]}"])


def test_a_cell_that_fails_its_gate_says_so_in_its_name():
    adapters = [SimpleNamespace(train_accuracy=0.9), SimpleNamespace(train_accuracy=0.7)]
    assert marked("rank-8", adapters, GateBlock(accuracy=0.6)) == "rank-8"
    assert marked("rank-8", adapters, GateBlock(accuracy=0.8)) == "rank-8 (gate failed)"


def test_a_cell_that_fails_in_one_fold_has_one_name_in_all():
    """Under two names it would be two detectors, each scored on a part of the clips."""
    study = load_study(
        "study/smoke", ["ablation={a: [train.lora.r=8], b: [train.lora.r=2]}", "train.gate.accuracy=0.8"]
    )
    reached = {("a", 0): 0.9, ("a", 1): 0.7, ("b", 0): 0.9, ("b", 1): 0.8, ("", 0): 0.1}
    folds = [
        SimpleNamespace(cell=cell, fold=fold, adapters=[SimpleNamespace(train_accuracy=accuracy)])
        for (cell, fold), accuracy in reached.items()
    ]
    assert cell_names(study, folds) == {"a": "a (gate failed)", "b": "b"}


def test_cells_are_told_in_one_sentence_and_are_no_rivals_to_be_beaten():
    told = {"loudness": "worse", "rank-8": "not distinguishable", "rank-64": "worse", "focal (gate failed)": "better",
            "turn": "not distinguishable"}  # fmt: skip
    numbers = {"n": 9, "n_this": 9, "n_other": 9, "ci95": (-0.1, 0.1), "reason": None, "statistic": "balanced_accuracy",
               "value": 0.7, "other": 0.6, "difference": 0.1}  # fmt: skip
    comparisons = {name: SimpleNamespace(verdict=verdict, **numbers) for name, verdict in told.items()}
    detector = SimpleNamespace(
        metrics={"balanced_accuracy": SimpleNamespace(reason=None, method="bootstrap", ci95=(0.6, 0.8), value=0.7)},
        threshold=SimpleNamespace(flags={}),
    )
    recorded = {"provenance": {"cells": ["rank-8", "rank-64", "focal", "turn"]}, "leakage": {"verdict": "clean"}}
    unbeaten, cells, several = verdict_lines("adapter", detector, comparisons, "group", recorded)
    assert unbeaten.startswith("The adapter does not beat a loudness threshold")
    assert cells == (
        "Of 4 cells, the same with one thing changed, against the adapter: better: rank-64; worse: focal; not "
        "distinguishable: rank-8, turn; failed the training gate: focal."
    )
    assert several.startswith("5 comparisons are shown")


@pytest.mark.slow
def test_cells_stand_in_one_report_beside_the_study_paired_and_corrected(tmp_path):
    """Another loss, other clips, every parameter: each on the same test clips as the study."""
    cells = "{turn: [train.loss_on=turn], rms: [dataset.clips.normalise=rms], all: [train.lora=none]}"
    gate = "train.gate={accuracy: 1.0, on_fail: mark}"
    done = Command(tmp_path / "home", "run", "study/smoke", "--set", f"ablation={cells}", "--set", gate).done()
    assert done.code == 0, done.err[-3000:]
    (file,) = (tmp_path / "home" / "store" / "report").glob("*/report.json")
    report = json.loads(file.read_text())
    for name in ("turn", "rms", "all"):
        (found,) = [its for its in report["comparisons"] if its in (name, f"{name} (gate failed)")]
        comparison = report["comparisons"][found]
        assert comparison["p_holm"] >= comparison["p_exact"]
        assert report["detectors"][found]["n"] == report["n"]
    assert any("(gate failed)" in name for name in report["comparisons"])
