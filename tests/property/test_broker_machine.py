"""The shipped brokers against the model, on both loops. HORSIES_DEEP=1 runs hundreds of examples, and longer ones."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager, closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import anyio.to_thread
import psycopg
import pytest
from hypothesis import settings

from horsies import AppConfig, Horsies, Runtime
from horsies._core.status import TRANSITIONS
from horsies.abc import Broker
from horsies.testing.broker import CHANGES, T0
from horsies.testing.machine import run_broker_machine

DEEP = os.environ.get("HORSIES_DEEP") == "1"
MINUTES = 60

pytestmark = pytest.mark.timeout(60 * MINUTES if DEEP else 60)


def profile(short: int, deep: int) -> settings:
    """So many examples; the deep ones are longer, too."""
    return settings(
        deadline=None,
        print_blob=True,
        max_examples=deep if DEEP else short,
        stateful_step_count=60 if DEEP else 30,
    )


def opened(config: AppConfig) -> AbstractAsyncContextManager[Broker]:
    return Runtime(Horsies(config)).broker_factory().open(config, clock=lambda: T0)


def test_sqlite_in_memory(anyio_backend: Any) -> None:
    backend, options = anyio_backend
    config = AppConfig(url="sqlite://:memory:")
    run_broker_machine(partial(opened, config), backend=backend, backend_options=options, settings=profile(30, 800))


def test_sqlite_in_a_file(anyio_backend: Any, tmp_path: Path) -> None:
    backend, options = anyio_backend
    files = (tmp_path / f"{number}.db" for number in count())

    def open_next() -> AbstractAsyncContextManager[Broker]:
        return opened(AppConfig(url=f"sqlite:///{next(files)}"))

    run_broker_machine(open_next, backend=backend, backend_options=options, settings=profile(10, 250))


def test_postgres(anyio_backend: Any, postgres_url: str, schema: str) -> None:
    backend, options = anyio_backend
    config = AppConfig(url=postgres_url, schema=schema)
    with closing(psycopg.connect(postgres_url, autocommit=True)) as connection:

        async def empty() -> None:
            # Not TRUNCATE: after that the server would plan every prepared statement anew.
            free = f"UPDATE {schema}.leases SET holder = NULL, expires_at = '-infinity'"
            await anyio.to_thread.run_sync(
                connection.execute, f"DELETE FROM {schema}.tasks; DELETE FROM {schema}.workers; {free}"
            )

        run_broker_machine(
            partial(opened, config),
            backend=backend,
            backend_options=options,
            empty=empty,
            settings=profile(15, 400),
        )


def test_the_laws_are_those_of_the_core() -> None:
    assert {(before, after) for before, found in TRANSITIONS.items() for after in found} == CHANGES
