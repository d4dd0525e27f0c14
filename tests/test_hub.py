"""The home's hub: the same files are the same commit, whole or absent, and nothing else than a pinned commit comes out."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from huggingface_hub.utils import validate_repo_id
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import hub
from tasks.hub import as_one_name, content_sha, find, locate, publish, pull
from tasks.hub_client import told


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "made" / "data").mkdir(parents=True)
    (tmp_path / "made" / "README.md").write_text("card")
    (tmp_path / "made" / "data" / "test.parquet").write_bytes(b"\0\1")
    return tmp_path / "made"


def test_the_same_files_are_the_same_commit(home, folder):
    first, second = publish(folder, "dataset", "me/clips"), publish(folder, "dataset", "me/clips")
    assert first == second
    shelf = home / "hub" / "datasets--me--clips"
    assert [snapshot.name for snapshot in (shelf / "snapshots").iterdir()] == [first.sha]
    assert (shelf / "refs" / "main").read_text() == first.sha


@pytest.mark.parametrize("change", ["byte", "name", "more"])
def test_any_change_of_the_files_is_another_commit_and_main_follows(home, folder, change):
    first = publish(folder, "dataset", "me/clips")
    if change == "byte":
        (folder / "data" / "test.parquet").write_bytes(b"\0\2")
    elif change == "name":
        (folder / "data" / "test.parquet").rename(folder / "data" / "dev.parquet")
    else:
        (folder / "more.json").write_text("{}")
    second = publish(folder, "dataset", "me/clips")
    assert second.sha != first.sha
    assert find("me/clips")[1] == second.sha
    assert (pull("dataset", "me/clips", first.sha) / "data" / "test.parquet").read_bytes() == b"\0\1"


def test_what_is_pulled_is_what_was_published_through_hugging_faces_own_reader(home, folder):
    published = publish(folder, "model", "me/adapter")
    pulled = pull("model", "me/adapter", published.sha)
    assert content_sha(pulled) == content_sha(folder) == published.sha
    assert find(f"me/adapter@{published.sha}") == (pulled, published.sha)


def test_the_folder_that_was_published_may_go_or_change(home, folder):
    published = publish(folder, "model", "me/adapter")
    (folder / "README.md").write_text("another card")
    assert (pull("model", "me/adapter", published.sha) / "README.md").read_text() == "card"


@pytest.mark.parametrize("damage", ["altered", "missing", "added"])
def test_a_damaged_snapshot_is_replaced_by_a_whole_one(home, folder, damage):
    published = publish(folder, "model", "me/adapter")
    snapshot = pull("model", "me/adapter", published.sha)
    if damage == "altered":
        (snapshot / "README.md").write_text("cord")
    elif damage == "missing":
        (snapshot / "README.md").unlink()
    else:
        (snapshot / "surplus.json").write_text("{}")
    assert content_sha(snapshot) != published.sha
    assert publish(folder, "model", "me/adapter") == published
    assert content_sha(snapshot) == published.sha
    assert [path.name for path in snapshot.parent.iterdir()] == [published.sha], "no draft is left"


@pytest.mark.parametrize("step", ["copy_folder", "_put"])
def test_who_is_overtaken_by_another_publisher_of_the_same_files_takes_theirs(home, folder, monkeypatch, step):
    slow, inode = getattr(hub, step), []

    def overtaken(*arguments):
        monkeypatch.setattr(hub, step, slow)
        theirs = publish(folder, "model", "me/adapter")
        inode.append((home / "hub" / "models--me--adapter" / "snapshots" / theirs.sha).stat().st_ino)
        return slow(*arguments)

    monkeypatch.setattr(hub, step, overtaken)
    published = publish(folder, "model", "me/adapter")
    (snapshot,) = (home / "hub" / "models--me--adapter" / "snapshots").iterdir()
    assert content_sha(snapshot) == snapshot.name == published.sha
    assert [snapshot.stat().st_ino] == inode, "what a reader may have open is not moved"


def test_eight_publishers_at_once_into_one_home_leave_every_commit_whole(home, folder, tmp_path):
    folders = [shutil.copytree(folder, tmp_path / f"made{n}") for n in range(4)] * 2  # two of each
    for n, made in enumerate(folders):
        (made / "README.md").write_text(f"card {n % 4}")
    with ThreadPoolExecutor(8) as pool:
        shas = [its.sha for its in pool.map(lambda made: publish(made, "dataset", "me/clips"), folders)]
    shelf = home / "hub" / "datasets--me--clips"
    assert len({*shas}) == 4
    assert {path.name: content_sha(path) for path in (shelf / "snapshots").iterdir()} == dict(
        zip(shas, shas, strict=True)
    )
    assert [path.name for path in (shelf / "refs").iterdir()] == ["main"]
    assert (shelf / "refs" / "main").read_text() in shas


def test_a_publication_that_fails_leaves_no_commit_and_no_draft(home, folder, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub.shutil, "copy2", full)
    with pytest.raises(OSError, match="No space left"):
        publish(folder, "model", "me/adapter")
    assert list((home / "hub").rglob("snapshots/*")) == []
    with pytest.raises(FileNotFoundError, match="neither a folder nor in"):
        find("me/adapter")


@pytest.mark.parametrize("revision", ["main", "0123456", "", "0" * 39, "G" * 40, "../" + "0" * 37])
def test_a_revision_that_is_not_a_whole_sha_is_refused(home, folder, revision):
    publish(folder, "model", "me/adapter")
    with pytest.raises(ValueError, match="all 40 hex digits"):
        pull("model", "me/adapter", revision)


def test_a_commit_that_is_not_here_says_so(home, folder):
    publish(folder, "model", "me/adapter")
    with pytest.raises(FileNotFoundError, match=r"model me/adapter@0{40} is not in .*hub"):
        pull("model", "me/adapter", "0" * 40)


def test_what_is_not_here_names_what_is(home, folder):
    publish(folder, "model", "me/adapter")
    with pytest.raises(
        FileNotFoundError, match=r"which holds me/adapter; one of the Hub .* me/adaptor@<40 hex digits>"
    ):
        find("me/adaptor")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "me/../you", "/me/x", "me/x/y", "me", "me/..", ".me/x", "me/x--y", "me/ x"]
)
def test_names_that_lead_out_of_the_hub_are_refused(home, folder, name):
    with pytest.raises(ValueError, match="is no repository name"):
        publish(folder, "model", name)
    assert not home.exists(), "nothing was written"
    with pytest.raises(ValueError, match="is no repository name"):
        find(name)


@settings(max_examples=60, deadline=None)
@given(st.text("a-.0_/", min_size=3, max_size=9))
def test_every_name_we_take_hugging_face_takes_and_two_never_share_a_folder(name):
    try:
        shelf = hub._shelf("model", name)
    except ValueError:
        return
    validate_repo_id(name)
    assert tuple(shelf.name.split("--")) == ("models", *name.split("/"))
    assert shelf.parent == hub.hub()


def test_a_folder_is_found_by_any_spelling_and_called_by_its_whole_path(home, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "one" / "data").mkdir(parents=True)
    (tmp_path / "two" / "data").mkdir(parents=True)
    assert locate("~/one/data") == (tmp_path / "one" / "data", "")
    names = set()
    for folder in ("one", "two"):
        monkeypatch.chdir(tmp_path / folder / "data")
        names.add(as_one_name("."))
    assert len(names) == 2, "what is written of one `.` must not replace what was written of another"
    assert all(name.endswith(f"--{folder}--data") for name, folder in zip(sorted(names), ("one", "two"), strict=True))
    assert as_one_name("me/x@abc") == "me--x@abc"
    assert len(as_one_name("x" * 150 + "/" + "y" * 150)) == 200


def test_a_hub_that_does_not_answer_is_asked_once_and_not_told_how_to_publish(home, monkeypatch):
    asked = []

    def silent(kind, *arguments):
        asked.append(kind)
        with told(f"reading me/adapter@{'1' * 40}"):
            raise httpx2.ConnectError("no route")

    monkeypatch.setattr(hub, "fetch", silent)
    with pytest.raises(FileNotFoundError, match="cannot be reached or broke off") as refused:
        find(f"me/adapter@{'1' * 40}")
    assert asked == ["model"]
    assert "publish" not in str(refused.value)


def test_a_repository_that_is_nowhere_is_said_to_be_so_once(home, monkeypatch):
    def missing(kind, *arguments):
        raise FileNotFoundError(f"reading me/adapter@{'1' * 40}: it is not there, or needs a token")

    monkeypatch.setattr(hub, "fetch", missing)
    with pytest.raises(FileNotFoundError) as refused:
        find(f"me/adapter@{'1' * 40}")
    said = str(refused.value)
    assert said.endswith(f"which holds nothing yet; reading me/adapter@{'1' * 40}: it is not there, or needs a token")
    assert "data set" not in said
