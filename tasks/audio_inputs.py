"""What a user points at: files, folders, globs and standard input, as files that can be read."""

import glob
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tasks.sources.files import SUFFIXES, audio_under

STDIN = "-"
OPENINGS = (
    b"RIFF",
    b"RF64",
    b"riff",
    b"fLaC",
    b"OggS",
    b"FORM",
    b".snd",
    b"ID3",
    b"\xff\xfb",
    b"\xff\xf3",
    b"\xff\xf2",
)


class Input(NamedTuple):
    """A file, and what it is called in the output."""

    file: Path
    name: str


def expand(arguments: Sequence[str | Path], scratch: Path, stdin: BinaryIO | None = None) -> list[Input]:
    """Every audio file that the arguments name, in their order, each once.

    A folder stands for the audio files below it, a pattern for what it matches; "-" for one recording on standard input,
    or for a list of paths there, one a line. A recording from standard input is written into `scratch`.
    Raises FileNotFoundError for what names no file.
    """
    found: dict[Path, Input] = {}
    for argument in arguments:
        for one in expand_one(str(argument), scratch, stdin):
            found.setdefault(one.file.absolute(), one)
    if not found:
        raise FileNotFoundError("no audio: give files, folders, globs, or - for standard input")
    return list(found.values())


def expand_one(argument: str, scratch: Path, stdin: BinaryIO | None) -> list[Input]:
    """The files of one argument."""
    if argument == STDIN:
        return from_stdin(stdin or sys.stdin.buffer, scratch)
    if not argument.strip():
        raise ValueError("an empty name among the audio: give files, folders, globs, or - for standard input")
    path = Path(argument).expanduser()
    if path.is_dir():
        if not (below := audio_under(path)):
            raise FileNotFoundError(f"{argument} holds no audio; read are {', '.join(sorted(SUFFIXES))}")
        return [Input(file, str(file)) for file in below]
    if path.exists():
        return [Input(path, argument)]
    matched = [Path(file) for file in sorted(glob.glob(str(path), recursive=True))]
    files = [file for file in matched if file.is_file() and file.suffix.lower() in SUFFIXES]
    if not files:
        raise FileNotFoundError(f"there is no file {argument}, and as a pattern it matches no audio")
    return [Input(file, str(file)) for file in files]


def from_stdin(stdin: BinaryIO, scratch: Path) -> list[Input]:
    """One recording, told by its first bytes, or the paths of several."""
    content = stdin.read()
    if content.startswith(OPENINGS):
        with tempfile.NamedTemporaryFile(dir=scratch, prefix="stdin-", delete=False) as file:
            file.write(content)
        return [Input(Path(file.name), STDIN)]
    try:
        lines = [line.strip() for line in content.decode().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError("standard input is neither audio that can be read nor a list of paths, one a line") from error
    return [one for line in lines if line != STDIN for one in expand_one(line, scratch, None)]
