"""Audio files in and out: one strict reader for whatever a user points at, and FLAC bytes for what we keep."""

import io
import math
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from tasks.functional.audio import SAMPLE_RATE_HZ, pcm16, rms

RATES_HZ = (4_000, 384_000)
MAX_CHANNELS = 8
MAX_CHUNKS = 1_000  # of a WAV before its samples
LONGEST_S = 1_800.0  # of one read: 115 MB at 16 kHz
SHORTEST_S = 0.010
LEAST_PEAK = 2.0**-15  # one step of 16 bits
CANCELLED = 0.1  # the mono sum lies 20 dB under the loudest channel; one lone channel of eight lies 18 dB under it
EDGE_S = 0.010  # tables round their times


def read_clip(
    path: str | Path, *, start_s: float | None = None, end_s: float | None = None, silence: bool = False
) -> NDArray[np.float32]:
    """A file, or its part from `start_s` to `end_s` (None and NaN: its beginning, its end), as 16 kHz mono in [-1, 1].

    Channels are averaged, other rates resampled (soxr HQ). Raises ValueError naming the file and the reason where it
    is no regular file, no audio, truncated, forged, longer than 30 minutes, not finite, cancelled by its own channels,
    shorter than 10 ms or, unless `silence` is to be handed on, silent.
    """
    try:
        _check_file(path)
        samples = _check_length(_to_mono(*_read_frames(path, start_s, end_s)))
        if is_silent(samples) and not silence:
            raise ValueError("is silent")
        return samples
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def stretches(path: str | Path, step: int, overlap: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """A file of any length as 16 kHz mono stretches: first sample, and samples.

    Stretches begin `step` samples apart and run `overlap` samples into the next; the last one is up to twice as long, so
    that none is a splinter. Silence is handed on. Raises ValueError as `read_clip` does.
    """
    try:
        _check_file(path)
        seconds = _seconds(path)
        first, last = 0, False
        while not last:
            start_s = first / SAMPLE_RATE_HZ
            end_s = start_s + (step + overlap) / SAMPLE_RATE_HZ
            last = end_s + step / SAMPLE_RATE_HZ >= seconds
            samples = _to_mono(*_read_frames(path, start_s, None if last else end_s))
            yield first, samples if first else _check_length(samples)
            first += step
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _seconds(path: str | Path) -> float:
    """Length by the header, which a reader checks stretch by stretch."""
    try:
        return float(soundfile.info(path).duration)
    except (soundfile.LibsndfileError, TypeError) as error:
        raise ValueError(f"is not readable as audio ({getattr(error, 'error_string', error)})") from error


def _check_file(path: str | Path) -> None:
    """A pipe would hang the reader and a truncated file reads short without a word: ask before decoding."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise ValueError(f"cannot be opened ({error.strerror or error})") from error
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("is not a regular file")
    if found.st_size == 0:
        raise ValueError("is empty")
    with open(path, "rb") as file:
        promised = _promised_bytes(file)
    if promised > found.st_size:
        raise ValueError(f"is truncated: its header promises {promised} bytes, it has {found.st_size}")


def _promised_bytes(file: BinaryIO) -> int:
    """Bytes that a file's header speaks of; 0 where it says nothing.

    The decoder reads such a file short (WAV, RF64, W64, AIFF, AU) or fills it up with zeros (MP3, by the Xing header)
    and reports nothing.
    """
    head = file.read(40)
    kind = head[:4]
    if kind == b"RIFF":
        return max(int.from_bytes(head[4:8], "little") + 8, _end_of_data(file))
    if kind == b"RF64":  # the 64-bit size stands in the ds64 chunk, which comes first
        return int.from_bytes(head[20:28], "little") + 8
    if kind == b"riff":  # W64, whose ids have 16 bytes
        return int.from_bytes(head[16:24], "little")
    if kind == b"FORM":
        return int.from_bytes(head[4:8], "big") + 8
    if kind == b".snd":
        offset, size = (int.from_bytes(head[at : at + 4], "big") for at in (4, 8))
        return 0 if size == 2**32 - 1 else offset + size
    return _end_of_mp3(file, head)


def _end_of_data(file: BinaryIO) -> int:
    """Where the data chunk of a WAV ends by its own size, 0 where there is none."""
    file.seek(12)
    for _ in range(MAX_CHUNKS):
        if len(chunk := file.read(8)) < 8:
            break
        size = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data":
            return file.tell() + size
        file.seek(size + size % 2, os.SEEK_CUR)
    return 0


def _end_of_mp3(file: BinaryIO, head: bytes) -> int:
    """Where an MP3 ends by its Xing or Info header, 0 where there is none."""
    tag = 0
    if head[:3] == b"ID3":  # seven bits a byte
        tag = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    file.seek(tag)
    frame = file.read(256)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if frame[:1] != b"\xff" or at < 0:
        return 0
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    size_at = at + 8 + 4 * (flags & 1)  # the number of frames comes first where it is there
    return tag + int.from_bytes(frame[size_at : size_at + 4], "big") if flags & 2 else 0


def _read_frames(path: str | Path, start_s: float | None, end_s: float | None) -> tuple[NDArray[np.float32], int]:
    """Frames x channels and their rate. Read in blocks: a forged frame count must not decide how much is allocated."""
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            if not (RATES_HZ[0] <= rate <= RATES_HZ[1] and 1 <= file.channels <= MAX_CHANNELS):
                raise ValueError(f"has {rate} Hz and {file.channels} channels; {RATES_HZ} Hz and up to 8 are read")
            first, last = _bounds(file.frames / rate, start_s, end_s)
            wanted = min(round(last * rate), file.frames) - round(first * rate)
            file.seek(round(first * rate))
            blocks = list(file.blocks(65_536, frames=wanted, dtype="float32", always_2d=True))
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a suffix that soundfile takes for raw data
        raise ValueError(f"is not readable as audio ({getattr(error, 'error_string', error)})") from error
    frames = np.concatenate(blocks) if blocks else np.zeros((0, 1), np.float32)
    if len(frames) != wanted:
        raise ValueError(f"is truncated: its header promises {wanted} frames, {len(frames)} could be read")
    return frames, rate


def _bounds(duration_s: float, start_s: float | None, end_s: float | None) -> tuple[float, float]:
    first = 0.0 if start_s is None or math.isnan(start_s) else start_s
    last = duration_s if end_s is None or math.isnan(end_s) else end_s
    if duration_s == 0:
        raise ValueError("holds no samples")
    if not (0 <= first < min(last, duration_s) and last <= duration_s + EDGE_S):
        raise ValueError(f"has no part from {first:g} to {last:g} s: it is {duration_s:g} s long")
    if last - first > LONGEST_S:
        raise ValueError(f"claims {last - first:g} s; at most {LONGEST_S:g} s are read: give start_s and end_s")
    return first, last


def _to_mono(frames: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    if not np.isfinite(frames).all():
        raise ValueError("holds NaN or infinite samples")
    mono = frames.mean(axis=1)
    if len(frames) and frames.shape[1] > 1 and rms(mono) < CANCELLED * max(rms(channel) for channel in frames.T):
        raise ValueError("its channels cancel each other (anti-phase): take one of them")
    return mono if rate_hz == SAMPLE_RATE_HZ else soxr.resample(mono, rate_hz, SAMPLE_RATE_HZ, quality="HQ")


def _check_length(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    if samples.size < SHORTEST_S * SAMPLE_RATE_HZ:
        raise ValueError(f"is {1000 * samples.size / SAMPLE_RATE_HZ:g} ms long, at least {1000 * SHORTEST_S:g} needed")
    return samples


def is_silent(samples: NDArray[np.float32]) -> bool:
    """Whether nothing of it reaches one step of 16 bits: digital silence, as a muted microphone gives it."""
    return bool(np.abs(samples).max() < LEAST_PEAK)


def encode_flac(samples: NDArray[np.floating] | NDArray[np.int16]) -> bytes:
    """16 kHz mono samples, in [-1, 1] or 16-bit integers, as 16-bit FLAC; the same samples give the same bytes.

    Raises ValueError where samples are not one-dimensional, not finite or beyond full scale.
    """
    pcm = pcm16(samples)
    with _file_in_memory() as file:  # libsndfile writes it by itself; a BytesIO it would call back for every block
        soundfile.write(file.fileno(), pcm, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16", closefd=False)
        file.seek(0)
        return file.read()


def _file_in_memory() -> BinaryIO:
    """A file without a name; in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("flac"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def samples_of(flac: bytes) -> int:
    """Samples of a FLAC by its header. Raises ValueError for other bytes and for a header that leaves them out."""
    samples = int.from_bytes(flac[18:26], "big") & (2**36 - 1)
    if flac[:4] != b"fLaC" or not samples:
        raise ValueError(f"{len(flac)} bytes that are no FLAC of a known length")
    return samples


def decode_flac(flac: bytes) -> NDArray[np.float32]:
    """What `encode_flac` encoded, to 16 bits: float32 samples in [-1, 1).

    Raises ValueError on other bytes, on audio that is not 16 kHz mono, and, before room is made for them, on more samples
    than are read at once.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(flac)) as file:
            if file.frames > LONGEST_S * SAMPLE_RATE_HZ:
                raise ValueError(f"the FLAC claims {file.frames:,} samples; at most {LONGEST_S:g} s are read")
            samples, rate_hz = file.read(dtype="float32"), file.samplerate
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{len(flac)} bytes that are no FLAC ({error.error_string})") from error
    if rate_hz != SAMPLE_RATE_HZ or samples.ndim != 1:
        raise ValueError(f"the FLAC has {rate_hz} Hz and shape {samples.shape}: 16 kHz mono is needed")
    return samples
