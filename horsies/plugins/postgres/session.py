"""A connection of its own for one hot path: opened at first use, opened again after it broke."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import anyio
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8BinaryDumper

from .connection import AnyioConnection, connect
from .failures import translated

Row: TypeAlias = tuple[Any, ...]
Fetch: TypeAlias = Callable[[str, str, Mapping[str, object]], Awaitable[list[Row]]]
"""Runs one statement: what for (in words), the query, its parameters."""

_GRACE = 2.0

_SETTINGS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "TimeZone": "UTC",
}
"""One plan for each statement, made once and whatever the statistics say: index scans and nested loops.

A generic plan lives as long as its connection. One made while the table was small would keep reading all of it after
it has grown, so the other ways to read are closed; and they being closed by a cost, jit must not take that for a
reason to compile.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """Where sessions connect to, and how long they wait, in seconds.

    `pooled` is for a transaction pooler in between: nothing is prepared and nothing set, since the next transaction
    may run on another server connection. `lock_timeout` bounds one wait for a lock; None: as long as the statement may.
    """

    conninfo: str
    connect_timeout: float
    statement_timeout: float
    pooled: bool
    lock_timeout: float | None = None


class Session:
    """Runs one statement at a time, each a transaction of its own."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lock = anyio.Lock()
        self._connection: AnyioConnection[Row] | None = None

    async def fetch(self, action: str, query: str, parameters: Mapping[str, object]) -> list[Row]:
        """Run `query` and return its rows.

        Raises:
            BrokerError: it failed, or took longer than the statement timeout.
        """
        async with self._lock:
            with translated(action):
                connection = await self._open()
                try:
                    with anyio.fail_after(self._target.statement_timeout + _GRACE):
                        cursor = await connection.execute(query, parameters, binary=True)
                        return await cursor.fetchall()
                finally:
                    if connection.closed or connection.info.transaction_status != TransactionStatus.IDLE:
                        connection.finish()
                        self._connection = None

    def close(self) -> None:
        """Close the connection, without waiting for the server's answer."""
        if self._connection is not None:
            self._connection.finish()
            self._connection = None

    async def _open(self) -> AnyioConnection[Row]:
        if self._connection is None:
            self._connection = await connect_hot(self._target)
        return self._connection


async def connect_hot(target: Target) -> AnyioConnection[Row]:
    """A connection with everything set that a hot path relies on."""
    connection = await connect(
        target.conninfo, timeout=target.connect_timeout, prepare_threshold=None if target.pooled else 0
    )
    # An array of ints would otherwise take its type from the largest one, and be another statement each time.
    connection.adapters.register_dumper(int, Int8BinaryDumper)
    if target.pooled:
        return connection
    settings = {**_SETTINGS, "statement_timeout": _milliseconds(target.statement_timeout)}
    if target.lock_timeout is not None:
        settings["lock_timeout"] = _milliseconds(target.lock_timeout)
    try:
        with anyio.fail_after(target.statement_timeout + _GRACE):
            await connection.execute(
                "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS s (name, value)",
                (list(settings), list(settings.values())),
            )
    except BaseException:
        connection.finish()
        raise
    return connection


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


def in_utc(instant: datetime | None) -> datetime | None:
    """`instant` in UTC, whatever time zone its connection shows."""
    return None if instant is None else instant.astimezone(UTC)


@asynccontextmanager
async def open_session(target: Target) -> AsyncIterator[Session]:
    """A session that is closed with the scope."""
    session = Session(target)
    try:
        yield session
    finally:
        session.close()
