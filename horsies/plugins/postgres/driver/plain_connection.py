"""Connections for work on the schema, and for the first look at a database."""

from __future__ import annotations

from typing import Any

import anyio
import psycopg

from horsies import AppConfig, HorsiesError

from .connection import AnyioConnection, connect
from .pooler_detection import is_direct
from .settings import PLAIN, set_up
from .sharing import is_full
from .url import describe

_PAUSE, _LONGEST_PAUSE = 0.1, 0.8
"""Seconds between two connects while the server is full: the first, and doubled up to the last."""
_ENCODINGS = ("UTF8", "SQL_ASCII")


async def connect_plain(url: str, *, timeout: float) -> AnyioConnection[Any]:
    """A connection in autocommit that prepares nothing, with `PLAIN` settings unless a pooler lends the session.

    It is waited for while there are as many as there may be: others may just be closing.

    Args:
        url: anything libpq reads.
        timeout: seconds.

    Raises:
        psycopg.Error: there is none; `timeout` seconds of waiting for room made no difference.
    """
    connection = await _connect_to_full(url, timeout)
    try:
        if await is_direct(connection):
            await set_up(connection, PLAIN)
    except BaseException:
        connection.finish()
        raise
    return connection


async def _connect_to_full(url: str, timeout: float) -> AnyioConnection[Any]:
    give_up_at = anyio.current_time() + timeout - 2 * _PAUSE
    pause = _PAUSE
    while True:
        try:
            return await connect(url, timeout=timeout, prepare_threshold=None)
        except psycopg.OperationalError as error:
            left = give_up_at - anyio.current_time()
            if not is_full(error) or left < 0:
                raise
        await anyio.sleep(min(pause, max(left, _PAUSE)))
        pause = min(2 * pause, _LONGEST_PAUSE)


async def require_encoding(connection: AnyioConnection[Any], config: AppConfig) -> None:
    """Raise HRS-211 if the database cannot store every name. SQL_ASCII stores the bytes of UTF-8 as they are."""
    cursor = await connection.execute("SELECT current_setting('server_encoding')")
    (encoding,) = await cursor.fetchone() or ("",)
    if encoding not in _ENCODINGS:
        raise HorsiesError(
            "HRS-211",
            f"cannot use the database: {describe(config.url)}: its encoding is {encoding}",
            [
                f"{encoding} cannot store every name of a task, a queue or a key",
                "create the database with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0",
            ],
        )
