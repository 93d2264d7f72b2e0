"""Connections for short borrows, on whichever event loop runs.

psycopg_pool's threaded pool keeps their life cycle: how many there are, opening, replacing, ageing. It hands out
synchronous connections; each carries the `AnyioConnection` made for it once, and only that one ever runs SQL. So the
pool's own checks stay off: they would block the event loop's thread, and both kinds of connection number their prepared
statements alike.

What goes back is what a borrower may expect to get: idle, no open block, no LISTEN, settings untouched. Anything else
is closed, and the pool opens another. What SET or a temporary table leave in a session is not seen: undo it yourself.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import monotonic, sleep
from typing import Any, Self

import anyio
import anyio.to_thread
import psycopg
import psycopg_pool
from psycopg.rows import TupleRow, tuple_row

from .connection import (
    ABANDONED,
    AnyioConnection,
    SyncConnection,
    adopt,
    is_quiet,
    made_in_thread,
    only_reads,
    wanted_while,
)
from .settings import set_up, undo
from .sharing import ROOM, ROOM_PAUSE, Sharing, is_full
from .url import connect_parameters, destination, time_to_connect

_AT_ONCE = 0.001
"""Seconds; psycopg_pool answers a timeout of 0 with a failure even when a connection lies there."""
_ROUND = 0.2
"""Seconds of one wait in a thread. Each round lets the pool grow anew, and notices a borrower who has left."""
_RECONNECT = 1.0
"""Seconds that the pool tries to replace a connection by itself. Left longer, it would back off for minutes; a borrower
who waits makes it try again every round."""
_CLOSING = 5.0


# psycopg_pool warns of every failure to connect, and an attempt given up because the pool closes is none.
logging.getLogger("psycopg.pool").addFilter(lambda record: ABANDONED not in record.getMessage())


class _Pooled(SyncConnection):
    """What psycopg_pool keeps, with the connection that is lent in its place."""

    lent: AnyioConnection[TupleRow] | None = None
    names: list[str] | None = None
    """The settings that it was set up with; None while it has those of its role."""


class ConnectionPool(anyio.AsyncContextManagerMixin):
    """At most `max_size` connections, lent one at a time, first come first served.

    Entering does not wait for the database; the first borrower does.

    Args:
        conninfo: anything libpq reads.
        min_size: connections kept open.
        max_size: the most there can be.
        timeout: seconds a borrower waits.
        configure: awaited once with every new connection before it is first lent.
        settings: for statements of our own; None leaves those of the role.
        pooled: a transaction pooler lends the sessions, so that settings are left to each transaction.
        prepare_threshold: as in psycopg; None prepares nothing, for transaction poolers.
        sharing: the parts beside this one that hold connections.

    Raises:
        psycopg.ProgrammingError: `conninfo` cannot be read.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        min_size: int,
        max_size: int,
        timeout: float,
        configure: Callable[[AnyioConnection[TupleRow]], Awaitable[object]] | None = None,
        settings: Mapping[str, str] | None = None,
        pooled: bool = False,
        prepare_threshold: int | None = 5,
        sharing: Sharing | None = None,
    ) -> None:
        self._parameters = connect_parameters(conninfo, timeout)
        self._sizes = (min_size, max_size)
        self._timeout = time_to_connect(self._parameters, timeout)
        self._configure = configure
        self._settings = settings
        self._is_pooled = pooled
        self._prepare_threshold = prepare_threshold
        self._sharing = sharing or Sharing()
        self._refusal: str | None = None
        self._borrowers = 0
        self._hollow: list[_Pooled] = []
        self._closing = False

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncIterator[ConnectionPool]:
        min_size, max_size = self._sizes
        self._turns = anyio.Semaphore(max_size, fast_acquire=True)
        self._pool: psycopg_pool.ConnectionPool[_Pooled] = psycopg_pool.ConnectionPool(
            connection_class=self._connection_class(),
            kwargs={**self._parameters, "patience": self._timeout, "autocommit": True},
            min_size=min_size,
            max_size=max_size,
            timeout=self._timeout,
            reconnect_timeout=_RECONNECT,
            num_workers=1,
            name="horsies",
            open=False,
        )
        self._pool.open()
        self._sharing.add(self)
        try:
            yield self
        finally:
            self._closing = True
            with anyio.move_on_after(_CLOSING, shield=True):
                await anyio.to_thread.run_sync(
                    partial(self._pool.close, timeout=_CLOSING / 2),  # which it grants to two threads in turn
                    abandon_on_cancel=True,
                    limiter=anyio.CapacityLimiter(1),
                )

    def _connection_class(self) -> type[_Pooled]:
        """A class whose failures to connect this pool hears of; psycopg_pool would only log them."""
        pool = self

        class Pooled(_Pooled):
            @classmethod
            def connect(cls, *args: Any, **kwargs: Any) -> Self:
                connect = super().connect
                give_up_at, pause = monotonic() + ROOM, ROOM_PAUSE
                with wanted_while(lambda: not pool._closing):
                    while True:
                        try:
                            connection = connect(*args, **kwargs)
                        except psycopg.Error as exc:
                            pool._refusal = " ".join(str(exc).split())
                            # A borrower who waits sees to it that another part gives one up.
                            if not (is_full(exc) and pool._borrowers and monotonic() < give_up_at):
                                raise
                            sleep(pause)
                            pause *= 2
                        else:
                            pool._refusal = None
                            return connection

        return Pooled

    @asynccontextmanager
    async def connection(self, *, as_is: bool = False) -> AsyncIterator[AnyioConnection[TupleRow]]:
        """Borrow a connection, in autocommit, for the length of the block.

        Args:
            as_is: with the settings of its role, for statements that are not ours.

        Raises:
            psycopg_pool.PoolTimeout: none was free or could be opened in time; the message says which.
        """
        pooled, lent = await self._borrow(as_is)
        try:
            yield lent
        finally:
            self._give_back(pooled)
            self._turns.release()

    async def _borrow(self, as_is: bool) -> tuple[_Pooled, AnyioConnection[TupleRow]]:
        deadline = monotonic() + self._timeout
        in_turn = False
        with anyio.move_on_after(self._timeout):
            await self._turns.acquire()
            in_turn = True
            try:
                pooled = await self._take(deadline)
                try:
                    lent = await self._lend(pooled)
                    await self._set_up(pooled, lent, as_is)
                    return pooled, lent
                except BaseException:
                    self._give_back(pooled)
                    raise
            except psycopg_pool.PoolTimeout:
                self._turns.release()
            except BaseException:
                self._turns.release()
                raise
        if in_turn:
            why = self._refusal or "the database did not answer"
        else:
            why = (
                "all were lent the whole time, as to rt.transaction(), which keeps one to its end; lend them for "
                "shorter, or raise pool.max_size"
            )
        raise psycopg_pool.PoolTimeout(
            f"no connection to {destination(self._parameters)} within {self._timeout:g} s: {why}"
        )

    async def _take(self, deadline: float) -> _Pooled:
        """A connection that the server has not closed meanwhile."""
        refused = 0
        while True:
            try:
                pooled = self._pool.getconn(timeout=_AT_ONCE)
            except psycopg_pool.PoolTimeout:
                found = await self._wait(deadline)
                if found is None:
                    self._sharing.make_room(self)
                    continue
                pooled, refused = found, self._sizes[1]  # it is new: where the next one leads, this one leads
            if is_quiet(pooled.pgconn) and (refused == self._sizes[1] or not self._only_reads(pooled)):
                return pooled
            refused = min(refused + 1, self._sizes[1])
            self._discard(pooled)

    def _only_reads(self, pooled: _Pooled) -> bool:
        """Whether it leads to a server that takes no writes; by now another one may be where a new one leads."""
        return not self._is_pooled and only_reads(pooled.pgconn)

    async def _wait(self, deadline: float) -> _Pooled | None:
        if self._hollow:
            self._pool.putconn(self._hollow.pop())  # a closed one is replaced at once
        self._borrowers += 1
        try:
            return await made_in_thread(partial(self._wait_in_thread, deadline), self._put_back)
        finally:
            self._borrowers -= 1

    def _wait_in_thread(self, deadline: float, anybody_waits: Callable[[], bool]) -> _Pooled | None:
        """A connection; None once another part has to give one up first."""
        while anybody_waits() and (left := deadline - monotonic()) > 0:
            with suppress(psycopg_pool.PoolTimeout):
                return self._pool.getconn(timeout=min(_ROUND, left))
            if self._refusal is not None and is_full(self._refusal):
                return None
        raise psycopg_pool.PoolTimeout

    def _put_back(self, pooled: _Pooled | None) -> None:
        if pooled is not None:
            self._pool.putconn(pooled)

    def give_up(self) -> bool:
        """See `Part`. psycopg_pool would replace what comes back closed, so it stays out until a borrower waits."""
        if not self._pool.get_stats()["pool_available"]:
            return False
        try:
            pooled = self._pool.getconn(timeout=_AT_ONCE)
        except psycopg_pool.PoolTimeout:
            return False
        self._close(pooled)
        self._hollow.append(pooled)
        return True

    def drop(self) -> None:
        """See `Part`."""
        while self.give_up():
            pass
        self._pool.drain()  # those that are lent

    async def _lend(self, pooled: _Pooled) -> AnyioConnection[TupleRow]:
        if pooled.lent is None:
            lent = adopt(pooled, prepare_threshold=self._prepare_threshold)
            if self._configure is not None:
                await self._configure(lent)
            # Only now: what configure did not finish is given back as unusable.
            pooled.lent = lent
        return pooled.lent

    async def _set_up(self, pooled: _Pooled, lent: AnyioConnection[TupleRow], as_is: bool) -> None:
        if self._is_pooled:
            lent.local_settings = None if as_is else self._settings
        elif pooled.names is None and not as_is and self._settings is not None:
            pooled.names = [name async for name, _ in await set_up(lent, self._settings)]
        elif pooled.names is not None and as_is:
            await undo(lent, pooled.names)
            pooled.names = None

    def _give_back(self, pooled: _Pooled) -> None:
        lent = pooled.lent
        if lent is not None and lent.refused_writes:
            self._sharing.drop()
        if lent is not None and self._is_pristine(lent) and not self._only_reads(pooled):
            self._pool.putconn(pooled)
        else:
            self._discard(pooled)

    def _discard(self, pooled: _Pooled) -> None:
        # Closed first: putconn would roll an open transaction back, and block the event loop meanwhile.
        self._close(pooled)
        self._pool.putconn(pooled)

    def _close(self, pooled: _Pooled) -> None:
        if pooled.lent is not None:
            pooled.lent.finish()
        pooled.pgconn.finish()

    def _is_pristine(self, lent: AnyioConnection[TupleRow]) -> bool:
        return (
            lent.is_at_rest()
            and lent.row_factory is tuple_row
            and lent.prepare_threshold == self._prepare_threshold
            and not lent.refused_writes
        )
