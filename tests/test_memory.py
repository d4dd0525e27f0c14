"""What a training takes, by arithmetic, is what was measured of the 7 B model; what cannot fit is refused with what can."""

import pytest
import torch
import transformers

from flows.demands import demand_extras
from flows.optimize_prompt import optimize_prompt
from flows.run_study import run_study
from recipes.schema import load_study
from tasks.functional.memory import QWEN2_AUDIO_7B as SIZE
from tasks.functional.memory import (
    QWEN3_OMNI_30B,
    Asked,
    clip_bytes,
    largest_batch,
    loading_bytes,
    operations,
    weight_bytes,
)
from tasks.models.frames import POOLED
from tasks.models.jobs import Question, TrainingJob
from tasks.models.room import check_room, tokens_of
from tasks.planning import describe_gpu
from tests import tiny_omni
from tests.bench.real_size import make_omni_config

CONFIG = transformers.Qwen2AudioConfig(
    text_config={
        "model_type": "qwen2", "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11_008,
        "vocab_size": 156_032,
    },
    audio_config={"model_type": "qwen2_audio_encoder", "d_model": 1280, "encoder_layers": 32},
)  # fmt: skip
SECOND = tokens_of(1000, POOLED)
FROZEN = Asked(4, with_encoder=False, checkpointing=False)


def test_the_model_has_the_parameters_it_has():
    """8.4 B: 6.5 B in the layers, twice 0.64 B of words, 0.64 B in encoder and projector."""
    whole = SIZE.layer_weights + 2 * SIZE.vocabulary * SIZE.hidden + SIZE.encoder_weights
    assert whole == pytest.approx(8.4e9, rel=0.01)


@pytest.mark.parametrize(
    ("checkpointing", "clips", "measured_gb"), [(False, 128, 72.0), (True, 128, 11.9), (True, 32, 7.7)]
)
def test_memory_is_near_what_one_h200_took(checkpointing, clips, measured_gb):
    """Measured with the embedding on the card, which now leaves it."""
    asked = FROZEN._replace(checkpointing=checkpointing)
    embedding = 2 * SIZE.vocabulary * SIZE.hidden
    estimate = weight_bytes(SIZE, asked) + embedding + clips * clip_bytes(SIZE, asked, 85)
    assert estimate / 1e9 == pytest.approx(measured_gb, rel=0.15)


@pytest.mark.parametrize("name", tiny_omni.OMNIS)
def test_widths_of_real_size_are_those_of_transformers_own_classes(name):
    omni, (size,) = tiny_omni.OMNIS[name], tiny_omni.OMNIS[name].facts.sizes.values()
    config = make_omni_config(omni, tiny_omni.make_processor(omni))
    assert omni.module.size_of(config) == size
    with torch.device("meta"):
        model = tiny_omni.thinker(omni)(config).model
    layers, encoder = (
        sum(its.numel() for its in part.parameters()) for part in (model.language_model.layers, model.audio_tower)
    )
    assert layers == pytest.approx(size.layer_weights, rel=0.12)
    assert encoder == pytest.approx(size.encoder_weights, rel=0.05)


def test_experts_weigh_what_they_weigh_and_are_quantised_by_nobody():
    """Of 30 billion parameters a token meets 3."""
    frozen = Asked(16, with_encoder=False, checkpointing=True)
    assert QWEN3_OMNI_30B.layer_weights == pytest.approx(29.9e9, rel=0.01)
    assert QWEN3_OMNI_30B.asked_weights == pytest.approx(2.7e9, rel=0.05)
    assert loading_bytes(QWEN3_OMNI_30B, frozen) > 60e9
    assert loading_bytes(QWEN3_OMNI_30B, frozen._replace(bits=4)) > 60e9
    assert (
        largest_batch(QWEN3_OMNI_30B, frozen, SECOND, 60e9) == 0 < largest_batch(QWEN3_OMNI_30B, frozen, SECOND, 76e9)
    )
    assert operations(QWEN3_OMNI_30B, frozen, SECOND) < operations(SIZE, frozen, SECOND)


