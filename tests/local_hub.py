"""A small Hub on the loopback, in memory, for unmodified clients: what it stores, what it refuses and what it saw."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

WRITES, READS, OTHER = "hf_aliceMayWrite", "hf_aliceMayRead", "hf_bobMayWrite"
TOKENS = {WRITES: ("alice", "write"), READS: ("alice", "read"), OTHER: ("bob", "write")}
LARGE = {"parquet", "safetensors", "bin", "pt", "flac", "png", "npz"}  # what .gitattributes sends to LFS, by suffix
REGULAR_LIMIT = 10 * 2**20
CHUNK = 64 * 1024


class Refusal(Exception):
    """An answer that is an error, with the headers by which the clients know which."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class Answer(NamedTuple):
    """What is sent back."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012


class Seen(NamedTuple):
    """A request as it came, and what was answered: 0 where the connection was dropped."""

    method: str
    path: str
    user: str | None
    query: dict[str, list[str]]
    body: bytes
    headers: dict[str, str]
    status: int


@dataclass
class Fault:
    """What goes wrong with requests that match: an error status, or no answer at all (`status` None).

    `done`: the work is done and only the answer is lost. `cut`: so many bytes of the body come, then the connection ends.
    `hold`: called before the body of the request is read, after the work with `done`, or after the `cut` bytes; then the
    connection ends.
    """

    matches: str  # a regular expression over "METHOD /path"
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    skip: int = 0  # matching requests that pass before the first one that fails
    done: bool = False
    cut: int | None = None
    hold: Callable[[], None] | None = None


@dataclass(frozen=True)
class File:
    """One file of a commit."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob(self) -> str:
        """The git oid: of the content, or of the pointer that stands for it."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        data = pointer.encode() if self.large else self.content
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Commit:
    """A whole tree and where it came from."""

    oid: str
    parent: str | None
    title: str
    files: dict[str, File]


@dataclass
class Repo:
    """One repository."""

    kind: str  # "models" or "datasets"
    name: str
    private: bool = False
    gated: bool = False
    heads: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)  # refs/pr/N -> oid
    commits: dict[str, Commit] = field(default_factory=dict)

    @property
    def head(self) -> Commit:
        return self.commits[self.heads["main"]]

    def at(self, revision: str) -> Commit:
        for refs in (self.heads, self.tags, self.pulls):
            if revision in refs:
                return self.commits[refs[revision]]
        if revision in self.commits:
            return self.commits[revision]
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, files: dict[str, File], title: str, ref: str | None = "main") -> Commit:
        """A commit of exactly these files, with the head of main as its parent; `ref` None leaves every ref as it is."""
        parent = self.heads.get("main")
        listing = "".join(f"{name}\0{file.blob}\n" for name, file in sorted(files.items()))
        oid = hashlib.sha1(f"{parent}\n{title}\n{len(self.commits)}\n{listing}".encode()).hexdigest()
        self.commits[oid] = commit = Commit(oid, parent, title, files)
        if ref == "main":
            self.heads["main"] = oid
        elif ref:
            self.pulls[ref] = oid
        return commit


class Call(NamedTuple):
    """A request on its way to the function that answers it."""

    hub: "LocalHub"
    user: str | None
    role: str | None
    query: dict[str, list[str]]
    body: bytes
    method: str

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def may_write(self, name: str) -> str:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        if self.role != "write" or self.user != name.split("/")[0]:
            raise Refusal(403, f"You don't have the rights to write to {name} with this token")
        return self.user

    def repo(self, kind: str, name: str) -> Repo:
        """Raises Refusal where it is not there or may not be seen, which the Hub does not tell apart."""
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and self.user != name.split("/")[0]):
            raise Refusal(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if repo.gated and self.user != name.split("/")[0]:
            raise Refusal(403 if self.user else 401, f"Access to {name} is restricted.", "GatedRepo")
        return repo


Answering = Callable[..., Answer | dict[str, Any] | list[Any]]
ROUTES: list[tuple[str, re.Pattern[str], Answering]] = []
API = r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
FILES = r"/(?:(?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+?)"


def route(methods: str, pattern: str) -> Callable[[Answering], Answering]:
    """Let a function answer the requests whose raw path matches; the groups are its arguments, unquoted."""

    def add(function: Answering) -> Answering:
        ROUTES.append((methods, re.compile(pattern + "/?"), function))
        return function

    return add


class LocalHub:
    """The server's state. Tests set `faults` and read `seen` and `repos`."""

    def __init__(self) -> None:
        self.url = self.store_url = ""
        self.lock = threading.RLock()
        self.clear()

    def clear(self) -> None:
        """As on its first day."""
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []

    def add(self, kind: str, name: str, files: dict[str, bytes], **facts: bool) -> Repo:
        """A repository that somebody else put there, unchecked: names and contents may be hostile."""
        repo = self.repos.setdefault((kind, name), Repo(kind, name, **facts))
        repo.commit({path: File(content, _large(path, len(content))) for path, content in files.items()}, "theirs")
        return repo

    def requests(self, pattern: str) -> list[Seen]:
        """What was seen of "METHOD /path" so far."""
        return [seen for seen in self.seen if re.search(pattern, f"{seen.method} {seen.path}")]

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """The answer to one request, faults left out."""
        parts = urlsplit(target)
        try:
            token = headers.get("authorization", "").removeprefix("Bearer ").strip()
            if token and token not in TOKENS:
                raise Refusal(401, "Invalid credentials in Authorization header")
            user, role = TOKENS.get(token, (None, None))
            call = Call(self, user, role, parse_qs(parts.query), body, method)
            for methods, pattern, function in ROUTES:
                if method in methods.split("|") and (found := pattern.fullmatch(parts.path)):
                    groups = {name: unquote(text) if text else text for name, text in found.groupdict().items()}
                    with self.lock:
                        given = function(call, **groups)
                    if isinstance(given, Answer):
                        return given
                    return Answer(200, json.dumps(given).encode(), {"Content-Type": "application/json"})
            raise Refusal(404, f"Not found: {method} {parts.path}")
        except Refusal as refusal:
            told = {"X-Error-Message": refusal.message, "Content-Type": "application/json"}
            if refusal.code:
                told["X-Error-Code"] = refusal.code
            return Answer(refusal.status, json.dumps({"error": refusal.message}).encode(), told)

    def fault(self, method: str, path: str) -> Fault | None:
        """The first fault that strikes this request."""
        with self.lock:
            for fault in self.faults:
                if re.search(fault.matches, f"{method} {path}"):
                    if fault.skip > 0:
                        fault.skip -= 1
                    elif fault.times > 0:
                        fault.times -= 1
                        return fault
        return None


