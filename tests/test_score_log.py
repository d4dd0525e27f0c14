"""What was scored before a kill is not asked again, and the table is the same to the bit."""

import contextlib
import json
import os
import signal

import numpy as np
import pytest
import torch

from tasks import child
from tasks.audio_files import encode_flac
from tasks.models import score_log, scoring
from tasks.models.jobs import ScoringJob
from tasks.models.score_log import ScoreLog, parsed, written
from tasks.models.scoring import Scorer, questions, recalled

PROMPTS = ("Choose one: A) SPEECH B) NONSPEECH.", "Is it A or B?")
MODEL = {"base": "b", "adapter": None}


def flacs(durations_ms=(200, 60, 200, 1000, 60, 200, 61, 200, 60)) -> list[bytes]:
    random = np.random.default_rng(5)
    return [encode_flac(random.uniform(-0.7, 0.7, round(16 * ms))) for ms in durations_ms]


@pytest.fixture(scope="module")
def asked(processor):
    return questions(processor, PROMPTS, ["A", "B"])


@pytest.fixture
def scorer(model, processor):
    return Scorer(model, processor, batch_size=2)


class Killed(Exception):
    """Stands for a kill between two batches."""


def killed_after(monkeypatch, batches: int) -> list[int]:
    """Let `forward` fail at that batch; how many rows each batch that was asked had."""
    rows, forward = [], scoring.forward

    def until(model, clips, *rest):
        if len(rows) == batches:
            raise Killed
        rows.append(len(clips))
        return forward(model, clips, *rest)

    monkeypatch.setattr(scoring, "forward", until)
    return rows


@pytest.mark.parametrize("batches", [1, 2, 4])
def test_a_killed_evaluation_goes_on_and_gives_the_same_bits(scorer, asked, home, monkeypatch, batches):
    clips = flacs()
    whole = scorer.score(clips, asked)
    with monkeypatch.context() as patch:
        killed_after(patch, batches)
        with pytest.raises(Killed):
            scorer.score(clips, asked, log=ScoreLog.of(MODEL, asked, "forward"))
    known = len(ScoreLog.of(MODEL, asked, "forward"))
    assert 0 <= known < len(clips)
    with monkeypatch.context() as patch:
        rows = killed_after(patch, 99)
        again = scorer.score(clips, asked, log=ScoreLog.of(MODEL, asked, "forward"))
    assert sum(rows) == len(clips) - known, "only what is missing is asked"
    for one, other in zip(whole, again, strict=True):
        assert one.p_first.tolist() == other.p_first.tolist()
        assert one.answer_mass.tolist() == other.answer_mass.tolist()
    with monkeypatch.context() as patch:
        rows = killed_after(patch, 0)
        third = scorer.score(clips, asked, log=ScoreLog.of(MODEL, asked, "forward"))
    assert rows == [], "a second time no model runs"
    assert third[0].p_first.tolist() == whole[0].p_first.tolist()


def test_a_batch_of_other_clips_is_asked_anew_where_batches_are_fixed(scorer, asked, home):
    """The last bit of an answer may depend on its batch: a table must not depend on what was scored before."""
    clips, log = flacs([200] * 4), ScoreLog.of(MODEL, asked[:1], "forward")
    scorer.score(clips, asked[:1], log=log)
    shifted = flacs([200] * 5)[1:]
    assert recalled(shifted, [9] * 4, scorer.sizes, log)[1] == [0, 1, 2, 3]
    known, left = recalled([*clips[:2], *shifted[2:]], [9] * 4, scorer.sizes, log)
    assert (known[0][0], left) == ([0, 1], [2, 3])


def test_where_memory_decides_on_batches_a_clip_counts_by_itself(scorer, asked, home):
    clips, log = flacs([200] * 4), ScoreLog.of(MODEL, asked[:1], "forward")
    scorer.score(clips, asked[:1], log=log)
    scorer.sizes.rows = None
    known, left = recalled([*clips[1:], *flacs([333])], [9] * 4, scorer.sizes, log)
    assert ([places for places, _ in known], left) == ([[0], [1], [2]], [3])


def test_another_model_prompt_method_or_clip_is_another_score(asked, home):
    names = {
        ScoreLog.of({**MODEL, **other}, questions, method).path.name
        for other in ({}, {"base": "c"}, {"adapter": "a"})
        for questions in (asked[:1], asked[1:], asked)
        for method in ("forward", "generate", "open")
    }
    assert len(names) == 27
    log = ScoreLog.of(MODEL, asked[:1], "forward")
    log.add([b"one"], [np.ones((1, 3), np.float32)])
    assert (log.clip(b"two"), log.batch([b"two"]), len(log)) == (None, None, 1)


@pytest.mark.parametrize("cut", [2, 40])
def test_a_line_that_a_kill_cut_short_counts_as_none_and_spoils_no_other(asked, home, cut):
    log = ScoreLog.of(MODEL, asked[:1], "forward")
    rows = [np.array([[0.1, 1e-30, -3.5]], np.float32)]
    for clip in (b"one", b"two"):
        log.add([clip], rows)
    os.truncate(log.path, log.path.stat().st_size - cut)
    left = ScoreLog.of(MODEL, asked[:1], "forward")
    assert len(left) == 1
    left.add([b"three"], rows)
    last = ScoreLog.of(MODEL, asked[:1], "forward")
    assert (len(last), last.clip(b"two")) == (2, None)
    assert last.clip(b"three")[0].tolist() == rows[0].tolist(), "to the bit"


