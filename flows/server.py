"""The Prefect server a command brings along: its own database in the home, gone when every task run is stored."""

import contextlib
import gc
import importlib.metadata
import os
import socket
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from uuid import UUID

from tasks import child
from tasks.store import make_home

if TYPE_CHECKING:
    import subprocess

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SCHEMA = Path(__file__).with_name("prefect_database.sql")
STARTS_WITHIN_S = 300  # a server of ours, on a busy machine too: one that fails to is told of at once
ANSWERS_WITHIN_S = 90  # another's
STORED_WITHIN_S = 300
LOCKED_S = 30  # how long another server's writing to the database is waited for
HEARTBEAT_S = 30  # the least that Prefect takes; prefect.yaml says the same, and automations.yaml allows for three
# Services that only schedules, workers and automations need; the command's own server serves one run.
IDLE_SERVICES = (
    "SCHEDULER",
    "LATE_RUNS",
    "FOREMAN",
    "PAUSE_EXPIRATIONS",
    "CANCELLATION_CLEANUP",
    "TRIGGERS",
)


class Server:
    """A server that is starting: import what you need meanwhile, then `wait`."""

    def __init__(self, url: str, process: "subprocess.Popen[str] | None", log: Path | None) -> None:
        self.url, self.process, self.log = url, process, log

    @property
    def address(self) -> str:
        """Host and port."""
        return address_of(self.url)

    def wait(self) -> None:
        """Until it answers, said at once of a server that is not ours. Raises ValueError where it ends or does not answer,
        with where its log lies."""
        told = late = False
        within_s = STARTS_WITHIN_S if self.process else ANSWERS_WITHIN_S
        deadline = time.monotonic() + within_s
        while not late:
            late = time.monotonic() >= deadline  # asked once more then, should the machine have stood still
            if self.process and self.process.poll() is not None:
                raise ValueError(f"the Prefect server ended with status {self.process.returncode}; see {self.log}")
            with contextlib.suppress(urllib.error.URLError, TimeoutError, ConnectionError):
                urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
                return
            if self.process is None and not told:
                told = True
                print(
                    f"waiting for the Prefect server at {self.address} (PREFECT_API_URL)", file=sys.stderr, flush=True
                )
            time.sleep(0.1)
        hint = f"see {self.log}" if self.log else "is PREFECT_API_URL right?"
        raise ValueError(f"no Prefect server answered at {self.address} within {within_s} s; {hint}")


@contextlib.contextmanager
def server(*, ui: bool = False, port: int | None = None) -> Iterator[Server]:
    """The server of PREFECT_API_URL where it is set, else one of our own for as long as the block lasts.

    Sets this process's Prefect settings, so it must run before `prefect` is imported. The user's profile is not read.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        yield Server(url, None, None)
        return
    folder = make_home() / "prefect"
    folder.mkdir(exist_ok=True)
    port = port or free_port()
    url = f"http://127.0.0.1:{port}/api"
    os.environ.update(settings(folder, url))
    log = folder / "server.log"
    if ui:
        renew_patience(folder / "prefect.db")
    with (
        log.open("w", encoding="utf-8") as output,
        child.started(
            child.python("-m", "flows.server", str(port)), environment=server_settings(folder, ui), output=output
        ) as process,
    ):
        yield Server(url, process, log)


def settings(folder: Path, url: str) -> dict[str, str]:
    """Prefect settings of the command and of its server."""
    return {
        "PREFECT_HOME": str(folder),
        "PREFECT_PROFILES_PATH": str(folder / "profiles.toml"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the command prints its own lines; the log goes to the run
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }


def server_settings(folder: Path, ui: bool) -> dict[str, str]:
    """What only the server reads."""
    file = folder / "prefect.db"
    database = f"file:{quote(str(file))}?uri=true"  # a plain path ends at its first question mark
    services = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in IDLE_SERVICES if not ui}
    return {
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": str(not at_newest_revision(file)).lower(),
        "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": str(ui).lower(),  # no run of ours keeps anything in a block
        "PREFECT_SERVER_UI_ENABLED": str(ui).lower(),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # On disk: a slot that a dead run held is given back by whichever server comes next.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION": "60",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        **services,
    }


def at_newest_revision(database: Path, schema: Path = SCHEMA) -> bool:
    """Whether the database is what the installed Prefect would migrate it to; where there is none, an empty one is made.

    Prefect makes it in one migration after another; `schema` is what they come to.
    """
    script = schema.read_text(encoding="utf-8")
    if f" Prefect {importlib.metadata.version('prefect')} " not in script.splitlines()[0]:
        return False
    if not database.exists():
        draft = database.with_name(f"{database.name}.draft")
        draft.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(draft)) as connection:
            connection.executescript(script)
        draft.rename(database)
    with contextlib.closing(sqlite3.connect(database)) as connection, contextlib.suppress(sqlite3.Error):
        return any(f"'{row[0]}'" in script for row in connection.execute("SELECT version_num FROM alembic_version"))
    return False


def renew_patience(database: Path) -> None:
    """Let automations that wait for a sign of life wait their whole time from now on, for one that is given from now on.

    A server that was away has heard none, and would say of every run that lived meanwhile that it crashed; so it would
    over the signs of life that are sent again, each with the time of its own. Does nothing where there is no such table.
    Raises ValueError where the database cannot be written.
    """
    if not database.exists():
        return
    now = "strftime('%Y-%m-%d %H:%M:%f000', 'now'"
    patience_s = "strftime('%s', \"end\") - strftime('%s', start)"
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=LOCKED_S)) as connection, connection:
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'automation_bucket'").fetchone():
                connection.execute(
                    f"UPDATE automation_bucket SET start = {now}), \"end\" = {now}, ({patience_s}) || ' seconds') "
                    "WHERE automation_id IN "
                    "(SELECT id FROM automation WHERE json_extract(\"trigger\", '$.posture') = 'Proactive')"
                )
    except sqlite3.Error as error:
        raise ValueError(
            f"Prefect's database {database} cannot be used ({error}); end what else uses it, or move it away"
        ) from None


def free_port() -> int:
    """A port of the loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def address_of(url: str) -> str:
    """Host and port of an address: the rest of it may hold a password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def absence(error: Exception) -> str | None:
    """What to say of an error by which Prefect's client gives up on a server that is away; None of any other error."""
    import httpx

    url = os.environ.get("PREFECT_API_URL")
    with contextlib.suppress(RuntimeError):  # it has no request
        if url and isinstance(error, httpx.TransportError) and str(error.request.url).startswith(url):
            return (
                f"the Prefect server at {address_of(url)} is away ({error}): start it again on the same database and port, "
                "and run the same command again; it goes on from what was finished"
            )
    return None


