"""Sessions of the hot paths, and the connections that they share: opened when one is needed, and again after it broke.

Plain statements run by themselves (see `statements`). What first takes locks, or runs through a pooler, runs in an
explicit transaction that goes out as one pipeline, so that it too costs one round trip.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

import anyio
import psycopg
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8BinaryDumper

from .arrays import encode_arrays, register_arrays
from .connection import AnyioConnection, connect
from .failures import translated
from .statements import Statements

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
    "default_transaction_isolation": "read committed",
}
"""One plan for each statement, made once and whatever the statistics say: index scans and nested loops.

A generic plan lives as long as its connection. One made while the table was small would keep reading all of it after
it has grown, so the other ways to read are closed; and they being closed by a cost, jit must not take that for a
reason to compile.

The statements are written for READ COMMITTED, whatever the role or the database has for a default: one that waited for
a lock must see what its holder has committed.
"""

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_LOCK = "SELECT pg_advisory_xact_lock(%s)"


@dataclass(frozen=True, slots=True)
class Target:
    """Where sessions connect to, and how long they wait, in seconds.

    `pooled` is for a transaction pooler in between: nothing is prepared, and settings count for one transaction, since
    the next one may run on another server connection. `lock_timeout` bounds one wait for a lock; None: as long as the
    statement may.
    """

    conninfo: str = field(repr=False)
    connect_timeout: float
    statement_timeout: float
    pooled: bool
    lock_timeout: float | None = None


class Connections:
    """Open connections that no session uses now, by target. The one used last is lent first.

    Sessions that are seldom busy at the same time make do with few, and what is sent, claimed and ended one after the
    other meets a server process that has just been at work. There are never more than sessions.
    """

    def __init__(self) -> None:
        self._idle: defaultdict[Target, list[Statements]] = defaultdict(list)
        self._sessions: Counter[Target] = Counter()

    @asynccontextmanager
    async def open_session(self, target: Target) -> AsyncIterator[Session]:
        """A session that is closed with the scope."""
        idle = self._idle[target]
        session = Session(target, idle)
        self._sessions[target] += 1
        try:
            yield session
        finally:
            session.close()
            self._sessions[target] -= 1
            while len(idle) > self._sessions[target]:
                idle.pop(0).connection.finish()


class Session:
    """Runs one statement at a time, each a transaction of its own.

    Args:
        idle: connections to `target` that it may take, and gives back.
    """

    def __init__(self, target: Target, idle: list[Statements]) -> None:
        self._target = target
        self._idle = idle
        self._lock = anyio.Lock(fast_acquire=True)  # what follows waits for the server
        self._used: Statements | None = None

    @property
    def is_free(self) -> bool:
        """Whether nothing runs, so that what is begun now need not wait."""
        return not self._lock.locked()

    async def fetch(
        self, action: str, query: str, parameters: Mapping[str, object], *, locks: Sequence[int] = ()
    ) -> list[Row]:
        """Run `query` and return its rows.

        Args:
            locks: keys of advisory locks, signed 64-bit, held until the transaction ends. They are taken in ascending
                order and by statements of their own, so that `query` sees everything that earlier holders committed.

        Raises:
            BrokerError: it failed, or took longer than the statement timeout.
        """
        async with self._lock:
            with translated(action):
                self._used = statements = await self._take()
                timeout = self._target.statement_timeout + _GRACE
                try:
                    if not (locks or self._target.pooled):
                        return await statements.fetch(query, parameters, timeout=timeout)
                    with anyio.fail_after(timeout):
                        parameters = encode_arrays(query, parameters)
                        return await self._fetch_in_transaction(
                            statements.connection, query, parameters, sorted(set(locks))
                        )
                finally:
                    self._give_back(statements)

    @asynccontextmanager
    async def transaction(self, action: str, *, lock_wait: str | None = None) -> AsyncIterator[Fetch]:
        """What runs statements in one transaction, committed at the end of the block, rolled back when it raises.

        Args:
            lock_wait: how long one statement waits for a lock, as Postgres writes it; default: as the session does.

        Raises:
            BrokerError: it failed, or took longer than the statement timeout.
        """
        async with self._lock:
            with translated(action):
                self._used = statements = await self._take()
                connection = statements.connection

                async def fetch(_: str, query: str, parameters: Mapping[str, object]) -> list[Row]:
                    if not self._target.pooled:
                        return await statements.fetch(query, parameters)
                    cursor = await connection.execute(query, encode_arrays(query, parameters), binary=True)
                    return await cursor.fetchall()

                try:
                    with anyio.fail_after(self._target.statement_timeout + _GRACE):
                        settings = "" if lock_wait is None else f"; SET LOCAL lock_timeout = '{lock_wait}'"
                        await statements.command(f"{_BEGIN}{settings}".encode())
                        if self._target.pooled:
                            await _configure(connection, self._target, local=True)
                        yield fetch
                        await statements.command(b"COMMIT")
                finally:
                    await self._leave(statements)

    async def _leave(self, statements: Statements) -> None:
        """Roll back what is open, or close the connection where that cannot be done."""
        connection = statements.connection
        open_ended = (TransactionStatus.INERROR, TransactionStatus.INTRANS)
        if not connection.closed and connection.info.transaction_status in open_ended:
            with anyio.move_on_after(_GRACE, shield=True), suppress(psycopg.Error):
                await statements.command(b"ROLLBACK")
        self._give_back(statements)

    async def _fetch_in_transaction(
        self, connection: AnyioConnection[Row], query: str, parameters: Mapping[str, object], locks: Sequence[int]
    ) -> list[Row]:
        try:
            async with connection.pipeline():
                await connection.execute(_BEGIN, prepare=False)
                if self._target.pooled:
                    await _configure(connection, self._target, local=True)
                for key in locks:
                    await connection.execute(_LOCK, (key,))
                cursor = await connection.execute(query, parameters, binary=True)
                await connection.execute("COMMIT", prepare=False)
            return await cursor.fetchall()
        except BaseException:
            if connection.info.transaction_status in (TransactionStatus.INERROR, TransactionStatus.INTRANS):
                with anyio.move_on_after(_GRACE, shield=True), suppress(psycopg.Error):
                    await connection.rollback()
            raise

    async def _take(self) -> Statements:
        if not self._idle:
            return Statements(await connect_hot(self._target))
        return self._idle.pop()

    def _give_back(self, statements: Statements) -> None:
        """Leave a connection to the next; one that cannot be used is closed, and with it those that are idle.

        Mostly the server has closed them all, and each would fail a statement of its own.
        """
        self._used = None
        if statements.connection.pgconn.transaction_status == TransactionStatus.IDLE:
            self._idle.append(statements)
            return
        for broken in (statements, *self._idle):
            broken.connection.finish()
        self._idle.clear()

    def close(self) -> None:
        """Close what is in use, without waiting for the server's answer."""
        if self._used is not None:
            self._used.connection.finish()


