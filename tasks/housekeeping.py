"""Housekeeping: what the home holds that nothing needs any more, shown before it goes."""

import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from tasks import cache
from tasks.hub import hub
from tasks.store import dead_drafts, home, in_units, make_home

SETTLED_S = 3_600  # what is younger may belong to a worker that has not recorded it yet
UNUSED_DAYS = 30  # encodings and scores that nobody has asked for so long would be made anew if anybody did
SHA = re.compile(r"\b[0-9a-f]{40}\b")
SPEAKS = {".md", ".json", ".yaml"}  # files of a repository that pin others


class Waste(NamedTuple):
    """One file or folder of the home that nothing needs."""

    path: Path
    why: str
    size: int  # bytes


def clean_home(*, remove: bool) -> list[str]:
    """What nothing needs, line by line; removed only where asked to. Raises ValueError while a command is at work."""
    if not home().is_dir():
        return [f"there is no home at {home()}: nothing to clean"]
    if not remove:
        wastes = list(find_waste())
        return [*show(wastes), *(["nothing was removed; `earshot clean --yes` removes it"] if wastes else [])]
    try:
        held = FileLock(make_home() / "lock").acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"a command is at work on {home()}; clean when it has finished") from error
    with held:
        wastes = list(find_waste())
        for waste in wastes:
            discard(waste.path)
    return [*show(wastes), *(["removed"] if wastes else [])]


def show(wastes: list[Waste]) -> list[str]:
    """Every path with its size and why it is not needed, and the sum."""
    if not wastes:
        return [f"nothing to clean in {home()}"]
    lines = [f"{in_units(waste.size):>10}  {waste.path.relative_to(home())}  ({waste.why})" for waste in wastes]
    return [*lines, f"{in_units(sum(waste.size for waste in wastes)):>10}  in {len(wastes)} places of {home()}"]


def find_waste() -> Iterator[Waste]:
    """Drafts of the dead, records without their folders, folders without a record, snapshots that nothing points at."""
    for path in dead_drafts():
        yield measured(path, "draft of a process that is gone")
    for path in (*home().glob(".publish-*"), *home().glob("store/*/.gone-*"), *unfinished_in_the_hub()):
        if settled(path):
            yield measured(path, "left behind by a process that was killed")
    needed, broken = read_records()
    yield from broken
    for path in home().glob("store/*/*"):
        if path.parent.name == "checkpoints":
            continue  # of a training that was killed and may yet go on
        if re.fullmatch(r"[0-9a-f]{16}", path.name) and path not in needed and settled(path):
            yield measured(path, "no result names it")
    for what, pattern in {
        "encodings": "store/encodings/[0-9a-f]*.safetensors",
        "scores": "store/scores/[0-9a-f]*.jsonl",
        "checkpoints": "store/checkpoints/[0-9a-f]*",
        "curves": "tensorboard/*-seed-*",
    }.items():
        for path in home().glob(pattern):
            if time.time() - path.stat().st_mtime > UNUSED_DAYS * 86_400:
                yield measured(path, f"{what} not used for {UNUSED_DAYS} days")
    for path in home().glob("pages/*.json"):
        if not (cache.results() / path.stem).exists():
            yield measured(path, "what a run showed, whose record is gone")
    unpinned = unpinned_snapshots()
    for path in unpinned:
        yield measured(path, "no ref points at it and nothing published names it")
    for path in unlinked_blobs(unpinned):
        yield measured(path, "pulled, and no snapshot that stays has it")


def measured(path: Path, why: str) -> Waste:
    """Waste with its size."""
    files: Iterable[Path] = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return Waste(path, why, sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file()))


def settled(path: Path) -> bool:
    """Whether nobody has touched it for an hour."""
    return time.time() - path.lstat().st_mtime > SETTLED_S


def read_records() -> tuple[set[Path], list[Waste]]:
    """The store folders that whole records name, and the records that are not whole."""
    needed: set[Path] = set()
    broken = []
    for record in sorted(cache.results().glob("*")):
        try:
            needed |= {reference.path for reference in cache.references(cache.whole_result(record))}
        except LookupError as error:
            broken.append(measured(record, str(error)))
    return needed, broken


def unfinished_in_the_hub() -> Iterator[Path]:
    """What publications and pulls were writing; no later pull goes on with a file that another process began."""
    for pattern in ("*/snapshots/.draft-*", "*/refs/.*", "*/blobs/*.incomplete"):
        yield from hub().glob(pattern)


def unlinked_blobs(unpinned: Iterable[Path]) -> list[Path]:
    """Files that were pulled and that no snapshot leads to, those left out that nothing needs."""
    staying = {*hub().glob("*/snapshots/*")} - {*unpinned}
    linked = {file.resolve() for snapshot in staying for file in snapshot.rglob("*") if file.is_symlink()}
    blobs = (path for path in sorted(hub().glob("*/blobs/*")) if path.suffix != ".incomplete")
    return [path for path in blobs if path.resolve() not in linked and settled(path)]


def unpinned_snapshots() -> list[Path]:
    """Snapshots of the hub that no ref points at and that no snapshot which stays names by its sha, in whatever text."""
    snapshots = [path for path in sorted(hub().glob("*/snapshots/*")) if SHA.fullmatch(path.name)]
    kept: set[str] = set()
    queue = [ref.read_text(encoding="utf-8").strip() for ref in hub().glob("*/refs/**/*") if ref.is_file()]
    while queue:
        if (sha := queue.pop()) not in kept:
            kept.add(sha)
            queue += [named for path in snapshots if path.name == sha for named in shas_in(path)]
    return [path for path in snapshots if path.name not in kept and settled(path)]


def shas_in(snapshot: Path) -> set[str]:
    """Every sha a repository's texts name."""
    texts = (file for file in snapshot.rglob("*") if file.suffix in SPEAKS and file.is_file())
    return {sha for file in texts for sha in SHA.findall(file.read_text(encoding="utf-8", errors="replace"))}


def discard(path: Path) -> None:
    """Remove a file or folder of the home, a folder with the times beside it; a link goes, not what it leads to.

    Raises ValueError where a link on the way leads out of the home.
    """
    if not path.parent.resolve().is_relative_to(home().resolve()):
        raise ValueError(f"{path} lies outside the home by a link on its way; it is left alone")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        for beside in ("timing.json", "progress.jsonl"):
            path.with_name(f"{path.name}.{beside}").unlink(missing_ok=True)
        shutil.rmtree(path.with_name(f"{path.name}.timing"), ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
