"""On a GPU: batches grow by themselves, memory that runs out loses nothing, and the cache gives back every bit."""

import numpy as np
import pytest
import torch

from tasks.audio_files import encode_flac
from tasks.models import encoding, family, latency, tiny
from tasks.models.batches import FIRST_TOKENS
from tasks.models.encoding import kept_encodings
from tasks.models.listening import check
from tasks.models.score_log import ScoreLog
from tasks.models.scoring import Scorer, questions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
PROMPT = "Choose one: A) SPEECH B) NONSPEECH."


@pytest.fixture(scope="module")
def model(processor):
    return family.prepare(tiny.make_model(processor, seed=3)).to("cuda", torch.bfloat16).eval()


@pytest.fixture(scope="module")
def exact(processor):
    return family.prepare(tiny.make_model(processor, seed=3)).to("cuda").eval()


@pytest.fixture(scope="module")
def asked(processor):
    return questions(processor, [PROMPT, "Is it A or B?"], ["A", "B"])


def flacs(durations_ms) -> list[bytes]:
    random = np.random.default_rng(5)
    return [encode_flac(random.uniform(-0.7, 0.7, round(16 * ms))) for ms in durations_ms]


def test_batches_grow_and_answers_stay_beside_their_clips(exact, processor, asked):
    clips = flacs([60, 200, 25, 61] * 300)
    scorer = Scorer(exact, processor)
    grown = scorer.score(clips, asked)
    assert scorer.sizes.tokens > FIRST_TOKENS
    assert 0 <= scorer.clock.waiting_share() < 1
    for rows in (1, 7):
        few = Scorer(exact, processor, batch_size=rows).score(clips[:24], asked)
        for one, other in zip(few, grown, strict=True):
            np.testing.assert_allclose(one.p_first, other.p_first[:24], atol=1e-5, rtol=0)
    (said,) = Scorer(exact, processor).score(clips, asked[:1], "generate")
    np.testing.assert_allclose(said.p_first, grown[0].p_first, atol=1e-5, rtol=0)


def test_on_a_gpu_answers_are_those_of_a_cpu(exact, processor, asked):
    clips = flacs([25, 60, 200, 1000])
    on_cpu = family.prepare(tiny.make_model(processor, seed=3)).eval()
    for here, there in zip(*(Scorer(model, processor).score(clips, asked) for model in (exact, on_cpu)), strict=True):
        np.testing.assert_allclose(here.p_first, there.p_first, atol=1e-4, rtol=0)


def test_what_the_cache_gives_back_in_bf16_answers_to_the_bit(model, processor, asked, home, monkeypatch):
    clips = flacs([60, 200, 25, 61] * 100)
    without = Scorer(model, processor).score(clips, asked)
    first = Scorer(model, processor, kept_encodings(model, processor)).score(clips, asked)
    monkeypatch.setattr(family, "encode", None)
    second = Scorer(model, processor, kept_encodings(model, processor)).score(clips, asked)
    for one, two, three in zip(without, first, second, strict=True):
        assert one.p_first.tolist() == two.p_first.tolist() == three.p_first.tolist()
    some = next(iter(kept_encodings(model, processor)._shard_of))
    assert kept_encodings(model, processor).get(some).dtype == torch.bfloat16


def test_memory_that_runs_out_in_the_middle_loses_no_clip(exact, processor, asked, monkeypatch):
    """The device's own refusal, not a made-up one."""
    clips = flacs([200] * 400)
    whole = Scorer(exact, processor).score(clips, asked)
    encode = family.encode

    def greedy(model, features, mask):
        if len(mask) > 20:
            torch.empty(2**50, device="cuda", dtype=torch.int8)
        return encode(model, features, mask)

    monkeypatch.setattr(encoding.family, "encode", greedy)
    scorer = Scorer(exact, processor)
    for one, other in zip(scorer.score(clips, asked), whole, strict=True):
        np.testing.assert_allclose(one.p_first, other.p_first, atol=1e-5, rtol=0)
    assert scorer.sizes.tokens < FIRST_TOKENS


def test_it_listens_in_both_precisions(model, exact, processor, asked):
    clips = flacs([60, 200, 25, 61, 1000])
    for its in (model, exact):
        found = check(Scorer(its, processor), processor, asked[0], PROMPT, clips)
        assert found["silence"]["largest_change_of_log_odds"] > 0.01


def test_one_clip_alone_is_timed_by_events_of_the_gpu(model, processor, asked):
    found = latency.measure(model, processor, asked[0], flacs([60, 200, 1000] * 4))
    assert found["device"] == torch.cuda.get_device_name()
    assert all(0 < ms["p05"] <= ms["median"] <= ms["p95"] for ms in found["ms"].values())


def test_what_a_killed_evaluation_has_asked_is_not_asked_again(model, processor, asked, home):
    clips = flacs([60, 200, 25, 61] * 100)
    log = ScoreLog.of({"model": "m"}, asked, "forward")
    some = Scorer(model, processor).score(clips[:150], asked, log=log)
    scorer = Scorer(model, processor)
    whole = scorer.score(clips, asked, log=ScoreLog.of({"model": "m"}, asked, "forward"))
    for one, other in zip(whole, some, strict=True):
        assert one.p_first[:150].tolist() == other.p_first.tolist()
    assert len(ScoreLog.of({"model": "m"}, asked, "forward")) == len(clips)
