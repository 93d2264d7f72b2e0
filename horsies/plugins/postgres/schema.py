"""Bringing a schema up to date: numbered files, applied in order and in one transaction by whoever comes first."""

from __future__ import annotations

import re
from importlib import resources

import psycopg

from horsies import HorsiesError

from .connection import AnyioConnection
from .queries import read_sql
from .session import Row

_FILE = re.compile(r"(\d{3})_[a-z_]+\.sql")


def migrations() -> dict[int, str]:
    """The file of each version, in order. Versions count from 1 without a gap."""
    names = sorted(entry.name for entry in resources.files(__package__).joinpath("migrations").iterdir())
    found = {int(match[1]): name for name in names if (match := _FILE.fullmatch(name))}
    if list(found) != list(range(1, len(found) + 1)):
        raise ValueError(f"the migrations are not numbered from 1 without a gap: {', '.join(found.values())}")
    return found


async def migrate(connection: AnyioConnection[Row], schema: str) -> None:
    """Bring `schema` to this version's newest migration.

    Safe to run by any number of processes at once, and to run again: they wait for one another, and all but the first
    find nothing to do. A role that may only read and write is enough where the schema is up to date already.

    Raises:
        HorsiesError: HRS-218, the schema is newer than this version of horsies, or may not be made or altered.
        psycopg.Error: the database failed.
    """
    newest = max(migrations())
    if await _version(connection, schema) == newest:
        return
    try:
        async with connection.transaction():
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"horsies migrations of {schema}",)
            )
            version = await _version(connection, schema)
            if version > newest:
                raise HorsiesError(
                    "HRS-218",
                    f"schema {schema!r} is newer than this version of horsies",
                    [
                        f"it is at version {version}, this horsies knows versions up to {newest}",
                        "upgrade horsies here, or use another schema",
                    ],
                )
            await _apply(connection, schema, version)
    except psycopg.errors.InsufficientPrivilege as error:
        raise HorsiesError(
            "HRS-218",
            f"schema {schema!r} is missing or out of date, and this role may not change it",
            [
                str(error.diag.message_primary),
                "let a role with the right to create apply it once, or grant this one CREATE",
            ],
        ) from None


async def _version(connection: AnyioConnection[Row], schema: str) -> int:
    """The newest migration applied, or 0 when there is no schema yet."""
    # Not to_regclass(): it answers from the session's cache, which may be older than the lock that was waited for.
    if not await _exists(
        connection, "SELECT FROM pg_catalog.pg_tables WHERE schemaname = %s AND tablename = 'migrations'", schema
    ):
        return 0
    cursor = await connection.execute(f"SELECT coalesce(max(version), 0) FROM {schema}.migrations")
    (version,) = await cursor.fetchone() or (0,)
    return int(version)


async def _apply(connection: AnyioConnection[Row], schema: str, version: int) -> None:
    if version == 0:
        await _begin(connection, schema)
    for number, name in migrations().items():
        if number > version:
            await connection.execute(read_sql(f"migrations/{name}", schema))
            await connection.execute(f"INSERT INTO {schema}.migrations (version) VALUES (%s)", (number,))


async def _begin(connection: AnyioConnection[Row], schema: str) -> None:
    """What the migrations stand on: it exists before the first of them and never changes."""
    if not await _exists(connection, "SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s", schema):
        # IF NOT EXISTS would need the right to create schemas even where an administrator has made this one.
        await connection.execute(f"CREATE SCHEMA {schema}")
    await connection.execute(
        f"CREATE TABLE {schema}.migrations"
        " (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
    )


async def _exists(connection: AnyioConnection[Row], query: str, schema: str) -> bool:
    cursor = await connection.execute(query, (schema,))
    return cursor.rowcount > 0


def schema_sql(schema: str) -> str:
    """What makes the newest schema in an empty database, as `migrate` would leave it."""
    rows = ", ".join(f"({number})" for number in migrations())
    return f"{read_sql('sql/schema.sql', schema)}\nINSERT INTO {schema}.migrations (version) VALUES {rows};\n"
