"""`good_until` is the last instant to begin; a delay is the first."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from horsies import (
    AppConfig,
    Horsies,
    Ok,
    RecoveryConfig,
    ResilienceConfig,
    RetryPolicy,
    Runtime,
    TaskError,
    TaskSendOptions,
    TaskStatus,
    WorkerConfig,
)

from .conftest import Bench

pytestmark = pytest.mark.anyio


def soon(seconds: float) -> TaskSendOptions:
    return TaskSendOptions(good_until=datetime.now(UTC) + timedelta(seconds=seconds))


@pytest.fixture
def rare_polls(config: AppConfig) -> AppConfig:
    """Nothing is found by polling within the time of a test."""
    return replace(config, resilience=ResilienceConfig(poll_interval=60.0))


@pytest.fixture
def often_reaping(rare_polls: AppConfig) -> AppConfig:
    return replace(rare_polls, recovery=RecoveryConfig(reap_interval=0.02))


async def test_a_deadline_before_the_due_time_expires_and_wakes_the_waiter(often_reaping: AppConfig) -> None:
    app = Horsies(often_reaping)

    @app.task
    async def never() -> None:
        raise AssertionError("user code began")

    async with Runtime(app) as rt:
        rt.start_worker()
        handle = (await never.handle(rt).with_options(soon(0.05)).schedule(3600)).unwrap()
        assert (await handle.get(timeout=20)).unwrap_err().code == "TASK_EXPIRED"
        info = (await handle.info()).unwrap()
        assert info is not None
        assert (info.status, info.attempt, info.error_code) == (TaskStatus.EXPIRED, 0, "TASK_EXPIRED")


async def test_a_deadline_that_passes_while_claimed_never_runs_user_code(often_reaping: AppConfig) -> None:
    app = Horsies(often_reaping)
    started, release, runs = threading.Event(), threading.Event(), []

    @app.task
    def occupy(n: int) -> None:
        runs.append(n)
        started.set()
        release.wait(20)

    async with Runtime(app) as rt:
        worker = rt.start_worker(WorkerConfig(threads=1))
        first = (await occupy.handle(rt).send(1)).unwrap()
        with anyio.fail_after(20):
            while not started.is_set():
                await anyio.sleep(0.002)
        second = (await occupy.handle(rt).with_options(soon(0.3)).send(2)).unwrap()
        with anyio.fail_after(20):
            while worker.statistics().ready < 1:
                await anyio.sleep(0.002)
        # It is CLAIMED, no thread is free, and its waiter hears of the deadline all the same.
        assert (await second.get(timeout=20)).unwrap_err().code == "TASK_EXPIRED"
        release.set()
        assert await first.get(timeout=20) == Ok(None)
    assert runs == [1]


async def test_running_code_is_not_interrupted_by_its_deadline(often_reaping: AppConfig) -> None:
    app = Horsies(often_reaping)
    began = anyio.Event()

    @app.task
    async def outlast(until: datetime) -> str:
        began.set()
        await anyio.sleep((until - datetime.now(UTC)).total_seconds() + 0.1)
        return "done"

    async with Runtime(app) as rt:
        rt.start_worker()
        options = soon(0.5)
        assert options.good_until is not None
        handle = (await outlast.handle(rt).with_options(options).send(options.good_until)).unwrap()
        with anyio.fail_after(20):
            await began.wait()
        assert await handle.get(timeout=20) == Ok("done")


async def test_a_retry_past_the_deadline_is_none(config: AppConfig) -> None:
    app = Horsies(config)

    @app.task(retry=RetryPolicy.fixed([3600.0], jitter=False))
    async def fail() -> None:
        raise TaskError("NO_LUCK")

    async with Runtime(app) as rt:
        handle = (await fail.handle(rt).with_options(soon(60)).send()).unwrap()
        rt.start_worker()
        assert (await handle.get(timeout=20)).unwrap_err().code == "NO_LUCK"


async def test_expired_tasks_in_front_do_not_stop_an_idle_worker(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        add = bench.add.handle(rt)
        past = TaskSendOptions(good_until=datetime.now(UTC) - timedelta(seconds=1), priority=1)
        expired = await add.with_options(past).send_many([(1, 1)] * 3_000)
        behind = (await add.send(1, 2)).unwrap()
        await rt.run_worker(WorkerConfig(until_idle=True))
        assert await behind.get(timeout=20) == Ok(3)
        assert (await expired[-1].unwrap().get(timeout=20)).unwrap_err().code == "TASK_EXPIRED"


async def test_a_due_task_starts_without_a_poll(rare_polls: AppConfig) -> None:
    app = Horsies(rare_polls)
    began: list[datetime] = []

    @app.task
    async def note() -> None:
        began.append(datetime.now(UTC))

    async with Runtime(app) as rt:
        rt.start_worker()
        handles = [(await note.handle(rt).schedule(delay)).unwrap() for delay in (0.5, 0.1, 0.3)]
        infos = [(await handle.info()).unwrap() for handle in handles]
        for handle in handles:
            assert await handle.get(timeout=20) == Ok(None)
    due = sorted(info.due_at for info in infos if info is not None)
    assert all(begun >= promised for begun, promised in zip(sorted(began), due, strict=True))


async def test_a_delay_is_kept_to_the_millisecond_and_a_timedelta_is_as_good(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        for delay in (0.25, timedelta(milliseconds=250)):
            before = datetime.now(UTC)
            info = (await (await bench.add.handle(rt).schedule(delay, 1, 2)).unwrap().info()).unwrap()
            assert info is not None
            assert before <= info.due_at - timedelta(seconds=0.25) <= datetime.now(UTC)
