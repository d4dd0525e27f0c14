"""What a person reviewed holds for the audio that was heard, and new answers are held against those of one adapter."""

import json
import os

import numpy as np
import pandas as pd
import pytest

from tasks import answers
from tasks.audio_inputs import Input
from tasks.models.frames import POOLED
from tasks.models.jobs import BaseAt, Question, ScoringJob
from tasks.published_adapters import Published, threshold_of
from tasks.reviews import drift_of, find_new_files, keep_answers

CLASSES = ("SPEECH", "NONSPEECH")


@pytest.fixture
def adapter(tmp_path):
    """A published adapter's folder as far as drift reads it: every fold and seed and another protocol answer as they do."""
    rows = [
        {"detector": "adapter", "split": "test", "method": "forward", "fold": fold, "seed": seed, "protocol": protocol,
         "p_speech": (0.7 if (fold, seed, protocol) == (0, 42, "group") else 0.1) + 0.001 * i}
        for fold in (0, 1) for seed in (42, 43) for protocol in ("group", "random") for i in range(50)
    ]  # fmt: skip
    folder = tmp_path / "adapter"
    folder.mkdir()
    table = pd.DataFrame([*rows, {**rows[0], "detector": "loudness", "seed": None}])
    table.astype({"seed": "Int64"}).to_parquet(folder / "predictions.parquet")
    report = {"detector": "adapter", "seed": 42, "protocol": "group",
              "threshold": {"value": None, "by_fold": {"1": 0.9, "0": 0.72}}}  # fmt: skip
    (folder / "report.json").write_text(json.dumps(report))
    return str(folder)


def told(*paths: str) -> pd.DataFrame:
    """Unsure answers."""
    rows = [
        {"path": path, "label": "SPEECH", "p_speech": 0.6, "p_raw": 0.6, "warnings": "", "error": None}
        for path in paths
    ]
    return pd.DataFrame(rows).astype({"error": object})


@pytest.fixture
def audio(tmp_path):
    folder = tmp_path / "audio"
    folder.mkdir()
    for name in ("a.wav", "b.wav"):
        (folder / name).write_bytes(b"RIFF0000")
    return folder


def reviewed(audio, out, adapter) -> None:
    """Both files answered, and reviewed as NONSPEECH."""
    new = find_new_files.fn(str(audio), str(out), adapter)
    keep_answers.fn(told(*new), new, str(out), adapter, 0.65)
    table = pd.read_parquet(out / "review.parquet")
    table.assign(status="reviewed", label="NONSPEECH").to_parquet(out / "review.parquet")


def test_a_label_is_reviewed_no_longer_once_the_audio_is_another(audio, adapter, tmp_path):
    out = tmp_path / "out"
    reviewed(audio, out, adapter)
    (audio / "a.wav").write_bytes(b"RIFF0000 and more")
    for _ in range(2):  # the second time as after a kill before the answers were written
        new = find_new_files.fn(str(audio), str(out), adapter)
        before = (out / "predictions.parquet").read_bytes()
        counts = keep_answers.fn(told(*new), new, str(out), adapter, 0.65)
        assert list(new) == ["a.wav"]
        assert counts["to_review"] == 1
        (out / "predictions.parquet").write_bytes(before)
        table = pd.read_parquet(out / "review.parquet").set_index("file")
        assert table["status"].to_dict() == {"a.wav": "changed", "b.wav": "reviewed"}
        assert table["label"].tolist() == ["NONSPEECH"] * 2, "what was heard is not lost"
    table.assign(status="reviewed").reset_index().to_parquet(out / "review.parquet")
    keep_answers.fn(told(*new), new, str(out), adapter, 0.65)
    assert (pd.read_parquet(out / "review.parquet")["status"] == "reviewed").all(), (
        "and is again once it is heard again"
    )


def test_another_adapter_asks_again_and_leaves_what_was_reviewed(audio, adapter, tmp_path):
    out = tmp_path / "out"
    reviewed(audio, out, adapter)
    other = os.path.join(adapter, ".")
    new = find_new_files.fn(str(audio), str(out), other)
    assert list(new) == ["a.wav", "b.wav"]
    assert keep_answers.fn(told(*new), new, str(out), other, 0.65)["to_review"] == 0
    assert (pd.read_parquet(out / "review.parquet")["status"] == "reviewed").all()


def test_reviews_of_unknown_audio_are_a_sentence(audio, adapter, tmp_path):
    out = tmp_path / "out"
    reviewed(audio, out, adapter)
    pd.read_parquet(out / "review.parquet").drop(columns="state").to_parquet(out / "review.parquet")
    with pytest.raises(ValueError, match=r"review.parquet has no column 'state'"):
        keep_answers.fn(told("a.wav"), {"a.wav": "1-1"}, str(out), adapter, 0.65)


def test_a_file_that_goes_while_it_is_asked_costs_no_answer_and_one_that_changes_is_new_again(
    audio, adapter, tmp_path
):
    out = tmp_path / "out"
    new = find_new_files.fn(str(audio), str(out), adapter)
    (audio / "a.wav").unlink()
    (audio / "b.wav").write_bytes(b"RIFF0000 and more")
    assert keep_answers.fn(told(*new), new, str(out), adapter, 0.65)["new"] == 2
    assert list(find_new_files.fn(str(audio), str(out), adapter)) == ["b.wav"]


def test_drift_is_that_from_the_published_adapter_and_its_threshold(adapter):
    moved = drift_of(pd.DataFrame({"p_raw": 0.7 + 0.001 * np.arange(50)}), adapter)
    assert (moved.clips_of_card, moved.distance, moved.flagged) == (50, 0, False)
    assert moved.share_first == moved.share_first_of_card == pytest.approx(0.6, abs=0.021), "decided at fold 0's .72"


def test_the_threshold_is_that_of_the_first_fold():
    assert threshold_of({"threshold": {"value": None, "by_fold": {"1": 0.9, "0": 0.72}}}) == 0.72
    assert threshold_of({"threshold": {"value": 0.3, "by_fold": {}}}) == 0.3
    assert threshold_of({"threshold": {"value": None, "by_fold": {}}}) == 0.5


def test_windows_of_a_file_that_fails_later_on_are_not_asked(tmp_path, monkeypatch):
    def cut(file, window, hop):
        yield 0, np.full(1600, 0.5, np.float32)
        if file.name == "bad.wav":
            raise ValueError(f"{file}: is truncated")

    question = Question(classes=CLASSES, answers=("A", "B"), prompt="?", longest_ms=1000)
    published = Published(
        "me/it", tmp_path, ("me/base", "0" * 40), question, None, 0.5, None, None, None, "peak", POOLED
    )
    asked_for = []

    def run(self, module, **told):
        asked_for.append(self.only)
        table = pd.DataFrame({"clip_id": self.only, "p_speech": 0.7})
        table.to_parquet(tmp_path / "out" / "scores.parquet")

    monkeypatch.setattr(answers, "cut", cut)
    monkeypatch.setattr(answers, "warnings_of", lambda *told: ())
    monkeypatch.setattr(answers, "base_of", lambda *told: BaseAt("x", None, "me/base", "0" * 40))
    monkeypatch.setattr(ScoringJob, "run", run)
    inputs = [Input(tmp_path / name, name) for name in ("bad.wav", "good.wav")]
    asked = answers.write_clips(inputs, published, 1600, 800, tmp_path / "clips.parquet")
    assert answers.ask(published, asked, tmp_path, None, "cpu", lambda line: None) == {"1": 0.7}
    assert asked_for == [("1",)]
