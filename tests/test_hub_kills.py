"""A publisher that is killed at any request of its push: the head is the one before or the new one, a rerun completes it."""

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.local_hub import Fault
from tests.test_hub_publish import CARD, contents, folder, on_hub, publish

__all__ = ["folder"]  # a fixture

pytestmark = pytest.mark.slow
NAME = ("datasets", "alice/clips")
LARGER_THAN_ANY_SOCKETS_BUFFER = 8 * 2**20


# --- what runs in the client's process ---------------------------------------------------------------------------


def publish_in_a_fork(folder: Path) -> int:
    """The pid of a process with all of this one's imports that publishes, and ends."""
    if pid := os.fork():
        return pid
    try:
        publish(folder, "dataset", "alice/clips", "hub")
    finally:
        os._exit(0)


def ended(pid: int) -> int:
    """How it ended: a negative number is the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- one kill at each request ------------------------------------------------------------------------------------


def kill_at(hub, client, folder: Path, home: str, k: int, served: bool) -> None:
    """Kill the publisher when request `k` has come, before its body is read, or when it was served and is not answered."""
    came, gone = threading.Event(), threading.Event()

    def hold() -> None:
        came.set()
        gone.wait(60)

    hub.faults = [Fault("", skip=k, hold=hold, done=served)]
    pid = client.call(publish_in_a_fork, folder, EARSHOT_HOME=home)
    try:
        assert came.wait(30), f"request {k} never came"
        os.kill(pid, signal.SIGKILL)
        assert client.call(ended, pid) == -signal.SIGKILL
    finally:
        gone.set()
        hub.faults = []


@pytest.mark.parametrize("served", [False, True], ids=["as it comes", "served and not answered"])
@pytest.mark.parametrize("there", [False, True], ids=["new", "there already"])
def test_a_publisher_killed_at_any_request_leaves_a_whole_head_and_the_next_one_completes_it(
    hub, client, folder, tmp_path, there, served
):
    size = 2**16 if served else LARGER_THAN_ANY_SOCKETS_BUFFER  # it is killed while it still sends
    (folder / "data" / "train.parquet").write_bytes(bytes(size))  # beside the other, in a thread of its own

    def begin() -> str | None:
        hub.clear()
        if there:
            hub.add(*NAME, {"README.md": CARD.encode(), "old.json": b"{}"}, private=True)
        return hub.repos[NAME].head.oid if there else None

    begin()
    sha = client.call(publish, folder, "dataset", "alice/clips", "hub", EARSHOT_HOME=str(tmp_path / "undisturbed")).sha
    requests = [f"{seen.method} {seen.path}" for seen in hub.seen]
    assert {request.split()[0] for request in requests} == {"GET", "POST", "PUT"}
    (commit,) = (k for k, request in enumerate(requests) if "/commit/" in request)
    heads = []
    for k in range(len(requests)):
        before, home = begin(), tmp_path / f"home {k}"
        kill_at(hub, client, folder, str(home), k, served)
        repo = hub.repos.get(NAME)
        heads.append(repo.head.oid if repo else None)
        if repo and heads[-1] != sha:
            assert heads[-1] == before or (before is None and on_hub(hub) == {}), "nothing came in halves"
            assert repo.tags == {}
        assert not (home / "hub" / "datasets--alice--clips" / "refs" / "main").exists(), "the home names no commit yet"
        assert client.call(publish, folder, "dataset", "alice/clips", "hub", EARSHOT_HOME=str(home)).sha == sha
        repo = hub.repos[NAME]
        assert (repo.head.oid, [*repo.tags.values()], len(repo.commits)) == (sha, [sha], 2)
        assert on_hub(hub) == contents(folder)
    made = [head == sha for head in heads]
    assert made == [k >= commit + (not served) for k in range(len(requests))], "made when the commit is served"
