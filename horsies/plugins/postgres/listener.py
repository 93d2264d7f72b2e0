"""LISTEN, over a connection of its own. Where a pooler would lose what is notified, listeners hear nothing instead."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import anyio

from horsies import AppConfig
from horsies.abc import Listener, Topic

from .connection import AnyioConnection, connect
from .failures import translated
from .pooler import is_direct, keeps_session
from .session import Row

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

    def __init__(self, config: AppConfig, *, reaches: bool) -> None:
        self._config = config
        self._reaches = reaches or config.listen_url is not None

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
                        await connection.execute(f"LISTEN {self._config.schema}_{topic.value}")
                if self._reaches:
                    yield PostgresListener(connection, topic)
                    return
            finally:
                connection.finish()
        yield DeafListener()

    async def _connect(self) -> AnyioConnection[Row]:
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
