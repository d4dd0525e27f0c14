"""Cleaning shows before it removes, and takes nothing that a result, a ref or a published text names."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock
from prefect.results import ResultRecord, ResultRecordMetadata  # type: ignore[attr-defined]
from prefect.serializers import JSONSerializer
from typer.testing import CliRunner

from flows import cli
from tasks import cache, hub, store
from tasks.housekeeping import Waste, clean_home, discard, find_waste, show
from tasks.store import Base, draft


def save(text: str) -> Base:
    with draft(Base) as folder:
        (folder / "weights").write_text(text)
        return Base.of(folder, parameters=1)


def record(result: object, key: str) -> Path:
    metadata = ResultRecordMetadata(serializer=JSONSerializer(), storage_key=key)
    cache.results().mkdir(parents=True, exist_ok=True)
    (cache.results() / key).write_bytes(ResultRecord(result=result, metadata=metadata).serialize())
    return cache.results() / key


def publish(repo: str, text: str) -> Path:
    """A commit of a repository whose card says `text`."""
    with draft(Base) as folder:
        (folder / "README.md").write_text(text)
        sha = hub.publish(folder, "model", repo).sha
    return hub.hub() / f"models--{repo.replace('/', '--')}" / "snapshots" / sha


def age(path: Path) -> Path:
    yesterday = time.time() - 86_400
    os.utime(path, (yesterday, yesterday))
    return path


@pytest.fixture
def littered(home) -> dict[str, Path]:
    """A home with one thing of every kind: needed ones, and ones that nothing needs."""
    needed, orphan, lost = save("needed"), save("orphan"), save("lost")
    record(needed, "a" * 64)
    without = record(lost, "b" * 64)
    (lost.path / "weights").unlink()
    lost.path.rmdir()
    store.write_timing(orphan, {"train_s": 1.0})
    old = publish("us/adapter", "first")
    base = publish("us/base", "pinned by the adapter")
    publish("us/base", "another base")
    adapter = publish("us/adapter", f"stands on us/base@{base.name}")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    half = store.shelf(Base) / f".draft-{socket.gethostname()}-{dead.pid}-abc"
    half.mkdir()
    job = half.with_name(f"{half.name}.job.json")
    job.write_text("{}")
    (home / "looks.jsonl").write_text("{}\n")
    for path in (needed.path, orphan.path, old, base, adapter):
        age(path)
    return {
        "needed": needed.path, "orphan": orphan.path, "without": without, "old": old, "base": base, "adapter": adapter,
        "half": half, "job": job,
    }  # fmt: skip


WASTE = {"orphan", "without", "old", "half", "job"}


def test_clean_shows_before_it_removes(littered, home):
    before = store.file_digests(home)
    shown = CliRunner().invoke(cli.app, ["clean"])
    assert shown.exit_code == 0, shown.output
    assert "nothing was removed" in shown.output
    assert all(str(littered[name].relative_to(home)) in shown.output for name in WASTE)
    assert store.file_digests(home) == before


def test_clean_removes_what_nothing_needs_and_only_that(littered, home):
    done = CliRunner().invoke(cli.app, ["clean", "--yes"])
    assert done.exit_code == 0, done.output
    assert {name for name, path in littered.items() if not path.exists()} == WASTE
    assert (home / "looks.jsonl").read_text() == "{}\n"
    assert not list(store.shelf(Base).glob("*.timing.json"))
    assert clean_home(remove=False) == [f"nothing to clean in {home}"]


def test_what_is_small_is_told_in_kilobytes_and_never_as_nothing(home):
    sizes = {"a": 2_345, "b": 99_999, "c": 100_000, "d": 7_200_000}
    rows = show([Waste(home / name, "gone", size) for name, size in sizes.items()])
    assert [" ".join(row.split()[:2]) for row in rows] == ["2.3 kB", "100.0 kB", "0.1 MB", "7.2 MB", "7.4 MB"]


def test_every_ref_still_leads_to_its_snapshot(littered):
    clean_home(remove=True)
    for ref in hub.hub().glob("*/refs/main"):
        assert (ref.parent.parent / "snapshots" / ref.read_text()).is_dir()


def test_a_result_that_is_not_recorded_yet_is_left_to_its_worker(home):
    fresh = save("fresh")
    assert list(find_waste()) == []
    age(fresh.path)
    assert [waste.path for waste in find_waste()] == [fresh.path]


def test_a_draft_of_a_living_process_is_left_alone(home):
    with draft(Base) as folder:
        clean_home(remove=True)
        assert folder.is_dir()


def test_clean_refuses_while_a_command_is_at_work(littered, home):
    with FileLock(home / "lock"), pytest.raises(ValueError, match=r"at work on .*clean when it has finished"):
        clean_home(remove=True)
    assert littered["orphan"].exists()


@pytest.mark.parametrize("place", [f"store/checkpoints/{'a' * 16}/checkpoint-3", "tensorboard/adapter-seed-1-a/x"])
def test_checkpoints_and_curves_stay_for_a_run_that_goes_on_and_go_after_a_month(home, place):
    folder = (home / place).parent
    (home / place).mkdir(parents=True)
    for days, gone in ((1, False), (31, True)):
        then = time.time() - days * 86_400
        os.utime(folder, (then, then))
        assert [waste.path == folder for waste in find_waste()] == [True] * gone


@pytest.mark.parametrize(("kind", "suffix"), [("encodings", "-x.safetensors"), ("scores", ".jsonl")])
def test_encodings_and_scores_stay_while_they_are_used_and_go_after_a_month(home, kind, suffix):
    (home / "store" / kind).mkdir(parents=True)
    used, unused = (home / "store" / kind / f"{k * 32}{suffix}" for k in "ab")
    for path, days in ((used, 29), (unused, 31)):
        path.write_bytes(b"x" * 1000)
        os.utime(path, (time.time() - 86_400 * days,) * 2)
    (waste,) = find_waste()
    assert waste == (unused, f"{kind} not used for 30 days", 1000)
    clean_home(remove=True)
    assert (used.exists(), unused.exists()) == (True, False)


def test_of_what_was_pulled_goes_what_a_killed_process_left_and_what_no_snapshot_has(home):
    shelf = publish("us/adapter", f"stands on you/base@{'b' * 40}").parent.parent.parent / "models--you--base"
    (shelf / "blobs").mkdir(parents=True)
    blobs = {name: shelf / "blobs" / name for name in ("named", "unnamed", "unlinked", "half.1234abcd.incomplete")}
    for path in blobs.values():
        path.write_text("x")
    for name, sha in (("named", "b" * 40), ("unnamed", "c" * 40)):
        (shelf / "snapshots" / sha).mkdir(parents=True)
        (shelf / "snapshots" / sha / "weights").symlink_to(blobs[name])
    clean_home(remove=True)
    assert {name for name, path in blobs.items() if path.exists()} == {*blobs}, "a pull may be at work on them"
    for path in (*blobs.values(), *(shelf / "snapshots").iterdir()):
        age(path)
    clean_home(remove=True)
    assert {name for name, path in blobs.items() if path.exists()} == {"named"}
    assert [path.name for path in (shelf / "snapshots").iterdir()] == ["b" * 40]
    assert (shelf / "snapshots" / ("b" * 40) / "weights").read_text() == "x"


def test_a_link_goes_and_what_it_leads_to_stays(home, tmp_path):
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "file").write_text("x")
    store.shelf(Base).mkdir(parents=True)
    link = store.shelf(Base) / ("0" * 16)
    link.symlink_to(outside)
    discard(link)
    assert not link.is_symlink()
    assert (outside / "file").read_text() == "x"


def test_nothing_is_removed_beyond_a_link_out_of_the_home(home, tmp_path):
    outside = tmp_path / "elsewhere"
    (outside / ("0" * 16)).mkdir(parents=True)
    (home / "store").mkdir(parents=True)
    (home / "store" / "base").symlink_to(outside)
    with pytest.raises(ValueError, match="outside the home"):
        discard(home / "store" / "base" / ("0" * 16))
    assert (outside / ("0" * 16)).is_dir()


def test_there_is_nothing_to_clean_where_there_is_no_home(home):
    assert clean_home(remove=True) == [f"there is no home at {home}: nothing to clean"]
    assert not home.exists()
