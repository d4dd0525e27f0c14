"""The Prefect server's database is there at once, and is the one that Prefect would have made."""

import asyncio
import contextlib
import gc
import importlib.metadata
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
import yaml
from sqlalchemy import event
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from flows.server import (
    SCHEMA,
    absence,
    at_newest_revision,
    connect_ours,
    free_port,
    renew_patience,
    serve,
    server,
    server_settings,
    wait_until_stored,
)
from tests.commands import ROOT


def tables(database) -> set[str]:
    with sqlite3.connect(database) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_a_server_of_others_that_does_not_answer_is_named_at_once_and_without_its_password(monkeypatch, capsys):
    said = []
    monkeypatch.setenv("PREFECT_API_URL", f"http://me:secret@127.0.0.1:{free_port()}/api")
    monkeypatch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # which `server` would set for good
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: said.append(capsys.readouterr().err))
    monkeypatch.setattr("flows.server.time", clock)
    monkeypatch.setattr("flows.server.ANSWERS_WITHIN_S", 0.05)
    with server() as absent, pytest.raises(ValueError, match=r"answered at 127\.0\.0\.1:\d+ within"):
        absent.wait()
    assert said[0] == f"waiting for the Prefect server at {absent.address} (PREFECT_API_URL)\n"
    assert "secret" not in said[0]
    assert set(said[1:]) <= {""}, "once"


@pytest.mark.parametrize("stored", [True, False])
def test_task_runs_that_are_stored_when_the_machine_goes_on_after_it_stood_still_are_no_error(monkeypatch, stored):
    run, clock = SimpleNamespace(id=UUID(int=1), state=SimpleNamespace(is_final=lambda: stored)), [0.0]

    def answer_late(**_):
        clock[0] += 1_000
        return [run]

    client = contextlib.nullcontext(SimpleNamespace(read_task_runs=answer_late))
    monkeypatch.setattr("prefect.client.orchestration.get_client", lambda sync_client: client)
    monkeypatch.setattr("prefect.events.worker.EventsWorker.drain_all", lambda: None)
    monkeypatch.setattr("flows.server.time", SimpleNamespace(monotonic=lambda: clock[0], sleep=lambda _: None))
    if stored:
        wait_until_stored([run.id])
    else:
        with pytest.raises(TimeoutError, match="1 task runs did not reach the Prefect server within 300 s"):
            wait_until_stored([run.id])


