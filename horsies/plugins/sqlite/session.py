"""The one connection to a database, and the transactions on it.

A file is served by a worker thread, one transaction at a time; a database in memory is served inline, on the event
loop, because nobody else can hold it up. A transaction is never interrupted: it is short, and either commits or not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from horsies.abc import BrokerError, Clock

from .queries import named_queries

R = TypeVar("R")
Row = tuple[Any, ...]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TRANSIENT = {"SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_FULL", "SQLITE_INTERRUPT"}


def micros(at: datetime) -> int:
    """An aware instant as the tables hold it."""
    return (at - _EPOCH) // _MICROSECOND


def instant(value: int | None) -> Any:
    """The aware UTC instant that the tables hold as `value`; None for None."""
    return None if value is None else _EPOCH + timedelta(microseconds=value)


class Transaction:
    """What a transaction function works with: the named queries, and what it will tell the listeners."""

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        self._connection = connection
        self.now = now
        self.queues: set[str] = set()
        self.finished: set[str] = set()

    def run(self, name: str, **parameters: object) -> list[Row]:
        """The rows of a named query."""
        return self._connection.execute(named_queries()[name], parameters).fetchall()

    def change(self, name: str, **parameters: object) -> int:
        """How many rows a named query changed."""
        return self._connection.execute(named_queries()[name], parameters).rowcount


class Session:
    """Runs transactions on one connection; `told` is called with what each committed one has to tell."""

    def __init__(self, path: str, clock: Clock, timeout: float) -> None:
        self.in_memory = path == ":memory:"
        self._path = path
        self._clock = clock
        self._timeout = timeout
        self._limiter = anyio.CapacityLimiter(1)
        self._connection: sqlite3.Connection | None = None
        self.told: Callable[[Iterable[str], Iterable[str]], None] = lambda queues, finished: None

    async def open(self) -> None:
        """Raises: sqlite3.Error: the file cannot be opened."""
        await self._call(self._connect)

    async def close(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._call(self._disconnect)

    async def write(self, what: str, function: Callable[[Transaction], R], now: datetime | None = None) -> R:
        """Run `function` in one transaction that excludes other writers.

        Raises:
            BrokerError: the database refused; `what` names the operation in it.
        """
        transaction, result = await self._guarded(what, partial(self._transact, function, now))
        if transaction.queues or transaction.finished:
            self.told(transaction.queues, transaction.finished)
        return result

    async def read(self, what: str, queries: Iterable[tuple[str, Mapping[str, object]]]) -> list[list[Row]]:
        """The rows of each named query. Raises: BrokerError."""
        return await self._guarded(what, partial(self._query, list(queries)))

    async def data_version(self) -> int:
        """Changes whenever another connection has changed the database. Raises: BrokerError."""

        def version() -> int:
            row: Row = self._opened().execute("PRAGMA data_version").fetchone()
            return int(row[0])

        return await self._guarded("listen", version)

    async def run_script(self, function: Callable[[sqlite3.Connection], None]) -> None:
        """Run `function` on the bare connection, for migrations. Raises: sqlite3.Error."""
        await self._call(lambda: function(self._opened()))

    async def _guarded(self, what: str, function: Callable[[], R]) -> R:
        try:
            return await self._call(function)
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", None)
            transient = name is not None and any(name.startswith(prefix) for prefix in _TRANSIENT)
            raise BrokerError(f"{what}: {name or type(error).__name__}", retryable=transient, code=name) from error

    async def _call(self, function: Callable[[], R]) -> R:
        await anyio.lowlevel.checkpoint()
        if self.in_memory:
            return function()
        return await anyio.to_thread.run_sync(function, limiter=self._limiter)

    def _connect(self) -> None:
        # The event loop's thread, or whichever worker thread has the limiter: never two at once.
        connection = sqlite3.connect(self._path, timeout=self._timeout, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error:
            connection.close()
            raise
        self._connection = connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the database is closed")
        return self._connection

    def _transact(self, function: Callable[[Transaction], R], now: datetime | None) -> tuple[Transaction, R]:
        connection = self._opened()
        connection.execute("BEGIN IMMEDIATE")
        try:
            transaction = Transaction(connection, micros(self._clock() if now is None else now))
            result = function(transaction)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return transaction, result

    def _query(self, queries: list[tuple[str, Mapping[str, object]]]) -> list[list[Row]]:
        connection = self._opened()
        return [connection.execute(named_queries()[name], parameters).fetchall() for name, parameters in queries]
