"""Sessions of the hot paths, and the connections that they share: opened when one is needed, and again after it broke.

Plain statements run by themselves (see `statements`). What first takes locks, or runs through a pooler, runs in an
explicit transaction that goes out as one pipeline, so that it too costs one round trip.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeAlias, TypeVar

import anyio
import psycopg
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8BinaryDumper

from .array_codec import encode_arrays, register_arrays
from .connection import AnyioConnection, connect
from .errors import FullNotifyQueueError, translated
from .lending import Lending
from .notices import Notices
from .prepared import Statements
from .settings import limited, set_up
from .sharing import Sharing

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]
Fetch: TypeAlias = Callable[[str, str, Mapping[str, object]], Awaitable[list[Row]]]
"""Runs one statement: what for (in words), the query, its parameters."""

_GRACE = 2.0

_PLANS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_indexscan": "on",
    "enable_indexonlyscan": "on",
    "enable_nestloop": "on",
    "enable_sort": "on",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
"""One plan for each statement, made once and whatever the statistics say: index scans and nested loops.

A generic plan lives as long as its connection. One made while the table was small would keep reading all of it after
it has grown, so the other ways to read are closed; and they being closed by a cost, jit must not take that for a
reason to compile.
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
    """The sessions of one broker, and the connections that they share.

    Sessions that are seldom busy at the same time make do with few, and what is sent, claimed and ended one after the
    other meets a server process that has just been at work. There are never more than sessions.
    """

    def __init__(self, sharing: Sharing | None = None, notices: Notices | None = None) -> None:
        self.lending: Lending[Target] = Lending(sharing or Sharing(), _open, _adapt)
        self._notices = notices or Notices()
        self._sessions: Counter[Target] = Counter()

    async def reserve(self, target: Target) -> None:
        """Open the first connection, before others take what there may be. Whoever needs one later opens it else."""
        with suppress(psycopg.Error, TimeoutError, OSError):
            statements = await self.lending.take(target, patience=target.statement_timeout)
            self.lending.give_back(statements, usable=True)

    @asynccontextmanager
    async def open_session(self, target: Target) -> AsyncIterator[Session]:
        """A session that is closed with the scope."""
        session = Session(target, self.lending, self._notices)
        self._sessions[target] += 1
        try:
            yield session
        finally:
            session.close()
            self._sessions[target] -= 1
            self.lending.trim(target, self._sessions[target])


async def _open(target: Target) -> Statements:
    return Statements(await connect_hot(target))


async def _adapt(statements: Statements, target: Target) -> None:
    """Set up an open connection for `target`; through a pooler each transaction does so for itself."""
    if not target.pooled:
        with anyio.fail_after(target.statement_timeout + _GRACE):
            await set_up(statements.connection, _settings(target))


