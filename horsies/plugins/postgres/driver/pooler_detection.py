"""Whether a connection leads to a server, or to a pooler such as PgBouncer that lends servers.

A pooler answers the handshake itself, so the process it names there is not the one that runs the statements. What it
keeps for a client is harder to tell. In session mode that is one server for as long as the client stays, and all works
as without a pooler. In transaction mode the next statement may go to another server: a LISTEN is lost without a word.
"""

from __future__ import annotations

import anyio

from .connection import AnyioConnection, connect
from .session import Row

_ROUNDS = 8
_PATIENCE = 5.0
"""Seconds that the other one waits for a server. A pooler whose every server belongs to a session keeps it waiting."""


async def is_direct(connection: AnyioConnection[Row]) -> bool:
    """Whether no pooler is in between."""
    return await _server(connection) == connection.pgconn.backend_pid


async def keeps_session(connection: AnyioConnection[Row], conninfo: str, *, timeout: float) -> bool:
    """Whether `connection` has a server to itself, asked beside another connection to the same `conninfo`.

    Two clients of a transaction pool that ask in turn soon meet on one server, or are moved to another, because idle
    servers are lent anew.

    Args:
        timeout: seconds for opening that one.

    Raises:
        psycopg.Error: the database failed.
    """
    own = await _server(connection)
    other = await connect(conninfo, timeout=timeout, prepare_threshold=None)
    try:
        with anyio.move_on_after(_PATIENCE):
            for _ in range(_ROUNDS):
                if await _server(other) == own:
                    return False
                if await _server(connection) != own:
                    return False
    finally:
        other.finish()
    return True


async def _server(connection: AnyioConnection[Row]) -> int:
    cursor = await connection.execute("SELECT pg_backend_pid()", prepare=False)
    ((pid,),) = await cursor.fetchall()
    return int(pid)
