"""What opens, closes: nothing outlives its scope, and a sync task reaches the event loop it came from."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.from_thread
import psycopg
import pytest

from horsies import (
    AppConfig,
    BrokerError,
    Err,
    Horsies,
    HorsiesError,
    Ok,
    QueueConfig,
    RetryPolicy,
    Runtime,
    TaskContext,
    TaskError,
    TaskResult,
    WorkerConfig,
)
from horsies.abc import Consumer, Start, StartOutcome

from .conftest import Bench, until

pytestmark = pytest.mark.anyio


def connections(config: AppConfig) -> int:
    """How many connections the server sees that horsies named."""
    with psycopg.connect(config.url, application_name="test") as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'horsies'").fetchone()
    assert row is not None
    count: int = row[0]
    return count


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("leave_by", ["return", "exception", "cancellation"])
async def test_no_connection_outlives_the_runtime(bench: Bench, leave_by: str) -> None:
    before = connections(bench.app.config)

    async def body(scope: anyio.CancelScope) -> None:
        async with Runtime(bench.app) as rt:
            rt.start_worker()
            handle = (await bench.add.handle(rt).send(1, 1)).unwrap()
            assert await handle.get(timeout=10) == Ok(2)
            (await bench.tasks["sleep_forever"].handle(rt).send()).unwrap()
            while "started" not in bench.seen:
                await anyio.sleep(0.005)
            assert connections(bench.app.config) > before
            if leave_by == "exception":
                raise KeyError("mine")
            if leave_by == "cancellation":
                scope.cancel()
                await anyio.sleep_forever()
            rt._engine._workers[0].cut_short()

    with anyio.CancelScope() as scope:
        if leave_by == "exception":
            with pytest.raises(KeyError):
                await body(scope)
        else:
            await body(scope)
    with anyio.fail_after(5):
        # The server takes a moment to see that a socket is closed.
        while connections(bench.app.config) > before:
            await anyio.sleep(0.01)
    assert bench.seen[-1] == "left"


async def test_no_thread_of_the_pool_outlives_the_runtime(bench: Bench) -> None:
    def pool_threads() -> set[str]:
        return {thread.name for thread in threading.enumerate() if thread.name.startswith("pool-")}

    before = pool_threads()
    async with Runtime(bench.app) as rt:
        await rt.check_live()
    gc.collect()
    assert pool_threads() == before


async def test_a_runtime_forgets_the_workers_that_have_stopped(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        for _ in range(3):
            await rt.start_worker(WorkerConfig(until_idle=True)).wait_stopped()
            await rt.run_worker(WorkerConfig(until_idle=True))
        await until(lambda: rt._engine._workers == [])


async def test_claims_of_a_cancelled_worker_are_given_back(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        hold = bench.tasks["hold"].handle(rt)
        handles = [(await hold.send()).unwrap() for _ in range(3)]
        async with anyio.create_task_group() as group:
            group.start_soon(rt.run_worker, WorkerConfig(concurrency=3, threads=1))
            while "started" not in bench.seen:
                await anyio.sleep(0.005)
            bench.release.set()
            group.cancel_scope.cancel()
        await rt.run_worker(WorkerConfig(until_idle=True))
        results = [(await handle.get(timeout=10)) for handle in handles]
        assert all(result.is_ok() for result in results)


async def test_a_sync_task_sends_through_its_thread(config: AppConfig) -> None:
    app = Horsies(config)

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    @app.task
    def outer(n: int) -> int:
        handle = anyio.from_thread.run(double.send, n).unwrap()
        return anyio.from_thread.run(handle.get, 10).unwrap()

    async with Runtime(app) as rt:
        rt.start_worker()
        assert await (await outer.send(4)).unwrap().get(timeout=20) == Ok(8)


async def test_a_sync_timeout_is_reported_at_once_and_its_late_result_dropped(config: AppConfig) -> None:
    app = Horsies(config)
    release = threading.Event()

    @app.task(timeout=0.05)
    def late() -> str:
        release.wait(20)
        return "too late"

    @app.task(timeout=0.05)
    async def asleep() -> None:
        await anyio.sleep_forever()

    async with Runtime(app) as rt:
        worker = rt.start_worker()
        handle = (await late.handle(rt).send()).unwrap()
        assert (await handle.get(timeout=10)).unwrap_err().code == "TASK_TIMEOUT"
        assert worker.statistics().running == 1
        release.set()
        assert (await (await asleep.handle(rt).send()).unwrap().get(timeout=10)).unwrap_err().code == "TASK_TIMEOUT"
    assert worker.statistics().completed == 0


async def test_a_sync_task_can_see_that_its_time_is_over(config: AppConfig) -> None:
    app = Horsies(config)

    @app.task(timeout=0.05)
    def until_told(ctx: TaskContext) -> None:
        while True:
            ctx.check_cancelled()
            time.sleep(0.001)

    async with Runtime(app) as rt:
        worker = rt.start_worker()
        handle = (await until_told.handle(rt).send()).unwrap()
        assert (await handle.get(timeout=10)).unwrap_err().code == "TASK_TIMEOUT"
        with anyio.fail_after(10):
            while worker.statistics().running:
                await anyio.sleep(0.002)


async def test_two_runtimes_leave_no_ambient_choice_but_the_innermost(bench: Bench, config: AppConfig) -> None:
    other = Horsies(config)
    async with Runtime(bench.app) as outer, Runtime(other):
        with pytest.raises(HorsiesError, match="not registered"):
            await bench.add.send(1, 2)
        assert (await bench.add.handle(outer).send(1, 2)).is_ok()


async def test_a_runtime_opens_once(bench: Bench) -> None:
    rt = Runtime(bench.app)
    async with rt:
        pass
    with pytest.raises(HorsiesError, match="opened before"):
        async with rt:
            pass
    with pytest.raises(HorsiesError, match="not open"):
        rt.start_worker()
    error = (await bench.add.handle(rt).send(1, 2)).unwrap_err()
    assert "closed" in error.message


async def test_the_declarations_of_the_tutorial(config: AppConfig) -> None:
    app = Horsies(
        AppConfig.for_database_url(
            config.url, schema=config.schema, queues=(QueueConfig("default"), QueueConfig("images"))
        )
    )

    @app.task("add_numbers")
    async def add_numbers(a: int, b: int) -> int:
        return a + b

    @app.task(
        "resize",
        queue="images",
        priority=10,
        retry=RetryPolicy.exponential(base=2.0, max_retries=5),
        retry_for=("RATE_LIMITED", "WORKER_CRASHED"),
    )
    def resize(ctx: TaskContext, path: str) -> bytes:
        assert ctx.state == "client"
        return path.encode()

    @app.task("divide")
    async def divide(a: int, b: int) -> TaskResult[float]:
        return Ok(a / b) if b else Err(TaskError("BY_ZERO"))

    @app.lifespan
    @asynccontextmanager
    async def resources(rt: Runtime) -> AsyncIterator[str]:
        yield "client"

    assert await add_numbers(2, 3) == 5
    async with Runtime(app) as rt, anyio.create_task_group() as group:
        await group.start(rt.run_worker)
        assert await (await add_numbers.handle(rt).send(2, 3)).unwrap().get(timeout=10) == Ok(5)
        assert await (await resize.handle(rt).send("a.png")).unwrap().get(timeout=10) == Ok(b"a.png")
        result = await (await divide.handle(rt).send(1, 0)).unwrap().get(timeout=10)
        assert result.map(str).map_err(lambda error: error.code) == Err("BY_ZERO")
        group.cancel_scope.cancel()


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_a_start_whose_answer_is_lost_still_runs_the_task_once(
    bench: Bench, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime(bench.app) as rt:
        handles = [(await bench.tasks["in_thread"].handle(rt).send(text)).unwrap() for text in "ab"]
        consumer = rt._engine.broker.consumer

        @asynccontextmanager
        async def lossy(worker_id: str, queues: Sequence[tuple[str, int]]) -> AsyncIterator[Consumer]:
            async with consumer(worker_id, queues) as real:
                start = real.start

                async def lose(starts: Sequence[Start]) -> list[StartOutcome]:
                    monkeypatch.setattr(real, "start", start)
                    if lost == "after":
                        await start(starts)
                    raise BrokerError("lost", retryable=True)

                monkeypatch.setattr(real, "start", lose)
                yield real

        monkeypatch.setattr(rt._engine.broker, "consumer", lossy)
        await rt.run_worker(WorkerConfig(until_idle=True, concurrency=4, threads=2))
        assert [await handle.get(timeout=10) for handle in handles] == [Ok("A"), Ok("B")]
    assert len([seen for seen in bench.seen if isinstance(seen, tuple)]) == 2
