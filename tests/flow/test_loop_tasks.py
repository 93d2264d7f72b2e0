"""Which task of the event loop an async task runs in: its own, unless it never waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from functools import partial
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from horsies import AppConfig, CancelOutcome, Horsies, Ok, Runtime, TaskErrorCode, TaskHandle, WorkerConfig
from horsies._worker.execution.loop_tasks import LoopTasks

pytestmark = pytest.mark.anyio

MANY = 40
UNTIL_IDLE = WorkerConfig(until_idle=True)


def loop_task() -> Any:
    """The one that calls; it is an object, since the id of one that has ended may be given to another."""
    return trio.lowlevel.current_task() if trio.lowlevel.in_trio_run() else asyncio.current_task()


async def send_all(rt: Runtime, task: Any) -> list[TaskHandle[Any]]:
    """Send `task` with each number below `MANY`."""
    answers = await task.handle(rt).send_many([(n,) for n in range(MANY)])
    return [answer.unwrap() for answer in answers]


async def values(handles: Sequence[TaskHandle[Any]]) -> list[Any]:
    return [(await handle.get(timeout=20)).unwrap() for handle in handles]


async def test_what_never_waits_shares_one(config: AppConfig) -> None:
    app, seen = Horsies(config), set()

    @app.task("quick")
    async def quick(n: int) -> int:
        seen.add(loop_task())
        return n

    async with Runtime(app) as rt:
        handles = await send_all(rt, quick)
        await rt.run_worker(UNTIL_IDLE)
        assert await values(handles) == list(range(MANY))
    assert len(seen) <= MANY / 4


@pytest.mark.parametrize("wait", [anyio.lowlevel.checkpoint, partial(anyio.sleep, 0.002)], ids=["a turn", "2 ms"])
async def test_one_that_has_waited_is_the_last_in_its_own(
    config: AppConfig, wait: Callable[[], Awaitable[None]]
) -> None:
    app = Horsies(config)
    begun: dict[Any, list[int]] = {}

    @app.task("some_wait")
    async def some_wait(n: int) -> int:
        begun.setdefault(loop_task(), []).append(n)
        if n % 4 == 3:
            await wait()
        return n

    async with Runtime(app) as rt:
        for _ in range(3):
            handles = await send_all(rt, some_wait)
            await rt.run_worker(UNTIL_IDLE)
            assert await values(handles) == list(range(MANY))
    assert [n for numbers in begun.values() for n in numbers[:-1] if n % 4 == 3] == []
    assert any(len(numbers) > 1 for numbers in begun.values())


async def test_they_share_one_again_once_they_no_longer_wait(config: AppConfig) -> None:
    app, pause = Horsies(config), 0.001
    seen: set[Any] = set()

    @app.task("waits_at_first")
    async def waits_at_first(n: int) -> int:
        seen.add(loop_task())
        if pause:
            await anyio.sleep(pause)
        return n

    async with Runtime(app) as rt:
        rt.start_worker()
        for pause in (0.001, 0.0, 0.0):
            seen.clear()
            assert await values(await send_all(rt, waits_at_first)) == list(range(MANY))
            assert pause == 0 or len(seen) == MANY
    assert len(seen) <= MANY / 4


async def test_one_that_waits_holds_up_nobody(config: AppConfig) -> None:
    app, last_has_begun = Horsies(config), anyio.Event()

    @app.task("first_for_last")
    async def first_for_last(n: int) -> int:
        if n == MANY - 1:
            last_has_begun.set()
        elif n % 2 == 0:
            await last_has_begun.wait()
        return n

    async with Runtime(app) as rt:
        handles = await send_all(rt, first_for_last)
        with anyio.fail_after(20):
            await rt.run_worker(WorkerConfig(until_idle=True, concurrency=MANY))
        assert await values(handles) == list(range(MANY))


async def test_context_variables_end_with_the_task(config: AppConfig) -> None:
    app, mine = Horsies(config), ContextVar[int]("mine")

    @app.task("sets")
    async def sets(n: int) -> int:
        before = mine.get(-1)
        mine.set(n)
        return before

    async with Runtime(app) as rt:
        handles = await send_all(rt, sets)
        await rt.run_worker(UNTIL_IDLE)
        assert await values(handles) == [-1] * MANY


async def test_a_context_variable_with_an_equal_value_ends_too(config: AppConfig) -> None:
    app, mine = Horsies(config), ContextVar[list[int]]("mine")
    given: list[int] = []
    mine.set(given)

    @app.task("sets_equal")
    async def sets_equal(n: int) -> bool:
        is_given = mine.get() is given
        mine.set([])
        return is_given

    async with Runtime(app) as rt:
        handles = await send_all(rt, sets_equal)
        await rt.run_worker(UNTIL_IDLE)
        assert await values(handles) == [True] * MANY


async def test_cancelling_one_leaves_the_others_of_its_name_alone(config: AppConfig) -> None:
    app, waits = Horsies(config), anyio.Event()

    @app.task("fifth_waits")
    async def fifth_waits(n: int) -> int:
        if n == 5:
            waits.set()
            await anyio.sleep_forever()
        elif n > 5:
            await anyio.sleep(0.001)
        return n

    async with Runtime(app) as rt:
        rt.start_worker()
        handles = await send_all(rt, fifth_waits)
        with anyio.fail_after(20):
            await waits.wait()
        assert (await handles[5].cancel()).unwrap() in (CancelOutcome.CANCELLED, CancelOutcome.REQUESTED)
        error = (await handles[5].get(timeout=20)).unwrap_err()
        assert error.code is TaskErrorCode.TASK_CANCELLED
        others = [n for n in range(MANY) if n != 5]
        assert await values([handles[n] for n in others]) == others
        (later,) = await values([(await fifth_waits.handle(rt).send(6)).unwrap()])
        assert later == 6


async def test_a_loop_task_has_the_name_of_its_task(config: AppConfig) -> None:
    app = Horsies(config)

    async def name_after(pause: int) -> str:
        if pause:
            await anyio.sleep(0.001 * pause)
        return anyio.get_current_task().name

    one, other = app.task("one")(name_after), app.task("other")(name_after)
    async with Runtime(app) as rt:
        sent = [(task.name, (await task.handle(rt).send(n % 3)).unwrap()) for n in range(9) for task in (one, other)]
        await rt.run_worker(UNTIL_IDLE)
        assert [await handle.get(timeout=20) for _, handle in sent] == [Ok(name) for name, _ in sent]


def job_of(number: int) -> Any:
    return SimpleNamespace(n=number, is_cancelled=False, stop=None)


async def test_what_comes_while_one_waits_does_not_follow_it() -> None:
    for _ in range(20):
        seen, go_on = [], anyio.Event()

        async def run(job: Any, seen: list[Any] = seen, go_on: anyio.Event = go_on) -> None:
            seen.append(loop_task())
            if job.n == 0:
                await go_on.wait()

        turns = LoopTasks("name", run)
        async with anyio.create_task_group() as group:
            turns.run_soon(job_of(0), group)
            await anyio.wait_all_tasks_blocked()
            go_on.set()
            turns.run_soon(job_of(1), group)
        assert len(set(seen)) == 2


async def test_nothing_follows_one_that_was_cancelled() -> None:
    """On Trio those that are ready go on in any order, so the cancelled one may end before the next has begun."""
    for _ in range(60):
        first, second, ended = job_of(0), job_of(1), []

        async def run(job: Any, ended: list[int] = ended) -> None:
            try:
                if job.n == 0:
                    await anyio.sleep_forever()
                await anyio.lowlevel.checkpoint()
                ended.append(job.n)
            except anyio.get_cancelled_exc_class():
                if not job.is_cancelled:
                    raise

        turns = LoopTasks("name", run)
        async with anyio.create_task_group() as group:
            turns.run_soon(first, group)
            turns.run_soon(second, group)
            while first.stop is None:
                await anyio.lowlevel.checkpoint()
            first.is_cancelled = True
            first.stop()
        assert ended == [1]


async def test_no_more_loop_tasks_are_made_as_time_goes_by() -> None:
    """Whatever order they begin in, and however often what was made for one job was taken up by another."""
    made = 0

    async def run(job: Any) -> None:
        for _ in range(job.n):
            await anyio.lowlevel.checkpoint()

    turns = LoopTasks("name", run)
    async with anyio.create_task_group() as group:

        def start_soon(*what: Any, name: str) -> Any:
            nonlocal made
            made += 1
            return group.start_soon(*what, name=name)

        spy: Any = SimpleNamespace(start_soon=start_soon)
        for waits in [(0, 0, 0), (1, 1), (0, 3), (1, 0, 2)] * 100:
            for n in waits:
                turns.run_soon(job_of(n), spy)
            for _ in range(12):  # turns of the loop, in which all of them end
                await anyio.lowlevel.checkpoint()
        made = 0
        turns.run_soon(job_of(0), spy)
    assert made == 1


async def test_each_gets_its_turn_when_one_ends_the_worker() -> None:
    begun: list[int] = []

    async def run(job: Any) -> None:
        begun.append(job.n)
        if job.n == 1:
            raise LookupError("not to be caught")
        if job.n == 3:
            await anyio.sleep_forever()

    async def run_six() -> None:
        turns = LoopTasks("name", run)
        async with anyio.create_task_group() as group:
            for n in range(6):
                turns.run_soon(job_of(n), group)

    with pytest.raises(ExceptionGroup) as caught:
        await run_six()
    assert [type(error) for error in caught.value.exceptions] == [LookupError]
    assert begun == [*range(6)]