# --- what it answers ---------------------------------------------------------------------------------------------


@route("GET", "/api/whoami-v2")
def whoami(call: Call) -> dict[str, Any]:
    if call.user is None:
        raise Refusal(401, "Invalid username or password.")
    token = {"displayName": "a token", "role": call.role}
    return {"type": "user", "id": call.user, "name": call.user, "orgs": [], "auth": {"accessToken": token}}


@route("POST", "/api/validate-yaml")
def validate_yaml(call: Call) -> Answer:
    errors = _card_errors(call.json["content"])
    found = {"errors": [{"message": error} for error in errors], "warnings": []}
    return Answer(400 if errors else 200, json.dumps(found).encode(), {"Content-Type": "application/json"})


@route("POST", "/api/repos/create")
def create(call: Call) -> Answer | dict[str, Any]:
    asked = call.json
    kind, name = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or call.user}/{asked['name']}"
    call.may_write(name)
    if "--" in name or ".." in name or not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", name) or name.endswith(".git"):
        raise Refusal(400, f"Invalid repository name: {name}")
    told = {"url": f"{call.hub.url}/{'datasets/' if kind == 'datasets' else ''}{name}", "name": name, "id": name}
    if (kind, name) in call.hub.repos:
        told["error"] = f"You already created this {kind[:-1]} repo"
        return Answer(409, json.dumps(told).encode(), {"Content-Type": "application/json"})
    repo = call.hub.repos[kind, name] = Repo(kind, name, private=asked.get("visibility") == "private")
    suffixes = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in sorted(LARGE))
    repo.commit({".gitattributes": File(suffixes.encode(), False)}, "initial commit")
    return told


