"""A second family: the thinker of Qwen2.5-Omni answers as transformers' own, and is trained and asked as the first is."""

import copy
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from tasks.audio_files import decode_flac, encode_flac
from tasks.detectors import audio_llm
from tasks.models import family, prompting, qwen2_5_omni
from tasks.models.adapted import with_adapter
from tasks.models.encoder_cache import EncoderCache, encoder_revision
from tasks.models.families import family_at
from tasks.models.jobs import Question as Asked
from tasks.models.jobs import ScoringJob
from tasks.models.listening import check
from tasks.models.packing import packed_rows
from tasks.models.scope import lora_config, trainable_by_part, unfreeze
from tasks.models.scoring import Scorer, questions
from tasks.models.trainer import ASIDE
from tasks.models.training import read_clips, train
from tests import tiny_omni
from tests.adapting import NF4, PROMPT, collator, job, write_clips
from tests.test_prompts import job_of

QUESTION = "Choose one: A) SPEECH B) NONSPEECH."
DURATIONS_MS = (30, 25, 61, 99, 333.4, 2000, 2010, 4100)  # chunks are 2 s long
SHORT_MS = (30, 25, 61, 200, 1000)


def sounds(durations_ms) -> list[np.ndarray]:
    random = np.random.default_rng(5)
    return [random.uniform(-0.7, 0.7, round(16 * ms)).astype(np.float32) for ms in durations_ms]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_omni.save(tmp_path_factory.mktemp("tiny omni"))


@pytest.fixture(scope="module")
def processor(base):
    return family.load_processor(base, None)


