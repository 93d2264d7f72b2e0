"""What every session of horsies sets, whatever the role, the database or the environment has for a default.

Not set are what operators decide: `synchronous_commit`, `search_path` (every name in a statement is qualified), and
`default_transaction_read_only`, which fences a server off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg

from .connection import AnyioConnection

PLAIN = {
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "array_nulls": "on",
    "bytea_output": "hex",
    "default_transaction_deferrable": "off",
    "default_transaction_isolation": "read committed",
    "extra_float_digits": "1",
    "idle_session_timeout": "0",
    "lock_timeout": "0",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "transform_null_equals": "off",
}
"""How statements and answers are read, and no limits but our own.

The statements are written for READ COMMITTED: one that waited for a lock must see what its holder has committed.
"""


def limited(statement: float, *, lock: float | None = None, grace: float = 2.0) -> dict[str, str]:
    """`PLAIN` with our limits, in seconds.

    A transaction in which nothing happens for longer than `statement` and `grace` belongs to a process that is frozen.
    """
    return PLAIN | {
        "statement_timeout": _milliseconds(statement),
        "idle_in_transaction_session_timeout": _milliseconds(statement + grace),
        "lock_timeout": "0" if lock is None else _milliseconds(lock),
    }


async def set_up(
    connection: AnyioConnection[Any], settings: Mapping[str, str], *, local: bool = False
) -> psycopg.AsyncCursor[Any]:
    """Set those of `settings` that the server knows, for the session or for the open transaction.

    Returns:
        a cursor over their names, which in a pipeline is not waited for.
    """
    return await connection.execute(
        "SELECT name, set_config(name, value, %s) FROM unnest(%s::text[], %s::text[]) AS s (name, value)"
        " WHERE current_setting(name, true) IS NOT NULL",
        (local, list(settings), list(settings.values())),
    )


async def undo(connection: AnyioConnection[Any], names: list[str]) -> None:
    """Give settings of the session back the values that it began with."""
    await connection.execute("; ".join(f"RESET {name}" for name in names), prepare=False)


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))
