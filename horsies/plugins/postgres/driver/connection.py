"""psycopg on whichever event loop runs: asyncio, uvloop or Trio.

psycopg keeps its protocol in generators that say what they wait for (the socket readable, writable, either), so one
method, `AnyioConnection.wait`, is all that ties a connection to an event loop. Everything above it (cursors, pipelines,
COPY, transactions, notifications) is psycopg's own.

Cancellation. A query that is cancelled while the server works on it is cancelled there as well, and what the server
still sends is read, all within `CLEANUP` seconds under a shield; after that the connection is as good as before. When
that fails it is closed. So a connection is always usable or closed, never in between. Waiting for notifications asks
nothing of the server, so cancelling that wait leaves the connection untouched.
"""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Self, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import psycopg
from psycopg import capabilities, errors, generators
from psycopg.abc import PQGen, PQGenConn
from psycopg.pq import ConnStatus, PipelineStatus, TransactionStatus
from psycopg.rows import AsyncRowFactory, Row, TupleRow, tuple_row
from psycopg.waiting import Ready, Wait

from .hosts import connected, scrubbed
from .overrides import Pipeline, require_psycopg
from .socket_wait import poll as _poll
from .socket_wait import wait_ready as _wait_ready
from .url import connect_parameters, destination, time_to_connect

T = TypeVar("T")

CLEANUP = 2.0
"""The most seconds that a cancelled operation may take to leave its connection usable."""
_LOOK = 1.0
"""Every so many seconds a waiting connection looks whether its socket still exists."""
_BUSY = 0.005
"""Seconds that a generator which never has to wait (a long COPY) may keep the event loop to itself."""
_LEAST_WAIT = 0.001
"""Seconds that a wait without patience takes to see what has arrived already."""
_STANDBY, _FENCED = b"in_hot_standby", b"default_transaction_read_only"
"""Settings of which a server tells every change."""
ABANDONED = "nobody waits for this connection any more"


require_psycopg()


class WaitExpired(Exception):
    """The timeout of `AnyioConnection.wait` passed."""


def is_quiet(pgconn: psycopg.pq.abc.PGconn) -> bool:
    """Whether the server has sent nothing unasked; to an idle connection it mostly says that it closes it."""
    return pgconn.status == ConnStatus.OK and not _poll(pgconn.socket, Wait.R)


def only_reads(pgconn: psycopg.pq.abc.PGconn) -> bool:
    """Whether the server says of itself that it is a standby, or takes no writes for now.

    Only a direct connection hears it: a pooler repeats what it heard at some time.
    """
    return b"on" in (pgconn.parameter_status(_STANDBY), pgconn.parameter_status(_FENCED))


class _Cursor(psycopg.AsyncCursor[Row]):
    """Notices LISTEN, which leaves a mark on the session that a pool must know of."""

    async def execute(self, *args: Any, **kwargs: Any) -> _Cursor[Row]:
        await super().execute(*args, **kwargs)
        if self.statusmessage == "LISTEN" and isinstance(self.connection, AnyioConnection):
            self.connection.has_listened = True
        return self


