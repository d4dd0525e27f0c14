"""Training changes the adapter and nothing else, on the answers and nothing else, to the bit the same from one seed."""

import copy
import dataclasses
import inspect
import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from recipes.training import TrainMethod
from tasks.models import devices, family, training
from tasks.models.adapted import with_adapter
from tasks.models.collation import IGNORED, Collator
from tasks.models.frames import POOLED
from tasks.models.progress_lines import Progress
from tasks.models.scope import trainable_by_part
from tasks.models.trainer import fit
from tasks.models.training import read_clips, restricted_accuracy, save, to_train
from tests.adapting import ANSWERS, NF4, PROMPT, collator, fresh, job, write_clips


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(devices, "CPU_THREADS", 1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return read_clips([write_clips(tmp_path_factory.mktemp("clips") / "train.parquet")])


def trained(tiny_base, processor, clips, folder, steps=2, **changes):
    """Model, log and job after a few steps over all clips at once."""
    batches = {
        "max_steps": steps,
        "per_device_train_batch_size": len(clips),
        "logging_steps": 1,
        "learning_rate": 1e-2,
    }
    told = job(tiny_base, folder, training=batches, **changes)
    model = to_train(fresh(tiny_base, told.quantization), told)
    collate = collator(processor, clips, told.loss_on)
    log = fit(model, processor, clips, collate, told.training, seed=told.seed, output=told.output, device="cpu")
    return model, log, told


# --- labels ------------------------------------------------------------------------------------------------------

FLACS_MS = (25, 60, 61, 100, 150, 200, 200, 200)


def rows_of(batch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Tokens and labels of every row of a packed batch, the shared beginning left out."""
    starts = (batch["position_ids"][0] == batch["layout"][2]).nonzero()[:, 0].tolist() if batch["layout"][2] else []
    starts = starts or (batch["position_ids"][0] == 0).nonzero()[:, 0].tolist()
    ends = [*starts[1:], batch["input_ids"].shape[1]]
    parts = ([batch[key][0, a:b] for a, b in zip(starts, ends, strict=True)] for key in ("input_ids", "labels"))
    ids, labels = parts
    return ids, labels


def test_the_loss_falls_on_the_answer_token_alone(processor, clips):
    batch = collator(processor, clips)([clips[i] for i in range(8)])
    ids, labels = rows_of(batch)
    assert all((row[:-1] == IGNORED).all() for row in labels)
    assert processor.batch_decode([row[-1:] for row in labels]) == ["B", "A"] * 4
    assert all(row[-1] == its[-1] for row, its in zip(labels, ids, strict=True))
    assert (batch["labels"][0, : batch["layout"][2]] == IGNORED).all()


def test_the_loss_on_a_turn_is_answer_and_end_of_turn(processor, clips):
    batch = collator(processor, clips, "turn")([clips[i] for i in range(8)])
    _, labels = rows_of(batch)
    assert all((row[:-2] == IGNORED).all() for row in labels)
    assert processor.batch_decode([row[-2:] for row in labels]) == ["B<|im_end|>", "A<|im_end|>"] * 4
    assert processor.batch_decode(batch["targets"][batch["answers"]][:, None]) == ["B", "A"] * 4


def test_the_loss_on_a_sequence_is_everything_but_audio_and_what_follows_nothing(processor, clips):
    batch = collator(processor, clips, "sequence")([clips[i] for i in range(8)])
    assert batch["layout"][2] == 0, "a beginning that is labelled is every row's own"
    token = processor.tokenizer.convert_tokens_to_ids(processor.audio_token)
    for ids, labels, milliseconds in zip(*rows_of(batch), FLACS_MS, strict=True):
        audio = ids == token
        assert (labels[audio] == IGNORED).all()
        assert labels[0] == IGNORED
        assert torch.equal(labels[1:][~audio[1:]], ids[1:][~audio[1:]])
        assert audio.sum() == POOLED.audio_tokens(16 * milliseconds)
    assert processor.batch_decode(batch["targets"][batch["answers"]][:, None]) == ["B", "A"] * 4


def test_rows_may_come_in_any_order(processor, clips):
    collate = collator(processor, clips)
    batch = collate([clips[i] for i in (7, 0, 3)])
    assert processor.batch_decode(batch["targets"][:, None]) == ["A", "B", "A"]
    features = collate.clips[0].features
    assert torch.equal(batch["input_features"][1, :, : features.shape[1]], features)


def test_prompts_are_the_batch_without_its_answers(processor, clips):
    collate = collator(processor, clips)
    full, prompts = collate([clips[i] for i in range(8)]), collate.prompts(range(8))
    beginning = full["input_ids"][0, : full["layout"][2]]
    for ids, prompt, mask in zip(rows_of(full)[0], prompts["input_ids"], prompts["attention_mask"], strict=True):
        assert torch.equal(torch.cat([beginning, ids[:-1]]), prompt[mask == 1])
    assert torch.equal(prompts["input_features"], full["input_features"])


def test_an_answer_that_is_one_token_only_after_a_space_is_refused(processor, clips):
    """It could be scored, and its training label would be cut."""
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer.add_tokens([" maybe"])
    spaced = copy.copy(processor)
    spaced.tokenizer = tokenizer
    with pytest.raises(ValueError, match=r"'maybe' is [2-9] tokens at the start of a turn"):
        Collator(spaced, clips, PROMPT, {"SPEECH": "A", "NONSPEECH": "maybe"}, "answer")


def test_clips_of_several_files_keep_their_order(tmp_path):
    files = [write_clips(tmp_path / "a.parquet", (60, 80)), write_clips(tmp_path / "b.parquet", (100,))]
    rows = read_clips(files)
    assert rows["row"] == [0, 1, 2]
    assert list(rows["clip_id"]) == ["c0", "c1", "c0"]


# --- steps -------------------------------------------------------------------------------------------------------


def hand_loss(model, collate, rows: int) -> float:
    """Mean cross-entropy of the answers, from the padded prompts alone."""
    with torch.inference_mode():
        logits = family.last_logits(model.get_base_model().eval(), collate.prompts(range(rows)))
    answers = torch.tensor([collate.completions[label][0] for label in collate.labels])
    return float(torch.nn.functional.cross_entropy(logits, answers))


@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_first_loss_is_the_cross_entropy_of_the_answers(tiny_base, processor, clips, tmp_path, accumulation):
    """Also over accumulated batches, where the plain Trainer is wrong for this model."""
    told = job(tiny_base, tmp_path / "out", training={
        "max_steps": 1, "per_device_train_batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation,
        "logging_steps": 1})  # fmt: skip
    model = to_train(fresh(tiny_base), told)
    collate = collator(processor, clips)
    expected = hand_loss(model, collate, 8)
    (entry,) = fit(model, processor, clips, collate, told.training, seed=1, output=told.output, device="cpu")
    assert entry["loss"] == pytest.approx(expected, abs=1e-5)


def test_a_run_shorter_than_its_logging_interval_still_has_a_history(tiny_base, processor, clips, tmp_path):
    collate = collator(processor, clips)
    model = to_train(fresh(tiny_base), job(tiny_base, tmp_path))
    training = {"max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 50}
    history = fit(model, processor, clips, collate, training, seed=1, output=str(tmp_path / "out"), device="cpu")
    assert [entry["step"] for entry in history] == [2]


def test_only_the_adapter_changes(tiny_base, processor, clips, tmp_path):
    before = fresh(tiny_base).state_dict()
    model, log, _ = trained(tiny_base, processor, clips, tmp_path / "out", steps=3)
    after = model.get_base_model().state_dict()
    plain = {name.replace(".base_layer", ""): value for name, value in after.items() if "lora_" not in name}
    assert plain.keys() == before.keys()
    assert all(torch.equal(plain[name], value) for name, value in before.items())
    assert all(value.abs().max() > 0 for name, value in after.items() if "lora_B" in name)
    assert log[-1]["loss"] < log[0]["loss"]
    timeless = {"step", "loss", "mean_token_accuracy", "learning_rate", "grad_norm"}
    assert {key for entry in log for key in entry} <= timeless, "measured times would change the adapter's fingerprint"


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tiny_base, processor, clips, tmp_path):
    def weights(folder, seed):
        model, _, _ = trained(tiny_base, processor, clips, tmp_path / folder, seed=seed)
        return {name: value for name, value in model.state_dict().items() if "lora_" in name}

    one, same, other = weights("a", 1), weights("b", 1), weights("c", 2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_nf4_trains_on_a_cpu_and_leaves_its_base_quantised(tiny_base, processor, clips, tmp_path):
    model, log, _ = trained(tiny_base, processor, clips, tmp_path / "out", steps=3, quantization=NF4)
    layer = model.get_base_model().model.language_model.layers[0].self_attn.q_proj
    assert type(layer.base_layer).__name__ == "Linear4bit"
    assert layer.base_layer.weight.dtype == torch.uint8
    assert layer.lora_B["default"].weight.abs().max() > 0
    assert np.isfinite([entry["loss"] for entry in log]).all()
    assert log[-1]["loss"] < log[0]["loss"]


def test_8_bits_train_on_a_cpu(tiny_base, processor, clips, tmp_path):
    model, log, _ = trained(
        tiny_base, processor, clips, tmp_path / "out", steps=3, quantization={"load_in_8bit": True}
    )
    layer = model.get_base_model().model.language_model.layers[0].self_attn.q_proj
    assert type(layer.base_layer).__name__ == "Linear8bitLt"
    assert log[-1]["loss"] < log[0]["loss"]


def test_4_bit_layers_answer_on_a_cpu_for_which_bitsandbytes_packs_them_anew(tiny_base, processor, clips):
    model, collate = fresh(tiny_base, NF4).eval(), collator(processor, clips)
    expected = logits_of(devices.alike_on_every_cpu(model), collate)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = True
    assert torch.equal(logits_of(devices.alike_on_every_cpu(model), collate), expected)
    model.model.language_model.layers[0].self_attn.q_proj.support_avx512bf16_for_cpu = True
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        logits_of(model, collate)


def logits_of(model, collate) -> torch.Tensor:
    with torch.inference_mode():
        return family.last_logits(model, collate.prompts(range(8)))


# --- a frozen encoder --------------------------------------------------------------------------------------------


def written(told, tmp_path) -> str:
    """The file of a job over the clips, and the empty folder it fills."""
    folder = tmp_path / f"seed{told.seed}"
    folder.mkdir()
    file = tmp_path / f"seed{told.seed}.json"
    clips = write_clips(tmp_path / "train.parquet")
    steps = {"max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1}
    file.write_text(
        told.model_copy(update={"output": str(folder), "clips": (clips,), "training": steps}).model_dump_json()
    )
    return str(file)


def test_what_a_frozen_encoder_made_once_trains_as_its_features_do(tiny_base, processor, clips, tmp_path, home):
    told = job(tiny_base, tmp_path / "out", training={
        "max_steps": 3, "per_device_train_batch_size": 8, "logging_steps": 1, "learning_rate": 1e-2})  # fmt: skip
    losses, weights = [], []
    for encoded in (None, training.encode_once(fresh(tiny_base), processor, clips)):
        model = to_train(fresh(tiny_base), told)
        collate = Collator(processor, clips, PROMPT, ANSWERS, "answer", encoded)
        log = fit(model, processor, clips, collate, told.training, seed=1, output=told.output, device="cpu")
        losses.append([entry["loss"] for entry in log])
        weights.append({name: value for name, value in model.state_dict().items() if "lora_" in name})
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0][-1] < losses[0][0]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-4, rtol=0)


def test_another_seed_encodes_nothing_again(tiny_base, tmp_path, home, monkeypatch):
    training.main(written(job(tiny_base, "", seed=1), tmp_path))
    monkeypatch.setattr(family, "encode", None)
    monkeypatch.setattr(family, "extract", None)
    training.main(written(job(tiny_base, "", seed=2), tmp_path))
    assert (tmp_path / "seed2" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    "changes",
    [{"scope": "language_model+encoder"}, {"scope": "language_model+encoder", "lora": {"target_modules": ["linear"]}}],
    ids=["the encoder is trained", "the projector is trained"],
)
def test_an_encoder_that_is_trained_hears_every_clip_itself(tiny_base, tmp_path, home, monkeypatch, changes):
    given = []
    monkeypatch.setattr(training, "Collator", lambda *its, **more: given.append(its[-1]) or Collator(*its, **more))
    training.main(written(job(tiny_base, "", **changes), tmp_path))
    parts = json.loads((tmp_path / "seed1" / "training.json").read_text())["parameters"]
    assert parts["encoder"] + parts["projector"] > 0
    assert given == [None]


def test_a_loss_that_is_no_number_stops_the_run():
    from types import SimpleNamespace

    progress = Progress(lambda: (0, 0.0), None, None)
    with pytest.raises(ValueError, match=r"the loss is nan at step 7; lower training\.learning_rate"):
        progress.on_log(None, SimpleNamespace(global_step=7, max_steps=9), None, {"loss": float("nan")})


# --- the gate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [3, 64])
def test_the_gate_counts_answers_among_the_allowed_ones(tiny_base, processor, clips, batch_size):
    """Against the decision written out: the larger of the two answers' probability mass."""
    model, collate = fresh(tiny_base).eval(), collator(processor, clips)
    with torch.inference_mode():
        p = family.last_logits(model, collate.prompts(range(8))).softmax(-1)
    a, b = (p[:, collate.answer_ids[answer]].sum(-1) for answer in "AB")
    right = [bool(x >= y) == (label == "SPEECH") for x, y, label in zip(a, b, collate.labels, strict=True)]
    assert restricted_accuracy(model, collate, batch_size=batch_size) == pytest.approx(np.mean(right))


def test_the_gate_is_one_where_the_labels_are_the_answers_and_zero_where_they_are_not(tiny_base, processor, clips):
    model, collate = fresh(tiny_base).eval(), collator(processor, clips)
    with torch.inference_mode():
        p = family.last_logits(model, collate.prompts(range(8))).softmax(-1)
    says_a = (p[:, collate.answer_ids["A"]].sum(-1) >= p[:, collate.answer_ids["B"]].sum(-1)).tolist()
    collate.labels = ["SPEECH" if a else "NONSPEECH" for a in says_a]
    assert restricted_accuracy(model, collate) == 1.0
    collate.labels = ["NONSPEECH" if a else "SPEECH" for a in says_a]
    assert restricted_accuracy(model, collate) == 0.0


# --- what is saved, what is accepted -----------------------------------------------------------------------------


def test_what_is_saved_names_its_base_in_public_and_reads_the_same_every_time(tiny_base, tmp_path):
    texts = []
    for name in ("one", "two"):
        told = job(tiny_base, tmp_path / name, lora={"r": 4, "target_modules": ["v_proj", "q_proj", "o_proj"]})
        save(to_train(fresh(tiny_base), told), told)
        texts.append((tmp_path / name / "adapter_config.json").read_text())
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
        ]
    config = json.loads(texts[0])
    assert texts[0] == texts[1]
    assert (config["base_model_name_or_path"], config["revision"]) == ("me/base", "b" * 40)
    assert config["target_modules"] == ["o_proj", "q_proj", "v_proj"]
    assert str(tiny_base) not in texts[0]


def test_a_pattern_of_layers_is_saved_as_it_was_given(tiny_base, tmp_path):
    told = job(tiny_base, tmp_path / "one", lora={"r": 4, "target_modules": r".*language_model.*\.q_proj"})
    save(to_train(fresh(tiny_base), told), told)
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["target_modules"] == r".*language_model.*\.q_proj"


def test_a_layer_that_the_base_lacks_is_refused_though_others_are_there(tiny_base, tmp_path):
    told = job(tiny_base, tmp_path / "one", lora={"r": 4, "target_modules": ["q_proj", "v_prjo"]})
    with pytest.raises(
        ValueError, match=r"no layer of this base's language model is called 'v_prjo'; there are .*v_proj"
    ):
        to_train(fresh(tiny_base), told)
    named = {"r": 4, "target_modules": ["self_attn.q_proj", "out_proj"]}
    with pytest.raises(ValueError, match="of this base's language model is called 'out_proj'"):
        to_train(fresh(tiny_base), job(tiny_base, tmp_path / "two", lora=named))
    assert to_train(fresh(tiny_base), job(tiny_base, tmp_path / "two", lora=named, scope="language_model+encoder"))


@pytest.mark.parametrize("lora", [{"target_modules": "all-linear"}, {"target_modules": r".*(q_proj|linear)"}])
def test_no_pattern_of_layers_reaches_what_the_scope_holds_frozen(tiny_base, tmp_path, lora):
    """`all-linear` reached the projector, and so every step heard all clips anew."""
    held, reached = (
        trainable_by_part(to_train(fresh(tiny_base), job(tiny_base, tmp_path, lora={"r": 2, **lora}, scope=scope)))
        for scope in ("language_model", "language_model+encoder")
    )
    assert held["encoder"] == held["projector"] == 0 < held["language_model"]
    assert min(reached["encoder"], reached["projector"]) > 0


@pytest.mark.parametrize(("lora", "said"), [
    ({"bias": "all"}, r"18 parameters .* such as model\.audio_tower\.conv1\.bias, which scope=language_model holds frozen"),
    ({"modules_to_save": ["multi_modal_projector"]}, r"2 parameters .* such as model\.multi_modal_projector"),
    ({"target_modules": ["q_proj", "linear"]}, r"no layer of this base's language model is called 'linear'; there are .*v"),
])  # fmt: skip
def test_what_would_be_trained_beyond_the_scope_is_refused(tiny_base, tmp_path, lora, said):
    with pytest.raises(ValueError, match=f"lora: .*{said}"):
        to_train(fresh(tiny_base), job(tiny_base, tmp_path, lora={"r": 2, **lora}))
    assert to_train(fresh(tiny_base), job(tiny_base, tmp_path, lora={"r": 2, **lora}, scope="language_model+encoder"))


@pytest.mark.parametrize("lora", [
    {}, {"use_dora": True}, {"use_rslora": True}, {"bias": "lora_only"}, {"modules_to_save": ["lm_head"]},
    {"target_modules": ["q_proj", "embed_tokens"]},
], ids=str)  # fmt: skip
def test_whatever_lora_trains_comes_back_as_transformers_and_peft_alone_load_it(
    tiny_base, processor, clips, tmp_path, lora
):
    """DoRA's magnitudes, biases and modules of their own were saved, and then refused as another base's."""
    model, _, told = trained(tiny_base, processor, clips, tmp_path / "out", lora={"r": 2, **lora})
    save(model, told)
    batch = collator(processor, clips).prompts(range(len(clips)))
    plain = fresh(tiny_base)
    by_peft = PeftModel.from_pretrained(plain, told.output).get_base_model()
    found = [its.eval() for its in (model.get_base_model(), with_adapter(fresh(tiny_base), told.output), by_peft)]
    with torch.inference_mode():
        ours, again, theirs = (family.last_logits(its, batch) for its in found)
        base = family.last_logits(fresh(tiny_base).eval(), batch)
    assert torch.equal(ours, again)
    assert torch.equal(again, theirs)
    assert not torch.allclose(ours, base, atol=1e-2)


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_an_adapter_that_lacks_a_tensor_or_has_one_more_is_refused(tiny_base, tmp_path, lora):
    told = job(tiny_base, tmp_path / "out", lora={"r": 2, **lora})
    save(to_train(fresh(tiny_base), told), told)
    tensors = load_file(file := tmp_path / "out" / "adapter_model.safetensors")
    name, value = max(tensors.items())
    for given, said in (
        ({its: value for its, value in tensors.items() if its != name}, r"1 of its \d+ tensors are missing and 0 are"),
        ({**tensors, f"{name}.x": value.clone()}, "0 of .* and 1 are"),
    ):
        save_file(given, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"{said} unknown"):
            with_adapter(fresh(tiny_base), told.output)


def test_a_device_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert devices.pick_device("auto") == "cpu"
    with pytest.raises(ValueError, match="this machine has no CUDA GPU"):
        devices.pick_device("cuda")


def test_the_compute_dtype_follows_the_model_unless_the_recipe_names_one():
    assert devices.with_dtype(None, torch.float32) is None
    assert devices.with_dtype(NF4, torch.bfloat16) == {**NF4, "bnb_4bit_compute_dtype": "bfloat16"}
    named = {**NF4, "bnb_4bit_compute_dtype": "float16"}
    assert devices.with_dtype(named, torch.bfloat16) == named


def test_recipes_accept_exactly_the_keywords_of_the_installed_libraries():
    """The schema reads them from source, without importing; here they are asked of the classes."""
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig
    from trl import SFTConfig

    def known(block: str, key: str) -> bool:
        try:
            TrainMethod(**{block: {key: None}})
        except ValueError as error:
            return "no such keyword" not in str(error)
        return True

    accepted = {
        "lora": {field.name for field in dataclasses.fields(LoraConfig) if field.init},
        "training": {field.name for field in dataclasses.fields(SFTConfig) if field.init},
        "quantization": set(inspect.signature(BitsAndBytesConfig).parameters) - {"kwargs"},
    }
    assert [key for block, keys in accepted.items() for key in keys if not known(block, key)] == []
    assert not any(known(block, "no_such_keyword") for block in accepted)
