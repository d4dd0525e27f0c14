"""Files from the web: downloads that go on where they stopped, and are checked against what was published or came before."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from recipes.corpora import Archive, Volume
from tasks.hub_client import is_loopback

RECORD = "fetched.json"  # under root: address -> sha256, bytes, what it was checked by, what it unpacked to
CHUNK = 1 << 20
ATTEMPTS = 5  # in a row that bring nothing
PAUSE_S = 1.0  # before the second attempt, twice as long before each further one
MARGIN = 1 << 28  # bytes of disk that stay free
Tell = Callable[[str], None]


# --- downloads ---------------------------------------------------------------------------------------------------


def download(volume: Volume, root: Path, tell: Tell) -> Path:
    """A file, whole and checked; what an earlier attempt left is gone on with.

    Raises ValueError where it does not come or its checksum is neither the published one nor that of the first download.
    """
    root.mkdir(parents=True, exist_ok=True)
    file, part = root / volume.name, root / f"{volume.name}.part"
    if not file.is_file():
        with client() as web:
            _persist(web, volume, part, tell)
        part.replace(file)
    try:
        sha256, checked_by = check(file, volume.checksum, _record(root).get(volume.url, {}).get("sha256", ""))
    except ValueError:
        file.unlink()
        raise
    tell(f"{file.name}: {checked_by}")
    _note(root, volume.url, sha256=sha256, bytes=file.stat().st_size, checked_by=checked_by)
    return file


def client() -> httpx.Client:
    """A client that follows redirects, over https or to this machine only."""

    def refuse_plain(request: httpx.Request) -> None:
        if request.url.scheme != "https" and not is_loopback(request.url.host):
            raise ValueError(f"{request.url} is not https: anybody on the way could change it")

    return httpx.Client(
        follow_redirects=True,
        timeout=30,
        event_hooks={"request": [refuse_plain]},
        headers={"Accept-Encoding": "identity"},
    )


def size_of(volume: Volume, web: httpx.Client) -> int | None:
    """Bytes that an address announces; None where it does not tell."""
    try:
        response = web.head(volume.url)
    except httpx.HTTPError:
        return None
    return _length(response) if response.is_success else None


def _persist(web: httpx.Client, volume: Volume, part: Path, tell: Tell) -> None:
    """Attempt after attempt, as long as more comes. Raises ValueError where no more does."""
    fruitless, most = 0, _size(part)
    while True:
        try:
            return _continue(web, volume, part, tell)
        except (httpx.HTTPError, _Again) as error:
            fruitless = 0 if _size(part) > most else fruitless + 1
            most = max(most, _size(part))
            if fruitless >= ATTEMPTS:
                kept = f"{_size(part)} bytes are kept, the same command goes on from there"
                raise ValueError(f"{volume.url} does not come ({error}); {kept}") from error
            tell(f"{part.stem}: {error}; trying again")
            time.sleep(min(30.0, PAUSE_S * 2**fruitless))


class _Again(Exception):
    """An answer that may be another one later."""


def _continue(web: httpx.Client, volume: Volume, part: Path, tell: Tell) -> None:
    """One request for what is missing. A file that has changed at its address since comes from its beginning."""
    marker = part.with_suffix(".marker")  # what tells one version of the file at the address from another
    held = _size(part)
    known = marker.read_text() if marker.is_file() else ""
    asked = {}
    if held and (known or volume.checksum):  # else nothing would tell that two halves are of two files
        asked = {"Range": f"bytes={held}-"} | ({"If-Range": known} if known else {})
    with web.stream("GET", volume.url, headers=asked) as response:
        start = _start(response, volume.url, held, part)
        marker.write_text(_version(response))
        length = _length(response)
        total = None if length is None else start + length
        _demand_space(part.parent, length or 0, volume.name)
        with part.open("ab" if start else "wb") as out:
            for chunk in _told(response.iter_raw(), part.stem, start, total, tell):
                out.write(chunk)
    marker.unlink()


def _start(response: httpx.Response, url: str, held: int, part: Path) -> int:
    """Where what an answer brings belongs: after the `held` bytes, or at the beginning.

    Raises ValueError where nothing will ever come, _Again where something may.
    """
    resumed = response.status_code == 206
    rest = response.headers.get("Content-Range", "").startswith(f"bytes {held}-")
    if response.status_code == 416 or (resumed and not rest):
        part.unlink(missing_ok=True)
        raise _Again("the server has no such rest of the file")
    if response.status_code == 429 or response.status_code >= 500:
        raise _Again(f"the server answers {response.status_code}")
    if not response.is_success:
        raise ValueError(f"{url} answers {response.status_code} {response.reason_phrase}")
    return held if resumed else 0


def _length(response: httpx.Response) -> int | None:
    told = response.headers.get("Content-Length", "")
    return int(told) if told.isdecimal() else None


def _version(response: httpx.Response) -> str:
    """A strong ETag or the time of the last change, "" where the server tells neither (RFC 9110, 13.1.5)."""
    tag = str(response.headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(response.headers.get("Last-Modified", ""))


def _told(chunks: Iterator[bytes], name: str, done: int, total: int | None, tell: Tell) -> Iterator[bytes]:
    """The chunks, with a line every tenth of the file."""
    tenth = 10 * done // total if total else 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        if total and 10 * done // total > tenth:
            tenth = 10 * done // total
            tell(f"{name}: {10 * tenth} % of {total / 1e6:,.0f} MB")


def check(file: Path, published: str, recorded: str) -> tuple[str, str]:
    """Its sha256 and what it was checked by. Raises ValueError where it is not what was published or came before."""
    algorithm, _, wanted = published.partition(":")
    digests = {name: hashlib.new(name) for name in {"sha256", algorithm or "sha256"}}
    with file.open("rb") as content:
        while block := content.read(CHUNK):
            for digest in digests.values():
                digest.update(block)
    sha256 = digests["sha256"].hexdigest()
    if published:
        if (found := digests[algorithm].hexdigest()) != wanted:
            raise ValueError(f"{file.name} has the {algorithm} {found}, published is {wanted}: fetch it again")
        return sha256, f"the published {algorithm} is right"
    if recorded and recorded != sha256:
        raise ValueError(
            f"{file.name} has the sha256 {sha256}, the first download had {recorded}: it has changed at its address. "
            f"Remove its entry in {RECORD} if you want the new one"
        )
    if recorded:
        return sha256, "the sha256 is that of the first download"
    return sha256, f"no checksum is published; the sha256 {sha256} is noted"


# --- what was fetched --------------------------------------------------------------------------------------------


def fetched(archive: Archive, root: Path, folder: str) -> bool:
    """Whether an archive was downloaded and unpacked before, and all that it unpacked to is still there."""
    facts = _record(root).get(archive.volumes[-1].url, {})
    return "unpacked" in facts and all((root / folder / name).exists() for name in facts["unpacked"])


def check_content(archive: Archive, root: Path, tell: Tell, folder: Path) -> None:
    """Say that what an archive unpacked to, aside in `folder`, is as many recordings as it must hold.

    Raises ValueError where they are others, and the download is forgotten.
    """
    if (wanted := archive.content) is None:
        return
    found = sum(1 for _ in folder.glob(wanted.pattern))
    if found != wanted.files:
        _forget(archive, root)
        raise ValueError(
            f"{archive.volumes[-1].url} holds {found:,} {wanted.pattern}, and it must hold {wanted.files:,}: nothing of it "
            "was kept. Fetch it again; where that does not help, what is at the address is not what it was"
        )
    tell(f"{found:,} {wanted.pattern}: all are there")


def unpacked(archive: Archive, root: Path, made: Sequence[str]) -> None:
    """Note what an archive unpacked to, and remove it."""
    _note(root, archive.volumes[-1].url, unpacked=list(made))
    for volume in archive.volumes:
        (root / volume.name).unlink()


def _forget(archive: Archive, root: Path) -> None:
    for volume in archive.volumes:
        (root / volume.name).unlink()
    gone = {volume.url for volume in archive.volumes}
    _write_record(root, {url: facts for url, facts in _record(root).items() if url not in gone})


def _record(root: Path) -> dict[str, dict[str, Any]]:
    file = root / RECORD
    record: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return record


def _note(root: Path, url: str, **facts: object) -> None:
    record = _record(root)
    _write_record(root, record | {url: {**record.get(url, {}), **facts}})


def _write_record(root: Path, record: dict[str, dict[str, Any]]) -> None:
    draft = root / f".{RECORD}"
    draft.write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
    draft.replace(root / RECORD)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _demand_space(folder: Path, needed: int, name: str) -> None:
    if (free := shutil.disk_usage(folder).free) < needed + MARGIN:
        raise ValueError(f"{name} takes {needed / 1e6:,.0f} MB more, the disk at {folder} has {free / 1e6:,.0f} MB")
