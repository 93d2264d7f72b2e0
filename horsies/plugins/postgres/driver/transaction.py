"""Statements, and transactions of several, over a short borrow from the pool."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import anyio

from .array_codec import encode_arrays
from .connection import AnyioConnection
from .errors import FullNotifyQueueError, translated
from .instants import register_bounded_instants
from .notices import Notices
from .session import Fetch, Row, fetch_in_transaction
from .settings import set_up

T = TypeVar("T")
Connect: TypeAlias = Callable[[], AbstractAsyncContextManager[AnyioConnection[Row]]]

_SETTINGS = "SET LOCAL TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '{lock_wait}'"
"""Who has waited for another must see what that has left, whatever the default of the role."""


@dataclass(frozen=True, slots=True)
class Borrowing:
    """Runs statements over short borrows.

    Args:
        connect: borrows a connection that takes encoded arrays.
        timeout: seconds for all that is done over it.
    """

    connect: Connect
    notices: Notices
    timeout: float

    async def fetch(self, action: str, query: str, parameters: Mapping[str, object]) -> list[Row]:
        """The rows of one statement. Raises: BrokerError: it failed, or took longer."""

        async def run() -> list[Row]:
            with translated(action):
                async with self.connect() as connection:
                    with translated(action, connection), anyio.fail_after(self.timeout):
                        return await _fetch_over(connection, self.notices.said(query), parameters)

        try:
            return await run()
        except FullNotifyQueueError as refusal:
            return await self.notices.repeat(refusal, run, self.fetch)

    async def transact(self, action: str, work: Callable[[Fetch], Awaitable[T]], *, lock_wait: str) -> T:
        """What `work` gives, which runs its statements in one transaction, and may have to do it twice.

        Args:
            lock_wait: how long one statement waits for somebody's open transaction, as Postgres writes it.

        Raises:
            BrokerError: it failed, or took longer.
        """

        async def run() -> T:
            async with self._transaction(action, lock_wait) as fetch:
                return await work(fetch)

        try:
            return await run()
        except FullNotifyQueueError as refusal:
            return await self.notices.repeat(refusal, run, self.fetch)

    @asynccontextmanager
    async def _transaction(self, action: str, lock_wait: str) -> AsyncIterator[Fetch]:
        """What runs statements in one transaction, committed at the end of the block, rolled back when it raises."""
        with translated(action):
            async with self.connect() as connection:
                # The timeout is around the commit, which can be slow as well.
                with translated(action, connection), anyio.fail_after(self.timeout):
                    async with connection.transaction():
                        await connection.execute(_SETTINGS.format(lock_wait=lock_wait), prepare=False)
                        if connection.local_settings is not None:
                            chosen = {**connection.local_settings, "lock_timeout": lock_wait}
                            await set_up(connection, chosen, local=True)

                        async def fetch(_: str, query: str, parameters: Mapping[str, object]) -> list[Row]:
                            query = self.notices.said(query)
                            given = encode_arrays(query, parameters)
                            cursor = connection.cursor(binary=True)
                            register_bounded_instants(cursor.adapters)
                            await cursor.execute(query, given, prepare=False)
                            return await cursor.fetchall() if cursor.description else []

                        yield fetch


async def _fetch_over(connection: AnyioConnection[Row], query: str, parameters: Mapping[str, object]) -> list[Row]:
    """The rows of one statement over a borrowed connection.

    It is planned anew each time: a plan that is kept from when the table was small would read all of it later on.
    """
    cursor = connection.cursor(binary=True)
    register_bounded_instants(cursor.adapters)
    if (settings := connection.local_settings) is not None:
        return await fetch_in_transaction(connection, cursor, query, parameters, settings=settings)
    await cursor.execute(query, parameters, prepare=False)
    return await cursor.fetchall()
