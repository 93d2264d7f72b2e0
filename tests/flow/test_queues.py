"""Caps across workers, and queues that are paused and resumed while workers run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import anyio
import pytest

from horsies import AppConfig, Horsies, HorsiesError, Ok, QueueConfig, ResilienceConfig, Runtime, WorkerConfig, blocking
from horsies.abc import Topic

pytestmark = pytest.mark.anyio

SELDOM = ResilienceConfig(poll_interval=60.0)
"""Nothing is found by polling: what works does so by notices."""


class Gauge:
    """Counts what runs at the same time."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.done = 0

    async def pass_through(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await anyio.sleep(0.002)
        self.now -= 1
        self.done += 1


def capped(config: AppConfig, gauge: Gauge, **fields: Any) -> tuple[Horsies, Any]:
    app = Horsies(replace(config, resilience=SELDOM, **fields))

    @app.task("work", queue=app.config.queues[0].name)
    async def work() -> None:
        await gauge.pass_through()

    return app, work


QUEUE_CAP: dict[str, Any] = {"queues": (QueueConfig("images", max_concurrency=3), QueueConfig("default"))}
CLUSTER_CAP: dict[str, Any] = {"cluster_wide_cap": 3}


@pytest.mark.parametrize("fields", [QUEUE_CAP, CLUSTER_CAP], ids=["queue", "cluster"])
async def test_a_cap_holds_for_all_workers_together_and_is_made_use_of(
    config: AppConfig, fields: dict[str, Any]
) -> None:
    gauge = Gauge()
    app, work = capped(config, gauge, **fields)
    async with Runtime(app) as rt:
        for _ in range(4):
            rt.start_worker(WorkerConfig(concurrency=10))
        handles = [answer.unwrap() for answer in await work.handle(rt).send_many([()] * 100)]
        with anyio.fail_after(30):
            for handle in handles:
                assert await handle.get() == Ok(None)
    assert (gauge.most, gauge.done) == (3, 100)


async def test_a_cap_without_notices_does_not_wait_for_polls(
    config: AppConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf:
        async def receive(self) -> list[str]:
            await anyio.sleep_forever()
            return []

    gauge = Gauge()
    app, work = capped(config, gauge, **QUEUE_CAP)
    async with Runtime(app) as rt:
        await work.handle(rt).send_many([()] * 30)
        listen = rt._engine.broker.listen

        def deaf(topic: Topic) -> Any:
            return listen(topic) if topic is Topic.FINISHED else _Nothing()

        class _Nothing:
            async def __aenter__(self) -> Deaf:
                return Deaf()

            async def __aexit__(self, *_: object) -> None: ...

        monkeypatch.setattr(rt._engine.broker, "listen", deaf)
        rt.start_worker()
        with anyio.fail_after(20):
            while gauge.done < 30:
                await anyio.sleep(0.005)
    assert gauge.most <= 3


async def test_a_worker_with_nothing_to_do_takes_over_under_a_cap(config: AppConfig) -> None:
    """The one that held the whole cap stops, and the other is told that there is room."""
    gauge = Gauge()
    app, work = capped(config, gauge, **QUEUE_CAP)
    async with AsyncExitStack() as stack:
        rt = await stack.enter_async_context(Runtime(app))
        first = rt.start_worker()
        handles = [answer.unwrap() for answer in await work.handle(rt).send_many([()] * 200)]
        while gauge.done < 10:
            await anyio.sleep(0.002)
        second = rt.start_worker()
        while not second.is_ready:
            await anyio.sleep(0.002)
        await first.drain()
        with anyio.fail_after(30):
            for handle in handles:
                await handle.get()
    assert gauge.most <= 3


async def test_a_paused_queue_waits_and_the_others_do_not(config: AppConfig) -> None:
    app = Horsies(
        replace(config, resilience=SELDOM, queues=(QueueConfig("default"), QueueConfig("images", priority=7)))
    )

    @app.task
    async def plain() -> int:
        return 1

    @app.task(queue="images")
    async def image() -> int:
        return 2

    async with Runtime(app) as rt:
        worker = rt.start_worker()
        assert await rt.pause_queue("images") == Ok(True)
        assert await rt.pause_queue("images") == Ok(False)
        waiting = (await image.handle(rt).send()).unwrap()
        assert await (await plain.handle(rt).send()).unwrap().get(timeout=20) == Ok(1)
        (default, images) = (await rt.queues()).unwrap()
        assert (default.name, default.ready, default.paused_at, default.priority) == ("default", 0, None, 50)
        assert (images.name, images.ready, images.claimed, images.priority) == ("images", 1, 0, 7)
        assert images.paused_at is not None
        # A worker that ends when idle does not wait for what nobody may claim.
        with anyio.fail_after(20):
            await rt.run_worker(WorkerConfig(until_idle=True))
        assert await rt.resume_queue("images") == Ok(True)
        assert await waiting.get(timeout=20) == Ok(2)
        assert await rt.resume_queue("images") == Ok(False)
        assert worker.statistics().completed == 2


async def test_a_queue_that_is_not_there(config: AppConfig) -> None:
    async with Runtime(Horsies(config)) as rt:
        calls: Sequence[Callable[[str], Any]] = (rt.pause_queue, rt.resume_queue)
        for call in calls:
            with pytest.raises(HorsiesError, match=r"HRS-200.*'nowhere'(.|\n)*default"):
                await call("nowhere")


def test_from_a_program_without_a_loop(config: AppConfig) -> None:
    with blocking(Horsies(config)) as rt:
        assert rt.pause_queue("default") == Ok(True)
        assert rt.queues().unwrap()[0].paused_at is not None
        assert rt.resume_queue("default") == Ok(True)