@route("GET", API + "(?:/revision/(?P<revision>[^/]+))?")
def info(call: Call, kind: str, name: str, revision: str | None) -> dict[str, Any]:
    repo = call.repo(kind, name)
    commit = repo.at(revision or "main")
    siblings = [{"rfilename": path} for path in sorted(commit.files)]
    return {"id": name, "sha": commit.oid, "private": repo.private, "gated": "manual" if repo.gated else False,
            "siblings": siblings, "tags": [], "lastModified": "2024-01-01T00:00:00.000Z",
            "createdAt": "2024-01-01T00:00:00.000Z", "downloads": 0, "likes": 0, "disabled": False}  # fmt: skip


@route("GET", API + r"/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?")
def tree(call: Call, kind: str, name: str, revision: str, folder: str | None) -> list[Any]:
    files = call.repo(kind, name).at(revision).files
    within = f"{folder.strip('/')}/" if folder else ""
    below = {path: file for path, file in files.items() if path.startswith(within)}
    if folder and not below:
        raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    deep = call.query.get("recursive", [""])[0].lower() in ("1", "true")
    folders = {path[: at.start()] for path in below for at in re.finditer("/", path) if at.start() > len(within)}
    entries = [_folder(path) for path in sorted(folders) if deep or "/" not in path.removeprefix(within)]
    return entries + [_entry(p, f) for p, f in below.items() if deep or "/" not in p.removeprefix(within)]


@route("POST", API + r"/paths-info/(?P<revision>[^/]+)")
def paths_info(call: Call, kind: str, name: str, revision: str) -> list[Any]:
    files = call.repo(kind, name).at(revision).files
    asked = parse_qs(call.body.decode()).get("paths", []) if not call.body.startswith(b"{") else call.json["paths"]
    entries = [_entry(path, files[path]) for path in asked if path in files]
    return entries + [_folder(path) for path in asked if path and any(file.startswith(f"{path}/") for file in files)]


@route("GET", API + "/refs")
def refs(call: Call, kind: str, name: str) -> dict[str, Any]:
    repo = call.repo(kind, name)

    def listed(those: dict[str, str], prefix: str) -> list[dict[str, str]]:
        return [{"name": key, "ref": f"{prefix}{key}", "targetCommit": oid} for key, oid in those.items()]

    return {"branches": listed(repo.heads, "refs/heads/"), "tags": listed(repo.tags, "refs/tags/"), "converts": [],
            "pullRequests": listed(repo.pulls, "")}  # fmt: skip


@route("POST", API + r"/preupload/(?P<revision>[^/]+)")
def preupload(call: Call, kind: str, name: str, revision: str) -> dict[str, Any]:
    repo = call.repo(kind, name)
    if not call.query.get("create_pr"):
        call.may_write(name)
    there = repo.at(revision).files

    def told(path: str, size: int) -> dict[str, Any]:
        large, old = _large(path, size), there.get(path)
        same = (old.sha256 if large else old.blob) if old and old.large == large else None
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": same}

    return {"files": [told(file["path"], file["size"]) for file in call.json["files"]]}


@route("POST", FILES + r"\.git/info/lfs/objects/batch")
def lfs_batch(call: Call, kind: str | None, name: str) -> dict[str, Any]:
    call.repo(kind or "models", name)
    if call.user is None:
        raise Refusal(401, "Invalid username or password.")
    objects = []
    for asked in call.json["objects"]:
        one = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in call.hub.blobs:
            at = f"{call.hub.url}/lfs/{asked['oid']}"
            one["actions"] = {"upload": {"href": f"{at}?signed=1"}, "verify": {"href": f"{at}/verify"}}
        objects.append(one)
    return {"transfer": "basic", "objects": objects}


@route("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})")
def lfs_upload(call: Call, oid: str) -> Answer:
    if call.query.get("signed") != ["1"]:
        raise Refusal(403, "The signature does not match")
    if hashlib.sha256(call.body).hexdigest() != oid:
        raise Refusal(400, "The content does not have this sha256")
    call.hub.blobs[oid] = call.body
    return Answer(headers={"ETag": f'"{oid}"'})