@pytest.fixture(scope="module")
def padded(base):
    return Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(base, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def model(base):
    return family.load(base, revision=None, quantization=None, dtype=torch.float32, device="cpu").eval()


@pytest.fixture(scope="module")
def reference(padded, processor):
    """What transformers' processor makes of the clips, and its model's audio vectors and last logits."""
    content = [{"type": "audio", "audio_url": "clip"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    waveforms = sounds(DURATIONS_MS)
    inputs = processor(
        text=[text] * len(waveforms), audio=waveforms, sampling_rate=16_000, return_tensors="pt", padding=True
    )
    with torch.inference_mode():
        return inputs, heard_padded(padded, inputs), padded(**inputs).logits[:, -1]


@torch.inference_mode()
def heard_padded(padded, inputs):
    return padded.get_audio_features(inputs["input_features"], inputs["feature_attention_mask"]).last_hidden_state


def batch_of(processor, waveforms, pad_after=0):
    prompt, clips = family.tokenise_prompt(processor, QUESTION), family.extract(processor, waveforms)
    return family.collate(clips, prompt, [[]] * len(clips), processor.tokenizer.pad_token_id, pad_after=pad_after)


def encoded(model, processor, waveforms):
    inputs = family.audio_inputs(family.extract(processor, waveforms))
    return family.encode(model, inputs["input_features"], inputs["feature_attention_mask"])


# --- exact -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_clips_from_30_ms_to_30_s_are_heard_as_the_padded_model_hears_them(model, padded, processor):
    waveforms = sounds((30, 2010, 61, 30_000))
    audio, _ = processor._process_audio(
        waveforms, sampling_rate=16_000, return_attention_mask=True, return_tensors="pt"
    )
    heard = heard_padded(padded, audio)
    torch.testing.assert_close(encoded(model, processor, waveforms), heard, atol=1e-5, rtol=0)
    alone = torch.cat([encoded(model, processor, [waveform]) for waveform in waveforms])
    torch.testing.assert_close(alone, heard, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_an_encoder_that_forgets_its_chunks_hears_something_else(model, processor, reference, monkeypatch):
    monkeypatch.setattr(model.model.audio_tower, "n_window", 1500)
    found = encoded(model, processor, sounds(DURATIONS_MS))
    assert (found - reference[1]).abs().max() > 0.01


@torch.inference_mode()
def test_a_batch_of_all_lengths_answers_as_the_padded_model_and_generation_says_the_same(model, processor, reference):
    inputs, _, logits = reference
    batch = batch_of(processor, sounds(DURATIONS_MS))
    assert torch.equal(batch["input_ids"], inputs["input_ids"])
    assert torch.equal(batch["attention_mask"], inputs["attention_mask"])
    torch.testing.assert_close(family.last_logits(model, batch), logits, atol=1e-5, rtol=0)
    before = family.tokenise_prompt(processor, QUESTION).before
    for start in (None, family.known_start(model, before)):
        batch = batch_of(processor, sounds(DURATIONS_MS), pad_after=len(before) if start else 0)
        _, generated = family.generated_logits(model, batch, [5, 6, 7], start)
        torch.testing.assert_close(generated, logits, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_what_one_batch_left_behind_shifts_no_other_as_it_does_in_transformers_itself(model, padded, processor):
    three, two = (batch_of(processor, sounds(its)) for its in ((200, 500, 1000), (25, 200)))
    expected = family.last_logits(model, two)
    family.generated_logits(model, three, [5, 6, 7])
    torch.testing.assert_close(family.last_logits(model, two), expected, atol=0, rtol=0)
    assert model.model.rope_deltas is None
    padded.generate(input_ids=three["input_ids"], attention_mask=three["attention_mask"], max_new_tokens=1)
    embeddings = padded.get_input_embeddings()(two["input_ids"])
    with pytest.raises(RuntimeError):  # three rows' shifts for two rows
        padded(inputs_embeds=embeddings, attention_mask=two["attention_mask"])
    padded.model.rope_deltas = None


@torch.inference_mode()
def test_its_own_decoder_answers_as_the_padded_model(model, processor, reference):
    asked = questions(processor, [QUESTION], ["A", "B"])
    clips = [encode_flac(waveform) for waveform in sounds(SHORT_MS)]
    found = Scorer(model, processor).score(clips, asked)[0]
    batch = batch_of(processor, [decode_flac(clip) for clip in clips])
    p = family.last_logits(model, batch).softmax(-1)
    first, second = (p[:, ids].sum(1) for ids in asked[0].ids.values())
    np.testing.assert_allclose(found.p_first, (first / (first + second)).numpy(), atol=1e-5)


def test_a_whole_omni_as_the_hub_holds_it_is_read_without_what_sees_and_speaks(base, model, processor, tmp_path):
    config = json.loads((base / "config.json").read_text())
    whole = {"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniModel"], "thinker_config": config}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    saved = {
        f"thinker.{name.removeprefix('thinker.')}": its for name, its in load_file(base / "model.safetensors").items()
    }
    assert any(name.startswith("thinker.visual.") for name in saved), "under the names of the Hub"
    assert any(name.startswith("thinker.model.layers.") for name in saved)
    save_file({**saved, "talker.head.weight": torch.zeros(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    assert family_at(tmp_path, None) is qwen2_5_omni
    found = family.load(tmp_path, revision=None, quantization=None, dtype=torch.float32, device="cpu").eval()
    assert found.model.visual is None
    batch = batch_of(processor, sounds((25, 200)))
    with torch.inference_mode():
        assert torch.equal(family.last_logits(found, batch), family.last_logits(model, batch))


# --- trained -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scope", "reached"), [("language_model", 0), ("language_model+encoder", 2 * 3 * 2 * 4 * 96)])
def test_gradients_reach_what_a_scope_names_also_beside_empty_chunks(model, processor, scope, reached):
    adapted = get_peft_model(copy.deepcopy(model), lora_config(model, {"r": 4}, scope))
    parts = trainable_by_part(adapted)
    assert (parts["encoder"], parts["projector"]) == (reached, 0)
    assert parts["language_model"] == 2 * 4 * (2 * (96 + 96) + 2 * (96 + 48))
    adapted(**batch_of(processor, sounds((25, 2500)))).logits[:, -1].logsumexp(-1).sum().backward()
    given = {name: its.grad for name, its in adapted.named_parameters() if its.requires_grad}
    assert all(torch.isfinite(its).all() for its in given.values())
    assert all(its.abs().sum() > 0 for name, its in given.items() if "lora_B" in name)


def test_a_packed_batch_of_training_answers_as_the_padded_one(model, processor, tmp_path):
    clips = read_clips([write_clips(tmp_path / "clips.parquet")])
    collate = collator(processor, clips)
    batch = {key: its for key, its in collate(list(clips)).items() if key not in ASIDE}
    with torch.inference_mode():
        padded = family.last_logits(model, collate.prompts(range(len(clips))))
        with packed_rows(model.model.language_model):
            packed = model(**batch, use_cache=False).logits[0]
    scored = collate(list(clips))["scored"]
    torch.testing.assert_close(packed[scored], padded, atol=1e-5, rtol=0)


def test_every_parameter_of_the_encoder_may_be_trained_but_what_nobody_uses(model):
    parts = trainable_by_part(unfreeze(copy.deepcopy(model), "language_model+encoder"))
    unused = model.model.audio_tower.audio_bos_eos_token.weight.numel()
    assert parts["projector"] == 96 * 96 + 96
    assert parts["trainable"] == parts["all"] - unused


def test_nf4_leaves_encoder_and_head_alone(base):
    quantised = family.load(
        base,
        revision=None,
        quantization={**NF4, "bnb_4bit_compute_dtype": "float32"},
        dtype=torch.float32,
        device="cpu",
    )
    names = [name for name, its in quantised.named_modules() if type(its).__name__ == "Linear4bit"]
    assert len(names) == 2 * 7
    assert all(name.startswith("model.language_model.") for name in names)


@pytest.mark.parametrize("scope", ["language_model", pytest.param("language_model+encoder", marks=pytest.mark.slow)])
def test_an_adapter_is_trained_by_the_same_trainer_and_answers_through_the_same_scorer(base, home, tmp_path, scope):
    (out := tmp_path / "adapter").mkdir()
    clips = write_clips(tmp_path / "clips.parquet")
    training = {"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    train(job(base, out, clips=(clips,), training=training, scope=scope), "cpu")
    facts = json.loads((out / "training.json").read_text())
    assert facts["base_class"] == "Qwen2_5OmniThinkerForConditionalGeneration"
    assert bool(facts["parameters"]["encoder"]) == (scope != "language_model")
    tables = {}
    for name, adapter in {"base": None, "adapter": str(out)}.items():
        (scores := tmp_path / f"scores of {name}").mkdir()
        audio_llm.main(written(scoring(base, scores, clips, adapter), tmp_path))
        tables[name] = pd.read_parquet(scores / "scores.parquet")
        forward, generated = (tables[name].query("method == @method") for method in ("forward", "generate"))
        np.testing.assert_allclose(generated["p_speech"].to_numpy(), forward["p_speech"].to_numpy(), atol=1e-5)
        heard = json.loads((scores / "listening.json").read_text())
        assert heard["silence"]["largest_change_of_log_odds"] > 1e-3
    assert (tables["adapter"]["p_speech"] - tables["base"]["p_speech"]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="does not fit this base"):
        with_adapter(copy.deepcopy(unlike(base)), out)


def scoring(base, output, clips, adapter) -> ScoringJob:
    asked = Asked(classes=("SPEECH", "NONSPEECH"), answers=("A", "B"), prompt=PROMPT, longest_ms=200)
    return ScoringJob(
        base=str(base), revision=None, quantization=None, question=asked, device="cpu", output=str(output),
        adapter=adapter, base_revision="b" * 40, code="test", clips={"test": (clips,)}, generate_on=("test",),
        open_rules=None, batch_size=None,
    )  # fmt: skip


def written(its, folder) -> str:
    (file := folder / "job.json").write_text(its.model_dump_json())
    return str(file)


def unlike(base):
    """Another Omni, of one layer."""
    processor = family.load_processor(base, None)
    config = tiny_omni.make_config(processor)
    config.text_config.num_hidden_layers = 1
    return family.prepare(Qwen2_5OmniThinkerForConditionalGeneration(config))


@pytest.mark.slow
def test_prompts_are_searched_with_it(base, home, tmp_path):
    search = job_of(tmp_path / "search", base)
    prompting.main(written(search, tmp_path))
    found = json.loads(Path(search.output, "search.json").read_text())
    assert found["evaluations"]["search"] > 0
    assert found["listening"]["batch_composition"]["largest_difference"] <= 1e-5


# --- the cache and the checks ------------------------------------------------------------------------------------


def test_vectors_from_the_cache_answer_to_the_bit(model, processor, home):
    asked = questions(processor, [QUESTION], ["A", "B"])
    clips = [encode_flac(waveform) for waveform in sounds(SHORT_MS)]
    never = Scorer(model, processor).score(clips, asked)[0]
    for times in ("encoded", "found"):
        cache = EncoderCache(encoder_revision(model))
        assert len(cache) == (len(clips) if times == "found" else 0)
        np.testing.assert_array_equal(Scorer(model, processor, cache).score(clips, asked)[0].p_first, never.p_first)


def test_a_listening_thinker_passes_and_a_deaf_one_is_stopped(model, processor):
    question = questions(processor, [QUESTION], ["A", "B"])[0]
    clips = [encode_flac(waveform) for waveform in sounds((*SHORT_MS, 40))]
    found = check(Scorer(model, processor), processor, question, QUESTION, clips)
    assert found["left_padding"]["largest_difference"] <= 1e-5
    assert found["zero_token_clips"] == found["other_sampling_rates"] == "refused"
    deaf = copy.deepcopy(model)
    with torch.no_grad():
        deaf.model.audio_tower.proj.weight.zero_()
    with pytest.raises(ValueError, match="as it answers silence"):
        check(Scorer(deaf, processor), processor, question, QUESTION, clips)
