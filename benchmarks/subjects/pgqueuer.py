"""PgQueuer on asyncpg, the faster of its drivers by its own figures, its tables durable.

Sending and working share a pool: a worker on a connection of its own, which it recommends, was slower.
`batch_size` is the concurrency asked for: the worker claims a batch, starts it and claims the next, so that a batch is
about what runs at once. `max_concurrent_tasks` is left unset, its default: a full worker sleeps 0.1 s before it looks
again, and on a pool a cap of 100 cost more than half of the throughput, one of 10 nearly all. Autovacuum is set as its
checklist says; the statistics are summed up when they are read, not on a timer. Ends of jobs wait in its buffer until
there are `batch_size` of them, or for 0.1 s, and a round trip with them. It has async functions only: a sync one goes
to a thread by hand. It stores no results: a job's last status in its log is its stored end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
from pgqueuer import AsyncpgPoolDriver, Job, Queries, QueueManager
from pgqueuer.core.completion import CompletionWatcher
from pgqueuer.errors import FailingListenerError
from pgqueuer.types import QueueExecutionMode

from benchmarks.subjects import MARK, MARKS, NOTHING, SYNC, WAIT

LOOPS = ("asyncio", "uvloop")
KINDS = frozenset({NOTHING, WAIT, SYNC, MARK})

SCHEMA = "bench_pgqueuer"


async def nothing(_job: Job) -> None:
    pass


async def wait(_job: Job) -> None:
    await asyncio.sleep(0.001)


async def sync(_job: Job) -> None:
    await asyncio.to_thread(lambda: None)


async def mark(_job: Job) -> None:
    MARKS.append(time.perf_counter())


class PgQueuerQueue:
    def __init__(self, pool: asyncpg.Pool[Any], driver: AsyncpgPoolDriver, closing: AsyncExitStack) -> None:
        self._pool = pool
        self._closing = closing
        self._queries = Queries(driver)
        self._watcher: CompletionWatcher | None = None

    async def send(self, kind: str) -> None:
        await self._queries.enqueue(kind, None)

    async def send_many(self, kind: str, count: int) -> None:
        await self._queries.enqueue([kind] * count, [None] * count, [0] * count)

    async def drain(self, concurrency: int) -> None:
        # The last tasks of a drain may end between two looks at the queue: 10 ms later it looks again.
        await self._manager().run(
            batch_size=concurrency,
            mode=QueueExecutionMode.drain,
            dequeue_timeout=timedelta(milliseconds=10),
            log_aggregation_interval=timedelta(0),
        )

    @asynccontextmanager
    async def worker(self, concurrency: int) -> AsyncIterator[None]:
        manager = self._manager()
        running = asyncio.create_task(manager.run(batch_size=concurrency, log_aggregation_interval=timedelta(0)))
        try:
            while not running.done():
                try:
                    await manager.listener_healthy(timeout=timedelta(milliseconds=50))
                    break
                except FailingListenerError:
                    continue
            yield
        finally:
            manager.shutdown.set()
            await running

    async def stored(self) -> int:
        return await self._pool.fetchval("SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'")

    async def round_trip(self, kind: str) -> None:
        if self._watcher is None:
            # Without a pause to gather notices in, its quickest answer.
            watcher = CompletionWatcher(self._queries.driver, queries=self._queries, debounce=timedelta(0))
            self._watcher = await self._closing.enter_async_context(watcher)
        [job_id] = await self._queries.enqueue(kind, None)
        await self._watcher.wait_for(job_id)

    def _manager(self) -> QueueManager:
        manager = QueueManager(Queries(AsyncpgPoolDriver(self._pool)))
        for kind, function in ((NOTHING, nothing), (WAIT, wait), (SYNC, sync), (MARK, mark)):
            manager.entrypoint(kind)(function)
        return manager


@asynccontextmanager
async def open(url: str) -> AsyncIterator[PgQueuerQueue]:
    connection = await asyncpg.connect(url, server_settings={"search_path": SCHEMA})
    try:
        await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA}")
        queries = Queries.from_asyncpg_connection(connection)
        await queries.install()
        await queries.optimize_autovacuum()
    finally:
        await connection.close()
    async with open_again(url) as queue:
        yield queue


@asynccontextmanager
async def open_again(url: str) -> AsyncIterator[PgQueuerQueue]:
    async with (
        asyncpg.create_pool(url, min_size=10, max_size=20, server_settings={"search_path": SCHEMA}) as pool,
        AsyncpgPoolDriver(pool) as driver,
        AsyncExitStack() as closing,
    ):
        yield PgQueuerQueue(pool, driver, closing)
