"""A claim counts on slots that its worker expects to be free soon; what it has started for others never began."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from random import Random
from typing import Any, ClassVar

import anyio
import pytest

from horsies import (
    AppConfig,
    CancelOutcome,
    Horsies,
    Ok,
    QueueConfig,
    ResilienceConfig,
    RetryPolicy,
    Runtime,
    TaskContext,
    TaskSendOptions,
    TaskStatus,
    Worker,
    WorkerConfig,
)
from horsies._runtime.engine import Engine
from horsies._worker.completer import Completer
from horsies._worker.intake import dispatcher
from horsies._worker.intake.decide import Timings
from horsies._worker.intake.prefetch import LOOKED_BACK, Prefetch
from horsies.abc import Claim, Consumer, Start, StartOutcome

from .conftest import until

pytestmark = pytest.mark.anyio


class Hopeful(Prefetch):
    """As if all tasks had ended by the time of each answer so far, wherever its configuration lets it count on that."""

    wanted = 2

    def soon_free(self, busy: int) -> int:
        return min(self._most, self.wanted)


class Blocking:
    """An application whose task waits to be let go, each by itself, and counts its runs."""

    def __init__(self, config: AppConfig) -> None:
        self.app = Horsies(config)
        self.go_on = [anyio.Event() for _ in range(4)]
        self.runs = Counter[int]()
        self.now = self.most = 0

        @self.app.task("block")
        async def block(n: int) -> int:
            self.runs[n] += 1
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                await self.go_on[n].wait()
            finally:
                self.now -= 1
            return n

        self.block = block

    def release(self) -> None:
        for event in self.go_on:
            event.set()


@pytest.fixture
def slow(config: AppConfig) -> Blocking:
    return Blocking(replace(config, resilience=ResilienceConfig(poll_interval=60.0)))


@pytest.fixture(autouse=True)
def hopeful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "Prefetch", Hopeful)
    monkeypatch.setattr(Engine, "timings", Timings(early=60.0))


async def send_all(rt: Runtime, slow: Blocking, options: TaskSendOptions | None = None) -> list[Any]:
    handle = slow.block.handle(rt)
    sender = handle if options is None else handle.with_options(options)
    return [answer.unwrap() for answer in await sender.send_many([(n,) for n in range(4)])]


async def standing(rt: Runtime, handles: Sequence[Any]) -> list[tuple[TaskStatus, int]]:
    infos = [(await rt.handle(handle.task_id).info()).unwrap() for handle in handles]
    return [(info.status, info.attempt) for info in infos if info is not None]


def is_full(worker: Worker) -> bool:
    statistics = worker.statistics()
    return (statistics.running, statistics.ready) == (2, 2)


def dispatcher_of(worker: Worker) -> dispatcher.Dispatcher:
    assert worker._incarnation.dispatcher is not None
    return worker._incarnation.dispatcher


def is_quiet(worker: Worker) -> bool:
    return not (worker.statistics().ready or dispatcher_of(worker)._claimer.is_under_way)


async def test_what_was_started_early_begins_as_slots_are_free(slow: Blocking) -> None:
    async with Runtime(slow.app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        handles = await send_all(rt, slow)
        await until(lambda: is_full(worker))
        assert await standing(rt, handles) == [(TaskStatus.RUNNING, 1)] * 4
        assert (slow.runs, slow.now) == ({0: 1, 1: 1}, 2)
        slow.go_on[1].set()
        await until(lambda: slow.runs[2] == 1)
        assert (slow.runs[3], slow.now) == (0, 2)
        slow.release()
        assert [await handle.get(timeout=10) for handle in handles] == [Ok(n) for n in range(4)]
    assert (slow.runs, slow.most) == (dict.fromkeys(range(4), 1), 2)
    assert worker.statistics().given_back == 0


async def test_behind_slow_tasks_it_goes_to_another_worker(slow: Blocking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "timings", Timings(early=0.05, patience=60.0))
    async with Runtime(slow.app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        handles = await send_all(rt, slow)
        await until(lambda: worker.statistics().claimed == 4)
        monkeypatch.setattr(Hopeful, "wanted", 0)
        await until(lambda: worker.statistics().given_back == 2 and is_quiet(worker))
        assert await standing(rt, handles[2:]) == [(TaskStatus.PENDING, 0)] * 2
        other = rt.start_worker(WorkerConfig(concurrency=2))
        await until(lambda: other.statistics().running == 2)
        slow.release()
        assert [await handle.get(timeout=10) for handle in handles] == [Ok(n) for n in range(4)]
        assert await standing(rt, handles) == [(TaskStatus.COMPLETED, 1)] * 4
    assert slow.runs == dict.fromkeys(range(4), 1)
    assert worker.statistics().lost == other.statistics().lost == 0


async def test_one_batch_of_slow_tasks_and_no_slot_is_counted_on(
    slow: Blocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Experienced(Prefetch):
        told: ClassVar[list[int]] = []

        def __init__(self, most: int, now: float) -> None:
            super().__init__(most, now)
            for _ in range(LOOKED_BACK):
                self.count_answer(2, 0)

        def soon_free(self, busy: int) -> int:
            self.told.append(super().soon_free(busy))
            return self.told[-1]

    monkeypatch.setattr(Engine, "timings", Timings(early=0.05))
    monkeypatch.setattr(dispatcher, "Prefetch", Experienced)
    async with Runtime(slow.app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        handles = await send_all(rt, slow)
        await until(lambda: worker.statistics().given_back == 2)
        assert [counted for counted, _ in groupby(Experienced.told)][:2] == [0, 2]
        dispatcher_of(worker).notice([""])
        await until(lambda: Experienced.told[-1] == 0)
        slow.release()
        assert [await handle.get(timeout=10) for handle in handles] == [Ok(n) for n in range(4)]
    assert worker.statistics().given_back == 2


async def test_a_freed_slot_does_not_wait_for_what_else_the_worker_waits_for(
    slow: Blocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = anyio.Event()

    async def hang(_: int) -> None:
        hanging.set()
        await anyio.sleep_forever()

    async with Runtime(slow.app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        handles = await send_all(rt, slow)
        await until(lambda: is_full(worker))
        monkeypatch.setattr(dispatcher_of(worker)._intake, "promote", hang)
        dispatcher_of(worker).notice(["delayed:default"])
        await hanging.wait()
        slow.release()
        assert [await handle.get(timeout=10) for handle in handles] == [Ok(n) for n in range(4)]
        worker.cut_short()


async def test_it_does_not_begin_while_there_is_no_room_for_results(
    slow: Blocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime(slow.app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        handles = await send_all(rt, slow)
        await until(lambda: is_full(worker))
        with monkeypatch.context() as patch:
            patch.setattr(Completer, "has_room", False)
            patch.setattr(dispatcher_of(worker), "_timings", Timings(early=0.05))
            slow.release()
            await until(lambda: worker.statistics().given_back == 2)
            assert slow.runs == {0: 1, 1: 1}
        dispatcher_of(worker).notice([""])
        assert [await handle.get(timeout=10) for handle in handles] == [Ok(n) for n in range(4)]


async def test_the_slot_of_a_task_that_is_being_started_is_not_free(
    slow: Blocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_on = anyio.Event()

    @slow.app.task("stubborn", retry=RetryPolicy.fixed([0.01]), retry_for=("WORKER_CRASHED",))
    async def stubborn() -> None:
        slow.most = max(slow.most, slow.now + 1)

    async with Runtime(slow.app) as rt:
        consumer = rt._engine.broker.consumer

        @asynccontextmanager
        async def slowed(worker_id: str, queues: Sequence[tuple[str, int]]) -> AsyncIterator[Consumer]:
            async with consumer(worker_id, queues) as real:
                start = real.start

                async def hold(starts: Sequence[Start]) -> list[StartOutcome]:
                    await start_on.wait()
                    return await start(starts)

                monkeypatch.setattr(real, "start", hold)
                yield real

        monkeypatch.setattr(rt._engine.broker, "consumer", slowed)
        first = TaskSendOptions(priority=1)
        handles = [(await slow.block.handle(rt).with_options(first).send(0)).unwrap()]
        handles.append((await stubborn.handle(rt).with_options(first).send()).unwrap())
        handles += [answer.unwrap() for answer in await slow.block.handle(rt).send_many([(1,), (2,)])]
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        await until(lambda: worker.statistics().claimed == 4 and len(dispatcher_of(worker)._arrivals.early) == 2)
        slow.go_on[0].set()
        await until(lambda: slow.runs[1] == 1)
        assert (slow.runs[2], len(dispatcher_of(worker)._arrivals.early)) == (0, 1)
        start_on.set()
        slow.release()
        assert [await handle.get(timeout=10) for handle in handles] == [Ok(0), Ok(None), Ok(1), Ok(2)]
    assert slow.most <= 2


async def test_the_slot_of_a_cancelled_task_is_taken(slow: Blocking) -> None:
    async with Runtime(slow.app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        handles = await send_all(rt, slow)
        await until(lambda: is_full(worker))
        assert await handles[0].cancel() == Ok(CancelOutcome.REQUESTED)
        await until(lambda: slow.runs[2] == 1)
        slow.release()
        assert [await handle.get(timeout=10) for handle in handles[1:]] == [Ok(n) for n in range(1, 4)]


async def test_a_look_for_lost_claims_leaves_what_waits_where_it_is(slow: Blocking) -> None:
    async with Runtime(slow.app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        handles = await send_all(rt, slow)
        await until(lambda: is_full(worker))
        dispatcher_of(worker)._claimer.forget()
        dispatcher_of(worker).notice([""])
        await until(lambda: dispatcher_of(worker)._claimer._has_looked)
        assert worker.statistics().given_back == 0
        slow.release()
        assert [await handle.get(timeout=10) for handle in handles] == [Ok(n) for n in range(4)]
    assert worker.statistics().lost == 0


async def test_what_has_a_deadline_does_not_wait(slow: Blocking, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was judged to begin in time when it was claimed, and later it may not."""
    good_until = datetime.now(UTC) + timedelta(hours=1)
    async with Runtime(slow.app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        handles = await send_all(rt, slow, TaskSendOptions(good_until=good_until))
        await until(lambda: worker.statistics().given_back >= 2)
        monkeypatch.setattr(Hopeful, "wanted", 0)
        await until(lambda: worker.statistics().claimed - worker.statistics().given_back == 2 and is_quiet(worker))
        assert await standing(rt, handles[2:]) == [(TaskStatus.PENDING, 0)] * 2
        slow.release()
        assert [await handle.get(timeout=10) for handle in handles] == [Ok(n) for n in range(4)]
    assert slow.runs == dict.fromkeys(range(4), 1)


async def test_cancelled_while_it_waits_it_never_runs(slow: Blocking) -> None:
    async with Runtime(slow.app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        handles = await send_all(rt, slow)
        await until(lambda: is_full(worker))
        assert await handles[3].cancel() == Ok(CancelOutcome.REQUESTED)
        await until(lambda: dispatcher_of(worker)._arrivals.early[1].is_cancelled)
        slow.release()
        assert [await handle.get(timeout=10) for handle in handles[:3]] == [Ok(n) for n in range(3)]
        assert (await handles[3].get(timeout=10)).unwrap_err().code == "TASK_CANCELLED"
    assert slow.runs == dict.fromkeys(range(3), 1)


@pytest.mark.parametrize("freed", [False, True])
async def test_a_worker_that_stops_gives_it_back(slow: Blocking, freed: bool) -> None:
    """`freed`: although the slots are free before the worker has come to give it back."""
    async with Runtime(slow.app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        handles = await send_all(rt, slow)
        await until(lambda: is_full(worker))
        worker.drain_nowait()
        if freed:
            slow.release()
        await until(lambda: worker.statistics().given_back == 2)
        assert await standing(rt, handles[2:]) == [(TaskStatus.PENDING, 0)] * 2
        slow.release()
        await worker.wait_stopped()
        assert await standing(rt, handles) == [(TaskStatus.COMPLETED, 1)] * 2 + [(TaskStatus.PENDING, 0)] * 2
    assert slow.runs == {0: 1, 1: 1}


async def test_a_worker_that_is_cancelled_gives_it_back(slow: Blocking) -> None:
    """Its running tasks end in the cancellation, and nothing begins in their slots."""
    async with Runtime(slow.app) as rt:
        worker = Worker(rt._engine, WorkerConfig(concurrency=2))
        handles = await send_all(rt, slow)
        async with anyio.create_task_group() as group:
            await group.start(lambda *, task_status: worker.run(task_status=task_status))
            await until(lambda: is_full(worker))
            group.cancel_scope.cancel()
        assert await standing(rt, handles) == [(TaskStatus.FAILED, 1)] * 2 + [(TaskStatus.PENDING, 0)] * 2
    assert slow.runs == {0: 1, 1: 1}


async def test_nor_does_anything_begin_where_threads_end_after_the_cancellation(slow: Blocking) -> None:
    runs, go_on = Counter[int](), threading.Event()

    @slow.app.task("hold")
    def hold(n: int) -> int:
        runs[n] += 1
        go_on.wait(20)
        return n

    async with Runtime(slow.app) as rt:
        worker = Worker(rt._engine, WorkerConfig(concurrency=2))
        handles = [answer.unwrap() for answer in await hold.handle(rt).send_many([(n,) for n in range(4)])]
        async with anyio.create_task_group() as group:
            await group.start(lambda *, task_status: worker.run(task_status=task_status))
            await until(lambda: is_full(worker))
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await until(lambda: dispatcher_of(worker).is_stopping)
                go_on.set()
        assert await standing(rt, handles) == [(TaskStatus.COMPLETED, 1)] * 2 + [(TaskStatus.PENDING, 0)] * 2
    assert runs == {0: 1, 1: 1}


@pytest.mark.parametrize("cap", [{"cluster_wide_cap": 50}, {"queues": (QueueConfig("default", max_concurrency=50),)}])
async def test_where_there_is_a_cap_no_slot_is_counted_on(config: AppConfig, cap: dict[str, Any]) -> None:
    """What it allows belongs to others as well."""
    slow = Blocking(AppConfig.for_database_url(config.url, schema=config.schema, **cap))
    async with Runtime(slow.app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        handles = await send_all(rt, slow)
        await until(lambda: worker.statistics().running == 2)
        assert (worker.statistics().claimed, worker.statistics().ready) == (2, 0)
        slow.release()
        assert [await handle.get(timeout=10) for handle in handles] == [Ok(n) for n in range(4)]


@pytest.mark.parametrize("seed", [1, 2])
async def test_of_quick_and_slow_tasks_by_turns_each_runs_once_and_no_more_than_there_are_slots(
    config: AppConfig, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Each stretch of quick ones makes two workers hopeful, and each stretch of slow ones proves them wrong."""
    monkeypatch.setattr(dispatcher, "Prefetch", Prefetch)
    monkeypatch.setattr(Engine, "timings", Timings(early=0.01))
    app, random = Horsies(config), Random(seed)
    runs, now, most = Counter[int](), Counter[str](), Counter[str]()

    @app.task("some")
    async def some(ctx: TaskContext, n: int, seconds: float) -> int:
        runs[n] += 1
        now[ctx.worker_id] += 1
        most[ctx.worker_id] = max(most[ctx.worker_id], now[ctx.worker_id])
        if seconds:
            await anyio.sleep(seconds)
        now[ctx.worker_id] -= 1
        return n

    durations = [
        seconds for _ in range(3) for seconds in ([0.0] * random.randint(90, 130) + [random.uniform(0.02, 0.06)] * 20)
    ]
    async with Runtime(app) as rt:
        calls = list(enumerate(durations))
        handles = [answer.unwrap() for answer in await some.handle(rt).send_many(calls)]
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(rt.run_worker, WorkerConfig(concurrency=5, until_idle=True))
        assert await standing(rt, handles) == [(TaskStatus.COMPLETED, 1)] * len(calls)
    assert runs == dict.fromkeys(range(len(calls)), 1)
    assert max(most.values()) <= 5


@pytest.mark.parametrize("concurrency", [10, 40])
async def test_of_tasks_that_never_wait_claims_come_to_take_as_many_as_there_are_slots(
    config: AppConfig, monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    """And one is under way while what the last one brought is run; the database is some way off here."""
    monkeypatch.setattr(dispatcher, "Prefetch", Prefetch)
    app = Horsies(config)
    asked, overlapping = Counter[int](), 0
    now = most = under_way = 0

    @app.task("quick")
    async def quick() -> None:
        nonlocal now, most, overlapping
        now += 1
        most = max(most, now)
        overlapping += under_way
        now -= 1

    async with Runtime(app) as rt:
        consumer = rt._engine.broker.consumer

        @asynccontextmanager
        async def watched(worker_id: str, queues: Sequence[tuple[str, int]]) -> AsyncIterator[Consumer]:
            async with consumer(worker_id, queues) as real:
                claim = real.claim

                async def watch(limit: int, **given: Any) -> Claim:
                    nonlocal under_way
                    asked[limit] += 1
                    under_way += 1
                    await anyio.sleep(0.01)
                    try:
                        return await claim(limit, **given)
                    finally:
                        under_way -= 1

                monkeypatch.setattr(real, "claim", watch)
                yield real

        monkeypatch.setattr(rt._engine.broker, "consumer", watched)
        await quick.handle(rt).send_many([()] * 40 * concurrency)
        await rt.run_worker(WorkerConfig(concurrency=concurrency, until_idle=True))
    assert max(asked) == concurrency
    assert overlapping > 20 * concurrency
    assert most == 1
