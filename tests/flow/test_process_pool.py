"""The pool of processes by itself, and what a declaration with `run_in` must be."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from horsies import HorsiesError, Ok, TaskContext, TaskError, task
from horsies._worker.execution import process_pool as pool
from horsies._worker.execution.process_pool import ProcessPool

from . import process_tasks as tasks
from .process_tasks import is_gone


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pids of the processes that are started."""
    pids: list[int] = []
    spawn = pool._spawn

    async def recorded() -> Any:
        child = await spawn()
        pids.append(child.pid)
        return child

    monkeypatch.setattr(pool, "_spawn", recorded)
    return pids


@pytest.mark.anyio
@pytest.mark.parametrize("delay", [0.0, 0.01, 0.05, 0.1, 0.3])
async def test_cancelled_while_one_starts(started: list[int], delay: float) -> None:
    processes = ProcessPool()
    with anyio.move_on_after(delay):
        async with processes.lend(tasks.pid):
            await anyio.sleep_forever()
    await processes.aclose()
    assert all(map(is_gone, started))


@pytest.mark.anyio
async def test_one_that_does_not_get_ready_is_given_up(started: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "BOOT", "import time; time.sleep(50)")
    monkeypatch.setattr(pool, "LOAD_WITHIN", 0.1)
    with pytest.raises(TaskError, match=r"WORKER_CRASHED: .*could not import"):
        async with ProcessPool().lend(tasks.pid):
            raise AssertionError("it got ready")
    assert len(started) == 1
    assert is_gone(started[0])


@pytest.mark.anyio
async def test_one_that_cannot_be_started_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/no/such/python")
    with pytest.raises(TaskError, match="WORKER_CRASHED: no process could be started"):
        async with ProcessPool().lend(tasks.pid):
            raise AssertionError("it started")


@pytest.mark.anyio
async def test_a_module_that_cannot_be_imported_there_is_said_and_costs_no_process(
    started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = ProcessPool()
    with monkeypatch.context() as patched:
        patched.setattr(tasks.pid.fn, "__module__", "no_such_module")
        with pytest.raises(TaskError, match="WORKER_RESOLUTION_ERROR") as raised:
            async with processes.lend(tasks.pid):
                raise AssertionError("it was found")
    assert raised.value.cause is not None
    assert raised.value.cause.type == "ModuleNotFoundError"
    async with processes.lend(tasks.pid) as child:
        assert await child.call((), {}) == Ok(child.pid)
    await processes.aclose()
    assert len(started) == 1
    assert is_gone(started[0])


class TestDeclaration:
    def refused(self, fn: Callable[..., Any], run_in: Any, *words: str) -> None:
        with pytest.raises(HorsiesError) as raised:
            task("odd", run_in=run_in)(fn)
        assert raised.value.code == "HRS-102"
        assert raised.value.notes != ()
        for word in ("'odd'", *words):
            assert word in str(raised.value)

    @pytest.mark.parametrize("run_in", ["process", "thread"])
    def test_an_async_function(self, run_in: str) -> None:
        async def odd() -> None: ...

        self.refused(odd, run_in, "async", __file__)

    def test_a_context(self) -> None:
        self.refused(takes_context, "process", "TaskContext", __file__)
        assert task(run_in="thread")(takes_context).name == "takes_context"

    def test_what_has_no_name_to_be_found_by(self) -> None:
        def odd() -> None: ...

        self.refused(odd, "process", "imported", __file__)
        self.refused(partial(takes_context, TaskContext), "process", "imported")
        assert task(run_in="thread")(odd).name == "odd"

    @pytest.mark.parametrize("run_in", ["fibre", "", 1, [], "Process"])
    def test_no_place(self, run_in: Any) -> None:
        self.refused(tasks.busy_until, run_in, repr(run_in))


def takes_context(ctx: TaskContext) -> None: ...
