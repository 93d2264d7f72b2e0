"""Whatever a task raises is that task's end, and nobody else's."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from horsies import AppConfig, Horsies, Ok, Runtime, TaskContext, TaskErrorCode, WorkerConfig
from horsies._worker.execution.invoke import run_async

from .hostile import FAILURES, RESULTS, Closed, Order, Stray, deepest, raising

pytestmark = pytest.mark.anyio


async def await_what_was_cancelled() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def raise_a_base_exception() -> None:
    await anyio.lowlevel.checkpoint()
    raise Stray("out of its way")


async def raise_a_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(raise_a_base_exception)
        await anyio.sleep_forever()


def raise_one_in_a_thread() -> None:
    raise Stray("out of its way")


def cancelled_in_a_thread() -> None:
    raise asyncio.CancelledError


async def ends_alone(
    config: AppConfig, fn: Callable[[], Any], code: str = "UNHANDLED_ERROR", *, timeout: float | None = None
) -> str:
    """Run `fn` as a task beside two others, which must come to their results; the message of its error."""
    app = Horsies(config)
    odd = app.task("odd", timeout=timeout)(fn)
    has_ended = anyio.Event()

    @app.task("neighbour")
    async def neighbour() -> int:
        await has_ended.wait()
        return 1

    async with Runtime(app) as rt:
        first = (await neighbour.handle(rt).send()).unwrap()
        handle = (await odd.handle(rt).send()).unwrap()
        second = (await neighbour.handle(rt).send()).unwrap()
        worker = rt.start_worker(WorkerConfig())
        error = (await handle.get(timeout=20)).unwrap_err()
        has_ended.set()
        assert [await one.get(timeout=20) for one in (first, second)] == [Ok(1), Ok(1)]
        assert worker.statistics().running == 0
    assert error.code == code
    assert error.cause is not None or code != "UNHANDLED_ERROR"
    return error.message


@pytest.mark.parametrize("fn", [raise_a_base_exception, raise_one_in_a_thread])
async def test_a_base_exception(config: AppConfig, fn: Callable[[], Any]) -> None:
    assert await ends_alone(config, fn) == "Stray: out of its way"


@pytest.mark.parametrize("where", ["nursery", "thread"])
@pytest.mark.parametrize("failure", FAILURES)
async def test_an_exception_that_misbehaves_where_it_is_read(config: AppConfig, failure: str, where: str) -> None:
    raise_it = raising(FAILURES[failure])

    async def raise_it_here() -> None:
        await anyio.lowlevel.checkpoint()
        raise_it()

    await ends_alone(config, raise_it_here if where == "nursery" else raise_it)


@pytest.mark.parametrize("where", ["nursery", "thread"])
@pytest.mark.parametrize("result", RESULTS)
async def test_a_result_that_misbehaves_where_it_is_read(config: AppConfig, result: str, where: str) -> None:
    made = RESULTS[result]()

    async def return_it_here() -> Any:
        return made

    def return_it() -> Any:
        return made

    fn = return_it_here if where == "nursery" else return_it
    fn.__annotations__["return"] = type(made) if isinstance(made, Closed) else Any
    await ends_alone(config, fn, "RETURN_TYPE_MISMATCH")


@pytest.mark.parametrize("fn", [deepest, raising(GeneratorExit)])
async def test_an_exception_raised_in_a_part_of_the_task(config: AppConfig, fn: Callable[[], Any]) -> None:
    async def part() -> None:
        fn()

    async def whole() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(part)

    assert "Group: " in await ends_alone(config, whole)


async def test_arguments_whose_class_raises_while_they_are_read(
    config: AppConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Horsies(config)

    @app.task
    async def take(order: Order) -> None: ...

    async with Runtime(app) as rt:
        handle = (await take.handle(rt).send(Order(1))).unwrap()
        monkeypatch.setattr(Order, "is_broken", True)
        await rt.run_worker(WorkerConfig(until_idle=True))
        assert (await handle.get(timeout=20)).unwrap_err().code == "ARGUMENT_TYPE_MISMATCH"


def test_a_coroutine_that_its_event_loop_has_left_behind_is_closed() -> None:
    class Forever:
        def __await__(self) -> Generator[None]:
            yield

    async def waits() -> None:
        await Forever()

    left: list[type[BaseException]] = []

    async def around() -> None:
        try:
            await run_async(job)
        except BaseException as error:
            left.append(type(error))
            raise

    job: Any = SimpleNamespace(
        envelope=SimpleNamespace(timeout=None),
        begun=None,
        context=None,
        task=SimpleNamespace(fn=waits),
        args=(),
        kwargs={},
    )
    running = around()
    running.send(None)
    running.close()
    assert left == [GeneratorExit]


async def test_a_group_with_a_base_exception(config: AppConfig) -> None:
    assert (await ends_alone(config, raise_a_group)).startswith("BaseExceptionGroup: ")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("fn", [await_what_was_cancelled, cancelled_in_a_thread])
async def test_asyncio_s_cancellation_of_something_that_it_awaited(config: AppConfig, fn: Callable[[], Any]) -> None:
    assert await ends_alone(config, fn) == "CancelledError"


async def cancel_itself() -> None:
    itself = asyncio.current_task()
    assert itself is not None
    itself.cancel()
    await anyio.sleep(50)


async def cancel_itself_in_scopes() -> None:
    with anyio.move_on_after(50):
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 50)
            await cancel_itself()


async def cancel_itself_in_a_group_of_asyncio() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(50))
        await cancel_itself()


async def be_cancelled_by_another() -> None:
    itself = asyncio.current_task()
    assert itself is not None
    asyncio.get_running_loop().call_later(0.01, itself.cancel)
    await anyio.sleep(50)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize(
    "fn", [cancel_itself, cancel_itself_in_scopes, cancel_itself_in_a_group_of_asyncio, be_cancelled_by_another]
)
async def test_asyncio_s_cancellation_of_itself(
    config: AppConfig, fn: Callable[[], Any], timeout: float | None
) -> None:
    assert await ends_alone(config, fn, timeout=timeout) == "CancelledError"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("order", ["followed by others", "the last"])
async def test_asyncio_s_cancellation_of_itself_that_came_too_late(config: AppConfig, order: str) -> None:
    """It has returned before a wait could raise it, so it is for nobody: neither its neighbours, nor the next."""
    app = Horsies(config)

    @app.task("cancels")
    async def cancels(n: int, itself: bool) -> int:
        if itself:
            itself_in_the_loop = asyncio.current_task()
            assert itself_in_the_loop is not None
            itself_in_the_loop.cancel()
        else:
            await anyio.sleep(0.005)
        return n

    numbers = range(8) if order == "the last" else range(7, 15)
    async with Runtime(app) as rt:
        sent = [(await cancels.handle(rt).send(n, n == 7)).unwrap() for n in numbers]
        await rt.run_worker(WorkerConfig(until_idle=True))
        assert [await handle.get(timeout=20) for handle in sent] == [Ok(n) for n in numbers]


async def test_what_fails_while_its_worker_stops(config: AppConfig) -> None:
    """One part of the task is cancelled, another fails because of it; the worker stops in order all the same."""
    app, begun = Horsies(config), anyio.Event()

    async def fail_at_the_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise Stray("cannot tidy up")

    @app.task
    async def both() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fail_at_the_end)
            group.start_soon(anyio.sleep_forever)
            await anyio.wait_all_tasks_blocked()
            begun.set()

    async with Runtime(app) as rt:
        handle = (await both.handle(rt).send()).unwrap()
        worker = rt.start_worker()
        with anyio.fail_after(20):
            await begun.wait()
            worker.cut_short()
            await worker.wait_stopped()
        error = (await handle.get(timeout=20)).unwrap_err()
    assert error.code is TaskErrorCode.UNHANDLED_ERROR
    assert error.cause is not None
    assert "cannot tidy up" in error.cause.traceback


@pytest.mark.parametrize("anyio_backend", ["trio"])  # asyncio ends its loop at once
@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_an_interrupt_raised_in_a_thread_ends_the_worker_and_lets_other_threads_end(
    config: AppConfig, timeout: float | None
) -> None:
    app, has_begun = Horsies(config), threading.Event()

    @app.task
    def until_told(ctx: TaskContext) -> int:
        has_begun.set()
        while not ctx.cancelled:
            time.sleep(0.001)
        return 1

    @app.task(timeout=timeout)
    def interrupt() -> None:
        has_begun.wait(20)
        raise KeyboardInterrupt

    async with Runtime(app) as rt:
        first = (await until_told.handle(rt).send()).unwrap()
        second = (await interrupt.handle(rt).send()).unwrap()
        with anyio.fail_after(20), pytest.raises(BaseExceptionGroup) as caught:
            await rt.run_worker()
        assert caught.group_contains(KeyboardInterrupt)
        assert await first.get(timeout=20) == Ok(1)
        assert (await second.get(timeout=20)).unwrap_err().code is TaskErrorCode.WORKER_CRASHED
