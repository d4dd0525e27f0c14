"""Publishing through faults: whatever is lost, refused or full, nothing is half there and the next try goes on."""

import email.utils
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.hub import content_sha
from tasks.hub_client import ATTEMPTS, PATIENCE_S, asked_for
from tasks.store import sha256
from tests.local_hub import Fault
from tests.test_hub_publish import CARD, contents, folder, on_hub, publish, pull, push, push_at_once

__all__ = ["folder"]  # a fixture


def requests_of_a_push(hub, client, folder) -> int:
    hub.seen.clear()
    assert client.call(push, folder).error == ""
    return len(hub.seen)


@pytest.mark.parametrize("there", [False, True], ids=["new", "there already"])
def test_a_push_that_is_cut_off_from_any_request_on_leaves_the_head_and_the_next_one_completes_it(
    hub, client, folder, there
):
    def begin() -> None:
        hub.clear()
        if there:
            hub.add("datasets", "alice/clips", {"README.md": CARD.encode(), "old.json": b"{}"}, private=True)

    begin()
    count = requests_of_a_push(hub, client, folder)
    assert count >= 10
    outcomes = set()
    for k in range(count):
        begin()
        before = hub.repos["datasets", "alice/clips"].heads.copy() if there else {}
        hub.faults = [Fault("", skip=k, times=10**6)]
        cut_off = client.call(push, folder)
        assert cut_off.error == "Unreached", cut_off
        assert "cannot be reached or broke off" in cut_off.said
        repo = hub.repos.get(("datasets", "alice/clips"))
        whole = repo is not None and on_hub(hub) == contents(folder)
        if repo and not whole:
            assert not there or repo.heads == before
            assert on_hub(hub).keys() <= {"README.md", "old.json"}
        outcomes.add(whole)
        hub.faults = []
        assert client.call(push, folder).error == ""
        assert on_hub(hub) == contents(folder)
        assert len(hub.repos["datasets", "alice/clips"].commits) == 2
        assert len(hub.repos["datasets", "alice/clips"].tags) == 1
    assert outcomes == {False, True}, "some were cut off before the commit and some after"


def test_an_answer_that_is_lost_once_at_any_request_costs_nothing(hub, client, folder):
    count = requests_of_a_push(hub, client, folder)
    for k in range(count):
        hub.clear()
        hub.faults = [Fault("", skip=k, done=True)]
        assert client.call(push, folder).error == "", k
        repo = hub.repos["datasets", "alice/clips"]
        assert (len(repo.commits), list(repo.tags.values())) == (2, [repo.head.oid]), k


PASSING = [
    (where, status) for where in ("/repos/create", "/commit/", "/tag/") for status in (408, 409, 412, 429, 500, 503)
]
PASSING.remove(("/repos/create", 409))  # there it means that the repository exists


@pytest.mark.parametrize(("where", "status"), PASSING)
def test_what_passes_is_tried_again_with_growing_pauses(hub, client, folder, where, status):
    hub.faults = [Fault(where, status=status, times=4)]
    done = client.call(push, folder)
    assert done.error == "", done.said
    assert on_hub(hub) == contents(folder)
    assert len(done.pauses) == 4
    assert all(2**n / 2 <= pause <= 2**n for n, pause in enumerate(done.pauses))


@pytest.mark.parametrize("headers", [{"Retry-After": "17"}, {"RateLimit": '"api";r=0;t=17'}])
def test_a_pause_the_hub_asks_for_is_kept(hub, client, folder, headers):
    hub.faults = [Fault("/commit/", status=429, headers=headers)]
    assert client.call(push, folder).pauses == [17.0]


def test_a_pause_beyond_all_patience_is_a_sentence_at_once(hub, client, folder):
    hub.faults = [Fault("/commit/", status=429, headers={"Retry-After": str(int(PATIENCE_S) + 1)})]
    refused = client.call(push, folder)
    assert (refused.error, refused.pauses) == ("ValueError", [])
    assert "the Hub asks to wait 601 s (status 429): run the same command again then" in refused.said