def test_a_server_that_went_away_is_named_without_its_password(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://me:secret@prefect.example:4200/api")
    request = httpx.Request("GET", "http://me:secret@prefect.example:4200/api/flow_runs")
    said = absence(httpx.ConnectError("refused", request=request))
    assert said is not None
    assert "prefect.example:4200 is away" in said
    assert "secret" not in said


def test_an_empty_database_is_made_where_there_is_none_and_needs_no_migration(tmp_path):
    file = tmp_path / "a home #1" / "prefect.db"
    file.parent.mkdir()
    assert at_newest_revision(file)
    assert {"flow_run", "task_run", "artifact", "alembic_version"} <= tables(file)
    assert [path.name for path in file.parent.iterdir()] == ["prefect.db"]
    assert server_settings(file.parent, ui=False)["PREFECT_SERVER_DATABASE_MIGRATE_ON_START"] == "false"


def test_a_database_that_is_there_keeps_its_rows(tmp_path):
    file = tmp_path / "prefect.db"
    assert at_newest_revision(file)
    with sqlite3.connect(file) as connection:
        connection.execute("INSERT INTO flow (name) VALUES ('mine')")
    assert at_newest_revision(file)
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT name FROM flow").fetchall() == [("mine",)]


@pytest.mark.parametrize("state", ["older revision", "no revision", "no tables", "no database"])
def test_any_other_database_is_left_to_prefect(tmp_path, state):
    file = tmp_path / "prefect.db"
    if state == "no database":
        file.write_bytes(b"\x00garbage" * 100)
    elif state == "no tables":
        file.touch()
    else:
        at_newest_revision(file)
        with sqlite3.connect(file) as connection:
            connection.execute("DELETE FROM alembic_version")
            if state == "older revision":
                connection.execute("INSERT INTO alembic_version VALUES ('0123456789ab')")
    before = file.read_bytes()
    assert not at_newest_revision(file)
    assert file.read_bytes() == before
    assert server_settings(tmp_path, ui=False)["PREFECT_SERVER_DATABASE_MIGRATE_ON_START"] == "true"


def test_another_prefect_makes_its_own_database(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.9.0")
    assert not at_newest_revision(tmp_path / "prefect.db")
    assert not (tmp_path / "prefect.db").exists()


@pytest.fixture
def buckets(tmp_path, monkeypatch):
    """A database, in a home, with an automation of each posture that waits since long; and how each waits: from, until."""
    monkeypatch.setenv("EARSHOT_HOME", str(tmp_path))
    file = tmp_path / "prefect" / "prefect.db"
    file.parent.mkdir()
    at_newest_revision(file)
    with sqlite3.connect(file) as connection:
        for name in ("Proactive", "Reactive"):
            automation = (name, name, "", json.dumps({"posture": name}), "[]")
            connection.execute(
                'INSERT INTO automation (id, name, description, "trigger", actions) VALUES (?, ?, ?, ?, ?)', automation
            )
            bucket = (name, name, "[]", "2026-01-01 00:00:00.250000", "2026-01-01 00:01:30.250000", 0)
            connection.execute(
                'INSERT INTO automation_bucket (automation_id, trigger_id, bucketing_key, start, "end", count) '
                "VALUES (?, ?, ?, ?, ?, ?)",
                bucket,
            )

    def spans() -> dict[str, tuple[datetime, datetime]]:
        with sqlite3.connect(file) as connection:
            found = connection.execute('SELECT automation_id, start, "end" FROM automation_bucket').fetchall()
        return {name: (at(start), at(end)) for name, start, end in found}

    return file, spans


def at(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)


def test_a_server_that_comes_back_waits_its_whole_patience_for_a_new_sign_of_life(buckets):
    """Of proactive automations: their time ran while nobody could hear. However often it comes back, and from its coming
    on: what was sent meanwhile is sent again, is older than that, and says nothing of now."""
    file, spans = buckets
    begin = datetime.now(UTC)
    for _ in range(3):
        renew_patience(file)
    start, end = spans()["Proactive"]
    assert begin - timedelta(milliseconds=1) <= start <= datetime.now(UTC)
    assert 89 <= (end - start).total_seconds() <= 91
    assert spans()["Reactive"] == (at("2026-01-01 00:00:00.250000"), at("2026-01-01 00:01:30.250000"))


def come_back(monkeypatch, **how) -> None:
    """All of a server but its process."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr("flows.server.child.started", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr("flows.server.settings", lambda *_: {})
    with server(**how):
        pass


def test_a_server_waits_anew_for_a_database_that_an_older_one_left_and_a_command_s_own_leaves_it_alone(
    buckets, monkeypatch
):
    file, spans = buckets
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    come_back(monkeypatch)
    assert spans()["Proactive"] == spans()["Reactive"]
    come_back(monkeypatch, ui=True)
    assert spans()["Proactive"] > spans()["Reactive"]


def test_a_server_over_an_empty_home_has_nobody_to_wait_for(tmp_path, monkeypatch):
    monkeypatch.setenv("EARSHOT_HOME", str(tmp_path))
    come_back(monkeypatch, ui=True)
    sqlite3.connect(tmp_path / "empty.db").close()
    for name in ("empty.db", "none.db"):
        renew_patience(tmp_path / name)
    assert not (tmp_path / "none.db").exists()


def test_a_database_that_is_written_by_another_or_is_none_is_a_sentence(buckets, monkeypatch):
    file, _ = buckets
    monkeypatch.setattr("flows.server.LOCKED_S", 0)
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(
            ValueError, match=r"prefect\.db cannot be used \(database is locked\); end what else uses it"
        ):
            renew_patience(file)
    file.write_bytes(b"\x00garbage" * 100)
    with pytest.raises(ValueError, match=r"cannot be used \(file is not a database\); .* or move it away"):
        renew_patience(file)


@pytest.fixture
def connecting_as_the_server() -> Iterator[None]:
    event.listen(SQLiteDialect_aiosqlite, "do_connect", connect_ours)
    yield
    event.remove(SQLiteDialect_aiosqlite, "do_connect", connect_ours)


async def refused(database: Path, rows: Any, busy_s: float) -> bool:
    """Whether a session is refused the lock that another holds and gives back at once, where the error of an earlier
    refusal is collected, in the event loop's thread, while the session waits. Prefect's server does all that."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{database}", isolation_level="AUTOCOMMIT")

    async def do(connection: AsyncConnection, *statements: str) -> None:
        for statement in statements:
            await connection.exec_driver_sql(statement)

    async with engine.connect() as one, engine.connect() as other:
        for each in (one, other):
            await do(each, "PRAGMA journal_mode = WAL", f"PRAGMA busy_timeout = {busy_s * 1000:.0f}")
        await do(one, "CREATE TABLE runs (id)", "BEGIN", "SELECT * FROM runs")
        await do(other, "INSERT INTO runs VALUES (1)")
        try:  # what it has read is no longer so: it is refused at once
            await one.exec_driver_sql("INSERT INTO runs VALUES (?)", rows)
        except OperationalError as error:
            errors = [error]
        await do(one, "ROLLBACK")
        await do(other, "BEGIN IMMEDIATE")
        waiting = asyncio.create_task(do(one, "BEGIN IMMEDIATE"))
        await asyncio.sleep(0.1)
        errors.clear()
        gc.collect()
        await do(other, "COMMIT")
        (outcome,) = await asyncio.gather(waiting, return_exceptions=True)
    await engine.dispose()
    return isinstance(outcome, OperationalError)


@pytest.mark.slow
def test_the_server_connects_so(monkeypatch):
    told: list[bool] = []
    monkeypatch.setattr("flows.server.child.hold_lifeline", lambda: None)
    monkeypatch.setattr(
        "uvicorn.run",
        lambda *_, **__: told.append(event.contains(SQLiteDialect_aiosqlite, "do_connect", connect_ours)),
    )
    serve(free_port())
    event.remove(SQLiteDialect_aiosqlite, "do_connect", connect_ours)
    assert told == [True]


@pytest.mark.usefixtures("connecting_as_the_server")
@pytest.mark.parametrize("rows", [(2,), [(2,), (3,)]])
def test_a_statement_that_found_the_database_locked_does_not_hold_up_the_event_loop_when_its_error_is_collected(
    tmp_path, rows
):
    assert not asyncio.run(refused(tmp_path / "a.db", rows, busy_s=60))


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a cursor of this Python ends a statement that fails at once")
def test_with_python_s_own_cursors_it_would_until_the_other_session_has_waited_in_vain(tmp_path):
    """As long as Prefect lets it wait: 60 s. On a machine that stood still nobody may have waited yet."""
    assert any(asyncio.run(refused(tmp_path / f"{attempt}.db", (2,), busy_s=0.3)) for attempt in range(9))


@pytest.mark.slow
@pytest.mark.parametrize(("begun_s", "kept"), [(0, True), (-300, False)])
def test_a_heartbeat_that_is_sent_again_takes_nothing_of_the_patience_of_a_server_that_came_back(
    monkeypatch, begun_s, kept
):
    """By Prefect's own rules. Where the wait had not begun anew, an old heartbeat would leave one that is over already."""
    from prefect.server.events import triggers
    from prefect.server.events.schemas.automations import Automation

    text = (ROOT / "automations.yaml").read_text(encoding="utf-8")
    (silent,) = [its for its in yaml.safe_load(text)["automations"] if its["name"] == "earshot-silent"]
    automation = Automation.model_validate({**silent, "id": UUID(int=0)})
    now = datetime.now(UTC)
    old = SimpleNamespace(id=UUID(int=1), event="prefect.flow-run.heartbeat", occurred=now - timedelta(seconds=120))
    waits = SimpleNamespace(
        start=now + timedelta(seconds=begun_s),
        end=now + timedelta(seconds=90),
        count=0,
        bucketing_key=("run",),
        last_operation="",
    )
    made = []

    async def remove(*_):
        return None

    async def increment(session, bucket, count, event):
        bucket.count += count
        return bucket

    async def start(*_, **how):
        made.append(how["end"])

    monkeypatch.setattr(triggers, "remove_bucket", remove)
    monkeypatch.setattr(triggers, "increment_bucket", increment)
    monkeypatch.setattr(triggers, "start_new_bucket", start)
    left = asyncio.run(triggers.evaluate(None, automation.trigger, waits, old.occurred, old))
    assert (left is waits) == kept
    assert made == ([] if kept else [now - timedelta(seconds=30)])


def statements(script: str) -> list[list[str]]:
    """Each statement as its parts, sorted: migrations put a table's constraints in the order of a set."""
    return sorted(sorted(part.strip() for part in line.removesuffix(");").split(", ")) for line in script.splitlines())


@pytest.mark.slow
def test_the_shipped_database_is_what_prefects_migrations_come_to():
    told = subprocess.run(
        [sys.executable, "-m", "tests.prefect_database"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    shipped = SCHEMA.read_text(encoding="utf-8")
    assert statements(told.stdout) == statements(shipped), "write it anew as its second line says"
    assert statements(shipped.replace("CREATE INDEX", "CREATE UNIQUE INDEX", 1)) != statements(shipped)
