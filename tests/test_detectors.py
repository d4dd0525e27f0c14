"""Every detector gives P(first class) for each clip, in the order of the clips, and only from what it may use."""

import copy
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.evaluation import WEIGHTS
from tasks import detectors
from tasks.audio_files import encode_flac
from tasks.detectors import BASELINES, Detector, Labelled, audio_llm, demand, make
from tasks.detectors.loudness import Loudness
from tasks.detectors.majority import Majority
from tasks.detectors.mel_statistics import BINS, MelStatistics, filters, statistics
from tasks.functional.calibration import choose_threshold
from tasks.functional.metrics import roc_auc
from tasks.models import devices, family
from tasks.models.jobs import Question, ScoringJob, TrainingJob
from tasks.models.scoring import Scorer, questions
from tasks.models.training import save, to_train
from tasks.predictions import score_baseline
from tests.commands import ROOT
from tests.test_predictions import CLASSES, CLIPS, SIDES, table_of, write_splits

QUESTION = Question(
    classes=("SPEECH", "NONSPEECH"), answers=("A", "B"), prompt="A) SPEECH B) NONSPEECH.", longest_ms=200
)
DURATIONS_MS = (200, 25, 100, 60, 200, 80, 61)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(devices, "CPU_THREADS", 1)


def tone(frequency_hz: float, level: float, ms: float = 100, seed: int = 0) -> np.ndarray:
    n = round(16 * ms)
    hiss = np.random.default_rng(seed).normal(0, 0.001, n)
    return (level * np.sin(2 * np.pi * frequency_hz * np.arange(n) / 16_000) + hiss).astype(np.float32)


# --- baselines ---------------------------------------------------------------------------------------------------


def fitted(detector: Detector, clips: list[np.ndarray], is_first: list[bool]) -> Detector:
    """Train and dev are the same clips here, each gone through once as a run does."""
    detector.fit(*(Labelled(iter(clips), np.array(is_first)) for _ in range(2)))
    return detector


@pytest.mark.parametrize("name", sorted({*BASELINES} - {*WEIGHTS}))
def test_every_baseline_gives_a_probability_a_clip_whatever_its_length(name):
    clips = [tone(300 + 40 * i, 0.1 + 0.05 * (i % 7), ms=(10, 25, 61, 400)[i % 4], seed=i) for i in range(12)]
    detector = fitted(make(name), clips, [i % 2 == 0 for i in range(12)])
    p = detector.score(iter(clips))
    assert p.shape == (12,)
    assert ((p >= 0) & (p <= 1)).all()
    np.testing.assert_allclose(detector.score(iter(clips[::-1])), p[::-1])


@pytest.mark.parametrize("name", sorted({*BASELINES} - {*WEIGHTS}))
def test_the_same_clips_give_the_same_scores_and_threshold(name):
    clips = [tone(300 + 40 * i, 0.1 + 0.05 * (i % 7), seed=i) for i in range(12)]
    one, other = (fitted(make(name), clips, [i < 6 for i in range(12)]) for _ in range(2))
    assert one.score(iter(clips)).tolist() == other.score(iter(clips)).tolist()
    assert one.threshold == other.threshold


def test_the_majority_is_the_share_of_the_training_labels_and_hears_nothing():
    detector = Majority()
    detector.fit(Labelled(iter([]), np.array([True, True, True, False])), Labelled(iter([]), np.array([False])))
    assert detector.score(iter([np.full(3, np.nan, np.float32)] * 2)).tolist() == [0.75, 0.75]


