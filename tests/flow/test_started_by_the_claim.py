"""What a claim has started begins at once, or never began: whatever becomes of its answer, no attempt is burnt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from horsies import (
    AppConfig,
    BrokerError,
    CancelOutcome,
    Horsies,
    Ok,
    ResilienceConfig,
    RetryPolicy,
    Runtime,
    TaskContext,
    TaskSendOptions,
    TaskStatus,
    WorkerConfig,
)
from horsies._worker.intake import claimer as claims
from horsies.abc import Claim, Consumer, Promotion, StartOutcome
from horsies.testing._conformance.stage import bury

from .conftest import until

pytestmark = pytest.mark.anyio

OnClaim = Callable[[Claim], Awaitable[None]]
"""Called when the broker has claimed something, before the worker hears of it."""


class Counting:
    """An application that counts its runs. `plain` ends with a crash of its worker, `stubborn` does not."""

    def __init__(self, config: AppConfig) -> None:
        resilience = ResilienceConfig(poll_interval=60.0, retry_initial=0.01)
        self.app = Horsies(replace(config, resilience=resilience))
        self.runs: list[str] = []

        @self.app.task("plain")
        async def plain() -> str:
            self.runs.append("plain")
            return "plain"

        @self.app.task("stubborn", retry=RetryPolicy.fixed([0.01]), retry_for=("WORKER_CRASHED",))
        async def stubborn() -> str:
            self.runs.append("stubborn")
            return "stubborn"

        self.plain, self.stubborn = plain, stubborn


@pytest.fixture
def counting(config: AppConfig) -> Counting:
    return Counting(config)


def on_claim(
    rt: Runtime, monkeypatch: pytest.MonkeyPatch, act: OnClaim, ask: Callable[[int], None] = lambda _: None
) -> list[Consumer]:
    """Have `act` called at each claim that took something, and `ask` before each with its number, from 1.

    The answer holds the consumers that there will be.
    """
    consumer, consumers, numbers = rt._engine.broker.consumer, list[Consumer](), count(1)

    @asynccontextmanager
    async def watched(worker_id: str, queues: Sequence[tuple[str, int]]) -> AsyncIterator[Consumer]:
        async with consumer(worker_id, queues) as real:
            claim = real.claim

            async def watch(limit: int, **given: Any) -> Claim:
                ask(next(numbers))
                answer = await claim(limit, **given)
                if answer.tasks:
                    await act(answer)
                return answer

            monkeypatch.setattr(real, "claim", watch)
            consumers.append(real)
            yield real

    monkeypatch.setattr(rt._engine.broker, "consumer", watched)
    return consumers


async def status_of(rt: Runtime, task_id: str) -> tuple[TaskStatus, int]:
    info = (await rt.handle(task_id).info()).unwrap()
    assert info is not None
    return info.status, info.attempt


async def test_only_what_a_crash_ends_is_started_by_the_claim(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict on the others is stored when they start, and it takes their policy."""
    started: dict[str, bool] = {}

    async def note(claim: Claim) -> None:
        started.update({task.task_name: task.is_running for task in claim.tasks})

    async with Runtime(counting.app) as rt:
        on_claim(rt, monkeypatch, note)
        handles = [
            (await counting.plain.handle(rt).send()).unwrap(),
            (await counting.stubborn.handle(rt).send()).unwrap(),
        ]
        await rt.run_worker(WorkerConfig(until_idle=True))
        assert [await handle.get(timeout=10) for handle in handles] == [Ok("plain"), Ok("stubborn")]
    assert started == {"plain": True, "stubborn": False}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("busy", [False, True])
