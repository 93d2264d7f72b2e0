"""Who is alive, who is found dead and goes on as somebody else, and who leads."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from horsies import (
    AppConfig,
    BrokerError,
    Environment,
    Horsies,
    Ok,
    RecoveryConfig,
    ResilienceConfig,
    RetentionConfig,
    RetryPolicy,
    Runtime,
    Task,
    TaskContext,
    TaskSendOptions,
    TaskStatus,
    Worker,
    WorkerConfig,
)
from horsies.abc import Consumer
from horsies.testing._conformance.stage import bury

from .conftest import until

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


@pytest.mark.parametrize("retried", [True, False])
async def test_who_was_found_dead_cancels_its_tasks_and_goes_on_as_somebody_else(app: Horsies, retried: bool) -> None:
    seen: list[str] = []
    wait = declare_wait(app, seen, retried=retried)
    async with Runtime(app) as rt:
        worker = rt.start_worker()
        handle = (await wait.handle(rt).send()).unwrap()
        await until(lambda: len(seen) == 1)
        before = worker.worker_id
        # It may hear that it is dead, and write how its task ended, before that is taken from it.
        taken = await bury(rt._engine.broker, QUICK)
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
        assert worker.statistics().lost == taken


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


@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_a_worker_in_which_a_thread_does_not_return_is_reborn_all_the_same(
    app: Horsies, timeout: float | None
) -> None:
    release = threading.Event()
    begun: list[str] = []

    @app.task(timeout=timeout)
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
            await bury(rt._engine.broker, QUICK)
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
    consumer = rt._engine.broker.consumer

    @asynccontextmanager
    async def lossy(worker_id: str, queues: Sequence[tuple[str, int]]) -> AsyncIterator[Consumer]:
        async with consumer(worker_id, queues) as real:
            beat = real.beat

            async def lose() -> bool:
                if losing:
                    raise BrokerError("lost", retryable=True)
                return await beat()

            monkeypatch.setattr(real, "beat", lose)
            yield real

    monkeypatch.setattr(rt._engine.broker, "consumer", lossy)
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
        return [worker._incarnation.leader is not None and worker._incarnation.leader.leads for worker in workers]

    async with Runtime(app) as rt:
        first = rt.start_worker()
        await until(lambda: first.is_ready)
        second = rt.start_worker()
        await until(lambda: second.is_ready)
        await anyio.sleep(2 * QUICK.dead_after)
        # One may take over from the other, when it has watched the database for longer.
        await until(lambda: sum(leaders(first, second)) == 1)
        leader, other = (first, second) if leaders(first) == [True] else (second, first)
        await leader.drain()
        await until(lambda: leaders(other) == [True])


async def test_two_workers_of_one_name_are_two_workers(app: Horsies) -> None:
    seen: list[str] = []
    release = anyio.Event()

    @app.task
    async def where(ctx: TaskContext) -> str:
        seen.append(ctx.worker_id)
        await release.wait()
        return ctx.worker_id

    async with Runtime(app) as rt:
        workers = [rt.start_worker(WorkerConfig(name="twin", concurrency=1)) for _ in range(2)]
        handles = [(await where.handle(rt).send()).unwrap() for _ in range(2)]
        await until(lambda: len(seen) == 2)
        assert sorted(seen) == sorted(worker.worker_id for worker in workers)
        assert all(name.startswith("twin:") for name in seen)
        release.set()
        assert sorted([(await handle.get(timeout=20)).unwrap() for handle in handles]) == sorted(seen)


# In memory the runtime's clock is the database's.
@pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True)
@pytest.mark.parametrize("minutes", [-10, 10])
async def test_clocks_that_differ_decide_nothing(config: AppConfig, minutes: int) -> None:
    """Whoever's clock is wrong: the database's says what is due, what is over and who is alive."""
    recovery = replace(QUICK, dead_after=2.0)  # a machine that stands still for as long would be right to end a life
    app = Horsies(replace(config, recovery=recovery))

    @app.task
    async def when(ctx: TaskContext) -> int:
        return ctx.attempt

    wrong = Environment(clock=lambda: datetime.now(UTC) + timedelta(minutes=minutes))
    async with Runtime(app, environment=wrong) as rt, Runtime(app) as right:
        rt.start_worker()
        begin = time.monotonic()
        delayed = (await when.handle(rt).schedule(0.3)).unwrap()
        overdue = when.handle(rt).with_options(TaskSendOptions(good_until=datetime.now(UTC) - timedelta(seconds=1)))
        expired = (await overdue.send()).unwrap()
        in_time = when.handle(rt).with_options(TaskSendOptions(good_until=datetime.now(UTC) + timedelta(minutes=5)))
        assert await (await in_time.send()).unwrap().get(timeout=20) == Ok(1)
        assert (await expired.get(timeout=20)).unwrap_err().code == "TASK_EXPIRED"
        assert await right.handle(delayed.task_id).get(timeout=20) == Ok(1)
        assert time.monotonic() - begin >= 0.3
        # For longer than `dead_after`, beside a leader whose clock is right.
        other = right.start_worker()
        names = [worker.worker_id for worker in (*rt._engine._workers, other)]
        await anyio.sleep(2 * recovery.dead_after)
        assert [worker.worker_id for worker in (*rt._engine._workers, other)] == names


async def test_what_ended_long_ago_is_removed(config: AppConfig) -> None:
    retention = RetentionConfig(finished_after=timedelta(seconds=0.2))
    app = Horsies(replace(config, recovery=QUICK, retention=retention))

    @app.task
    async def quick() -> int:
        return 1

    async with Runtime(app) as rt:
        rt.start_worker()
        handle = (await quick.handle(rt).send()).unwrap()
        assert await handle.get(timeout=20) == Ok(1)
        with anyio.fail_after(20):
            while (await handle.info()).unwrap() is not None:
                await anyio.sleep(0.02)
        error = (await rt.handle(handle.task_id).get(timeout=5)).unwrap_err()
        assert error.code == "TASK_NOT_FOUND"
