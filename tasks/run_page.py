"""What a person reads on the page of a run: tables, markdown, pictures and progress as Prefect artifacts, and log lines."""

import base64
import contextlib
import json
import logging
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import UUID

import httpx
from prefect import Task
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from tasks import child
from tasks.store import home, read_json, write_json

PROGRESS = "EARSHOT_PROGRESS"  # set where lines of progress go to standard error, also those of a runner's processes
EVERY_S = 2.0  # at most so often is something on the page written anew
AWAY_S = 30.0  # and so often where the server did not take it
RETRIES = 2  # of the last version, after 2 and 4 s; any other is written anew anyway
_terminal = logging.getLogger("earshot")
_silent: ContextVar[bool] = ContextVar("silent", default=False)
_submitted: dict[UUID, None] = {}  # task runs that this process handed to a runner, in their order
_ended: dict[UUID, None] = {}  # task runs that ended in this process


class Shown(NamedTuple):
    """Something on a run's page."""

    kind: Literal["table", "markdown", "progress"]
    key: str
    data: Any
    description: str


_shown: dict[UUID, list[Shown]] = defaultdict(list)  # by the task run that showed it


# --- lines -------------------------------------------------------------------------------------------------------


def print_progress() -> None:
    """Our own lines on standard error, from this process and from those that it starts."""
    os.environ[PROGRESS] = "1"
    if not _terminal.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
        _terminal.setLevel(logging.INFO)
        _terminal.propagate = False
        _terminal.addHandler(handler)


if os.environ.get(PROGRESS):
    print_progress()


def say(line: str) -> None:
    """One line of progress: on the terminal, and in the log of the run where there is one."""
    if not _silent.get():
        _terminal.info(line)
    if in_a_run():
        get_run_logger().info(line)


def in_a_run() -> bool:
    """Whether Prefect is running what calls this, and it may be seen."""
    return bool(FlowRunContext.get() or TaskRunContext.get()) and not _silent.get()


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Inside, nothing is said and nothing shown: what is done is only looked up."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


# --- a task's end ------------------------------------------------------------------------------------------------


def announce(task: Task[..., Any], run: TaskRun, state: State) -> None:
    """Hook at a task's end: name it, say whether it was cached or stopped, and show again what a cached task had shown."""
    name = str(state.name).lower()
    said = "stopped" if state.is_failed() and child.all_ended() else name
    how = name if name == "cached" else f"{said}, {_seconds(run, state):.1f} s"
    _terminal.info(f"{run.name}: {how}")
    _ended[run.id] = None
    shown = _shown.pop(run.id, [])
    if not (page := _page_of(state)):
        return
    if name == "cached":
        again = [Shown(*each) for each in read_json(page)] if page.exists() else []
        for each in again:
            _post(each, run.id, run.flow_run_id)
    elif shown and state.is_completed():
        page.parent.mkdir(exist_ok=True)
        draft = page.with_name(f".{page.name}-{os.getpid()}")
        write_json(draft, [list(each) for each in shown])
        draft.rename(page)


HOOKS: dict[str, Any] = {"on_completion": [announce], "on_failure": [announce]}


def submitted(task_run: UUID) -> None:
    """Remember that this process asked for a task run, wherever that runs."""
    _submitted[task_run] = None


def asked_for() -> list[UUID]:
    """Task runs of this process, also those that another one does for it."""
    return list(_submitted | _ended)


def ended() -> list[UUID]:
    """Task runs that have ended in this process."""
    return list(_ended)


def _page_of(state: State) -> Path | None:
    """Where what a recorded task showed is kept: beside its record, by the same name."""
    key = getattr(getattr(state.data, "metadata", None), "storage_key", None)
    return home() / "pages" / f"{Path(key).name}.json" if key else None


def _seconds(run: TaskRun, state: State) -> float:
    return (state.timestamp - run.start_time).total_seconds() if run.start_time else 0.0


# --- artifacts ---------------------------------------------------------------------------------------------------


def show_table(key: str, rows: Sequence[Mapping[Any, Any]], description: str) -> None:
    """A table; `key` stays the same over runs so that the page shows its history. NaN is an empty cell."""
    plain = [{str(name): None if value != value else value for name, value in row.items()} for row in rows]
    _show(Shown("table", key, json.dumps(plain, default=str), description))


def show_markdown(key: str, text: str, description: str) -> None:
    """A text: tables, links and data URIs are rendered."""
    _show(Shown("markdown", key, text, description))


def show_picture(key: str, png: bytes, description: str) -> None:
    """A PNG embedded in markdown: the page shows data URIs, not files of the machine that ran."""
    show_markdown(key, picture(png, description), description)


def fenced(lines: Sequence[str]) -> str:
    """Markdown that leaves columns as they are."""
    return "\n".join(["```", *lines, "```"])


def picture(png: bytes, description: str) -> str:
    """Markdown with the PNG in it."""
    return f"![{description}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _show(shown: Shown) -> UUID | None:
    """Put it on the page of the run that calls this, if one does, and remember it for the next time the task is cached."""
    if not in_a_run():
        return None
    if task := TaskRunContext.get():
        _shown[task.task_run.id].append(shown)
    return _post_here(shown)


def _post_here(shown: Shown) -> UUID | None:
    """Put it on the page of the run that calls this, if one does."""
    if task := TaskRunContext.get():
        return _post(shown, task.task_run.id, task.task_run.flow_run_id)
    if (flow := FlowRunContext.get()) and flow.flow_run:
        return _post(shown, None, flow.flow_run.id)
    return None


def _post(shown: Shown, task_run: UUID | None, flow_run: UUID | None) -> UUID:
    with get_client(sync_client=True) as client:
        artifact = ArtifactCreate(
            type=shown.kind, key=slug(shown.key), data=shown.data, description=shown.description,
            task_run_id=task_run, flow_run_id=flow_run,
        )  # fmt: skip
        return client.create_artifact(artifact).id


def slug(key: str) -> str:
    """What Prefect takes as an artifact's key."""
    return re.sub(r"[^a-z0-9-]+", "-", key.lower()).strip("-")


class Living:
    """Something on the page of a task that is written anew while the task runs, at most every `EVERY_S` seconds.

    A server that is away costs the page its newest versions, never the task its work: seconds each half minute.
    """

    def __init__(self, kind: Literal["markdown", "progress"], key: str) -> None:
        self.kind: Literal["markdown", "progress"] = kind
        self.key, self.due = key, 0.0
        self.id: UUID | None = None
        self.latest: Shown | None = None

    def show(self, data: Any, description: str, *, last: bool = False) -> None:
        """Write it anew, unless it was just now; `last` is always written and is what a cached run shows again."""
        if not in_a_run() or not (last or self.is_due()):
            return
        self.due = time.monotonic() + EVERY_S
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: RETRIES if last else 0}):
                self._write(Shown(self.kind, self.key, data, description))
        except httpx.HTTPError as error:
            self.due = time.monotonic() + AWAY_S
            _terminal.warning(f"the page of the run could not be written ({error!r}); the run goes on")

    def is_due(self) -> bool:
        """Whether what is handed to `show` now would be written."""
        return time.monotonic() >= self.due

    def _write(self, shown: Shown) -> None:
        task = TaskRunContext.get()
        remembered = _shown[task.task_run.id] if task else []
        if self.latest in remembered:
            remembered[remembered.index(self.latest)] = shown
        else:
            remembered.append(shown)
        self.latest = shown
        if self.id is None:
            self.id = _post_here(shown)
        else:
            with get_client(sync_client=True) as client:
                client.update_artifact(self.id, ArtifactUpdate(data=shown.data, description=shown.description))
