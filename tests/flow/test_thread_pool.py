"""The threads of a worker, by themselves: what blocks has one to itself, what is quick shares one."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from horsies._worker.execution.thread_pool import ThreadPool

pytestmark = pytest.mark.anyio

LONG = 20
"""Seconds that nothing here takes, unless it hangs."""


@asynccontextmanager
async def serving(most: int) -> AsyncGenerator[ThreadPool]:
    threads = ThreadPool(most)
    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as group:
            group.start_soon(threads.serve)
            yield threads
            group.cancel_scope.cancel()


def call(function: Callable[[], Any]) -> Any:
    return function()


async def run(threads: ThreadPool, function: Callable[[], Any]) -> Any:
    ends: list[tuple[Any, BaseException | None]] = []
    await threads.run(call, [function], lambda _, *end: ends.append(end))
    ((value, error),) = ends
    if error is not None:
        raise error
    return value


async def run_all(threads: ThreadPool, functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """Hand all of them in before any begins; what each returned or raised."""
    answers: list[Any] = [None] * len(functions)

    async def run_one(place: int) -> None:
        try:
            answers[place] = await run(threads, functions[place])
        except (LookupError, KeyboardInterrupt) as error:
            answers[place] = error

    async with anyio.create_task_group() as group:
        for place in range(len(functions)):
            group.start_soon(run_one, place)
    return answers


class Block:
    """Blocks where it is called, and tells of its own end, which is when nobody holds it any more."""

    def __init__(self) -> None:
        self.has_begun, self.go_on, self.is_gone = threading.Event(), threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.has_begun.set()
        self.go_on.wait(LONG)

    def __del__(self) -> None:
        self.is_gone.set()


async def wait_set(event: threading.Event) -> None:
    with anyio.fail_after(LONG):
        while not event.is_set():
            await anyio.sleep(0.001)


async def test_quick_ones_share_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    made, lend = 0, ThreadPool._lend

    async def counted(*args: Any) -> None:
        nonlocal made
        made += 1
        await lend(*args)

    monkeypatch.setattr(ThreadPool, "_lend", counted)
    async with serving(100) as threads:
        for _ in range(10):
            assert await run_all(threads, [partial(abs, -n) for n in range(100)]) == [*range(100)]
    assert made < 500  # a thread each would be 1,000; how many there are is up to the operating system


async def test_ones_that_block_have_one_each() -> None:
    barrier = threading.Barrier(20)
    async with serving(20) as threads:
        for _ in range(3):
            assert sorted(await run_all(threads, [partial(barrier.wait, LONG)] * 20)) == [*range(20)]


async def test_a_result_does_not_wait_for_what_follows_in_its_thread() -> None:
    threads, go_on, has_ended = ThreadPool(1), threading.Event(), anyio.Event()

    async def first() -> None:
        await run(threads, lambda: None)
        has_ended.set()

    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as group:
            group.start_soon(first)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(run, threads, partial(go_on.wait, LONG))
            await anyio.wait_all_tasks_blocked()
            group.start_soon(threads.serve)
            await has_ended.wait()
            go_on.set()
            group.cancel_scope.cancel()


async def test_each_of_many_is_told_of_as_it_ends() -> None:
    go_on, told = threading.Event(), list[tuple[str, Any]]()

    def double(text: str) -> str:
        return text * 2 if text else str(go_on.wait(LONG))

    def ended(text: str, value: Any, _: BaseException | None) -> None:
        told.append((text, value))
        if len(told) == 3:
            go_on.set()

    async with serving(2) as threads:
        await threads.run(double, ["a", "", "b", "c"], ended)
        await threads.run(double, [], ended)
    assert sorted(told[:3]) == [("a", "aa"), ("b", "bb"), ("c", "cc")]
    assert told[3:] == [("", "True")]


async def test_what_one_raises_is_told_at_once_and_the_others_go_on() -> None:
    block, told = Block(), list[tuple[Any, Any, BaseException | None]]()
    error = LookupError("own")

    def fail() -> None:
        block.has_begun.wait(LONG)
        raise error

    def ended(*end: Any) -> None:
        told.append(end)
        block.go_on.set()

    async with serving(2) as threads:
        await threads.run(call, [block, fail], ended)
    assert told == [(fail, None, error), (block, None, None)]


async def test_what_comes_while_a_thread_ends_is_not_overlooked() -> None:
    async with serving(4) as threads:
        for n in range(500):
            assert await run(threads, partial(abs, -n)) == n


async def test_there_are_never_more_than_allowed() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def count() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1

    async with serving(3) as threads:
        await run_all(threads, [count] * 30)
    assert most <= 3


@pytest.mark.parametrize("error", [LookupError("own"), KeyboardInterrupt()])
async def test_an_exception_is_raised_where_it_is_waited_for(error: BaseException) -> None:
    def fail() -> None:
        raise error

    async with serving(1) as threads:
        assert await run_all(threads, [lambda: 1, fail, lambda: 2]) == [1, error, 2]


async def test_each_has_a_context_of_its_own() -> None:
    variable = ContextVar("variable", default=0)
    variable.set(1)

    def add() -> int:
        variable.set(variable.get() + 1)
        return variable.get()

    async with serving(1) as threads:
        assert await run_all(threads, [add] * 10) == [2] * 10
    assert variable.get() == 1


async def test_they_can_call_back() -> None:
    async def where() -> int:
        await anyio.lowlevel.checkpoint()
        return threading.get_ident()

    async with serving(2) as threads:
        called = await run_all(threads, [partial(anyio.from_thread.run, where)] * 10)
    assert set(called) == {threading.get_ident()}


async def test_one_that_is_given_up_before_it_begins_never_does() -> None:
    go_on, ran = threading.Event(), list[int]()
    async with serving(1) as threads, anyio.create_task_group() as group:
        group.start_soon(run, threads, partial(go_on.wait, LONG))
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.01):
            await run(threads, partial(ran.append, 1))
        go_on.set()
        await run(threads, partial(ran.append, 2))
    assert ran == [2]


async def test_one_that_is_given_up_is_left_behind_with_its_thread() -> None:
    """Its thread takes nothing else; the pool goes on, and ends, without it."""
    begun, go_on, by = threading.Event(), threading.Event(), list[int]()

    def block() -> None:
        by.append(threading.get_ident())
        begun.set()
        go_on.wait(LONG)

    async with serving(2) as threads:
        async with anyio.create_task_group() as group:
            group.start_soon(run, threads, block)
            await wait_set(begun)
            group.cancel_scope.cancel()
        assert by[0] not in await run_all(threads, [threading.get_ident] * 10)
    go_on.set()


async def test_what_follows_one_that_was_given_up_is_not_cancelled_with_it() -> None:
    block, ran = Block(), list[int]()

    def look() -> None:
        anyio.from_thread.check_cancelled()
        ran.append(1)

    async with serving(1) as threads, anyio.create_task_group() as group:
        async with anyio.create_task_group() as first:
            first.start_soon(run, threads, block)
            await wait_set(block.has_begun)
            first.cancel_scope.cancel()
        for _ in range(5):
            group.start_soon(run, threads, look)
        await anyio.wait_all_tasks_blocked()
        block.go_on.set()
    assert len(ran) == 5


async def test_one_that_is_given_up_as_it_ends_leaves_alone_what_its_thread_runs_by_then() -> None:
    first, second, threads, ran = Block(), Block(), ThreadPool(1), list[int]()

    def look() -> None:
        second()
        anyio.from_thread.check_cancelled()
        ran.append(1)

    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as group:
            async with anyio.create_task_group() as following:
                async with anyio.create_task_group() as given_up:
                    given_up.start_soon(run, threads, first)
                    await anyio.wait_all_tasks_blocked()
                    following.start_soon(run, threads, look)
                    await anyio.wait_all_tasks_blocked()
                    group.start_soon(threads.serve)
                    await wait_set(first.has_begun)
                    first.go_on.set()
                    second.has_begun.wait(LONG)  # and so the event loop has not heard of the first one's end
                    given_up.cancel_scope.cancel()
                second.go_on.set()
            group.cancel_scope.cancel()
    assert ran == [1]


async def test_the_end_of_a_pool_is_the_end_of_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    work, running = ThreadPool._work, 0

    def slow_to_end(*args: Any) -> None:
        nonlocal running
        running += 1
        work(*args)
        time.sleep(0.05)
        running -= 1

    monkeypatch.setattr(ThreadPool, "_work", slow_to_end)
    async with serving(1) as threads:
        await run(threads, lambda: None)
        assert running == 1
    assert running == 0


async def test_what_has_ended_is_not_held() -> None:
    block = Block()
    block.go_on.set()
    is_gone = block.is_gone
    async with serving(1) as threads:
        await run(threads, block)
        del block
        await wait_set(is_gone)


async def test_a_pool_that_has_ended_holds_nothing_of_what_it_left_behind() -> None:
    block = Block()
    go_on, is_gone = block.go_on, block.is_gone
    async with serving(1) as threads, anyio.create_task_group() as group:
        group.start_soon(run, threads, block)
        await wait_set(block.has_begun)
        group.cancel_scope.cancel()
    del block
    gc.collect()  # the exception of the cancelled call is part of a cycle
    go_on.set()
    await wait_set(is_gone)
