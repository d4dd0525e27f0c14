"""A model that does not listen is stopped with the reason; one that does leaves what it was asked and said."""

import copy
import json
import logging
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from transformers.utils import logging as transformers_logging

from tasks.audio_files import decode_flac, encode_flac, samples_of
from tasks.functional.listening import listening_section
from tasks.models import family, listening
from tasks.models.frames import CHUNKED, HOP, MAX_FRAMES, POOLED, Rate
from tasks.models.listening import Listener, NoProcessorWarnings, check, no_audio_prior, sample
from tasks.models.scoring import Scorer, questions
from tests.test_qwen2_audio import with_lora

PROMPT = "Choose one: A) SPEECH B) NONSPEECH."
DURATIONS_MS = (200, 25, 1000, 60, 200, 61, 40, 333.4)
STACKED = Rate(  # a token of four vectors of an encoder that hears 30 s always, as GLM-ASR's
    lambda frames: ((frames - 1) // 2 + 1) // 4, lambda frames: MAX_FRAMES, shortest_ms=65
)  # fmt: skip


def flacs(durations_ms) -> list[bytes]:
    random = np.random.default_rng(5)
    return [encode_flac(random.uniform(-0.7, 0.7, round(16 * ms))) for ms in durations_ms]


@pytest.fixture(scope="module")
def question(processor):
    return questions(processor, [PROMPT], ["A", "B"])[0]


def checked(model, processor, question, clips=None):
    return check(Scorer(model, processor), processor, question, PROMPT, clips or flacs(DURATIONS_MS))


def listener(model, processor, question, durations_ms=DURATIONS_MS) -> Listener:
    return Listener(Scorer(model, processor), question, flacs(durations_ms), listening.EXACT)


# --- a model that listens ----------------------------------------------------------------------------------------


def test_what_a_listening_model_leaves_can_be_written_down(model, processor, question):
    found = checked(model, processor, question)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["clips"] == len(DURATIONS_MS)
    assert found["tolerance"] == 1e-5
    assert found["silence"]["largest_change_of_log_odds"] > 0.01
    for check_name in ("swap", "batch_composition", "left_padding"):
        assert found[check_name]["largest_difference"] <= 1e-5
    assert found["left_padding"]["shortest_tokens"] == 1
    assert 0 < found["no_audio"]["p_first"] < 1


@pytest.mark.parametrize("durations_ms", [(25, 40, 60), (30,)])
def test_clips_of_one_token_only_pass_as_well(model, processor, question, durations_ms):
    found = checked(model, processor, question, flacs(durations_ms))
    assert found["batch_composition"]["largest_difference"] <= 1e-5


def test_a_report_has_a_row_for_every_check_with_the_worst_of_all_models(model, processor, question):
    found = {**checked(model, processor, question), "processor_warnings": 0}
    other = copy.deepcopy(found)
    other["swap"]["largest_difference"], other["no_audio"]["p_first"] = 7e-6, 0.9
    section = listening_section({"base, fold 0": found, "adapter, fold 0": other})
    rows = {row["check"]: row for row in section["checks"]}
    assert list(rows) == [
        "audio swap", "silence", "no-audio prior", "batch composition", "left padding", "zero-token guard",
        "sampling-rate guard", "processor warnings",
    ]  # fmt: skip
    assert rows["audio swap"]["found"] == "P moves by at most 7e-06"
    assert rows["no-audio prior"]["found"].endswith("to 0.900")
    assert rows["zero-token guard"]["found"] == rows["sampling-rate guard"]["found"] == "refused"
    assert {row["models"] for row in rows.values()} == {2}
    assert section["models"]["base, fold 0"] == found


@pytest.mark.slow
def test_adapters_are_listened_to_as_well(model, processor, question):
    adapted = with_lora(copy.deepcopy(model), "language_model+encoder")
    assert checked(adapted, processor, question)["left_padding"]["largest_difference"] <= 1e-5


def test_in_bf16_no_more_is_asked_than_its_rounding_allows(model, processor, question):
    found = checked(copy.deepcopy(model).to(torch.bfloat16), processor, question)
    assert found["tolerance"] == listening.ROUNDED
    assert 1e-5 < found["left_padding"]["largest_difference"] < listening.ROUNDED


def test_the_sample_spans_all_lengths():
    clips = flacs([100 + 10 * k for k in range(50)])
    chosen = [samples_of(clip) for clip in sample(clips, 5)]
    assert chosen == sorted(chosen)
    assert (len(chosen), chosen[0], chosen[-1]) == (5, 1600, samples_of(clips[-1]))
    assert sample(clips[:2]) == clips[:2]


# --- deaf models -------------------------------------------------------------------------------------------------


def zeroed_projector(model):
    for parameter in model.model.multi_modal_projector.parameters():
        torch.nn.init.zeros_(parameter)


def projector_that_says_one_thing(model):
    torch.nn.init.zeros_(model.model.multi_modal_projector.linear.weight)
    torch.nn.init.ones_(model.model.multi_modal_projector.linear.bias)


def dead_encoder(model):
    torch.nn.init.zeros_(model.model.audio_tower.layer_norm.weight)


@pytest.mark.parametrize("spoil", [zeroed_projector, projector_that_says_one_thing, dead_encoder])
def test_a_model_that_no_audio_reaches_stops_the_run(model, processor, question, spoil):
    deaf = copy.deepcopy(model)
    spoil(deaf)
    clips = flacs(DURATIONS_MS)
    answers = Scorer(deaf, processor).score(clips, [question])[0].p_first
    assert np.ptp(answers) > 1e-3, "it answers by the length of a clip, so answers that differ prove nothing"
    with pytest.raises(ValueError, match=r"as it answers silence of their lengths .* its projector or its encoder is"):
        checked(deaf, processor, question)


def test_clips_of_no_audio_token_stop_the_run(model, processor, question):
    with pytest.raises(ValueError, match="a clip of 20 ms gives the model no audio token"):
        checked(model, processor, question, flacs([20, 20, 20]))


def test_answers_beside_the_wrong_clips_stop_the_run(model, processor, question, monkeypatch):
    told = Scorer.score
    monkeypatch.setattr(Scorer, "score", lambda self, clips, asked, method="forward": [
        answers._replace(p_first=np.sort(answers.p_first)) for answers in told(self, clips, asked, method)
    ])  # fmt: skip
    found = listener(model, processor, question, (200, 200, 200))
    with pytest.raises(ValueError, match="in another order the same 3 clips get other answers"):
        listening.follows_the_audio(found)


def test_answers_that_depend_on_the_neighbours_stop_the_run(model, processor, question, monkeypatch):
    told = Scorer.score

    def biased(self, clips, asked, method="forward"):
        (answers,) = told(self, clips, asked, method)
        return [answers._replace(p_first=answers.p_first * (1 - 1e-4 * (self.sizes.rows or 0)))]

    monkeypatch.setattr(Scorer, "score", biased)
    with pytest.raises(ValueError, match="a clip's answer depends on its neighbours"):
        listening.minds_no_neighbours(listener(model, processor, question))


def test_batches_of_one_token_clips_are_asked_whatever_the_data_set_holds(model, processor, question, monkeypatch):
    found = listening.minds_no_neighbours(listener(model, processor, question, (1000, 333.4)))
    assert found["of_one_token"] <= found["largest_difference"] <= 1e-5
    for rate, frames in ((POOLED, (3, 5, 6)), (CHUNKED, (1, 5, 8)), (STACKED, (7, 11, 14))):
        lengths = [samples_of(clip) for clip in listening.shortened(flacs((1000, 333.4, 200)), rate)]
        assert lengths == [HOP * n for n in frames], (
            "the shortest and the longest that give one token, and one between"
        )
        assert [rate.audio_tokens(samples) for samples in lengths] == [1, 1, 1]
    told = Scorer.score

    def biased(self, clips, asked, method="forward"):
        (answers,) = told(self, clips, asked, method)
        short = max(map(samples_of, clips)) <= 960 and self.sizes.rows == 1
        return [answers._replace(p_first=answers.p_first * (1 - 1e-3 * short))]

    monkeypatch.setattr(Scorer, "score", biased)
    with pytest.raises(ValueError, match="a clip's answer depends on its neighbours"):
        listening.minds_no_neighbours(listener(model, processor, question, (1000, 333.4)))


def test_padding_that_is_heard_stops_the_run(model, processor, question, monkeypatch):
    collate = family.collate

    def unmasked(*given):
        batch = collate(*given)
        return {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}

    monkeypatch.setattr(family, "collate", unmasked)
    with pytest.raises(ValueError, match="padding is heard"):
        listening.minds_no_padding(listener(model, processor, question))
    assert listening.minds_no_padding(listener(model, processor, question, (200, 200)))["largest_difference"] <= 1e-5


# --- guards ------------------------------------------------------------------------------------------------------


def test_a_processor_that_takes_any_rate_stops_the_run(processor):
    assert listening.refuses_other_rates(processor) is None
    lax = copy.copy(processor)
    lax.feature_extractor = lambda waveform, sampling_rate: {"input_features": waveform}
    with pytest.raises(ValueError, match="takes audio of 8000 Hz for a model of 16000 Hz"):
        listening.refuses_other_rates(lax)


def test_a_guard_against_unheard_clips_that_is_gone_stops_the_run(processor, monkeypatch):
    assert listening.refuses_unheard(processor, PROMPT) == "refused"
    monkeypatch.setattr(family, "extract", lambda processor, waveforms: [])
    with pytest.raises(ValueError, match=r"a clip of 10 ms, .*, would be answered unheard"):
        listening.refuses_unheard(processor, PROMPT)


def test_tokens_that_are_counted_otherwise_than_the_processor_does_stop_the_run(processor, monkeypatch):
    """By another family's count clips of 20 ms would pass for heard."""
    monkeypatch.setattr(listening, "rate_for", lambda processor: CHUNKED)
    with pytest.raises(
        ValueError, match=r"gives a clip of 10 ms 0 audio tokens, and tasks/models/frames\.py counts 1"
    ):
        listening.refuses_unheard(processor, PROMPT)


def test_the_answer_without_sound_is_that_of_the_text_alone(model, processor, question):
    found = no_audio_prior(model, processor, question, PROMPT)
    message = {"role": "user", "content": [{"type": "text", "text": PROMPT}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    assert PROMPT in text
    assert processor.audio_token not in text
    ids = processor.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        p = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1].softmax(-1)
    first, second = (float(p[its].sum()) for its in question.ids.values())
    assert found.p_first[0] == pytest.approx(first / (first + second), abs=1e-5)
    assert found.answer_mass[0] == pytest.approx(first + second, abs=1e-5)


# --- warnings ----------------------------------------------------------------------------------------------------


@pytest.fixture
def silenced() -> Iterator[None]:
    """transformers says no warning, as in our children; as before for all other tests."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    yield
    transformers_logging.set_verbosity(before)


def test_a_warning_of_the_processor_in_a_run_stops_it_at_the_end(processor, silenced):
    """transformers only warns of a missing rate, and by default children do not even print that."""
    waveform = decode_flac(flacs([200])[0])
    reason = r"the processor warned 1 times, first: It is strongly recommended to pass"
    with pytest.raises(ValueError, match=reason), NoProcessorWarnings():
        processor.feature_extractor(waveform)
    with NoProcessorWarnings() as listening_for:
        family.extract(processor, [waveform])
    assert listening_for.heard == []
    assert logging.getLogger("transformers").level == logging.ERROR, "as it was"


def test_other_warnings_pass():
    with NoProcessorWarnings() as listening_for:
        logging.getLogger("transformers.modeling_utils").warning("something else")
    assert listening_for.heard == []


def test_what_broke_a_run_is_said_before_what_the_processor_warned_of(processor):
    def run():
        with NoProcessorWarnings():
            processor.feature_extractor(np.zeros(1600, np.float32))
            raise KeyError("first")

    with pytest.raises(KeyError, match="first"):
        run()
