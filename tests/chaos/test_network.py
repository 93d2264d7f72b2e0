"""The database goes away in every way a network knows, and comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest

from horsies import (
    AppConfig,
    Horsies,
    Ok,
    PoolConfig,
    RecoveryConfig,
    ResilienceConfig,
    Runtime,
    Task,
    TaskHandle,
    TaskSendErrorCode,
    WorkerConfig,
)
from horsies.testing.postgres import EmbeddedServer, embedded_server

from .proxy import Proxy, open_proxy

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

QUICK: dict[str, Any] = {
    "resilience": ResilienceConfig(poll_interval=0.5, retry_initial=0.02, retry_max=0.2, statement_timeout=1.0),
    "recovery": RecoveryConfig(heartbeat_interval=0.1, dead_after=2.0, reap_interval=0.2),
    "pool": PoolConfig(max_size=2, timeout=3.0),
}


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with embedded_server(durable=False) as server:
        yield server


@dataclass
class World:
    """An application that reaches its database through a proxy; its tasks note each run."""

    app: Horsies
    add: Task[[int, int], int]
    proxy: Proxy
    runs: dict[int, int] = field(default_factory=dict)

    async def send_until_done(self, rt: Runtime, numbers: range) -> list[TaskHandle[int]]:
        """Send each, replaying what was lost for as long as that may help."""
        add, handles = self.add.handle(rt), []
        for n in numbers:
            answer = await add.send(n, 0)
            with anyio.fail_after(30):
                while answer.is_err():
                    error = answer.unwrap_err()
                    assert (error.code, error.retryable) == (TaskSendErrorCode.ENQUEUE_FAILED, True), error
                    await anyio.sleep(0.02)
                    answer = await add.retry_send(error)
            handles.append(answer.unwrap())
        return handles


@asynccontextmanager
async def world_on(
    url: str, schema: str, *, statement_timeout: float | None = None, **fields: Any
) -> AsyncIterator[World]:
    if statement_timeout is not None:
        fields["resilience"] = replace(QUICK["resilience"], statement_timeout=statement_timeout)
    with open_proxy(url) as proxy:
        app = Horsies(AppConfig.for_database_url(proxy.url, schema=schema, **{**QUICK, **fields}))
        runs: dict[int, int] = {}

        @app.task
        async def add(a: int, b: int) -> int:
            runs[a] = runs.get(a, 0) + 1
            return a + b

        yield World(app, add, proxy, runs)


async def all_done(handles: list[TaskHandle[int]]) -> list[Any]:
    return [await handle.get(timeout=30) for handle in handles]


async def cut(proxy: Proxy) -> None:
    assert proxy.cut() > 0


async def say_fatal(proxy: Proxy) -> None:
    """Whatever the code, it is the end of a connection."""
    for code in ("57P05", "58000", "XX000", "25P03", "42501"):
        assert proxy.cut_with(code) > 0
        await anyio.sleep(0.1)


async def refuse(proxy: Proxy) -> None:
    proxy.refuses = True
    proxy.cut()
    await anyio.sleep(0.5)
    proxy.refuses = False


async def stall(proxy: Proxy) -> None:
    """Half-open: longer than a statement may take."""
    proxy.stall()
    await anyio.sleep(1.5)
    proxy.flow()


async def stall_and_cut(proxy: Proxy) -> None:
    proxy.stall()
    await anyio.sleep(1.5)
    proxy.cut()
    proxy.flow()


async def slow(proxy: Proxy) -> None:
    proxy.delay = 0.05
    await anyio.sleep(0.5)
    proxy.delay = 0.0


async def truncate(proxy: Proxy) -> None:
    proxy.cut_after = 2_000
    await anyio.sleep(0.5)
    proxy.cut_after = None
    proxy.cut()


@pytest.mark.parametrize("harm", [cut, say_fatal, refuse, stall, stall_and_cut, slow, truncate])
async def test_work_goes_on_by_itself_and_nothing_is_lost(
    server: EmbeddedServer, schema: str, harm: Callable[[Proxy], Awaitable[None]]
) -> None:
    async with world_on(server.url, schema) as world, Runtime(world.app) as rt:
        worker = rt.start_worker()
        assert await all_done(await world.send_until_done(rt, range(20))) == [Ok(n) for n in range(20)]
        async with anyio.create_task_group() as group:
            group.start_soon(harm, world.proxy)
            handles = await world.send_until_done(rt, range(20, 120))
        assert await all_done(handles) == [Ok(n) for n in range(20, 120)]
        assert set(world.runs) == set(range(120))
        assert worker.statistics().running == 0


@pytest.mark.parametrize("application", ["horsies"])
async def test_every_backend_is_terminated_in_turn(server: EmbeddedServer, schema: str, application: str) -> None:
    listed = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
    async with world_on(server.url, schema) as world, Runtime(world.app) as rt:
        rt.start_worker()
        assert await all_done(await world.send_until_done(rt, range(5))) == [Ok(n) for n in range(5)]
        async with anyio.create_task_group() as group:
            waiting = (await world.add.handle(rt).schedule(3, 1_000, 0)).unwrap()
            group.start_soon(waiting.get)
            with psycopg.connect(server.url, autocommit=True) as connection:
                pids = [pid for (pid,) in connection.execute(listed, (application,))]
                assert len(pids) >= 5  # sends, claims, results, and two that listen
                for n, pid in enumerate(pids):
                    connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
                    numbers = range(10 * (n + 1), 10 * (n + 2))
                    assert await all_done(await world.send_until_done(rt, numbers)) == [Ok(m) for m in numbers]
        assert await waiting.get(timeout=10) == Ok(1_000)


async def test_a_server_that_restarts_under_load(schema: str) -> None:
    with embedded_server(durable=False) as server:
        async with world_on(server.url, schema) as world, Runtime(world.app) as rt:
            rt.start_worker(WorkerConfig(concurrency=10))
            handles: list[TaskHandle[int]] = []

            async def send() -> None:
                handles.extend(await world.send_until_done(rt, range(300)))

            async with anyio.create_task_group() as group:
                group.start_soon(send)
                while len(world.runs) < 20:
                    await anyio.sleep(0.01)
                await anyio.to_thread.run_sync(server.stop)
                await anyio.sleep(0.3)
                await anyio.to_thread.run_sync(server.start)
            assert await all_done(handles) == [Ok(n) for n in range(300)]


async def test_a_failover_to_a_server_that_only_reads(server: EmbeddedServer, schema: str) -> None:
    async with world_on(server.url, schema) as world, Runtime(world.app) as rt:
        worker = rt.start_worker()
        assert await all_done(await world.send_until_done(rt, range(5))) == [Ok(n) for n in range(5)]
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            connection.execute("SELECT pg_reload_conf()")
            try:
                error = await _until_read_only(world, rt)
                assert (error.code, error.retryable) == (TaskSendErrorCode.ENQUEUE_FAILED, True)
                assert "25006" in error.message
            finally:
                connection.execute("SET default_transaction_read_only = off")
                connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
                connection.execute("SELECT pg_reload_conf()")
        assert await all_done(await world.send_until_done(rt, range(100, 105))) == [Ok(n) for n in range(100, 105)]
        assert worker.statistics().lost == 0


async def _until_read_only(world: World, rt: Runtime) -> Any:
    with anyio.fail_after(10):
        while (answer := await world.add.handle(rt).send(50, 0)).is_ok():
            await anyio.sleep(0.01)
    return answer.unwrap_err()


async def test_a_producer_without_a_database_gets_retryable_errors_within_a_bound(
    server: EmbeddedServer, schema: str
) -> None:
    async with world_on(server.url, schema) as world, Runtime(world.app) as rt:
        assert (await world.add.handle(rt).send(1, 0)).is_ok()
        world.proxy.refuses = True
        world.proxy.cut()
        with anyio.fail_after(10):
            for _ in range(3):
                error = (await world.add.handle(rt).send(1, 0)).unwrap_err()
                assert error.retryable
            assert (await rt.handle(error.task_id or "").info()).unwrap_err().retryable
        world.proxy.refuses = False
        assert (await world.add.handle(rt).retry_send(error)).is_ok()


@pytest.mark.parametrize("is_busy", [True, False])
async def test_a_database_that_hangs_does_not_hold_up_a_stop(
    server: EmbeddedServer, schema: str, is_busy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It takes what the running tasks may take, and a few seconds to give up on writing their results."""
    async with world_on(server.url, schema, statement_timeout=30.0) as world:
        began = anyio.Event()

        @world.app.task
        async def patient() -> None:
            began.set()
            await anyio.sleep_forever()

        with anyio.fail_after(30):
            async with Runtime(world.app) as rt:
                worker = rt.start_worker(WorkerConfig(drain_timeout=0.5))
                if is_busy:
                    assert (await patient.handle(rt).send()).is_ok()
                    await began.wait()
                else:
                    await all_done(await world.send_until_done(rt, range(1)))
                world.proxy.stall()
                with anyio.fail_after(12):
                    await worker.drain()
                assert worker.left_behind
        assert "could not write everything in time" in caplog.text


