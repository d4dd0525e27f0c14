"""Publishing to the Hub: one commit and a tag whatever happens on the way, and back through the one way of reading."""

import email.utils
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tasks.hub import content_sha
from tasks.hub_client import ATTEMPTS, PATIENCE_S, asked_for, endpoint, words
from tasks.store import sha256
from tests.local_hub import OTHER, READS, WRITES, Fault

CARD = "---\nlicense: mit\n---\n# clips\n"


@pytest.fixture
def folder(tmp_path):
    """What is published: a card, a table and a large file in a folder."""
    made = tmp_path / "made"
    (made / "data").mkdir(parents=True)
    (made / "README.md").write_text(CARD)
    (made / "facts.json").write_text("{}")
    (made / "data" / "test.parquet").write_bytes(bytes(range(256)) * 100)
    return made


# --- what runs in the client's process ---------------------------------------------------------------------------


class Outcome(NamedTuple):
    """A sha, or the class of an error and its sentence; and the pauses that were made."""

    sha: str
    error: str
    said: str
    pauses: list[float]


def attempt(function, *arguments: Any, **keywords: Any) -> Outcome:
    pauses: list[float] = []
    if "sleep" in keywords:
        keywords["sleep"] = pauses.append
    try:
        return Outcome(str(function(*arguments, **keywords)), "", "", pauses)
    except Exception as error:
        return Outcome("", type(error).__name__, str(error), pauses)


def push(folder: Path, repo: str = "alice/clips", **wish: bool) -> Outcome:
    from tasks.hub_client import Wish
    from tasks.hub_client import push as pushed

    tag = f"content-{content_sha(folder)[:12]}"
    return attempt(pushed, folder, "dataset", repo, tag, Wish(**wish), sleep=None)


def push_at_once(folders: list[Path]) -> list[Outcome]:
    with ThreadPoolExecutor(len(folders)) as pool:
        return list(pool.map(push, folders))


def push_public(folder: Path) -> Outcome:
    return push(folder, private=False)


def propose(folder: Path) -> Outcome:
    return push(folder, create_pr=True)


def publish(folder: Path, kind: str, repo: str, to: str) -> Outcome:
    from tasks.hub import publish as published

    def sha() -> str:
        return published(folder, kind, repo, to).sha

    return attempt(sha)


def rehearse(folder: Path, to: str) -> str:
    from tasks.hub import publish as published
    from tasks.hub import rehearsal

    with rehearsal():
        return published(folder, "dataset", "alice/clips", to).sha


def pull(kind: str, repo: str, sha: str) -> Outcome:
    from tasks.hub import pull as pulled

    return attempt(pulled, kind, repo, sha)


def find(name: str) -> Outcome:
    from tasks.hub import find as found

    def folder() -> Path:
        return found(name)[0]

    return attempt(folder)


def intact(folder: str, sha: str) -> bool:
    from tasks.hub import is_commit

    return is_commit(Path(folder), sha)


def offline(folder: Path) -> Outcome:
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    try:
        return push(folder)
    finally:
        constants.HF_HUB_OFFLINE = False


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def on_hub(hub, repo: str = "alice/clips") -> dict[str, bytes]:
    files = hub.repos["datasets", repo].head.files
    return {name: file.content for name, file in files.items() if name != ".gitattributes"}


# --- one commit, one tag -----------------------------------------------------------------------------------------


def test_what_is_published_is_one_commit_on_its_parent_and_a_tag_private_by_default(hub, client, folder):
    sha = client.call(push, folder).sha
    repo = hub.repos["datasets", "alice/clips"]
    assert on_hub(hub) == contents(folder)
    assert (repo.private, repo.head.oid, len(repo.commits)) == (True, sha, 2)
    assert repo.head.parent in repo.commits
    assert repo.tags == {f"content-{content_sha(folder)[:12]}": sha}
    (made,) = hub.requests("/commit/")
    assert f'"parentCommit": "{repo.head.parent}"'.encode() in made.body
    assert {seen.user for seen in hub.seen if not seen.path.startswith("/lfs/")} == {"alice"}


def test_the_same_files_again_are_the_same_sha_and_send_nothing(hub, client, folder):
    first = client.call(push, folder).sha
    hub.seen.clear()
    assert client.call(push, folder).sha == first
    assert {seen.method for seen in hub.seen} == {"GET", "POST"}
    assert [seen.path for seen in hub.requests("^POST")] == ["/api/repos/create"]


def test_a_file_that_is_gone_here_is_gone_there_and_others_are_not_sent_again(hub, client, folder):
    client.call(push, folder)
    (folder / "facts.json").unlink()
    (folder / "more.json").write_text("[]")
    hub.seen.clear()
    client.call(push, folder)
    assert on_hub(hub) == contents(folder)
    assert hub.requests("^PUT") == []
    assert len(hub.repos["datasets", "alice/clips"].commits) == 3


