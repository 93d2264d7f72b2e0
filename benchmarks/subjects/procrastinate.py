"""Procrastinate on psycopg, its async connector, with a pool of our own, as its documentation offers.

Its own pool tries each connection before it lends it and wraps each statement in a transaction: four exchanges for one
statement. Every statement of Procrastinate is complete in itself, so the pool here commits by itself and does not try.
A drain needs no notices; a worker that waits listens for them. Finished jobs stay in the table, its default. Its sync
tasks run in a thread. It stores no results of tasks: a job's status is its stored end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import psycopg
from procrastinate import App, PsycopgConnector
from psycopg_pool import AsyncConnectionPool

from benchmarks.subjects import MARK, MARKS, NOTHING, SYNC, WAIT

LOOPS = ("asyncio", "uvloop")
KINDS = frozenset({NOTHING, WAIT, SYNC, MARK})

SCHEMA = "bench_procrastinate"
SETTINGS = f"-c search_path={SCHEMA}"
BATCH = 1_000
LISTENING = """
SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state = 'idle' AND query LIKE 'LISTEN %%'
"""


def declare(app: App) -> dict[str, Any]:
    """The tasks of `app`, by kind."""

    @app.task(name=NOTHING)
    async def nothing() -> None:
        pass

    @app.task(name=WAIT)
    async def wait() -> None:
        await asyncio.sleep(0.001)

    @app.task(name=SYNC)
    def sync() -> None:
        pass

    @app.task(name=MARK)
    async def mark() -> None:
        MARKS.append(time.perf_counter())

    return {NOTHING: nothing, WAIT: wait, SYNC: sync, MARK: mark}


class ProcrastinateQueue:
    def __init__(self, app: App, pool: AsyncConnectionPool[Any], name: str) -> None:
        self._app = app
        self._pool = pool
        self._name = name
        self._tasks = declare(app)

    async def send(self, kind: str) -> None:
        await self._tasks[kind].defer_async()

    async def send_many(self, kind: str, count: int) -> None:
        for start in range(0, count, BATCH):
            await self._tasks[kind].batch_defer_async(*({} for _ in range(min(BATCH, count - start))))

    async def drain(self, concurrency: int) -> None:
        await self._app.run_worker_async(
            concurrency=concurrency, wait=False, listen_notify=False, install_signal_handlers=False
        )

    @asynccontextmanager
    async def worker(self, concurrency: int) -> AsyncIterator[None]:
        running = asyncio.create_task(
            self._app.run_worker_async(concurrency=concurrency, install_signal_handlers=False)
        )
        try:
            # It does not say when it listens. Its connection for that has the name of the pool, and nothing else to do.
            while not running.done() and not await self._count(LISTENING, self._name):
                await asyncio.sleep(0.01)
            yield
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    async def stored(self) -> int:
        return await self._count("SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'")

    async def _count(self, query: str, *values: str) -> int:
        async with self._pool.connection() as connection:
            [count] = await (await connection.execute(query, values)).fetchone()
        return count


@asynccontextmanager
async def open(url: str) -> AsyncIterator[ProcrastinateQueue]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        await connection.execute(f"CREATE SCHEMA {SCHEMA}")
    connector = PsycopgConnector(conninfo=url, kwargs={"options": SETTINGS}, min_size=1, max_size=1)
    async with App(connector=connector).open_async() as app:
        await app.schema_manager.apply_schema_async()
    async with open_again(url) as queue:
        yield queue


@asynccontextmanager
async def open_again(url: str) -> AsyncIterator[ProcrastinateQueue]:
    name = f"bench {uuid4()}"
    options = {"options": SETTINGS, "application_name": name}
    app = App(connector=PsycopgConnector())
    async with (
        AsyncConnectionPool(url, kwargs=options, configure=_commit_each, min_size=10, max_size=20, open=False) as pool,
        app.open_async(pool),
    ):
        yield ProcrastinateQueue(app, pool, name)


async def _commit_each(connection: psycopg.AsyncConnection[Any]) -> None:
    await connection.set_autocommit(True)
