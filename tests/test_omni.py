"""Further families: the thinkers of Omnis answer as transformers' own, and are trained and asked as the first family is."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from peft import get_peft_model
from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import _get_feat_extract_output_lengths

from tasks.audio_files import decode_flac, encode_flac
from tasks.detectors import audio_llm
from tasks.models import family, listening, prompting
from tasks.models.adapted import with_adapter
from tasks.models.base_content import model_sha
from tasks.models.encoder_cache import EncoderCache, encoder_revision
from tasks.models.families import family_at
from tasks.models.frames import CHUNKED, HOP, POOLED
from tasks.models.jobs import Question as Asked
from tasks.models.jobs import ScoringJob
from tasks.models.listening import check
from tasks.models.packing import packed_rows
from tasks.models.scope import lora_config, trainable_by_part, unfreeze
from tasks.models.scoring import Scorer, questions
from tasks.models.trainer import ASIDE
from tasks.models.training import read_clips, to_train, train
from tasks.published_adapters import base_of
from tests import tiny_omni
from tests.adapting import NF4, PROMPT, collator, job, write_clips
from tests.commands import earshot
from tests.test_prompts import job_of

QUESTION = "Choose one: A) SPEECH B) NONSPEECH."
DURATIONS_MS = (30, 25, 61, 99, 333.4, 2000, 2010, 4090)  # chunks are 2 s long, or 1 s
LONGEST_MS = (
    4100  # of as many tokens as 4090; the longest of a batch that Qwen3-Omni's processor pads ends in a mirror
)
SHORT_MS = (30, 25, 61, 200, 1000)
MANY_MS = (25, 30, 40, 50, 80, 99, 100, 120, 160, 200, 330, 500, 750, 990, 1000, 1005, 1090, 1500)
FIRST, *LATER = tiny_omni.OMNIS
LATER_SLOW = pytest.mark.parametrize(
    "omni", [FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in LATER)], indirect=True
)
LATER_SLOW_ONLY = pytest.mark.parametrize(
    "omni", [pytest.param(name, marks=pytest.mark.slow) for name in LATER], indirect=True
)


def sounds(durations_ms) -> list[np.ndarray]:
    random = np.random.default_rng(5)
    return [random.uniform(-0.7, 0.7, round(16 * ms)).astype(np.float32) for ms in durations_ms]


@pytest.fixture(scope="module", params=tiny_omni.OMNIS)
def omni(request):
    return tiny_omni.OMNIS[request.param]


@pytest.fixture(scope="module")
def base(omni, tmp_path_factory):
    return tiny_omni.save(omni, tmp_path_factory.mktemp("tiny omni"))


@pytest.fixture(scope="module")
def processor(base):
    return family.load_processor(base, None)


@pytest.fixture(scope="module")
def padded(omni, base):
    return tiny_omni.thinker(omni).from_pretrained(base, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def model(base):
    return family.load(base, revision=None, quantization=None, dtype=torch.float32, device="cpu").eval()


@pytest.fixture(scope="module")
def reference(padded, processor):
    return answered_alone(padded, processor, sounds((*DURATIONS_MS, LONGEST_MS)))


def answered_alone(padded, processor, waveforms):
    """What transformers' processor makes of clips, and its model's last logits of each alone but the last, the longest."""
    content = [{"type": "audio", "audio_url": "clip"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    inputs = processor(
        text=[text] * len(waveforms), audio=waveforms, sampling_rate=16_000, return_tensors="pt", padding=True
    )
    with torch.inference_mode():
        return inputs, torch.cat([padded(**row).logits[:, -1] for row in rows_of(inputs)[:-1]])


def rows_of(inputs) -> list[dict[str, torch.Tensor]]:
    """Every row of a batch without what its longest one padded it with, as transformers takes it alone."""
    audio = ("input_features", "feature_attention_mask")
    heard = inputs["feature_attention_mask"].bool()
    rows = [{name: inputs[name][k : k + 1][..., its] for name in audio} for k, its in enumerate(heard)]
    if "input_ids" in inputs:
        text = ("input_ids", "attention_mask")
        for k, (row, its) in enumerate(zip(rows, inputs["attention_mask"].bool(), strict=True)):
            row.update({name: inputs[name][k : k + 1, its] for name in text})
    return rows


@torch.inference_mode()
def heard_padded(padded, inputs):
    return padded.get_audio_features(inputs["input_features"], inputs["feature_attention_mask"]).last_hidden_state


def heard_alone(padded, inputs) -> list[torch.Tensor]:
    """transformers' own vectors of every clip of a batch, each heard alone."""
    return [heard_padded(padded, row) for row in rows_of(inputs)]


