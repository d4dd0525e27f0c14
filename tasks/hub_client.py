"""The Hub over HTTP: one commit on the head it was made for, then a tag; tried again where that helps."""

import contextlib
import email.utils
import hashlib
import ipaddress
import os
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from tasks.repo_checks import check_listing, fault_of
from tasks.store import sha256

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Kind = Literal["dataset", "model"]
OTHER: dict[Kind, Kind] = {"dataset": "model", "model": "dataset"}
CALLED = {"dataset": "data set", "model": "model"}
THE_HUB = "https://huggingface.co"
OF_THE_HUB = (".gitattributes",)  # what the Hub itself puts into a new repository
ATTEMPTS = 10
LONGEST_PAUSE_S = 30.0
PATIENCE_S = 600.0  # a Hub that asks for more is told on instead of waited for
AGAIN = (408, 409, 412, 429)  # and every 5xx: another commit came first, or the Hub is busy
TELLING = 200
T = TypeVar("T")


class AnotherKind(ValueError):
    """A repository of this name is there, and is a data set where a model is needed, or the other way round."""


class Unreached(FileNotFoundError):
    """The Hub did not answer, or is not to be asked: whether it has something is not known."""


class Wish(NamedTuple):
    """What the recipe asks of a publication beside its content."""

    private: bool = True
    create_pr: bool = False


def endpoint() -> str:
    """HF_ENDPOINT, or the Hub. Raises ValueError unless it is https or leads to this machine: a token travels there."""
    url = os.environ.get("HF_ENDPOINT") or THE_HUB
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if "@" in parts.netloc or not parts.hostname:
        raise ValueError("HF_ENDPOINT is no plain address: https://HOST, without a name or password in it")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise ValueError(
            f"HF_ENDPOINT at {parts.netloc} is refused: a token goes to https only, or to this machine (http://127.0.0.1)"
        )
    return url.rstrip("/")


def push(
    folder: Path, kind: Kind, repo: str, tag: str, wish: Wish, *, sleep: Callable[[float], None] = time.sleep
) -> str:
    """The sha under which exactly these files are on the Hub: the head's where they are already, else a new commit's.

    A commit names the head it was made for, so that of two publishers none undoes the other unseen; whoever comes second
    makes its commit again on the new head. Raises ValueError in a sentence that says what to do.
    """
    from huggingface_hub import HfApi

    with told(f"publishing {CALLED[kind]} {repo}", ", or publish into the home: --set publish.to=home"):
        api = HfApi(endpoint=endpoint(), token=demand_token())
        again(lambda: demand_repo(api, kind, repo, wish), sleep)
        sha = again(lambda: commit(api, folder, kind, repo, wish), sleep)
        if not wish.create_pr:  # who may only propose may not tag
            again(lambda: tag_commit(api, folder, kind, repo, tag, sha), sleep)
        return sha


