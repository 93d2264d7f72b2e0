"""Where somebody else's transaction, a cancellation or a slow commit comes in between what a broker writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import anyio
import psycopg

from horsies import AppConfig, Horsies, Runtime
from horsies.abc import Broker, Transactional
from horsies.plugins.postgres.driver.session import Session
from horsies.testing.broker import T0

FOREVER = "60s"
"""In place of LOCK_WAIT where a test wants what waits to go on waiting."""


def opened(config: AppConfig) -> Any:
    return Runtime(Horsies(config)).broker_factory().open(config, clock=lambda: T0)


async def pooled(broker: Broker) -> Any:
    """Which connection the pool lends, and what would be left of a call in it."""
    assert isinstance(broker, Transactional)
    async with broker.transaction() as connection:
        cursor = await connection.execute(
            "SELECT pg_backend_pid(), current_setting('lock_timeout'), current_setting('transaction_isolation')"
        )
        return await cursor.fetchone()


async def until_waiting(observer: psycopg.Connection, config: AppConfig, table: str, sessions: int = 1) -> None:
    """Return once so many sessions wait for a lock or in a commit, with this table in hand."""
    query = """
        SELECT count(*) FROM pg_stat_activity AS session
        WHERE pid <> pg_backend_pid() AND wait_event_type IN ('Lock', 'Timeout') AND EXISTS (
            SELECT FROM pg_locks WHERE pg_locks.pid = session.pid
            AND relation = to_regclass(%s)
        )
    """
    with anyio.fail_after(10):
        while observer.execute(query, (f"{config.schema}.{table}",)).fetchone() != (sessions,):
            await anyio.sleep(0.005)


def slow_commit(observer: psycopg.Connection, config: AppConfig, table: str, wait: str = "pg_sleep(60)") -> None:
    """From now on whoever changes a row of `table` waits before the commit."""
    observer.execute(
        f"""
        CREATE FUNCTION {config.schema}.linger() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM {wait}; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER linger AFTER UPDATE ON {config.schema}.{table} DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION {config.schema}.linger()
        """.encode()
    )


def quick_commit(observer: psycopg.Connection, config: AppConfig, table: str) -> None:
    observer.execute(f"DROP TRIGGER linger ON {config.schema}.{table}".encode())


Hold = Callable[[AppConfig], AbstractContextManager[None]]


def holding(statement: str) -> Hold:
    """In the block a transaction that has made `statement` is open; afterwards it is rolled back."""

    @contextmanager
    def hold(config: AppConfig) -> Iterator[None]:
        with closing(psycopg.connect(config.url)) as holder:
            holder.execute(statement.replace("{schema}", config.schema).encode())
            yield
            holder.rollback()

    return hold


async def pid(session: Session) -> int:
    """Of the server process that serves it."""
    ((number,),) = await session.fetch("ask", "SELECT pg_backend_pid()", {})
    return int(number)
