"""A thing in the store is whole or absent, and named by its content alone."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import store
from tasks.store import Clips, copy_folder, draft, fingerprint, sweep


def save(text: str) -> Clips:
    with draft(Clips) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a.txt").write_text(text)
        return Clips.of(folder, part="test", clips=1, hours=0.0)


def test_the_same_content_is_the_same_folder_once(home):
    first, second = save("x"), save("x")
    assert first == second
    assert [path.name for path in store.shelf(Clips).iterdir()] == [first.fingerprint]


def test_names_count_as_content_and_their_borders_too(tmp_path):
    for folder, name, text in (("one", "ab", "c"), ("two", "a", "bc")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
    assert fingerprint(tmp_path / "one") != fingerprint(tmp_path / "two")


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.data())
def test_any_flipped_bit_is_noticed(tmp_path_factory, content, data):
    folder = tmp_path_factory.mktemp("folder")
    (folder / "file").write_bytes(content)
    before = fingerprint(folder)
    at = data.draw(st.integers(0, len(content) * 8 - 1))
    flipped = bytearray(content)
    flipped[at // 8] ^= 1 << at % 8
    (folder / "file").write_bytes(bytes(flipped))
    assert fingerprint(folder) != before


def test_a_damaged_folder_may_be_moved_away_by_two_workers_at_once(home, monkeypatch):
    reference = save("x")

    def other_is_first(its: Clips) -> bool:
        shutil.rmtree(store.shelf(Clips) / its.fingerprint)
        return False

    monkeypatch.setattr(Clips, "intact", other_is_first)
    assert save("x") == reference
    assert [path.name for path in store.shelf(Clips).iterdir()] == [reference.fingerprint]


def test_a_damaged_folder_is_replaced_by_a_whole_one(home):
    reference = save("x")
    (reference.path / "inner" / "a.txt").write_text("y")
    assert not reference.intact()
    assert save("x") == reference
    assert reference.intact()


def test_a_draft_that_fails_leaves_nothing(home):
    def fail_halfway() -> None:
        with draft(Clips) as folder:
            (folder / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert list(store.shelf(Clips).iterdir()) == []


def test_sweep_removes_the_drafts_of_dead_processes_only(home):
    save("x")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    shelf = store.shelf(Clips)
    host = store.socket.gethostname()
    for pid in (dead.pid, os.getpid()):
        (shelf / f".draft-{host}-{pid}-abc").mkdir()
    (shelf / ".draft-elsewhere-1-abc").mkdir()
    assert [folder.name for folder in sweep()] == [f".draft-{host}-{dead.pid}-abc"]
    assert len(list(shelf.glob(".draft-*"))) == 2


def test_a_reference_whose_folder_is_gone_says_so(home):
    with pytest.raises(FileNotFoundError, match="is gone from the store"):
        _ = Clips(fingerprint="0" * 16, part="test", clips=1, hours=0.0).path


def test_an_unwritable_home_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EARSHOT_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(ValueError, match=r"cannot be written .*set EARSHOT_HOME"):
        store.make_home()


def test_a_home_that_is_moved_keeps_its_references(home, tmp_path, monkeypatch):
    reference = save("x")
    home.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("EARSHOT_HOME", str(tmp_path / "elsewhere"))
    assert (reference.path / "inner" / "a.txt").read_text() == "x"


@pytest.mark.parametrize("taken", [True, False])
def test_what_a_draft_left_beside_itself_goes_with_it(home, taken):
    with contextlib.suppress(RuntimeError), draft(Clips) as folder:
        (folder / "clips.parquet").write_bytes(b"x")
        folder.with_name(f"{folder.name}.progress.jsonl").write_text("{}")
        if not taken:
            raise RuntimeError
        Clips.of(folder, part="train", clips=1, hours=0.0)
    assert len(list((home / "store" / "clips").iterdir())) == taken


def test_a_copy_that_fails_raises_what_failed_and_no_list(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "weights").write_bytes(b"0")
    (tmp_path / "one" / "README.md").write_text("card")
    copy_folder(tmp_path / "one", tmp_path / "two", leave_out=["README.md"])
    assert [file.name for file in (tmp_path / "two").iterdir()] == ["weights"]

    def full(source, to):
        raise OSError(errno.ENOSPC, "No space left on device", to)

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(OSError, match="No space left on device") as failed:
        copy_folder(tmp_path / "one", tmp_path / "three")
    assert failed.value.errno == errno.ENOSPC
    assert isinstance(failed.value.filename, str)
