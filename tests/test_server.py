"""The Prefect server's database is there at once, and is the one that Prefect would have made."""

import importlib.metadata
import json
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from flows.server import SCHEMA, at_newest_revision, renew_patience, server_settings
from tests.commands import ROOT


def tables(database) -> set[str]:
    with sqlite3.connect(database) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


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


def test_a_server_that_comes_back_waits_its_whole_patience_for_a_sign_of_life(tmp_path):
    """Of proactive automations: their time ran while nobody could hear."""
    file = tmp_path / "prefect.db"
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
    renew_patience(file)
    with sqlite3.connect(file) as connection:
        ends = dict(connection.execute('SELECT automation_id, "end" FROM automation_bucket'))
    left = datetime.strptime(ends["Proactive"], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC) - datetime.now(UTC)
    assert 80 < left.total_seconds() <= 91
    assert ends["Reactive"] == "2026-01-01 00:01:30.250000"


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