def test_more_fits_where_less_is_kept():
    fits = [largest_batch(SIZE, its, SECOND, 24e9) for its in (
        FROZEN._replace(with_encoder=True), FROZEN, FROZEN._replace(checkpointing=True))]  # fmt: skip
    assert 0 < fits[0] < fits[1] < fits[2]
    assert largest_batch(SIZE, FROZEN, SECOND, loading_bytes(SIZE, FROZEN) - 1) == 0
    assert weight_bytes(SIZE, Asked(32, True, False, full=True)) > 100e9
    assert operations(SIZE, FROZEN, SECOND) < operations(SIZE, FROZEN._replace(checkpointing=True), SECOND)


def job(**changes) -> TrainingJob:
    question = Question(classes=("SPEECH", "NONSPEECH"), answers=("A", "B"), prompt="A or B?", longest_ms=1000)
    facts = {
        "base": "x", "revision": None, "base_name": "x", "base_revision": "b" * 40, "question": question, "device": "cuda",
        "output": "x", "lora": {"r": 16}, "scope": "language_model+encoder", "clips": (), "loss_on": "answer", "seed": 1,
        "training": {"per_device_train_batch_size": 64}, "quantization": {"load_in_4bit": True},
    }  # fmt: skip
    return TrainingJob(**{**facts, **changes})


def test_what_misses_by_far_is_refused_with_what_fits():
    with pytest.raises(ValueError, match=r"a batch of 64 clips takes about \d+ GB and this GPU has 16 GB") as refused:
        check_room(job(), CONFIG, 16e9)
    assert "training.gradient_checkpointing=true: batches of " in str(refused.value)
    assert "scope=language_model and gradient_checkpointing: batches of " in str(refused.value)
    with pytest.raises(ValueError, match="nothing of this base fits: use a larger GPU"):
        check_room(job(quantization=None), CONFIG, 4e9)
    check_room(job(training={"per_device_train_batch_size": "auto"}), CONFIG, 16e9)
    check_room(job(training={"per_device_train_batch_size": 2}), CONFIG, 16e9)


def test_a_plan_of_the_7_b_model_says_what_it_takes():
    study = load_study("study/demo", ["train=train/qwen2-audio-language-model"])
    lines = describe_gpu(study)
    assert lines[0].startswith("GPU, by arithmetic: 4.7 GB of weights")
    assert "minutes at 100 TFLOP/s" in lines[1]
    assert describe_gpu(load_study("study/demo")) == []


def test_a_base_of_experts_is_refused_without_advice_to_quantise_it():
    omni = tiny_omni.QWEN3
    config = make_omni_config(omni, tiny_omni.make_processor(omni))
    with pytest.raises(
        ValueError, match=r"takes about 566 GB .* these fit: lora=attention, scope=.*: batches of \d+"
    ) as refused:
        check_room(job(quantization=None, lora=None), config, 64e9)
    assert "nf4" not in str(refused.value)
    with pytest.raises(ValueError, match=r"97% of the weights .* are experts.*quantization=none.* its 62 GB in bf16"):
        check_room(job(), config, 80e9)


@pytest.mark.parametrize("flow", [run_study.fn, optimize_prompt.fn], ids=["run", "prompts"])
def test_a_run_of_experts_in_nf4_is_refused_before_anything_is_built(home, monkeypatch, flow):
    for built in ("flows.run_study.look_up", "flows.optimize_prompt.look_up"):
        monkeypatch.setattr(built, lambda *_: pytest.fail("looked up, and then it would be built"))
    sets = ["train=train/qwen2-audio-language-model", "train.base=Qwen/Qwen3-Omni-30B-A3B-Instruct@" + "0" * 40]
    with pytest.raises(ValueError, match=r"quantization: 97% of the weights .* are experts.*quantization=none"):
        flow("study/smoke", [*sets, "train.quantization=nf4"])
    demand_extras(load_study("study/smoke", [*sets, "train.quantization=none"]), "train")
    demand_extras(load_study("study/smoke", [*sets, "train.quantization=nf4"]), "build")


@pytest.mark.parametrize(
    ("quantization", "line"),
    [("none", "GPU, by arithmetic: 60.2 GB of weights"),
     ("nf4", "a run would be refused: quantization: 97% of the weights in the layers of Qwen/Qwen3-Omni")],
)  # fmt: skip
def test_a_plan_knows_experts_and_that_nobody_quantises_them(quantization, line):
    base = "train.base=Qwen/Qwen3-Omni-30B-A3B-Instruct@" + "0" * 40
    changed = ["train=train/qwen2-audio-language-model", base, f"train.quantization={quantization}"]
    assert describe_gpu(load_study("study/demo", changed))[0].startswith(line)
