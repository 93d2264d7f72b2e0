"""horsies itself, on Postgres. Each subject's settings are its defaults."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import psycopg

from horsies import AppConfig, Horsies, Runtime, Task, WorkerConfig, task

from . import MARK, MARKS, NOTHING, SYNC, WAIT

LOOPS = ("asyncio", "uvloop", "trio")
KINDS = frozenset({NOTHING, WAIT, SYNC, MARK})
SCHEMA = "horsies_bench"


@task("bench.nothing")
async def nothing() -> None: ...


@task("bench.wait")
async def wait() -> None:
    await anyio.sleep(0.001)


@task("bench.sync")
def sync() -> None: ...


@task("bench.mark")
async def mark() -> None:
    MARKS.append(time.perf_counter())


TASKS: dict[str, Task[[], None]] = {NOTHING: nothing, WAIT: wait, SYNC: sync, MARK: mark}


class HorsiesQueue:
    """A `Queue` of an open runtime, whatever its broker."""

    def __init__(self, rt: Runtime) -> None:
        self.rt = rt
        self._senders = {kind: one.handle(rt) for kind, one in TASKS.items()}

    async def send(self, kind: str) -> None:
        (await self._senders[kind].send()).unwrap()

    async def send_many(self, kind: str, count: int) -> None:
        for answer in await self._senders[kind].send_many([()] * count):
            answer.unwrap()

    async def drain(self, concurrency: int) -> None:
        await self.rt.run_worker(WorkerConfig(concurrency=concurrency, until_idle=True))

    @asynccontextmanager
    async def worker(self, concurrency: int) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            await group.start(self._run, WorkerConfig(concurrency=concurrency))
            yield
            group.cancel_scope.cancel()

    async def _run(self, config: WorkerConfig, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        await self.rt.run_worker(config, task_status=task_status)

    async def stored(self) -> int:
        async with self.rt.transaction() as connection:
            cursor = await connection.execute(f"SELECT count(*) FROM {SCHEMA}.tasks WHERE phase = 3")
            ((count,),) = await cursor.fetchall()
        return int(count)

    async def round_trip(self, kind: str) -> None:
        (await (await self._senders[kind].send()).unwrap().get()).unwrap()


def application(config: AppConfig) -> Horsies:
    app = Horsies(config)
    for one in TASKS.values():
        app.include(one)
    return app


@asynccontextmanager
async def open(url: str) -> AsyncIterator[HorsiesQueue]:
    def drop() -> None:
        with psycopg.connect(url) as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")

    await anyio.to_thread.run_sync(drop)
    async with open_again(url) as queue:
        yield queue


@asynccontextmanager
async def open_again(url: str) -> AsyncIterator[HorsiesQueue]:
    config: Any = AppConfig.for_database_url(url, schema=SCHEMA)
    async with Runtime(application(config)) as rt:
        yield HorsiesQueue(rt)
