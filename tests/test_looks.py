"""Every distinct model, prompt and threshold on a test set is counted once, whatever happens to the process."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.hub import rehearsal
from tasks.looks import Look, looks_of, note_looks, read_ledger
from tasks.store import Predictions, Splits, draft


def table(p: float = 0.7, *, detector: str = "adapter", prompt: str | None = "A or B?", seed: int | None = 42):
    """Predictions of one detector: one dev and two test clips."""
    rows = [("c0", "dev"), ("c1", "test"), ("c2", "test")]
    frame = pd.DataFrame(rows, columns=["clip_id", "split"]).assign(p_speech=p, prediction="SPEECH", method="forward")
    frame = frame.assign(detector=detector, prompt=prompt, seed=pd.array([seed] * 3, dtype="Int64"))
    return frame.assign(protocol="group")


def predictions(frame: pd.DataFrame) -> Predictions:
    with draft(Predictions) as folder:
        frame.to_parquet(folder / "predictions.parquet", index=False)
        return Predictions.of(folder, detector=frame["detector"].iloc[0], rows=len(frame))


def splits(audio: str = "x") -> Splits:
    """Test clips c1 and c2 and a dev clip c0, with the hashes of their audio."""
    with draft(Splits) as folder:
        (folder / "data").mkdir()
        rows = {"clip_id": ["c0", "c1", "c2"], "pcm_hash": ["dev", f"{audio}1", f"{audio}2"]}
        pq.write_table(pa.table(rows), folder / "data" / "test.parquet")
        return Splits.of(folder, clips={}, groups={}, verdict="clean", folds=1)


def note(*frames: pd.DataFrame, on: Splits | None = None, threshold: str = "fixed"):
    return note_looks.fn([predictions(frame) for frame in frames], on or splits(), threshold)


def test_a_rerun_is_no_new_look(home):
    first, second = note(table()), note(table())
    assert (first.count, second) == (1, first)


def test_another_model_prompt_seed_or_threshold_is_a_new_look(home):
    changed = [table(), table(p=0.6), table(prompt="B or A?"), table(p=0.61, seed=43), table(0.2, detector="loudness")]
    assert [note(frame).count for frame in changed] == [1, 2, 3, 4, 5]
    assert note(table(), threshold="dev").count == 6
    assert note(table()).by_detector == {"adapter": 5, "loudness": 1}


def test_the_same_answers_under_another_name_of_the_same_audio_are_no_new_test_set(home):
    assert note(table()).count == 1
    assert note(table(), on=splits("other audio")).count == 1, "other clips are another test set"
    assert len(read_ledger()) == 2


def test_what_was_trained_under_random_folds_is_another_model(home):
    assert note(table(), table(p=0.9).assign(protocol="random")).count == 2


def test_a_rehearsal_counts_and_leaves_the_home_as_it_was(home):
    with rehearsal():
        planned = note(table())
    assert not (home / "looks.jsonl").exists()
    assert (note(table()), planned.count) == (planned, 1)
    before = (home / "looks.jsonl").read_bytes()
    (home / "looks.jsonl").write_bytes(before + b'{"half')
    with rehearsal():
        assert note(table(p=0.1)).count == 2
    assert (home / "looks.jsonl").read_bytes() == before + b'{"half'


def test_dev_scores_are_no_look(home):
    only_dev = table().query("split == 'dev'")
    with pytest.raises(ValueError, match="none of the 1 rows is a test row"):
        looks_of(only_dev, "test", "fixed")
    other_dev = table()
    other_dev.loc[0, "p_speech"] = 0.1
    note(table())
    assert note(other_dev).count == 1


def test_folds_of_one_model_are_one_look(home):
    whole = table()
    parts = [whole[whole["clip_id"] != "c2"].assign(fold=0), whole[whole["clip_id"] != "c1"].assign(fold=1)]
    assert note(*parts).count == 1


def test_a_line_cut_short_by_a_kill_is_entered_again(home):
    before = note(table())
    ledger = home / "looks.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-7])
    assert note(table()) == before
    assert len(read_ledger()) == 1


def test_a_ledger_that_was_tampered_with_is_refused(home):
    note(table())
    ledger = home / "looks.jsonl"
    ledger.write_text("no look\n" + ledger.read_text())
    with pytest.raises(ValueError, match=r"looks.jsonl holds a line that is no look"):
        note(table())


def test_the_ledger_is_only_added_to(home):
    note(table())
    before = (home / "looks.jsonl").read_bytes()
    note(table(p=0.1))
    assert (home / "looks.jsonl").read_bytes().startswith(before)
    assert all(isinstance(look, Look) for look in read_ledger())


def test_a_study_counts_its_looks_once_and_a_plan_of_it_enters_none(smoke, rerun, monkeypatch):
    from flows.plan_study import plan_study

    assert (smoke.first.code, rerun.code) == (0, 0), smoke.first.err[-3000:]
    (file,) = smoke.home.glob("store/report/*/report.json")
    looks = json.loads(file.read_text())["looks"]
    assert looks["by_detector"].keys() == json.loads(file.read_text())["detectors"].keys()
    assert looks["count"] == sum(looks["by_detector"].values())
    assert "not tamper-proof" in looks["ledger"]
    ledger = (smoke.home / "looks.jsonl").read_bytes()
    assert ledger.count(b"\n") == looks["count"]
    monkeypatch.setenv("EARSHOT_HOME", str(smoke.home))
    assert any(line.split() == ["report", "1", "of", "1", "cached"] for line in plan_study("study/smoke"))
    assert (smoke.home / "looks.jsonl").read_bytes() == ledger
