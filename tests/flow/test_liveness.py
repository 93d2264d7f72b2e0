"""Who is alive, who is found dead and goes on as somebody else, and who leads."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from horsies import (
    AppConfig,
    BrokerError,
    Horsies,
    Ok,
    RecoveryConfig,
    ResilienceConfig,
    RetryPolicy,
    Runtime,
    Task,
    TaskContext,
    TaskStatus,
    Worker,
)
from horsies.abc import Consumer, Heartbeat

pytestmark = pytest.mark.anyio

QUICK = RecoveryConfig(heartbeat_interval=0.02, dead_after=0.5, reap_interval=0.05)


@pytest.fixture
def app(config: AppConfig) -> Horsies:
    return Horsies(replace(config, recovery=QUICK, resilience=ResilienceConfig(poll_interval=0.1)))


def declare_wait(app: Horsies, seen: list[str], *, retried: bool) -> Task[[], str]:
    """A task that waits for ever in its first attempt, and notes what becomes of it."""
    policy: Any = {"retry": RetryPolicy.fixed([0.01]), "retry_for": ("WORKER_CRASHED",)} if retried else {}

    @app.task("wait", **policy)
    async def wait(ctx: TaskContext) -> str:
        seen.append(f"began {ctx.attempt} {ctx.worker_id}")
        try:
            if ctx.attempt == 1:
                await anyio.sleep_forever()
            return ctx.worker_id
        except anyio.get_cancelled_exc_class():
            seen.append("cancelled")
            raise

    return wait


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.005)


async def bury(rt: Runtime) -> int:
    """What a leader does to workers whose heartbeat is old."""
    async with rt.broker.maintenance("undertaker") as undertaker:
        return await undertaker.reap(100, now=datetime.now(UTC) + timedelta(seconds=QUICK.dead_after + 1))


@pytest.mark.parametrize("retried", [True, False])
async def test_who_was_found_dead_cancels_its_tasks_and_goes_on_as_somebody_else(app: Horsies, retried: bool) -> None:
    seen: list[str] = []
    wait = declare_wait(app, seen, retried=retried)
    async with Runtime(app) as rt:
        worker = rt.start_worker()
        handle = (await wait.handle(rt).send()).unwrap()
        await until(lambda: len(seen) == 1)
        before = worker.worker_id
        assert await bury(rt) == 1
        await until(lambda: worker.is_ready and worker.worker_id != before)
        assert seen[:2] == [f"began 1 {before}", "cancelled"]
        result = await handle.get(timeout=20)
        if retried:
            assert result == Ok(worker.worker_id)
        else:
            assert result.unwrap_err().code == "WORKER_CRASHED"
        again = (await wait.handle(rt).send()).unwrap()
        await until(lambda: seen[-1] == f"began 1 {worker.worker_id}")
        await again.cancel()
        # What it wrote of the attempt that was taken from it did not count.
        assert worker.statistics().lost == 1


async def test_a_worker_that_was_frozen_knows_by_its_own_clock(app: Horsies) -> None:
    """Nobody else is there to find it dead."""
    seen: list[str] = []
    wait = declare_wait(app, seen, retried=True)

    @app.task
    async def block() -> None:
        time.sleep(2 * QUICK.dead_after)  # noqa: ASYNC251  # as a process that is stopped and goes on

    async with Runtime(app) as rt:
        worker = rt.start_worker()
        before = worker.worker_id
        handle = (await wait.handle(rt).send()).unwrap()
        await until(lambda: len(seen) == 1)
        (await block.handle(rt).send()).unwrap()
        assert await handle.get(timeout=20) == Ok(worker.worker_id)
        assert worker.worker_id != before
        info = (await handle.info(include_attempts=True)).unwrap()
        assert info is not None
        assert (info.status, info.attempt) == (TaskStatus.COMPLETED, 2)


async def test_a_worker_in_which_a_thread_does_not_return_is_reborn_all_the_same(app: Horsies) -> None:
    import threading

    release = threading.Event()
    begun: list[str] = []

    @app.task
    def stuck() -> None:
        begun.append("stuck")
        release.wait(30)

    @app.task
    async def quick() -> int:
        return 1

    try:
        async with Runtime(app) as rt:
            worker = rt.start_worker()
            handle = (await stuck.handle(rt).send()).unwrap()
            await until(lambda: bool(begun))
            before = worker.worker_id
            await bury(rt)
            assert (await handle.get(timeout=20)).unwrap_err().code == "WORKER_CRASHED"
            await until(lambda: worker.is_ready and worker.worker_id != before)
            assert await (await quick.handle(rt).send()).unwrap().get(timeout=20) == Ok(1)
            assert worker.statistics().abandoned == 1
    finally:
        release.set()


@asynccontextmanager
async def beats_lost(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[bool]]:
    """Every heartbeat fails as long as the list holds something."""
    losing: list[bool] = []
    consumer = rt.broker.consumer

    @asynccontextmanager
    async def lossy(worker_id: str, queues: Sequence[tuple[str, int]]) -> AsyncIterator[Consumer]:
        async with consumer(worker_id, queues) as real:
            beat: Callable[[], Awaitable[Heartbeat]] = real.beat

            async def lose() -> Heartbeat:
                if losing:
                    raise BrokerError("lost", retryable=True)
                return await beat()

            monkeypatch.setattr(real, "beat", lose)
            yield real

    monkeypatch.setattr(rt.broker, "consumer", lossy)
    yield losing


async def test_whose_heartbeat_cannot_be_written_claims_nothing(app: Horsies, monkeypatch: pytest.MonkeyPatch) -> None:
    @app.task
    async def quick() -> int:
        return 1

    async with Runtime(app) as rt, beats_lost(rt, monkeypatch) as losing:
        worker = rt.start_worker()
        assert await (await quick.handle(rt).send()).unwrap().get(timeout=20) == Ok(1)
        losing.append(True)
        await until(lambda: not worker.is_ready)
        handle = (await quick.handle(rt).send()).unwrap()
        assert (await handle.get(timeout=0.5)).unwrap_err().code == "WAIT_TIMEOUT"
        assert worker.statistics().claimed == 1
        before = worker.worker_id
        losing.clear()
        assert await handle.get(timeout=20) == Ok(1)
        # It tried all the time, and nobody found it dead: it is the same worker.
        assert worker.worker_id == before


async def test_only_one_looks_after_the_others_work_until_it_goes(app: Horsies) -> None:
    @app.task
    async def never() -> None: ...

    def leaders(*workers: Worker) -> list[bool]:
        return [worker._life.services is not None and worker._life.services.leads for worker in workers]

    async with Runtime(app) as rt:
        first = rt.start_worker()
        await until(lambda: first.is_ready)
        second = rt.start_worker()
        await until(lambda: second.is_ready)
        await anyio.sleep(2 * QUICK.dead_after)
        assert leaders(first, second) == [True, False]
        await first.drain()
        await until(lambda: leaders(second) == [True])
