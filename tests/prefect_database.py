"""What Prefect's migrations make of an empty database: `python -m tests.prefect_database > flows/prefect_database.sql`."""

import asyncio
import importlib.metadata
import os
import sqlite3
import tempfile
from pathlib import Path


def migrated(folder: Path) -> str:
    """The migrated database as SQL. Sets Prefect's settings, so it must run before `prefect` is imported."""
    file = folder / "migrated.db"
    os.environ.update(PREFECT_HOME=str(folder), PREFECT_API_DATABASE_CONNECTION_URL=f"sqlite+aiosqlite:///{file}")
    from prefect.server.database import provide_database_interface

    asyncio.run(provide_database_interface().create_db())
    with sqlite3.connect(file) as database:
        statements = [" ".join(statement.split()) for statement in database.iterdump()]
    version = importlib.metadata.version("prefect")
    header = f"-- The empty database of Prefect {version} (Apache-2.0), after all its migrations."
    return "\n".join([header, f"-- {__doc__.split('`')[1]}", *statements, ""])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(migrated(Path(folder)), end="")