async def test_a_database_that_is_away_while_long_tasks_run_kills_none_of_them(
    server: EmbeddedServer, schema: str
) -> None:
    """Twice as long as a worker may be silent: everybody's heartbeat is old, and nobody is dead."""
    dead_after = 1.0
    recovery = RecoveryConfig(heartbeat_interval=0.1, dead_after=dead_after, reap_interval=0.1)
    async with world_on(server.url, schema, recovery=recovery) as world:
        begun: list[int] = []
        release = anyio.Event()

        @world.app.task
        async def long(n: int) -> int:
            begun.append(n)
            await release.wait()
            return n

        async with Runtime(world.app) as rt, Runtime(world.app) as other:
            workers = [rt.start_worker(), other.start_worker()]
            handles = [(await long.handle(rt).send(n)).unwrap() for n in range(4)]
            with anyio.fail_after(20):
                while len(begun) < 4:
                    await anyio.sleep(0.01)
            names = [worker.worker_id for worker in workers]
            world.proxy.refuses = True
            world.proxy.cut()
            await anyio.sleep(2 * dead_after)
            world.proxy.refuses = False
            # Long enough for a leader to trust the database again, and to look for the dead.
            await anyio.sleep(2 * dead_after)
            release.set()
            assert await all_done(handles) == [Ok(n) for n in range(4)]
            assert sorted(begun) == [0, 1, 2, 3]
            assert [worker.worker_id for worker in workers] == names


async def test_work_goes_on_soon_after_the_database_is_back(server: EmbeddedServer, schema: str) -> None:
    """Although it was away for so long that the worker had to show first that it lives."""
    recovery = RecoveryConfig(heartbeat_interval=0.1, dead_after=0.5, reap_interval=0.1)
    resilience = ResilienceConfig(poll_interval=60.0, retry_initial=0.02, retry_max=0.2, statement_timeout=1.0)
    opening = world_on(server.url, schema, recovery=recovery, resilience=resilience)
    async with opening as world, Runtime(world.app) as rt:
        rt.start_worker()
        await all_done(await world.send_until_done(rt, range(1)))
        world.proxy.refuses = True
        world.proxy.cut()
        await anyio.sleep(1.0)
        world.proxy.refuses = False
        handles = await world.send_until_done(rt, range(1, 2))
        assert await all_done(handles) == [Ok(1)]
