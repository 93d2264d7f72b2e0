"""A process that was forked: it uses nothing of the runtime that it inherits, and does the runtime no harm."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

import horsies
from horsies import AppConfig, Horsies, HorsiesError, Ok, Runtime, WorkerConfig
from horsies._send.forks import refuse_in_fork

pytestmark = pytest.mark.anyio


def exit_code_of(pid: int) -> int:
    """Of a child, which is killed if it does not end."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    raise AssertionError("the fork hangs")


def application(config: AppConfig) -> Horsies:
    app = Horsies(config)

    @app.task("add")
    async def add(a: int, b: int) -> int:
        return a + b

    return app


async def test_whatever_uses_the_runtime_of_another_process_is_refused(config: AppConfig) -> None:
    app = application(config)
    add = app.tasks["add"]
    async with Runtime(app) as rt:
        function, handle = add.handle(rt), (await add.handle(rt).send(1, 2)).unwrap()
        workflow = rt.workflow(handle.task_id)
        doors: list[Callable[[], Any]] = [
            lambda: function.send(1, 2),
            lambda: function.schedule(1, 1, 2),
            lambda: function.send_many([(1, 2)]),
            lambda: add.send(1, 2),
            handle.get,
            handle.info,
            handle.cancel,
            lambda: add.handle(rt),
            lambda: rt.handle(handle.task_id),
            rt.start_worker,
            rt.run_worker,
            rt.transaction,
            rt.queues,
            lambda: rt.pause_queue("default"),
            lambda: rt.resume_queue("default"),
            rt.schedules,
            rt.run_scheduler,
            rt.check_live,
            lambda: rt.as_completed([handle]),
            lambda: rt.workflow(handle.task_id),
            rt.list_workflows,
            workflow.get,
            workflow.status,
            workflow.cancel,
        ]
        child = os.fork()
        if child == 0:
            left = 100
            try:
                for left, door in enumerate(doors):
                    assert await is_refused(door), left
                left = 0
            finally:
                os._exit(left)
        assert exit_code_of(child) == 0
        await rt.run_worker(WorkerConfig(until_idle=True))
        assert await handle.get(timeout=20) == Ok(3)


async def is_refused(door: Callable[[], Any]) -> bool:
    try:
        answer = door()
        if isinstance(answer, Awaitable):
            await answer
    except HorsiesError as error:
        return error.code == "HRS-211" and "fork" in str(error)
    return False


@pytest.mark.parametrize("end", ["os._exit", "sys.exit", "the end of the block"])
def test_a_fork_of_a_synchronous_program_is_refused_and_ends(config: AppConfig, anyio_backend: Any, end: str) -> None:
    app = application(config)
    backend = anyio_backend[0] if isinstance(anyio_backend, tuple) else anyio_backend
    add, child = app.tasks["add"], -1
    try:
        with horsies.blocking(app, backend=backend) as rt:
            handle = add.handle(rt).send(1, 2).unwrap()
            function, flow = add.handle(rt), rt.workflow(handle.task_id)
            child = os.fork()
            if child == 0:
                code = 0
                for door in (
                    lambda: function.send(1, 2),
                    lambda: function.send_many([(1, 2)]),
                    lambda: add.handle(rt),
                    handle.get,
                    rt.queues,
                    rt.start_worker,
                    flow.status,
                    lambda: rt.as_completed([handle]).__enter__(),
                ):
                    try:
                        door()
                        code = 1
                    except HorsiesError as error:
                        code = code or error.code != "HRS-211"
                if code or end == "os._exit":
                    os._exit(code)
                if end == "sys.exit":
                    sys.exit(0)
            else:
                assert exit_code_of(child) == 0
                rt.run_worker(WorkerConfig(until_idle=True))
                assert handle.get(timeout=20) == Ok(3)
    finally:
        if child == 0:
            os._exit(0)


def test_what_is_open_in_this_process_or_nowhere_is_not_refused() -> None:
    refuse_in_fork(None)
    refuse_in_fork(os.getpid())
    with pytest.raises(HorsiesError, match="process 0 has opened"):
        refuse_in_fork(0)


@pytest.mark.parametrize("where", ["nursery", "thread"])
@pytest.mark.parametrize("how", ["returns", "raises", "exits"])
async def test_a_fork_that_comes_back_from_its_task_ends_there(config: AppConfig, where: str, how: str) -> None:
    app = application(config)

    def fork() -> int:
        child = os.fork()
        if child == 0 and how == "raises":
            raise ValueError("in the fork")
        if child == 0 and how == "exits":
            sys.exit(0)
        return 0 if child == 0 else exit_code_of(child)

    async def fork_here() -> int:
        return fork()

    forks = app.task("forks")(fork_here if where == "nursery" else fork)
    async with Runtime(app) as rt:
        handle = (await forks.handle(rt).send()).unwrap()
        other = (await app.tasks["add"].handle(rt).send(1, 2)).unwrap()
        with anyio.fail_after(30):
            await rt.run_worker(WorkerConfig(until_idle=True))
        assert await handle.get(timeout=20) == Ok(how == "raises")
        assert await other.get(timeout=20) == Ok(3)
