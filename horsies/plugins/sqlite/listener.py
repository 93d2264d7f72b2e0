"""Notices: at once from this broker, and by looking for changes from everybody else on the same file."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel

from horsies.abc import Topic

from .session import Notices, Session

_LOOK_EVERY = 0.05
_MOST = 10_000
"""Notices kept for a listener that does not receive; beyond that it is told only that something changed."""


class Subscriptions:
    """Who listens to what in this broker."""

    def __init__(self) -> None:
        self._listeners: dict[Topic, set[SqliteListener]] = {topic: set() for topic in Topic}

    def publish(self, notices: Notices) -> None:
        """Hand out the notices of one commit."""
        for topic, name in notices:
            for listener in self._listeners[topic]:
                listener.tell(name)

    @asynccontextmanager
    async def listen(self, topic: Topic, session: Session) -> AsyncIterator[SqliteListener]:
        """Listen to `topic` for the length of the scope."""
        listener = SqliteListener(session)
        self._listeners[topic].add(listener)
        try:
            await listener.look()
            listener.forget()
            yield listener
        finally:
            self._listeners[topic].discard(listener)


class SqliteListener:
    """Notices of one topic."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._notices: dict[str, None] = {}
        self._arrived = anyio.Event()
        self._version: int | None = None
        self._look_at = math.inf

    async def receive(self) -> list[str]:
        """See `horsies.abc.Listener.receive`."""
        await anyio.lowlevel.checkpoint()
        while True:
            if anyio.current_time() >= self._look_at:
                await self.look()
            if self._notices:
                return self.forget()
            with anyio.CancelScope(deadline=self._look_at):
                await self._arrived.wait()

    def tell(self, name: str) -> None:
        """Keep `name` for the next `receive`."""
        if len(self._notices) >= _MOST:
            self._notices = {"": None}
        self._notices[name] = None
        self._arrived.set()

    def forget(self) -> list[str]:
        """Hand over what was kept."""
        notices = list(self._notices)
        self._notices = {}
        self._arrived = anyio.Event()
        return notices

    async def look(self) -> None:
        """Find out whether another connection has committed; what it wrote is not known."""
        if not self._session.is_shared:
            return
        version = await self._session.data_version()
        if version != self._version:
            self._version = version
            self.tell("")
        self._look_at = anyio.current_time() + _LOOK_EVERY
