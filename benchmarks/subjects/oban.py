"""Oban, the free version, on psycopg: Python 3.12 or newer.

The pool commits by itself, which saves a statement sent alone two exchanges. Where Oban needs a transaction it opens
one, and so does `send_many`: `enqueue_many` sends a statement per job. The queue's limit is the concurrency asked for.
`debounce_interval`, how long it gathers ended jobs before it stores their ends and fetches again, stays at its 5 ms:
1 ms was no faster, and 20 ms slower at a limit of 10. The free version stores no results, so that the state `completed`
is a job's stored end. Sync functions run on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
from oban import Oban, job, telemetry
from oban.schema import install_sql
from psycopg_pool import AsyncConnectionPool

from benchmarks.subjects import MARK, MARKS, NOTHING, SYNC, WAIT

LOOPS = ("asyncio", "uvloop")
KINDS = frozenset({NOTHING, WAIT, SYNC, MARK})

SCHEMA: LiteralString = "bench_oban"
LEFT: LiteralString = f"""
SELECT EXISTS (
    SELECT FROM {SCHEMA}.oban_jobs WHERE state IN ('available', 'scheduled', 'executing', 'retryable')
)
"""
COMPLETED: LiteralString = f"SELECT count(*) FROM {SCHEMA}.oban_jobs WHERE state = 'completed'"


@job()
async def nothing() -> None:
    pass


@job()
async def wait() -> None:
    await asyncio.sleep(0.001)


@job()
def sync() -> None:
    pass


@job()
async def mark() -> None:
    MARKS.append(time.perf_counter())


JOBS: dict[str, Any] = {NOTHING: nothing, WAIT: wait, SYNC: sync, MARK: mark}


class ObanQueue:
    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool
        self._client = Oban(pool=pool, prefix=SCHEMA)

    async def send(self, kind: str) -> None:
        await self._client.enqueue(JOBS[kind].new())

    async def send_many(self, kind: str, count: int) -> None:
        jobs = [JOBS[kind].new() for _ in range(count)]
        async with self._pool.connection() as connection, connection.transaction():
            await self._client.enqueue_many(jobs, conn=connection)

    async def drain(self, concurrency: int) -> None:
        dry = asyncio.Event()

        def note(_event: str, fetch: dict[str, Any]) -> None:
            if not fetch["count"]:
                dry.set()

        handler = str(uuid4())
        telemetry.attach(handler, ["oban.producer.get.stop"], note)
        try:
            async with self.worker(concurrency):
                # The question scans the table: it is seldom asked until a fetch has found nothing more to run.
                while await self._value(LEFT):
                    with suppress(TimeoutError):
                        await asyncio.wait_for(dry.wait(), timeout=1)
                    if dry.is_set():
                        await asyncio.sleep(0.01)
        finally:
            telemetry.detach(handler)

    @asynccontextmanager
    async def worker(self, concurrency: int) -> AsyncIterator[None]:
        # A start ends with the election of a leader, which comes after its connection listens.
        async with Oban(pool=self._pool, prefix=SCHEMA, queues={"default": concurrency}):
            yield

    async def stored(self) -> int:
        return await self._value(COMPLETED)

    async def _value(self, query: LiteralString) -> Any:
        async with self._pool.connection() as connection:
            [value] = await (await connection.execute(query)).fetchone()
        return value


@asynccontextmanager
async def open(url: str) -> AsyncIterator[ObanQueue]:
    # One of its functions is made without the prefix, hence the path.
    async with await psycopg.AsyncConnection.connect(
        url, autocommit=True, options=f"-c search_path={SCHEMA}"
    ) as connection:
        await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        await connection.execute(f"CREATE SCHEMA {SCHEMA}")
        await connection.execute(install_sql(SCHEMA))
    async with open_again(url) as queue:
        yield queue


@asynccontextmanager
async def open_again(url: str) -> AsyncIterator[ObanQueue]:
    async with AsyncConnectionPool(url, kwargs={"autocommit": True}, min_size=10, max_size=20, open=False) as pool:
        yield ObanQueue(pool)
