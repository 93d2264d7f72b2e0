"""The broker, and how it opens."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from horsies import AppConfig, HorsiesError
from horsies.abc import (
    Broker,
    Clock,
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

from .consumer import SqliteConsumer
from .control import SqliteControl
from .listener import Subscriptions
from .maintenance import SqliteMaintenance
from .producer import SqliteProducer
from .reader import SqliteReader
from .schedules import SqliteSchedules
from .session import Session, open_session
from .url import database_path, describe
from .workflows import SqliteWorkflows

_OLDEST = (3, 37, 0)
"""The first SQLite with STRICT tables."""


class SqliteBroker:
    """An open broker; `open_broker` makes it. All roles share its one session."""

    def __init__(self, session: Session, subscriptions: Subscriptions, config: AppConfig, *, place: str) -> None:
        self._session = session
        self._subscriptions = subscriptions
        self._recovery = config.recovery
        self._caps = {queue.name: queue.max_concurrency for queue in config.queues if queue.max_concurrency is not None}
        self._cluster_cap = config.cluster_wide_cap
        self._place = place
        self.reader: Reader = SqliteReader(session)
        self.control: Control = SqliteControl(session)
        self.schedules: Schedules = SqliteSchedules(session)
        self.workflows: Workflows = SqliteWorkflows(session)

    @asynccontextmanager
    async def producer(self, *, lock_wait: float | None = None) -> AsyncIterator[Producer]:
        """See `horsies.abc.Broker.producer`. Rows are not locked here: who writes has the whole database."""
        yield SqliteProducer(self._session)

    @asynccontextmanager
    async def consumer(self, worker_id: str, queues: Sequence[tuple[str, int]]) -> AsyncIterator[Consumer]:
        """See `horsies.abc.Broker.consumer`."""
        yield SqliteConsumer(
            self._session,
            worker_id,
            queues,
            recovery=self._recovery,
            caps=self._caps,
            cluster_cap=self._cluster_cap,
        )

    @asynccontextmanager
    async def maintenance(self, worker_id: str) -> AsyncIterator[Maintenance]:
        """See `horsies.abc.Broker.maintenance`."""
        yield SqliteMaintenance(self._session, worker_id, self._recovery)

    def listen(self, topic: Topic) -> AbstractAsyncContextManager[Listener]:
        """See `horsies.abc.Broker.listen`."""
        return self._subscriptions.listen(topic, self._session)

    async def check(self) -> str:
        """See `horsies.abc.Broker.check`."""
        ((version,),) = await self._session.read(
            "check", lambda transaction: transaction.fetch("SELECT sqlite_version()", {})
        )
        return f"SQLite {version}: {self._place}"


@asynccontextmanager
async def open_broker(config: AppConfig, clock: Clock) -> AsyncIterator[Broker]:
    """See `horsies.abc.BrokerFactory.open`. A file goes by the clock of the machine, memory by `clock`."""
    path = database_path(config.url)
    if sqlite3.sqlite_version_info < _OLDEST:
        raise _unusable(path, f"this Python has SQLite {sqlite3.sqlite_version}, 3.37 is needed")
    subscriptions = Subscriptions()
    opening = open_session(
        path,
        clock=clock,
        timeout=config.pool.timeout,
        patience=config.resilience.statement_timeout,
        publish=subscriptions.publish,
    )
    async with AsyncExitStack() as stack:
        try:
            session = await stack.enter_async_context(opening)
        except sqlite3.Error as error:
            raise _unusable(path, str(error)) from None
        yield SqliteBroker(session, subscriptions, config, place=describe(path))


def _unusable(path: str, cause: str) -> HorsiesError:
    return HorsiesError("HRS-211", f"cannot use the database: {describe(path)}: {cause}")
