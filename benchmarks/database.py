"""The server that is measured on, and a database of its own for each measurement."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

import psycopg
from psycopg import errors

from horsies.testing.postgres import embedded_postgres

_DATABASE = re.compile(r"^(postgres(?:ql)?://[^/?]*)(?:/[^?]*)?")


@contextmanager
def server(url: str) -> Iterator[str]:
    """The server at `url`, or with none an embedded one with its usual durability."""
    with nullcontext(url) if url else embedded_postgres() as found:
        yield found


@contextmanager
def fresh_database(url: str) -> Iterator[str]:
    """A database that nobody has used, so that no measurement meets dead rows, catalogs or autovacuum of another."""
    with psycopg.connect(url, autocommit=True) as connection:
        name = f"horsies_bench_{os.getpid()}"
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield database_url(url, name)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def database_url(url: str, name: str) -> str:
    """`url` with another database. A URI, because not every driver of a peer reads libpq's other form."""
    return _DATABASE.sub(rf"\1/{name}", url)


def checkpoint(url: str) -> None:
    """Write out what preparing a measurement has left dirty, where the role may ask for it."""
    with psycopg.connect(url, autocommit=True) as connection, suppress(errors.InsufficientPrivilege):
        connection.execute("CHECKPOINT")


def version(url: str) -> str:
    with psycopg.connect(url) as connection:
        return str(connection.execute("SHOW server_version").fetchall()[0][0])
