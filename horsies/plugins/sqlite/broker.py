"""Opening a database, and handing out the roles of a broker on it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from horsies import AppConfig, HorsiesError
from horsies.abc import Broker, Clock, Consumer, Listener, Producer, Reader, Topic

from .consumer import SqliteConsumer
from .listener import Switchboard
from .producer import SqliteProducer
from .reader import SqliteReader
from .schema import migrate, schema_sql
from .session import Session

_MEMORY = "sqlite://:memory:"


class SqliteBroker:
    """An open database. `reader` answers questions; the roles share one connection."""

    def __init__(self, config: AppConfig, session: Session) -> None:
        self._config = config
        self._session = session
        self._switchboard = Switchboard(session)
        self.reader: Reader = SqliteReader(session)

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[Producer]:
        """See `horsies.abc.Broker.producer`."""
        yield SqliteProducer(self._session)

    @asynccontextmanager
    async def consumer(self, worker_id: str, queues: Sequence[tuple[str, int]]) -> AsyncIterator[Consumer]:
        """See `horsies.abc.Broker.consumer`."""
        dead_after = self._config.recovery.dead_after
        yield SqliteConsumer(worker_id, queues, session=self._session, dead_after=dead_after)

    @asynccontextmanager
    async def listen(self, topic: Topic) -> AsyncIterator[Listener]:
        """See `horsies.abc.Broker.listen`."""
        with self._switchboard.listen(topic) as listener:
            await listener.look()
            yield listener

    async def check(self) -> str:
        """See `horsies.abc.Broker.check`."""
        await self._session.data_version()
        return f"SQLite {sqlite3.sqlite_version}: {self._config.masked_url}"


class SqliteBrokerFactory:
    """Opens `sqlite://` URLs."""

    def open(self, config: AppConfig, *, clock: Clock) -> AbstractAsyncContextManager[Broker]:
        """See `horsies.abc.BrokerFactory.open`."""
        return _open(config, clock)

    def schema_sql(self, config: AppConfig) -> str:
        """See `horsies.abc.BrokerFactory.schema_sql`."""
        return schema_sql()


def database_path(url: str) -> str:
    """The path that `url` names, or `:memory:`.

    Raises:
        HorsiesError: HRS-203, it names none.
    """
    if url == _MEMORY:
        return ":memory:"
    path = url.removeprefix("sqlite:///")
    if path == url or not path:
        raise HorsiesError(
            "HRS-203",
            "this SQLite URL cannot be read",
            [f"give sqlite:///relative.db, sqlite:////absolute.db or {_MEMORY}"],
        )
    return path


@asynccontextmanager
async def _open(config: AppConfig, clock: Clock) -> AsyncIterator[Broker]:
    session = Session(database_path(config.url), clock, config.resilience.statement_timeout)
    try:
        await session.open()
        await migrate(session)
    except sqlite3.Error as error:
        await session.close()
        raise HorsiesError("HRS-211", f"cannot open {config.masked_url}: {error}") from error
    except BaseException:
        await session.close()
        raise
    try:
        yield SqliteBroker(config, session)
    finally:
        await session.close()
