"""The server that is measured on, and a database of its own for each measurement."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

import psycopg
from psycopg import errors

from horsies.testing.postgres import embedded_postgres

_DATABASE = re.compile(r"^(postgres(?:ql)?://[^/?]*)(?:/[^?]*)?")
NAME = "horsies_bench"


@contextmanager
def server(url: str) -> Iterator[str]:
    """The server at `url`, or with none an embedded one with its usual durability."""
    with nullcontext(url) if url else embedded_postgres() as found:
        yield found


@contextmanager
def fresh_database(url: str) -> Iterator[str]:
    """A database that nobody has used, so that no measurement meets dead rows, catalogs or autovacuum of another."""
    with psycopg.connect(url, autocommit=True) as connection:
        drop = f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)"
        connection.execute(drop)
        connection.execute(f"CREATE DATABASE {NAME}")
        try:
            yield _DATABASE.sub(rf"\1/{NAME}", url)
        finally:
            connection.execute(drop)


def checkpoint(url: str) -> None:
    """Write out what preparing a measurement has left dirty, where the role may ask for it."""
    with psycopg.connect(url, autocommit=True) as connection, suppress(errors.InsufficientPrivilege):
        connection.execute("CHECKPOINT")


def version(url: str) -> str:
    with psycopg.connect(url) as connection:
        return str(connection.execute("SHOW server_version").fetchall()[0][0])
