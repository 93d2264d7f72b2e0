"""A worker that ends of its own accord: after so many tasks, or above so much memory."""

from __future__ import annotations

import logging

import anyio
import pytest

from horsies import Horsies, HorsiesError, Ok, Runtime, TaskError, Worker, WorkerConfig
from horsies._worker import memory_limit as memory
from horsies._worker.memory_limit import resident

from .conftest import Bench

pytestmark = pytest.mark.anyio


async def until(worker: Worker, *, running: int) -> None:
    with anyio.fail_after(20):
        while worker.statistics().running != running:
            await anyio.sleep(0.002)


class Held:
    """A task that runs until it is let go."""

    def __init__(self, app: Horsies) -> None:
        self.go_on = anyio.Event()

        @app.task("held")
        async def held() -> str:
            await self.go_on.wait()
            return "done"

        self.task = held


@pytest.mark.parametrize("concurrency", [1, 2, 100])
async def test_no_more_than_max_tasks_are_started(bench: Bench, concurrency: int) -> None:
    async with Runtime(bench.app) as rt:
        sends = await bench.add.handle(rt).send_many([(n, n) for n in range(8)])
        worker = rt.start_worker(WorkerConfig(max_tasks=3, concurrency=concurrency))
        with anyio.fail_after(20):
            await worker.wait_stopped()
        counts = worker.statistics()
        assert (counts.started, counts.completed, counts.claimed) == (3, 3, 3)
        await rt.run_worker(WorkerConfig(until_idle=True))
        assert [await send.unwrap().get() for send in sends] == [Ok(n + n) for n in range(8)]
        attempts = [(await send.unwrap().info(include_attempts=True)).unwrap() for send in sends]
        assert [info is not None and info.attempt for info in attempts] == [1] * 8


async def test_what_is_never_started_does_not_count(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        add = bench.add.handle(rt)
        for n in range(3):
            handle = (await add.send(n, n)).unwrap()
            if n < 2:
                await handle.cancel()
        worker = rt.start_worker(WorkerConfig(max_tasks=1))
        with anyio.fail_after(20):
            await worker.wait_stopped()
        assert await handle.get(timeout=10) == Ok(4)


async def test_what_runs_has_all_the_time_it_needs(bench: Bench) -> None:
    held = Held(bench.app)
    async with Runtime(bench.app) as rt:
        handle = (await held.task.handle(rt).send()).unwrap()
        worker = rt.start_worker(WorkerConfig(max_tasks=1, drain_timeout=0.0))
        await until(worker, running=1)
        with anyio.fail_after(20):
            while not worker.is_draining:
                await anyio.sleep(0.002)
        assert not worker.is_ready
        await bench.add.handle(rt).send(1, 1)
        await anyio.wait_all_tasks_blocked()
        assert worker.statistics().claimed == worker.statistics().running == 1
        held.go_on.set()
        assert await handle.get(timeout=20) == Ok("done")
        with anyio.fail_after(20):
            await worker.wait_stopped()


async def test_a_drain_still_bounds_a_worker_that_retires(bench: Bench) -> None:
    held = Held(bench.app)
    async with Runtime(bench.app) as rt:
        handle = (await held.task.handle(rt).send()).unwrap()
        worker = rt.start_worker(WorkerConfig(max_tasks=1, drain_timeout=0.0))
        await until(worker, running=1)
        with anyio.fail_after(20):
            await worker.drain()
        error = (await handle.get(timeout=10)).unwrap_err()
        assert isinstance(error, TaskError)
        assert error.code == "WORKER_CRASHED"


async def test_a_worker_above_max_memory_retires(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "LOOK", 0.01)
    caplog.set_level(logging.INFO, logger="horsies.worker")
    async with Runtime(bench.app) as rt:
        worker = rt.start_worker(WorkerConfig(max_memory=1))
        with anyio.fail_after(20):
            await worker.wait_stopped()
    [line] = [record.getMessage() for record in caplog.records if "once what it runs" in record.getMessage()]
    assert "more than the 1 MiB of its max_memory" in line


async def test_a_worker_below_max_memory_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = anyio.Event()

    def look() -> float:
        looks.set()
        return 100.0

    monkeypatch.setattr(memory, "LOOK", 0.01)
    monkeypatch.setattr(memory, "resident", look)
    async with Runtime(bench.app) as rt:
        worker = rt.start_worker(WorkerConfig(max_memory=100))
        with anyio.fail_after(20):
            await looks.wait()
        handle = (await bench.add.handle(rt).send(1, 1)).unwrap()
        assert await handle.get(timeout=20) == Ok(2)
        assert not worker.is_draining


async def test_resident_memory_is_that_of_this_process() -> None:
    before = resident()
    block = bytearray(b"x") * (64 * memory.MIB)
    assert 48 < resident() - before < 200
    del block


@pytest.mark.parametrize("field", ["max_tasks", "max_memory"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "7"])
async def test_a_limit_is_a_whole_number_from_1(field: str, value: object) -> None:
    with pytest.raises(HorsiesError, match=f"worker.{field} is not a whole number of at least 1") as caught:
        WorkerConfig(**{field: value})
    assert caught.value.code == "HRS-215"