def wait_until_stored(task_runs: Sequence[UUID]) -> None:
    """Until the server has every one of these task runs in its final state.

    The client sends states as events and the server writes them in batches: a server that leaves with the flow loses
    them. Raises TimeoutError with how many are missing.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterId
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all()
    missing = set(task_runs)
    deadline = time.monotonic() + STORED_WITHIN_S
    with get_client(sync_client=True) as client:
        while missing:
            late = time.monotonic() >= deadline
            some = sorted(missing)[:200]
            found = client.read_task_runs(task_run_filter=TaskRunFilter(id=TaskRunFilterId(any_=some)))
            missing -= {run.id for run in found if run.state and run.state.is_final()}
            if missing and late:
                raise TimeoutError(
                    f"{len(missing)} task runs did not reach the Prefect server within {STORED_WITHIN_S} s"
                )
            time.sleep(0.1)


def serve(port: int) -> None:
    """In the child: the server itself, until the parent is gone."""
    child.hold_lifeline()
    gc.disable()  # while so much is imported, collections only take time
    import uvicorn
    from prefect.server.api.server import create_app
    from sqlalchemy import event
    from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite

    gc.freeze()
    gc.enable()
    event.listen(SQLiteDialect_aiosqlite, "do_connect", connect_ours)
    uvicorn.run(
        lambda: asking_nobody_else(create_app(), port), factory=True, host="127.0.0.1", port=port, log_level="warning",
        timeout_keep_alive=5,
    )  # fmt: skip


class Cursor(sqlite3.Cursor):
    """Ends a statement that fails, as one that finds the database locked, at once and in its connection's thread.

    Up to Python 3.11 that is left to whoever frees the cursor, which here is the garbage collector in the event loop's
    thread: it waits for the connection, which by then may wait for another's lock, which that other can give back only in
    the event loop. The server would answer nobody for the 60 s that Prefect lets SQLite wait.
    """

    def execute(self, *told: Any) -> "Cursor":
        with self.ended():
            return super().execute(*told)

    def executemany(self, *told: Any) -> "Cursor":
        with self.ended():
            return super().executemany(*told)

    @contextlib.contextmanager
    def ended(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error:
            self.close()
            raise


class Connection(sqlite3.Connection):
    """Its cursors are ours."""

    def cursor(self, factory: Any = Cursor) -> Any:
        return super().cursor(factory)


def connect_ours(dialect: object, record: object, arguments: object, options: dict[str, Any]) -> None:
    """Before SQLAlchemy connects to SQLite: by a connection of ours."""
    options["factory"] = Connection


def asking_nobody_else(app: "ASGIApp", port: int) -> "ASGIApp":
    """The server, with a header on every page that lets a browser ask this server alone.

    The newer of Prefect's two pages asks an analytics company for its configuration, whatever the settings say.
    """
    ours = f"'self' http://127.0.0.1:{port} ws://127.0.0.1:{port}"
    rules = (
        f"default-src {ours} data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        f"style-src 'self' 'unsafe-inline'; connect-src {ours} data: blob:"
    )

    async def answer(scope: "Scope", receive: "Receive", send: "Send") -> None:
        async def send_on(message: "Message") -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"content-security-policy", rules.encode())]}
            await send(message)

        await app(scope, receive, send_on)

    return answer


if __name__ == "__main__":
    serve(int(sys.argv[1]))
