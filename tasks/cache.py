"""When a task may be skipped: the same block, inputs, reachable code and libraries, and its result still whole."""

import ast
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefect.cache_policies import CacheKeyFnPolicy
from prefect.context import TaskRunContext
from prefect.results import ResultRecord  # type: ignore[attr-defined]
from pydantic import BaseModel

from tasks.run_page import HOOKS
from tasks.store import Reference, home

ROOT = Path(__file__).resolve().parent.parent
FIRST_PARTY = ("flows", "tasks", "recipes")


# Arguments that bound or steer a task without touching its result.
IGNORED = ("timeout_min",)


def cached(*, libraries: Sequence[str] = (), runs: Sequence[str] = (), files: Sequence[str] = ()) -> dict[str, Any]:
    """Options for @task: skip while nothing that can change the result has changed.

    `libraries` are distributions whose version matters, `runs` first-party modules that the task starts by name in a
    child process, `files` what it reads from the clone (templates).
    """

    def key(context: TaskRunContext, arguments: dict[str, Any]) -> str:
        parts = {
            "task": context.task.name,
            "arguments": canonical({name: value for name, value in arguments.items() if name not in IGNORED}),
            "code": code_digest((context.task.fn.__module__, *runs)),
            "libraries": {name: importlib.metadata.version(name) for name in sorted(libraries)},
            "files": {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in sorted(files)},
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        forget_damaged(results() / digest)
        return digest

    return {
        "cache_policy": CacheKeyFnPolicy(cache_key_fn=key),
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
    """Remove a result record that cannot be read or whose folders are gone or altered, so that its task runs again."""
    if not record.exists():
        return
    try:
        result: Any = ResultRecord.deserialize(record.read_bytes()).result
    except Exception:  # whatever a truncated or foreign record raises, it is no result
        record.unlink(missing_ok=True)
        return
    if not all(reference.intact() for reference in references(result)):
        record.unlink(missing_ok=True)


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


@functools.cache
def code_digest(modules: tuple[str, ...]) -> str:
    """SHA-256 over the syntax trees, without docstrings, of these modules and all of ours they reach."""
    digest = hashlib.sha256()
    for module in sorted(reachable(modules)):
        digest.update(f"{module}\n{_bare_syntax(_file(module))}\n".encode())
    return digest.hexdigest()


def reachable(modules: Sequence[str]) -> set[str]:
    """First-party modules that these import, at any depth and anywhere in their text, found without importing them."""
    found: set[str] = set()
    queue = list(modules)
    while queue:
        module = queue.pop()
        if module not in found:
            found.add(module)
            queue += _imports(_file(module))
    return found


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
    return ast.parse(path.read_bytes()) if path else ast.Module([], [])


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
