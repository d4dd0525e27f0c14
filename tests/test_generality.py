"""A study of other classes and answers, end to end: nothing here knows of speech but the recipe."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml

from recipes.reading import read_yaml
from tests.commands import Command, Done, earshot

pytestmark = pytest.mark.slow

CLASSES, ANSWERS = ["MUSIC", "NOT MUSIC"], ["M", "N"]
STUDY = {
    "schema": 1, "name": "music", "description": "Is there music?", "classes": CLASSES, "answers": ANSWERS,
    "prompt": "What is this: M) MUSIC or N) NOT MUSIC? Answer with M or N.",
    "dataset": {
        "name": "music",
        "sources": [
            {"kind": "synthetic", "label": "MUSIC", "families": ["music"], "draws": 8, "duration_s": 1.5, "seed": 1},
            {"kind": "synthetic", "label": "NOT MUSIC", "families": ["environment", "animals"], "draws": 4,
             "duration_s": 1.5, "seed": 2},
            {"kind": "synthetic", "role": "noise", "draws": 2, "duration_s": 1.5, "seed": 3},
        ],
        "splits": {"fractions": {"train": 0.4, "dev": 0.3, "test": 0.3}, "seed": 1},
        "clips": {"duration_ms": [100, 400], "snr_db": [20, None], "per_cell": {"train": 4, "dev": 2, "test": 4}},
    },
    "train": "train/smoke",
    "evaluate": {"name": "music", "n_boot": 200, "threshold": "dev", "open": {"words": {"MUSIC": ["tune"]}}},
    "publish": {"dataset": "music-clips", "adapter": "music-adapter"},
    "goals": [
        {"metric": "recall_music", "at_least": 0.0},
        {"metric": "recall_not music", "at": {"duration_ms": 400}, "at_most": 1.0},
        {"metric": "precision_music", "detector": "base", "at_least": 0.99},
    ],
    "then": "study/demo", "else": "study/smoke",
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("music") / "home"


@pytest.fixture(scope="module")
def ran(home: Path) -> Done:
    """That study, run as a user runs it."""
    (home.parent / "music.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False), encoding="utf-8")
    done = Command(home, "run", "music.yaml").done()
    assert done.code == 0, done.err[-3000:]
    return done


def published(home: Path, kind: str, name: str) -> Path:
    (folder,) = (home / "hub" / f"{kind}s--earshot--{name}" / "snapshots").iterdir()
    return folder


def test_its_data_set_predictions_and_report_speak_of_its_own_classes(ran, home):
    clips = pd.read_parquet(published(home, "dataset", "music-clips") / "data" / "test.parquet", columns=["label"])
    assert set(clips["label"]) == set(CLASSES)
    adapter = published(home, "model", "music-adapter")
    predictions = pd.read_parquet(adapter / "predictions.parquet")
    assert set(predictions["prediction"].dropna()) <= set(CLASSES)
    assert {"adapter", "base", "adapter_open", "mel_statistics"} <= set(predictions["detector"])
    report = json.loads((adapter / "report.json").read_text(encoding="utf-8"))
    assert report["classes"] == CLASSES
    assert {"recall_music", "recall_not music"} <= set(report["metrics"])
    assert report["provenance"]["answers"] == ANSWERS
    assert [goal["asks"] for goal in report["goals"]][1] == "recall not music at duration ms 400 of adapter at most 1"
    assert report["next"]["study"] in ("study/demo", "study/smoke")


def test_nothing_that_a_person_reads_speaks_of_speech(ran, home):
    adapter, data = published(home, "model", "music-adapter"), published(home, "dataset", "music-clips")
    for file in (adapter / "README.md", adapter / "report.html", data / "README.md", adapter / "adapter_config.json"):
        text = file.read_text(encoding="utf-8")
        told = text.replace("p_speech", "").split("<style>")[0] + text.split("</style>")[-1]
        assert "SPEECH" not in told, file.name
        assert "MUSIC" in text or file.suffix == ".json"
    assert "SPEECH" not in ran.out
    assert "goal: recall music of adapter at least 0" in ran.out


def test_it_verifies_and_answers_anybodys_audio(ran, home):
    for name in ("music-adapter", "music-clips"):
        done = earshot(home, "verify", f"earshot/{name}")
        assert done.code == 0, done.out[-2000:]
    soundfile.write(home.parent / "hiss.wav", 0.1 * np.random.default_rng(0).standard_normal(3200), 16_000)
    soundfile.write(home.parent / "silence.wav", np.zeros(3200), 16_000)
    done = earshot(home, "predict", "earshot/music-adapter", "hiss.wav", "silence.wav", "--format", "jsonl")
    assert done.code == 0, done.err[-2000:]
    heard, silent = (json.loads(line) for line in done.out.splitlines())
    assert {heard["label"], silent["label"]} <= {*CLASSES}, (
        "neither is SPEECH, so the model is asked about silence too"
    )
    assert silent["warnings"].startswith("digital silence: the card was measured on no such clip")


def test_its_tables_are_reported_on_by_anyone(ran, home):
    table = published(home, "model", "music-adapter") / "predictions.parquet"
    own = pd.read_parquet(table).query("detector == 'mel_statistics' and split == 'test'")
    own.to_parquet(home.parent / "own.parquet", index=False)
    done = earshot(home, "report", "own.parquet", "--out", "own", "--classes", ",".join(CLASSES))
    assert done.code == 0, done.err[-2000:]
    assert "MUSIC groups" in done.out


def test_the_recipe_that_is_published_reads_back(ran, home):
    recipe = read_yaml(published(home, "model", "music-adapter") / "recipe.yaml")
    assert (recipe["classes"], recipe["answers"], recipe["else"]) == (CLASSES, ANSWERS, "study/smoke")
