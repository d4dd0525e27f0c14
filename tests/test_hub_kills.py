"""Killed at any request of a push: the head is the one before or the new one; killed in a pull: a rerun completes either."""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.local_hub import Fault
from tests.prefect_server import HANGS_S
from tests.test_hub_publish import CARD, contents, folder, on_hub, publish, pull

__all__ = ["folder"]  # a fixture

pytestmark = pytest.mark.slow
NAME = ("datasets", "alice/clips")
LARGER_THAN_ANY_SOCKETS_BUFFER = 8 * 2**20


# --- what runs in the client's process ---------------------------------------------------------------------------


def in_a_fork(function: Callable[..., object], *arguments: object) -> int:
    """The pid of a process with all of this one's imports that calls a function, and ends."""
    if pid := os.fork():
        return pid
    try:
        function(*arguments)
    finally:
        os._exit(0)


def ended(pid: int) -> int:
    """How it ended: a negative number is the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- one kill at each request ------------------------------------------------------------------------------------


PUBLISHING = ("dataset", "alice/clips", "hub")


def kill(hub, client, fault: Fault, home: Path, *called: Any) -> None:
    """Call a function in a process of its own that is killed where the fault holds its request."""
    came, gone = threading.Event(), threading.Event()

    def hold() -> None:
        came.set()
        gone.wait(HANGS_S)

    hub.faults = [replace(fault, hold=hold)]
    pid = client.call(in_a_fork, *called, EARSHOT_HOME=str(home))
    try:
        assert came.wait(HANGS_S), "the request never came"
        os.kill(pid, signal.SIGKILL)
        assert client.call(ended, pid) == -signal.SIGKILL
    finally:
        gone.set()
        hub.faults = []


@pytest.mark.parametrize("done", [False, True], ids=["as it comes", "served and not answered"])
@pytest.mark.parametrize("there", [False, True], ids=["new", "there already"])
def test_a_publisher_killed_at_any_request_leaves_a_whole_head_and_the_next_one_completes_it(
    hub, client, folder, tmp_path, there, done
):
    size = 2**16 if done else LARGER_THAN_ANY_SOCKETS_BUFFER  # it is killed while it still sends
    (folder / "data" / "train.parquet").write_bytes(bytes(size))  # beside the other, in a thread of its own

    def begin() -> str | None:
        hub.clear()
        if there:
            hub.add(*NAME, {"README.md": CARD.encode(), "old.json": b"{}"}, private=True)
        return hub.repos[NAME].head.oid if there else None

    begin()
    sha = client.call(publish, folder, *PUBLISHING, EARSHOT_HOME=str(tmp_path / "undisturbed")).sha
    requests = [f"{seen.method} {seen.path}" for seen in hub.seen]
    assert {request.split()[0] for request in requests} == {"GET", "POST", "PUT"}
    (commit,) = (k for k, request in enumerate(requests) if "/commit/" in request)
    heads = []
    for k in range(len(requests)):
        before, home = begin(), tmp_path / f"home {k}"
        kill(hub, client, Fault("", skip=k, done=done), home, publish, folder, *PUBLISHING)
        repo = hub.repos.get(NAME)
        heads.append(repo.head.oid if repo else None)
        if repo and heads[-1] != sha:
            assert heads[-1] == before or (before is None and on_hub(hub) == {}), "nothing came in halves"
            assert repo.tags == {}
        assert not (home / "hub" / "datasets--alice--clips" / "refs" / "main").exists(), "the home names no commit yet"
        assert client.call(publish, folder, *PUBLISHING, EARSHOT_HOME=str(home)).sha == sha
        repo = hub.repos[NAME]
        assert (repo.head.oid, [*repo.tags.values()], len(repo.commits)) == (sha, [sha], 2)
        assert on_hub(hub) == contents(folder)
    made = [head == sha for head in heads]
    assert made == [k >= commit + (not done) for k in range(len(requests))], "made when the commit is served"


def test_a_pull_that_was_killed_in_the_middle_of_a_file_is_not_whole_and_the_next_one_asks_for_what_is_missing(
    hub, client, tmp_path
):
    """A file begins anew where its process is gone; a connection that is cut goes on in the middle (test_local_hub.py)."""
    weights = bytes(range(256)) * 48 * 1024
    files = {"README.md": CARD.encode(), "facts.json": b"{}", "data/test.parquet": weights}
    asked = ("dataset", "alice/clips", hub.add(*NAME, files).head.oid)
    kill(hub, client, Fault("^GET /lfs/", cut=11 * 2**20), tmp_path, pull, *asked)
    there = {file.name for file in tmp_path.rglob("snapshots/**/*") if file.is_file()}
    assert "test.parquet" not in there
    hub.seen.clear()
    pulled = client.call(pull, *asked, EARSHOT_HOME=str(tmp_path))
    assert pulled.error == "", pulled.said
    assert contents(Path(pulled.sha)) == files
    assert len(hub.requests("^GET /lfs/")) == 1
    again = {seen.path.rpartition("/")[2] for seen in hub.requests("^GET .*/resolve/")}
    assert again == {"README.md", "facts.json"} - there, "what came whole is not asked for again"
