"""Tasks that run in processes: what goes in and comes out, how they are killed, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest

from horsies import (
    AppConfig,
    CancelOutcome,
    Environment,
    Horsies,
    HorsiesError,
    Ok,
    Runtime,
    Task,
    TaskSendOptions,
    WorkerConfig,
)
from horsies._worker.execution import process_pool as processes

from . import process_tasks as tasks
from .hostile import FAILURES
from .process_tasks import is_gone, is_over

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("database_url", ["postgresql", "sqlite-memory"], indirect=True),
]

UNTIL_IDLE = WorkerConfig(until_idle=True)


@pytest.fixture
def app(config: AppConfig, monkeypatch: pytest.MonkeyPatch) -> Horsies:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    app = Horsies(config)
    for value in vars(tasks).values():
        if isinstance(value, Task) and value is not tasks.hidden:
            app.include(value)
    return app


async def told(file: Path) -> int:
    """The pid that a task has written."""
    with anyio.fail_after(30):
        while not os.access(file, os.R_OK):
            await anyio.sleep(0.005)
    with open(file) as text:  # noqa: ASYNC230  # a few bytes
        return int(text.read())


async def wait_gone(pid: int) -> None:
    with anyio.fail_after(20):
        while not is_gone(pid):
            await anyio.sleep(0.005)


async def test_values_come_out_as_they_went_in(app: Horsies) -> None:
    async with Runtime(app) as rt:
        order = tasks.Order(2, Decimal("1.10"), bytes(range(256)))
        handle = (await tasks.double.handle(rt).send(order, Decimal(3))).unwrap()
        large = tasks.Order(1, Decimal(1), bytes(3_000_000))
        other = (await tasks.double.handle(rt).send(large, Decimal(1))).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        assert await handle.get(timeout=30) == Ok(tasks.Order(4, Decimal("3.30"), bytes(range(256)) + b"\0"))
        assert (await other.get(timeout=30)).map(lambda one: len(one.label)) == Ok(3_000_001)


async def test_a_process_is_used_again_and_ends_with_its_worker(app: Horsies) -> None:
    async with Runtime(app) as rt:
        worker = rt.start_worker()
        pids = {await (await tasks.pid.handle(rt).send()).unwrap().get(timeout=30) for _ in range(3)}
        assert len(pids) == 1
        pid = pids.pop().unwrap()
        assert pid != os.getpid()
        assert not is_gone(pid)
        await worker.drain()
        assert is_gone(pid)


async def test_what_fails_there_fails_as_it_would_here(app: Horsies) -> None:
    async with Runtime(app) as rt:
        rt.start_worker()

        async def error(what: str) -> Any:
            return (await (await tasks.fails.handle(rt).send(what)).unwrap().get(timeout=30)).unwrap_err()

        raised = await error("raises")
        assert (raised.code, raised.message) == ("UNHANDLED_ERROR", "ValueError: deep inside")
        assert raised.cause.type == "ValueError"
        assert "process_tasks.py" in raised.cause.traceback
        assert "_worker/execution/process_main.py" not in raised.cause.traceback
        for what, name in (("is interrupted", "KeyboardInterrupt"), ("exits", "SystemExit")):
            ended = await error(what)
            assert (ended.code, ended.cause.type) == ("UNHANDLED_ERROR", name)
        own = await error("raises a TaskError")
        assert (own.code, own.message, own.data) == ("RATE_LIMITED", "for 3 s", {"seconds": 3})
        returned = (await (await tasks.returns_err.handle(rt).send()).unwrap().get(timeout=30)).unwrap_err()
        assert (returned.code, returned.data) == ("TOO_SMALL", {"least": [1, 2]})
        misfit = (await (await tasks.wrong_type.handle(rt).send()).unwrap().get(timeout=30)).unwrap_err()
        assert misfit.code == "RETURN_TYPE_MISMATCH"


async def test_a_timeout_kills_the_process_and_harms_no_neighbour(app: Horsies, tmp_path: Path) -> None:
    doomed, neighbour, after, until = (tmp_path / name for name in ("doomed", "neighbour", "after", "until"))
    async with Runtime(app) as rt:
        worker = rt.start_worker()
        burn = tasks.burn.handle(rt)
        other = (await burn.send(str(neighbour), str(until))).unwrap()
        breathing = (await tasks.breathe.handle(rt).send(str(until))).unwrap()
        short = (await burn.with_options(TaskSendOptions(timeout=0.3)).send(str(doomed), str(until))).unwrap()
        doomed_pid, neighbour_pid = await told(doomed), await told(neighbour)
        assert (await short.get(timeout=30)).unwrap_err().code == "TASK_TIMEOUT"
        assert is_gone(doomed_pid)
        assert not is_gone(neighbour_pid)
        # Its slot is free at once: both are in use, and a third begins while the neighbour still runs.
        third = (await burn.send(str(after), str(until))).unwrap()
        await told(after)
        assert worker.statistics().running == 3
        until.touch()
        assert await other.get(timeout=30) == Ok(neighbour_pid)
        assert await breathing.get(timeout=30) == Ok("done")
        assert (await third.get(timeout=30)).is_ok()
    assert worker.statistics().abandoned == 0


async def test_no_more_run_at_once_than_there_are_cpus(app: Horsies, tmp_path: Path) -> None:
    until = tmp_path / "until"
    async with Runtime(app) as rt:
        worker = rt.start_worker(WorkerConfig(threads=1))
        handles = [(await tasks.burn.handle(rt).send(str(tmp_path / f"{n}"), str(until))).unwrap() for n in range(3)]
        with anyio.fail_after(30):
            while (worker.statistics().running, worker.statistics().ready) != (2, 1):
                await anyio.sleep(0.005)
        # The thread is not one of theirs.
        assert await (await tasks.in_a_thread.handle(rt).send()).unwrap().get(timeout=30) == Ok(os.getpid())
        assert (worker.statistics().running, worker.statistics().ready) == (2, 1)
        until.touch()
        for handle in handles:
            assert (await handle.get(timeout=30)).is_ok()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("exits", "exit status 7"),
        ("segfaults", "killed by SIGSEGV"),
        pytest.param(
            "gets a signal without a name",
            "killed by signal 40",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="it has no such signals"),
        ),
        ("leaves a child that holds the pipe", "exit status 7"),
    ],
)
async def test_a_process_that_dies_is_a_crash_and_the_worker_goes_on(
    app: Horsies, tmp_path: Path, how: str, message: str
) -> None:
    async with Runtime(app) as rt:
        rt.start_worker()
        handle = (await tasks.dies_once.handle(rt).send(str(tmp_path / "dead"), how)).unwrap()
        error = (await handle.get(timeout=30)).unwrap_err()
        assert (error.code, error.message) == ("WORKER_CRASHED", f"the process that ran the task died ({message})")
        assert is_gone(await told(tmp_path / "dead"))
        again = (await tasks.dies_once.handle(rt).send(str(tmp_path / "dead"), how)).unwrap()
        assert await again.get(timeout=30) == Ok("alive")


async def test_a_crash_is_tried_again_when_the_policy_lists_it(app: Horsies, tmp_path: Path) -> None:
    async with Runtime(app) as rt:
        handle = (await tasks.dies_and_is_tried_again.handle(rt).send(str(tmp_path / "dead"))).unwrap()
        rt.start_worker()
        assert await handle.get(timeout=30) == Ok("alive")
        info = (await handle.info(include_attempts=True)).unwrap()
        assert info is not None
        assert [attempt.error.code for attempt in info.attempts] == ["WORKER_CRASHED"]


async def test_a_free_process_that_died_is_replaced(app: Horsies) -> None:
    async with Runtime(app) as rt:
        rt.start_worker()
        first = (await (await tasks.pid.handle(rt).send()).unwrap().get(timeout=30)).unwrap()
        os.kill(first, signal.SIGKILL)
        second = (await (await tasks.pid.handle(rt).send()).unwrap().get(timeout=30)).unwrap()
        assert second != first
        await wait_gone(first)


async def test_cancelling_kills_the_process(app: Horsies, tmp_path: Path) -> None:
    async with Runtime(app) as rt:
        worker = rt.start_worker()
        handle = (await tasks.burn.handle(rt).send(str(tmp_path / "begun"), str(tmp_path / "never"))).unwrap()
        pid = await told(tmp_path / "begun")
        assert await handle.cancel() == Ok(CancelOutcome.REQUESTED)
        assert (await handle.get(timeout=30)).unwrap_err().code == "TASK_CANCELLED"
        assert is_gone(pid)
        await worker.drain()
        assert (worker.statistics().cancelled, worker.statistics().abandoned) == (1, 0)


async def test_what_outlasts_the_drain_is_killed_and_interrupted(app: Horsies, tmp_path: Path) -> None:
    async with Runtime(app) as rt:
        worker = rt.start_worker(WorkerConfig(drain_timeout=0.05))
        handle = (await tasks.burn.handle(rt).send(str(tmp_path / "begun"), str(tmp_path / "never"))).unwrap()
        pid = await told(tmp_path / "begun")
        await worker.drain()
        assert is_gone(pid)
        assert worker.statistics().abandoned == 0
        error = (await handle.get(timeout=30)).unwrap_err()
        assert (error.code, error.message) == ("WORKER_CRASHED", "the worker stopped before the task had ended")


async def test_cancelling_the_runtime_leaves_no_process(app: Horsies, tmp_path: Path) -> None:
    with anyio.CancelScope() as scope:
        async with Runtime(app) as rt:
            rt.start_worker()
            idle = (await (await tasks.pid.handle(rt).send()).unwrap().get(timeout=30)).unwrap()
            files = [str(tmp_path / name) for name in ("one", "other")]
            for file in files:
                await tasks.burn.handle(rt).send(file, str(tmp_path / "never"))
            pids = [await told(Path(file)) for file in files]
            scope.cancel()
    assert [pid for pid in {idle, *pids} if not is_gone(pid)] == []


async def test_what_cannot_leave_its_process_is_said(app: Horsies) -> None:
    async with Runtime(app) as rt:
        rt.start_worker()
        before = (await (await tasks.pid.handle(rt).send()).unwrap().get(timeout=30)).unwrap()
        for what in ("lock", "class", "error"):
            handle = (await tasks.unpicklable.handle(rt).send(what)).unwrap()
            error = (await handle.get(timeout=30)).unwrap_err()
            assert (error.code, error.message.partition(": ")[0]) == ("RETURN_TYPE_MISMATCH", "task 'unpicklable'")
        handle = (await tasks.takes_local.handle(rt).send(tasks.Local(5))).unwrap()
        error = (await handle.get(timeout=30)).unwrap_err()
        assert error.code == "WORKER_SERIALIZATION_ERROR"
        assert "cannot be pickled" in error.message
        # None of this cost a process.
        assert await (await tasks.pid.handle(rt).send()).unwrap().get(timeout=30) == Ok(before)


@pytest.mark.parametrize("what", tasks.MISBEHAVING)
async def test_what_misbehaves_where_it_is_read_is_the_task_s_own(app: Horsies, what: str) -> None:
    async with Runtime(app) as rt:
        rt.start_worker()
        before = (await (await tasks.pid.handle(rt).send()).unwrap().get(timeout=30)).unwrap()
        error = (await (await tasks.misbehaves.handle(rt).send(what)).unwrap().get(timeout=30)).unwrap_err()
        assert error.code == ("UNHANDLED_ERROR" if what in FAILURES else "RETURN_TYPE_MISMATCH")
        assert await (await tasks.pid.handle(rt).send()).unwrap().get(timeout=30) == Ok(before)


@pytest.mark.parametrize("what", tasks.FORGED)
async def test_bytes_that_user_code_writes_to_the_pipe_run_nothing_in_the_worker(
    app: Horsies, tmp_path: Path, what: str
) -> None:
    async with Runtime(app) as rt:
        worker = rt.start_worker()
        handle = (await tasks.forges.handle(rt).send(what, str(tmp_path / "ran"))).unwrap()
        error = (await handle.get(timeout=30)).unwrap_err()
        assert error.code == "WORKER_CRASHED"
        assert (await (await tasks.pid.handle(rt).send()).unwrap().get(timeout=30)).is_ok()
        assert worker.is_ready
    assert not os.access(tmp_path / "ran", os.F_OK)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread of the process does it, which needs the GIL")
async def test_a_process_whose_interpreter_never_runs_again_ends_with_its_lifeline(
    app: Horsies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime(app) as rt:
        rt.start_worker()
        handle = (await tasks.holds_the_gil.handle(rt).send(str(tmp_path / "begun"))).unwrap()
        pid = await told(tmp_path / "begun")
        (lifeline,) = processes._lifelines
        processes._close(lifeline)
        error = (await handle.get(timeout=30)).unwrap_err()
        assert (error.code, "killed by SIGKILL" in error.message) == ("WORKER_CRASHED", True)
        assert is_gone(pid)


async def test_signals_are_for_the_worker_but_not_lost_on_what_a_task_starts(app: Horsies) -> None:
    async with Runtime(app) as rt:
        rt.start_worker()
        handle = (await tasks.is_signalled.handle(rt).send()).unwrap()
        assert await handle.get(timeout=30) == Ok([-signal.SIGTERM, -signal.SIGTERM])


async def test_output_and_input_do_not_get_between_worker_and_process(app: Horsies) -> None:
    async with Runtime(app) as rt:
        rt.start_worker()
        assert await (await tasks.is_loud.handle(rt).send()).unwrap().get(timeout=30) == Ok("")


async def test_what_the_task_has_started_is_killed_with_it(app: Horsies, tmp_path: Path) -> None:
    async with Runtime(app) as rt:
        rt.start_worker()
        handle = (await tasks.starts_another.handle(rt).send(str(tmp_path / "grandchild"))).unwrap()
        await told(tmp_path / "grandchild")
        assert await handle.cancel() == Ok(CancelOutcome.REQUESTED)
        assert (await handle.get(timeout=30)).unwrap_err().code == "TASK_CANCELLED"
        with anyio.fail_after(20):
            while not is_over(str(tmp_path / "grandchild")):
                await anyio.sleep(0.005)


async def test_a_simulated_one_runs_in_place(app: Horsies) -> None:
    async with Runtime(app, environment=Environment(inline=True)) as rt:
        handle = (await tasks.pid.handle(rt).send()).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        assert await handle.get(timeout=30) == Ok(os.getpid())


async def test_the_function_must_be_what_its_name_leads_to(config: AppConfig) -> None:
    app = Horsies(config)
    app.include(tasks.hidden)
    with pytest.raises(HorsiesError, match="'hidden' runs in a process") as raised:
        async with Runtime(app):
            raise AssertionError("it opened")
    assert raised.value.code == "HRS-102"