@route("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/verify")
def lfs_verify(call: Call, oid: str) -> dict[str, Any]:
    if call.user is None or len(call.hub.blobs.get(oid, b"")) != call.json["size"]:
        raise Refusal(404, f"LFS object {oid} was not uploaded", "EntryNotFound")
    return {}


@route("POST", API + r"/commit/(?P<revision>[^/]+)")
def commit(call: Call, kind: str, name: str, revision: str) -> dict[str, Any]:
    repo, proposed = call.repo(kind, name), bool(call.query.get("create_pr"))
    if call.user is None:
        raise Refusal(401, "Invalid username or password.")
    if not proposed:
        call.may_write(name)
    lines = [json.loads(line) for line in call.body.splitlines()]
    header = lines[0]["value"]
    if header.get("parentCommit", repo.head.oid) != repo.head.oid:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repo.at(revision).files)
    for line in lines[1:]:
        _apply(files, line["key"], line["value"], call.hub.blobs)
    if "README.md" in files and (errors := _card_errors(files["README.md"].content.decode())):
        raise Refusal(400, f"Invalid metadata in README.md: {errors[0]}")
    ref = f"refs/pr/{len(repo.pulls) + 1}" if proposed else "main"
    made = repo.commit(files, header["summary"], ref)
    at = f"{call.hub.url}/{'datasets/' if kind == 'datasets' else ''}{name}"
    pull = f"{at}/discussions/{len(repo.pulls)}" if proposed else None
    return {"success": True, "commitOid": made.oid, "commitUrl": f"{at}/commit/{made.oid}", "pullRequestUrl": pull}


@route("POST|DELETE", API + r"/tag/(?P<revision>[^/]+)")
def tag(call: Call, kind: str, name: str, revision: str) -> dict[str, Any]:
    repo = call.repo(kind, name)
    call.may_write(name)
    if call.method == "DELETE":
        repo.tags.pop(revision)
    elif call.json["tag"] in repo.tags:
        raise Refusal(409, f"Reference already exists: refs/tags/{call.json['tag']}")
    else:
        repo.tags[call.json["tag"]] = repo.at(revision).oid
    return {}


@route("GET|HEAD", FILES + r"/resolve/(?P<revision>refs/pr/\d+|[^/]+)/(?P<path>.+)")
def resolve(call: Call, kind: str | None, name: str, revision: str, path: str) -> Answer:
    commit = call.repo(kind or "models", name).at(revision)
    told = {"X-Repo-Commit": commit.oid}
    if (file := commit.files.get(path)) is None:
        return Answer(404, b'{"error": "Entry not found"}', {**told, "X-Error-Code": "EntryNotFound"})
    etag = file.sha256 if file.large else file.blob
    told |= {"ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(file.content))}
    if file.large:
        call.hub.blobs[file.sha256] = file.content
        return Answer(302, b"", {**told, "Location": f"{call.hub.store_url}/lfs/{file.sha256}?signed=1"})
    return Answer(200, file.content, {**told, "Content-Type": "text/plain; charset=utf-8"})


@route("GET|HEAD", r"/lfs/(?P<oid>[0-9a-f]{64})")
def lfs_download(call: Call, oid: str) -> Answer:
    if call.query.get("signed") != ["1"]:
        raise Refusal(403, "The signature does not match")
    return Answer(200, call.hub.blobs[oid], {"ETag": f'"{oid}"', "Content-Type": "application/octet-stream"})


def _apply(files: dict[str, File], key: str, value: dict[str, Any], blobs: dict[str, bytes]) -> None:
    """One line of a commit."""
    path = value["path"]
    if path.startswith("/") or "\\" in path or {"", ".", "..", ".git"} & {*path.rstrip("/").split("/")}:
        raise Refusal(400, f"Invalid path in repo: {path}")
    if key == "deletedFolder":
        for inner in [file for file in files if file.startswith(f"{path.rstrip('/')}/")]:
            del files[inner]
    elif key == "deletedFile":
        if path not in files:
            raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        del files[path]
    elif key == "lfsFile":
        if value["oid"] not in blobs:
            raise Refusal(400, f"LFS object {value['oid']} was not uploaded")
        files[path] = File(blobs[value["oid"]], True)
    else:
        content = base64.b64decode(value["content"])
        if len(content) > REGULAR_LIMIT:
            raise Refusal(400, f"{path} is larger than 10 MiB and must be stored with LFS")
        files[path] = File(content, False)


def _large(path: str, size: int) -> bool:
    return size > 0 and (path.rpartition(".")[2].lower() in LARGE or size > REGULAR_LIMIT)


def _entry(path: str, file: File) -> dict[str, Any]:
    lfs = {"lfs": {"oid": file.sha256, "size": len(file.content), "pointerSize": 130}} if file.large else {}
    return {"type": "file", "path": path, "oid": file.blob, "size": len(file.content), **lfs}


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}