def batch_of(processor, waveforms, pad_after=0):
    prompt, clips = family.tokenise_prompt(processor, QUESTION), family.extract(processor, waveforms)
    return family.collate(clips, prompt, [[]] * len(clips), processor.tokenizer.pad_token_id, pad_after=pad_after)


def encoded(model, processor, waveforms):
    return encoded_clips(model, family.extract(processor, waveforms))


def encoded_clips(model, clips):
    inputs = family.audio_inputs(clips)
    return family.encode(model, inputs["input_features"], inputs["feature_attention_mask"])


def test_qwen3_omni_counts_audio_tokens_as_transformers_does_and_hears_every_clip():
    frames = torch.arange(1, 4001)
    tokens = _get_feat_extract_output_lengths(frames)
    assert torch.equal(CHUNKED.tokens_of(frames), tokens)
    assert [CHUNKED.tokens_of(n) for n in frames.tolist()] == tokens.tolist()
    kept = [CHUNKED.needed(n) for n in frames.tolist()]
    assert all(n <= its < n + 8 for n, its in zip(frames.tolist(), kept, strict=True))
    assert all((its - 1) // 100 == (n - 1) // 100 for n, its in zip(frames.tolist(), kept, strict=True)), (
        "no chunk more"
    )
    assert [CHUNKED.audio_tokens(16 * ms) for ms in (0, 10, 20, 80, 81, 1000, 1001)] == [0, 1, 1, 1, 2, 13, 14]


@pytest.mark.parametrize("rate", [POOLED, CHUNKED], ids=["pooled", "chunked"])
def test_the_shortest_clip_that_a_rate_names_gives_a_token_and_one_of_a_frame_less_gives_none(rate):
    shortest = round(16 * rate.shortest_ms)
    assert (rate.audio_tokens(shortest), rate.audio_tokens(shortest - HOP)) == (1, 0)


# --- exact -------------------------------------------------------------------------------------------------------


def features_of(processor, waveforms, padding="max_length"):
    """By transformers' own processor, silence behind every clip, or behind all but the longest."""
    keywords = {"sampling_rate": 16_000, "return_attention_mask": True, "return_tensors": "pt", "padding": padding}
    return processor._process_audio(waveforms, **keywords)[0]


@pytest.mark.parametrize("longest_ms", [8080, pytest.param(30_000, marks=pytest.mark.slow)])
@torch.inference_mode()
def test_clips_from_30_ms_to_30_s_are_heard_as_transformers_hears_each_alone(model, padded, processor, longest_ms):
    waveforms = sounds((30, 2010, 61, 190, longest_ms))
    heard = torch.cat(heard_alone(padded, features_of(processor, waveforms)))
    torch.testing.assert_close(encoded(model, processor, waveforms), heard, atol=1e-5, rtol=0)
    alone = torch.cat([encoded(model, processor, [waveform]) for waveform in waveforms])
    torch.testing.assert_close(alone, heard, atol=1e-5, rtol=0)


@pytest.mark.parametrize("given", [{"n_window": 100}, {"n_window_infer": 80}], ids=str)
def test_chunks_and_windows_that_nobody_counts_tokens_for_are_refused(given, tmp_path):
    config = tiny_omni.qwen3_config(tiny_omni.make_processor(tiny_omni.QWEN3))
    for name, value in given.items():
        setattr(config.audio_config, name, value)
    config.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"hears chunks of \d+ frames in windows of \d+, .* counts .* for chunks of 100"
    ):
        family.load(tmp_path, revision=None, quantization=None, dtype=torch.float32, device="cpu")


