"""Archives: files inside the folder come out, and nothing else does, whoever packed them."""

import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks import unpacking
from tasks.unpacking import unpack

CONTENT = {"top/a.txt": b"first", "top/deep/b.bin": bytes(range(256)) * 40, "top/empty": b""}


def zipped(file: Path, content: dict[str, bytes] | None = None, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.mkdir("top")
        for name, data in (CONTENT if content is None else content).items():
            archive.writestr(name, data)
    return file


def tarred(file: Path, content: dict[str, bytes] | None = None) -> Path:
    with tarfile.open(file, "w:gz") as archive:
        for name, data in (CONTENT if content is None else content).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file


def in_volumes(file: Path, size: int) -> list[Path]:
    """A zip cut into volumes as `zip -s` does: places in the directory count within the volume they lie in."""
    data = bytearray(file.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    directory = struct.unpack_from("<I", data, end + 16)[0]
    last = (len(data) - 1) // size
    assert directory // size == last, "the directory lies in the last volume"
    at = directory
    while data[at : at + 4] == b"PK\x01\x02":
        name, extra, comment = struct.unpack_from("<HHH", data, at + 28)
        place = struct.unpack_from("<I", data, at + 42)[0]
        struct.pack_into("<H", data, at + 34, place // size)
        struct.pack_into("<I", data, at + 42, place % size)
        at += 46 + name + extra + comment
    struct.pack_into("<HH", data, end + 4, last, last)
    struct.pack_into("<I", data, end + 16, directory % size)
    names = [file.with_suffix(f".z{k + 1:02d}") for k in range(last)] + [file]
    for k, volume in enumerate(names):
        volume.write_bytes(data[k * size : (k + 1) * size])
    return names


def unpacked(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_what_was_packed_comes_out_without_the_folders_that_are_left_away(
    pack: Callable[[Path], Path], tmp_path: Path
) -> None:
    file = pack(tmp_path / ("a.zip" if pack is zipped else "a.tar.gz"))
    assert unpack([file], tmp_path / "whole") == ["top"]
    assert unpacked(tmp_path / "whole") == CONTENT
    assert unpack([file], tmp_path / "bare", strip=1) == ["a.txt", "deep", "empty"]
    assert unpacked(tmp_path / "bare") == {name.removeprefix("top/"): data for name, data in CONTENT.items()}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([file.name, "bare", "whole"]), (
        "nothing is left aside"
    )


def test_a_second_archive_joins_the_first_one_in_its_folder(tmp_path: Path) -> None:
    unpack([zipped(tmp_path / "a.zip")], tmp_path / "into")
    unpack([tarred(tmp_path / "b.tar.gz", {"top/deep/c": b"third", "top/a.txt": b"newer"})], tmp_path / "into")
    assert unpacked(tmp_path / "into") == {**CONTENT, "top/deep/c": b"third", "top/a.txt": b"newer"}


@pytest.mark.parametrize("size", [4_000, 7_001])
def test_a_zip_in_volumes_is_one_zip(tmp_path: Path, size: int) -> None:
    content = {f"top/{k}.bin": bytes([k]) * 1_500 for k in range(12)}
    volumes = in_volumes(zipped(tmp_path / "a.zip", content, zipfile.ZIP_STORED), size)
    assert len(volumes) > 2
    unpack(volumes, tmp_path / "into")
    assert unpacked(tmp_path / "into") == content
    with pytest.raises(ValueError, match=r"a\.zip(: | is )"):
        unpack(volumes[1:], tmp_path / "short")
    assert not (tmp_path / "short").exists()


ESCAPES = [
    "/etc/passwd",
    "../outside",
    "top/../../outside",
    "C:\\windows\\x",
    "top\\..\\..\\outside",
    "\\\\host\\share\\x",
]


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_name_that_leads_outside_is_refused_whole(
    pack: Callable[[Path, dict[str, bytes]], Path], name: str, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    suffix = "zip" if pack is zipped else "tar.gz"
    file = pack(tmp_path / f"here/evil.{suffix}", {"top/good.txt": b"good", name: b"evil"})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=rf"evil\.{suffix}: it holds .*, which leads out of its folder"):
        unpack([file], tmp_path / "here/into")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "here/into").exists(), "not even the good file stays"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, tmp_path: Path) -> None:
    file = tmp_path / "evil.tar"
    with tarfile.open(file, "w") as archive:
        entry = tarfile.TarInfo("top/link")
        entry.type, entry.linkname = kind, "/etc"
        archive.addfile(entry)
        inside = tarfile.TarInfo("top/link/passwd")
        inside.size = 4
        archive.addfile(inside, io.BytesIO(b"evil"))
    with pytest.raises(ValueError, match="'top/link', which is a link or a device and no file"):
        unpack([file], tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        entry = zipfile.ZipInfo("top/link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc")
    with pytest.raises(ValueError, match="is a link or a device and no file"):
        unpack([tmp_path / "evil.zip"], tmp_path / "into")


def test_an_archive_that_is_more_than_the_disk_holds_is_refused_before_it_fills_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = zipped(tmp_path / "bomb.zip", {"top/zeros": b"\0" * 5_000_000})
    assert bomb.stat().st_size < 10_000
    room = SimpleNamespace(free=unpacking.MARGIN + 4_000_000)
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda place: room)
    with pytest.raises(ValueError, match=r"bomb\.zip: it unpacks to more than the disk"):
        unpack([bomb], tmp_path / "into")
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "empty"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_damaged_archive_is_named(pack: Callable[[Path], Path], damage: str, tmp_path: Path) -> None:
    file = pack(tmp_path / ("a.zip" if pack is zipped else "a.tar.gz"))
    data = bytearray(file.read_bytes())
    middle = data.index(b"first") if b"first" in data else len(data) // 2
    data[middle] ^= 0xFF
    broken = {
        "cut": file.read_bytes()[: len(data) // 2],
        "flip": bytes(data),
        "text": b"<html>503</html>",
        "empty": b"",
    }
    file.write_bytes(broken[damage])
    with pytest.raises(ValueError, match=rf"{file.name}(: | is damaged or no archive)"):
        unpack([file], tmp_path / "into")
    assert not (tmp_path / "into").exists()
