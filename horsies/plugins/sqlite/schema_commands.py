"""The database from outside of a runtime: its migrations printed, and looked at."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

import anyio.to_thread

from horsies import AppConfig, HorsiesError
from horsies.abc import SchemaState

from .schema import state_of, upgrade_sql, version_of
from .url import MEMORY, database_path, describe

T = TypeVar("T")


async def upgrade_script(config: AppConfig) -> str:
    """See `horsies.abc.Migrating.upgrade_sql`."""
    return await _looked(config, lambda connection: upgrade_sql(version_of(connection)))


async def schema_state(config: AppConfig) -> SchemaState:
    """See `horsies.abc.Migrating.schema_state`."""
    return await _looked(config, state_of)


async def _looked(config: AppConfig, look: Callable[[sqlite3.Connection], T]) -> T:
    """What `look` sees, in a thread; an empty database if there is no file, which is not made."""
    path = database_path(config.url)

    def call() -> T:
        there = path != MEMORY and os.path.exists(path)
        with closing(sqlite3.connect(path if there else MEMORY, timeout=config.pool.timeout)) as connection:
            return look(connection)

    try:
        return await anyio.to_thread.run_sync(call, limiter=anyio.CapacityLimiter(1))
    except sqlite3.Error as error:
        raise HorsiesError("HRS-211", f"cannot use the database: {describe(path)}: {error}") from None
