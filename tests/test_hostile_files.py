"""Forty and more files that a user should be saved from: each is refused by name, fast and in little memory."""

import multiprocessing
import os
import re
import resource
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tasks.audio_files import read_clip

WITHIN_S = 1.0  # of the processor: what others do on this machine counts for nothing
HANGS_S = 120.0  # as whoever waited for a writer to a pipe would
MEMORY_BYTES = 200_000_000
RATE_HZ = 16_000
Make = Callable[[Path], None]


def tone(seconds: float = 0.5, rate_hz: int = RATE_HZ) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate_hz)) / rate_hz)


def sound(samples: np.ndarray, rate_hz: int = RATE_HZ, **how: str) -> Make:
    return lambda path: soundfile.write(path, samples, rate_hz, **how)


def content(data: bytes) -> Make:
    return lambda path: path.write_bytes(data)


def cut(share: float, **how: str) -> Make:
    """A sound file of noise, cut short."""

    def make(path: Path) -> None:
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE_HZ)
        soundfile.write(path, noise, RATE_HZ, **how)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return make


def patched(at: int, data: bytes, **how: str) -> Make:
    """A sound file with some bytes of its header forged."""

    def make(path: Path) -> None:
        soundfile.write(path, tone(), RATE_HZ, **how)
        whole = bytearray(path.read_bytes())
        whole[at : at + len(data)] = data
        path.write_bytes(whole)

    return make


def forged_flac(frames: int) -> Make:
    def make(path: Path) -> None:
        soundfile.write(path, tone(), RATE_HZ)
        flac = bytearray(path.read_bytes())
        packed = struct.unpack(">Q", flac[18:26])[
            0
        ]  # STREAMINFO: 20 bits rate, 3 channels, 5 bits a sample, 36 frames
        flac[18:26] = struct.pack(">Q", packed & ~(2**36 - 1) | frames)
        path.write_bytes(flac)

    return make


def long_and_empty(path: Path) -> None:
    """Two hours of zeros that take no room on the disk."""
    soundfile.write(path, np.zeros(10), RATE_HZ)
    n_bytes = 2 * 7_200 * RATE_HZ
    header = bytearray(path.read_bytes()[:44])
    header[4:8], header[40:44] = struct.pack("<I", n_bytes + 36), struct.pack("<I", n_bytes)
    path.write_bytes(header)
    os.truncate(path, n_bytes + 44)


def chunks_without_end(path: Path) -> None:
    """A gigabyte of chunks of no bytes."""
    path.write_bytes(b"RIFF" + struct.pack("<I", 10**9 - 8) + b"WAVE")
    os.truncate(path, 10**9)


def symlink_loop(path: Path) -> None:
    path.symlink_to(path.with_suffix(".other"))
    path.with_suffix(".other").symlink_to(path)


def unix_socket(path: Path) -> None:
    short = path.relative_to(Path.cwd())  # a socket's path has at most 108 bytes
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(short))


