"""Synthetic speech by espeak-ng: many voices, each a group, for a corpus that needs no download."""

import contextlib
import ctypes
import functools
import os
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import soxr
from numpy.typing import NDArray

from recipes.sources import EspeakSource
from tasks.functional.audio import SAMPLE_RATE_HZ

# Variants in the order of a greedy search for the next most dissimilar one (log-mel statistics and pitch of one
# sentence): the first 24 lie farthest apart, no two of the 60 are near-copies. No whispers and no cartoon voices.
VARIANTS = (
    "Alex", "anika", "klatt2", "linda", "david", "travis", "Alicia", "Jacky", "shelby", "grandma", "ian", "iven2",
    "AnxiousAndy", "boris", "norbert", "aunty", "Andrea", "m8", "Storm", "Marco", "edward", "Gene2", "Lee", "Denis",
    "Andy", "sandro", "steph3", "gustave", "f5", "pablo", "ed", "Nguyen", "miguel", "RicishayMax", "announcer", "robert",
    "klatt3", "Annie", "Tweaky", "pedro", "mike2", "f1", "robosoft6", "f3", "Mario", "paul", "Hugo", "adam", "robosoft8",
    "robosoft5", "m2", "quincy", "iven4", "belinda", "f2", "RicishayMax2", "antonio", "m7", "m1", "victor",
)  # fmt: skip
# Files, not language codes: a code is looked up in the order of a directory, which is not the same everywhere.
ACCENTS = ("gmw/en-US", "gmw/en", "gmw/en-GB-scotland", "gmw/en-GB-x-rp", "gmw/en-029", "gmw/en-GB-x-gbclan")

DETERMINERS = ("the", "a", "my", "our", "your", "her", "his", "their", "this", "that", "every", "some", "no", "one")
ADJECTIVES = (
    "old", "quiet", "green", "narrow", "early", "simple", "famous", "heavy", "gentle", "broken", "distant", "clever",
    "empty", "cheerful", "frozen", "local", "modern", "patient", "rapid", "secret", "tall", "useful", "warm", "young",
)  # fmt: skip
NOUNS = (
    "captain", "garden", "window", "teacher", "river", "market", "village", "doctor", "bridge", "kitchen", "letter",
    "mountain", "neighbour", "office", "painter", "question", "railway", "sailor", "table", "uncle", "valley", "writer",
    "hospital", "island", "journey", "ladder", "machine", "newspaper", "orchard", "passenger", "shoulder", "telephone",
    "umbrella", "village hall", "weekend", "yellow coat", "church", "engine", "farmer", "harbour",
)  # fmt: skip
VERBS = (
    "answered", "borrowed", "carried", "described", "examined", "followed", "guarded", "helped", "ignored", "joined",
    "kept", "lifted", "measured", "noticed", "opened", "painted", "questioned", "repaired", "studied", "touched",
    "understood", "visited", "watched", "found",
)  # fmt: skip
ENDINGS = (
    "before breakfast", "in the evening", "without a word", "for seven years", "after the storm", "on Thursday",
    "at the station", "near the beach", "because of the weather", "until the end", "behind the house", "once again",
    "with great care", "in small steps", "under the bridge", "as usual",
)  # fmt: skip

SYNCHRONOUS, DO_NOT_EXIT, UTF8, NO_ERROR = 2, 0x8000, 1, 0
RATE, PITCH, RANGE = 1, 3, 4  # espeak_PARAMETER
_one_at_a_time = threading.Lock()


def recordings(block: EspeakSource) -> pd.DataFrame:
    """One row per utterance; the voice is the group. Nothing is spoken yet, and nothing need be installed for it."""
    rows = [
        (f"espeak:{voice}:{k:02d}", f"espeak:{voice}")
        for voice, k in _sentences(block.voices, block.utterances, block.seed)
    ]
    table = pd.DataFrame(rows, columns=["recording_id", "group_id"])
    return table.assign(
        role="content", label=block.label, supergroup_id=table["group_id"], category="sentence", family="speech",
        licence="generated", path="", start_s=np.nan, end_s=np.nan,
    )  # fmt: skip


