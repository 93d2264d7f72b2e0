"""The broker, and how it opens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import anyio
import psycopg

from horsies import AppConfig, HorsiesError
from horsies.abc import (
    Broker,
    Consumer,
    Control,
    Listener,
    Maintenance,
    Producer,
    Reader,
    Schedules,
    Topic,
    Workflows,
)

from .caller_transaction import CallerProducer
from .caps import Caps
from .consumer import PostgresConsumer
from .control import PostgresControl
from .database_identity import DatabaseIdentity
from .driver.array_codec import register_arrays
from .driver.connection import AnyioConnection
from .driver.errors import broker_error, is_about_notices, translated
from .driver.notices import Notices
from .driver.plain_connection import connect_plain, require_encoding
from .driver.pool import ConnectionPool
from .driver.pooler_detection import is_direct, keeps_session
from .driver.session import Connections, Row, Session, Target
from .driver.settings import limited
from .driver.sharing import Sharing
from .driver.transaction import Borrowing
from .driver.url import describe, read_url, require_conninfo, require_text, time_to_connect
from .listener import Listening, warn_of_polling
from .maintenance import PostgresMaintenance
from .producer import PostgresProducer
from .queries import named_queries
from .reader import PostgresReader
from .schedules import PostgresSchedules
from .upgrade import Progress, migrate
from .workflows import PostgresWorkflows

LOCK_WAIT = 0.25
"""Seconds that a worker's writes wait for somebody's open transaction: others share the connection."""


class PostgresBroker:
    """An open broker; `open_broker` makes it."""

    def __init__(
        self,
        config: AppConfig,
        pool: ConnectionPool,
        connections: Connections,
        results: Session,
        advances: Session,
        notices: Notices,
        target: Target,
        way: _Way,
        sharing: Sharing,
    ) -> None:
        self._config = config
        self._pool = pool
        self._connections = connections
        self._sql = named_queries(config.schema)
        self._notices = notices
        self._target = target
        self._listening = Listening(config, reaches=way.reaches, sharing=sharing)
        self._borrowing = Borrowing(pool.connection, notices, float(config.resilience.statement_timeout))
        self._identity = DatabaseIdentity(
            self._borrowing.fetch, self._sql, schema=config.schema, shown=describe(config.url)
        )
        self.reader: Reader = PostgresReader(self._borrowing.fetch, results.fetch, self._sql)
        self.control: Control = PostgresControl(self._borrowing.fetch, self._sql)
        self.schedules: Schedules = PostgresSchedules(self._borrowing, self._sql)
        self.workflows: Workflows = PostgresWorkflows(self._borrowing, advances, self._sql, self._identity)

    @asynccontextmanager
    async def producer(self, *, lock_wait: float | None = None) -> AsyncIterator[Producer]:
        """See `horsies.abc.Broker.producer`."""
        async with self._connections.open_session(replace(self._target, lock_timeout=lock_wait)) as session:
            yield PostgresProducer(session.fetch, self._sql)

    @asynccontextmanager
    async def consumer(self, worker_id: str, queues: Sequence[tuple[str, int]]) -> AsyncIterator[Consumer]:
        """See `horsies.abc.Broker.consumer`."""
        writing = replace(self._target, lock_timeout=LOCK_WAIT)
        async with (
            self._connections.open_session(self._target) as intake,
            self._connections.open_session(writing) as starts,
            self._connections.open_session(writing) as outcomes,
            self._connections.open_session(writing) as beats,
            self._connections.open_session(writing) as looks,
        ):
            yield PostgresConsumer(
                worker_id,
                queues,
                intake=intake,
                starts=starts,
                outcomes=outcomes,
                beats=beats,
                looks=looks,
                sql=self._sql,
                recovery=self._config.recovery,
                caps=Caps.of(self._config, list(dict(queues))),
            )

    @asynccontextmanager
    async def maintenance(self, worker_id: str) -> AsyncIterator[Maintenance]:
        """See `horsies.abc.Broker.maintenance`."""
        async with self._connections.open_session(self._target) as session:
            yield PostgresMaintenance(session, worker_id, self._sql, self._config.recovery)

    def listen(self, topic: Topic) -> AbstractAsyncContextManager[Listener]:
        """See `horsies.abc.Broker.listen`."""
        return self._listening.open(topic)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AnyioConnection[Row]]:
        """See `horsies.abc.Transactional.transaction`."""
        try:
            async with AsyncExitStack() as stack:
                with translated("open a transaction"):
                    connection = await stack.enter_async_context(self._pool.connection(as_is=True))
                    await stack.enter_async_context(connection.transaction())
                self._identity.add(connection)
                yield connection
        except psycopg.Error as error:
            if is_about_notices(error):
                self._notices.hush()  # so that the next try of it passes
            raise

    def joining(self, connection: Any) -> Producer:
        """See `horsies.abc.Transactional.joining`."""
        return CallerProducer(connection, self._sql, self._notices, self._identity)

    async def check(self) -> str:
        """See `horsies.abc.Broker.check`."""
        ((version,),) = await self._borrowing.fetch("check", "SELECT current_setting('server_version')", {})
        return f"PostgreSQL {version}: {describe(self._config.url)}"


async def _take_arrays(connection: AnyioConnection[Row]) -> None:
    register_arrays(connection.adapters)


@asynccontextmanager
async def open_broker(config: AppConfig) -> AsyncIterator[Broker]:
    """See `horsies.abc.BrokerFactory.open`."""
    require_text("url", config.url)
    require_conninfo("url", config.url)
    if config.listen_url is not None:
        require_text("listen_url", config.listen_url)
        require_conninfo("listen_url", config.listen_url)
    way = await _bring_up_to_date(config)
    target = Target(
        config.url,
        connect_timeout=config.pool.timeout,
        statement_timeout=float(config.resilience.statement_timeout),
        pooled=way.pooled,
    )
    notices, sharing = Notices(), Sharing()
    connections = Connections(sharing, notices)
    async with connections.open_session(target) as results, connections.open_session(target) as advances:
        await connections.reserve(target)
        async with ConnectionPool(
            config.url,
            min_size=config.pool.min_size,
            max_size=config.pool.max_size,
            timeout=config.pool.timeout,
            configure=_take_arrays,
            settings=limited(target.statement_timeout),
            pooled=way.pooled,
            prepare_threshold=None if way.pooled else 5,
            sharing=sharing,
        ) as pool:
            yield PostgresBroker(config, pool, connections, results, advances, notices, target, way, sharing)


@dataclass(frozen=True, slots=True)
class _Way:
    """What is between here and the server that `url` leads to.

    `pooled`: something that may give each transaction another session. `reaches`: notifications come through.
    """

    pooled: bool
    reaches: bool


async def _bring_up_to_date(config: AppConfig) -> _Way:
    timeout = config.pool.timeout
    progress = Progress()
    try:
        with anyio.fail_after(time_to_connect(read_url(config.url), timeout)):
            connection = await connect_plain(config.url, timeout=timeout)
            try:
                await require_encoding(connection, config)
                await migrate(connection, config, progress)
                return await _look_at_way(connection, config)
            finally:
                connection.finish()
    except TimeoutError:
        late = f"within pool.timeout ({timeout:g} s)"
        if progress.reason is None:
            raise _unreachable(config, f"no answer {late}") from None
        remedy = "run `horsies migrate`, which waits as long as it must"
        raise _unreachable(
            config, f"the schema was not brought up to date {late}: {progress.reason}; {remedy}"
        ) from None
    except psycopg.Error as error:
        raise _unreachable(config, broker_error("connect", error).message) from None
    except OSError as error:
        raise _unreachable(config, f"{type(error).__name__}: {error.strerror or error.errno}") from None
    except UnicodeError:
        raise _unreachable(config, "its host is not a name that can be looked up") from None


async def _look_at_way(connection: AnyioConnection[Row], config: AppConfig) -> _Way:
    if config.listen_url is not None:
        return _Way(pooled=True, reaches=False)
    if await is_direct(connection):
        return _Way(pooled=False, reaches=True)
    reaches = await keeps_session(connection, config.url, timeout=config.pool.timeout)
    if not reaches:
        warn_of_polling("url", config)
    # What was seen to keep sessions is trusted with notifications, which may be lost, but with no prepared statements.
    return _Way(pooled=True, reaches=reaches)


def _unreachable(config: AppConfig, cause: str) -> HorsiesError:
    return HorsiesError("HRS-211", f"cannot use the database: {describe(config.url)}: {cause}")
