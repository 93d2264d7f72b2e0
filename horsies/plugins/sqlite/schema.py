"""Bringing a database up to date: numbered files, applied in order and in one transaction by whoever comes first."""

from __future__ import annotations

import sqlite3
from importlib import resources

from horsies import HorsiesError

from .queries import read_sql
from .session import Session


def migrations() -> list[str]:
    """The files, in order; the n-th leads to version n, which `PRAGMA user_version` holds."""
    entries = resources.files(__package__).joinpath("migrations").iterdir()
    return sorted(entry.name for entry in entries if entry.name.endswith(".sql"))


def schema_sql() -> str:
    """All migrations in one."""
    return "\n".join(read_sql(f"migrations/{name}") for name in migrations())


async def migrate(session: Session) -> None:
    """Bring the database to this version's newest migration; any number of processes may try at once.

    Raises:
        HorsiesError: HRS-218, the database is newer than this version of horsies.
        sqlite3.Error: it cannot be read or written.
    """
    await session.run_script(_migrate)


def _migrate(connection: sqlite3.Connection) -> None:
    names = migrations()
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(names):
            raise HorsiesError(
                "HRS-218",
                "the database is newer than this version of horsies",
                [f"it is at version {version}, this horsies knows versions up to {len(names)}", "upgrade horsies here"],
            )
        for number, name in enumerate(names[version:], start=version + 1):
            for statement in read_sql(f"migrations/{name}").split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
