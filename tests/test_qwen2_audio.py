"""The trimmed model answers as transformers' own padded one does, which the tests never alter."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BitsAndBytesConfig, Qwen2AudioForConditionalGeneration

from tasks.functional.decoding import answer_scores, answers_token_ids
from tasks.models import family, qwen2_audio
from tasks.models.devices import alike_on_every_cpu
from tasks.models.frames import MAX_FRAMES, POOLED, mel_frames
from tasks.models.scope import lora_config, trainable_by_part

QUESTION = "Choose one: A) SPEECH B) NONSPEECH."
DURATIONS_MS = (25, 47, 60, 61, 99, 200, 333.4, 1000)
FEW_MS = (25, 61, 1000)
ONE_TOKEN_MS = (25, 40, 60)
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"}


def sounds(durations_ms) -> list[np.ndarray]:
    random = np.random.default_rng(5)
    return [random.uniform(-0.7, 0.7, round(16 * ms)).astype(np.float32) for ms in durations_ms]


@pytest.fixture(scope="module")
def padded(tiny_base):
    return Qwen2AudioForConditionalGeneration.from_pretrained(tiny_base, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def trimmed(tiny_base):
    return family.load(tiny_base, revision=None, quantization=None, dtype=torch.float32, device="cpu").eval()


@pytest.fixture(scope="module")
def expected(padded, processor):
    """What the padded model says to one mixed batch."""
    return padded_logits(padded, processor, sounds(DURATIONS_MS))


def reference_inputs(processor, waveforms):
    """What the processor itself makes of clips, each padded to 30 s."""
    message = {"role": "user", "content": [{"type": "audio", "audio_url": "x"}, {"type": "text", "text": QUESTION}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    return processor(
        text=[text] * len(waveforms), audio=waveforms, sampling_rate=16_000, padding=True, return_tensors="pt"
    )


def batch_of(processor, waveforms):
    clips = family.extract(processor, waveforms)
    prompt = family.tokenise_prompt(processor, QUESTION)
    return family.collate(clips, prompt, [[]] * len(clips), processor.tokenizer.pad_token_id)


@torch.inference_mode()
def padded_logits(model, processor, waveforms):
    return model(**reference_inputs(processor, waveforms)).logits[:, -1].float()


@torch.inference_mode()
def trimmed_logits(model, processor, waveforms):
    return family.last_logits(model, batch_of(processor, waveforms))


# --- frames ------------------------------------------------------------------------------------------------------


def test_tokens_are_those_the_model_counts(padded):
    samples = torch.arange(160, 16_001, 40)
    frames = -(-samples // 160)
    _, tokens = padded.model.audio_tower._get_feat_extract_output_lengths(frames)
    assert [POOLED.audio_tokens(int(n)) for n in samples] == tokens.clamp(min=0).tolist()
    assert [POOLED.audio_tokens(16 * ms) for ms in (10, 20, 25, 60, 61, 80, 200, 500, 1000)] == [
        0,
        0,
        1,
        1,
        2,
        2,
        5,
        12,
        25,
    ]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 16_000 * 40))
def test_the_cut_is_even_covers_the_clip_and_never_passes_the_padding(samples):
    cut = POOLED.trimmed_frames(samples)
    assert cut % 2 == 0
    assert min(mel_frames(samples), MAX_FRAMES) <= cut <= min(mel_frames(samples) + 3, MAX_FRAMES)


def test_features_are_the_first_ones_of_the_padded_extraction_to_the_bit(processor):
    waveforms = sounds(DURATIONS_MS)
    reference = reference_inputs(processor, waveforms)
    for k, clip in enumerate(family.extract(processor, waveforms)):
        assert torch.equal(clip.features, reference["input_features"][k, :, : clip.features.shape[1]])
        assert clip.features.shape[1] == POOLED.trimmed_frames(len(waveforms[k]))
        assert clip.frames == int(reference["feature_attention_mask"][k].sum())


def test_features_do_not_depend_on_what_is_extracted_beside_them(processor, monkeypatch):
    waveforms = sounds(DURATIONS_MS * 5)
    alone = [family.extract(processor, [waveform])[0] for waveform in waveforms]
    monkeypatch.setattr(family, "EXTRACTED_AT_ONCE", 7)
    for one, other in zip(alone, family.extract(processor, iter(waveforms)), strict=True):
        assert torch.equal(one.features, other.features)
        assert one[1:] == other[1:]


# --- the encoder -------------------------------------------------------------------------------------------------


def test_a_mixed_batch_answers_as_the_padded_model(expected, trimmed, processor):
    found = trimmed_logits(trimmed, processor, sounds(DURATIONS_MS))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_batch_of_one_token_clips_answers_as_the_padded_model(padded, trimmed, processor):
    waveforms = sounds(ONE_TOKEN_MS)
    batch = batch_of(processor, waveforms)
    assert (batch["input_ids"] == trimmed.config.audio_token_id).sum(1).tolist() == [1, 1, 1]
    torch.testing.assert_close(
        trimmed_logits(trimmed, processor, waveforms), padded_logits(padded, processor, waveforms), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("row", range(len(DURATIONS_MS)), ids=DURATIONS_MS)
def test_a_clip_alone_answers_as_the_padded_model(padded, expected, trimmed, processor, row):
    waveform = sounds(DURATIONS_MS)[row]
    alone = trimmed_logits(trimmed, processor, [waveform])
    torch.testing.assert_close(alone, padded_logits(padded, processor, [waveform]), atol=1e-5, rtol=0)
    torch.testing.assert_close(alone[0], expected[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("ms", FEW_MS)
def test_a_clips_own_frames_are_exact_and_one_position_less_is_not(padded, trimmed, processor, ms):
    waveform = sounds([ms])[0]
    frames = POOLED.trimmed_frames(len(waveform))
    batch = batch_of(processor, [waveform])
    reference = padded_logits(padded, processor, [waveform])

    def apart(frames: int) -> float:
        with torch.inference_mode():
            features = batch["input_features"][:, :, :frames]
            mask = batch["feature_attention_mask"][:, :frames]
            found = family.last_logits(trimmed, {**batch, "input_features": features, "feature_attention_mask": mask})
        return float((found - reference).abs().max())

    assert apart(frames) <= 1e-5
    assert apart(frames - 2) > 1e-3, "if a shorter cut were as good, the formula would waste a position"


def test_thirty_seconds_are_cut_to_what_every_stack_pads_to(padded, trimmed, processor):
    waveforms = sounds([30_000, 40])
    batch = batch_of(processor, waveforms)
    assert batch["input_features"].shape[-1] == MAX_FRAMES
    torch.testing.assert_close(
        trimmed_logits(trimmed, processor, waveforms), padded_logits(padded, processor, waveforms), atol=1e-5, rtol=0
    )


def test_vectors_that_were_encoded_before_answer_to_the_bit_as_features_do(trimmed, processor):
    batch = batch_of(processor, sounds(DURATIONS_MS))
    with torch.inference_mode():
        vectors = family.encode(trimmed, batch["input_features"], batch["feature_attention_mask"])
        encoded = {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "input_features": vectors,
        }
        assert torch.equal(family.last_logits(trimmed, encoded), family.last_logits(trimmed, batch))


def test_the_answer_depends_on_what_is_heard(trimmed, processor):
    one, other = trimmed_logits(trimmed, processor, [sounds([200])[0], np.zeros(3200, np.float32)])
    assert (one - other).abs().max() > 1e-2


def test_the_padded_model_is_left_as_it_is(padded):
    assert padded.model.audio_tower.embed_positions.num_embeddings == 1500
    assert padded.model.audio_tower.config.max_source_positions == 1500
    assert not padded._forward_pre_hooks


# --- prompt and batch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durations_ms", [DURATIONS_MS, ONE_TOKEN_MS, (500,)])
def test_token_ids_and_mask_are_the_processors_own(processor, durations_ms):
    waveforms = sounds(durations_ms)
    batch, reference = batch_of(processor, waveforms), reference_inputs(processor, waveforms)
    assert torch.equal(batch["input_ids"], reference["input_ids"])
    assert torch.equal(batch["attention_mask"], reference["attention_mask"])


def test_completions_end_every_row_whatever_its_length(processor):
    clips = family.extract(processor, sounds((25, 1000)))
    prompt = family.tokenise_prompt(processor, QUESTION)
    batch = family.collate(clips, prompt, [[11, 12], [13, 14]], pad=0)
    assert batch["input_ids"][:, -2:].tolist() == [[11, 12], [13, 14]]
    assert batch["attention_mask"][:, -2:].all()
    assert (batch["input_ids"] == prompt.audio_token).sum(1).tolist() == [1, 25]


def test_the_generation_prompt_ends_where_the_answer_comes(processor):
    prompt = family.tokenise_prompt(processor, QUESTION)
    assert processor.tokenizer.decode(prompt.after).endswith("<|im_start|>assistant\n")
    assert QUESTION in processor.tokenizer.decode(prompt.after)


def test_a_template_that_leaves_the_audio_out_is_refused(processor):
    deaf = copy.copy(processor)
    deaf.chat_template = "{% for message in messages %}{{ message['role'] }}{% endfor %}"
    with pytest.raises(ValueError, match=r"leaves no <\|AUDIO\|> for the audio"):
        family.tokenise_prompt(deaf, QUESTION)


@pytest.mark.parametrize("ms", [10, 15, 20])
def test_a_clip_that_gives_no_audio_token_is_refused(processor, ms):
    with pytest.raises(ValueError, match=rf"a clip of {ms} ms gives the model no audio token .* declare a context"):
        family.extract(processor, sounds([60, ms]))


def test_the_padded_model_would_have_answered_such_a_clip_unheard(padded, processor):
    """The failure that the refusal guards against: two different clips of 20 ms beside a long one, one answer."""
    random = np.random.default_rng(0)
    loud, soft, long = random.uniform(-1, 1, 320), random.uniform(-0.1, 0.1, 320), random.uniform(-1, 1, 16_000)
    answers = [
        padded_logits(padded, processor, [short.astype(np.float32), long.astype(np.float32)])[0]
        for short in (loud, soft)
    ]
    assert torch.equal(*answers)


def test_audio_that_does_not_fit_its_places_is_refused(trimmed, processor):
    batch = batch_of(processor, sounds((200, 200)))
    batch["input_ids"][0, batch["input_ids"][0] == trimmed.config.audio_token_id] = 0
    with pytest.raises(ValueError, match="5 audio tokens in the batch, 10 audio vectors"):
        family.last_logits(trimmed, batch)


# --- one forward and generation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("durations_ms", [DURATIONS_MS, ONE_TOKEN_MS, (30,)])
def test_generation_and_one_forward_say_the_same(trimmed, processor, durations_ms):
    ids = answers_token_ids(processor.tokenizer, ["A", "B"])
    batch = batch_of(processor, sounds(durations_ms))
    with torch.inference_mode():
        forward = answer_scores(family.last_logits(trimmed, batch).numpy(), ids)
        said, logits = family.generated_logits(trimmed, batch, [token for tokens in ids.values() for token in tokens])
    generated = answer_scores(logits.numpy(), ids)
    np.testing.assert_allclose(generated.p_first, forward.p_first, atol=1e-5, rtol=0)
    np.testing.assert_allclose(generated.answer_mass, forward.answer_mass, atol=1e-5, rtol=0)
    flat = [token for tokens in ids.values() for token in tokens]
    assert said.tolist() == [flat[row.argmax()] for row in logits[:, flat]]


@pytest.mark.parametrize("durations_ms", [DURATIONS_MS, ONE_TOKEN_MS, (30,)])
def test_generation_that_goes_through_the_same_first_tokens_once_says_the_same(trimmed, processor, durations_ms):
    clips, prompt = family.extract(processor, sounds(durations_ms)), family.tokenise_prompt(processor, QUESTION)
    shared = len(prompt.before)
    plain = batch_of(processor, sounds(durations_ms))
    batch = family.collate(clips, prompt, [[]] * len(clips), plain["input_ids"][0, 0].item(), pad_after=shared)
    assert (batch["input_ids"][:, :shared] == torch.tensor(prompt.before)).all()
    assert torch.equal(batch["attention_mask"].sum(1), plain["attention_mask"].sum(1))
    said, logits = family.generated_logits(trimmed, plain, [1, 2, 3])
    start = family.known_start(trimmed, prompt.before)
    said_again, logits_again = family.generated_logits(trimmed, batch, [1, 2, 3], start)
    assert start.get_seq_length() == shared, "as it was, for the next batch"
    torch.testing.assert_close(logits_again, logits, atol=1e-5, rtol=0)
    assert torch.equal(said, said_again)
    assert not trimmed.lm_head._forward_pre_hooks, "what narrows the head to the last position is gone again"


def test_a_shipped_generation_config_changes_neither_answer_nor_score(trimmed, processor):
    batch = batch_of(processor, sounds((500,)))
    logits, asked = family.last_logits(trimmed, batch)[0], set(batch["input_ids"][0].tolist())
    falling = logits.argsort(descending=True).tolist()
    said = next(
        token for token in falling if token in asked
    )  # what the question holds is penalised, the runner-up is not
    runner_up = next(token for token in falling[falling.index(said) :] if token not in asked)
    before = family.generated_logits(trimmed, batch, [said, runner_up])
    assert before[0].tolist() == [said]
    shipped = copy.deepcopy(trimmed.generation_config)
    try:
        trimmed.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=9.0, num_beams=3, top_k=1)
        after = family.generated_logits(trimmed, batch, [said, runner_up])
    finally:
        trimmed.generation_config = shipped
    assert torch.equal(before[0], after[0])
    torch.testing.assert_close(before[1], after[1], atol=1e-6, rtol=0)


# --- LoRA and NF4 ------------------------------------------------------------------------------------------------


def with_lora(model, scope, seed=0):
    from peft import get_peft_model

    wrapped = get_peft_model(model, lora_config(model, {"r": 4, "init_lora_weights": False}, scope))
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(wrapped.named_parameters()):
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=random))
    return wrapped.get_base_model().eval()


@pytest.mark.parametrize("scope", ["language_model", "language_model+encoder"])
def test_with_lora_the_trimmed_model_still_answers_as_the_padded_one(padded, trimmed, processor, scope):
    waveforms = sounds(FEW_MS)
    plain = padded_logits(padded, processor, waveforms)
    adapted = padded_logits(with_lora(copy.deepcopy(padded), scope), processor, waveforms)
    assert (adapted - plain).abs().max() > 0.1, "the adapter must matter for the comparison to mean anything"
    found = trimmed_logits(with_lora(copy.deepcopy(trimmed), scope), processor, waveforms)
    torch.testing.assert_close(found, adapted, atol=1e-5, rtol=0)


def test_in_nf4_the_trimmed_model_answers_as_the_padded_one(tiny_base, padded, processor):
    quantised = BitsAndBytesConfig(**NF4, llm_int8_skip_modules=list(qwen2_audio.UNQUANTISED))
    reference = Qwen2AudioForConditionalGeneration.from_pretrained(
        tiny_base, quantization_config=quantised, dtype=torch.float32, device_map={"": "cpu"}
    ).eval()
    model = family.load(tiny_base, revision=None, quantization=NF4, dtype=torch.float32, device="cpu").eval()
    waveforms = sounds(FEW_MS)
    reference, model = alike_on_every_cpu(reference), alike_on_every_cpu(model)
    expected = padded_logits(reference, processor, waveforms)
    assert (expected - padded_logits(padded, processor, waveforms)).abs().max() > 1e-3, (
        "NF4 must have rounded something"
    )
    torch.testing.assert_close(trimmed_logits(model, processor, waveforms), expected, atol=1e-4, rtol=0)


def test_nf4_leaves_encoder_projector_and_head_alone(tiny_base):
    model = family.load(tiny_base, revision=None, quantization=NF4, dtype=torch.float32, device="cpu")
    four_bit = [name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"]
    assert len(four_bit) == 2 * 7, "q k v o gate up down of two layers"
    assert all(name.startswith("model.language_model.") for name in four_bit)


@pytest.mark.parametrize(
    ("scope", "encoder"), [("language_model", 0), ("language_model+encoder", 2 * 3 * 8 * (96 + 96))]
)
def test_a_scope_trains_what_it_names_and_nothing_else(trimmed, scope, encoder):
    from peft import get_peft_model

    model = get_peft_model(copy.deepcopy(trimmed), lora_config(trimmed, {"r": 8}, scope))
    parts = trainable_by_part(model)
    assert parts["language_model"] == 2 * 4 * 8 * (96 + 96), "q k v o of two layers, rank 8, width 96"
    assert (parts["encoder"], parts["projector"]) == (encoder, 0)
    assert parts["trainable"] == parts["language_model"] + encoder
    assert parts["all"] == sum(parameter.numel() for parameter in model.parameters())
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all("lora_" in name for name in trainable)


def test_without_the_exclusion_lora_would_reach_the_encoder(trimmed):
    from peft import LoraConfig, get_peft_model

    naive = LoraConfig(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    assert trainable_by_part(get_peft_model(copy.deepcopy(trimmed), naive))["encoder"] > 0


# --- the end of an answer ----------------------------------------------------------------------------------------

TURN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] if m['content'] is string else '<|AUDIO|>?' }}END"
    "{% endfor %}"
)
OPENS = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@pytest.mark.parametrize(("end", "token"), [
    ("<|audio_eos|>\n", "<|audio_eos|>"), ("", "<|im_end|>"), ("\n", "<|im_end|>"), (" END", "<|im_end|>"),
])  # fmt: skip
def test_what_ends_an_answer_is_what_the_template_puts_behind_it_or_else_the_tokenizers_own_end(processor, end, token):
    other = copy.deepcopy(processor)
    other.chat_template = TURN.replace("END", end) + OPENS
    ids = other.tokenizer.convert_tokens_to_ids([token])
    assert [family.tokenise_prompt(other, "?").end] == ids
    other.chat_template = TURN.replace("END", "<|audio_eos|>") + "{% if add_generation_prompt %}<|think|>{% endif %}"
    assert family.tokenise_prompt(other, "?").end == other.tokenizer.eos_token_id, (
        "no answer stands where a turn begins"
    )


def test_a_processor_that_knows_no_end_of_an_answer_is_refused(processor):
    other = copy.deepcopy(processor)
    other.chat_template, other.tokenizer.eos_token = TURN.replace("END", "") + OPENS, None
    with pytest.raises(ValueError, match=r"neither the chat template nor the tokenizer .* which token ends an answer"):
        family.tokenise_prompt(other, "?")


@torch.inference_mode()
def test_a_free_answer_stops_at_the_end_of_the_turn_also_where_the_model_was_not_told_of_it(model, processor):
    batch, pad = batch_of(processor, sounds((200, 61))), processor.tokenizer.pad_token_id
    mute = copy.copy(model)
    mute.generation_config = copy.deepcopy(model.generation_config)
    mute.generation_config.eos_token_id = None
    said = family.said_freely(mute, batch, 4, processor.tokenizer.eos_token_id, pad)
    assert said.shape == (2, 4)
    for end, known in ((int(said[0, 1]), None), (processor.tokenizer.eos_token_id, int(said[0, 1]))):
        mute.generation_config.eos_token_id = known
        found = family.said_freely(mute, batch, 4, end, pad)[0].tolist()
        stops = said[0].tolist().index(int(said[0, 1])) + 1
        assert found[:stops] == said[0, :stops].tolist()
        assert set(found[stops:]) <= {pad}
