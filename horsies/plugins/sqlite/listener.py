"""Notices: at once within the process, and by watching the file for what other processes changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import anyio

from horsies.abc import Topic

from .session import Session

_WATCH = 0.05
"""Seconds between looks at `PRAGMA data_version`, which changes when another connection has committed."""


class SqliteListener:
    """One subscription."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._version: int | None = None
        self._names: list[str] = []
        self._noticed = anyio.Event()

    def tell(self, names: Iterable[str]) -> None:
        """Hand notices to whoever receives."""
        self._names.extend(names)
        self._noticed.set()

    async def receive(self) -> list[str]:
        """See `horsies.abc.Listener.receive`."""
        if self._session.in_memory:
            await self._noticed.wait()
        else:
            await self._watch()
        names, self._names, self._noticed = self._names, [], anyio.Event()
        return names

    async def _watch(self) -> None:
        await self.look()
        while not self._names:
            with anyio.move_on_after(_WATCH):
                await self._noticed.wait()
            await self.look()

    async def look(self) -> None:
        """See whether others have changed the file since the last look, which the first one only remembers."""
        version = await self._session.data_version()
        if self._version not in (None, version):
            self._names.append("")
        self._version = version


class Switchboard:
    """The listeners of one open broker."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._listeners: dict[Topic, list[SqliteListener]] = {topic: [] for topic in Topic}
        session.told = self.tell

    @contextmanager
    def listen(self, topic: Topic) -> Iterator[SqliteListener]:
        """Subscribe for the scope."""
        listener = SqliteListener(self._session)
        self._listeners[topic].append(listener)
        try:
            yield listener
        finally:
            self._listeners[topic].remove(listener)

    def tell(self, queues: Iterable[str], finished: Iterable[str]) -> None:
        """Hand on what a committed transaction has to tell."""
        for topic, names in ((Topic.QUEUES, queues), (Topic.FINISHED, finished)):
            names = sorted(names)
            for listener in self._listeners[topic] if names else ():
                listener.tell(names)
