"""A family of one's own, as tasks/models/README.md has it: a module and its facts, and everything else hears it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from tasks.audio_files import encode_flac
from tasks.models import families, family, qwen2_audio, tiny
from tasks.models.encoder_cache import EncoderCache, encoder_revision
from tasks.models.families import Facts
from tasks.models.frames import POOLED
from tasks.models.listening import check
from tasks.models.loading import load_whole
from tasks.models.room import known_before
from tasks.models.scoring import Scorer, questions
from tasks.models.training import train
from tests.adapting import PROMPT, job, write_clips

NAME, MODEL_TYPE = "Audio Flamingo 3", "audioflamingo3"
FACTS = Facts(NAME, "AudioFlamingo3ForConditionalGeneration", "AudioFlamingo3Processor", POOLED, {})
TURN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for its in message['content'] %}"
    "{% if its['type'] == 'audio' %}<sound>{% else %}{{ its['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DURATIONS_MS = (25, 61, 80, 200, 333.4, 1000)


def load(base, *, revision, **how):
    return load_whole(transformers.AudioFlamingo3ForConditionalGeneration, base, revision=revision, **how)


# Its encoder is Qwen2-Audio's, its projector has two layers, and its `forward` calls the mask of features otherwise.
MODULE = SimpleNamespace(
    PARTS=qwen2_audio.PARTS, UNQUANTISED=qwen2_audio.UNQUANTISED, FIXED=qwen2_audio.FIXED, load=load,
    load_processor=qwen2_audio.load_processor, adjust=qwen2_audio.adjust, encode=qwen2_audio.encode,
    size_of=qwen2_audio.size_of, __name__=qwen2_audio.__name__,
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny one with random weights."""
    folder, tokenizer = tmp_path_factory.mktemp("flamingo"), tiny.make_processor().tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<sound>"]})
    extractor = transformers.WhisperFeatureExtractor(feature_size=128)
    transformers.AudioFlamingo3Processor(extractor, tokenizer, chat_template=TURN).save_pretrained(folder)
    config = transformers.AudioFlamingo3Config(
        audio_config={
            "model_type": "audioflamingo3_encoder", "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 384, "num_mel_bins": 128,
        },
        text_config={
            "model_type": "qwen2", "vocab_size": len(tokenizer), "hidden_size": 96, "intermediate_size": 384,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": None,
            "pad_token_id": tokenizer.pad_token_id, "eos_token_id": 2, "tie_word_embeddings": False,
        },
        audio_token_id=tokenizer.convert_tokens_to_ids("<sound>"),
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AudioFlamingo3ForConditionalGeneration(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(families.FAMILIES, MODEL_TYPE, FACTS)
    named = families.family_named
    monkeypatch.setattr(families, "family_named", lambda its: MODULE if its == MODEL_TYPE else named(its))


def loaded(base):
    model = family.load(base, revision=None, quantization=None, dtype=torch.float32, device="cpu").eval()
    return model, family.load_processor(base, None)


def sounds():
    random = np.random.default_rng(0)
    return [random.uniform(-0.7, 0.7, round(16 * ms)).astype(np.float32) for ms in DURATIONS_MS]


@torch.inference_mode()
def test_it_answers_as_transformers_asked_each_alone_by_one_forward_and_by_generation(base):
    (model, processor), waveforms = loaded(base), sounds()
    padded = transformers.AudioFlamingo3ForConditionalGeneration.from_pretrained(base, dtype=torch.float32).eval()
    prompt = family.tokenise_prompt(processor, PROMPT)
    clips = family.extract(processor, waveforms)
    batch = family.collate(clips, prompt, [[]] * len(clips), processor.tokenizer.pad_token_id)
    content = [{"type": "audio"}, {"type": "text", "text": PROMPT}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    alone = [processor(text=[text], audio=[its], sampling_rate=16_000) for its in waveforms]
    logits = torch.cat([padded(**its).logits[:, -1] for its in alone])
    torch.testing.assert_close(family.last_logits(model, batch), logits, atol=1e-5, rtol=0)
    said, generated = family.generated_logits(model, batch, [5, 6, 7])
    torch.testing.assert_close(generated, logits, atol=1e-5, rtol=0)
    assert torch.equal(said, logits[:, 5:8].argmax(1) + 5)


@pytest.mark.slow
def test_it_is_asked_by_the_same_scorer_from_the_same_cache_and_after_the_same_checks(base, home):
    model, processor = loaded(base)
    asked = questions(processor, [PROMPT], ["A", "B"])
    flacs = [encode_flac(its) for its in sounds()]
    cache = EncoderCache(encoder_revision(model, processor))
    never, kept = (Scorer(model, processor, its).score(flacs, asked)[0].p_first for its in (None, cache))
    np.testing.assert_array_equal(kept, never)
    heard = check(Scorer(model, processor), processor, asked[0], PROMPT, flacs)
    assert heard["zero_token_clips"] == "refused"


def test_a_plan_knows_how_wide_it_is_though_its_encoder_calls_its_widths_otherwise(base):
    known = known_before(str(base))
    assert (known.family, known.rate) == (NAME, POOLED)
    assert known.size == MODULE.size_of(transformers.AutoConfig.from_pretrained(base))
    assert (known.size.encoder_hidden, known.size.encoder_layers) == (96, 2)


def test_an_adapter_of_it_is_trained(base, home, tmp_path):
    (out := tmp_path / "adapter").mkdir()
    training = {"max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "logging_steps": 1}
    train(job(base, out, clips=(write_clips(tmp_path / "clips.parquet"),), training=training), "cpu")
    facts = json.loads((out / "training.json").read_text())
    losses = [line["loss"] for line in facts["history"] if "loss" in line]
    assert losses[-1] < losses[0]
    assert facts["base_class"] == FACTS.base_class
