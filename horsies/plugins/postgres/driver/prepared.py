"""Statements of a hot path: prepared once for each connection, and run without a cursor.

What a cursor does each time (look the query up, find each parameter's type, choose how rows are read) is 0.1 ms, which
is a third of a statement that finds nothing. The protocol, the waiting and the reading of rows are psycopg's as ever.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any

from psycopg import DataError, errors
from psycopg.abc import PQGen
from psycopg.adapt import Transformer
from psycopg.generators import execute
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow

from .array_codec import PARAMETER, encode_array
from .connection import AnyioConnection, WaitExpired


@dataclass(frozen=True, slots=True)
class _Statement:
    """A query for the server: its text, and of what type each array among its parameters is."""

    text: bytes
    arrays: Mapping[str, str]
    formats: tuple[Format, ...]


@cache
def _statement(query: str) -> _Statement:
    arrays = {name: array for name, array in PARAMETER.findall(query) if array}
    names = list(dict.fromkeys(name for name, _ in PARAMETER.findall(query)))
    text = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", query)
    return _Statement(
        text.encode(),
        {name: arrays.get(name, "") for name in names},
        tuple(Format.BINARY if name in arrays else Format.TEXT for name in names),
    )


class Statements:
    """Runs statements over `connection`, one at a time."""

    def __init__(self, connection: AnyioConnection[Any]) -> None:
        self.connection = connection
        self._rows = Transformer(connection)
        self._names = (f"horsies_{number}".encode() for number in count())
        self._prepared: dict[str, bytes] = {}

    async def fetch(
        self, query: str, parameters: Mapping[str, object], *, timeout: float | None = None
    ) -> list[TupleRow]:
        """The rows of `query`, whose every parameter the server can tell the type of, by a cast or by its place.

        Args:
            timeout: seconds; None: for ever.

        Raises:
            psycopg.Error: it failed.
            TimeoutError: it took longer, and was cancelled.
        """
        statement = _statement(query)
        values = [
            encode_array(name, array, parameters[name]) if array else _scalar(name, parameters[name])
            for name, array in statement.arrays.items()
        ]
        try:
            return await self.connection.wait(self._run(query, statement, values), timeout=timeout)
        except WaitExpired:
            raise TimeoutError from None

    async def command(self, command: bytes) -> None:
        """Run what has no parameters and gives no rows. Raises: psycopg.Error."""
        self.connection.pgconn.send_query(command)
        await self.connection.wait(self._result())

    def _run(self, query: str, statement: _Statement, values: list[bytes | None]) -> PQGen[list[TupleRow]]:
        try:
            result = yield from self._execute(query, statement, values)
        except (errors.InvalidSqlStatementName, errors.FeatureNotSupported):
            # Somebody let the connection forget what was prepared, as psycopg does after a rollback, or has changed a
            # table, so that what was prepared gives other columns by now. Nothing has run.
            self._prepared.pop(query, None)
            if self.connection.pgconn.transaction_status == TransactionStatus.INERROR:
                raise  # the transaction is lost, and whoever tries it again prepares anew
            result = yield from self._execute(query, statement, values)
        self._rows.set_pgresult(result)
        try:
            return self._rows.load_rows(0, result.ntuples, tuple)
        except (ValueError, OverflowError, DataError):
            # It may quote what it cannot read.
            raise errors.DataException("a stored value cannot be read") from None

    def _execute(self, query: str, statement: _Statement, values: list[bytes | None]) -> PQGen[PGresult]:
        pgconn = self.connection.pgconn
        name = self._prepared.get(query)
        if name is None:
            name = next(self._names)
            pgconn.send_prepare(name, statement.text)
            yield from self._result()
            self._prepared[query] = name
        pgconn.send_query_prepared(name, values, statement.formats, Format.BINARY)
        return (yield from self._result())

    def _result(self) -> PQGen[PGresult]:
        results: list[PGresult] = yield from execute(self.connection.pgconn)
        for result in results:
            # What fails at the commit comes after the answer that the statement is done.
            if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
                raise errors.error_from_result(result, encoding=self.connection.info.encoding)
        return results[0]


def _scalar(name: str, value: object) -> bytes | None:
    """`value` as text, which the server reads by the type it found for the parameter."""
    if value is None:
        return None
    text = str(value)
    if "\0" in text:
        raise DataError(f"parameter {name!r} has a NUL in it, which no text in Postgres can have")
    return text.encode()
