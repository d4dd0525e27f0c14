"""Archives in: zip, zip in volumes and tar, of which nothing but regular files inside the folder comes out."""

import contextlib
import gzip
import io
import itertools
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, NamedTuple, cast

CHUNK = 1 << 20
MARGIN = 1 << 28  # bytes of disk that stay free


class Member(NamedTuple):
    """A regular file in an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes] | None]


def unpack(
    volumes: Sequence[Path], into: Path, strip: int = 0, check: Callable[[Path], None] = lambda folder: None
) -> list[str]:
    """The files of an archive (one zip or tar, or the volumes of a zip) under `into`, without their first folders.

    They are unpacked aside and moved in when all of them are there and `check` of their folder raises nothing; gives the
    names that came right under `into`. Raises ValueError where the archive is damaged, holds a link, a device or a name that
    leads outside, or more than the disk has room for.
    """
    name = volumes[-1].name
    into.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(into.parent).free - MARGIN
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=".unpacking-") as aside:
        try:
            with _members(volumes) as members:
                for member in members:
                    free -= member.size
                    if free < 0:
                        raise ValueError(f"it unpacks to more than the disk at {into.parent} has room for")
                    if path := safe_path(member.name, strip):
                        _copy(member, Path(aside, path))
        except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError) as error:
            raise ValueError(f"{name} is damaged or no archive ({error}): remove it and fetch it again") from error
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        check(Path(aside))
        made = sorted(path.name for path in Path(aside).iterdir())
        _move_in(Path(aside), into)
    return made


def safe_path(name: str, strip: int) -> PurePosixPath | None:
    """Where a file of an archive goes, relative; None where its folders are all that is left of it.

    Raises ValueError on a name that leads elsewhere.
    """
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.drive or windows.root or ".." in (*posix.parts, *windows.parts) or "\0" in name:
        raise ValueError(f"it holds {name!r}, which leads out of its folder")
    parts = posix.parts[strip:]
    return PurePosixPath(*parts) if parts else None


@contextlib.contextmanager
def _members(volumes: Sequence[Path]) -> Iterator[Iterator[Member]]:
    """The regular files of an archive. Raises ValueError on links and devices."""
    with contextlib.ExitStack() as stack:
        if volumes[-1].suffix == ".zip":
            joined = Joined([stack.enter_context(file.open("rb")) for file in volumes])
            archive = stack.enter_context(zipfile.ZipFile(io.BufferedReader(joined)))
            yield _of_zip(archive, joined.starts[:-1])
        else:
            reader = gzip.open if volumes[-1].suffix in (".gz", ".tgz") else open
            stream = cast(IO[bytes], stack.enter_context(reader(volumes[-1], "rb")))
            yield _of_tar(stack.enter_context(tarfile.open(fileobj=stream, mode="r:")), stream)


def _of_tar(archive: tarfile.TarFile, stream: IO[bytes]) -> Iterator[Member]:
    for entry in archive:
        if entry.isreg():
            yield Member(entry.name, entry.size, lambda entry=entry: archive.extractfile(entry))  # type: ignore[misc]
        elif not entry.isdir():
            raise ValueError(f"it holds {entry.name!r}, which is a link or a device and no file")
    while stream.read(CHUNK):  # gzip's own checksum comes at its very end
        pass


def _of_zip(archive: zipfile.ZipFile, starts: Sequence[int]) -> Iterator[Member]:
    """`starts` are those of the volumes: where a file lies is told within its own."""
    last = max(start for start in starts if start <= archive.start_dir)  # what zipfile took for the beginning
    for entry in archive.infolist():
        if len(starts) > 1:
            entry.header_offset += starts[entry.volume] - last
            with contextlib.suppress(AttributeError):  # before Python 3.11.8 there is none
                entry._end_offset = None  # type: ignore[attr-defined]  # reckoned from the places before
        mode = entry.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"it holds {entry.filename!r}, which is a link or a device and no file")
        if not entry.is_dir():
            yield Member(entry.filename, entry.file_size, lambda entry=entry: archive.open(entry))  # type: ignore[misc]


def _copy(member: Member, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as out:
        source = member.open()
        assert source, "a regular file has content"
        with source:
            shutil.copyfileobj(source, out, CHUNK)


def _move_in(aside: Path, into: Path) -> None:
    for folder, _, names in os.walk(aside):
        there = into / Path(folder).relative_to(aside)
        there.mkdir(parents=True, exist_ok=True)
        for name in names:
            Path(folder, name).replace(there / name)


class Joined(io.RawIOBase):
    """Several files as one, for reading."""

    def __init__(self, files: Sequence[IO[bytes]]) -> None:
        self.files = files
        self.starts = [0, *itertools.accumulate(file.seek(0, io.SEEK_END) for file in files)]
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.starts[-1]}[whence]
        if self.at < 0:
            raise ValueError(f"it points to byte {self.at}")
        return self.at

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        for k, file in enumerate(self.files):
            if self.starts[k] <= self.at < self.starts[k + 1]:
                file.seek(self.at - self.starts[k])
                content = file.read(min(len(buffer), self.starts[k + 1] - self.at))
                buffer[: len(content)] = content
                self.at += len(content)
                return len(content)
        return 0
