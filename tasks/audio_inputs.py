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
    """A file, what it is called in the output, and why it cannot be one, where the name stands for no audio."""

    file: Path
    name: str
    error: str | None = None


def expand(arguments: Sequence[str | Path], scratch: Path, stdin: BinaryIO | None = None) -> list[Input]:
    """Every audio file that the arguments name, in their order, each once, and each name that stands for none.

    A folder stands for the audio files below it, a pattern for what it matches; "-" for one recording on standard input,
    or for a list of paths there, one a line. A recording from standard input is written into `scratch`.
    Raises FileNotFoundError where nothing names a file, with all that was given.
    """
    found: dict[Path, Input] = {}
    for argument in arguments:
        for one in expand_one(str(argument), scratch, stdin):
            found.setdefault(one.file.absolute(), one)
    if all(one.error for one in found.values()):
        named = "".join(f"; {one.name}: {one.error}" for one in found.values())
        raise FileNotFoundError(f"no audio: give files, folders, globs, or - for standard input{named}")
    return list(found.values())


def expand_one(argument: str, scratch: Path, stdin: BinaryIO | None) -> list[Input]:
    """The files of one argument, or the argument itself with the reason why it names none."""
    if argument == STDIN:
        return from_stdin(stdin or sys.stdin.buffer, scratch)
    if not argument.strip():
        raise ValueError("an empty name among the audio: give files, folders, globs, or - for standard input")
    path = Path(argument).expanduser()
    if path.is_dir():
        below = [Input(file, str(file)) for file in audio_under(path)]
        return below or [Input(path, argument, f"holds no audio; read are {', '.join(sorted(SUFFIXES))}")]
    if path.exists():
        return [Input(path, argument)]
    matched = [Path(file) for file in sorted(glob.glob(str(path), recursive=True))]
    files = [Input(file, str(file)) for file in matched if file.is_file() and file.suffix.lower() in SUFFIXES]
    return files or [Input(path, argument, "there is no such file, and as a pattern it matches no audio")]


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
