"""study/corpus on the real recordings, cut down: same sources, same dealing, few clips and steps."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from tests.commands import earshot

CUT = {
    "dataset.splits.folds": 3, "dataset.clips.duration_ms": "[100, 1000]", "dataset.clips.snr_db": "[0, 20]",
    "dataset.clips.per_cell": 20, "train.pretrain.steps": 4, "train.pretrain.clips": 32, "train.training.max_steps": 4,
    "train.gate.accuracy": 0, "evaluate.n_boot": 500,
}  # fmt: skip

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(
        "EARSHOT_CORPUS" not in os.environ, reason="needs real recordings: set EARSHOT_CORPUS to their folder"
    ),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the cut-down study ran."""
    home = tmp_path_factory.mktemp("corpus") / "home"
    done = earshot(home, "run", "study/corpus", *(f"--set={key}={value}" for key, value in CUT.items()))
    assert done.code == 0, done.err[-3000:]
    return home


@pytest.fixture(scope="module")
def published(home: Path) -> Path:
    """The published adapter's folder."""
    (folder,) = (home / "hub" / "models--earshot--corpus-adapter" / "snapshots").iterdir()
    return folder


@pytest.fixture(scope="module")
def predictions(published: Path) -> pd.DataFrame:
    return pd.read_parquet(published / "predictions.parquet")


def test_every_clip_is_scored_once_and_out_of_fold(home, predictions):
    test = predictions[(predictions["split"] == "test") & (predictions["detector"] == "mel_statistics")]
    assert not test["clip_id"].duplicated().any()
    (data,) = (home / "hub" / "datasets--earshot--corpus-clips" / "snapshots").iterdir()
    part = pd.concat(
        pd.read_parquet(file, columns=["clip_id"]).assign(part=file.stem.split("-")[0])
        for file in sorted((data / "data").glob("*.parquet"))
    ).set_index("clip_id")["part"]
    assert set(test["clip_id"]) == set(part.index)
    assert (test["clip_id"].map(part) == "part" + test["fold"].astype(int).astype(str)).all(), "fold k tests part k"


def test_no_speaker_uploader_or_noise_stands_in_two_folds(predictions):
    test = predictions[(predictions["split"] == "test") & (predictions["detector"] == "mel_statistics")]
    ids = ["group_id", "supergroup_id", "noise_id", "base_clip_id"]
    assert {column: int(test.groupby(column)["fold"].nunique().max()) for column in ids} == dict.fromkeys(ids, 1)
    assert test.groupby("fold")["group_id"].nunique().min() > 20, "real recordings: many groups in every fold"


def test_the_report_compares_every_detector_on_the_same_clips_and_licences_are_kept(published):
    report = json.loads((published / "report.json").read_text())
    assert report["leakage"]["verdict"] == "clean"
    counts = {name: (its["n"]["clips"], its["n"]["groups"]) for name, its in report["detectors"].items()}
    assert set(counts) >= {"adapter", "base", "majority", "loudness", "mel_statistics"}
    assert len(set(counts.values())) == 1, counts


def test_verification_recomputes_it(home):
    done = earshot(home, "verify", "earshot/corpus-adapter")
    assert done.code == 0, done.out[-2000:]