def waveform(block: EspeakSource, row: Any) -> NDArray[np.float32]:
    """The utterance, about 3 s at 16 kHz; about 10 ms of work.

    Each voice has an accent, rate, pitch and resampling factor of its own. The factors lie at least 0.6 % apart: the
    voiceless consonants of espeak-ng are recordings that all voices share, and would leak from part to part. Raises
    ValueError where the extra `demo` is not installed or espeak-ng fails.
    """
    _, voice, k = row.recording_id.split(":")
    text = _sentences(block.voices, block.utterances, block.seed)[voice, int(k)]
    i = VARIANTS.index(voice)
    rate_hz, pcm = speak(
        text, f"{ACCENTS[i % len(ACCENTS)]}+{voice}", words_per_minute=140 + i * 17 % 50, pitch=35 + i * 11 % 30
    )
    factor = 1.006 ** (i * 23 % len(VARIANTS) - len(VARIANTS) / 2)  # 23 spreads neighbours over the range 0.84-1.19
    samples = soxr.resample(pcm.astype(np.float32) / 32_768, rate_hz * factor, SAMPLE_RATE_HZ, quality="HQ")
    return np.clip(samples, -1, 1)


@functools.lru_cache(maxsize=8)
def _sentences(voices: int, utterances: int, seed: int) -> dict[tuple[str, int], str]:
    """(voice, number) -> its sentence. No sentence comes twice; more voices or utterances change none of the others."""
    spoken: dict[tuple[str, int], str] = {}
    taken: set[str] = set()
    for voice in VARIANTS[:voices]:
        for k in range(utterances):
            rng = np.random.default_rng(zlib.crc32(f"{seed}:{voice}:{k}".encode()))
            while (text := _sentence(rng)) in taken:
                pass
            taken.add(text)
            spoken[voice, k] = text
    return spoken


def _sentence(rng: np.random.Generator) -> str:
    pattern = (DETERMINERS, ADJECTIVES, NOUNS, VERBS, DETERMINERS, ADJECTIVES, NOUNS, ENDINGS)
    return " ".join(words[rng.integers(len(words))] for words in pattern)


def speak(text: str, voice: str, *, words_per_minute: int, pitch: int) -> tuple[int, NDArray[np.int16]]:
    """Sample rate and samples of `text`, bit for bit the same whatever was spoken before.

    espeak-ng keeps state between utterances (its noise, its wave cycle), which no call resets. So the library is
    loaded, seeded, used once and unloaded, one utterance at a time. Raises ValueError where it is missing, was loaded
    before, or fails.
    """
    chunks: list[NDArray[np.int16]] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def collect(samples: Any, n: int, _events: Any) -> int:
        if n > 0:
            chunks.append(np.ctypeslib.as_array(samples, (n,)).copy())
        return 0

    encoded = text.encode()
    with _one_at_a_time, _fresh_library() as (library, data):
        rate_hz = library.espeak_Initialize(SYNCHRONOUS, 0, data.encode(), DO_NOT_EXIT)
        library.espeak_SetSynthCallback(collect)
        if rate_hz > 0 and library.espeak_SetVoiceByName(voice.encode()) == NO_ERROR:
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))
            for parameter, value in ((RATE, words_per_minute), (PITCH, pitch), (RANGE, 50)):
                library.espeak_SetParameter(parameter, value, 0)
            library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 1, 0, UTF8, None, None)
        library.espeak_Terminate()
    if not chunks:
        raise ValueError(f"espeak-ng did not speak {text!r} with the voice {voice!r}")
    return rate_hz, np.concatenate(chunks)


@contextlib.contextmanager
def _fresh_library() -> Iterator[tuple[ctypes.CDLL, str]]:
    """espeak-ng as it is before its first word, and the folder of its data."""
    try:
        import _ctypes

        import espeakng_loader
    except ImportError as error:
        raise ValueError(
            "a source of kind espeak needs espeak-ng: pip install -c constraints.txt -e '.[demo]'"
        ) from error
    path = espeakng_loader.get_library_path()
    if hasattr(os, "RTLD_NOLOAD"):
        with contextlib.suppress(OSError):
            ctypes.CDLL(path, os.RTLD_NOLOAD)
            raise ValueError("espeak-ng is loaded in this process already; what it says would depend on what it said")
    library = ctypes.CDLL(path)
    try:
        yield library, espeakng_loader.get_data_path()
    finally:
        getattr(_ctypes, "FreeLibrary" if os.name == "nt" else "dlclose")(library._handle)
