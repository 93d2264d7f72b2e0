"""Sends inside the application's own transaction, over a connection that is not ours.

Nothing is committed or rolled back here, so a send becomes visible, and is notified, with the caller's commit or never.
An error leaves the transaction aborted, as any failed statement does.

The connection may have any `client_encoding`. Each statement sets it to UTF8 and back again; in an aborted transaction
the rollback does. Arrays go in binary, which no setting of the session reads otherwise.

The call is shielded from cancellation, since a query cut off would leave the caller a connection in an unknown
state, and bounded: after `PATIENCE` seconds the server is asked to cancel the query, and when even that changes nothing
within `GRACE` seconds more the connection's socket is shut down.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from horsies.abc import BrokerError, Enqueued, NewTask

from .database_identity import DatabaseIdentity
from .driver.array_codec import encode_arrays, register_arrays
from .driver.connection import AnyioConnection
from .driver.errors import translated
from .driver.notices import Notices
from .driver.session import Row
from .producer import PostgresProducer

T = TypeVar("T")

PATIENCE = 5.0
GRACE = 2.0
_OURS = "UTF8"

Connection: TypeAlias = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


class CallerProducer:
    """Inserts through `connection`. Raises: ValueError, there is nothing to join."""

    def __init__(self, connection: Any, sql: Mapping[str, str], notices: Notices, identity: DatabaseIdentity) -> None:
        self._joined = Joined(connection, notices, identity)
        self._producer = PostgresProducer(self._joined.fetch, sql)

    async def enqueue(self, tasks: Sequence[NewTask], *, now: datetime | None = None) -> list[Enqueued]:
        """See `horsies.abc.Producer.enqueue`."""
        return await self._joined.run(partial(self._producer.enqueue, tasks, now=now))


class Joined:
    """The caller's `connection`: a sync one in a thread, an async one on the event loop.

    A full NOTIFY queue fails the caller's own commit, which nobody here can repeat. While it is known to be full, these
    statements are quiet like all others.

    Raises:
        ValueError: there is nothing to join.
    """

    def __init__(self, connection: Any, notices: Notices, identity: DatabaseIdentity) -> None:
        self._notices = notices
        self._connection: Connection = _joinable(connection)
        self._identity = identity

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` gives, which runs its statements by `fetch`.

        Raises:
            BrokerError: it failed.
            ValueError: the connection leads elsewhere, or cannot be used here.
        """
        if not self._identity.has(self._connection):
            place = await self._bounded(partial(self._identity.ask, self.fetch))
            await self._identity.require(self._connection, place)
        return await self._bounded(work)

    async def _bounded(self, work: Callable[[], Awaitable[T]]) -> T:
        answer: T | BrokerError | ValueError
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                group.start_soon(self._stop_when_late)
                try:
                    answer = await work()
                except (BrokerError, ValueError) as error:
                    answer = error
                group.cancel_scope.cancel()
        if isinstance(answer, (BrokerError, ValueError)):
            raise answer
        return answer

    async def fetch(self, action: str, query: str, parameters: Mapping[str, object]) -> list[Row]:
        connection, query = self._connection, self._notices.said(query)
        with translated(action, connection):
            parameters = encode_arrays(query, parameters)
            # Cursors of our own, whatever factories the caller has set; unprepared, to leave nothing behind.
            if isinstance(connection, psycopg.AsyncConnection):
                async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
                    register_arrays(cursor.adapters)
                    if former := _encoding_unlike_ours(connection):
                        await cursor.execute(_encode(_OURS))
                    try:
                        await cursor.execute(query, parameters, prepare=False, binary=True)
                        return await cursor.fetchall()
                    finally:
                        if former and connection.info.transaction_status == TransactionStatus.INTRANS:
                            await cursor.execute(_encode(former))
            return await anyio.to_thread.run_sync(
                partial(_fetch_sync, connection, query, parameters), limiter=anyio.CapacityLimiter(1)
            )

    async def _stop_when_late(self) -> None:
        connection = self._connection
        await anyio.sleep(PATIENCE)
        with anyio.move_on_after(GRACE), suppress(psycopg.Error):
            if isinstance(connection, psycopg.AsyncConnection):
                await connection.cancel_safe(timeout=GRACE)
            else:
                await anyio.to_thread.run_sync(
                    partial(connection.cancel_safe, timeout=GRACE),
                    abandon_on_cancel=True,
                    limiter=anyio.CapacityLimiter(1),
                )
        await anyio.sleep(GRACE)
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as peer:
            peer.shutdown(socket.SHUT_RDWR)


def _fetch_sync(connection: psycopg.Connection[Any], query: str, parameters: Mapping[str, object]) -> list[Row]:
    with psycopg.Cursor(connection, row_factory=tuple_row) as cursor:
        register_arrays(cursor.adapters)
        if former := _encoding_unlike_ours(connection):
            cursor.execute(_encode(_OURS))
        try:
            cursor.execute(query, parameters, prepare=False, binary=True)
            return cursor.fetchall()
        finally:
            if former and connection.info.transaction_status == TransactionStatus.INTRANS:
                cursor.execute(_encode(former))


def _encoding_unlike_ours(connection: Connection) -> str | None:
    """The `client_encoding` of `connection`, if names would go wrong in it."""
    encoding = connection.info.parameter_status("client_encoding")
    return None if encoding == _OURS else encoding


def _encode(encoding: str) -> sql.Composed:
    return sql.SQL("SET LOCAL client_encoding TO {}").format(encoding)


def _joinable(connection: Any) -> Connection:
    if not isinstance(connection, (psycopg.Connection, psycopg.AsyncConnection)):
        raise ValueError(
            f"using() got a {type(connection).__name__}, not a psycopg connection with an open transaction; "
            "SQLAlchemy holds one in connection.connection.driver_connection"
        )
    if connection.closed:
        raise ValueError("using() got a connection that is closed")
    if isinstance(connection, psycopg.AsyncConnection) and not isinstance(connection, AnyioConnection) and _is_trio():
        raise ValueError(
            "using() got an async connection of psycopg's own, which works on asyncio only; "
            "take one of Runtime.transaction(), or a sync one"
        )
    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        raise ValueError(
            "using() got a connection in autocommit mode without an open transaction: send inside "
            "`with connection.transaction()`"
        )
    return connection


def _is_trio() -> bool:
    token = anyio.lowlevel.current_token().native_token
    return type(token).__module__.partition(".")[0] == "trio"
