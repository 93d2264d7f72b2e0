"""An async task that swallows every cancellation. It cannot be ended, but it is told, fenced off and worked around."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
import pytest

from horsies import AppConfig, CancelOutcome, Horsies, Ok, Runtime, TaskSendOptions, WorkerConfig
from horsies._worker import incarnation
from horsies._worker.execution import executor

from .conftest import until

pytestmark = pytest.mark.anyio

GOES_ON = "'stubborn' went on although it was cancelled and was abandoned"


class Stubborn:
    """An application with a task that goes on until it is let go, and a neighbour."""

    def __init__(self, config: AppConfig) -> None:
        self.app = Horsies(config)
        self.is_free = False
        self.begun = self.swallowed = 0

        @self.app.task("stubborn")
        async def stubborn() -> int:
            self.begun += 1
            while not self.is_free:
                try:
                    await anyio.sleep(0.005)
                except BaseException:
                    self.swallowed += 1
            return 1

        @self.app.task("neighbour")
        async def neighbour() -> int:
            return 2

        self.task, self.neighbour = stubborn, neighbour


@pytest.fixture
def case(config: AppConfig, monkeypatch: pytest.MonkeyPatch) -> Stubborn:
    for module in (executor, incarnation):
        monkeypatch.setattr(module, "GRACE", 0.05)
    return Stubborn(config)


async def test_past_its_timeout_it_is_reported_and_keeps_its_slot(
    case: Stubborn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with Runtime(case.app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        short = case.task.handle(rt).with_options(TaskSendOptions(timeout=0.05))
        handle = (await short.send()).unwrap()
        assert (await handle.get(timeout=20)).unwrap_err().code == "TASK_TIMEOUT"
        assert worker.statistics().running == 1
        assert "'stubborn'" in caplog.text
        assert await (await case.neighbour.handle(rt).send()).unwrap().get(timeout=20) == Ok(2)
        other = (await short.send()).unwrap()
        assert (await other.get(timeout=20)).unwrap_err().code == "TASK_TIMEOUT"
        await until(lambda: worker.held == {"nursery": ["stubborn"] * 2})
        case.is_free = True
        await until(lambda: worker.statistics().running == 0)
        assert worker.held == {}
        assert await (await case.neighbour.handle(rt).send()).unwrap().get(timeout=20) == Ok(2)
        assert (await rt.handle(handle.task_id).get(timeout=20)).unwrap_err().code == "TASK_TIMEOUT"
    assert worker.statistics().abandoned == 0


async def test_once_cancelled_it_is_reported(case: Stubborn) -> None:
    async with Runtime(case.app) as rt:
        worker = rt.start_worker()
        handle = (await case.task.handle(rt).send()).unwrap()
        await until(lambda: case.begun == 1)
        assert await handle.cancel() == Ok(CancelOutcome.REQUESTED)
        assert (await handle.get(timeout=20)).unwrap_err().code == "TASK_CANCELLED"
        assert worker.statistics().running == 1
        case.is_free = True
        await until(lambda: worker.statistics().running == 0)


@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize("stop", ["drain", "cut short"])
async def test_its_worker_stops_and_says_so(
    case: Stubborn, caplog: pytest.LogCaptureFixture, stop: str, timeout: float | None
) -> None:
    caplog.set_level(logging.WARNING)
    async with Runtime(case.app) as rt:
        worker = rt.start_worker(WorkerConfig(drain_timeout=0.05))
        handle = (await case.task.handle(rt).with_options(TaskSendOptions(timeout=timeout)).send()).unwrap()
        await until(lambda: case.begun == 1)
        end: Callable[[], object] = worker.drain_nowait if stop == "drain" else worker.cut_short
        end()
        with anyio.fail_after(20):
            await worker.wait_stopped()
        assert (await handle.get(timeout=20)).unwrap_err().code == "WORKER_CRASHED"
        assert (worker.statistics().abandoned, worker.left_behind) == (1, False)
        assert GOES_ON in caplog.text
        other = rt.start_worker()
        assert await (await case.neighbour.handle(rt).send()).unwrap().get(timeout=20) == Ok(2)
        await other.drain()
        case.is_free = True
    assert worker.statistics().running == 0


async def test_a_cancelled_worker_is_over_but_for_it(case: Stubborn) -> None:
    async with Runtime(case.app) as rt:
        handle = (await case.task.handle(rt).send()).unwrap()
        async with anyio.create_task_group() as group:
            worker = anyio.CancelScope()

            async def run() -> None:
                with worker:
                    await rt.run_worker()

            group.start_soon(run)
            await until(lambda: case.begun == 1)
            worker.cancel()
            assert (await handle.get(timeout=20)).unwrap_err().code == "WORKER_CRASHED"
            case.is_free = True
        await rt.run_worker(WorkerConfig(until_idle=True))


async def test_a_worker_that_ends_by_itself_does_not_wait_for_it(case: Stubborn) -> None:
    async with Runtime(case.app) as rt:
        short = case.task.handle(rt).with_options(TaskSendOptions(timeout=0.05))
        handle = (await short.send()).unwrap()
        worker = rt.start_worker(WorkerConfig(until_idle=True, drain_timeout=0.05))
        with anyio.fail_after(20):
            await worker.wait_stopped()
        assert worker.statistics().abandoned == 1
        assert (await handle.get(timeout=20)).unwrap_err().code == "TASK_TIMEOUT"
        case.is_free = True