class Session:
    """Runs one statement at a time, each a transaction of its own.

    Args:
        lending: where it takes a connection for each call, and gives it back.
    """

    def __init__(self, target: Target, lending: Lending[Target], notices: Notices) -> None:
        self._target = target
        self._lending = lending
        self._notices = notices
        self._lock = anyio.Lock(fast_acquire=True)  # what follows waits for the server
        self._used: Statements | None = None

    @property
    def is_free(self) -> bool:
        """Whether nothing runs, so that what is begun now need not wait."""
        return not self._lock.locked()

    async def fetch(
        self,
        action: str,
        query: str,
        parameters: Mapping[str, object],
        *,
        locks: Sequence[int] = (),
        timeout: float | None = None,
    ) -> list[Row]:
        """Run `query` and return its rows.

        Args:
            locks: keys of advisory locks, signed 64-bit, held until the transaction ends. They are taken in ascending
                order and by statements of their own, so that `query` sees everything that earlier holders committed.
            timeout: seconds to wait for the answer, if less than the statement timeout.

        Raises:
            BrokerError: it failed, or took longer than `timeout` or the statement timeout.
        """
        async with self._lock:
            try:
                return await self._fetch(action, query, parameters, locks, timeout)
            except FullNotifyQueueError as refusal:
                again = partial(self._fetch, action, query, parameters, locks, timeout)
                return await self._notices.repeat(refusal, again, self._fetch)

    async def _fetch(
        self,
        action: str,
        query: str,
        parameters: Mapping[str, object],
        locks: Sequence[int] = (),
        timeout: float | None = None,
    ) -> list[Row]:
        with translated(action):
            self._used = statements = await self._take()
        query = self._notices.said(query)
        timeout = min(self._target.statement_timeout + _GRACE, math.inf if timeout is None else timeout)
        try:
            with translated(action, statements.connection), _closing_unless_idle(statements.connection):
                if not (locks or self._target.pooled):
                    return await statements.fetch(query, parameters, timeout=timeout)
                with anyio.fail_after(timeout):
                    parameters = encode_arrays(query, parameters)
                    return await self._fetch_in_transaction(
                        statements.connection, query, parameters, sorted(set(locks))
                    )
        finally:
            self._give_back(statements)

    async def transact(self, action: str, work: Callable[[Fetch], Awaitable[T]], *, lock_wait: str | None = None) -> T:
        """What `work` gives, which runs its statements in one transaction, and may have to do it twice.

        Args:
            lock_wait: how long one statement waits for a lock, as Postgres writes it; default: as the session does.

        Raises:
            BrokerError: it failed, or took longer than the statement timeout.
        """

        async def run() -> T:
            async with self.transaction(action, lock_wait=lock_wait) as fetch:
                return await work(fetch)

        try:
            return await run()
        except FullNotifyQueueError as refusal:
            return await self._notices.repeat(refusal, run, self.fetch)

    @asynccontextmanager
    async def transaction(self, action: str, *, lock_wait: str | None = None) -> AsyncIterator[Fetch]:
        """What runs statements in one transaction, committed at the end of the block, rolled back when it raises.

        A block cannot be repeated, so a full NOTIFY queue fails it: see `transact`.
        """
        async with self._lock:
            with translated(action):
                self._used = statements = await self._take()
            connection = statements.connection

            async def fetch(_: str, query: str, parameters: Mapping[str, object]) -> list[Row]:
                query = self._notices.said(query)
                if not self._target.pooled:
                    return await statements.fetch(query, parameters)
                cursor = await connection.execute(query, encode_arrays(query, parameters), binary=True)
                return await cursor.fetchall() if cursor.description else []

            try:
                with translated(action, connection), _closing_unless_idle(connection):
                    try:
                        with anyio.fail_after(self._target.statement_timeout + _GRACE):
                            waits = lock_wait is not None and not self._target.pooled
                            begin = f"{_BEGIN}; SET LOCAL lock_timeout = '{lock_wait}'" if waits else _BEGIN
                            await statements.command(begin.encode())
                            if self._target.pooled:
                                chosen = {} if lock_wait is None else {"lock_timeout": lock_wait}
                                await set_up(connection, _settings(self._target) | chosen, local=True)
                            yield fetch
                            await statements.command(b"COMMIT")
                    finally:
                        await _roll_back(statements)
            finally:
                self._give_back(statements)

    async def _fetch_in_transaction(
        self, connection: AnyioConnection[Row], query: str, parameters: Mapping[str, object], locks: Sequence[int]
    ) -> list[Row]:
        settings = _settings(self._target) if self._target.pooled else None
        cursor = connection.cursor(binary=True)
        return await fetch_in_transaction(connection, cursor, query, parameters, settings=settings, locks=locks)

    async def _take(self) -> Statements:
        return await self._lending.take(self._target, patience=self._target.statement_timeout)

    def _give_back(self, statements: Statements) -> None:
        """Leave a connection to the next, unless it is broken, or leads to a server that only reads at the moment."""
        self._used = None
        connection = statements.connection
        is_idle = connection.pgconn.transaction_status == TransactionStatus.IDLE
        self._lending.give_back(statements, usable=is_idle and (self._target.pooled or not connection.only_reads))

    def close(self) -> None:
        """Close what is in use, without waiting for the server's answer."""
        if self._used is not None:
            self._used.connection.finish()


async def _roll_back(statements: Statements) -> None:
    """End the transaction that is open, if one is."""
    connection = statements.connection
    open_ended = (TransactionStatus.INERROR, TransactionStatus.INTRANS)
    if not connection.closed and connection.info.transaction_status in open_ended:
        with anyio.move_on_after(_GRACE, shield=True), suppress(psycopg.Error):
            await statements.command(b"ROLLBACK")


@contextmanager
def _closing_unless_idle(connection: AnyioConnection[Row]) -> Iterator[None]:
    """Close a connection that cannot be used again, before it is asked whether an error has closed it."""
    try:
        yield
    finally:
        if connection.pgconn.transaction_status != TransactionStatus.IDLE:
            connection.finish()


async def fetch_in_transaction(
    connection: AnyioConnection[Row],
    cursor: psycopg.AsyncCursor[Row],
    query: str,
    parameters: Mapping[str, object],
    *,
    settings: Mapping[str, str] | None,
    locks: Sequence[int] = (),
) -> list[Row]:
    """The rows of `query`, run with `settings` and under `locks` in a transaction that costs one round trip.

    Args:
        cursor: of `connection`; it runs `query`.
    """
    try:
        async with connection.pipeline():
            await connection.execute(_BEGIN, prepare=False)
            if settings is not None:
                await set_up(connection, settings, local=True)
            for key in locks:
                await connection.execute(_LOCK, (key,))
            await cursor.execute(query, parameters)
            await connection.execute("COMMIT", prepare=False)
        return await cursor.fetchall()
    except BaseException:
        if connection.info.transaction_status in (TransactionStatus.INERROR, TransactionStatus.INTRANS):
            with anyio.move_on_after(_GRACE, shield=True), suppress(psycopg.Error):
                await connection.rollback()
        raise


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
            await set_up(connection, _settings(target))
    except BaseException:
        connection.finish()
        raise
    return connection


def _settings(target: Target) -> dict[str, str]:
    """What every statement to `target` relies on."""
    return limited(target.statement_timeout, lock=target.lock_timeout, grace=_GRACE) | _PLANS


def in_utc(instant: datetime | None) -> datetime | None:
    """`instant` in UTC, whatever time zone its connection shows."""
    return None if instant is None else instant.astimezone(UTC)
