"""What a training takes, by arithmetic, is what was measured of the 7 B model; what cannot fit is refused with what can."""

from types import SimpleNamespace

import pytest

from recipes.schema import load_study
from tasks.functional.memory import QWEN2_AUDIO_7B as SIZE
from tasks.functional.memory import Asked, clip_bytes, largest_batch, loading_bytes, operations, weight_bytes
from tasks.models.jobs import Question, TrainingJob
from tasks.models.room import check_room, tokens_of
from tasks.planning import describe_gpu

CONFIG = SimpleNamespace(
    model_type="qwen2_audio",
    text_config=SimpleNamespace(hidden_size=4096, num_hidden_layers=32, intermediate_size=11_008, vocab_size=156_032),
    audio_config=SimpleNamespace(d_model=1280, encoder_layers=32),
)
SECOND = tokens_of(1000)
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
