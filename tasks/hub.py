"""The home's own hub, in the Hub's cache layout, read through huggingface_hub: one way in, one way out."""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from tasks.store import Publication, file_digests, home, make_home

Kind = Literal["dataset", "model"]
ALLOWED = {
    "dataset": ["README.md", "*.parquet", "*.json", "*.csv"],
    "model": ["README.md", "*.safetensors", "*.json", "*.jinja", "*.txt", "*.parquet", "*.png", "*.html", "*.csv"],
}
_rehearsing: ContextVar[bool] = ContextVar("rehearsing", default=False)


def publish(folder: Path, kind: Kind, repo: str) -> Publication:
    """Put a finished folder into the home's hub as one commit and point `main` at it. The same files give the same sha.

    The folder is copied aside and renamed into place, so a snapshot is whole or absent.
    """
    shelf = _shelf(kind, repo)
    sha = content_sha(folder)
    if _rehearsing.get():
        return Publication(kind=kind, repo=repo, sha=sha)
    snapshot = shelf / "snapshots" / sha
    if not snapshot.is_dir() or content_sha(snapshot) != sha:
        make_home()
        snapshot.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=snapshot.parent, prefix=".draft-"))
        try:
            shutil.copytree(folder, draft / "files")
            if snapshot.exists():  # damaged since
                snapshot.rename(draft / "damaged")
            (draft / "files").rename(snapshot)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    _point(shelf / "refs" / "main", sha)
    return Publication(kind=kind, repo=repo, sha=sha)


@contextlib.contextmanager
def rehearsal() -> Iterator[None]:
    """Inside, `publish` says what it would publish and leaves the hub as it is."""
    token = _rehearsing.set(True)
    try:
        yield
    finally:
        _rehearsing.reset(token)


def pull(kind: Kind, repo: str, sha: str) -> Path:
    """The folder of one commit. Raises ValueError unless `sha` is a whole one, FileNotFoundError where it is not here."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not re.fullmatch(r"[0-9a-f]{40}", sha):
        raise ValueError(f"{repo}@{sha}: a revision is pinned by all 40 hex digits of its sha")
    try:
        path = snapshot_download(
            repo, repo_type=kind, revision=sha, cache_dir=hub(), allow_patterns=ALLOWED[kind], local_files_only=True
        )
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(f"{kind} {repo}@{sha} is not in {hub()}; run the study that publishes it") from error
    return Path(path)


def find(name: str) -> tuple[Path, str]:
    """The folder and sha of `NAMESPACE/NAME` or `NAMESPACE/NAME@sha` in the home's hub, model or data set."""
    repo, _, revision = name.partition("@")
    kinds: tuple[Kind, ...] = ("model", "dataset")
    for kind in kinds:
        ref = _shelf(kind, repo) / "refs" / "main"
        if ref.is_file():
            sha = revision or ref.read_text().strip()
            return pull(kind, repo, sha), sha
    there = sorted("/".join(shelf.name.split("--")[1:]) for shelf in hub().glob("*s--*"))
    raise FileNotFoundError(
        f"{name} is neither a folder nor in {hub()}, which holds {', '.join(there) or 'nothing yet'}"
    )


def content_sha(folder: Path) -> str:
    """40 hex digits over names and bytes of all files: what a commit is in the home's hub."""
    lines = (f"{name}\0{digest}\0" for name, digest in sorted(file_digests(folder).items()))
    return hashlib.sha1("".join(lines).encode(), usedforsecurity=False).hexdigest()


def hub() -> Path:
    """Where the home keeps what was published."""
    return home() / "hub"


def _shelf(kind: Kind, repo: str) -> Path:
    if not re.fullmatch(
        r"\w+([.-]\w+)*/\w+([.-]\w+)*", repo
    ):  # "--" stands for "/" in the layout, ".." leads out of it
        raise ValueError(f"{repo!r} is no repository name: NAMESPACE/NAME, words joined by single '.' or '-'")
    return hub() / f"{kind}s--{repo.replace('/', '--')}"


def _point(ref: Path, sha: str) -> None:
    ref.parent.mkdir(parents=True, exist_ok=True)
    draft = ref.with_name(f".{ref.name}-{os.getpid()}")
    draft.write_text(sha)
    draft.replace(ref)
