"""Published clips asked again: on this machine's device, of the base that is at hand, and told from what was published."""

import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from tasks import verification
from tasks.models.base_content import model_sha
from tasks.models.jobs import ScoringJob
from tasks.rescoring import apart, rescore
from tasks.store import read_json, write_json
from tasks.verification import verify_repo, verify_scores
from tests.test_verification import adapter, base, command, data, published

__all__ = ["adapter", "base", "data", "published"]  # fixtures


def test_only_an_adapter_is_scored_again(data):
    with pytest.raises(ValueError, match="is no adapter: there is nothing to score again"):
        list(verify_repo(str(data), rescore=4))


def test_a_base_without_clips_to_ask_is_a_mistake(data):
    with pytest.raises(ValueError, match="give --rescore N with it"):
        list(verify_repo(str(data), base="somewhere"))


def test_a_machine_that_cannot_score_is_no_difference_and_what_was_compared_is_said(adapter, monkeypatch, capsys):
    def without_base(folder, n, base):
        raise FileNotFoundError("the base is not here: give a folder that holds it with --base")

    monkeypatch.setattr(verification, "rescore", without_base)
    monkeypatch.setitem(verification.KINDS, "report.json", lambda folder: iter(()))
    assert command(monkeypatch, "verify", str(adapter), "--rescore", "4") == 2
    said = capsys.readouterr()
    assert "give a folder that holds it with --base" in said.err
    assert "equal     files: " in said.out
    assert "differs" not in said.out
    (adapter / "training.json").write_text("{}", encoding="utf-8")
    assert command(monkeypatch, "verify", str(adapter), "--rescore", "4") == 1, "what was altered is told all the same"


def alter(file, change) -> None:
    content = read_json(file)
    change(content)
    write_json(file, content)


