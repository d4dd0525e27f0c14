"""Larger models of others as baselines: they score as their vendors define it, load without running what a file holds, and
say which weights they take before anything is loaded."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flows import demands
from flows.demands import demand_baselines
from recipes.evaluation import TAKES, EvaluateRecipe
from recipes.schema import load_study
from tasks import detectors, pace, planning, predictions
from tasks.detectors import Labelled, make, whisper
from tasks.detectors.weights import Weights, folder_of, weights_for
from tasks.detectors.whisper import Transcript, encode, holds_words, no_speech_probability, says_speech, transcribe
from tasks.functional.metrics import roc_auc
from tasks.functional.predictions import validate_predictions
from tasks.predictions import score_baseline
from tests.local_hub import OTHER
from tests.test_predictions import CLASSES, SIDES, table_of, write_splits
from tests.test_vads import hiss, voice

SPECIALS = ["<|endoftext|>", "<|startoftranscript|>", "<|nospeech|>", "<|notimestamps|>"]
END, START, SILENT, UNTIMED = range(256, 260)  # behind the letters: what comes after the last one is a time
EVERY = [True, False] * 3
CLIPS = [voice(200 + 50 * i) if first else hiss(200 + 50 * i, 0.3, seed=i) for i, first in enumerate(EVERY)]


def labelled(clips=CLIPS, is_first=EVERY) -> Labelled:
    return Labelled(iter(clips), np.array(is_first))


# --- which weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["whisper", "whisper_transcript", "pyannote"])
def test_a_recipe_that_names_no_weights_is_told_which_ones_are_taken(name):
    with pytest.raises(ValueError, match=rf"{name} takes the weights of a .* say where they are in weights\."):
        EvaluateRecipe(name="test", baselines=(name,))


def test_weights_are_a_folder_or_pinned_and_never_a_name_that_moves(tmp_path, monkeypatch):
    recipe = EvaluateRecipe(name="t", baselines=("whisper",), weights={"whisper": f"openai/whisper-tiny@{'a' * 40}"})
    assert weights_for("whisper_transcript", recipe.weights) == Weights("openai/whisper-tiny", "a" * 40)
    assert weights_for("silero", recipe.weights) is None
    for moving in ("openai/whisper-tiny", "openai/whisper-tiny@main"):
        with pytest.raises(ValueError, match="neither a folder nor a Hub id with its revision"):
            EvaluateRecipe(name="t", baselines=("whisper",), weights={"whisper": moving})
    given = {"whisper": "${WHISPER}"}
    monkeypatch.delenv("WHISPER", raising=False)
    with pytest.raises(
        ValueError, match=r"WHISPER, which is not set; whisper takes a Whisper model, e\.g\. openai/whisper"
    ):
        weights_for("whisper", given)
    monkeypatch.setenv("WHISPER", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="none is no folder; whisper takes a Whisper model"):
        weights_for("whisper", given)
    monkeypatch.setenv("WHISPER", str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    for name in ("preprocessor_config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = weights_for("whisper", given)
    (tmp_path / "model.safetensors").write_bytes(b"other")
    after = weights_for("whisper", given)
    assert (before.place, after.place, before.commit) == (str(tmp_path), str(tmp_path), None)
    assert before.revision != after.revision, "what is cached belongs to the bytes"
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "model.safetensors.metadata").write_text("1764333")
    assert weights_for("whisper", given) == after, "not to when they were downloaded"


@pytest.mark.parametrize(
    ("detector", "files", "said"),
    [
        ("whisper_transcript", {}, r"holds no \*\.safetensors; whisper_transcript takes a Whisper model, e\.g\. openai"),
        ("whisper", {"model.safetensors": ""}, r"holds no config\.json; whisper takes a Whisper model"),
        ("whisper", {"model.safetensors": "", "config.json": '{"model_type": "qwen2_audio"}'},
         r"is a model of the type 'qwen2_audio'; whisper takes a Whisper model"),
        ("whisper", {"model.safetensors": "", "config.json": '{"model_type": "whisper"}'},
         r"holds no preprocessor_config\.json or processor_config\.json; whisper takes a Whisper model"),
        ("whisper", {"model.safetensors": "", "config.json": '{"model_type": "whisper"}', "preprocessor_config.json": "{}"},
         r"holds no tokenizer\.json or vocab\.json; whisper takes a Whisper model"),
        ("pyannote", {"config.yaml": "", "segmentation/pytorch_model.bin": ""},
         r"holds no pytorch_model\.bin \(.*segmentation does\); pyannote takes a segmentation model of PyAnnote"),
        ("pyannote", {"config.yaml": ""}, r"holds no pytorch_model\.bin; pyannote takes a segmentation model of PyAnnote"),
    ],
)  # fmt: skip
def test_a_folder_of_anything_else_stops_a_run_before_anything_is_built(detector, files, said, tmp_path, monkeypatch):
    monkeypatch.setattr(detectors, "installed", lambda: iter(["pyannote-audio"]))
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    key = detector.removesuffix("_transcript")
    sets = [f"evaluate.baselines=[{detector}]", f"evaluate.weights.{key}={tmp_path}"]
    with pytest.raises((ValueError, FileNotFoundError), match=rf"evaluate\.weights\.{key}: .*{said}"):
        demand_baselines(load_study("study/smoke", sets), "evaluate")
    demand_baselines(load_study("study/smoke", sets), "train")


def test_a_key_that_is_no_detectors_is_called_that_before_one_is_missed():
    with pytest.raises(ValueError, match=r"weights\.pyannotes: weights are taken for pyannote and whisper"):
        EvaluateRecipe(name="t", baselines=("pyannote",), weights={"pyannotes": "./there"})


def folder_there(detector: str, repo: str, sha: str) -> list[str] | str:
    """The files of a download, or what it was refused with."""
    try:
        folder = folder_of(detector, Weights(repo, sha))
    except (ValueError, FileNotFoundError) as error:
        return f"{type(error).__name__}: {error}"
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.slow
def test_weights_of_the_hub_are_downloaded_without_what_nobody_reads_or_refused_in_a_sentence(hub, client):
    """Before a training, by `demand_weights`."""
    files = {
        name: b'{"model_type": "whisper"}' if name == "config.json" else b"{}"
        for name in ("config.json", "preprocessor_config.json", "tokenizer.json", "merges.txt", "model.safetensors",
                     "model.fp32-00001-of-00002.safetensors", "pytorch_model.bin", "flax_model.msgpack", "code.py")
    }  # fmt: skip
    at = hub.add("models", "openai/whisper-tiny", files).head.oid
    assert client.call(folder_there, "whisper", "openai/whisper-tiny", at) == [
        "config.json", "merges.txt", "model.safetensors", "preprocessor_config.json", "tokenizer.json",
    ]  # fmt: skip
    gated = hub.add("models", "pyannote/segmentation-3.0", {"pytorch_model.bin": b"1"}, gated=True).head.oid
    asked = ("pyannote", "pyannote/segmentation-3.0", gated)
    for token in ("", OTHER):
        assert re.match(
            rf"ValueError: evaluate\.weights\.pyannote: reading pyannote/segmentation-3\.0@{gated}: access is restricted; "
            r"ask for it on its page, and set HF_TOKEN \(status 40[13]",
            client.call(folder_there, *asked, HF_TOKEN=token),
        )
    for repo, sha, said in (
        ("openai/none", at, "it is not there, or may not be seen with this token"),
        ("openai/whisper-tiny", "b" * 40, "it has no such revision"),
    ):
        found = client.call(folder_there, "whisper", repo, sha)
        assert found.startswith(f"FileNotFoundError: evaluate.weights.whisper: reading {repo}@{sha}: {said}")


def test_a_folder_that_is_called_as_a_repository_does_not_stand_for_it(tmp_path, monkeypatch):
    (tmp_path / "openai" / "whisper-tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert Weights("openai/whisper-tiny", "a" * 40).commit == "a" * 40


def test_weights_are_downloaded_before_a_study_begins_unless_all_is_cached(monkeypatch):
    asked = []
    monkeypatch.setattr(demands, "folder_of", lambda name, weights: asked.append((name, weights.place)))
    given = f"{{whisper: openai/whisper-tiny@{'a' * 40}}}"
    study = load_study("study/smoke", ["evaluate.baselines=[loudness,whisper]", f"evaluate.weights={given}"])
    demands.demand_parts(study, "train", None, planning.Found({}, complete=False))
    demands.demand_parts(study, "evaluate", None, planning.Found({}))
    assert not asked
    demands.demand_parts(study, "evaluate", None, planning.Found({}, complete=False))
    assert asked == [("whisper", "openai/whisper-tiny")]


def test_a_plan_says_which_weights_will_be_downloaded(home, monkeypatch):
    sha, asked = "a" * 40, []

    def cached(repo: str, file: str, revision: str) -> str | None:
        asked.append((repo, file, revision))
        return "here" if "whisper" in repo else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    given = f"{{whisper: openai/whisper-tiny@{sha}, pyannote: pyannote/segmentation-3.0@{sha}}}"
    study = load_study(
        "study/smoke", ["evaluate.baselines=[whisper,whisper_transcript,pyannote]", f"evaluate.weights={given}"]
    )
    assert planning.describe_weights(study.evaluate) == [
        "weights of whisper: openai/whisper-tiny, in the cache of Hugging Face",
        "weights of pyannote: pyannote/segmentation-3.0, to be downloaded to the cache of Hugging Face",
    ]
    assert [file for _, file, _ in asked] == ["config.json", "pytorch_model.bin"]
    assert planning.describe_weights(load_study("study/smoke").evaluate) == []


def test_means_are_made_of_probabilities():
    weights = {"whisper": "./weights"}
    with pytest.raises(
        ValueError, match="whisper_transcript gives answers and no probability; take whisper, or how: vote"
    ):
        EvaluateRecipe(name="t", baselines=("whisper_transcript", "loudness"), weights=weights,
                       ensembles={"both": {"of": ("whisper_transcript", "loudness")}})  # fmt: skip


# --- whisper -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_whisper(tmp_path_factory) -> Weights:
    """A random Whisper of two layers with a tokenizer of single letters, saved as the Hub holds the real one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        GenerationConfig,
        PreTrainedTokenizerFast,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    folder = tmp_path_factory.mktemp("tiny whisper")
    letters = Tokenizer(models.BPE())
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False)
    letters.train_from_iterator([], trainer)
    letters.add_special_tokens(SPECIALS)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token=SPECIALS[0])
    assert tokenizer.convert_tokens_to_ids(SPECIALS) == [END, START, SILENT, UNTIMED]
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, pad_token_id=END, bos_token_id=END,
        eos_token_id=END, decoder_start_token_id=START, suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    for its in model.parameters():
        if its.ndim > 1:
            torch.nn.init.normal_(its, std=0.3)
    model.generation_config = GenerationConfig(
        is_multilingual=False,
        no_timestamps_token_id=UNTIMED,
        decoder_start_token_id=START,
        pad_token_id=END,
        eos_token_id=END,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    found = weights_for("whisper", {"whisper": str(folder)})
    assert found is not None
    return found


def test_whisper_doubts_as_its_first_token_does(tiny_whisper):
    loaded = whisper.load(tiny_whisper)
    inputs = loaded.extractor(CLIPS[0], sampling_rate=16_000, return_tensors="pt")
    assert inputs["input_features"].shape == (1, 80, 3000)
    with torch.inference_mode():
        logits = loaded.model(**inputs, decoder_input_ids=torch.tensor([[START]])).logits[0, 0]
    doubt = no_speech_probability(loaded, encode(loaded, CLIPS[0]))
    assert doubt == pytest.approx(float(logits.softmax(0)[SILENT]), rel=1e-5)


def test_whisper_doubts_as_transformers_finds_in_generating_before_it_suppresses_a_token(tiny_whisper, monkeypatch):
    """By its port of openai-whisper's rule, which looks where the transcript starts; not where the first word would be."""
    from transformers.models.whisper import generation_whisper

    made = []

    class Kept(generation_whisper.WhisperNoSpeechDetection):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(generation_whisper, "WhisperNoSpeechDetection", Kept)
    loaded = whisper.load(tiny_whisper)
    for clip in (CLIPS[0], CLIPS[1], hiss(20, 0.3)):
        features = loaded.extractor(clip, sampling_rate=16_000, return_tensors="pt")["input_features"]
        loaded.model.generate(
            features, no_speech_threshold=0.6, logprob_threshold=-1.0, temperature=0.0, max_new_tokens=2,
            return_timestamps=False, suppress_tokens=[SILENT],
        )  # fmt: skip
        doubt = no_speech_probability(loaded, encode(loaded, clip))
        assert float(made[-1].no_speech_prob[0]) == pytest.approx(doubt, rel=1e-5)
        with torch.inference_mode():
            word = loaded.model(features, decoder_input_ids=torch.tensor([[START, UNTIMED]])).logits[0, -1].softmax(0)
        assert float(word[SILENT]) != pytest.approx(doubt, rel=1e-2), "the next position says something else"


def test_whisper_chooses_its_threshold_on_dev_and_hears_every_clip_alone(tiny_whisper):
    detector = make("whisper", tiny_whisper)
    detector.fit(labelled([], []), labelled())
    p = detector.score(CLIPS)
    assert len(np.unique(p)) == len(CLIPS)
    np.testing.assert_array_equal(detector.score(CLIPS[::-1])[::-1], p)
    assert detector.chosen == f"threshold {detector.threshold:.3f}; AUC {roc_auc(p, np.array(EVERY)):.3f} on dev"
    assert detector.afresh(CLIPS[0]) == p[0]


def written(weights: Weights) -> tuple[whisper.Loaded, torch.Tensor, Transcript]:
    """The model, the features of a clip, and what it writes down of it."""
    loaded = whisper.load(weights)
    features = loaded.extractor(CLIPS[0], sampling_rate=16_000, return_tensors="pt")["input_features"]
    return loaded, features, transcribe(loaded, encode(loaded, CLIPS[0]))


def test_a_transcript_is_that_of_greedy_decoding_with_its_own_likelihood(tiny_whisper, monkeypatch):
    """Gone through again by hand: each token is the likeliest one, and the mean is of what each of them had."""
    monkeypatch.setattr(whisper, "NEW_TOKENS", 8)
    loaded, inputs, found = written(tiny_whisper)
    said, log_probs = [START, UNTIMED], []
    with torch.inference_mode():
        while len(log_probs) < 8 and said[-1] != END:
            step = loaded.model(inputs, decoder_input_ids=torch.tensor([said])).logits[0, -1].double().log_softmax(-1)
            said.append(int(step.argmax()))
            log_probs.append(float(step.max()))
    assert found.text == loaded.tokenizer.decode(said[2:], skip_special_tokens=True)
    assert found.mean_log_prob == pytest.approx(
        np.sum(log_probs) / (1 + sum(its != END for its in said[2:])), rel=1e-4
    )


LANGUAGES = ["<|en|>", "<|de|>", "<|transcribe|>", "<|translate|>"]


@pytest.fixture(params=["shipped", "tuned"])
def multilingual(request, tiny_whisper, tmp_path) -> Weights:
    """As Whisper is published: it finds the language first, and may not begin or go on with some tokens; the shipped ones
    also name their task, which those of others may not."""
    from transformers import AutoTokenizer, GenerationConfig, WhisperForConditionalGeneration

    folder = shutil.copytree(tiny_whisper.place, tmp_path / "multilingual")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": LANGUAGES})
    tokenizer.save_pretrained(folder)
    english, german, transcribed, translated = tokenizer.convert_tokens_to_ids(LANGUAGES)
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    torch.manual_seed(1)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    torch.nn.init.normal_(model.model.decoder.embed_tokens.weight, std=0.3)
    model.generation_config = GenerationConfig(
        is_multilingual=True, lang_to_id={"<|en|>": english, "<|de|>": german}, no_timestamps_token_id=UNTIMED,
        task_to_id={"transcribe": transcribed, "translate": translated}, decoder_start_token_id=START, pad_token_id=END,
        eos_token_id=END, suppress_tokens=[5, 6], begin_suppress_tokens=[32, END],
        **({"forced_decoder_ids": [[1, None], [2, transcribed]]} if request.param == "shipped" else {}),
    )  # fmt: skip
    model.save_pretrained(folder)
    return Weights(str(folder), request.param)


def test_the_transcript_of_a_multilingual_whisper_is_one_of_the_clip_in_the_language_it_finds(
    multilingual, monkeypatch
):
    """What follows the token for no times are times to transformers, and would send it into the padding."""
    monkeypatch.setattr(whisper, "NEW_TOKENS", 8)
    loaded, inputs, found = written(multilingual)
    english, german, transcribed, _ = loaded.tokenizer.convert_tokens_to_ids(LANGUAGES)

    def step(said: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return loaded.model(inputs, decoder_input_ids=torch.tensor([said])).logits[0, -1].double()

    language = max((english, german), key=step([START]).__getitem__)
    said, log_probs = [START, language, transcribed, UNTIMED], []
    while len(log_probs) < 8 and said[-1] != END:
        logits = step(said)
        logits[[5, 6, *([] if log_probs else [32, END]), *range(UNTIMED + 1, len(logits))]] = -torch.inf
        said.append(int(logits.argmax()))
        log_probs.append(float(logits.log_softmax(0).max()))
    assert found.text == loaded.tokenizer.decode(said[4:], skip_special_tokens=True)
    assert found.mean_log_prob == pytest.approx(
        np.sum(log_probs) / (1 + sum(its != END for its in said[4:])), rel=1e-4
    )


@pytest.mark.parametrize(
    ("no_speech", "log_prob", "text", "speech"),
    [
        (0.1, -0.3, " Hello.", True),
        (0.9, -0.3, " Hello.", True),  # sure of its words
        (0.5, -2.0, " Hello.", True),  # not sure of silence
        (0.9, -2.0, " Hello.", False),
        (0.9, -1.0, " Hello.", False),  # as likely as what is dropped
        (0.6, -2.0, " Hello.", True),  # as sure of silence as what stands
        (0.1, -0.3, " [Music] ♪ (applause) *coughs* ...", False),
        (0.1, -0.3, " [Music] é", True),
        (0.1, -0.3, "", False),
    ],
)
def test_words_are_speech_unless_whisper_itself_would_drop_them(no_speech, log_prob, text, speech):
    assert says_speech(no_speech, Transcript(text, log_prob)) is speech


def test_a_transcript_answers_and_gives_no_probability(tiny_whisper, monkeypatch):
    monkeypatch.setattr(whisper, "NEW_TOKENS", 8)
    detector = make("whisper_transcript", tiny_whisper)
    detector.fit(labelled([], []), labelled())
    assert detector.only_decides
    loaded = whisper.load(tiny_whisper)
    words = [holds_words(transcribe(loaded, encode(loaded, clip)).text) for clip in CLIPS[:2]]
    assert detector.score(CLIPS[:2]).tolist() == [float(its) for its in words]


@pytest.mark.slow
def test_a_run_scores_it_as_any_other_baseline_over_the_weights_that_are_named(tiny_whisper):
    splits = write_splits("clean")
    table = validate_predictions(
        table_of(score_baseline.fn("whisper", splits, SIDES, CLASSES, 0, 4, tiny_whisper)), CLASSES
    )
    assert set(table["split"]) == {"dev", "test"}
    assert table["p_speech"].between(0, 1).all()
    assert table["p_speech"].nunique() > 1


def test_a_whisper_that_lacks_a_weight_is_refused_for_transformers_would_make_it_up(tiny_whisper, tmp_path):
    folder = shutil.copytree(tiny_whisper.place, tmp_path / "whisper")
    tensors = load_file(folder / "model.safetensors")
    lost = "model.decoder.layers.1.fc2.bias"
    save_file(
        {its: value for its, value in tensors.items() if its != lost}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match=rf"whisper lacks 1 weights of its model, .* would be random: {lost}$"):
        whisper.load(Weights(str(folder), "lacking"))


def test_a_model_without_a_word_for_silence_is_refused(tiny_whisper, tmp_path, monkeypatch):
    monkeypatch.setattr(whisper, "NO_SPEECH", ("<|absent|>",))
    with pytest.raises(ValueError, match=r"has neither of"):
        whisper.load(tiny_whisper._replace(revision="other"))


def test_a_model_that_says_nothing_of_times_is_refused(tiny_whisper, tmp_path):
    folder = shutil.copytree(tiny_whisper.place, tmp_path / "whisper")
    settings = json.loads((folder / "generation_config.json").read_text())
    del settings["no_timestamps_token_id"]
    (folder / "generation_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"says in no generation_config\.json which token stands for no times"):
        whisper.load(Weights(str(folder), "timeless"))


def test_a_library_that_is_there_and_cannot_be_loaded_is_a_sentence(tmp_path, monkeypatch):
    """As where torchaudio is another build than torch."""
    from tasks.detectors import pyannote as its

    monkeypatch.setitem(sys.modules, "pyannote.audio.core.task", None)
    with pytest.raises(
        ValueError, match=r"cannot be loaded \(.*\); its torchaudio must be of the same build as torch \d"
    ):
        its.load(Weights(str(tmp_path), "unread"))


def test_a_slow_detector_tells_how_far_it_is(monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(predictions, "say", lines.append)
    monkeypatch.setattr(pace, "EVERY_S", 0.0)
    assert list(predictions.counted(iter(CLIPS), "whisper: test", len(CLIPS))) == CLIPS
    assert lines == [f"whisper: test: {done}/6 clips" for done in range(6)]


def test_what_is_taken_is_said_with_its_licence():
    assert all("MIT" in text or "Apache-2.0" in text for text in TAKES.values())