def test_it_is_public_only_where_the_recipe_says_so_and_never_by_accident(hub, client, folder):
    client.call(push_public, folder)
    assert not hub.repos["datasets", "alice/clips"].private
    (folder / "facts.json").write_text("[]")
    refused = client.call(push, folder)
    assert refused.error == "ValueError"
    assert "alice/clips is public and the recipe publishes privately" in refused.said
    assert len(hub.repos["datasets", "alice/clips"].commits) == 2


def test_a_proposal_leaves_main_as_it_is_and_is_made_once(hub, client, folder):
    before = hub.add("datasets", "alice/clips", {"README.md": CARD.encode()}).head
    first = client.call(propose, folder, HF_TOKEN=OTHER)
    assert first.error == "", first.said
    assert client.call(propose, folder, HF_TOKEN=OTHER).sha == first.sha
    repo = hub.repos["datasets", "alice/clips"]
    assert (repo.head, repo.pulls, repo.tags) == (before, {"refs/pr/1": first.sha}, {})


# --- both places, one way of reading -----------------------------------------------------------------------------


def test_home_and_hub_hold_the_same_files_and_are_read_the_same_way(hub, client, folder, tmp_path):
    for to, home in (("home", "a"), ("hub", "b")):
        sha = client.call(publish, folder, "dataset", "alice/clips", to, EARSHOT_HOME=str(tmp_path / home)).sha
        pulled = client.call(pull, "dataset", "alice/clips", sha, EARSHOT_HOME=str(tmp_path / home))
        assert contents(Path(pulled.sha)) == contents(folder), pulled
        assert client.call(find, "alice/clips", EARSHOT_HOME=str(tmp_path / home)).sha == pulled.sha
        assert client.call(intact, pulled.sha, sha)
    hub.seen.clear()
    client.call(pull, "dataset", "alice/clips", sha, EARSHOT_HOME=str(tmp_path / "b"))
    assert hub.seen == [], "what is in the home is not asked for again"


def test_what_was_pulled_and_altered_is_no_longer_that_commit(hub, client, folder, tmp_path):
    sha = client.call(push, folder).sha
    pulled = Path(client.call(pull, "dataset", "alice/clips", sha, EARSHOT_HOME=str(tmp_path / "b")).sha)
    assert client.call(intact, str(pulled), sha)
    file = (pulled / "facts.json").resolve()
    file.write_text("[]")
    assert not client.call(intact, str(pulled), sha)


def test_a_plan_knows_the_sha_of_what_was_published_to_the_hub(hub, client, folder, tmp_path):
    home = str(tmp_path / "home")
    assert client.call(rehearse, folder, "hub", EARSHOT_HOME=home) == content_sha(folder)
    sha = client.call(publish, folder, "dataset", "alice/clips", "hub", EARSHOT_HOME=home).sha
    hub.seen.clear()
    assert client.call(rehearse, folder, "hub", EARSHOT_HOME=home) == sha
    assert hub.seen == []


def test_only_the_kinds_of_files_that_are_ours_come_down(hub, client, tmp_path):
    sha = hub.add("datasets", "alice/clips", {"README.md": CARD.encode(), "movie.mp4": b"x", "a.json": b"{}"}).head.oid
    pulled = client.call(pull, "dataset", "alice/clips", sha, EARSHOT_HOME=str(tmp_path / "b"))
    assert contents(Path(pulled.sha)).keys() == {"README.md", "a.json"}
    assert hub.requests(r"movie\.mp4") == []


# --- faults ------------------------------------------------------------------------------------------------------


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
        assert cut_off.error == "FileNotFoundError", cut_off
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
    assert asked_for({"Retry-After": email.utils.formatdate(time.time() + 30)}) == pytest.approx(30, abs=2)
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


# --- bad input ---------------------------------------------------------------------------------------------------


def test_without_a_token_nothing_is_sent(hub, client, folder):
    refused = client.call(push, folder, HF_TOKEN="")
    assert refused.said.startswith("publishing to the Hub needs a token that may write: set HF_TOKEN")
    assert hub.seen == []


def test_a_card_the_hub_refuses_is_a_sentence_on_one_line(hub, client, folder):
    (folder / "README.md").write_text("---\nlicense: [mit]\n---\n")
    refused = client.call(push, folder)
    assert (refused.error, "\n" in refused.said) == ("ValueError", False)
    assert '"license" must be a string' in refused.said
    assert len(hub.repos["datasets", "alice/clips"].commits) == 1


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (READS, "this token may not do that"),
        (OTHER, "this token may not do that"),
        ("hf_no", "does not accept this token"),
    ],
)
def test_a_token_that_may_not_is_a_sentence(hub, client, folder, token, said):
    refused = client.call(push, folder, HF_TOKEN=token)
    assert refused.error == "ValueError"
    assert refused.said.startswith("publishing data set alice/clips: ")
    assert said in refused.said
    assert token not in refused.said
    assert not hub.repos


