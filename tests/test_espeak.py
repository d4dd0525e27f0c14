"""Synthetic speakers: different ones, with texts of their own, and every utterance always the same."""

import _ctypes
import ctypes
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recipes.sources import EspeakSource
from tasks import sources
from tasks.sources import espeak

BLOCK = EspeakSource(kind="espeak", voices=60, utterances=2)


def rows(block: EspeakSource = BLOCK) -> list:
    return list(sources.recordings(block).itertuples())


@pytest.fixture(scope="module")
def spoken() -> dict[str, np.ndarray]:
    """The first sentence of all sixty voices."""
    pytest.importorskip("espeakng_loader", reason="needs the extra demo: pip install -c constraints.txt -e '.[demo]'")
    return {row.group_id: sources.waveform(BLOCK, row) for row in rows() if row.recording_id.endswith("00")}


def test_voices_are_groups_and_no_text_is_spoken_twice() -> None:
    table = sources.recordings(BLOCK)
    assert table.columns.tolist() == list(sources.COLUMNS)
    assert table["group_id"].nunique() == 60
    assert table["recording_id"].is_unique
    assert not any("whisper" in voice for voice in espeak.VARIANTS)
    texts = espeak._sentences(BLOCK.voices, 40, BLOCK.seed)
    assert len(set(texts.values())) == len(texts) == 60 * 40


def test_more_voices_and_utterances_change_none_of_the_others() -> None:
    few = espeak._sentences(5, 1, BLOCK.seed)
    assert few.items() <= espeak._sentences(BLOCK.voices, BLOCK.utterances, BLOCK.seed).items()
    assert not few.items() & espeak._sentences(BLOCK.voices, BLOCK.utterances, 1).items()


def test_every_voice_speaks_for_seconds(spoken: dict[str, np.ndarray]) -> None:
    for voice, samples in spoken.items():
        assert samples.dtype == np.float32
        assert 1.5 * 16_000 < samples.size < 8 * 16_000, voice
        assert 0.05 < np.abs(samples).max() <= 1, voice


def test_an_utterance_is_the_same_in_any_order(spoken: dict[str, np.ndarray]) -> None:
    for row in rows()[::-14]:
        again = sources.waveform(BLOCK, row)
        if row.group_id in spoken and row.recording_id.endswith("00"):
            np.testing.assert_array_equal(again, spoken[row.group_id])
    first = rows()[0]
    np.testing.assert_array_equal(sources.waveform(BLOCK, first), spoken[first.group_id])


def test_an_utterance_is_the_same_in_a_new_process(spoken: dict[str, np.ndarray]) -> None:
    program = (
        "import hashlib; from recipes.sources import EspeakSource; from tasks import sources; "
        "block = EspeakSource(kind='espeak', voices=60, utterances=2); "
        "row = list(sources.recordings(block).itertuples())[70]; "
        "print(hashlib.sha256(sources.waveform(block, row).tobytes()).hexdigest())"
    )
    root = Path(__file__).parent.parent
    other = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hashlib.sha256(spoken[rows()[70].group_id].tobytes()).hexdigest()


def test_voices_differ_in_spectrum_and_pitch(spoken: dict[str, np.ndarray]) -> None:
    """Long-term spectra of one sentence in the first 24 voices, by their plain espeak settings."""
    said = {}
    for i, voice in enumerate(espeak.VARIANTS[:24]):
        rate_hz, pcm = espeak.speak("nine men were seen alone", f"gmw/en-US+{voice}", words_per_minute=160, pitch=50)
        power = np.abs(np.fft.rfft(pcm / 32_768, 4 * rate_hz)) ** 2
        said[i] = 10 * np.log10(power[400:32_000].reshape(-1, 400).mean(axis=1) + 1e-9)
    shapes = np.stack([spectrum - spectrum.mean() for spectrum in said.values()])
    apart = np.sqrt(np.mean((shapes[:, None] - shapes[None]) ** 2, axis=2)) + 99 * np.eye(24)
    assert apart.min() > 1.0


def test_resampling_parts_the_consonants_that_voices_share() -> None:
    factors = sorted(1.006 ** (i * 23 % 60 - 30) for i in range(60))
    assert (np.diff(factors) / factors[:-1]).min() >= 0.005


def test_without_the_extra_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert len(sources.recordings(BLOCK)) == 120
    with pytest.raises(ValueError, match=r"pip install -c constraints.txt -e '.\[demo\]'"):
        sources.waveform(BLOCK, rows()[0])


def test_an_unknown_voice_is_refused() -> None:
    pytest.importorskip("espeakng_loader")
    with pytest.raises(ValueError, match="did not speak 'hello' with the voice 'gmw/nowhere'"):
        espeak.speak("hello", "gmw/nowhere", words_per_minute=150, pitch=50)


def test_every_voice_is_there() -> None:
    """espeak-ng takes an unknown variant for its base voice: two speakers would be one."""
    data = Path(pytest.importorskip("espeakng_loader").get_data_path())
    assert all((data / "voices" / "!v" / name).is_file() for name in espeak.VARIANTS)
    assert all((data / "lang" / name).is_file() for name in espeak.ACCENTS)
    assert len(set(espeak.VARIANTS)) == 60


def test_a_library_that_has_already_spoken_is_refused() -> None:
    """The failure that the fresh library guards against: in a used one the same words sound otherwise."""
    loader = pytest.importorskip("espeakng_loader")
    held = ctypes.CDLL(loader.get_library_path())
    try:
        with pytest.raises(ValueError, match="already"):
            espeak.speak("hello", "gmw/en", words_per_minute=150, pitch=50)
    finally:
        while _is_loaded(loader.get_library_path()):
            _ctypes.dlclose(held._handle)
    assert espeak.speak("hello", "gmw/en", words_per_minute=150, pitch=50)[1].size > 4_000


def _is_loaded(path: str) -> bool:
    try:
        again = ctypes.CDLL(path, os.RTLD_NOLOAD)
    except OSError:
        return False
    _ctypes.dlclose(again._handle)
    return True


def test_rows_are_what_the_design_reads() -> None:
    table = sources.recordings(BLOCK)
    assert isinstance(table, pd.DataFrame)
    assert set(table["label"]) == {"SPEECH"}
    assert table["supergroup_id"].equals(table["group_id"])
