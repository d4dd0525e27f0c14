"""Publishing to the Hub: one commit and a tag whatever happens on the way, and back through the one way of reading."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tasks.hub import content_sha
from tasks.hub_client import endpoint, words
from tests.local_hub import OTHER, READS, WRITES

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


def warned_of(folder: Path) -> list[str]:
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert publish(folder, "model", "alice/adapter", "hub").error == ""
    return [str(its.message) for its in caught if its.category is UserWarning]


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


def test_what_is_on_the_hub_is_found_by_name_and_sha_of_whichever_kind_and_without_a_sha_its_commits_are_named(
    hub, client, folder, tmp_path
):
    sha = client.call(push, folder).sha
    home = {"EARSHOT_HOME": str(tmp_path / "b")}
    for _ in range(2):
        found = client.call(find, f"alice/clips@{sha}", **home)
        assert found.error == "", found.said
        assert contents(Path(found.sha)) == contents(folder)
    unpinned = client.call(find, "alice/clips", **home)
    assert unpinned.error == "FileNotFoundError"
    assert f"holds only what was pulled of it: give the commit, alice/clips@{sha}" in unpinned.said
    assert "it has no such revision" in client.call(find, f"alice/clips@{'0' * 40}", **home).said


def test_predictions_beside_weights_are_no_mistake_to_warn_of(hub, client, folder):
    assert client.call(warned_of, folder) == []


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
    assert refused.error == "AnotherKind"
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


def test_a_refused_endpoint_is_never_called(hub, client, folder, tmp_path):
    refused = client.call(push, folder, HF_ENDPOINT="http://huggingface.co")
    assert "a token goes to https only" in refused.said
    read = client.call(pull, "dataset", "alice/clips", "0" * 40, HF_ENDPOINT=hub.url.replace("127.0.0.1", "10.0.0.1"))
    assert "a token goes to https only" in read.said
    assert hub.seen == []


def load_base() -> None:
    """A base by its name: transformers would ask for it."""
    from tasks.models.jobs import ModelJob, Question

    question = Question(classes=("A", "B"), answers=("A", "B"), prompt="?", longest_ms=100)
    job = ModelJob(question=question, device="cpu", output="x", base="me/base", revision="0" * 40, quantization=None)
    job.run("no.such.module", what="x", on_line=print, timeout_min=1)


def propose_prompts() -> None:
    from tasks.models.prompt_jobs import ProposingJob
    from tasks.models.proposals import ask_child

    ask_child(ProposingJob.model_construct(), Path("x"))


def read_source() -> None:
    from recipes.sources import DatasetsSource
    from tasks import sources

    block = {
        "kind": "datasets",
        "repo": f"me/mine@{'0' * 40}",
        "columns": {"group": "a", "label": "b"},
        "labels": {"x": "SPEECH"},
    }
    sources.recordings(DatasetsSource.model_validate(block))


def take_weights() -> None:
    from tasks.detectors.weights import weights_for

    weights_for("whisper", {"whisper": f"openai/whisper-tiny@{'0' * 40}"})


@pytest.mark.parametrize("asking", [load_base, propose_prompts, read_source, take_weights])
def test_no_library_is_let_at_an_endpoint_that_is_refused(asking, monkeypatch):
    """They send the token along by themselves."""
    monkeypatch.setenv("HF_ENDPOINT", "http://10.0.0.1")
    with pytest.raises(ValueError, match=r"HF_ENDPOINT at 10\.0\.0\.1 is refused"):
        asking()


def test_what_a_server_says_is_one_short_line_without_the_token():
    said = words(f"no\n\x1b[31m{WRITES} \u202eevil" + "x" * 999, WRITES)
    assert WRITES not in said
    assert said.startswith("no [31m*** evil")
    assert len(said) <= 200
    assert said.isprintable()