async def test_a_claim_whose_answer_is_lost_burns_no_attempt(
    counting: Counting, monkeypatch: pytest.MonkeyPatch, busy: bool, late: bool
) -> None:
    """`late`: the worker tries again only when the lost call can be at work no longer."""
    if late:
        monkeypatch.setattr(claims, "DOUBT", -counting.app.config.resilience.statement_timeout)
    lost: list[str] = []
    go_on = anyio.Event()

    async def lose(claim: Claim) -> None:
        name = claim.tasks[0].task_name
        if name == "plain" and not lost:
            lost.append(name)
            raise BrokerError("the answer is lost", retryable=True)

    @counting.app.task("other")
    async def other() -> None:
        await go_on.wait()

    async with Runtime(counting.app) as rt:
        on_claim(rt, monkeypatch, lose)
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        if busy:  # then the claim goes on beside it
            await other.handle(rt).send()
            await until(lambda: worker.statistics().running == 1)
        handle = (await counting.plain.handle(rt).send()).unwrap()
        assert await handle.get(timeout=20) == Ok("plain")
        assert await status_of(rt, handle.task_id) == (TaskStatus.COMPLETED, 1)
        assert (lost, worker.statistics().given_back) == (["plain"], 1)
        go_on.set()
    assert counting.runs == ["plain"]


