"""LISTEN, over a connection of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import anyio

from horsies.abc import Topic

from .connection import AnyioConnection, connect
from .failures import translated
from .session import Row, Target


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
        if self._topic is Topic.WORK:
            return payloads
        return [task_id for payload in payloads for task_id in payload.split(",")]


@asynccontextmanager
async def open_listener(target: Target, schema: str, topic: Topic) -> AsyncIterator[PostgresListener]:
    """Listen to `topic` for the length of the scope; `target` must lead to a session of its own, not to a pooler."""
    action = f"listen to {topic}"
    with translated(action):
        connection = await connect(target.conninfo, timeout=target.connect_timeout)
    try:
        with translated(action), anyio.fail_after(target.statement_timeout):
            await connection.execute(f"LISTEN {schema}_{topic.value}")
        yield PostgresListener(connection, topic)
    finally:
        connection.finish()