async def connect_hot(target: Target) -> AnyioConnection[Row]:
    """A connection with everything set that a hot path relies on."""
    connection = await connect(
        target.conninfo, timeout=target.connect_timeout, prepare_threshold=None if target.pooled else 0
    )
    # An int would otherwise take its type from its size, and be another statement each time.
    connection.adapters.register_dumper(int, Int8BinaryDumper)
    register_arrays(connection.adapters)
    if target.pooled:
        return connection
    try:
        with anyio.fail_after(target.statement_timeout + _GRACE):
            await _configure(connection, target, local=False)
    except BaseException:
        connection.finish()
        raise
    return connection


async def _configure(connection: AnyioConnection[Row], target: Target, *, local: bool) -> None:
    """Set what every statement relies on, for the session or with `local` for the open transaction."""
    settings = {**_SETTINGS, "statement_timeout": _milliseconds(target.statement_timeout)}
    if target.lock_timeout is not None:
        settings["lock_timeout"] = _milliseconds(target.lock_timeout)
    await connection.execute(
        "SELECT count(set_config(name, value, %s)) FROM unnest(%s::text[], %s::text[]) AS s (name, value)",
        (local, list(settings), list(settings.values())),
    )


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


def in_utc(instant: datetime | None) -> datetime | None:
    """`instant` in UTC, whatever time zone its connection shows."""
    return None if instant is None else instant.astimezone(UTC)
