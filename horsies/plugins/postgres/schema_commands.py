"""The schema from outside of a runtime: brought up to date, printed, looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psycopg

from horsies import AppConfig, HorsiesError
from horsies.abc import SchemaState

from .driver.connection import AnyioConnection
from .driver.errors import broker_error
from .driver.plain_connection import connect_plain, require_encoding
from .driver.session import Row
from .driver.url import describe, require_conninfo, require_text
from .queries import quoted
from .schema import migrations, newest_version, schema_sql, upgrade_sql, version_of, versions_of
from .upgrade import Progress, migrate

PATIENCE = 60.0
"""Seconds that one step waits for the transactions of others, before a person is asked to end them."""

_UNVALIDATED = """
SELECT conname, relname FROM pg_catalog.pg_constraint AS c JOIN pg_catalog.pg_class AS t ON t.oid = c.conrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = t.relnamespace WHERE nspname = %s AND NOT convalidated ORDER BY 1
"""
_INVALID = """
SELECT relname FROM pg_catalog.pg_index JOIN pg_catalog.pg_class AS c ON c.oid = indexrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = relnamespace WHERE nspname = %s AND NOT indisvalid ORDER BY 1
"""


async def migrate_database(config: AppConfig, tell: Callable[[str], object]) -> None:
    """See `horsies.abc.Migrating.migrate`."""
    async with _connected(config) as connection:
        await migrate(connection, config, Progress(tell, patience=PATIENCE))


async def upgrade_script(config: AppConfig, tell: Callable[[str], object]) -> str:
    """See `horsies.abc.Migrating.upgrade_sql`."""
    try:
        async with _connected(config) as connection:
            return upgrade_sql(config.schema, await version_of(connection, config.schema))
    except HorsiesError as error:
        if error.code != "HRS-211":
            raise
        tell(f"{error}\nthe statements are those for an empty database; they change nothing in another one")
        return schema_sql(config.schema)


async def schema_state(config: AppConfig) -> SchemaState:
    """See `horsies.abc.Migrating.schema_state`."""
    schema = config.schema
    async with _connected(config) as connection:
        version, readable_from = await versions_of(connection, schema)
        unvalidated = await (await connection.execute(_UNVALIDATED, (schema,))).fetchall()
        invalid = await (await connection.execute(_INVALID, (schema,))).fetchall()
    return SchemaState(
        version=version,
        newest=newest_version(),
        readable_from=readable_from,
        missing=tuple(name for number, name in migrations().items() if number > version),
        problems=(
            *(
                f"constraint {name} holds for new rows of {table} only: mend the rows that break it, then "
                f"ALTER TABLE {quoted(schema)}.{table} VALIDATE CONSTRAINT {name}"
                for name, table in unvalidated
            ),
            *(
                f"index {name} is invalid and used by no query: REINDEX INDEX CONCURRENTLY {quoted(schema)}.{name}"
                for (name,) in invalid
            ),
        ),
    )


@asynccontextmanager
async def _connected(config: AppConfig) -> AsyncIterator[AnyioConnection[Row]]:
    require_text("url", config.url)
    require_conninfo("url", config.url)
    try:
        connection = await connect_plain(config.url, timeout=config.pool.timeout)
        try:
            await require_encoding(connection, config)
            yield connection
        finally:
            connection.finish()
    except (psycopg.Error, OSError, UnicodeError) as error:
        cause = str(error)
        if isinstance(error, psycopg.Error):
            cause = broker_error("the database failed", error).message
        elif isinstance(error, UnicodeError):
            cause = "its host is not a name that can be looked up"
        raise HorsiesError("HRS-211", f"cannot use the database: {describe(config.url)}: {cause}") from None