def test_loudness_finds_a_level_that_gives_the_label_away_and_nothing_else():
    random = np.random.default_rng(1)
    loud = [tone(200 + 300 * random.random(), 0.5, seed=i) for i in range(20)]
    soft = [tone(200 + 300 * random.random(), 0.1, seed=i) for i in range(20)]
    detector = fitted(Loudness(), [*loud, *soft], [True] * 20 + [False] * 20)
    assert (detector.score(iter(loud)) > 0.9).all()
    assert (detector.score(iter(soft)) < 0.1).all()
    # One level, two pitches: there is nothing that a level could tell apart.
    low, high = ([tone(pitch, 0.3, seed=i) for i in range(20)] for pitch in (200, 2000))
    deaf = fitted(Loudness(), [*low, *high], [True] * 20 + [False] * 20)
    assert np.ptp(deaf.score(iter([low[0], high[0]]))) < 0.5
    ears = fitted(MelStatistics(), [*low, *high], [True] * 20 + [False] * 20)
    assert ears.score(iter([low[0]]))[0] - ears.score(iter([high[0]]))[0] > 0.8


@pytest.mark.slow
def test_mel_statistics_are_those_of_librosa():
    import librosa

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
        fitted(MelStatistics(), clips, [True] * 4)


# --- a detector of your own --------------------------------------------------------------------------------------


@pytest.fixture
def documented(tmp_path, monkeypatch):
    """A detector added exactly as tasks/detectors/README.md shows: its file written, its line put into BASELINES."""
    page = (ROOT / "tasks" / "detectors" / "README.md").read_text(encoding="utf-8")
    file, line = (block.partition("\n")[2].strip() for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    assert len((file + line).splitlines()) < 30
    (tmp_path / "zero_crossings.py").write_text(file, encoding="utf-8")
    monkeypatch.setattr(detectors, "__path__", [*detectors.__path__, str(tmp_path)])
    ((name, entry),) = eval(f"{{{line}}}", {"Entry": detectors.Entry}).items()
    monkeypatch.setitem(BASELINES, name, entry)
    yield name
    sys.modules.pop("tasks.detectors.zero_crossings", None)
    vars(detectors).pop("zero_crossings", None)


def test_a_detector_added_as_the_docs_show_is_scored_beside_the_others(documented, home):
    """Low tones are SPEECH there and high ones are not."""
    found = table_of(score_baseline.fn(documented, write_splits("clean"), SIDES, CLASSES, 0))
    dev, test = (found[found["split"] == split] for split in ("dev", "test"))
    assert found["detector"].unique().tolist() == ["zero_crossings"]
    assert roc_auc(test["p_speech"], test["label"]) == 1
    threshold = choose_threshold(dev["p_speech"], dev["label"]).value
    assert (found["prediction"] == np.where(found["p_speech"] >= threshold, *CLASSES)).all()
    assert (found["prediction"] != np.where(found["p_speech"] >= 0.5, *CLASSES)).any(), "dev chose another one"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (lambda p: p[1:], r"baseline majority, test: scores of shape \(7,\) for 8 labels"),
        (lambda p: p * np.nan, r"baseline majority, dev: the score of row 0 is nan"),
        (lambda p: p + 1, r"baseline majority, dev: p_speech of row 0 is 1.5"),
    ],
)
def test_a_detector_that_gives_no_probability_for_every_clip_is_stopped(given, reason, home, monkeypatch):
    score = Majority.score
    spoils = (lambda p: given(p) if len(p) == CLIPS["test"] else p) if "test" in reason else given
    monkeypatch.setattr(Majority, "score", lambda self, clips: spoils(score(self, clips)))
    with pytest.raises(ValueError, match=reason):
        score_baseline.fn("majority", write_splits("clean"), SIDES, CLASSES, 0)


def test_a_missing_extra_is_a_sentence_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(BASELINES, "loudness", BASELINES["loudness"]._replace(extra="vad", libraries=("no-such-vad",)))
    monkeypatch.setitem(BASELINES, "majority", BASELINES["majority"]._replace(libraries=("numpy",)))
    assert demand(["majority", "mel_statistics"]) is None
    sentence = r"baselines loudness: no-such-vad not installed; pip install -c constraints.txt -e '.\[vad\]', or leave"
    with pytest.raises(ValueError, match=sentence):
        demand(["majority", "loudness"])
    with pytest.raises(ValueError, match=sentence):
        make("loudness")


