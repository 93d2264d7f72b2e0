"""A pooler before the one server, and a broker beside somebody who looks at what it does, for whoever asks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from pgbouncer import BINARY, PgBouncer, open_pgbouncer
from sessions import opened

from horsies import AppConfig
from horsies.plugins.postgres.driver import connection
from horsies.testing.broker import Stage


@pytest.fixture(scope="session")
def pgbouncer(postgres_url: str) -> Iterator[PgBouncer]:
    """PgBouncer in transaction mode."""
    if BINARY is None:
        pytest.skip("PgBouncer is not installed here")
    with open_pgbouncer(postgres_url) as pgbouncer:
        yield pgbouncer


@pytest.fixture
async def stage(anyio_backend: Any, config: AppConfig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    """A broker that keeps a connection whose statement is cancelled, however long the machine stands still meanwhile.

    Otherwise it would be closed after two seconds and replaced: right as well, but not what a test can count on.
    """
    monkeypatch.setattr(connection, "CLEANUP", 60.0)
    async with opened(config) as broker, Stage.on(broker) as stage:
        yield stage


@pytest.fixture
def observer(config: AppConfig) -> Iterator[psycopg.Connection]:
    with closing(psycopg.connect(config.url, autocommit=True)) as observer:
        yield observer
