"""When a task may be skipped: the same block, inputs, reachable code and libraries, and its result still whole."""

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

from prefect import Task
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.results import ResultRecord  # type: ignore[attr-defined]
from pydantic import BaseModel

from tasks.run_page import HOOKS, silence, submitted
from tasks.store import Reference, home

ROOT = Path(__file__).resolve().parent.parent
FIRST_PARTY = ("flows", "tasks", "recipes")
PARSE_ATTEMPTS = 20
P = ParamSpec("P")
R = TypeVar("R")

# Arguments that bound or steer a task without touching its result.
IGNORED = ("timeout_min", "shown_as")

when_not_served: list[Callable[[], None]] = []  # called whenever a task finds no record and will run
_read: dict[tuple[Callable[..., Any], Path | None, bytes], Any] = {}


@dataclass
class Unchanged(CachePolicy):
    """Skip a task while nothing that can change its result has changed."""

    libraries: Sequence[str] = ()  # distributions whose version matters
    runs: Sequence[str] = ()  # first-party modules that the task starts by name in a child process
    files: Sequence[str] = ()  # what it reads from the clone (templates)
    reads: Callable[[Mapping[str, Any]], str] | None = None  # arguments -> what else it reads, by its content

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str:
        """The key of a call that is about to run; a damaged record under it is forgotten first."""
        key = self.key_of(task_ctx.task, inputs)
        forget_damaged(results() / key)
        if not (results() / key).exists():
            for call in when_not_served:
                call()
        return key

    def key_of(self, task: Task[..., Any], arguments: Mapping[str, Any]) -> str:
        """The name of the record that a call of `task` leaves."""
        parts = {
            "task": task.name,
            "arguments": canonical({name: value for name, value in arguments.items() if name not in IGNORED}),
            "code": code_digest((task.fn.__module__, *self.runs)),
            "libraries": {name: importlib.metadata.version(name) for name in sorted(self.libraries)},
            "reads": self.reads(arguments) if self.reads else "",
            "files": {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in sorted(self.files)},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cached(
    *,
    libraries: Sequence[str] = (),
    runs: Sequence[str] = (),
    files: Sequence[str] = (),
    reads: Callable[[Mapping[str, Any]], str] | None = None,
) -> dict[str, Any]:
    """Options for @task: skip it while it is `Unchanged`, its record a JSON file in the home."""
    return {
        "cache_policy": Unchanged(libraries=libraries, runs=runs, files=files, reads=reads),
        "persist_result": True,
        "result_serializer": "json",
        "result_storage": results(),
        **HOOKS,
    }


def results() -> Path:
    """The folder of Prefect's result records."""
    return home() / "results"


def canonical(value: Any) -> Any:
    """A JSON value that is equal exactly where two task arguments are. Raises ValueError for anything else."""
    if isinstance(value, BaseModel):
        return {"type": type(value).__name__, **canonical(value.model_dump(mode="json"))}
    if isinstance(value, dict):
        return {str(key): canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(inner) for inner in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ValueError(f"a cached task got {type(value).__name__}; hand it recipe blocks, references and plain values")


def forget_damaged(record: Path) -> None:
    """Remove a result record that `whole_result` refuses, so that its task runs again."""
    try:
        if record.exists():
            whole_result(record)
    except LookupError:
        record.unlink(missing_ok=True)


def whole_result(record: Path) -> Any:
    """The result in a record. Raises LookupError where there is none, it cannot be read or a folder it names is gone or
    altered."""
    try:
        result: Any = ResultRecord.deserialize(record.read_bytes()).result
    except Exception as error:  # whatever a missing, truncated or foreign record raises, it is no result
        raise LookupError(f"record {record.name[:12]} cannot be read") from error
    for reference in references(result):
        if not reference.intact():
            kind = type(reference).__name__.lower()
            raise LookupError(f"record {record.name[:12]} names {kind}/{reference.fingerprint}, gone or altered")
    return result


def references(value: Any) -> Iterator[Reference]:
    """Every store reference inside a task's result."""
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from references(inner)


# --- looking up --------------------------------------------------------------------------------------------------

Calls = dict[str, dict[str, Any]]  # task -> key -> its result, None where there is none
_asked: ContextVar[Calls | None] = ContextVar("asked", default=None)


class NotCached(Exception):
    """A call whose result is not recorded: what depends on it cannot be looked up."""


@contextlib.contextmanager
def looking_up() -> Iterator[Calls]:
    """Inside, tasks that may be skipped answer from their records or raise NotCached, others are plain functions.

    Nothing is run by Prefect and no record is written or removed. Yields what was asked for so far.
    """
    asked: Calls = {}
    token = _asked.set(asked)
    try:
        with silence():
            yield asked
    finally:
        _asked.reset(token)


class Answer(NamedTuple):
    """What `submit` gives while looking up: the future of a task that will not run."""

    task: str
    known: bool
    value: Any

    def result(self) -> Any:
        """The recorded result. Raises NotCached where there is none."""
        if not self.known:
            raise NotCached(self.task)
        return self.value


class RecordedTask(Task[P, R]):
    """A task of Prefect's that can be looked up instead of run, so that a plan takes the very way of a run."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        asked = _asked.get()
        if asked is None:
            return super().__call__(*arguments, **keywords)
        return self.look_up(asked, *arguments, **keywords).result()

    def submit(self, *arguments: Any, **keywords: Any) -> Any:
        asked = _asked.get()
        if asked is None:
            future = super().submit(*arguments, **keywords)
            submitted(future.task_run_id)
            return future
        return self.look_up(asked, *arguments, **keywords)

    def look_up(self, asked: Calls, *arguments: Any, **keywords: Any) -> Answer:
        """The answer to one call, noted in `asked`."""
        if not isinstance(self.cache_policy, Unchanged):
            return Answer(self.name, True, self.fn(*arguments, **keywords))
        call = inspect.signature(self.fn).bind(*arguments, **keywords)
        call.apply_defaults()
        key = self.cache_policy.key_of(self, call.arguments)
        try:
            found = whole_result(results() / key)
        except LookupError:
            found = None
        asked.setdefault(self.name, {})[key] = found
        return Answer(self.name, found is not None, found)


def task(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Prefect's @task with its options, that makes a `RecordedTask`."""
    return lambda function: RecordedTask(function, **options)


# --- code --------------------------------------------------------------------------------------------------------


@functools.cache
def code_digest(modules: tuple[str, ...]) -> str:
    """SHA-256 over the syntax trees, without docstrings, of these modules and all of ours they reach."""
    digest = hashlib.sha256()
    for module in sorted(reachable(modules)):
        digest.update(f"{module}\n{_once(_bare_syntax, _file(module))}\n".encode())
    return digest.hexdigest()


def reachable(modules: Sequence[str]) -> set[str]:
    """First-party modules that these import, at any depth and anywhere in their text, found without importing them."""
    found: set[str] = set()
    queue = list(modules)
    while queue:
        module = queue.pop()
        if module not in found:
            found.add(module)
            queue += _once(_imports, _file(module))
    return found


def _once(read: Callable[[Path | None], R], path: Path | None) -> R:
    """`read(path)`, done once a process for each content: the digests of a study's tasks share most files."""
    key = read, path, path.read_bytes() if path else b""
    if key not in _read:
        _read[key] = read(path)
    return cast(R, _read[key])


def _imports(path: Path | None) -> list[str]:
    """Modules one module names; a package imported as a whole stands for everything in it (its kinds load by name)."""
    names: list[str] = []
    for node in ast.walk(_syntax(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    ours = [name for name in names if name.split(".")[0] in FIRST_PARTY and _file(name)]
    parents = {name.rpartition(".")[0] for name in ours}
    whole = [folder for name in ours if name not in parents and (folder := _package(name)) and folder.parent != ROOT]
    kinds = [file for folder in whole for file in sorted(folder.glob("*.py"))]
    return ours + [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in kinds]


def _package(module: str) -> Path | None:
    folder = ROOT.joinpath(*module.split("."))
    return folder if (folder / "__init__.py").is_file() else None


def _file(module: str) -> Path | None:
    folder = _package(module)
    path = folder / "__init__.py" if folder else ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return path if path.is_file() else None


def _syntax(path: Path | None) -> ast.Module:
    """The tree of one file. CPython 3.11 counts the depth of its conversion once for all threads, so a parse in another
    thread, ours or a library's, makes this one raise SystemError: Prefect would then run the task uncached."""
    source = path.read_bytes() if path else b""
    for _ in range(PARSE_ATTEMPTS):
        with contextlib.suppress(SystemError):
            return ast.parse(source)
    return ast.parse(source)


def _bare_syntax(path: Path | None) -> str:
    tree = _syntax(path)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            node.body = body[1:] or [ast.Pass()]
    return ast.dump(tree)