@pytest.mark.slow
def test_what_needs_an_extra_is_not_imported_before_it_is_asked_for():
    """The demo runs without the extra `vad`, and scoring a VAD never sets torch's threads."""
    code = (
        "import sys, numpy as np; from tasks.detectors import make\n"
        "for name in ('webrtc', 'silero'): make(name)\n"
        "assert not {'webrtcvad', 'onnxruntime', 'silero_vad', 'torch'} & {*sys.modules}\n"
        "make('silero_default').score([np.zeros(800, np.float32)])\n"
        "assert 'onnxruntime' in sys.modules and not {'silero_vad', 'torch'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


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
        adapter=None, clips={"test": (clips_file,)}, generate_on=("test",), batch_size=3, base_revision="b" * 40,
        code="c",
    )  # fmt: skip


def scored(job, processor, clips, method="forward", model=None):
    """The table of one model's answers, in batches of three."""
    scorer = Scorer(model or audio_llm.load(job), processor, batch_size=job.batch_size)
    (question,) = questions(processor, [job.question.prompt], job.question.answers)
    return audio_llm.score(scorer, clips, question, job.question.classes, method)


@pytest.mark.parametrize("method", ["forward", "generate"])
def test_scores_come_in_the_order_of_the_clips_whatever_the_batches(job, processor, clips_file, method):
    model = audio_llm.load(job)
    ids, clips = audio_llm.read([clips_file])
    together = scored(job, processor, clips, method, model)
    alone = [scored(job, processor, [clip], method, model) for clip in clips]
    assert ids == [f"c{i}" for i in range(len(DURATIONS_MS))]
    np.testing.assert_allclose(together["p_speech"], [table["p_speech"][0] for table in alone], atol=1e-5)
    np.testing.assert_allclose(together["answer_mass"], [table["answer_mass"][0] for table in alone], atol=1e-5)
    assert together["prediction"].tolist() == [table["prediction"][0] for table in alone]
    assert together["p_speech"].nunique() > 1


def test_forward_and_generation_give_one_table(job, processor, clips_file):
    clips = audio_llm.read([clips_file]).flacs
    forward, said = (scored(job, processor, clips, method) for method in ("forward", "generate"))
    assert forward["prediction"].tolist() == said["prediction"].tolist()
    by_sum = np.where(forward["p_speech"] >= 0.5, *QUESTION.classes)
    assert (by_sum != forward["prediction"]).any(), "here an answer's two tokens together outweigh the likeliest one"
    np.testing.assert_allclose(forward["p_speech"], said["p_speech"], atol=1e-5)


def test_the_child_leaves_scores_times_and_what_it_heard(job, home, tmp_path):
    file = tmp_path / "job.json"
    file.write_text(job.model_copy(update={"batch_size": None}).model_dump_json())
    audio_llm.main(str(file))
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    assert scores.groupby("method")["clip_id"].apply(list).to_dict() == {
        method: [f"c{i}" for i in range(len(DURATIONS_MS))] for method in ("forward", "generate")
    }
    heard = json.loads((tmp_path / "listening.json").read_text())
    assert heard["silence"]["largest_change_of_log_odds"] > 0.01
    assert json.loads((tmp_path / "timing.json").read_text())["rounded"] is False
    assert list((home / "store" / "encodings").glob("*.safetensors")), "encoded once for every evaluation to come"


def run_child(job, tmp_path) -> None:
    (tmp_path / "job.json").write_text(job.model_dump_json())
    audio_llm.main(str(tmp_path / "job.json"))


