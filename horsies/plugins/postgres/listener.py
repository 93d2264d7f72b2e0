"""LISTEN, over a connection of its own. Where a pooler would lose what is notified, listeners hear nothing instead."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import anyio
import psycopg

from horsies import AppConfig
from horsies.abc import BrokerError, Listener, Topic

from .driver.connection import AnyioConnection, connect
from .driver.errors import translated
from .driver.pooler_detection import is_direct, keeps_session
from .driver.session import Row
from .driver.settings import PLAIN, set_up
from .driver.sharing import ROOM_PAUSE, Sharing, is_full

_logger = logging.getLogger("horsies.postgres")


class PostgresListener:
    """Notices of one topic."""

    def __init__(self, connection: AnyioConnection[Row], topic: Topic) -> None:
        self._connection = connection
        self._topic = topic

    async def receive(self) -> list[str]:
        """See `horsies.abc.Listener.receive`."""
        with translated(f"listen to {self._topic}", self._connection):
            # One batch, in which nothing is awaited between the notices: a cancelled wait has taken none of them.
            async with aclosing(self._connection.notifies(stop_after=1)) as notifies:
                payloads = [notify.payload async for notify in notifies]
        if self._topic is Topic.WORK:
            return payloads
        return [task_id for payload in payloads for task_id in payload.split(",")]


class DeafListener:
    """Hears nothing: whoever listens finds out by polling, which all of them do."""

    async def receive(self) -> list[str]:
        """Wait until cancelled."""
        await anyio.sleep_forever()
        raise AssertionError("sleep_forever() returned")


class Listening:
    """How one listens in this broker.

    Args:
        reaches: whether notifications reach a connection to `url`. Where `listen_url` leads is looked at when somebody
            listens.
    """

    def __init__(self, config: AppConfig, *, reaches: bool, sharing: Sharing) -> None:
        self._config = config
        self._sharing = sharing
        self._open: list[AnyioConnection[Row]] = []
        self._reaches = reaches or config.listen_url is not None
        sharing.add(self)

    @asynccontextmanager
    async def open(self, topic: Topic) -> AsyncIterator[Listener]:
        """Listen to `topic` for the length of the scope."""
        if self._reaches:
            action = f"listen to {topic}"
            with translated(action):
                connection = await self._connect()
            try:
                with translated(action, connection), anyio.fail_after(self._config.resilience.statement_timeout):
                    if await self._is_heard(connection):
                        await _listen(connection, f"{self._config.schema}_{topic.value}")
                if self._reaches:
                    self._open.append(connection)
                    yield PostgresListener(connection, topic)
                    return
            finally:
                if connection in self._open:
                    self._open.remove(connection)
                connection.finish()
        yield DeafListener()

    def drop(self) -> None:
        """See `Part`. Those who listened do so again, and look meanwhile for what they may have missed."""
        while self._open:
            self._open.pop().finish()

    def give_up(self) -> bool:
        """See `Part`. The one that listens since last finds out by polling."""
        if self._open:
            self._open.pop().finish()
            return True
        return False

    async def _connect(self) -> AnyioConnection[Row]:
        try:
            return await self._connect_once()
        except psycopg.OperationalError as error:
            if not is_full(error) or not self._sharing.make_room(self):
                raise
        await anyio.sleep(ROOM_PAUSE)
        return await self._connect_once()

    async def _connect_once(self) -> AnyioConnection[Row]:
        return await connect(
            self._config.listen_url or self._config.url, timeout=self._config.pool.timeout, prepare_threshold=None
        )

    async def _is_heard(self, connection: AnyioConnection[Row]) -> bool:
        listen_url = self._config.listen_url
        if listen_url is None:
            return True
        if not (
            await is_direct(connection)
            or await keeps_session(connection, listen_url, timeout=self._config.pool.timeout)
        ):
            if self._reaches:  # nobody else has found it out meanwhile
                warn_of_polling("listen_url", self._config)
            self._reaches = False
        return self._reaches


async def _listen(connection: AnyioConnection[Row], channel: str) -> None:
    """Listen to `channel`, but only where tasks are written, in one round trip.

    After a failover a name may lead to the old server for a while, which would never have anything to say.
    """
    async with connection.pipeline():
        await set_up(connection, PLAIN)
        cursor = await connection.execute("SELECT current_setting('transaction_read_only')")
        await connection.execute(f"LISTEN {channel}")
    if await cursor.fetchone() != ("off",):
        raise BrokerError("listen: the server takes no writes now", retryable=True, code="25006")


def warn_of_polling(field: str, config: AppConfig) -> None:
    """Say that `field` of `config` leads to a transaction pooler, and what follows."""
    _logger.warning(
        "%s goes through a pooler that gives each transaction another session; notifications need a session of their "
        "own: set listen_url to a direct connection. Until then tasks, results and requests to cancel are found by "
        "polling, every poll_interval (%g s) and heartbeat_interval (%g s)",
        field,
        config.resilience.poll_interval,
        config.recovery.heartbeat_interval,
    )