ANTIPHASE = np.column_stack([tone(), -tone()])
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
HOSTILE: dict[str, tuple[str, Make, str]] = {
    "empty": ("a.wav", content(b""), "is empty"),
    "text": ("a.wav", content(b"a line of text\n"), "not readable"),
    "random bytes": ("a.flac", content(np.random.default_rng(1).bytes(5_000)), "not readable"),
    "zeros": ("a.wav", content(bytes(5_000)), "not readable"),
    "a picture": ("a.wav", content(b"\x89PNG\r\n\x1a\n" + bytes(500)), "not readable"),
    "an archive": ("a.wav", content(b"PK\x03\x04" + bytes(500)), "not readable"),
    "an error page": ("a.mp3", content(b"<!doctype html><title>404</title>" * 20), "not readable"),
    "a pointer of Git LFS": ("a.flac", content(LFS), "not readable"),
    "text as flac": ("a.flac", content(b"fLaC and then nothing of the kind"), "not readable|truncated"),
    "raw samples": ("a.raw", content(tone().astype("<f4").tobytes()), "not readable"),
    "wav named raw": ("a.raw", lambda path: soundfile.write(path, tone(), RATE_HZ, format="WAV"), "not readable"),
    "missing": ("a.wav", lambda path: None, "cannot be opened"),
    "a folder": ("a.wav", lambda path: path.mkdir(), "not a regular file"),
    "a pipe": ("a.wav", lambda path: os.mkfifo(path), "not a regular file"),
    "a socket": ("a.wav", unix_socket, "not a regular file"),
    "a device": ("a.wav", lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "a symlink loop": ("a.wav", symlink_loop, "cannot be opened"),
    "a dangling symlink": ("a.wav", lambda path: path.symlink_to("nowhere.wav"), "cannot be opened"),
    "half a wav": ("a.wav", cut(0.5), "truncated"),
    "half an 8-bit wav": ("a.wav", cut(0.5, subtype="PCM_U8"), "truncated"),
    "half a 24-bit wav": ("a.wav", cut(0.9, subtype="PCM_24"), "truncated"),
    "half a float wav": ("a.wav", cut(0.99, subtype="DOUBLE"), "truncated"),
    "half an rf64": ("a.rf64", cut(0.5, format="RF64"), "truncated"),
    "half a w64": ("a.w64", cut(0.5), "truncated"),
    "half an au": ("a.au", cut(0.5), "truncated"),
    "half a caf": ("a.caf", cut(0.5), "not readable"),
    "half an aiff": ("a.aiff", cut(0.5), "truncated"),
    "half a flac": ("a.flac", cut(0.5), "truncated|not readable"),
    "nearly a whole flac": ("a.flac", cut(0.98), "truncated|not readable"),
    "half an mp3": ("a.mp3", cut(0.5), "truncated"),
    "half an ogg": ("a.ogg", cut(0.5), "no samples|truncated"),
    "half an opus": ("a.opus", cut(0.5, format="OGG", subtype="OPUS"), "not readable|truncated"),
    "a wav header alone": ("a.wav", cut(0.0006875), "truncated"),
    "a forged RIFF size": ("a.wav", patched(4, b"\xff\xff\xff\xff"), "truncated"),
    "a forged data size": ("a.wav", patched(40, b"\xf0\xff\xff\x7f"), "truncated|claims"),
    "no channels": ("a.wav", patched(22, b"\0\0"), "not readable|channels"),
    "no rate": ("a.wav", patched(24, b"\0\0\0\0"), "not readable|Hz"),
    "no bits": ("a.wav", patched(34, b"\0\0"), "not readable"),
    "an unknown codec": ("a.wav", patched(20, b"\x34\x12"), "not readable"),
    "2 to the 36 frames": ("a.flac", forged_flac(2**36 - 1), "claims"),
    "20 million frames": ("a.flac", forged_flac(20_000_000), "truncated|not readable"),
    "two hours": ("a.wav", long_and_empty, "claims 7200 s"),
    "chunks without end": ("a.wav", chunks_without_end, "not readable"),
    "1 Hz": ("a.wav", sound(tone(), 1), "1 Hz"),
    "3999 Hz": ("a.wav", sound(tone(), 3_999), "3999 Hz"),
    "768 kHz": ("a.wav", sound(tone(), 768_000), "768000 Hz"),
    "32 channels": ("a.wav", sound(np.column_stack([tone()] * 32)), "32 channels"),
    "9 channels": ("a.wav", sound(np.column_stack([tone()] * 9)), "9 channels"),
    "NaN": ("a.wav", sound(np.where(np.arange(8_000) == 7, np.nan, tone()), subtype="FLOAT"), "NaN or infinite"),
    "infinity": ("a.wav", sound(np.where(np.arange(8_000) == 7, -np.inf, tone()), subtype="FLOAT"), "NaN or infinite"),
    "anti-phase": ("a.wav", sound(ANTIPHASE), "cancel each other"),
    "anti-phase, four channels": ("a.wav", sound(np.hstack([ANTIPHASE, ANTIPHASE])), "cancel each other"),
    "no samples": ("a.wav", sound(np.zeros(0)), "no samples"),
    "one sample": ("a.wav", sound(np.ones(1)), "ms long"),
    "5 ms": ("a.wav", sound(tone(0.005)), "5 ms long"),
    "silence": ("a.wav", sound(np.zeros(8_000)), "is silent"),
    "8-bit silence": ("a.wav", sound(np.zeros(8_000), subtype="PCM_U8"), "is silent"),
    "less than one step": ("a.wav", sound(1e-6 * tone(), subtype="FLOAT"), "is silent"),
}


def refuse(path: Path, answers: "multiprocessing.queues.Queue[str]") -> None:
    """In the child: the reader's words, with no more memory than it should need."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    begin = time.process_time()
    try:
        said = f"read {len(read_clip(path))} samples"
    except ValueError as error:
        said = str(error)
    answers.put(f"{time.process_time() - begin:.3f} {said}")


def test_there_are_at_least_forty() -> None:
    assert len(HOSTILE) >= 40


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited through /proc and RLIMIT_AS")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_by_name_in_a_second_and_200_mb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file, make, reason = HOSTILE[name]
    make(tmp_path / file)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=refuse, args=(tmp_path / file, answers), daemon=True)
    child.start()
    seconds, _, said = answers.get(timeout=HANGS_S).partition(" ")
    child.join()
    assert said.startswith(f"{tmp_path / file}: "), said
    assert re.search(reason, said), said
    assert float(seconds) < WITHIN_S


UNUSUAL = {
    "8 bits": ("a.wav", {"subtype": "PCM_U8"}, RATE_HZ),
    "24 bits": ("a.wav", {"subtype": "PCM_24"}, RATE_HZ),
    "double": ("a.wav", {"subtype": "DOUBLE"}, RATE_HZ),
    "A-law": ("a.wav", {"subtype": "ALAW"}, 8_000),
    "192 kHz": ("a.flac", {}, 192_000),
    "RF64": ("a.rf64", {"format": "RF64"}, RATE_HZ),
    "W64": ("a.w64", {}, RATE_HZ),
    "AU": ("a.au", {}, RATE_HZ),
    "CAF": ("a.caf", {}, RATE_HZ),
    "AIFF": ("a.aiff", {}, RATE_HZ),
    "OGG": ("a.ogg", {}, RATE_HZ),
    "Opus": ("a.opus", {"format": "OGG", "subtype": "OPUS"}, RATE_HZ),
    "MP3": ("a.mp3", {}, RATE_HZ),
    "flac named wav": ("a.wav", {"format": "FLAC"}, RATE_HZ),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_file_that_is_sound_is_read(tmp_path: Path, name: str) -> None:
    file, how, rate_hz = UNUSUAL[name]
    soundfile.write(tmp_path / file, tone(1.0, rate_hz), rate_hz, **how)
    read = read_clip(tmp_path / file)
    assert abs(len(read) - RATE_HZ) <= 160
    assert np.sqrt(np.mean(read[2_000:14_000] ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.03)