def test_a_model_is_timed_on_test_clips_as_the_baselines_are(job, clips_file, home, tmp_path, monkeypatch):
    row = {"clip_id": "d0", "audio": {"bytes": encode_flac(np.full(960, 0.1)), "path": ""}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "dev.parquet")
    timed = []
    monkeypatch.setattr(audio_llm, "check", lambda *told: {})
    monkeypatch.setattr(audio_llm, "measure", lambda model, processor, question, clips: timed.append(clips) or {})
    both = {"dev": (str(tmp_path / "dev.parquet"),), "test": (clips_file,)}
    run_child(job.model_copy(update={"clips": both, "generate_on": ()}), tmp_path)
    assert timed == [audio_llm.read([clips_file]).flacs]


def test_a_whole_run_with_a_deaf_model_stops_with_the_reason_and_leaves_no_score(
    job, model, processor, home, tmp_path
):
    deaf = copy.deepcopy(model)
    for parameter in deaf.model.multi_modal_projector.parameters():
        torch.nn.init.zeros_(parameter)
    deaf.save_pretrained(tmp_path / "deaf")
    processor.save_pretrained(tmp_path / "deaf")
    with pytest.raises(ValueError, match=r"as it answers silence .* its projector or its encoder is broken"):
        run_child(job.model_copy(update={"base": str(tmp_path / "deaf")}), tmp_path)
    assert not (tmp_path / "scores.parquet").exists()
    assert not (home / "store" / "scores").exists()


def test_a_whole_run_over_clips_of_no_audio_token_stops_with_the_reason(job, home, tmp_path):
    rows = [{"clip_id": f"c{i}", "audio": {"bytes": encode_flac(np.full(320, 0.1)), "path": ""}} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "short.parquet")
    short = job.model_copy(update={"clips": {"test": (str(tmp_path / "short.parquet"),)}})
    with pytest.raises(
        ValueError, match="a clip of 20 ms gives the model no audio token and would be answered unheard"
    ):
        run_child(short, tmp_path)
    assert not (tmp_path / "scores.parquet").exists()


def adapter_for(tiny_base, folder, lora):
    told = TrainingJob(
        base=str(tiny_base), revision=None, base_name="me/base", base_revision="b" * 40, quantization=None,
        question=QUESTION, device="cpu", output=str(folder), lora={"init_lora_weights": False, **lora},
        scope="language_model+encoder", clips=(), loss_on="answer", training={}, seed=1,
    )  # fmt: skip
    bare = family.load(tiny_base, revision=None, quantization=None, dtype=torch.float32, device="cpu")
    model = to_train(bare, told)
    save(model, told)
    return model.get_base_model().eval()


def test_an_adapter_that_was_saved_answers_as_it_did(job, tiny_base, processor, clips_file, tmp_path):
    made = adapter_for(tiny_base, tmp_path / "adapter", {"r": 4})
    loaded = audio_llm.load(job.model_copy(update={"adapter": str(tmp_path / "adapter")}))
    clips = audio_llm.read([clips_file]).flacs
    bare, before, after = (
        scored(job, processor, clips, model=model)["p_speech"] for model in (audio_llm.load(job), made, loaded)
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


def test_a_clip_that_gives_no_audio_token_is_never_scored(job, processor):
    with pytest.raises(ValueError, match="no audio token"):
        scored(job, processor, [encode_flac(np.full(320, 0.5))])


def test_a_table_without_clips_is_a_sentence(tmp_path):
    empty = pa.table({"clip_id": pa.array([], pa.string()), "audio": pa.array([], audio_llm_type())})
    pq.write_table(empty, tmp_path / "test.parquet")
    with pytest.raises(ValueError, match=r"test\.parquet holds no clip: there is nothing to score"):
        audio_llm.read([str(tmp_path / "test.parquet")])


def audio_llm_type() -> pa.DataType:
    return pa.struct({"bytes": pa.binary(), "path": pa.string()})


def test_an_answer_of_two_tokens_is_a_sentence(processor):
    with pytest.raises(ValueError, match=r"the answer 'VOICE' is \d tokens of this tokenizer; answers are one token"):
        questions(processor, ["VOICE or B?"], ["VOICE", "B"])
