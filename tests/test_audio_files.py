"""What the strict reader takes and what it refuses."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.audio_files import decode_flac, encode_flac, read_clip
from tasks.functional.audio import pcm16


def tone(seconds: float = 0.5, rate: int = 16_000, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def written(folder: Path, samples: np.ndarray, rate: int = 16_000, name: str = "a.wav", **how: str) -> Path:
    soundfile.write(folder / name, samples, rate, **how)
    return folder / name


def test_a_16_khz_mono_file_comes_back_unchanged(tmp_path: Path) -> None:
    read = read_clip(written(tmp_path, tone(), subtype="FLOAT"))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, tone())


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_become_16_khz_without_a_shift(tmp_path: Path, rate: int) -> None:
    read = read_clip(written(tmp_path, tone(1.0, rate), rate, subtype="FLOAT"))
    assert read.size == 16_000
    np.testing.assert_allclose(read[800:-800], tone(1.0)[800:-800], atol=2e-3)


def test_channels_are_averaged(tmp_path: Path) -> None:
    read = read_clip(written(tmp_path, np.column_stack([tone(), 0 * tone()]), subtype="FLOAT"))
    np.testing.assert_allclose(read, tone() / 2, atol=1e-7)


def test_a_part_is_cut_to_the_sample(tmp_path: Path) -> None:
    path = written(tmp_path, tone(1.0), subtype="FLOAT")
    np.testing.assert_array_equal(read_clip(path, start_s=0.25, end_s=0.5), tone(1.0)[4000:8000])
    np.testing.assert_array_equal(read_clip(path, start_s=float("nan"), end_s=float("nan")), tone(1.0))
    assert read_clip(path, start_s=0.5, end_s=1.005).size == 8000  # the table rounded up


@pytest.mark.parametrize(("start_s", "end_s"), [(0.6, 0.4), (-0.1, 0.4), (0.2, 9.0), (3.0, None)])
def test_a_part_outside_the_file_is_refused(tmp_path: Path, start_s: float, end_s: float | None) -> None:
    with pytest.raises(ValueError, match=r"a\.wav: has no part .* it is 1 s long"):
        read_clip(written(tmp_path, tone(1.0)), start_s=start_s, end_s=end_s)


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(ValueError, match="not a regular file"):
        read_clip(tmp_path / "pipe.wav")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"a line of text", "not readable as audio"), (None, "cannot be opened")],
)
@pytest.mark.parametrize("name", ["x.wav", "x.raw"])
def test_what_is_no_audio_is_refused(tmp_path: Path, content: bytes | None, reason: str, name: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: .*{reason}"):
        read_clip(tmp_path / name)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff", "a.mp3"])
def test_a_truncated_file_is_refused_and_not_read_short(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000)
    path = written(tmp_path, noise, name=name)
    assert read_clip(path).size == 32_000
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if name != "a.flac":
        assert (soundfile.read(path)[0][31_000:] == 0).all()  # cut short or filled with zeros, and no word of it
    with pytest.raises(ValueError, match=r"truncated|not readable"):
        read_clip(path)


def test_a_forged_frame_count_allocates_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, tone(), name="a.flac")
    flac = bytearray(path.read_bytes())
    packed = struct.unpack(">Q", flac[18:26])[0]  # STREAMINFO: 20 bits rate, 3 channels, 5 bits a sample, 36 frames
    for frames in (2**36 - 1, 20_000_000):
        flac[18:26] = struct.pack(">Q", packed & ~(2**36 - 1) | frames)
        path.write_bytes(flac)
        with pytest.raises(ValueError, match=r"claims .* s|truncated|not readable"):
            read_clip(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    samples = tone()
    samples[100] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        read_clip(written(tmp_path, samples, subtype="FLOAT"))


def test_anti_phase_stereo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cancel each other"):
        read_clip(written(tmp_path, np.column_stack([tone(), -tone()])))


def test_silence_and_scraps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is silent"):
        read_clip(written(tmp_path, np.zeros((8_000, 2))))
    with pytest.raises(ValueError, match="is 5 ms long"):
        read_clip(written(tmp_path, tone(0.005)))
    with pytest.raises(ValueError, match="holds no samples"):
        read_clip(written(tmp_path, np.zeros(0)))


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.int16, st.integers(1, 2_000)))
def test_flac_keeps_every_16_bit_sample(pcm: np.ndarray) -> None:
    samples = (pcm / 32_768).astype(np.float32)
    np.testing.assert_array_equal(decode_flac(encode_flac(samples)), samples)


def test_the_same_samples_give_the_same_bytes() -> None:
    assert encode_flac(tone()) == encode_flac(tone().astype(np.float64))
    assert encode_flac(tone()) == encode_flac(pcm16(tone())), "16-bit samples are taken as they are"
    assert encode_flac(tone()) != encode_flac(-tone())


@pytest.mark.parametrize("bad", [np.full(9, 1.5), np.full(9, np.nan), np.zeros((9, 2)), np.zeros((9, 2), np.int16)])
def test_flac_refuses_what_it_would_have_to_bend(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="cannot encode"):
        encode_flac(bad)


@pytest.mark.parametrize("samples", [0, 2**36 - 1])
@pytest.mark.parametrize("second", [False, True], ids=["in its header", "in a second header"])
def test_a_flac_that_claims_more_than_is_read_is_refused_before_room_is_made_for_it(
    samples: int, second: bool
) -> None:
    flac = encode_flac(tone())
    header = flac[8:42]
    forged = (
        header[:10] + (int.from_bytes(header[10:18], "big") >> 36 << 36 | samples).to_bytes(8, "big") + header[18:]
    )
    block = bytes([flac[4], 0, 0, 34])
    whole = flac[:4] + bytes([0, 0, 0, 34]) + (header + block + forged if second else forged) + flac[42:]
    with pytest.raises(ValueError, match=r"the FLAC claims [0-9,]{14,} samples; at most 1800 s are read"):
        decode_flac(whole)


def test_bytes_that_are_no_16_khz_flac_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no FLAC"):
        decode_flac(b"not audio at all")
    with pytest.raises(ValueError, match="8000 Hz"):
        decode_flac(written(tmp_path, tone(rate=8_000), 8_000, name="b.flac").read_bytes())