class AnyioConnection(psycopg.AsyncConnection[Row]):
    """A psycopg connection for asyncio and Trio. Open one with `connect`.

    Attributes:
        has_listened: LISTEN has left a mark on its session.
        refused_writes: its server has answered that it only reads.
        local_settings: what each transaction is to set for itself, because a pooler lends the session.
    """

    def __init__(
        self,
        pgconn: psycopg.pq.abc.PGconn,
        row_factory: AsyncRowFactory[Row] = tuple_row,  # type: ignore[assignment]  # as psycopg declares it
        *,
        autocommit: bool = True,
    ) -> None:
        super().__init__(pgconn, row_factory)
        self.lock = anyio.Lock(fast_acquire=True)  # type: ignore[assignment]  # used as an async context manager only
        self.cursor_factory = _Cursor
        self.has_listened = False
        self.refused_writes = False
        self.local_settings: Mapping[str, str] | None = None
        self._autocommit = autocommit
        self._yielded_at = -math.inf
        self._blocks = 0

    async def wait(self, gen: PQGen[T], interval: float = _LOOK, timeout: float | None = None) -> T:
        """Run `gen` to its end, waiting for the socket whenever it asks to.

        Args:
            gen: a psycopg generator that does not replace the socket.
            interval: seconds between looks at whether the socket still exists.
            timeout: seconds after which to stop; None: never.

        Raises:
            WaitExpired: `timeout` passed. A query that the server works on is cancelled there, as by a cancellation.
            psycopg.OperationalError: the connection is lost.
        """
        try:
            # Also the generators that never wait (rows of a COPY) must hear of a cancellation.
            await anyio.lowlevel.checkpoint_if_cancelled()
            return await self._drive(gen, interval, timeout)
        except errors.ReadOnlySqlTransaction:
            self.refused_writes = True
            raise
        except (anyio.get_cancelled_exc_class(), WaitExpired, KeyboardInterrupt, SystemExit):
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                await self._settle(gen)
            raise

    async def _drive(self, gen: PQGen[T], interval: float, timeout: float | None) -> T:
        fd = self.pgconn.socket
        now = anyio.current_time()
        deadline = math.inf if timeout is None else now + timeout
        try:
            wanted = next(gen)
            while True:
                if wanted & Wait.W:
                    await self._let_others_run(now)
                ready = await _wait_ready(fd, wanted, now, min(now + interval, deadline))
                now = anyio.current_time()
                if wanted == Wait.R:
                    self._yielded_at = now
                wanted = gen.send(Ready(ready))
                if now >= deadline:
                    raise WaitExpired
        except StopIteration as stop:
            await self._let_others_run(now)
            result: T = stop.value
            return result
        except (OSError, anyio.ClosedResourceError) as exc:
            raise errors.OperationalError("the connection was closed while it was in use") from exc

    async def _let_others_run(self, now: float) -> None:
        # Shielded, because a cancellation here would lose what the server has already answered.
        if now - self._yielded_at >= _BUSY:
            await anyio.lowlevel.cancel_shielded_checkpoint()
            self._yielded_at = anyio.current_time()

    async def _settle(self, gen: PQGen[Any]) -> None:
        """Stop the query that `gen` was waiting for and read what is left of it, or close the connection."""
        with anyio.move_on_after(CLEANUP, shield=True), suppress(psycopg.Error):
            with suppress(errors.QueryCanceled, errors.PipelineAborted):
                await self.cancel_safe(timeout=CLEANUP)
                await self._drive(gen, _LOOK, None)
            # In a COPY or a pipeline there may be more to read; their own block does that on its way out.
            return
        if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
            self.finish()

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Ask the server to cancel what this connection is doing.

        It takes `CLEANUP` seconds at most, under a shield: psycopg calls it to clean up in a scope that is cancelled.

        Raises:
            psycopg.errors.CancellationTimeout: the request took longer than that, or than `timeout` seconds.
        """
        if self.closed:
            return
        try:
            with anyio.fail_after(min(timeout or CLEANUP, CLEANUP), shield=True):
                if capabilities.has_cancel_safe():
                    request = self.pgconn.cancel_conn()
                    request.start()
                    await _drive_connecting(generators.cancel(request))
                else:
                    await anyio.to_thread.run_sync(
                        self.cancel, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
                    )
        except TimeoutError:
            raise errors.CancellationTimeout("cancellation timeout expired") from None

    async def notifies(
        self, *, timeout: float | None = None, stop_after: int | None = None
    ) -> AsyncGenerator[psycopg.Notify, None]:
        """As psycopg's: what is notified, until `timeout` seconds have passed or `stop_after` notices came."""
        deadline = math.inf if timeout is None else anyio.current_time() + max(timeout, _LEAST_WAIT)
        async with aclosing(super().notifies(stop_after=stop_after)) as notices:
            while True:
                notice = None
                with anyio.CancelScope(deadline=deadline):
                    notice = await anext(notices, None)
                if notice is None:
                    return
                yield notice

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[psycopg.AsyncTransaction]:
        """A transaction, or a savepoint inside one, around a block; rolled back when the block raises.

        A block whose scope is cancelled is rolled back even when it reached its end.
        """
        block = psycopg.AsyncTransaction(self, savepoint_name, force_rollback)
        managed = self._leaving_in_order(block, lambda: self._end_transaction(block))
        self._blocks += 1
        try:
            if self.pgconn.pipeline_status == PipelineStatus.OFF:
                async with managed:
                    yield block
            else:
                async with self.pipeline(), managed, self.pipeline():
                    yield block
        finally:
            self._blocks -= 1

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[psycopg.AsyncPipeline]:
        """Send statements without waiting for each answer; leaving the block waits for all of them."""
        if self._pipeline is None:
            self._pipeline = Pipeline(self)
        async with self._leaving_in_order(super().pipeline(), self._end_pipeline) as pipeline:
            yield pipeline

    @asynccontextmanager
    async def _leaving_in_order(
        self, manager: AbstractAsyncContextManager[T], mend: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[T]:
        """`manager`, left under a bounded shield when its block fails or is cancelled.

        Without one, leaving would stop at its first await and psycopg's count of open blocks would stay wrong for
        ever. `mend` puts right what an interruption of entering or of an orderly leaving left behind.
        """
        try:
            value = await manager.__aenter__()
        except BaseException:
            with self._cleanup():
                await mend()
            raise
        try:
            yield value
            await anyio.lowlevel.checkpoint_if_cancelled()
        except BaseException as exc:
            swallowed: bool | None = False
            with self._cleanup():
                swallowed = await manager.__aexit__(type(exc), exc, exc.__traceback__)
            if not swallowed:
                raise
        else:
            try:
                await manager.__aexit__(None, None, None)
            except BaseException:
                with self._cleanup():
                    await mend()
                raise

    @contextmanager
    def _cleanup(self) -> Iterator[None]:
        """A shield for `CLEANUP` seconds; the connection is closed when that is not enough."""
        with anyio.move_on_after(CLEANUP, shield=True) as scope:
            yield
        if scope.cancelled_caught:
            self.finish()

    async def _end_transaction(self, block: psycopg.AsyncTransaction) -> None:
        if self.closed:
            return
        if block.status == block.Status.ACTIVE:  # psycopg still counts it
            interruption = psycopg.OperationalError("interrupted")
            await block.__aexit__(type(interruption), interruption, None)
        elif self._blocks == 1 and self.pgconn.transaction_status != TransactionStatus.IDLE:
            await self.rollback()

    async def _end_pipeline(self) -> None:
        pipeline = self._pipeline
        if pipeline is None or pipeline.level:
            return
        if self.pgconn.pipeline_status == PipelineStatus.OFF:
            self._pipeline = None
        else:
            self.finish()

    @property
    def only_reads(self) -> bool:
        """See `only_reads`."""
        return only_reads(self.pgconn)

    def is_at_rest(self) -> bool:
        """Whether nothing of an earlier use is left: no open block, no LISTEN, no setting of psycopg's changed."""
        return (
            not self.closed
            and self.pgconn.transaction_status == TransactionStatus.IDLE
            and self._pipeline is None
            and self.pgconn.pipeline_status == PipelineStatus.OFF
            and self._blocks == 0
            and not self.has_listened
            and not self.lock.locked()
            and self.autocommit
            and (self.isolation_level, self.read_only, self.deferrable) == (None, None, None)
        )

    async def close(self) -> None:
        """Close the connection. Whoever still waits on it gets a `psycopg.OperationalError`."""
        self.finish()

    def finish(self) -> None:
        """`close` without `await`: it sends a farewell without waiting for an answer."""
        if self.closed:
            return
        # A waiter left behind would sleep on, and break the next connection that gets this file descriptor.
        anyio.notify_closing(self.pgconn.socket)
        self.pgconn.finish()


async def _drive_connecting(gen: PQGenConn[None]) -> None:
    """Run a generator that says itself which socket it waits for."""
    try:
        fd, wanted = next(gen)
        while True:
            now = anyio.current_time()
            fd, wanted = gen.send(Ready(await _wait_ready(fd, wanted, now, now + _LOOK)))
    except StopIteration:
        return
    except OSError as exc:
        raise errors.OperationalError("the socket of a cancel request was closed") from exc


_wanted: ContextVar[Callable[[], bool]] = ContextVar("wanted")


@contextmanager
def wanted_while(condition: Callable[[], bool]) -> Iterator[None]:
    """What a `SyncConnection` connects to in the block, it connects to only as long as `condition()` holds."""
    token = _wanted.set(condition)
    try:
        yield
    finally:
        _wanted.reset(token)


class SyncConnection(psycopg.Connection[TupleRow]):
    """What connects, in a thread. It gives up within a tenth of a second once nobody wants the connection any more."""

    @classmethod
    def connect(cls, conninfo: str = "", *, patience: float, **parameters: Any) -> Self:  # type: ignore[override]  # the caller gives libpq's parameters
        try:
            return connected(partial(super().connect, conninfo), parameters, patience)
        except psycopg.Error as error:
            raise scrubbed(error, parameters) from None

    @classmethod
    def _connect_gen(cls, *args: Any, **kwargs: Any) -> PQGenConn[Self]:
        # psycopg resumes the generator every tenth of a second, whether the server said something or not.
        attempt = super()._connect_gen(*args, **kwargs)
        wanted = _wanted.get()
        try:
            awaited = next(attempt)
            while True:
                ready = yield awaited
                if not wanted():
                    raise errors.OperationalError(ABANDONED)
                awaited = attempt.send(ready)
        except StopIteration as stop:
            connection: Self = stop.value
            return connection


async def made_in_thread(make: Callable[[Callable[[], bool]], T], discard: Callable[[T], object]) -> T:
    """What `make` returns, called in a thread of its own.

    Cancelling does not wait for the thread: what it makes for nobody goes to `discard`, there.

    Args:
        make: called with a function that says whether anybody still waits.
        discard: takes back what was made too late.
    """
    lock = threading.Lock()
    made: list[T] = []
    left = False

    def call() -> None:
        product = make(lambda: not left)
        with lock:
            if not left:
                made.append(product)
                return
        discard(product)

    try:
        # A limiter of its own: a server that does not answer must not use up the threads of the program.
        await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
    except BaseException:
        with lock:
            left = True
        for product in made:
            discard(product)
        raise
    return made.pop()


def adopt(
    twin: SyncConnection, *, autocommit: bool = True, prepare_threshold: int | None = 5
) -> AnyioConnection[TupleRow]:
    """An `AnyioConnection` on the open libpq connection of `twin`, which must run no SQL of its own from now on."""
    connection: AnyioConnection[TupleRow] = AnyioConnection(twin.pgconn, autocommit=autocommit)
    connection.prepare_threshold = prepare_threshold
    return connection


async def connect(
    conninfo: str, *, timeout: float, autocommit: bool = True, prepare_threshold: int | None = 5
) -> AnyioConnection[TupleRow]:
    """Open a connection, on any event loop.

    psycopg connects in a thread, because libpq and the resolver may block; nothing else ever runs there.

    Args:
        conninfo: anything libpq reads: a URI or `key=value` pairs.
        timeout: seconds, for all hosts together.
        autocommit: as in psycopg, but on by default.
        prepare_threshold: as in psycopg; None prepares nothing, for transaction poolers.

    Raises:
        psycopg.OperationalError: the database cannot be reached or refuses; the message names host, role and database.
        psycopg.ProgrammingError: `conninfo` cannot be read.
    """
    parameters = connect_parameters(conninfo, timeout)
    patience = time_to_connect(parameters, timeout)

    def open_twin(anybody_waits: Callable[[], bool]) -> SyncConnection:
        with wanted_while(anybody_waits):
            return SyncConnection.connect(**parameters, patience=patience)

    try:
        with anyio.fail_after(patience):
            twin = await made_in_thread(open_twin, SyncConnection.close)
    except TimeoutError:
        raise errors.ConnectionTimeout(
            f"{destination(parameters)} did not answer within {patience:g} s: is it a Postgres server, and can it be "
            "reached from here?"
        ) from None
    connection = adopt(twin, autocommit=autocommit, prepare_threshold=prepare_threshold)
    del twin.pgconn  # or the twin would warn that it was never closed
    return connection
