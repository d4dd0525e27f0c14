"""Publications: in the home's own hub, in the Hub's cache layout, or on the Hub; one way in, one way out."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

from recipes.block import HUB_ID
from tasks.hub_client import CALLED, OTHER, AnotherKind, Kind, Unreached, Wish, fetch, is_same, push, quieten
from tasks.repo_checks import check_folder
from tasks.store import Publication, copy_folder, file_digests, home, make_home, read_json

Place = Literal["home", "hub"]
ALLOWED = ("*.md", "*.safetensors", "*.json", "*.yaml", "*.parquet", "*.csv", "*.png", "*.html", "*.jinja", "*.txt")
MOST_LETTERS = 200  # of a folder's name; file systems take 255 bytes
PRIVATELY = Wish(private=True, create_pr=False)
_rehearsing: ContextVar[bool] = ContextVar("rehearsing", default=False)


def publish(folder: Path, kind: Kind, repo: str, to: Place = "home", wish: Wish = PRIVATELY) -> Publication:
    """Publish a finished folder as one commit and point the home's `main` at it. The same files give the same sha.

    Raises ValueError where the name is taken by another kind, or the Hub refuses.
    """
    if (_shelf(OTHER[kind], repo) / "refs" / "main").is_file():
        raise ValueError(f"{repo} is a {CALLED[OTHER[kind]]} in {hub()} already: give the {CALLED[kind]} another name")
    content = content_sha(folder)
    known = _shelf(kind, repo) / "refs" / f"content-{content[:12]}"  # on the Hub, under which sha
    if _rehearsing.get():
        sha = known.read_text(encoding="utf-8") if to == "hub" and known.is_file() else content
        return Publication(kind=kind, repo=repo, sha=sha)
    if to == "hub":
        sha = push(folder, kind, repo, known.name, wish)
        make_home()
        _point(known, sha)
    else:
        sha = content
        _shelve(folder, _shelf(kind, repo) / "snapshots" / sha)
    _point(_shelf(kind, repo) / "refs" / "main", sha)
    return Publication(kind=kind, repo=repo, sha=sha)


def _shelve(folder: Path, snapshot: Path) -> None:
    """Copy a folder aside and rename it into place: a snapshot is whole or absent."""
    if _is_whole(snapshot):
        return
    make_home()
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=snapshot.parent, prefix=".draft-"))
    try:
        copy_folder(folder, draft / "files")
        if not _is_whole(snapshot):
            with contextlib.suppress(FileNotFoundError):  # damaged since, where there is one
                snapshot.rename(draft / "damaged")
            _put(draft / "files", snapshot)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _put(made: Path, snapshot: Path) -> None:
    try:
        made.rename(snapshot)
    except OSError:
        if not _is_whole(snapshot):  # else another publisher of the same files came first
            raise


def _is_whole(snapshot: Path) -> bool:
    return snapshot.is_dir() and content_sha(snapshot) == snapshot.name


@contextlib.contextmanager
def rehearsal() -> Iterator[None]:
    """Inside, what would be published or entered in a ledger is only said: the home stays as it is."""
    token = _rehearsing.set(True)
    try:
        yield
    finally:
        _rehearsing.reset(token)


def rehearsing() -> bool:
    """Whether this is within `rehearsal`."""
    return _rehearsing.get()


def pull(kind: Kind, repo: str, sha: str) -> Path:
    """The folder of one commit, from the home or else from the Hub.

    Raises ValueError unless `sha` is a whole one and what lies there may be read, FileNotFoundError where it is nowhere.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not re.fullmatch(r"[0-9a-f]{40}", sha):
        raise ValueError(f"{repo}@{sha}: a revision is pinned by all 40 hex digits of its sha")
    quieten()
    shelf = _shelf(kind, repo)
    if (_shelf(OTHER[kind], repo) / "snapshots" / sha).is_dir():
        raise AnotherKind(f"{repo}@{sha} is a {CALLED[OTHER[kind]]}, a {CALLED[kind]} is needed")
    try:
        path = Path(
            snapshot_download(
                repo,
                repo_type=kind,
                revision=sha,
                cache_dir=hub(),
                allow_patterns=list(ALLOWED),
                local_files_only=True,
            )
        )
    except LocalEntryNotFoundError:
        make_home()
        try:
            path = fetch(kind, repo, sha, hub(), ALLOWED)
        except FileNotFoundError as error:
            raise type(error)(f"{CALLED[kind]} {repo}@{sha} is not in {hub()}; {error}") from error
    check_folder(path, shelf, f"{repo}@{sha}")
    return path


