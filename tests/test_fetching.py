"""Downloads against a server of this machine that cuts, changes, lies and refuses."""

import hashlib
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows import fetch as command
from flows.cli import app, main
from recipes import corpora
from recipes.corpora import CORPORA, ELSEWHERE, Archive, Content, Corpus, Volume
from recipes.sources import KINDS
from tasks import fetching
from tasks.fetching import RECORD, download
from tests.layouts import esc50

BODY = bytes(range(256)) * 4_000
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `body` under every path; what a test wants to go wrong is set on it."""

    body = BODY
    etag = '"one"'
    ranges = True
    cuts: list[int]  # bytes of an answer after which the connection breaks, one answer after the other
    statuses: list[int]  # answered one after the other before anything else
    redirect = ""
    lie = 0  # how far beside the asked place a range begins

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, str]] = []
        self.statuses = []
        self.cuts = []

    def url(self, name: str = "corpus/a.zip") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on standard error."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(dict(self.headers))
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.end_headers()
            return
        asked = self.headers.get("Range", "") if server.ranges else ""
        fresh = self.headers.get("If-Range", server.etag) == server.etag
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and fresh else 0
        if first > len(server.body):
            self.send_error(416)
            return
        rest = server.body[first:]
        self.send_response(206 if asked and fresh else 200)
        if asked and fresh:
            at = first + server.lie
            self.send_header("Content-Range", f"bytes {at}-{len(server.body) - 1}/{len(server.body)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: server.cuts.pop(0)] if server.cuts else rest)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetching, "PAUSE_S", 0.0)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Server() as its:
        thread = threading.Thread(target=its.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield its
        its.shutdown()
        thread.join()


def at(root: Path, server: Server, name: str = "corpus/a.zip", suffix: str = "") -> Path:
    """Where a download lies, or what is beside it."""
    return root / f"{Volume(server.url(name)).name}{suffix}"


def silent(line: str) -> None:
    """Tells nobody."""


def record(root: Path) -> dict[str, Any]:
    return json.loads((root / RECORD).read_text())


# --- what comes --------------------------------------------------------------------------------------------------


def test_a_file_comes_whole_and_its_sha256_is_noted(server: Server, tmp_path: Path) -> None:
    said: list[str] = []
    file = download(Volume(server.url()), tmp_path / "new", said.append)
    assert file.read_bytes() == BODY
    assert file == at(tmp_path / "new", server)
    assert record(tmp_path / "new")[server.url()] == {
        "bytes": len(BODY), "sha256": SHA256, "checked_by": f"no checksum is published; the sha256 {SHA256} is noted",
    }  # fmt: skip
    assert any("no checksum is published" in line for line in said)
    assert sorted(path.name for path in file.parent.iterdir()) == sorted([file.name, RECORD])


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_a_published_checksum_is_compared(server: Server, tmp_path: Path, algorithm: str) -> None:
    digest = hashlib.new(algorithm, BODY).hexdigest()
    download(Volume(server.url(), f"{algorithm}:{digest}"), tmp_path, silent)
    assert record(tmp_path)[server.url()]["checked_by"] == f"the published {algorithm} is right"
    wrong = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    with pytest.raises(
        ValueError, match=rf"-b\.zip has the {algorithm} {digest}, published is {wrong}: fetch it again"
    ):
        download(Volume(server.url("corpus/b.zip"), f"{algorithm}:{wrong}"), tmp_path, silent)
    assert not list(tmp_path.glob("*-b.zip*")), "what is wrong is not kept to be gone on with"


def test_without_a_published_one_the_first_download_is_the_measure(server: Server, tmp_path: Path) -> None:
    volume = Volume(server.url())
    download(volume, tmp_path, silent).unlink()
    assert "sha256 is that of the first download" in _second(volume, tmp_path)
    at(tmp_path, server).unlink()
    server.body, server.etag = BODY[:-1] + b"!", '"two"'
    with pytest.raises(ValueError, match=rf"the first download had {SHA256}: it has changed at its address"):
        download(volume, tmp_path, silent)


def _second(volume: Volume, root: Path) -> str:
    said: list[str] = []
    download(volume, root, said.append)
    return said[-1]


# --- what breaks -------------------------------------------------------------------------------------------------


def test_a_cut_connection_goes_on_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.cuts = [600_000]
    file = download(Volume(server.url()), tmp_path, silent)
    assert file.read_bytes() == BODY
    first, second = server.asked
    assert "Range" not in first
    held = int(second["Range"].removeprefix("bytes=").rstrip("-"))
    assert 0 < held <= 600_000
    assert second["If-Range"] == '"one"'


def test_an_interrupted_command_goes_on_the_next_time(server: Server, tmp_path: Path) -> None:
    server.cuts = [600_000]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetching, "ATTEMPTS", 0)
        with pytest.raises(
            ValueError, match=r"does not come .* \d+ bytes are kept, the same command goes on from there"
        ):
            download(Volume(server.url()), tmp_path, silent)
    held = at(tmp_path, server, suffix=".part").stat().st_size
    assert 0 < held <= 600_000
    assert download(Volume(server.url()), tmp_path, silent).read_bytes() == BODY
    assert server.asked[-1]["Range"] == f"bytes={held}-"


def test_a_file_that_changed_meanwhile_is_not_glued_together(server: Server, tmp_path: Path) -> None:
    at(tmp_path, server, suffix=".part").write_bytes(b"old" * 1_000)
    at(tmp_path, server, suffix=".marker").write_text('"zero"')
    assert download(Volume(server.url()), tmp_path, silent).read_bytes() == BODY
    assert server.asked[0]["If-Range"] == '"zero"'


def test_without_a_marker_or_a_checksum_it_starts_over(server: Server, tmp_path: Path) -> None:
    at(tmp_path, server, suffix=".part").write_bytes(BODY[:1_000])
    download(Volume(server.url()), tmp_path, silent)
    assert "Range" not in server.asked[0]
    at(tmp_path, server, "corpus/b.zip", ".part").write_bytes(BODY[:1_000])
    download(Volume(server.url("corpus/b.zip"), f"sha256:{SHA256}"), tmp_path, silent)
    assert server.asked[1]["Range"] == "bytes=1000-", "the checksum tells whether the halves belong together"


def test_a_server_without_ranges_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cuts = False, [500_000]
    assert download(Volume(server.url()), tmp_path, silent).read_bytes() == BODY


def test_a_range_from_elsewhere_is_not_taken(server: Server, tmp_path: Path) -> None:
    at(tmp_path, server, suffix=".part").write_bytes(BODY[:1_000])
    at(tmp_path, server, suffix=".marker").write_text(server.etag)
    server.lie = 7
    assert download(Volume(server.url()), tmp_path, silent).read_bytes() == BODY


def test_a_part_that_is_too_long_is_thrown_away(server: Server, tmp_path: Path) -> None:
    at(tmp_path, server, suffix=".part").write_bytes(BODY * 2)
    at(tmp_path, server, suffix=".marker").write_text(server.etag)
    assert download(Volume(server.url()), tmp_path, silent).read_bytes() == BODY


def test_a_server_that_is_busy_is_asked_again_and_not_for_ever(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert download(Volume(server.url()), tmp_path, silent).read_bytes() == BODY
    server.statuses = [503] * 50
    with pytest.raises(ValueError, match=r"does not come \(the server answers 503\); 0 bytes are kept"):
        download(Volume(server.url("corpus/b.zip")), tmp_path, silent)
    assert len(server.statuses) == 50 - fetching.ATTEMPTS


def test_a_server_that_sends_in_circles_is_given_up(server: Server, tmp_path: Path) -> None:
    server.redirect = server.url()
    with pytest.raises(ValueError, match=r"does not come \(.*redirects"):
        download(Volume(server.url()), tmp_path, silent)


def test_a_server_that_always_breaks_is_given_up_however_much_it_sends(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cuts = False, [100, 50] * 40
    with pytest.raises(ValueError, match="the same command goes on from there"):
        download(Volume(server.url()), tmp_path, silent)
    assert len(server.asked) == 1 + fetching.ATTEMPTS


def test_what_is_not_there_is_said_at_once(server: Server, tmp_path: Path) -> None:
    server.statuses = [404]
    with pytest.raises(ValueError, match="answers 404"):
        download(Volume(server.url()), tmp_path, silent)
    assert len(server.asked) == 1


def test_nothing_is_asked_of_the_world_without_encryption(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"http://example\.org/a\.zip is not https"):
        download(Volume("http://example.org/a.zip"), tmp_path, silent)
    server.redirect = "http://example.org/a.zip"
    with pytest.raises(ValueError, match="is not https"):
        download(Volume(server.url()), tmp_path, silent)


def test_a_disk_that_is_too_small_is_said_before_it_is_full(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "MARGIN", 1 << 60)
    with pytest.raises(ValueError, match=r"-a\.zip takes 1 MB more, the disk at"):
        download(Volume(server.url()), tmp_path, silent)
    assert at(tmp_path, server, suffix=".part").exists() is False


def test_progress_is_told_by_tenths(server: Server, tmp_path: Path) -> None:
    said: list[str] = []
    chunks = fetching._told(iter([b"x" * 30] * 10), "a.zip", 0, 300, said.append)
    assert b"".join(chunks) == b"x" * 300
    assert said == [f"a.zip: {k} % of 0 MB" for k in range(10, 101, 10)]


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ESC-50 in miniature, to be had from the server; gives the root it goes to."""
    esc50(tmp_path / "made")
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        for file in (tmp_path / "made").rglob("*"):
            archive.write(file, Path("ESC-50-0123") / file.relative_to(tmp_path / "made"))
    server.body = (tmp_path / "made.zip").read_bytes()
    parts = {
        "all": (Archive((Volume(server.url()),), strip=1),),
        "more": (Archive((Volume(server.url("b.zip")),), strip=1),),
    }
    corpus = Corpus("ESC-50", "CC BY-NC 3.0", "https://example.org/terms", "ESC-50-master", parts, ("all",))
    monkeypatch.setattr(corpora, "CORPORA", {"esc50": corpus})
    return tmp_path / "data"