def _card_errors(text: str) -> list[str]:
    """What the Hub finds wrong with a card's head."""
    found = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    try:
        head = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError as error:
        return [f"invalid YAML: {' '.join(str(error).split())}"]
    if not isinstance(head, dict):
        return ["the metadata must be a mapping"]
    texts, lists = ("license", "library_name", "pipeline_tag"), ("tags", "task_categories", "datasets")
    errors = [f'"{key}" must be a string' for key in texts if not isinstance(head.get(key, ""), str)]
    errors += [f'"{key}" must be a list of strings' for key in lists if not _strings(head.get(key, []))]
    results = [result for model in head.get("model-index", []) for result in model["results"]]
    values = [metric["value"] for result in results for metric in result["metrics"]]
    return errors + [f'"model-index" has the value {v!r}' for v in values if not isinstance(v, int | float | str)]


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


# --- the wire ----------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with connections that stay open, chunked bodies, ranges, and faults."""

    protocol_version = "HTTP/1.1"
    hub: LocalHub
    disable_nagle_algorithm = True

    def do(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        path = urlsplit(self.path).path
        fault = self.hub.fault(self.command, path)
        if fault and fault.hold and not fault.done and fault.cut is None:
            fault.hold()
            self._note(headers, b"", path, 0)
            self.close_connection = True
            return
        body = self._body(headers)
        if fault and not fault.done and fault.cut is None:
            refused = json.dumps({"error": "as the test wants it"}).encode()
            answer = None if fault.status is None else Answer(fault.status, refused, fault.headers)
        else:
            answer = self.hub.answer(self.command, self.path, headers, body)
            if fault and fault.done:
                if fault.hold:
                    fault.hold()
                answer = None if fault.status is None else Answer(fault.status, b"{}", fault.headers)
        self._note(headers, body, path, answer.status if answer else 0)
        if answer is None:
            self.close_connection = True
        else:
            self._send(answer, headers.get("range"), fault.cut if fault else None)
            if fault and fault.cut is not None and fault.hold:
                fault.hold()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do

    def _note(self, headers: dict[str, str], body: bytes, path: str, status: int) -> None:
        user, _ = TOKENS.get(headers.get("authorization", "").removeprefix("Bearer ").strip(), (None, None))
        query = parse_qs(urlsplit(self.path).query)
        with self.hub.lock:
            self.hub.seen.append(Seen(self.command, path, user, query, body, headers, status))

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(headers.get("content-length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _send(self, answer: Answer, wanted: str | None, cut: int | None) -> None:
        status, body, headers = answer
        if wanted and status == 200 and (found := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)):
            first, last = int(found[1]), min(int(found[2] or len(body)), len(body) - 1)
            if first >= len(body):
                status, body, headers = 416, b"", {**headers, "Content-Range": f"bytes */{len(body)}"}
            else:
                headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(body)}"}
                status, body = 206, body[first : last + 1]
        self.send_response(status)
        for name, value in {"Accept-Ranges": "bytes", **headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: tests read `seen`."""


class Server(ThreadingHTTPServer):
    """A thread a connection; a client that goes away is no error."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: whoever was cut off says so."""


@contextlib.contextmanager
def local_hub() -> Iterator[LocalHub]:
    """A Hub that listens on the loopback for as long as the block lasts."""
    hub = LocalHub()
    server = Server(("127.0.0.1", 0), type("HandlerOfThis", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.store_url = f"http://localhost:{server.server_port}"  # large files lie on another host, as they do on the Hub
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