def published_from(adapter, device: str) -> None:
    """Let report and recipe say that it was trained and scored on that device."""
    alter(adapter / "report.json", lambda report: report["provenance"].update(device=device))
    recipe = yaml.safe_load((adapter / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["train"]["device"] = device
    (adapter / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


def answering(table: pd.DataFrame, moved: float, device: str = "cpu"):
    """A child that answers as published but for `moved`, and the jobs it was given."""
    jobs = []

    def run(self, module, *, on_line, **told):
        jobs.append(self)
        asked = pq.read_table(self.clips["test"][0], columns=["clip_id"]).to_pandas()
        ours = table[(table["detector"] == "adapter") & (table["method"] == "generate") & (table["seed"] == 42)]
        scores = asked.merge(ours[["clip_id", "p_speech", "prediction"]], on="clip_id").assign(method="generate")
        scores["p_speech"] = (scores["p_speech"] - moved).abs()
        scores.to_parquet(Path(self.output, "scores.parquet"), index=False)
        write_json(Path(self.output, "timing.json"), {"device": device, "rounded": device == "cuda", "latency": {}})
        on_line("test, generate: 4/4 clips in 0.1 s")
        on_line("a warning of some library")

    return run, jobs


@pytest.mark.parametrize(
    ("source", "here", "asked_for", "allowed", "said"),
    [
        ("cpu", "cpu", "cpu", 1e-4, "on cpu"),
        ("cuda", "cpu", "auto", 0.15, "on cpu, published from cuda, which rounds otherwise"),
        ("cuda", "cuda", "auto", 0.15, "on cuda"),
    ],
)
def test_what_came_from_a_gpu_is_asked_again_without_one_and_may_move_as_far_as_rounding_moves_it(
    smoke, adapter, monkeypatch, capsys, source, here, asked_for, allowed, said
):
    monkeypatch.setenv("EARSHOT_HOME", str(smoke.home))
    published_from(adapter, source)
    table = pd.read_parquet(adapter / "predictions.parquet")
    for moved in (0.9 * allowed, 1.1 * allowed):
        run, jobs = answering(table, moved, here)
        monkeypatch.setattr(ScoringJob, "run", run)
        (found,) = verify_scores(adapter, 4, None)
        assert [job.device for job in jobs] == [asked_for]
        assert found.verdict == ("equal" if moved < allowed else "differs")
        assert f"4 clips scored again {said}; P moved by at most {moved:.2g} (allowed {allowed:g})" in found.what
    assert capsys.readouterr().err == "scoring again, generate: 4/4 clips in 0.1 s\n" * 2


def test_a_base_is_taken_where_it_is_said_to_be_and_one_named_by_its_content_must_have_it(
    smoke, base, adapter, monkeypatch
):
    monkeypatch.setenv("EARSHOT_HOME", str(smoke.home))
    run, jobs = answering(pd.read_parquet(adapter / "predictions.parquet"), 0)
    monkeypatch.setattr(ScoringJob, "run", run)
    assert rescore(adapter, 2, str(base)).how == f"on cpu, with the base in {base}"
    assert jobs[-1].base == str(base)
    named = {"base_model_name_or_path": base.name, "revision": model_sha(base)}
    alter(adapter / "adapter_config.json", lambda config: config.update(named))
    with pytest.raises(FileNotFoundError, match=rf"{base.name}@.* which is not here: .*--base"):
        rescore(adapter, 2)
    assert rescore(adapter, 2, str(base)).clips == 2
    (base / "base.json").write_text("{}", encoding="utf-8")
    assert rescore(adapter, 2, str(base)).clips == 2, "no loader reads it"
    alter(base / "generation_config.json", lambda config: config.update(temperature=2.0))
    with pytest.raises(ValueError, match=f"and this is an adapter of {base.name}@{named['revision']}: give "):
        rescore(adapter, 2, str(base))
    with pytest.raises(FileNotFoundError, match=r"^--base: .*elsewhere is no folder\. "):
        rescore(adapter, 2, str(base / "elsewhere"))


def answers(**columns: list) -> pd.DataFrame:
    """Four answers, two of them within .15 of the threshold."""
    of = {"p_speech": [0.9, 0.53, 0.46, 0.1], "prediction": ["SPEECH", "SPEECH", "NONSPEECH", "NONSPEECH"]}
    return pd.DataFrame({"clip_id": list("abcd"), "fold": 0, **of, **columns})


@pytest.mark.parametrize(
    ("again", "flips", "false_flips", "equal"),
    [
        (answers(), 0, 0, True),
        (
            answers(p_speech=[0.9, 0.49, 0.51, 0.1], prediction=["SPEECH", "NONSPEECH", "SPEECH", "NONSPEECH"]),
            2,
            0,
            True,
        ),
        (answers(prediction=["NONSPEECH", "SPEECH", "NONSPEECH", "SPEECH"]), 2, 2, False),
        (answers(prediction=[None, "SPEECH", "NONSPEECH", "NONSPEECH"]), 1, 1, False),
        (answers(p_speech=[float("nan"), 0.53, 0.46, 0.1]), 0, 1, False),
        (answers(p_speech=[0.7, 0.53, 0.46, 0.1]), 0, 0, False),
        (answers().iloc[1:], 0, 0, False),
        (answers().iloc[:0], 0, 0, False),
    ],
    ids=["as published", "rounded", "swapped", "unanswered", "no P", "moved", "one missing", "all missing"],
)
def test_another_answer_counts_unless_rounding_explains_it(again, flips, false_flips, equal):
    found = apart(answers(), again, 0.15, "on cpu")
    assert (found.flips, found.false_flips, found.equal) == (flips, false_flips, equal)
    mirrored = apart(again, answers(), 0.15, "on cpu")
    assert len(again) < 4 or (mirrored.flips, mirrored.equal) == (flips, equal), "whichever side was altered"


def test_unanswered_on_both_sides_is_the_same_answer_and_another_answer_without_a_p_is_not():
    nothing = answers(p_speech=[float("nan")] * 4, prediction=[None] * 4)
    assert apart(nothing, nothing, 0.15, "on cpu").equal
    said = nothing.assign(prediction=["SPEECH", None, None, None])
    assert apart(said, nothing, 0.15, "on cpu").false_flips == 1


def test_published_predictions_rewritten_beside_an_honest_p_are_found(smoke, adapter, monkeypatch):
    monkeypatch.setenv("EARSHOT_HOME", str(smoke.home))
    honest = pd.read_parquet(adapter / "predictions.parquet")
    honest["p_speech"] = honest["label"].map({"SPEECH": 0.9, "NONSPEECH": 0.1})
    honest["prediction"] = honest["label"]
    monkeypatch.setattr(ScoringJob, "run", answering(honest, 0)[0])
    other = honest["label"].map({"SPEECH": "NONSPEECH", "NONSPEECH": "SPEECH"})
    for said, verdict in ((honest["label"], "equal"), (other, "differs")):
        honest.assign(prediction=said).to_parquet(adapter / "predictions.parquet", index=False)
        (found,) = verify_scores(adapter, 4, None)
        assert found.verdict == verdict
    assert found.what.endswith("4 other answers; 4 clips are not as rounding could leave them")


def test_a_clip_that_was_not_answered_again_is_missed(smoke, adapter, monkeypatch):
    monkeypatch.setenv("EARSHOT_HOME", str(smoke.home))
    table = pd.read_parquet(adapter / "predictions.parquet")
    run, _ = answering(table, 0)

    def losing(self, module, **told):
        run(self, module, **told)
        file = Path(self.output, "scores.parquet")
        pd.read_parquet(file).iloc[1:].to_parquet(file, index=False)

    monkeypatch.setattr(ScoringJob, "run", losing)
    (found,) = verify_scores(adapter, 4, None)
    assert found.verdict == "differs"
    assert "only 3 of 4 clips scored again" in found.what


@pytest.mark.slow
def test_clips_scored_again_are_as_published_and_a_p_that_is_not_is_found(smoke, adapter, monkeypatch, capsys):
    monkeypatch.setenv("EARSHOT_HOME", str(smoke.home))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = rescore(adapter, 6)
    assert (done.asked, done.clips, done.flips, done.false_flips, done.tolerance) == (6, 6, 0, 0, 1e-4)
    assert done.farthest <= 1e-6, "the same machine"
    published_from(adapter, "cuda")
    table = pd.read_parquet(adapter / "predictions.parquet")
    table["p_speech"] = 1 - table["p_speech"]
    table.to_parquet(adapter / "predictions.parquet", index=False)
    assert command(monkeypatch, "verify", str(adapter), "--rescore", "4") == 1
    said = capsys.readouterr()
    assert re.search(
        r"^differs .*: 4 clips scored again on cpu, published from cuda.*; P moved by", said.out, re.MULTILINE
    )
    assert "scoring again, generate: 4/4 clips" in said.err
