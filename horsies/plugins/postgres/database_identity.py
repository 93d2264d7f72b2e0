"""Where a broker's tables are, so that a send does not join a transaction that leads elsewhere.

A schema of the same name stands in many databases. Names and addresses prove nothing: a pooler hides them, and two
servers can share them. So the server is asked: for the numbers of the database and of the table, and for the instant
at which it started, which no other server shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

from .driver.session import Fetch

_ACTION = "look where the connection of using() leads"


class DatabaseIdentity:
    """The place of one broker's tables.

    Args:
        fetch: runs one statement over the broker's own connections.
        schema: where the tables are.
        shown: the broker's database, for messages.
    """

    def __init__(self, fetch: Fetch, sql: Mapping[str, str], *, schema: str, shown: str) -> None:
        self._fetch = fetch
        self._sql = sql
        self._schema = schema
        self._shown = shown
        self._place: str | None = None
        self._known: WeakSet[Any] = WeakSet()
        """Connections that lead here. One never comes to lead elsewhere: it is closed before."""

    def add(self, connection: Any) -> None:
        """`connection` is the broker's own."""
        self._known.add(connection)

    def has(self, connection: Any) -> bool:
        """Whether `connection` is known to lead here."""
        return connection in self._known

    async def ask(self, fetch: Fetch) -> str:
        """The place that `fetch` leads to. Raises: BrokerError."""
        ((place,),) = await fetch(_ACTION, self._sql["tasks.place"], {"schema": self._schema})
        return place.decode() if isinstance(place, bytes) else str(place)  # bytes where the client's encoding is none

    async def require(self, connection: Any, place: str) -> None:
        """Remember that `connection` leads here, if `place` is here.

        Raises:
            ValueError: it is not.
            BrokerError: the broker's database does not answer.
        """
        if place != self._place:
            self._place = await self.ask(self._fetch)  # for the first time, or the database has moved
        if place != self._place:
            raise ValueError(
                "using() got a connection to another server or database than this runtime's: "
                f"connect it to {self._shown}, where schema {self._schema!r} has the runtime's tables"
            )
        self._known.add(connection)
