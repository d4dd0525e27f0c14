"""Unmodified clients of a Hub in a process of their own: they read HF_ENDPOINT and its like when they are imported."""

import contextlib
import importlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.local_hub import WRITES, LocalHub

CLIENT = {
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_OFFLINE": "0",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_ETAG_TIMEOUT": "120",  # it is the Hub's faults that are tested, not how busy this machine is
    "HF_HUB_DOWNLOAD_TIMEOUT": "120",
}


class Clients:
    """A process that calls functions of a test's module against one Hub, with alice's token unless told otherwise."""

    def __init__(self, hub: LocalHub, folder: Path) -> None:
        self.hub = hub
        environment = {
            **CLIENT, "HF_ENDPOINT": hub.url, "HF_TOKEN": WRITES, "HF_HOME": str(folder / "hf"),
            "EARSHOT_HOME": str(folder / "home"), "HF_DATASETS_CACHE": str(folder / "datasets"),
        }  # fmt: skip
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(environment,))

    def call(self, function: Callable[..., Any], *arguments: Any, **environment: str) -> Any:
        """What `function(*arguments)` gives there, with these changes of the environment."""
        return self.start(function, *arguments, **environment).result(timeout=600)

    def start(self, function: Callable[..., Any], *arguments: Any, **environment: str) -> "Future[Any]":
        """The same, not waited for."""
        return self.pool.submit(_called, function, arguments, environment)


def _begin(environment: dict[str, str]) -> None:
    os.environ.update(environment)


def _called(function: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str]) -> Any:
    before = dict(os.environ)
    os.environ.update(environment)
    for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download"):
        # The client's own pauses: what is tested is what it does after them.
        importlib.import_module(module).time = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})  # type: ignore[attr-defined]
    try:
        return function(*arguments)
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def clients(hub: LocalHub, folder: Path) -> Iterator[Clients]:
    """Clients for as long as the block lasts."""
    started = Clients(hub, folder)
    try:
        yield started
    finally:
        started.pool.shutdown(cancel_futures=True)
