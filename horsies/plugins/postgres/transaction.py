"""A transaction of several statements over a short borrow from the pool."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import anyio

from .arrays import encode_arrays
from .connection import AnyioConnection
from .failures import translated
from .session import Fetch, Row, fetch_in_transaction
from .settings import set_up

Connect: TypeAlias = Callable[[], AbstractAsyncContextManager[AnyioConnection[Row]]]

_SETTINGS = "SET LOCAL TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '{lock_wait}'"
"""Who has waited for another must see what that has left, whatever the default of the role."""


async def fetch_over(connection: AnyioConnection[Row], query: str, parameters: Mapping[str, object]) -> list[Row]:
    """The rows of one statement over a borrowed connection.

    It is planned anew each time: a plan that is kept from when the table was small would read all of it later on.
    """
    if connection.local_settings is not None:
        return await fetch_in_transaction(connection, query, parameters, settings=connection.local_settings)
    cursor = await connection.execute(query, parameters, prepare=False, binary=True)
    return await cursor.fetchall()


@asynccontextmanager
async def open_transaction(connect: Connect, action: str, *, timeout: float, lock_wait: str) -> AsyncIterator[Fetch]:
    """What runs statements in one transaction, committed at the end of the block, rolled back when it raises.

    Args:
        connect: borrows a connection that takes encoded arrays.
        timeout: seconds for all of it.
        lock_wait: how long one statement waits for somebody's open transaction, as Postgres writes it.

    Raises:
        BrokerError: it failed, or took longer.
    """
    with translated(action):
        async with connect() as connection:
            with anyio.fail_after(timeout):  # around the commit, which can be slow as well
                async with connection.transaction():
                    await connection.execute(_SETTINGS.format(lock_wait=lock_wait), prepare=False)
                    if connection.local_settings is not None:
                        chosen = {**connection.local_settings, "lock_timeout": lock_wait}
                        await set_up(connection, chosen, local=True)

                    async def fetch(_: str, query: str, parameters: Mapping[str, object]) -> list[Row]:
                        given = encode_arrays(query, parameters)
                        cursor = await connection.execute(query, given, prepare=False, binary=True)
                        return await cursor.fetchall() if cursor.description else []

                    yield fetch
