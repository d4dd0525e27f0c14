"""P over the answers is transformers' own padded one, whatever the batches, prompts, cache and memory."""

import copy
import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2AudioForConditionalGeneration

from tasks.audio_files import decode_flac, encode_flac, samples_of
from tasks.functional.decoding import answer_scores
from tasks.models import encoding, family, scoring
from tasks.models.devices import alike_on_every_cpu
from tasks.models.encoding import Encoder, kept_encodings
from tasks.models.frames import POOLED
from tasks.models.scope import lora_config, trainable_by_part
from tasks.models.scoring import Question, Scorer, answers_of, forward, generate, narrowed, questions
from tests.bench.bench_score_gpu import make_model
from tests.test_qwen2_audio import NF4, padded_logits, with_lora

PROMPTS = ("Choose one: A) SPEECH B) NONSPEECH.", "Choose one: B) NONSPEECH A) SPEECH.", "Is it A or B?")
DURATIONS_MS = (200, 25, 1000, 60, 200, 61, 333.4, 47)
ONE_TOKEN_MS = (25, 40, 60)


def flacs(durations_ms, seed=5) -> list[bytes]:
    random = np.random.default_rng(seed)
    return [encode_flac(random.uniform(-0.7, 0.7, round(16 * ms))) for ms in durations_ms]


@pytest.fixture(scope="module")
def asked(processor):
    return questions(processor, PROMPTS, ["A", "B"])


@pytest.fixture(scope="module")
def expected(tiny_base, processor, asked):
    """What the padded model says of clips of these lengths in one batch of the processor's own; asked once each."""
    padded = Qwen2AudioForConditionalGeneration.from_pretrained(tiny_base, dtype=torch.float32).eval()

    @functools.cache
    def scores(durations_ms, place):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.test_qwen2_audio.QUESTION", PROMPTS[place])
            logits = padded_logits(padded, processor, [decode_flac(clip) for clip in flacs(durations_ms)])
        return answer_scores(logits.numpy(), asked[place].ids)

    return scores


# --- exact -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["forward", "generate"])
@pytest.mark.parametrize("durations_ms", [DURATIONS_MS, ONE_TOKEN_MS, (30,)], ids=["mixed", "one token", "one clip"])
def test_p_is_that_of_the_padded_model(expected, model, processor, asked, durations_ms, method):
    clips = flacs(durations_ms)
    reference = expected(durations_ms, 0)
    (found,) = Scorer(model, processor).score(clips, asked[:1], method)
    np.testing.assert_allclose(found.p_first, reference.p_first, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found.answer_mass, reference.answer_mass, atol=1e-5, rtol=0)
    assert len(clips) == 1 or np.ptp(found.p_first) > 1e-3


@pytest.mark.parametrize("method", ["forward", "generate"])
def test_several_prompts_at_once_are_each_answered_as_by_the_padded_model(expected, model, processor, asked, method):
    together = Scorer(model, processor).score(flacs(ONE_TOKEN_MS), asked, method)
    assert len({len(question.prompt.after) for question in asked}) > 1
    for place, found in enumerate(together):
        reference = expected(ONE_TOKEN_MS, place)
        np.testing.assert_allclose(found.p_first, reference.p_first, atol=1e-5, rtol=0)
    assert np.abs(together[0].p_first - together[1].p_first).max() > 1e-3


def test_one_more_prompt_goes_through_its_own_tokens_only(model, processor, asked, monkeypatch):
    """The audio and what stands before it have been gone through once for all prompts."""
    gone = []
    advance = scoring.decoder.advance
    monkeypatch.setattr(
        scoring.decoder,
        "advance",
        lambda text, embeddings, *past, **keep: (
            gone.append(tuple(embeddings.shape[:2])) or advance(text, embeddings, *past, **keep)
        ),
    )
    Scorer(model, processor).score(flacs([1000] * 3), asked)
    before, afters = len(asked[0].prompt.before), [question.prompt.after for question in asked]
    common = next(k for k, ids in enumerate(zip(*afters, strict=False)) if len({*ids}) > 1)
    assert gone == [(before, 1), (25 + common, 3), *((len(after) - common, 3) for after in afters)]