def find(name: str) -> tuple[Path, str]:
    """The folder and sha of `NAMESPACE/NAME` in the home, or of `NAMESPACE/NAME@sha` there or on the Hub, of any kind."""
    repo, _, revision = name.partition("@")
    kinds: tuple[Kind, ...] = ("model", "dataset")
    for kind in kinds:
        ref = _shelf(kind, repo) / "refs" / "main"
        if ref.is_file():
            sha = revision or ref.read_text().strip()
            return pull(kind, repo, sha), sha
    nowhere = "" if revision else f"; one of the Hub is named with its commit, {repo}@<40 hex digits>"
    for kind in kinds if revision else ():
        try:
            return pull(kind, repo, revision), revision
        except AnotherKind:
            continue
        except Unreached:
            raise
        except FileNotFoundError as error:
            nowhere = f"; {error.__cause__ or error}"
    raise FileNotFoundError(f"{name} is neither a folder nor in {hub()}, which holds {_held(name)}{nowhere}")


def locate(name: str) -> tuple[Path, str]:
    """A folder of this machine, its sha "", or what `find` finds under the name."""
    folder = Path(name).expanduser()
    return (folder, "") if folder.is_dir() else find(name)


def as_one_name(name: str) -> str:
    """A name for one folder, of a repository or of a folder of this machine, by its whole path: `.` is many folders."""
    folder = Path(name).expanduser()
    whole = str(folder.resolve()) if folder.is_dir() else name
    return re.sub(r"[^\w.@-]+", "--", whole).strip("-")[-MOST_LETTERS:]


def _held(name: str) -> str:
    """What is in the home; of a repository that was only pulled its commits, since nothing says which of them is meant."""
    shelves = {"/".join(shelf.name.split("--")[1:]): shelf for shelf in sorted(hub().glob("*s--*"))}
    if name in shelves:
        commits = sorted(snapshot.name for snapshot in (shelves[name] / "snapshots").glob("[!.]*"))
        return f"only what was pulled of it: give the commit, {' or '.join(f'{name}@{sha}' for sha in commits)}"
    return ", ".join(shelves) or "nothing yet"


def published_recipe(name: str) -> dict[str, Any]:
    """The recipe that lies in a published data set, NAMESPACE/NAME@sha. Raises ValueError where it holds none."""
    repo, _, sha = name.partition("@")
    file = pull("dataset", repo, sha) / "recipe.json"
    if not file.is_file() or not isinstance(recipe := read_json(file), dict):
        raise ValueError(
            f"{name} holds no recipe.json, so Earshot did not publish it: read it by a source, kind: datasets"
        )
    return recipe


def newest(kind: Kind, repo: str) -> str | None:
    """The sha that was published last under a name, as far as this home knows."""
    ref = _shelf(kind, repo) / "refs" / "main"
    return ref.read_text(encoding="utf-8").strip() if ref.is_file() else None


def pinned(kind: Kind, name: str) -> Publication:
    """The publication that NAMESPACE/NAME@sha names."""
    repo, _, sha = name.partition("@")
    return Publication(kind=kind, repo=repo, sha=sha)


def link(its: Publication, to: Place) -> str:
    """Markdown: a repository and its commit, leading to its page on the Hub or to its folder in the home."""
    from huggingface_hub.constants import ENDPOINT

    kind: Kind = "dataset" if its.kind == "dataset" else "model"
    page = f"{ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{its.repo}/tree/{its.sha}"
    return f"[{its.repo}@{its.sha}]({page if to == 'hub' else pull(kind, its.repo, its.sha).as_uri()})"


def is_commit(folder: Path, sha: str) -> bool:
    """Whether a folder that was pulled is that commit to the byte: by content, or by what the Hub listed of it."""
    listing = folder.parent.parent / "trees" / f"{sha}.json"
    if not listing.is_file():
        return content_sha(folder) == sha
    listed = json.loads(listing.read_text(encoding="utf-8"))["files"]
    files = [file for file in folder.rglob("*") if file.is_file()]
    digests = {name: its.get("lfs_sha256") or its["blob_id"] for name, its in listed.items()}
    return all(is_same(file, digests.get(file.relative_to(folder).as_posix())) for file in files)


def content_sha(folder: Path) -> str:
    """40 hex digits over names and bytes of all files: what a commit is in the home's hub."""
    return sha_of(file_digests(folder))


def sha_of(digests: Mapping[str, str]) -> str:
    """40 hex digits over the names of files and their digests."""
    lines = (f"{name}\0{digest}\0" for name, digest in sorted(digests.items()))
    return hashlib.sha1("".join(lines).encode(), usedforsecurity=False).hexdigest()


def hub() -> Path:
    """Where the home keeps what was published."""
    return home() / "hub"


def _shelf(kind: Kind, repo: str) -> Path:
    if not re.fullmatch(HUB_ID, repo):  # ".." would lead out of the layout
        raise ValueError(
            f"{repo!r} is no repository name (NAMESPACE/NAME, words joined by single '.' or '-') nor a folder that is there"
        )
    return hub() / f"{kind}s--{repo.replace('/', '--')}"


def _point(ref: Path, sha: str) -> None:
    ref.parent.mkdir(parents=True, exist_ok=True)
    draft = ref.with_name(f".{ref.name}-{os.getpid()}-{threading.get_ident()}")
    draft.write_text(sha)
    draft.replace(ref)