@pytest.mark.parametrize("busy", [False, True])
async def test_a_worker_that_stops_while_a_claim_is_under_way_gives_back_what_it_started(
    counting: Counting, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    go_on = anyio.Event()

    @counting.app.task("other")
    async def other() -> None:
        await go_on.wait()

    async def stop(claim: Claim) -> None:
        if claim.tasks[0].task_name == "plain":
            worker.drain_nowait()

    async with Runtime(counting.app) as rt:
        on_claim(rt, monkeypatch, stop)
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        if busy:
            await other.handle(rt).send()
            await until(lambda: worker.statistics().running == 1)
        handle = (await counting.plain.handle(rt).send()).unwrap()
        await until(lambda: worker.statistics().given_back == 1)
        assert await status_of(rt, handle.task_id) == (TaskStatus.PENDING, 0)
        go_on.set()
        await worker.wait_stopped()
        monkeypatch.undo()
        assert counting.runs == []
        await rt.run_worker(WorkerConfig(until_idle=True))
        assert await status_of(rt, handle.task_id) == (TaskStatus.COMPLETED, 1)


async def test_a_worker_that_is_cancelled_while_a_claim_is_under_way_gives_back_what_it_started(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime(counting.app) as rt:
        with anyio.CancelScope() as scope:

            async def cancel(_: Claim) -> None:
                scope.cancel()
                await anyio.lowlevel.checkpoint()

            on_claim(rt, monkeypatch, cancel)
            handle = (await counting.plain.handle(rt).send()).unwrap()
            await rt.run_worker()
        monkeypatch.undo()
        assert await status_of(rt, handle.task_id) == (TaskStatus.PENDING, 0)
        await rt.run_worker(WorkerConfig(until_idle=True))
        assert await status_of(rt, handle.task_id) == (TaskStatus.COMPLETED, 1)
    assert counting.runs == ["plain"]


async def test_a_request_that_comes_while_the_claim_is_under_way_keeps_it_from_running(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancel(claim: Claim) -> None:
        (task,) = claim.tasks
        assert await rt.handle(task.lease.task_id).cancel() == Ok(CancelOutcome.REQUESTED)
        with anyio.fail_after(20):
            while task.lease not in worker._incarnation.dispatcher._claimer._cancelled:
                await anyio.sleep(0.002)

    async with Runtime(counting.app) as rt:
        on_claim(rt, monkeypatch, cancel)
        handle = (await counting.plain.handle(rt).send()).unwrap()
        worker = rt.start_worker()
        assert (await handle.get(timeout=10)).unwrap_err().code == "TASK_CANCELLED"
        assert worker.statistics().cancelled == 1
    assert counting.runs == []


async def test_what_comes_in_while_the_worker_looks_for_lost_claims_is_not_lost(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In doubt it looks after each promotion; this one lasts until the answer to the claim is here."""
    monkeypatch.setattr(claims, "DOUBT_POLL", 0.0)
    go_on, promoting = anyio.Event(), anyio.Event()
    failures: list[str] = []

    @counting.app.task("other")
    async def other() -> None:
        await go_on.wait()

    async def act(claim: Claim) -> None:
        if not failures:
            failures.append("one")
            raise BrokerError("the answer is lost", retryable=True)
        if claim.tasks[0].task_name == "plain":
            monkeypatch.setattr(consumers[0], "promote", slow)
            await counting.plain.handle(rt).schedule(3600)
            await promoting.wait()

    async def slow(limit: int) -> Promotion:
        promoting.set()
        promotion = await promote(limit)
        with anyio.fail_after(20):
            while worker.statistics().claimed < 2:
                await anyio.lowlevel.checkpoint()
        return promotion

    async with Runtime(counting.app) as rt:
        consumers = on_claim(rt, monkeypatch, act)
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        await other.handle(rt).send()
        await until(lambda: worker.statistics().running == 1)
        promote = consumers[0].promote
        handle = (await counting.plain.handle(rt).send()).unwrap()
        assert await handle.get(timeout=10) == Ok("plain")
        go_on.set()
    assert (counting.runs, worker.statistics().lost) == (["plain"], 0)


async def test_what_a_claim_has_started_does_not_wait_for_what_else_the_worker_waits_for(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first claim brings what is to be started, the second is under way meanwhile."""
    starting = anyio.Event()

    async def hang(_: object) -> list[StartOutcome]:
        starting.set()
        await anyio.sleep_forever()
        return []

    async def act(claim: Claim) -> None:
        monkeypatch.setattr(consumers[0], "start", hang)
        if any(task.is_running for task in claim.tasks):
            await starting.wait()

    async with Runtime(counting.app) as rt:
        consumers = on_claim(rt, monkeypatch, act)
        handle = (await counting.plain.handle(rt).with_options(TaskSendOptions(priority=100)).send()).unwrap()
        await counting.stubborn.handle(rt).send_many([()] * 17)
        worker = rt.start_worker(WorkerConfig(concurrency=32))
        assert await handle.get(timeout=10) == Ok("plain")
        assert starting.is_set()
        worker.cut_short()


async def test_a_worker_that_is_found_dead_while_a_claim_is_under_way_runs_none_of_it(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can know that it never began, so it has failed with its worker."""

    async def die(_: Claim) -> None:
        # A worker whose heartbeat is just being written is passed over.
        with anyio.fail_after(20):
            while not await bury(rt._engine.broker, counting.app.config.recovery):
                await anyio.lowlevel.checkpoint()

    async with Runtime(counting.app) as rt:
        on_claim(rt, monkeypatch, die)
        handle = (await counting.plain.handle(rt).send()).unwrap()
        worker = rt.start_worker()
        assert (await handle.get(timeout=20)).unwrap_err().code == "WORKER_CRASHED"
        assert await status_of(rt, handle.task_id) == (TaskStatus.FAILED, 1)
        worker.drain_nowait()
        await worker.wait_stopped()


async def test_in_a_drain_the_next_claim_is_under_way_when_a_batch_begins(
    config: AppConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, many = Horsies(config), 1000  # of which each claim starts 100, and finds room for them
    calls, overlapping, batch_of = 0, 0, dict[str, int]()

    @app.task("quick")
    async def quick(ctx: TaskContext) -> None:
        nonlocal overlapping
        overlapping += calls > batch_of[ctx.task_id]

    def on_call(number: int) -> None:
        nonlocal calls
        calls = number

    async def note(claim: Claim) -> None:
        batch_of.update({task.lease.task_id: calls for task in claim.tasks})

    async with Runtime(app) as rt:
        on_claim(rt, monkeypatch, note, on_call)
        await quick.handle(rt).send_many([()] * many)
        await rt.run_worker(WorkerConfig(until_idle=True, concurrency=1000))
    assert len(batch_of) == many
    assert overlapping > many / 2