def test_one_prompt_may_be_asked_for_several_answers_at_once(model, processor):
    """All of a text is then common to both, and its last token is gone through by each."""
    clips = flacs(DURATIONS_MS[:3])
    both = [questions(processor, [PROMPTS[0]], answers)[0] for answers in (["A", "B"], ["B", "A"], ["B", "C"])]
    found = Scorer(model, processor).score(clips, both)
    np.testing.assert_allclose(found[1].p_first, 1 - found[0].p_first, atol=1e-6)
    for question, answers in zip(both, found, strict=True):
        np.testing.assert_allclose(
            answers.p_first, Scorer(model, processor).score(clips, [question])[0].p_first, atol=1e-5
        )


def test_prompts_that_differ_before_the_audio_share_nothing_and_are_right(model, processor, asked):
    clips = flacs((200, 60))
    other = asked[1]._replace(prompt=asked[1].prompt._replace(before=asked[1].prompt.before[::-1]))
    mixed = Scorer(model, processor).score(clips, [asked[0], other, asked[2]])
    for question, found in zip([asked[0], other, asked[2]], mixed, strict=True):
        (alone,) = Scorer(model, processor).score(clips, [question])
        np.testing.assert_allclose(found.p_first, alone.p_first, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prompts", [slice(0, 1), slice(None)], ids=["one prompt", "all"])
def test_with_adapters_and_in_four_bits_it_is_still_the_plain_path(tiny_base, processor, asked, prompts):
    loaded = family.load(tiny_base, revision=None, quantization=NF4, dtype=torch.float32, device="cpu")
    quantised = with_lora(alike_on_every_cpu(loaded), "language_model+encoder")
    clips = flacs(DURATIONS_MS)
    found = Scorer(quantised, processor).score(clips, asked[prompts])
    for question, answers in zip(asked[prompts], found, strict=True):
        batch = family.collate(
            family.extract(processor, map(decode_flac, clips)), question.prompt, [[]] * len(clips), 0
        )
        with torch.inference_mode():
            plain = answer_scores(family.last_logits(quantised, batch).numpy(), question.ids)
        np.testing.assert_allclose(answers.p_first, plain.p_first, atol=1e-4, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(1, 4), st.integers(0, 10_000))
def test_narrowed_logits_give_the_scores_of_the_whole_vocabulary(vocabulary, n, seed):
    random = np.random.default_rng(seed)
    logits = (10 * random.standard_normal((n, vocabulary))).astype(np.float32)
    first, *rest = random.permutation(vocabulary)[: random.integers(2, min(5, vocabulary + 1))].tolist()
    question = Question(family.Prompt([], [], 0, 0), {"A": [first], "B": rest})
    found = answers_of(narrowed(torch.from_numpy(logits), question.allowed).numpy(), question)
    whole = answer_scores(logits, question.ids)
    np.testing.assert_allclose(found.p_first, whole.p_first, atol=1e-6)
    np.testing.assert_allclose(found.answer_mass, whole.answer_mass, atol=1e-6)
    allowed = question.allowed
    likeliest = np.array(allowed)[logits[:, allowed].argmax(1)]
    assert found.said_first.tolist() == (likeliest == first).tolist()


# --- batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["forward", "generate"])
def test_answers_stand_beside_their_clips_whatever_the_batches(model, processor, asked, method):
    clips = flacs(DURATIONS_MS * 2)
    whole = Scorer(model, processor).score(clips, asked[:1], method)[0].p_first
    for rows in (1, 2, 5):
        found = Scorer(model, processor, batch_size=rows).score(clips, asked[:1], method)[0].p_first
        np.testing.assert_allclose(found, whole, atol=1e-5, rtol=0)
    np.testing.assert_allclose(
        Scorer(model, processor).score(clips[::-1], asked[:1], method)[0].p_first[::-1], whole, atol=1e-5, rtol=0
    )


def test_batches_are_handed_on_as_they_come_and_every_clip_once(model, processor, asked):
    clips = flacs(DURATIONS_MS * 2)
    places = [places for places, _ in Scorer(model, processor, batch_size=2).scored(clips, asked[:1])]
    assert sorted(place for some in places for place in some) == list(range(len(clips)))
    assert max(map(len, places)) == 2
    tokens = [{POOLED.audio_tokens(samples_of(clips[place])) for place in some} for some in places]
    assert all(len(lengths) == 1 for lengths in tokens), "rows of one length need no padding"


def test_clips_of_several_lengths_are_refused_where_they_would_need_padding(model, processor, asked):
    with pytest.raises(ValueError, match=r"clips of \[2, 5\] audio tokens in one batch"):
        forward(model, [family.Encoded(torch.zeros(5, 96)), family.Encoded(torch.zeros(2, 96))], asked[:1])


def test_a_batch_that_is_too_much_is_halved_until_it_fits(model, processor, asked, monkeypatch):
    clips = flacs([200] * 11)
    scorer = Scorer(model, processor, batch_size=8)
    whole = scorer.score(clips, asked[:1])[0].p_first
    sizes = []

    def limited(model, clips, *rest):
        sizes.append(len(clips))
        if len(clips) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(model, clips, *rest)

    monkeypatch.setattr(scoring, "forward", limited)
    np.testing.assert_allclose(scorer.score(clips, asked[:1])[0].p_first, whole, atol=1e-5, rtol=0)
    assert sizes == [8, 4, 2, 2, 4, 2, 2, 2, 1], "the rest is taken in batches of what is known to fit"
    monkeypatch.setattr(scoring, "forward", lambda *given: limited(given[0], [0] * 3))
    with pytest.raises(ValueError, match="not even one clip fits"):
        scorer.score(clips[:1], asked[:1])


def test_a_constraint_that_fails_stops_generation(model, processor, asked, monkeypatch):
    told = family.generated_logits
    monkeypatch.setattr(family, "generated_logits", lambda *given: (torch.tensor([7]), told(*given)[1]))
    clip = Encoder(model, processor, None).encode(Encoder(model, processor, None).read(flacs([60])))[0]
    with torch.inference_mode(), pytest.raises(ValueError, match="its constraint failed"):
        generate(model, clip, asked[:1], 0)


@pytest.mark.parametrize("ms", [10, 15, 20])
def test_a_batch_of_clips_that_give_no_audio_token_stops_the_run(model, processor, asked, ms):
    for clips in (flacs([ms] * 3), flacs([1000, ms])):
        with pytest.raises(ValueError, match=rf"a clip of {ms} ms gives the model no audio token"):
            Scorer(model, processor).score(clips, asked[:1])


@pytest.mark.parametrize("content", [b"", b"RIFF" + bytes(60), b"fLaC" + bytes(60)])
def test_bytes_that_are_no_flac_stop_the_run(model, processor, asked, content):
    with pytest.raises(ValueError, match="no FLAC of a known length"):
        Scorer(model, processor).score([content], asked[:1])


@pytest.mark.parametrize("samples", [400, 16_000, 65_537])
def test_the_length_of_a_flac_stands_in_its_header(samples):
    assert samples_of(encode_flac(np.full(samples, 0.1))) == samples


# --- the encoder's vectors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["forward", "generate"])
def test_with_the_cache_answers_are_those_without_to_the_bit(model, processor, asked, home, method, monkeypatch):
    clips = flacs(DURATIONS_MS)
    without = Scorer(model, processor).score(clips, asked, method)
    first = Scorer(model, processor, kept_encodings(model, processor)).score(clips, asked, method)
    monkeypatch.setattr(family, "extract", None)  # nothing is decoded or encoded any more
    monkeypatch.setattr(family, "encode", None)
    second = Scorer(model, processor, kept_encodings(model, processor)).score(clips, asked, method)
    for one, two, three in zip(without, first, second, strict=True):
        assert one.p_first.tolist() == two.p_first.tolist() == three.p_first.tolist()
        assert one.answer_mass.tolist() == two.answer_mass.tolist() == three.answer_mass.tolist()


def test_what_the_cache_holds_already_changes_no_bit(model, processor, asked, home):
    clips = flacs(DURATIONS_MS * 2)
    without = Scorer(model, processor).score(clips, asked[:1])[0].p_first
    Scorer(model, processor, kept_encodings(model, processor)).score(clips[::3], asked[:1])
    partly = kept_encodings(model, processor)
    assert 0 < len(partly) < len(clips)
    assert Scorer(model, processor, partly).score(clips, asked[:1])[0].p_first.tolist() == without.tolist()


def test_a_clip_is_encoded_once_for_all_that_is_asked_of_it(model, processor, asked, home, monkeypatch):
    encoded = []
    encode = family.encode
    monkeypatch.setattr(
        family, "encode", lambda model, features, mask: encoded.append(len(mask)) or encode(model, features, mask)
    )
    scorer = Scorer(model, processor, kept_encodings(model, processor))
    for method in ("forward", "generate"):
        scorer.score(flacs(DURATIONS_MS), asked, method)
    assert sum(encoded) == len(DURATIONS_MS)


def test_all_clips_encoded_come_in_their_order_and_may_be_trained_on(model, processor, home, monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK", 3)
    monkeypatch.setattr(encoding, "ENCODED_AT_ONCE", 4)
    clips = flacs(DURATIONS_MS)
    found = Encoder(model, processor, kept_encodings(model, processor)).encode_all(clips)
    for clip, its in zip(clips, found, strict=True):
        batch = family.audio_inputs(family.extract(processor, [decode_flac(clip)]))
        with torch.no_grad():
            alone = family.encode(model, batch["input_features"], batch["feature_attention_mask"])
        assert torch.equal(its.vectors, alone)
        assert not its.vectors.is_inference()
    again = Encoder(model, processor, kept_encodings(model, processor)).encode_all(clips)
    assert all(torch.equal(one.vectors, two.vectors) for one, two in zip(found, again, strict=True))


# --- the benchmark's model ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_benchmarks_model_is_of_full_size(processor):
    """As many parameters as the real one trains with rank 16 on q, k, v and o."""
    from peft import get_peft_model

    model = make_model(processor, "meta")
    model = get_peft_model(model, lora_config(model, {"r": 16}, "language_model+encoder"))
    parts = trainable_by_part(model)
    assert (parts["language_model"], parts["encoder"], parts["trainable"]) == (16_777_216, 3_932_160, 20_709_376)


def test_a_copy_with_other_batches_leaves_the_scorer_as_it_is(model, processor):
    scorer = Scorer(model, processor, batch_size=5)
    other = scorer.with_batches_of(1)
    assert (scorer.sizes.rows, other.sizes.rows) == (5, 1)
    assert other.encoder is scorer.encoder


def test_a_model_is_not_altered_by_scoring(model, processor, asked):
    before = copy.deepcopy(model.state_dict())
    Scorer(model, processor).score(flacs((60, 200)), asked)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(model._forward_pre_hooks) == 1


def test_a_turn_that_begins_with_the_audio_is_answered_too(model, processor):
    """Nothing stands before the audio that could be known of all rows."""
    other = copy.deepcopy(processor)
    other.chat_template = (
        "{% for m in messages %}{% for its in m['content'] %}{{ its['text'] if its['type'] == 'text' else '<|AUDIO|>' }}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    clips, asked = flacs((200, 25, 61)), questions(other, PROMPTS[:2], ["A", "B"])
    assert [question.prompt.before for question in asked] == [[], []]
    encoder = Encoder(model, other, None)
    with torch.inference_mode():
        encoded, _ = encoder.encode(encoder.read(clips))
        for place, question in enumerate(asked):
            batch = family.collate(encoded, question.prompt, [[]] * len(clips), other.tokenizer.pad_token_id)
            expected = answers_of(narrowed(family.last_logits(model, batch), question.allowed).numpy(), question)
            for method in ("forward", "generate"):
                found = Scorer(model, other).score(clips, asked, method)[place]
                np.testing.assert_allclose(found.p_first, expected.p_first, atol=1e-5)
