"""Every detector gives P(first class) for each clip, in the order of the clips, and only from what it may use."""

import importlib

import librosa
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.audio_files import encode_flac
from tasks.detectors import BASELINES, audio_llm
from tasks.detectors.loudness import Loudness, level_db
from tasks.detectors.majority import Majority
from tasks.detectors.mel_statistics import BINS, MelStatistics, filters, statistics
from tasks.models import qwen2_audio as family
from tasks.models import training
from tasks.models.frames import trimmed_frames
from tasks.models.jobs import Question, ScoringJob, TrainingJob
from tasks.models.training import add_lora, save

QUESTION = Question(
    classes=("SPEECH", "NONSPEECH"), answers=("A", "B"), prompt="A) SPEECH B) NONSPEECH.", longest_ms=200
)
DURATIONS_MS = (200, 25, 100, 60, 200, 80, 61)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(training, "CPU_THREADS", 1)


def tone(frequency_hz: float, level: float, ms: float = 100, seed: int = 0) -> np.ndarray:
    n = round(16 * ms)
    hiss = np.random.default_rng(seed).normal(0, 0.001, n)
    return (level * np.sin(2 * np.pi * frequency_hz * np.arange(n) / 16_000) + hiss).astype(np.float32)


# --- baselines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_every_baseline_gives_a_probability_a_clip_whatever_its_length(name):
    module, attribute = BASELINES[name]
    detector = getattr(importlib.import_module(module), attribute)()
    clips = [tone(300 + 40 * i, 0.1 + 0.05 * (i % 7), ms=(10, 25, 61, 400)[i % 4], seed=i) for i in range(12)]
    detector.fit(iter(clips), [i % 2 == 0 for i in range(12)])
    p = detector.score(iter(clips))
    assert p.shape == (12,)
    assert ((p >= 0) & (p <= 1)).all()
    np.testing.assert_allclose(detector.score(iter(clips[::-1])), p[::-1])


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_the_same_training_clips_give_the_same_scores(name):
    module, attribute = BASELINES[name]
    clips = [tone(300 + 40 * i, 0.1 + 0.05 * (i % 7), seed=i) for i in range(12)]
    scores = []
    for _ in range(2):
        detector = getattr(importlib.import_module(module), attribute)()
        scores.append(detector.fit(iter(clips), [i < 6 for i in range(12)]).score(iter(clips)))
    assert scores[0].tolist() == scores[1].tolist()


def test_the_majority_is_the_share_of_the_training_labels_and_hears_nothing():
    detector = Majority().fit(iter([]), [True, True, True, False])
    assert detector.score(iter([np.full(3, np.nan, np.float32)] * 2)).tolist() == [0.75, 0.75]


@pytest.mark.parametrize(("amplitude", "expected_db"), [(1.0, -3.0103), (0.5, -9.0309), (0.05, -29.0309)])
def test_the_level_of_a_sine_is_its_textbook_value(amplitude, expected_db):
    sine = amplitude * np.sin(2 * np.pi * 100 * np.arange(1600) / 16_000)
    assert level_db(sine.astype(np.float32)) == pytest.approx(expected_db, abs=1e-3)


def test_the_level_of_silence_is_a_number():
    assert level_db(np.zeros(160, np.float32)) == pytest.approx(-120)


def test_loudness_finds_a_level_that_gives_the_label_away_and_nothing_else():
    random = np.random.default_rng(1)
    loud = [tone(200 + 300 * random.random(), 0.5, seed=i) for i in range(20)]
    soft = [tone(200 + 300 * random.random(), 0.1, seed=i) for i in range(20)]
    detector = Loudness().fit(iter([*loud, *soft]), [True] * 20 + [False] * 20)
    assert (detector.score(iter(loud)) > 0.9).all()
    assert (detector.score(iter(soft)) < 0.1).all()
    # One level, two pitches: there is nothing that a level could tell apart.
    low, high = ([tone(pitch, 0.3, seed=i) for i in range(20)] for pitch in (200, 2000))
    deaf = Loudness().fit(iter([*low, *high]), [True] * 20 + [False] * 20)
    assert np.ptp(deaf.score(iter([low[0], high[0]]))) < 0.5
    ears = MelStatistics().fit(iter([*low, *high]), [True] * 20 + [False] * 20)
    assert ears.score(iter([low[0]]))[0] - ears.score(iter([high[0]]))[0] > 0.8


def test_mel_statistics_are_those_of_librosa():
    clip = tone(440, 0.3, ms=137)
    power = librosa.feature.melspectrogram(
        y=clip, sr=16_000, n_fft=400, hop_length=160, window="hann", center=False, n_mels=BINS, power=2.0
    )
    log_mel = np.log10(np.maximum(power, 1e-10))
    np.testing.assert_allclose(
        statistics(clip), np.concatenate([log_mel.mean(1), log_mel.std(1)]), rtol=1e-4, atol=1e-4
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5000))
def test_mel_statistics_of_any_length_are_finite(n):
    found = statistics(np.ones(n, np.float32))
    assert found.shape == (2 * filters().shape[0],)
    assert np.isfinite(found).all()


