"""Cancelling a task wherever it stands, and what its worker makes of it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import anyio
import pytest

from horsies import (
    AppConfig,
    CancelOutcome,
    Horsies,
    Ok,
    ResilienceConfig,
    RetryPolicy,
    Runtime,
    Task,
    TaskContext,
    TaskError,
    TaskStatus,
    WorkerConfig,
)
from horsies.abc import Consumer, Start, StartOutcome

from .conftest import Bench

pytestmark = pytest.mark.anyio

UNTIL_IDLE = WorkerConfig(until_idle=True)


class Signals:
    """What a task tells the test, and what it waits for."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.runs = 0

    async def wait_started(self) -> None:
        with anyio.fail_after(20):
            while not self.started.is_set():
                await anyio.sleep(0.002)


@pytest.fixture
def rare_polls(config: AppConfig) -> AppConfig:
    """Nothing is found by polling within the time of a test."""
    return replace(config, resilience=ResilienceConfig(poll_interval=60.0))


async def test_what_waits_is_cancelled_and_never_runs(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        add = bench.add.handle(rt)
        now, later = (await add.send(1, 2)).unwrap(), (await add.schedule(3600, 1, 2)).unwrap()
        assert await now.cancel() == Ok(CancelOutcome.CANCELLED)
        assert await later.cancel() == Ok(CancelOutcome.CANCELLED)
        assert await now.cancel() == Ok(CancelOutcome.ALREADY_FINISHED)
        assert (await later.get(timeout=5)).unwrap_err().code == "TASK_CANCELLED"
        await rt.run_worker(UNTIL_IDLE)
        info = (await now.info(include_result=True, include_failed_reason=True)).unwrap()
        assert info is not None
        assert (info.status, info.attempt, info.error_code) == (TaskStatus.CANCELLED, 0, "TASK_CANCELLED")
        assert info.failed_reason == "TASK_CANCELLED: the task was cancelled"
        assert await rt.handle("0197a7a0-0000-7000-8000-000000000000").cancel() == Ok(CancelOutcome.NOT_FOUND)
        assert await rt.handle("nonsense").cancel() == Ok(CancelOutcome.NOT_FOUND)


async def test_a_claimed_task_that_waits_for_a_thread_is_cancelled(config: AppConfig) -> None:
    app, signals = Horsies(config), Signals()

    @app.task
    def occupy() -> None:
        signals.runs += 1
        signals.started.set()
        signals.go_on.wait(20)

    async with Runtime(app) as rt:
        worker = rt.start_worker(WorkerConfig(threads=1))
        handles = [(await occupy.handle(rt).send()).unwrap() for _ in range(2)]
        await signals.wait_started()
        with anyio.fail_after(10):
            while worker.statistics().ready < 1:
                await anyio.sleep(0.002)
        (waiting,) = [
            handle
            for handle in handles
            if (await handle.info()).map(lambda i: i and i.status) == Ok(TaskStatus.CLAIMED)
        ]
        assert await waiting.cancel() == Ok(CancelOutcome.CANCELLED)
        signals.go_on.set()
        for handle in handles:
            result = await handle.get(timeout=10)
            assert result == Ok(None) if handle.task_id != waiting.task_id else result.is_err()
    assert signals.runs == 1


async def test_a_running_async_task_is_cancelled_where_it_waits(rare_polls: AppConfig) -> None:
    app, signals = Horsies(rare_polls), Signals()

    @app.task(retry=RetryPolicy.fixed([0.01]), retry_for=("WORKER_CRASHED", "UNHANDLED_ERROR", "TASK_TIMEOUT"))
    async def wait(ctx: TaskContext) -> None:
        signals.runs += 1
        signals.started.set()
        try:
            await anyio.sleep_forever()
        finally:
            signals.go_on.set()
            assert ctx.cancelled

    async with Runtime(app) as rt:
        worker = rt.start_worker()
        handle = (await wait.handle(rt).send()).unwrap()
        await signals.wait_started()
        assert await handle.cancel() == Ok(CancelOutcome.REQUESTED)
        assert (await handle.get(timeout=10)).unwrap_err().code == "TASK_CANCELLED"
        assert signals.go_on.is_set()
        assert await handle.cancel() == Ok(CancelOutcome.ALREADY_FINISHED)
        await worker.drain()
        assert worker.statistics().cancelled == 1
    assert signals.runs == 1


@pytest.mark.parametrize("ends", ["with a result", "with a failure", "by looking"])
async def test_a_running_sync_task_sees_it_and_is_not_tried_again(rare_polls: AppConfig, ends: str) -> None:
    app, signals = Horsies(rare_polls), Signals()

    @app.task(retry=RetryPolicy.fixed([0.01]))
    def work(ctx: TaskContext) -> str:
        signals.runs += 1
        signals.started.set()
        while not ctx.cancelled:
            signals.go_on.wait(0.005)
        if ends == "by looking":
            ctx.check_cancelled()
        if ends == "with a failure":
            raise TaskError("NO_LUCK")
        return "done"

    async with Runtime(app) as rt:
        rt.start_worker()
        handle = (await work.handle(rt).send()).unwrap()
        await signals.wait_started()
        assert await handle.cancel() == Ok(CancelOutcome.REQUESTED)
        result = await handle.get(timeout=10)
        assert result == Ok("done") if ends == "with a result" else result.unwrap_err().code == "TASK_CANCELLED"
    assert signals.runs == 1


async def test_a_request_whose_notice_was_lost_is_found_with_the_next_heartbeat(
    config: AppConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    recovery = replace(config.recovery, heartbeat_interval=0.05)
    app, signals = Horsies(replace(config, recovery=recovery)), Signals()
    monkeypatch.setattr("horsies._worker.intake.dispatcher.Dispatcher.notice", lambda self, names: self._wake.set())

    @app.task
    async def wait() -> None:
        signals.started.set()
        await anyio.sleep_forever()

    async with Runtime(app) as rt:
        handle = (await wait.handle(rt).send()).unwrap()
        rt.start_worker()
        await signals.wait_started()
        assert await handle.cancel() == Ok(CancelOutcome.REQUESTED)
        assert (await handle.get(timeout=10)).unwrap_err().code == "TASK_CANCELLED"


async def test_an_async_task_that_ends_all_the_same_keeps_its_result(config: AppConfig) -> None:
    app, signals = Horsies(config), Signals()

    @app.task
    async def stubborn() -> str:
        signals.started.set()
        with anyio.CancelScope(shield=True):
            while not signals.go_on.is_set():
                await anyio.sleep(0.002)
        return "done"

    async with Runtime(app) as rt:
        rt.start_worker()
        handle = (await stubborn.handle(rt).send()).unwrap()
        await signals.wait_started()
        assert await handle.cancel() == Ok(CancelOutcome.REQUESTED)
        signals.go_on.set()
        assert await handle.get(timeout=10) == Ok("done")


async def test_a_timeout_leaves_the_slot_occupied_until_the_thread_ends(config: AppConfig) -> None:
    app, signals = Horsies(config), Signals()

    @app.task(timeout=timedelta(seconds=0.05))
    def late() -> str:
        signals.runs += 1
        signals.started.set()
        signals.go_on.wait(20)
        return "too late"

    async with Runtime(app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=1))
        first, second = [(await late.handle(rt).send()).unwrap() for _ in range(2)]
        assert (await first.get(timeout=10)).unwrap_err().code == "TASK_TIMEOUT"
        assert (worker.statistics().running, signals.runs) == (1, 1)
        info = (await second.info()).unwrap()
        assert info is not None
        assert info.status is TaskStatus.PENDING
        signals.go_on.set()
        assert await second.get(timeout=10) == Ok("too late")
        info = (await first.info(include_result=True)).unwrap()
        assert info is not None
        assert info.error_code == "TASK_TIMEOUT"


@pytest.mark.parametrize("where", ["in the nursery", "in a thread", "in a thread, with a timeout"])
async def test_a_request_that_comes_while_a_task_is_being_started_keeps_it_from_running(
    rare_polls: AppConfig, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    app, signals = Horsies(rare_polls), Signals()

    async def in_nursery() -> None:
        signals.runs += 1

    def in_thread() -> None:
        signals.runs += 1

    declared = app.task(
        "never",
        retry=RetryPolicy.fixed([0.01]),
        retry_for=("WORKER_CRASHED",),
        timeout=60.0 if where == "in a thread, with a timeout" else None,
    )
    never: Task[[], None] = declared(in_nursery) if where == "in the nursery" else declared(in_thread)

    async with Runtime(app) as rt:
        handle = (await never.handle(rt).send()).unwrap()
        consumer = rt._engine.broker.consumer

        @asynccontextmanager
        async def slow_to_start(worker_id: str, queues: Sequence[tuple[str, int]]) -> AsyncIterator[Consumer]:
            async with consumer(worker_id, queues) as real:
                start = real.start

                async def slow(starts: Sequence[Start]) -> list[StartOutcome]:
                    outcomes = await start(starts)
                    assert await handle.cancel() == Ok(CancelOutcome.REQUESTED)
                    with anyio.fail_after(10):
                        while not worker._incarnation.dispatcher.starter.starting[0].is_cancelled:
                            await anyio.sleep(0.002)
                    return outcomes

                monkeypatch.setattr(real, "start", slow)
                yield real

        monkeypatch.setattr(rt._engine.broker, "consumer", slow_to_start)
        worker = rt.start_worker()
        assert (await handle.get(timeout=10)).unwrap_err().code == "TASK_CANCELLED"
    assert signals.runs == 0
