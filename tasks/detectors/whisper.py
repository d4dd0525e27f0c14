"""Whisper (Radford et al. 2022): how little it doubts that there is speech, and whether it writes down any word."""

import contextlib
import functools
import re
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.detectors import Labelled
from tasks.detectors.vendor import VendorModel
from tasks.detectors.weights import Weights, folder_of
from tasks.functional.audio import SAMPLE_RATE_HZ

NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")  # the token's name in the third version, and before
# openai-whisper's own, `no_speech_threshold` and `logprob_threshold` of its `transcribe`.
VENDOR_NO_SPEECH, VENDOR_LOG_PROB = 0.6, -1.0
NEW_TOKENS = 64
SOUNDS = re.compile(r"\[[^\]]*\]|\([^)]*\)|\*[^*]*\*|[♪♫]+")  # "[Music]", "(applause)", "*coughs*"

_loading = threading.Lock()


class Loaded(NamedTuple):
    """A model in float32 on the CPU, its feature extractor and tokenizer, and the token that says there is no speech."""

    model: Any
    extractor: Any
    tokenizer: Any
    no_speech: int


@functools.cache
def _load(weights: Weights) -> Loaded:
    import torch
    from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration
    from transformers.utils import logging

    from tasks.models.devices import pick_device

    logging.set_verbosity_error()  # of generation's settings it warns in every call
    logging.disable_progress_bar()
    pick_device("cpu")  # as many threads as everywhere
    folder = folder_of("whisper", weights)
    with whole(weights):
        model, found = WhisperForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, ignore_mismatched_sizes=True,
            output_loading_info=True,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        extractor = WhisperFeatureExtractor.from_pretrained(folder)
    if missing := sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}):
        raise ValueError(
            f"evaluate.weights.whisper: {weights.place} lacks {len(missing)} weights of its model, or holds them in another "
            f"shape, and they would be random: {', '.join(missing[:5])}{' ...' * (len(missing) > 5)}"
        )
    known = tokenizer.get_vocab()
    if not (names := [name for name in NO_SPEECH if name in known]):
        raise ValueError(f"evaluate.weights.whisper: the tokenizer of {weights.place} has neither of {NO_SPEECH}")
    if getattr(model.generation_config, "no_timestamps_token_id", None) is None:
        raise ValueError(
            f"evaluate.weights.whisper: {weights.place} says in no generation_config.json which token stands for no times; "
            "take that of the model it was tuned from"
        )
    if (bins := model.config.num_mel_bins) != extractor.feature_size:
        raise ValueError(
            f"evaluate.weights.whisper: the model in {weights.place} hears {bins} mel bins and its "
            f"preprocessor_config.json makes {extractor.feature_size}; take that of the model it was tuned from"
        )
    return Loaded(model.eval(), extractor, tokenizer, known[names[0]])


@contextlib.contextmanager
def whole(weights: Weights) -> Iterator[None]:
    """Raise ValueError, in a sentence, where transformers cannot read what lies there."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ValueError(
            f"evaluate.weights.whisper: {weights.place} cannot be loaded as a Whisper model ({said}); "
            "it must hold the model, its tokenizer and preprocessor_config.json, whole, as the Hub has them"
        ) from error


def load(weights: Weights) -> Loaded:
    """The model, once in a process, from safetensors. Raises ValueError where weights of it are missing, which transformers
    would make up, where its tokenizer knows no silence, and where it says nothing of times."""
    with _loading:
        return _load(weights)


def encode(loaded: Loaded, samples: NDArray[np.float32]) -> Any:
    """What the encoder makes of a clip padded with zeros to 30 s, as `pad_or_trim` of openai-whisper does it."""
    import torch

    features = loaded.extractor(samples, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")["input_features"]
    with torch.inference_mode():
        return loaded.model.get_encoder()(features)


def no_speech_probability(loaded: Loaded, encoded: Any) -> float:
    """P of the no-speech token right behind <|startoftranscript|>, over the whole vocabulary, before any token is
    suppressed: openai-whisper's `no_speech_prob`."""
    import torch

    start = torch.tensor([[loaded.model.generation_config.decoder_start_token_id]])
    with torch.inference_mode():
        logits = loaded.model(encoder_outputs=encoded, decoder_input_ids=start).logits[0, -1]
        return float(logits.double().softmax(-1)[loaded.no_speech])


class Transcript(NamedTuple):
    """What was written down, and the sum of the log probabilities of its tokens and its end over one more than its tokens:
    openai-whisper's `avg_logprob`."""

    text: str
    mean_log_prob: float


def transcribe(loaded: Loaded, encoded: Any) -> Transcript:
    """Greedily, up to 64 tokens, in the language that Whisper takes it for, untranslated.

    Times are no words: a token that names one would have transformers go on from there in the clip's padding, and hand back
    what it wrote of that.
    """
    import torch

    settings = loaded.model.generation_config
    times = range(settings.no_timestamps_token_id + 1, loaded.model.config.vocab_size)
    languages = getattr(settings, "is_multilingual", False)
    with torch.inference_mode():
        said = loaded.model.generate(
            encoder_outputs=encoded, do_sample=False, num_beams=1, max_new_tokens=NEW_TOKENS, return_timestamps=False,
            return_dict_in_generate=True, output_scores=True, suppress_tokens=[*(settings.suppress_tokens or ()), *times],
            **({"task": "transcribe"} if languages else {}),
        )  # fmt: skip
    tokens = said["sequences"][0][-len(said["scores"]) :]
    steps = torch.stack([step[0].double().log_softmax(-1) for step in said["scores"]])
    log_probs = steps.gather(1, tokens[:, None])[:, 0]
    words = len(tokens) - int(torch.isin(tokens, torch.tensor(settings.eos_token_id)).sum())
    return Transcript(loaded.tokenizer.decode(tokens, skip_special_tokens=True), float(log_probs.sum()) / (words + 1))


def holds_words(text: str) -> bool:
    """Whether anything is left of a transcript but names of sounds and punctuation."""
    return any(letter.isalnum() for letter in SOUNDS.sub(" ", text))


def says_speech(no_speech: float, transcript: Transcript) -> bool:
    """Words, unless openai-whisper's `transcribe` would skip them as made up of silence: where P(no speech) is above .6 and
    the words are not likelier than exp(-1) a token (Radford et al. 2022, section 4.5)."""
    skipped = no_speech > VENDOR_NO_SPEECH and not transcript.mean_log_prob > VENDOR_LOG_PROB
    return not skipped and holds_words(transcript.text)


class Whisper(VendorModel):
    """P(first class) is 1 - P(no speech), decided at Youden's threshold on dev. Runs on the CPU."""

    def __init__(self, weights: Weights) -> None:
        self.weights: Weights = weights

    def afresh(self, clip: NDArray[np.float32]) -> float:
        """1 - P(no speech) by the model itself."""
        loaded = load(self.weights)
        return 1 - no_speech_probability(loaded, encode(loaded, clip))


class WhisperTranscript(Whisper):
    """The first class where Whisper writes down a word that its vendor's rule lets stand. Answers only."""

    only_decides = True

    def fit(self, train: Labelled, dev: Labelled) -> None:
        """Nothing is chosen."""

    def afresh(self, clip: NDArray[np.float32]) -> float:
        """1 where there are words, 0 where there are none."""
        loaded = load(self.weights)
        encoded = encode(loaded, clip)
        return float(says_speech(no_speech_probability(loaded, encoded), transcribe(loaded, encoded)))