def test_a_date_in_retry_after_is_seconds_from_now():
    begin = time.time()
    asked = asked_for({"Retry-After": email.utils.formatdate(begin + 30)})
    assert 30 - (time.time() - begin) - 1 <= asked <= 30, "a date has no parts of a second"
    assert asked_for({"Retry-After": "soon"}) is None
    assert asked_for({}) is None


def test_what_does_not_pass_is_given_up_with_the_reason(hub, client, folder):
    hub.faults = [Fault("/commit/", status=412, times=99)]
    given_up = client.call(push, folder)
    assert "another commit came first, every time (status 412)" in given_up.said
    assert len(given_up.pauses) == ATTEMPTS - 1
    assert list(on_hub(hub)) == []


def test_eight_publishers_at_once_all_land_and_none_undoes_another_unseen(hub, client, folder, tmp_path):
    folders = [shutil.copytree(folder, tmp_path / f"made{n}") for n in range(8)]
    for n, made in enumerate(folders):
        (made / "facts.json").write_text(f"[{n}]")
    outcomes = client.call(push_at_once, folders)
    assert 412 in {seen.status for seen in hub.requests("/commit/")}, "they did collide"
    repo = hub.repos["datasets", "alice/clips"]
    assert [outcome.said for outcome in outcomes] == [""] * 8
    assert len({outcome.sha for outcome in outcomes}) == 8
    for made, outcome in zip(folders, outcomes, strict=True):
        files = {name: file.content for name, file in repo.commits[outcome.sha].files.items()}
        assert {**contents(made), ".gitattributes": files[".gitattributes"]} == files
    line = [repo.head.oid]
    while parent := repo.commits[line[-1]].parent:
        line.append(parent)
    assert {outcome.sha for outcome in outcomes} <= {*line}, "every commit is in the history of main"
    assert sorted(repo.tags.values()) == sorted(outcome.sha for outcome in outcomes)


def test_a_pull_that_was_cut_is_not_taken_for_whole_and_asks_only_for_what_is_missing(hub, client, folder, tmp_path):
    (folder / "data" / "train.parquet").write_bytes(bytes(range(256)) * 500)
    sha = client.call(push, folder).sha
    at = f"^GET /lfs/{sha256(folder / 'data' / 'train.parquet')}"
    hub.faults = [Fault(at, cut=64_000), Fault(at, times=10**6)]
    home = {"EARSHOT_HOME": str(tmp_path / "b")}
    for _ in range(2):
        assert "broke off" in client.call(pull, "dataset", "alice/clips", sha, **home).said
    hub.faults = []
    hub.seen.clear()
    pulled = client.call(pull, "dataset", "alice/clips", sha, **home)
    assert contents(Path(pulled.sha)) == contents(folder)
    assert len(hub.requests("^GET /lfs/")) == len(hub.requests(at)) == 1


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 300 kB, where one may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here: needs Linux and root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_fills_up_leaves_nothing_half_written_and_with_space_it_goes_on(hub, client, folder, small_disk):
    (folder / "data" / "test.parquet").write_bytes(bytes(range(256)) * 4096)
    sha = client.call(push, folder).sha
    home = {"EARSHOT_HOME": str(small_disk / "home")}
    for attempted in (lambda: client.call(pull, "dataset", "alice/clips", sha, **home),
                      lambda: client.call(publish, folder, "dataset", "alice/mine", "home", **home)):  # fmt: skip
        failed = attempted()
        assert "No space left on device" in failed.said, failed
        files = [file for file in (small_disk / "home").rglob("*") if file.is_file()]
        assert [file for file in files if file.suffix in (".incomplete", ".parquet") or ".draft" in str(file)] == []
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    pulled = client.call(pull, "dataset", "alice/clips", sha, **home)
    assert contents(Path(pulled.sha)) == contents(folder)
    assert client.call(publish, folder, "dataset", "alice/mine", "home", **home).sha == content_sha(folder)
