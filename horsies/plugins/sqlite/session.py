"""One connection, on which every call is one transaction.

A file is used from one worker thread at a time, so that waiting for the disk or for another process's lock stops
nobody; a transaction that has begun there runs to its end, since it is short and its outcome must be known. A database
in memory is used on the loop's own thread: there is nothing to wait for, and what runs there runs in a known order.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from random import getrandbits
from typing import Any, TypeAlias, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from horsies.abc import Clock, Topic

from .errors import is_busy, translated
from .schema import migrate
from .url import MEMORY

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]
Notices: TypeAlias = dict[tuple[Topic, str], None]
"""What to tell whom once the transaction has committed: a set in the order of insertion."""

_LOCK_WAIT = 0.25
"""Seconds one try waits for another process's lock: for so long a call cannot be cancelled."""
_CLOSING = 5.0

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LATEST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


def microseconds(instant: datetime) -> int:
    """An instant as it is stored: microseconds since 1970 in UTC."""
    return (instant - _EPOCH) // _MICROSECOND


def instant(stored: int) -> datetime:
    """The instant that `microseconds` made `stored` from."""
    return _EPOCH + stored * _MICROSECOND


def in_utc(stored: int | None) -> datetime | None:
    """The instant of `stored`, if there is one."""
    return None if stored is None else instant(stored)


def after(now: int, seconds: float) -> int:
    """`seconds` after `now`, as far as a datetime reaches."""
    return min(now + round(min(seconds, _LATEST / 1e6) * 1e6), _LATEST)


class Transaction:
    """What the function of one transaction works with.

    `now` is its one instant, in microseconds. The function may run again after a rollback: it changes nothing outside.
    """

    __slots__ = ("_connection", "notices", "now")

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        self._connection = connection
        self.now = now
        self.notices: Notices = {}

    def fetch(self, query: str, parameters: Mapping[str, object]) -> list[Row]:
        """Run one statement and return its rows."""
        return self._connection.execute(query, parameters).fetchall()

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A part that, when it fails, is undone by itself, its notices too."""
        notices = dict(self.notices)
        self._connection.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK TO part")
            self.notices = notices
            raise
        finally:
            self._connection.execute("RELEASE part")

    def notify(self, topic: Topic, name: str) -> None:
        """Tell the listeners of `topic`, if and when this transaction commits."""
        self.notices[topic, name] = None


class Session:
    """Runs one transaction after the other.

    Args:
        connection: in autocommit mode, so that BEGIN is written here and nowhere else.
        clock: what the time is, in microseconds.
        patience: seconds to wait for another process's lock before a call fails.
        publish: is handed the notices of each commit.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        inline: bool,
        clock: Callable[[], int],
        patience: float,
        publish: Callable[[Notices], None],
    ) -> None:
        self._connection = connection
        self._thread = None if inline else anyio.CapacityLimiter(1)
        self._clock = clock
        self._patience = patience
        self._publish = publish

    @property
    def is_shared(self) -> bool:
        """Whether others can write to the database."""
        return self._thread is not None

    def random_step(self) -> int:
        """How much a claim number grows: at random in a file, of which an older copy may come back."""
        return 1 if self._thread is None else 1 + getrandbits(31)

    async def write(self, action: str, work: Callable[[Transaction], T], *, now: datetime | None = None) -> T:
        """Run `work` in a transaction that holds the write lock from its beginning.

        Raises:
            BrokerError: it failed, and nothing was written.
        """
        return await self._transact(action, "BEGIN IMMEDIATE", work, now)

    async def read(self, action: str, work: Callable[[Transaction], T], *, now: datetime | None = None) -> T:
        """Run `work` on a snapshot, waiting for nobody.

        Raises:
            BrokerError: it failed.
        """
        return await self._transact(action, "BEGIN", work, now)

    async def data_version(self) -> int:
        """A number that changes whenever somebody else's connection has committed."""
        with translated("listen"):
            ((version,),) = await _call(self._thread, self._connection.execute("PRAGMA data_version").fetchall)
        return int(version)

    async def close(self) -> None:
        """Close the connection; it may not be used again."""
        with anyio.move_on_after(_CLOSING, shield=True):
            await _call(self._thread, self._connection.close)

    async def _transact(self, action: str, begin: str, work: Callable[[Transaction], T], now: datetime | None) -> T:
        given = None if now is None else microseconds(now)
        with translated(action):
            result, notices = await _patiently(self._thread, self._patience, partial(self._run, begin, work, given))
        self._publish(notices)
        return result

    def _run(self, begin: str, work: Callable[[Transaction], T], now: int | None) -> tuple[T, Notices]:
        self._connection.execute(begin)
        try:
            # The clock is read under the lock, so that instants follow the order of the commits.
            transaction = Transaction(self._connection, self._clock() if now is None else now)
            result = work(transaction)
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.rollback()
            raise
        return result, transaction.notices


@asynccontextmanager
async def open_session(
    path: str, *, clock: Clock, timeout: float, patience: float, publish: Callable[[Notices], None]
) -> AsyncIterator[Session]:
    """A session on an up-to-date database, closed with the scope.

    Args:
        clock: what the time is, for a database in memory; one in a file goes by the machine's.
        timeout: seconds to wait for another process's lock while opening.
        patience: the same for each call afterwards.

    Raises:
        HorsiesError: HRS-218.
        sqlite3.Error: the file cannot be opened.
    """
    inline = path == MEMORY
    thread = None if inline else anyio.CapacityLimiter(1)
    connection = await _patiently(thread, timeout, partial(_connect, path))
    session = Session(
        connection,
        inline=inline,
        clock=(lambda: microseconds(clock())) if inline else _machine_clock,
        patience=patience,
        publish=publish,
    )
    try:
        yield session
    finally:
        await session.close()


def _connect(path: str) -> sqlite3.Connection:
    # Worker threads take turns, one at a time; isolation_level=None is sqlite3's word for autocommit.
    connection = sqlite3.connect(path, timeout=_LOCK_WAIT, isolation_level=None, check_same_thread=False)
    try:
        # Text that is no UTF-8 must not make the whole answer unreadable.
        connection.text_factory = partial(str, encoding="utf-8", errors="replace")
        # In WAL mode readers and the writer do not wait for each other; each commit reaches the disk all the same.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _machine_clock() -> int:
    return time.time_ns() // 1000


async def _patiently(thread: anyio.CapacityLimiter | None, patience: float, function: Callable[[], T]) -> T:
    """Call `function` until it gets the lock it needs; each try waits a little, and between them is a checkpoint."""
    until = anyio.current_time() + patience
    while True:
        try:
            return await _call(thread, function)
        except sqlite3.OperationalError as error:
            if not is_busy(error) or anyio.current_time() >= until:
                raise


async def _call(thread: anyio.CapacityLimiter | None, function: Callable[[], T]) -> T:
    """Call `function` inline or in a thread. A checkpoint before it has begun, and none afterwards."""
    if thread is None:
        await anyio.lowlevel.checkpoint()
        return function()
    return await anyio.to_thread.run_sync(function, limiter=thread)