def test_labels_of_one_class_are_refused_rather_than_learned():
    clips = [tone(300, 0.3, seed=i) for i in range(4)]
    with pytest.raises(ValueError, match="at least 2 classes"):
        MelStatistics().fit(iter(clips), [True] * 4)


# --- the audio LLM -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("clips") / "test.parquet"
    random = np.random.default_rng(2)
    rows = [
        {"clip_id": f"c{i}", "audio": {"bytes": encode_flac(random.uniform(-0.8, 0.8, 16 * ms)), "path": f"c{i}.flac"}}
        for i, ms in enumerate(DURATIONS_MS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), file)
    return str(file)


@pytest.fixture
def job(tiny_base, clips_file, tmp_path):
    return ScoringJob(
        base=str(tiny_base), revision=None, quantization=None, question=QUESTION, device="cpu", output=str(tmp_path),
        adapter=None, clips={"test": (clips_file,)}, generate_on=("test",), batch_size=3,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["forward", "generate"])
def test_scores_come_in_the_order_of_the_clips_whatever_the_batches(job, processor, clips_file, method):
    model = audio_llm.load(job)
    ids, clips = audio_llm.read([clips_file], processor, QUESTION.frames)
    together = audio_llm.score(model, processor, clips, job, method)
    alone = [audio_llm.score(model, processor, [clip], job, method) for clip in clips]
    assert ids == [f"c{i}" for i in range(len(DURATIONS_MS))]
    np.testing.assert_allclose(together["p_speech"], [table["p_speech"][0] for table in alone], atol=1e-5)
    np.testing.assert_allclose(together["answer_mass"], [table["answer_mass"][0] for table in alone], atol=1e-5)
    assert together["prediction"].tolist() == [table["prediction"][0] for table in alone]
    assert together["p_speech"].nunique() > 1


def test_forward_and_generation_give_one_table(job, processor, clips_file):
    model = audio_llm.load(job)
    _, clips = audio_llm.read([clips_file], processor, QUESTION.frames)
    forward, said = (audio_llm.score(model, processor, clips, job, method) for method in ("forward", "generate"))
    assert forward["prediction"].tolist() == said["prediction"].tolist()
    by_sum = np.where(forward["p_speech"] >= 0.5, *QUESTION.classes)
    assert (by_sum != forward["prediction"]).any(), "here an answer's two tokens together outweigh the likeliest one"
    np.testing.assert_allclose(forward["p_speech"], said["p_speech"], atol=1e-5)


def adapter_for(tiny_base, folder, lora):
    told = TrainingJob(
        base=str(tiny_base), revision=None, base_name="me/base", base_revision="b" * 40, quantization=None,
        question=QUESTION, device="cpu", output=str(folder), lora={"init_lora_weights": False, **lora},
        scope="language_model+encoder", clips=(), loss_on="answer", training={}, seed=1,
    )  # fmt: skip
    model = add_lora(
        family.load(
            tiny_base, revision=None, frames=QUESTION.frames, quantization=None, dtype=torch.float32, device="cpu"
        ),
        told,
    )
    save(model, told)
    return model.get_base_model().eval()


def test_an_adapter_that_was_saved_answers_as_it_did(job, tiny_base, processor, clips_file, tmp_path):
    made = adapter_for(tiny_base, tmp_path / "adapter", {"r": 4})
    loaded = audio_llm.load(job.model_copy(update={"adapter": str(tmp_path / "adapter")}))
    _, clips = audio_llm.read([clips_file], processor, QUESTION.frames)
    bare, before, after = (
        audio_llm.score(model, processor, clips, job, "forward")["p_speech"]
        for model in (audio_llm.load(job), made, loaded)
    )
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert (after - bare).abs().max() > 1e-3


def test_an_adapter_with_a_tensor_missing_is_refused(job, tiny_base, tmp_path):
    """peft only warns and would score it half."""
    from safetensors.torch import load_file, save_file

    adapter_for(tiny_base, tmp_path / "adapter", {"r": 4})
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    lost = next(name for name in weights if "audio_tower" in name)
    save_file({name: value for name, value in weights.items() if name != lost}, file)
    with pytest.raises(
        ValueError, match=r"does not fit this base: 1 of its \d+ tensors are missing and 0 are unknown"
    ):
        audio_llm.load(job.model_copy(update={"adapter": str(tmp_path / "adapter")}))


def test_a_clip_that_gives_no_audio_token_is_never_scored(processor, tmp_path):
    row = {"clip_id": "short", "audio": {"bytes": encode_flac(np.full(320, 0.5)), "path": "short.flac"}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "short.parquet")
    with pytest.raises(ValueError, match="no audio token"):
        audio_llm.read([str(tmp_path / "short.parquet")], processor, QUESTION.frames)


def test_the_frames_of_a_question_are_those_of_its_longest_clip():
    assert QUESTION.frames == trimmed_frames(3200)
