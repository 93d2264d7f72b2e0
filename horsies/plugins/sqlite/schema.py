"""Bringing a database up to date: numbered files, applied in order and in one transaction by whoever comes first.

The newest file applied is the database's `user_version`; its `application_id` says that it is horsies' at all.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from importlib import resources

from horsies import HorsiesError

from .queries import read_sql

APPLICATION_ID = 0x486F7273
"""`Hors` in ASCII."""

_FILE = re.compile(r"(\d{3})_[a-z_]+\.sql")


def migrations() -> dict[int, str]:
    """The file of each version, in order. Versions count from 1 without a gap."""
    names = sorted(entry.name for entry in resources.files(__package__).joinpath("migrations").iterdir())
    found = {int(match[1]): name for name in names if (match := _FILE.fullmatch(name))}
    if list(found) != list(range(1, len(found) + 1)):
        raise ValueError(f"the migrations are not numbered from 1 without a gap: {', '.join(found.values())}")
    return found


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to this version's newest migration.

    Safe to run by any number of processes at once, and to run again.

    Raises:
        HorsiesError: HRS-218, the database is newer than this version of horsies, or belongs to something else.
        sqlite3.Error: the database failed.
    """
    newest = max(migrations())
    connection.execute("BEGIN")  # one snapshot: what says whose it is and what says how new it is belong together
    try:
        if _version(connection) == newest:
            return
    finally:
        connection.rollback()
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection)
        for number, name in migrations().items():
            if number > version:
                for statement in statements(read_sql(f"migrations/{name}")):
                    connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {newest}")
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _version(connection: sqlite3.Connection) -> int:
    """The newest migration applied, or 0 in an empty database.

    Raises:
        HorsiesError: HRS-218, as for `migrate`.
    """
    ((owner,),) = connection.execute("PRAGMA application_id").fetchall()
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    newest = max(migrations())
    if version > newest:
        raise HorsiesError(
            "HRS-218",
            "the database is newer than this version of horsies",
            [
                f"it is at version {version}, this horsies knows versions up to {newest}",
                "upgrade horsies here, or use another file",
            ],
        )
    if owner != APPLICATION_ID and (owner or version or tables):
        raise HorsiesError(
            "HRS-218",
            "the database is not one of horsies",
            ["it holds the tables of another program; give horsies a file of its own"],
        )
    return int(version)


def statements(script: str) -> Iterator[str]:
    """The statements of `script` one by one: `executescript` would commit the transaction they belong to."""
    statement = ""
    for part in re.split(r"(?<=;)", script):
        statement += part
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def schema_sql() -> str:
    """What makes the newest schema in an empty database, as `migrate` would leave it."""
    newest = max(migrations())
    pragmas = f"PRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {newest};\n"
    return f"{read_sql('sql/schema.sql')}\n{pragmas}"
