"""What a person reads on the page of a run: tables, markdown and pictures as Prefect artifacts, and plain log lines."""

import base64
import logging
import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prefect import Task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger

_terminal = logging.getLogger("earshot")
_ended: list[UUID] = []


def say(line: str) -> None:
    """One line of progress: on the terminal, and in the log of the run where there is one."""
    _terminal.info(line)
    if in_a_run():
        get_run_logger().info(line)


def announce(task: Task[..., Any], run: TaskRun, state: State) -> None:
    """Hook at a task's end: name it, say whether it was cached, and remember its run."""
    name = str(state.name).lower()
    how = name if name == "cached" else f"{name}, {_seconds(run, state):.1f} s"
    _terminal.info(f"{run.name}: {how}")
    _ended.append(run.id)


def ended() -> list[UUID]:
    """Task runs that have ended in this process."""
    return list(_ended)


HOOKS: dict[str, Any] = {"on_completion": [announce], "on_failure": [announce]}


def _seconds(run: TaskRun, state: State) -> float:
    return (state.timestamp - run.start_time).total_seconds() if run.start_time else 0.0


def show_table(key: str, rows: Sequence[dict[str, Any]], description: str) -> None:
    """A table artifact; `key` stays the same over runs so that the page shows its history."""
    if in_a_run():
        create_table_artifact(table=list(rows), key=_slug(key), description=description)


def show_markdown(key: str, text: str, description: str) -> None:
    """A markdown artifact."""
    if in_a_run():
        create_markdown_artifact(markdown=text, key=_slug(key), description=description)


def show_picture(key: str, png: bytes, description: str) -> None:
    """A PNG embedded in markdown: the page shows data URIs, not files of the machine that ran."""
    uri = base64.b64encode(png).decode()
    show_markdown(key, f"![{description}](data:image/png;base64,{uri})", description)


def in_a_run() -> bool:
    """Whether Prefect is running what calls this."""
    return bool(FlowRunContext.get() or TaskRunContext.get())


def _slug(key: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", key.lower()).strip("-")