def fetch(kind: Kind, repo: str, sha: str, cache: Path, patterns: Sequence[str]) -> Path:
    """One commit, downloaded into a cache folder; what is there of it already is not asked for again.

    Raises FileNotFoundError where the Hub has it not or is not reached, ValueError where it may not be read or lists what
    no repository of ours holds.
    """
    from huggingface_hub import HfApi, constants, get_session, get_token, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.hf_api import RepoFile

    at = endpoint()
    api = HfApi(endpoint=at, token=get_token() or False)
    with told(f"reading {repo}@{sha}"):
        # Whatever it answers: the client tries one that does not answer again and again, for half a minute and more.
        get_session().head(at, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        try:
            listed = list(api.list_repo_tree(repo, recursive=True, revision=sha, repo_type=kind))
        except RepositoryNotFoundError as error:
            if not is_gated(error) and api.repo_exists(repo, repo_type=OTHER[kind]):
                raise AnotherKind(f"{repo} is a {CALLED[OTHER[kind]]} on {at}, a {CALLED[kind]} is needed") from None
            raise
        check_listing({entry.path: entry.size for entry in listed if isinstance(entry, RepoFile)}, f"{repo}@{sha}")
        path = snapshot_download(
            repo, repo_type=kind, revision=sha, cache_dir=cache, allow_patterns=list(patterns), endpoint=at,
            token=get_token() or False,
        )  # fmt: skip
    return Path(path)


def fetch_file(repo: str, sha: str, name: str, what: str) -> Path | None:
    """One file of a model at a commit, in the cache of Hugging Face, where its libraries find it; None where the model holds
    no such file. Asked for once: whoever only wants to know does not wait. `what` errors begin with.

    Raises FileNotFoundError where the Hub has no such model or is not reached, ValueError where it may not be read.
    """
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import RemoteEntryNotFoundError

    at, token = endpoint(), get_token() or False
    with told(what):
        try:  # a download by itself would try a Hub that does not answer again and again, for half a minute and more
            its = get_hf_file_metadata(hf_hub_url(repo, name, revision=sha, endpoint=at), token=token, endpoint=at)
            if reason := fault_of(name, its.size or 0):
                raise ValueError(f"{what}: {name} {reason}")
            return Path(hf_hub_download(repo, name, revision=sha, endpoint=at, token=token))
        except RemoteEntryNotFoundError:
            return None


def demand_token() -> str:
    """The token that huggingface_hub finds in the environment or its login. Raises ValueError where there is none, or the
    endpoint may not have it."""
    from huggingface_hub import get_token

    endpoint()
    if not (token := get_token()):
        raise ValueError(
            "publishing to the Hub needs a token that may write: set HF_TOKEN or run `hf auth login`, or publish into the "
            "home: --set publish.to=home"
        )
    return token


# --- publishing --------------------------------------------------------------------------------------------------


def demand_repo(api: "HfApi", kind: Kind, repo: str, wish: Wish) -> None:
    """Make the repository where it is missing. Raises ValueError where the name is another kind's or all may read it."""
    if api.repo_exists(repo, repo_type=OTHER[kind]):
        raise ValueError(
            f"{repo} is a {CALLED[OTHER[kind]]} on {api.endpoint} already: give the {CALLED[kind]} a name of its own"
        )
    api.create_repo(repo, repo_type=kind, private=wish.private, exist_ok=True)
    if wish.private and not wish.create_pr and not api.repo_info(repo, repo_type=kind).private:
        raise ValueError(
            f"{repo} is public and the recipe publishes privately: make it private, or set publish.private=false"
        )


def commit(api: "HfApi", folder: Path, kind: Kind, repo: str, wish: Wish) -> str:
    """The sha of a commit that holds exactly the files of the folder, made only where there is none."""
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    head = api.repo_info(repo, repo_type=kind).sha
    assert head is not None, "the Hub names the head of every repository"
    changed, surplus = difference(folder, tree(api, kind, repo, head))
    if not changed and not surplus:
        return head
    if wish.create_pr and (proposed := already_proposed(api, folder, kind, repo)):
        return proposed
    operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in changed),
        *(CommitOperationDelete(path_in_repo=name) for name in surplus),
    ]
    with warnings.catch_warnings():  # predictions lie beside the adapter on purpose
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        made = api.create_commit(
            repo, operations, repo_type=kind, commit_message="Published by Earshot", parent_commit=head,
            create_pr=wish.create_pr,
        )  # fmt: skip
    return str(made.oid)


def already_proposed(api: "HfApi", folder: Path, kind: Kind, repo: str) -> str | None:
    """The sha of a pull request that holds these files, the newest first."""
    proposals = api.list_repo_refs(repo, repo_type=kind, include_pull_requests=True).pull_requests or []
    shas = [ref.target_commit for ref in reversed(proposals)]
    return next((sha for sha in shas if not any(difference(folder, tree(api, kind, repo, sha)))), None)


def tag_commit(api: "HfApi", folder: Path, kind: Kind, repo: str, tag: str, sha: str) -> None:
    """Tag a commit. Raises ValueError where the tag stands at a commit with other files; one with the same may keep it."""
    tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo, repo_type=kind).tags}
    if tag not in tags:
        api.create_tag(repo, tag=tag, revision=sha, repo_type=kind)
    elif tags[tag] != sha and any(difference(folder, tree(api, kind, repo, tags[tag]))):
        raise ValueError(
            f"{repo}: the tag {tag} stands at {tags[tag]}, which holds other files; remove the tag there and publish again"
        )


def tree(api: "HfApi", kind: Kind, repo: str, sha: str) -> dict[str, str]:
    """File -> its SHA-256 where the Hub keeps it as a large file, else its git oid."""
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(repo, recursive=True, revision=sha, repo_type=kind)
    return {
        entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
        for entry in entries
        if isinstance(entry, RepoFile) and entry.path not in OF_THE_HUB
    }


