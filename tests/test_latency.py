"""What one clip takes, in a batch of its own and warm, is told stage by stage and stands beside what it is worth."""

import numpy as np
import pytest

from tasks.audio_files import encode_flac
from tasks.functional.timing import latency_of, timing_of
from tasks.models import latency
from tasks.models.scoring import Scorer, answers_of, questions

PROMPT = "Choose one: A) SPEECH B) NONSPEECH."


def test_every_stage_is_timed_one_clip_at_a_time_after_a_warm_up(model, processor, monkeypatch):
    (question,) = questions(processor, [PROMPT], ["A", "B"])
    random = np.random.default_rng(1)
    clips = [encode_flac(random.uniform(-0.7, 0.7, 16 * ms)) for ms in (200, 60, 25)]
    said = []

    def seen(narrow, question):
        said.append(answers_of(narrow, question))
        return said[-1]

    monkeypatch.setattr(latency, "answers_of", seen)
    found = latency.measure(model, processor, question, clips)
    assert (found["clips"], found["device"]) == (3, "cpu")
    assert list(found["ms"]) == [*latency.STAGES, "all"]
    assert all(0 < ms["p05"] <= ms["median"] <= ms["p95"] for ms in found["ms"].values())
    assert len(said) == latency.WARM + 3
    assert {len(answers.p_first) for answers in said} == {1}
    timed = sorted(float(answers.p_first[0]) for answers in said[latency.WARM :])
    np.testing.assert_allclose(
        timed, sorted(Scorer(model, processor).score(clips, [question])[0].p_first), atol=1e-5,
        err_msg="what is timed is the way that scores",
    )  # fmt: skip


def test_the_whole_is_that_of_the_sums_and_not_a_sum_of_quantiles():
    found = latency_of({"loading": [1.0, 9.0], "detector": [9.0, 1.0]}, "cpu")
    assert found["ms"]["all"] == {"p05": 10.0, "median": 10.0, "p95": 10.0}
    assert timing_of(found) == (2, 10.0, 10.0, 10.0)
    assert found["ms"]["loading"]["median"] == pytest.approx(5)