def demand(monkeypatch: pytest.MonkeyPatch, server: Server, content: Content) -> None:
    """The only corpus there is must hold these recordings."""
    archive = Archive((Volume(server.url()),), strip=1, content=content)
    corpus = corpora.CORPORA["esc50"]._replace(parts={"all": (archive,)})
    monkeypatch.setattr(corpora, "CORPORA", {"esc50": corpus})


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["earshot", "fetch", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_fetch_brings_a_corpus_that_a_source_reads(
    shop: Path, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, "esc50", "--root", str(shop), "--yes") == 0
    said = capsys.readouterr().out
    assert "licence   CC BY-NC 3.0" in said
    assert "https://example.org/terms" in said
    assert "not more: --part takes them" in said
    assert f"5 recordings of 3 groups; in a recipe:\n  - {{kind: esc50, root: {shop}/ESC-50-master}}" in said
    assert sorted(path.name for path in shop.iterdir()) == ["ESC-50-master", RECORD], "the archive is gone"
    assert record(shop)[server.url()]["unpacked"] == ["LICENSE", "audio", "meta"]
    n = len(server.asked)
    assert run(monkeypatch, "esc50", "--root", str(shop), "--yes") == 0
    assert "fetched before" in capsys.readouterr().out
    assert len(server.asked) == n
    (shop / "ESC-50-master/LICENSE").unlink()
    assert run(monkeypatch, "esc50", "--root", str(shop), "--yes") == 0
    assert len(server.asked) == n + 1, "what is gone is fetched anew"


def test_nothing_is_downloaded_before_the_licence_is_agreed_to(
    shop: Path, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert run(monkeypatch, "esc50", "--root", str(shop)) == 2
    assert "say --yes once you have read it" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer in (no, interrupted):
        monkeypatch.setattr(command.typer, "confirm", answer)
        assert run(monkeypatch, "esc50", "--root", str(shop)) == 1
        assert "nothing was downloaded" in capsys.readouterr().out
    assert server.asked == []
    assert not shop.exists()


def no(question: str) -> bool:
    """The answer of one who does not agree."""
    return False


def interrupted(question: str) -> bool:
    """Ctrl-C at the question."""
    raise command.typer.Abort


def test_what_came_and_is_laid_out_otherwise_is_refused(
    shop: Path, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("x/readme.txt", "moved")
    server.body = (tmp_path / "other.zip").read_bytes()
    assert run(monkeypatch, "esc50", "--root", str(shop), "--yes") == 2
    assert "source esc50 looks for audio in" in capsys.readouterr().err


def test_recordings_are_counted_before_any_lies_in_its_place(
    shop: Path, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    demand(monkeypatch, server, Content("audio/*.wav", 7))
    assert run(monkeypatch, "esc50", "--root", str(shop), "--yes") == 2
    said = capsys.readouterr().err
    assert f"{server.url()} holds 6 audio/*.wav, and it must hold 7: nothing of it was kept" in said
    assert [path.name for path in shop.iterdir()] == [RECORD]
    assert record(shop) == {}, "what was wrong is no measure for what comes next"
    demand(monkeypatch, server, Content("audio/*.wav", 6))
    assert run(monkeypatch, "esc50", "--root", str(shop), "--yes") == 0
    assert "6 audio/*.wav: all are there\n" in capsys.readouterr().out


def test_the_others_are_told_where_they_come_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, "ami") == 0
    assert "https://groups.inf.ed.ac.uk/ami/download/" in capsys.readouterr().out
    assert run(monkeypatch) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in (*CORPORA, *ELSEWHERE))
    assert run(monkeypatch, "nope") == 2
    assert "no corpus 'nope'; there are ami, audiomnist" in capsys.readouterr().err
    assert run(monkeypatch, "librispeech") == 2
    assert "earshot fetch librispeech --root DIR" in capsys.readouterr().err
    assert run(monkeypatch, "librispeech", "--part", "dev", "--root", "x") == 2
    assert "has no part 'dev'; it has dev-clean" in capsys.readouterr().err


# --- the catalogue -----------------------------------------------------------------------------------------------


def test_every_corpus_has_a_source_and_comes_encrypted_with_a_checksum_of_the_right_length() -> None:
    lengths = {"md5": 32, "sha1": 40, "sha256": 64}
    assert {*CORPORA, *ELSEWHERE} == set(KINDS) - {"espeak", "synthetic", "rooms", "folder", "table", "datasets"}
    everything: list[str] = []
    for corpus in CORPORA.values():
        assert set(corpus.default) <= set(corpus.parts)
        volumes = [v for its in (*corpus.parts.values(), corpus.always) for archive in its for v in archive.volumes]
        everything += [volume.name for volume in volumes]
        for volume in volumes:
            assert httpx.URL(volume.url).scheme == "https"
            algorithm, _, digest = volume.checksum.partition(":")
            assert not volume.checksum or (len(digest) == lengths[algorithm] and int(digest, 16) > 0)
            if httpx.URL(volume.url).host == "github.com":
                assert re.fullmatch(r"[0-9a-f]{40}\.zip", volume.url.rpartition("/")[2]), (
                    "a branch moves, a commit does not"
                )
        if corpus.part_key:
            assert corpus.part_key in KINDS["voxconverse"].model_fields
    assert len(set(everything)) == len(everything), "one folder may hold what is left of several downloads"


def test_fetch_is_a_command_of_its_own() -> None:
    assert "fetch" in {c.name for group in app.registered_groups for c in group.typer_instance.registered_commands}