def difference(folder: Path, theirs: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Files of the folder that are missing or other there, and files there that the folder lacks."""
    ours = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    changed = [name for name, file in ours.items() if not is_same(file, theirs.get(name))]
    return changed, sorted(theirs.keys() - ours.keys())


def is_same(file: Path, digest: str | None) -> bool:
    """Whether a file has this SHA-256 (64 hex digits) or git oid (40)."""
    if digest is None:
        return False
    return digest == (sha256(file) if len(digest) == 64 else git_oid(file))


def git_oid(file: Path) -> str:
    """What git names a file's content by."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


# --- trying again ------------------------------------------------------------------------------------------------


def again(attempt: Callable[[], T], sleep: Callable[[float], None]) -> T:
    """What `attempt` gives, tried up to ATTEMPTS times, with pauses that double or are as long as the Hub asks."""
    for number in range(ATTEMPTS - 1):
        try:
            return attempt()
        except Exception as error:
            if (pause_s := pause_after(error, number)) is None:
                raise
            sleep(pause_s)
    return attempt()


def pause_after(error: Exception, number: int) -> float | None:
    """Seconds until another attempt; None where one would not help. Raises ValueError where the Hub asks for too many."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    error = origin(error)
    usual_s = min(2.0**number, LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)  # apart, whoever collided
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status not in AGAIN and status < 500:
            return None
        asked_s = asked_for(error.response.headers)
        if asked_s is not None and asked_s > PATIENCE_S:
            raise ValueError(
                f"the Hub asks to wait {asked_s:.0f} s (status {status}): run the same command again then"
            ) from None
        return usual_s if asked_s is None else max(asked_s, usual_s)
    if isinstance(error, httpx2.TransportError) and not isinstance(error, httpx2.ConnectError):
        return usual_s
    return None


def asked_for(headers: Mapping[str, str]) -> float | None:
    """Seconds that Retry-After (a number or a date) or the Hub's own RateLimit header asks for."""
    from huggingface_hub.utils._http import parse_ratelimit_headers

    if (limit := parse_ratelimit_headers(headers)) is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    text = headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time()) if text else None
    except ValueError:
        return None


def origin(error: Exception) -> Exception:
    """What is behind the RuntimeError in which the client wraps a failed upload."""
    cause = error.__cause__
    return cause if isinstance(error, RuntimeError) and isinstance(cause, Exception) else error


# --- sentences ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def told(what: str, instead: str = "") -> Iterator[None]:
    """Errors of the client as ValueError or FileNotFoundError: what was tried, what the Hub said, what helps, or what may
    be done `instead`.

    Raised `from None`: a log shows the causes of an error too, and what a server sends may hold the token it was sent.
    """
    import httpx2
    from huggingface_hub import errors, get_token

    quieten()
    try:
        yield
    except Exception as error:
        cause = origin(error)
        if isinstance(cause, errors.HfHubHTTPError):
            missing = isinstance(cause, errors.RepositoryNotFoundError | errors.RevisionNotFoundError)
            kind = FileNotFoundError if missing and not is_gated(cause) else ValueError
            raise kind(f"{what}: {sentence(cause)}") from None
        if isinstance(cause, ValueError) and isinstance(cause.__cause__, errors.HfHubHTTPError):  # the card's head
            raise ValueError(f"{what}: {words(str(cause), get_token())}") from None
        if any(isinstance(its, errors.OfflineModeIsEnabled) for its in (cause, cause.__cause__)):
            raise Unreached(f"{what}: HF_HUB_OFFLINE is set, so the Hub is not asked{instead}") from None
        if isinstance(cause, httpx2.TransportError | errors.LocalEntryNotFoundError):
            raise Unreached(
                f"{what}: {endpoint()} cannot be reached or broke off ({type(cause).__name__}); run the same command again "
                f"when it answers{instead}"
            ) from None
        raise


def quieten() -> None:
    """The client says each thing once, and draws its bars where somebody looks on."""
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars

    logging.disable_propagation()
    if not sys.stderr.isatty() and not are_progress_bars_disabled():
        disable_progress_bars()


def sentence(error: Any) -> str:
    """What the Hub's refusal means, and its own words on one short line without the token."""
    from huggingface_hub import errors, get_token

    status, said = error.response.status_code, words(error.response.headers.get("X-Error-Message") or "", get_token())
    meanings = {
        400: "the Hub refuses this as it is", 401: "the Hub does not accept this token; set another HF_TOKEN",
        403: "this token may not do that; it needs the right to write there", 404: "it is not there, or may not be seen",
        409: "it collided with another change, every time", 412: "another commit came first, every time",
        429: "too many requests; run the same command again later",
    }  # fmt: skip
    if is_gated(error):
        meaning = "access is restricted; ask for it on its page, and set HF_TOKEN"
    elif isinstance(error, errors.RevisionNotFoundError):
        meaning = "it has no such revision"
    elif isinstance(error, errors.RepositoryNotFoundError):
        meaning = f"it is not there, or {'may not be seen with this token' if get_token() else 'needs a token'}"
    else:
        meaning = meanings.get(status, "the Hub failed; run the same command again later")
    return f"{meaning} (status {status}{f': {said}' if said else ''})"


def words(text: str, token: str | None) -> str:
    """A foreign text on one line, printable, short, and without our token, which a server could send back."""
    line = " ".join((text.replace(token, "***") if token else text).split())
    return "".join(letter for letter in line if letter.isprintable())[:TELLING]


def is_gated(error: Exception) -> bool:
    """Whether a repository is there and its owner decides who may read it."""
    from huggingface_hub.errors import GatedRepoError

    return isinstance(error, GatedRepoError)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its address or as localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
