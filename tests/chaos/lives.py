"""What the tests of cancellation live through: one application, and scripts that use everything a runtime has."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel

from horsies import (
    AppConfig,
    Horsies,
    PoolConfig,
    RecoveryConfig,
    ResilienceConfig,
    RetryPolicy,
    Runtime,
    TaskContext,
    TaskHandle,
    WorkerConfig,
    task,
)
from horsies.testing._conformance.stage import bury

AGAIN = "again"
"""The one task that may run again after its worker stopped."""
ENDLESS = "endless"
"""The one task that is cancelled by its handle."""
DELAY = 0.03
WORKER = WorkerConfig(concurrency=4, threads=1)
QUICK = RecoveryConfig(heartbeat_interval=0.02, dead_after=1.0, reap_interval=0.05)

Stored: TypeAlias = tuple[object, str, str, str | None]
"""Id, name, status and error code of a task."""


@task(run_in="process")
def apart() -> int:
    return 4


class Script:
    """An application and what its tasks note of their runs."""

    def __init__(self, config: AppConfig, recovery: RecoveryConfig | None = None) -> None:
        self.app = app = Horsies(
            replace(
                config,
                recovery=recovery or config.recovery,
                resilience=ResilienceConfig(poll_interval=0.2),
                pool=PoolConfig(timeout=10.0),
            )
        )
        self.runs: Counter[str] = Counter()
        self.begun = anyio.Event()
        self.handles: list[TaskHandle[Any]] = []

        @app.task("quick")
        async def quick(ctx: TaskContext) -> int:
            self.runs[ctx.task_id] += 1
            await anyio.lowlevel.checkpoint()
            return 1

        @app.task(AGAIN, retry=RetryPolicy.fixed([0.01]), retry_for=("WORKER_CRASHED",))
        async def again(ctx: TaskContext) -> int:
            self.runs[ctx.task_id] += 1
            await anyio.sleep(0.002)
            return 2

        @app.task("threaded")
        def threaded(ctx: TaskContext) -> int:
            self.runs[ctx.task_id] += 1
            for _ in range(3):
                time.sleep(0.001)
                ctx.check_cancelled()
            return 3

        @app.task(ENDLESS)
        async def endless(ctx: TaskContext) -> None:
            self.runs[ctx.task_id] += 1
            self.begun.set()
            await anyio.sleep_forever()

        app.include(apart)
        self.quick, self.again, self.threaded, self.endless = quick, again, threaded, endless

    async def send_all(self, rt: Runtime) -> TaskHandle[Any]:
        """Send tasks of every kind; the one that does not end by itself."""
        endless = (await self.endless.handle(rt).send()).unwrap()
        self.handles = [
            endless,
            (await self.threaded.handle(rt).send()).unwrap(),
            (await self.again.handle(rt).send()).unwrap(),
            (await self.quick.handle(rt).schedule(DELAY)).unwrap(),
            (await self.threaded.handle(rt).send()).unwrap(),
            *(answer.unwrap() for answer in await self.quick.handle(rt).send_many([(), ()])),
        ]
        if self.app.config.url.startswith("postgresql"):
            async with rt.transaction() as connection:
                self.handles.append((await self.quick.handle(rt).using(connection).send()).unwrap())
        return endless

    async def live(self, rt: Runtime) -> None:
        """What a program does with a runtime."""
        rt.start_worker(WORKER)
        first = (await self.quick.handle(rt).send()).unwrap()
        assert (await first.get(timeout=20)).unwrap() == 1
        assert (await first.info()).unwrap() is not None
        endless = await self.send_all(rt)
        await self.begun.wait()
        assert (await endless.cancel()).is_ok()
        async with rt.as_completed(self.handles) as done:
            ended = [handle async for handle in done]
        assert {handle.task_id for handle in ended} == {handle.task_id for handle in self.handles}

    async def cancel_endless(self, endless: TaskHandle[Any]) -> None:
        """Cancel it once it runs."""
        await self.begun.wait()
        (await endless.cancel()).unwrap()

    async def be_reborn(self, rt: Runtime, begin: Callable[[], None]) -> None:
        """Run a worker that is found dead while it runs tasks and goes on as somebody else; `begin` marks the death."""
        async with anyio.create_task_group() as group:
            await group.start(rt.run_worker, WORKER)
            (worker,) = rt._engine._workers
            self.handles = [
                (await self.endless.handle(rt).send()).unwrap(),
                (await self.threaded.handle(rt).send()).unwrap(),
                (await self.again.handle(rt).send()).unwrap(),
            ]
            # What it has started and has not heard of would fail without a run; that has a test of its own.
            while len(self.runs) < len(self.handles):
                await anyio.lowlevel.checkpoint()
            before = worker.worker_id
            begin()
            # A worker whose heartbeat is just being written is passed over.
            while worker.worker_id == before:
                await bury(rt._engine.broker, QUICK)
                await anyio.lowlevel.checkpoint()
            # The dead one claims nothing more.
            assert (await (await self.quick.handle(rt).send()).unwrap().get(timeout=20)).is_ok()
            worker.drain_nowait()

    def faults(self, stored: Sequence[Stored]) -> Iterator[str]:
        """What is wrong with the tasks of a stopped worker."""
        for task_id, name, status, code in stored:
            runs = self.runs[str(task_id)]
            match status:
                case "PENDING":
                    right = runs == 0 or name == AGAIN
                case "COMPLETED":
                    right = runs == 1 or (name == AGAIN and runs > 0)
                case "FAILED":
                    right = runs == 1 and name != AGAIN and code == "WORKER_CRASHED"
                case "CANCELLED":
                    right = runs <= 1 and name == ENDLESS
                case _:
                    right = False
            if not right:
                yield f"task {name} is {status} ({code}) after {runs} runs"
