"""Sync tasks in threads, which no cancellation reaches, in a worker that stops."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import Counter
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from horsies import AppConfig, Horsies, Ok, Runtime, TaskContext, TaskSendOptions
from horsies._worker.execution.invoke import run_sync
from horsies._worker.execution.job import Job, prepare
from horsies._worker.execution.thread_pool import ThreadPool
from horsies.abc import ClaimedTask, Lease

from .conftest import until

pytestmark = pytest.mark.anyio


@dataclass
class Image:
    name: str


async def test_all_that_were_started_are_told_that_the_worker_is_cancelled(config: AppConfig) -> None:
    """Of what one claim has started some have begun by then, and some have not: they do now."""
    app, runs, around = Horsies(config), Counter[str](), anyio.CancelScope()

    @app.task
    def in_thread(ctx: TaskContext, name: str) -> None:
        until = time.monotonic() + 10
        while not ctx.cancelled and time.monotonic() < until:
            time.sleep(0.001)
        runs[name] += ctx.cancelled

    @app.task
    async def stop() -> None:
        runs["stop"] += 1
        around.cancel()

    def at(priority: int) -> TaskSendOptions:
        return TaskSendOptions(priority=priority)

    async with Runtime(app) as rt:
        for _ in range(5):
            (await in_thread.handle(rt).with_options(at(1)).send("before")).unwrap()
            (await in_thread.handle(rt).with_options(at(3)).send("after")).unwrap()
        (await stop.handle(rt).with_options(at(2)).send()).unwrap()
        with anyio.fail_after(20), around:
            await rt.run_worker()
    assert runs == {"before": 5, "after": 5, "stop": 1}


async def test_what_has_ended_is_not_held_by_what_was_started_with_it(config: AppConfig) -> None:
    """A sync task may run for hours; the arguments of a hundred others would be kept for as long."""
    app, given, go_on = Horsies(config), list[Any](), threading.Event()

    @app.task
    def look(image: Image, blocks: bool) -> None:
        given.append(weakref.ref(image))
        if blocks:
            go_on.wait(20)

    async with Runtime(app) as rt:
        payload = [(Image("a"), False), (Image("b"), True), (Image("c"), False)]
        handles = [answer.unwrap() for answer in await look.handle(rt).send_many(payload)]
        del payload
        worker = rt.start_worker()
        for handle in (handles[0], handles[2]):
            assert await handle.get(timeout=20) == Ok(None)
        await until(lambda: gc.collect() >= 0 and sum(image() is None for image in given) == 2)
        assert worker.statistics().running == 1
        go_on.set()


async def test_one_is_told_that_the_worker_stops(config: AppConfig) -> None:
    app, begun = Horsies(config), threading.Event()

    @app.task
    def until_told(ctx: TaskContext) -> None:
        begun.set()
        while True:
            ctx.check_cancelled()
            time.sleep(0.001)

    async with Runtime(app) as rt:
        handle = (await until_told.handle(rt).send()).unwrap()
        worker = rt.start_worker()
        await until(begun.is_set)
        worker.cut_short()
        with anyio.fail_after(20):
            await worker.wait_stopped()
        assert worker.statistics().abandoned == 0
        assert (await handle.get(timeout=20)).unwrap_err().code == "WORKER_CRASHED"


async def test_one_that_begins_after_the_worker_was_cancelled_is_told_at_once(config: AppConfig) -> None:
    app, told, reports, abandoned = Horsies(config), threading.Event(), list[Any](), list[bool]()

    class Context:
        _cancel = told.set

    @app.task
    def until_told(ctx: TaskContext) -> bool:
        return told.wait(10)

    async with Runtime(app) as rt:
        payload = until_told.handle(rt)._seal_call(()).unwrap()
        lease, sha = Lease(payload.task_id, 1), bytes.fromhex(payload.enqueue_sha)
        row = ClaimedTask(lease, payload.envelope, sha, until_told.name, "default", 1, 0, 0, None, 0.0, is_running=True)
        job = prepare(rt._engine, row)
        assert isinstance(job, Job)
        context: Any = Context
        job.context = context
        threads = ThreadPool(1)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(threads.serve)
                with anyio.CancelScope() as worker:
                    worker.cancel()
                    await run_sync(job, threads, reports.append, lambda: abandoned.append(True))
                group.cancel_scope.cancel()
    assert (reports, abandoned) == ([Ok(True)], [])