def test_a_name_of_another_kind_is_not_taken_on_the_hub_or_at_home(hub, client, folder, tmp_path):
    hub.add("models", "alice/clips", {"README.md": CARD.encode()})
    assert "alice/clips is a model on" in client.call(push, folder).said
    home = {"EARSHOT_HOME": str(tmp_path / "home")}
    assert client.call(publish, folder, "model", "alice/here", "home", **home).error == ""
    assert "alice/here is a model in" in client.call(publish, folder, "dataset", "alice/here", "home", **home).said


def test_a_model_asked_for_as_a_data_set_is_said_to_be_one(hub, client, folder, tmp_path):
    sha = hub.add("models", "alice/clips", {"README.md": CARD.encode()}).head.oid
    refused = client.call(pull, "dataset", "alice/clips", sha, EARSHOT_HOME=str(tmp_path / "b"))
    assert refused.error == "ValueError"
    assert "alice/clips is a model on" in refused.said


def test_a_tag_at_other_files_is_refused_and_one_at_the_same_files_is_kept(hub, client, folder):
    client.call(push, folder)
    repo = hub.repos["datasets", "alice/clips"]
    (tag,) = repo.tags
    tagged = repo.tags[tag]
    (folder / "facts.json").write_text("[]")
    client.call(push, folder)
    (folder / "facts.json").write_text("{}")
    assert client.call(push, folder).sha != tagged, "main moves on to a commit of its own"
    assert repo.tags[tag] == tagged
    repo.tags[tag] = next(oid for oid, commit in repo.commits.items() if commit.parent is None)
    refused = client.call(push, folder)
    assert (refused.error, f"the tag {tag} stands at {repo.tags[tag]}" in refused.said) == ("ValueError", True)


def test_what_is_private_missing_or_restricted_is_said_apart(hub, client, tmp_path):
    private = hub.add("datasets", "alice/mine", {"README.md": b"x"}, private=True).head.oid
    gated = hub.add("datasets", "alice/asked", {"README.md": b"x"}, gated=True).head.oid
    home = {"EARSHOT_HOME": str(tmp_path / "b")}
    missing = client.call(pull, "dataset", "alice/mine", private, HF_TOKEN=OTHER, **home)
    assert (missing.error, "may not be seen with this token" in missing.said) == ("FileNotFoundError", True)
    assert "or needs a token" in client.call(pull, "dataset", "alice/mine", private, HF_TOKEN="", **home).said
    restricted = client.call(pull, "dataset", "alice/asked", gated, HF_TOKEN=OTHER, **home)
    assert (restricted.error, "access is restricted" in restricted.said) == ("ValueError", True)
    assert "it has no such revision" in client.call(pull, "dataset", "alice/mine", "0" * 40, **home).said


def test_offline_and_unreachable_are_sentences(hub, client, folder):
    assert "HF_HUB_OFFLINE is set, so the Hub is not asked" in client.call(offline, folder).said
    away = client.call(push, folder, HF_ENDPOINT="http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in away.said
    assert "--set publish.to=home" in away.said
    assert away.pauses == []


BAD_ENDPOINTS = [
    "http://huggingface.co", "http://127.0.0.1.example.org", "http://127.0.0.1@example.org", "ftp://127.0.0.1",
    "http://10.0.0.1", "http://0.0.0.0", "https://name:word@example.org", "http://[::2]", "localhost", "http://localhost.org",
]  # fmt: skip


@pytest.mark.parametrize("url", BAD_ENDPOINTS)
def test_an_endpoint_that_is_neither_https_nor_this_machine_is_refused(url, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(ValueError, match="HF_ENDPOINT"):
        endpoint()


@pytest.mark.parametrize(
    "url", ["https://hub.example.org/", "http://127.0.0.1:80", "http://[::1]:8", "http://localhost:9"]
)
def test_an_endpoint_that_is_https_or_this_machine_is_taken(url, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", url)
    assert endpoint() == url.rstrip("/")


def test_a_refused_endpoint_is_never_called(hub, client, folder):
    refused = client.call(push, folder, HF_ENDPOINT="http://huggingface.co")
    assert "a token goes to https only" in refused.said


def test_what_a_server_says_is_one_short_line_without_the_token():
    said = words(f"no\n\x1b[31m{WRITES} \u202eevil" + "x" * 999, WRITES)
    assert WRITES not in said
    assert said.startswith("no [31m*** evil")
    assert len(said) <= 200
    assert said.isprintable()