def test_an_altered_line_counts_as_none(home):
    line = written(score_log.Line(("a",), [np.array([[0.25]], np.float32)])).strip()
    assert parsed(line).rows[0].tolist() == [[0.25]]
    assert parsed(line.replace(b"0.25", b"0.75")) is None
    assert parsed(b"") is parsed(b"junk") is parsed(line[:-1]) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_no_number_stops_the_run_and_is_not_kept(scorer, asked, home, monkeypatch, value):
    forward, batches = scoring.forward, []

    def broken(*given):
        batches.append(forward(*given))
        if len(batches) == 2:
            batches[-1][0][0, 0] = value
        return batches[-1]

    monkeypatch.setattr(scoring, "forward", broken)
    log = ScoreLog.of(MODEL, asked, "forward")
    with pytest.raises(ValueError, match=r"clip 9 of 9: the logits of its answers are not finite"):
        scorer.score(flacs(), asked, log=log)
    assert len(ScoreLog.of(MODEL, asked, "forward")) == 2, "what came before is kept"


def test_free_answers_are_kept_as_well(scorer, asked, processor, home):
    clips = flacs((200, 60))
    log = ScoreLog.of(MODEL, asked[:1], "open")
    first = sorted((places, rows[0].tolist()) for places, rows in scorer.scored(clips, asked[:1], "open", log))
    again = ScoreLog.of(MODEL, asked[:1], "open")
    assert (
        sorted((places, rows[0].tolist()) for places, rows in scorer.scored(clips, asked[:1], "open", again)) == first
    )
    assert len(first[0][1][0]) == scoring.OPEN_TOKENS


# --- a whole child -----------------------------------------------------------------------------------------------


HELD = """
import time
from pathlib import Path
from tasks.detectors import audio_llm
from tasks.models.score_log import ScoreLog

add, kept = ScoreLog.add, []

def hold(*given):
    add(*given)
    kept.append(given)
    if len(kept) == 5:
        print("held", flush=True)
        time.sleep(600)

ScoreLog.add = hold
Path({path!r}).write_text({job!r})
audio_llm.main({path!r})
"""


@pytest.mark.slow
def test_a_child_killed_in_the_middle_leaves_what_the_next_one_goes_on_from(tiny_base, home, tmp_path, monkeypatch):
    """kill -9 of the real child, and the table is that of a run that nobody disturbed."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tests.test_detectors import QUESTION

    file = tmp_path / "test.parquet"
    random = np.random.default_rng(1)
    rows = [
        {
            "clip_id": f"c{i}",
            "audio": {"bytes": encode_flac(random.uniform(-0.8, 0.8, 16 * (60 + i % 9 * 20))), "path": ""},
        }
        for i in range(200)
    ]
    pq.write_table(pa.Table.from_pylist(rows), file)

    def run(name: str, home_name: str, held: bool = False) -> tuple[list[str], pd.DataFrame | None]:
        monkeypatch.setenv("EARSHOT_HOME", str(tmp_path / home_name))
        output, said = tmp_path / name, []
        output.mkdir()
        job = score_job(tiny_base, file, output, QUESTION, Held if held else ScoringJob)
        module = "tests.child_program" if held else "tasks.detectors.audio_llm"
        with pytest.raises(ValueError, match="killed by SIGKILL") if held else contextlib.nullcontext():
            job.run(module, what="scoring", on_line=lambda line: [said.append(line), kill_held(line)], timeout_min=10)
        scores = output / "scores.parquet"
        return said, pd.read_parquet(scores) if scores.exists() else None

    _, undisturbed = run("calm", "calm")
    assert run("held", "killed", held=True)[1] is None, "it was killed before its end"
    said, resumed = run("resumed", "killed")
    assert any("of them kept from before" in line for line in said)
    pd.testing.assert_frame_equal(resumed, undisturbed, check_exact=True)


class Held(ScoringJob):
    """A job that waits for its kill behind the fifth batch it keeps."""

    def model_dump_json(self, **told) -> str:
        return HELD.format(path=f"{self.output}.held.json", job=super().model_dump_json(**told))


def kill_held(line: str) -> None:
    """kill -9 every child of this process, where one says that it waits for that."""
    if line == "held":
        for process in list(child._working):
            os.killpg(process.pid, signal.SIGKILL)


def score_job(base, clips, output, question, kind=ScoringJob):
    return kind(
        base=str(base), revision=None, quantization=None, question=question, device="cpu", output=str(output), adapter=None,
        clips={"test": (str(clips),)}, generate_on=("test",), batch_size=16, base_revision="b" * 40, code="c",
    )  # fmt: skip


@pytest.mark.slow
def test_a_gpu_that_stops_in_the_middle_is_a_sentence(tiny_base, home, tmp_path, monkeypatch, asked):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.detectors import audio_llm
    from tests.test_detectors import QUESTION

    file = tmp_path / "test.parquet"
    rows = [{"clip_id": f"c{i}", "audio": {"bytes": clip, "path": ""}} for i, clip in enumerate(flacs([60] * 20))]
    pq.write_table(pa.Table.from_pylist(rows), file)
    (tmp_path / "out").mkdir()
    job = score_job(tiny_base, file, tmp_path / "out", QUESTION)
    (tmp_path / "job.json").write_text(json.dumps(job.model_dump(mode="json")))
    monkeypatch.setattr(audio_llm, "check", lambda *given: {})
    forward, asked_rows = scoring.forward, []

    def stops(*given):
        if asked_rows:
            raise torch.AcceleratorError("CUDA error: an illegal memory access\nmore of it")
        asked_rows.append(1)
        return forward(*given)

    monkeypatch.setattr(scoring, "forward", stops)
    with pytest.raises(
        ValueError, match=r"the GPU stopped at test, forward \(CUDA error: an illegal memory access\); \d+ of "
    ):
        audio_llm.main(str(tmp_path / "job.json"))
