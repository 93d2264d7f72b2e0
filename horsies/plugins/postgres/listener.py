"""LISTEN, over a connection of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import anyio

from horsies.abc import Topic

from .connection import AnyioConnection, connect
from .failures import translated
from .session import Row

_CLOSING = 5.0


class PostgresListener:
    """Notices of one topic."""

    def __init__(self, connection: AnyioConnection[Row], topic: Topic) -> None:
        self._connection = connection
        self._topic = topic

    async def receive(self) -> list[str]:
        """See `horsies.abc.Listener.receive`."""
        with translated(f"listen to {self._topic}"):
            # One batch, in which nothing is awaited between the notices: a cancelled wait has taken none of them.
            async with aclosing(self._connection.notifies(stop_after=1)) as notifies:
                payloads = [notify.payload async for notify in notifies]
        if self._topic is Topic.QUEUES:
            return payloads
        return [task_id for payload in payloads for task_id in payload.split(",")]


@asynccontextmanager
async def open_listener(
    conninfo: str, schema: str, topic: Topic, *, timeout: float, statement_timeout: float
) -> AsyncIterator[PostgresListener]:
    """Listen to `topic` for the length of the scope."""
    action = f"listen to {topic}"
    with translated(action):
        connection = await connect(conninfo, timeout=timeout)
    try:
        with translated(action), anyio.fail_after(statement_timeout):
            await connection.execute(f"LISTEN {schema}_{topic.value}")
        yield PostgresListener(connection, topic)
    finally:
        with anyio.move_on_after(_CLOSING, shield=True):
            await connection.close()
