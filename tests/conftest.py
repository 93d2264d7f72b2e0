"""Both event loops, both brokers, one real Postgres for the whole run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from horsies import AppConfig
from horsies.testing.postgres import embedded_postgres

LOOPS: list[Any] = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("trio", {}), id="trio"),
]
if os.environ.get("HORSIES_TEST_UVLOOP") == "1":
    LOOPS.append(pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"))

_numbers = count(1)


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """HORSIES_TEST_DATABASE_URL, or an embedded server of version HORSIES_TEST_PG_VERSION (18)."""
    if url := os.environ.get("HORSIES_TEST_DATABASE_URL"):
        yield url
        return
    with embedded_postgres(int(os.environ.get("HORSIES_TEST_PG_VERSION", "18")), durable=False) as url:
        yield url


@pytest.fixture
def schema() -> str:
    """A schema of this test's own."""
    return f"test_{os.getpid()}_{next(_numbers)}"


@pytest.fixture(params=["postgresql", "sqlite-file", "sqlite-memory"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return "sqlite://:memory:" if request.param == "sqlite-memory" else f"sqlite:///{tmp_path / 'horsies.db'}"


@pytest.fixture
def config(database_url: str, schema: str) -> AppConfig:
    """A fresh database for one test."""
    return AppConfig.for_database_url(database_url, schema=schema)