@torch.inference_mode()
def test_an_encoder_that_forgets_its_windows_hears_something_else(omni, model, processor, monkeypatch):
    expected = encoded(model, processor, sounds((8500,)))
    window = "n_window_infer" if omni is tiny_omni.QWEN3 else "n_window"
    monkeypatch.setattr(model.model.audio_tower, window, 3000)
    assert (encoded(model, processor, sounds((8500,))) - expected).abs().max() > 0.01


@torch.inference_mode()
def test_clips_of_every_length_are_heard_as_transformers_hears_each_alone_whatever_their_company(
    omni, model, padded, processor
):
    waveforms = sounds([*MANY_MS, 10, 20] if omni is tiny_omni.QWEN3 else MANY_MS)
    expected = heard_alone(padded, features_of(processor, [*waveforms, *sounds([1600])], padding=True))[:-1]
    clips = family.extract(processor, waveforms)
    for clip, vectors in zip(clips, expected, strict=True):
        torch.testing.assert_close(encoded_clips(model, [clip]), vectors, atol=1e-5, rtol=0)
    for most in (99, 100, 150):
        kept = [k for k, clip in enumerate(clips) if clip.frames <= most]
        vectors = torch.cat([expected[k] for k in kept])
        torch.testing.assert_close(encoded_clips(model, [clips[k] for k in kept]), vectors, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_company_that_transformers_lets_change_a_short_clip_changes_nothing_here(omni, model, padded, processor):
    """Qwen3-Omni's own encoder ends the convolutions of a clip up to 1 s where the longest of its batch ends."""
    features = features_of(processor, sounds((30, 1000)))
    alone, together = heard_alone(padded, features)[0][0], heard_padded(padded, features)[0]
    assert ((alone - together).abs().max() > 0.01) == (omni is tiny_omni.QWEN3)
    found = encoded(model, processor, sounds((30, 1000)))[0]
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding", [True, "max_length"], ids=["its own", "silence"])
def test_a_clip_ends_in_silence_and_not_in_its_mirror_as_what_qwen3_omni_pads_least_does(omni, processor, padding):
    """Asked of one clip or the longest, Qwen3-Omni's processor mirrors its end and leaves an unfinished last frame out."""
    its_own = padding is True and omni is tiny_omni.QWEN3
    for ms, frames, mirrored in ((330, 33, its_own), (333.4, 33 if its_own else 34, False)):
        clip = family.extract(processor, sounds((ms,)))[0]
        theirs = features_of(processor, sounds((ms,)), padding)
        assert (clip.frames, int(theirs["feature_attention_mask"].sum())) == (math.ceil(ms / 10), frames)
        apart = (theirs["input_features"][0, :, :frames] - clip.features[:, :frames]).abs().amax(0)
        assert apart[:-2].max() == 0
        assert (apart[-2:].max() > 1e-3) == mirrored


@pytest.mark.parametrize("omni", ["Qwen3-Omni"], indirect=True)
@torch.inference_mode()
def test_in_bf16_clips_of_one_token_are_heard_too(model, processor):
    """A convolution of stride 2 over what is 1 or 2 wide reads on a CPU, in bf16, what it never wrote."""
    narrow = copy.deepcopy(model).bfloat16()
    clips = family.extract(processor, sounds([25] * 60))
    alone = torch.cat([encoded_clips(narrow, [clip]).float() for clip in clips])
    torch.testing.assert_close(alone, encoded_clips(model, clips), atol=0.1, rtol=0)


@torch.inference_mode()
def test_a_batch_of_all_lengths_answers_as_transformers_asked_each_alone_and_generation_says_the_same(
    model, processor, reference
):
    inputs, logits = reference
    batch = batch_of(processor, sounds(DURATIONS_MS))
    assert torch.equal(batch["input_ids"], inputs["input_ids"][:-1])
    assert torch.equal(batch["attention_mask"], inputs["attention_mask"][:-1])
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
def test_its_own_decoder_answers_as_transformers_asked_each_alone(model, padded, processor):
    asked = questions(processor, [QUESTION], ["A", "B"])
    clips = [encode_flac(waveform) for waveform in sounds(SHORT_MS)]
    found = Scorer(model, processor).score(clips, asked)[0]
    _, logits = answered_alone(padded, processor, [*map(decode_flac, clips), *sounds((1100,))])
    p = logits.softmax(-1)
    first, second = (p[:, ids].sum(1) for ids in asked[0].ids.values())
    np.testing.assert_allclose(found.p_first, (first / (first + second)).numpy(), atol=1e-5)


@pytest.fixture(scope="module")
def whole(omni, base, tmp_path_factory):
    return tiny_omni.save_whole(omni, base, tmp_path_factory.mktemp("as on the hub"))


def test_a_whole_omni_as_the_hub_holds_it_is_read_without_what_sees_and_speaks(omni, model, processor, whole):
    names = json.loads((whole / "model.safetensors.index.json").read_text())["weight_map"]
    for part in ("thinker.visual.", "thinker.audio_tower.", "thinker.model.layers.", "thinker.lm_head.", "talker."):
        assert any(name.startswith(part) for name in names), "under the names of the Hub"
    assert family_at(whole, None) is omni.module
    found = family.load(whole, revision=None, quantization=None, dtype=torch.float32, device="cpu").eval()
    assert found.model.visual is None
    theirs, waveforms = family.load_processor(whole, None), sounds((25, 200))
    assert type(theirs.tokenizer).__name__ == "Qwen2Tokenizer"
    batches = [batch_of(its, waveforms) for its in (theirs, processor)]
    for name, its in batches[0].items():
        torch.testing.assert_close(its, batches[1][name], atol=0, rtol=0)
    with torch.inference_mode():
        answers = [family.last_logits(its, batches[0]) for its in (found, model)]
        assert torch.equal(*answers)
        assert found.generation_config.do_sample, "shipped, and not obeyed"
        said, logits = family.generated_logits(found, batches[0], [5, 6, 7])
    torch.testing.assert_close(logits, answers[0], atol=1e-5, rtol=0)
    assert torch.equal(said, answers[0][:, 5:8].argmax(1) + 5)


@pytest.mark.slow
@torch.inference_mode()
def test_clips_up_to_30_s_are_heard_whole_by_the_extractor_that_the_hub_holds(omni, model, processor, whole):
    """Without a chunk_length, which Qwen3-Omni's file lacks, transformers' extractor knows of 30 s."""
    theirs = family.load_processor(whole, None)
    assert theirs.feature_extractor.nb_max_frames == (3000 if omni is tiny_omni.QWEN3 else 30_000)
    waveforms = sounds((29_990, 30, 61))
    torch.testing.assert_close(encoded(model, theirs, waveforms), encoded(model, processor, waveforms), atol=0, rtol=0)
    assert len(encoded(model, theirs, sounds((30_000,)))) == processor_tokens(processor, 30_000)


def processor_tokens(processor, ms) -> int:
    """Audio tokens that transformers' own processor asks for."""
    return int(features_of(processor, sounds((ms,)))["num_audio_tokens"][0])


# --- trained -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scope", "reached"), [("language_model", 0), ("language_model+encoder", 2 * 3 * 2 * 4 * 96)])
def test_gradients_reach_what_a_scope_names_also_beside_empty_chunks(model, processor, scope, reached):
    adapted = get_peft_model(copy.deepcopy(model), lora_config(model, {"r": 4}, scope))
    parts = trainable_by_part(adapted)
    assert (parts["encoder"], parts["projector"]) == (reached, 0)
    text = [its for name, its in model.model.language_model.named_modules() if "_proj" in name and "self_attn" in name]
    assert parts["language_model"] == sum(4 * (its.in_features + its.out_features) for its in text)
    assert len(text) == 2 * 4
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
            with torch.autocast("cpu", torch.bfloat16):  # widens what queries and keys are made of, and not values
                rounded = model(**batch, use_cache=False).logits[0]
    scored = collate(list(clips))["scored"]
    torch.testing.assert_close(packed[scored], padded, atol=1e-5, rtol=0)
    torch.testing.assert_close(rounded[scored].float(), padded, atol=0.2, rtol=0)


def test_every_parameter_of_the_encoder_may_be_trained_but_what_nobody_uses(omni, model):
    parts = trainable_by_part(unfreeze(copy.deepcopy(model), "language_model+encoder"))
    unused = sum(its.numel() for name, its in model.named_parameters() if name.endswith(omni.module.FIXED))
    assert parts["projector"] == 96 * 96 + 96
    assert parts["trainable"] == parts["all"] - unused


@pytest.mark.parametrize("omni", ["Qwen3-Omni"], indirect=True)
@pytest.mark.parametrize(
    "lora", [{"target_modules": ["q_proj", "gate_proj", "up_proj", "down_proj"]}, {"target_modules": "all-linear"},
             {"target_parameters": ["mlp.experts.down_proj"]}], ids=["mlp", "all-linear", "target_parameters"],
)  # fmt: skip
def test_an_adapter_on_experts_is_refused_with_what_to_name_instead(model, lora):
    with pytest.raises(ValueError, match=r"lora: .*mlp of this base holds experts, .* train\.lora=attention does"):
        to_train(copy.deepcopy(model), job("base", "out", lora={"r": 2, **lora}))


def test_nf4_leaves_encoder_and_head_alone_and_is_refused_where_it_would_leave_experts_alone(omni, base):
    given = {**NF4, "bnb_4bit_compute_dtype": "float32"}
    keywords = {"revision": None, "quantization": given, "dtype": torch.float32, "device": "cpu"}
    if omni is tiny_omni.QWEN3:
        with pytest.raises(ValueError, match=r"quantization: 75% of the weights .* are experts, .*quantization=none"):
            family.load(base, **keywords)
        return
    quantised = family.load(base, **keywords)
    names = [name for name, its in quantised.named_modules() if type(its).__name__ == "Linear4bit"]
    assert len(names) == 2 * 7
    assert all(name.startswith("model.language_model.") for name in names)


def test_experts_are_counted_in_the_layers_that_hold_them_and_without_any_nf4_reaches_every_layer(tmp_path):
    omni, processor = tiny_omni.QWEN3, tiny_omni.make_processor(tiny_omni.QWEN3)
    keywords = {"revision": None, "quantization": NF4, "dtype": torch.float32, "device": "cpu"}
    for text, routed in (({"decoder_sparse_step": 2}, 1), ({"num_experts": 1, "num_experts_per_tok": 1}, 2),
                         ({"mlp_only_layers": [0, 1]}, 0)):  # fmt: skip
        config = omni.config(processor)
        for name, value in text.items():
            setattr(config.text_config, name, value)
        model = tiny_omni.thinker(omni)(config)
        size, held = omni.module.size_of(config), [its.mlp for its in model.model.language_model.layers]
        assert size.expert_layers == routed == sum(hasattr(mlp, "experts") for mlp in held)
        experts = sum(its.numel() for mlp in held for its in mlp.parameters() if its.ndim == 3)
        assert size.layer_weights - size.linear_weights == experts
        model.save_pretrained(tmp_path)
        if routed:
            with pytest.raises(ValueError, match=r"quantization: \d+% of the weights .* are experts"):
                family.load(tmp_path, **keywords)
    names = [
        name for name, its in family.load(tmp_path, **keywords).named_modules() if type(its).__name__ == "Linear4bit"
    ]
    assert len(names) == 2 * 7


@LATER_SLOW
@pytest.mark.parametrize("scope", ["language_model", pytest.param("language_model+encoder", marks=pytest.mark.slow)])
def test_an_adapter_is_trained_by_the_same_trainer_and_answers_through_the_same_scorer(
    omni, base, home, tmp_path, scope
):
    (out := tmp_path / "adapter").mkdir()
    clips = write_clips(tmp_path / "clips.parquet")
    training = {"max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "logging_steps": 1}
    train(job(base, out, clips=(clips,), training=training, scope=scope), "cpu")
    facts = json.loads((out / "training.json").read_text())
    assert facts["base_class"] == omni.facts.base_class
    losses = [line["loss"] for line in facts["history"] if "loss" in line]
    assert losses[-1] < losses[0] - 0.1
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
        with_adapter(copy.deepcopy(unlike(omni, base)), out)


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


def unlike(omni, base):
    """Another Omni, of one layer."""
    config = omni.config(family.load_processor(base, None))
    config.text_config.num_hidden_layers = 1
    return family.prepare(tiny_omni.thinker(omni)(config))


@pytest.mark.slow
def test_prompts_are_searched_with_it(base, home, tmp_path):
    search = job_of(tmp_path / "search", base)
    prompting.main(written(search, tmp_path))
    found = json.loads(Path(search.output, "search.json").read_text())
    assert found["evaluations"]["search"] > 0
    assert found["listening"]["batch_composition"]["largest_difference"] <= 1e-5


@LATER_SLOW_ONLY
def test_a_study_over_a_folder_of_it_is_published_checked_and_asked(whole, tmp_path):
    """The whole way, by the command line; such a base lies in no repository and is called by name and content."""
    home, clip, base = tmp_path / "home", tmp_path / "clip.wav", whole
    done = earshot(home, "run", "study/smoke", "--set", f"train.base={base}")
    assert done.code == 0, done.err[-3000:]
    repo = f"earshot/smoke-adapter@{(home / 'hub/models--earshot--smoke-adapter/refs/main').read_text()}"
    verified = earshot(home, "verify", repo, "--rescore", "2", "--base", str(base))
    assert verified.code == 0, verified.out
    soundfile.write(clip, sounds((15,))[0], 16_000)
    with pytest.raises(
        FileNotFoundError, match=r"a folder of whoever trained .* give a folder that holds it with --base"
    ):
        base_of(repo, (base.name, model_sha(base)), None)
    said = earshot(home, "predict", repo, str(clip), "--base", str(base))
    assert said.code == 0, "15 ms give Qwen3-Omni a token: " + said.err
    card = next((home / "hub/models--earshot--smoke-adapter/snapshots").glob("*/README.md")).read_text()
    assert f"{base.name}, a folder in no repository, its content `{model_sha(base)}`" in card
    assert "base_model" not in card
    told = [
        file for file in (home / "hub").rglob("*") if file.is_file() and str(base.parent).encode() in file.read_bytes()
    ]
    assert not told, "no path of this machine is published"


# --- the cache and the checks ------------------------------------------------------------------------------------


def test_vectors_from_the_cache_answer_to_the_bit(model, processor, home):
    asked = questions(processor, [QUESTION], ["A", "B"])
    clips = [encode_flac(waveform) for waveform in sounds(SHORT_MS)]
    never = Scorer(model, processor).score(clips, asked)[0]
    for times in ("encoded", "found"):
        cache = EncoderCache(encoder_revision(model, processor))
        assert len(cache) == (len(clips) if times == "found" else 0)
        np.testing.assert_array_equal(Scorer(model, processor, cache).score(clips, asked)[0].p_first, never.p_first)


@pytest.mark.parametrize("omni", ["Qwen3-Omni"], indirect=True)
def test_a_count_of_tokens_that_is_another_familys_stops_the_run(processor, monkeypatch):
    assert listening.refuses_unheard(processor, QUESTION) == "every clip gives one"
    monkeypatch.setattr(listening, "rate_for", lambda processor: POOLED)
    with pytest.raises(ValueError, match=r"a clip of 10 ms 1 audio tokens, and tasks/models/frames\.py counts 0"):
        listening.refuses_unheard(processor, QUESTION)


@LATER_SLOW
def test_a_listening_thinker_passes_and_a_deaf_one_is_stopped(omni, model, processor):
    question = questions(processor, [QUESTION], ["A", "B"])[0]
    clips = [encode_flac(waveform) for waveform in sounds((*SHORT_MS, 40))]
    found = check(Scorer(model, processor), processor, question, QUESTION, clips)
    assert found["left_padding"]["largest_difference"] <= 1e-5
    assert found["zero_token_clips"] == ("every clip gives one" if omni is tiny_omni.QWEN3 else "refused")
    assert found["other_sampling_rates"] == "refused"
    deaf = copy.deepcopy(model)
    with torch.no_grad():
        deaf.get_submodule(omni.module.PARTS["projector"]).weight.zero_()
    with pytest.raises(ValueError, match="as it answers silence"):
        check(Scorer(deaf, processor), processor, question, QUESTION, clips)
