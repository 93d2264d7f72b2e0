"""Sync tasks in threads, which no cancellation reaches, in a worker that stops."""

from __future__ import annotations

import threading
import time
from collections import Counter

import anyio
import pytest

from horsies import AppConfig, Horsies, Runtime, TaskContext, TaskSendOptions

from .conftest import until

pytestmark = pytest.mark.anyio


async def test_none_begins_once_the_worker_is_cancelled(config: AppConfig) -> None:
    """Of what one claim brought some have begun by then, and some have not."""
    app, runs, around = Horsies(config), Counter[str](), anyio.CancelScope()

    @app.task
    def in_thread(name: str) -> None:
        runs[name] += 1

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
    assert runs["stop"] == 1
    assert {runs["before"], runs["after"]} == {0, 5}  # Trio may take what is ready from either end


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
