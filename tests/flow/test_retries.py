"""What is tried again, how often, and what remains of the attempts."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import horsies
from horsies import (
    AppConfig,
    Err,
    Horsies,
    HorsiesError,
    Ok,
    RetryPolicy,
    Runtime,
    TaskContext,
    TaskError,
    TaskHandle,
    TaskInfo,
    TaskSendOptions,
    TaskStatus,
)
from horsies.testing._conformance.stage import bury

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy.fixed([0.005, 0.01])


async def ended(handle: TaskHandle[Any]) -> TaskInfo:
    """Wait for the end, and everything that is stored of it."""
    result = await handle.get(timeout=20)
    info = (await handle.info(include_result=True, include_attempts=True)).unwrap()
    assert info is not None
    assert info.result == result
    return info


async def test_attempts_are_visible_until_one_succeeds(config: AppConfig) -> None:
    app = Horsies(config)

    @app.task(retry=QUICK)
    async def third_time(ctx: TaskContext) -> int:
        if ctx.attempt == 1:
            raise TaskError("RATE_LIMITED", "slowly", data={"wait": 1})
        if ctx.attempt == 2:
            raise ZeroDivisionError("oh")
        return ctx.attempt

    async with Runtime(app) as rt:
        worker = rt.start_worker()
        info = await ended((await third_time.handle(rt).send()).unwrap())
        assert (info.status, info.attempt, info.result) == (TaskStatus.COMPLETED, 3, Ok(3))
        assert [attempt.attempt for attempt in info.attempts] == [1, 2]
        assert info.attempts[0].error == TaskError("RATE_LIMITED", "slowly", data={"wait": 1})
        assert info.attempts[1].error.code == "UNHANDLED_ERROR"
        assert all(attempt.worker_id == worker.worker_id for attempt in info.attempts)
        assert all(attempt.started_at <= attempt.finished_at for attempt in info.attempts)
        assert info.attempts[0].finished_at <= info.attempts[1].started_at
        assert worker.statistics().retried == 2


async def test_the_last_failure_is_the_result(config: AppConfig) -> None:
    app = Horsies(config)

    @app.task(retry=RetryPolicy.exponential(base=0.002, max_retries=3))
    async def fail(ctx: TaskContext) -> None:
        raise TaskError("NO_LUCK", f"attempt {ctx.attempt}")

    async with Runtime(app) as rt:
        rt.start_worker()
        info = await ended((await fail.handle(rt).send()).unwrap())
        assert (info.status, info.attempt, info.error_code) == (TaskStatus.FAILED, 4, "NO_LUCK")
        assert [attempt.error.message for attempt in info.attempts] == [f"attempt {n}" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("retry_for", "code", "attempts"),
    [
        (None, "MINE", 3),
        (None, "UNHANDLED_ERROR", 3),
        (None, "TASK_TIMEOUT", 1),
        (("TASK_TIMEOUT",), "TASK_TIMEOUT", 3),
        (("OTHER",), "MINE", 1),
        (("MINE",), "MINE", 3),
        (("MINE",), "UNHANDLED_ERROR", 1),
        ((), "MINE", 1),
    ],
)
async def test_only_listed_codes_are_tried_again(
    config: AppConfig, retry_for: tuple[str, ...] | None, code: str, attempts: int
) -> None:
    app = Horsies(config)

    @app.task(retry=QUICK, retry_for=retry_for, timeout=0.01 if code == "TASK_TIMEOUT" else None)
    async def fail() -> None:
        if code == "TASK_TIMEOUT":
            await anyio.sleep_forever()
        if code == "UNHANDLED_ERROR":
            raise KeyError
        raise TaskError("MINE")

    async with Runtime(app) as rt:
        rt.start_worker()
        info = await ended((await fail.handle(rt).send()).unwrap())
        assert (info.error_code, info.attempt) == (code, attempts)


async def test_without_a_policy_nothing_is_tried_again(config: AppConfig) -> None:
    app = Horsies(config)

    @app.task
    async def fail() -> None:
        raise TaskError("MINE")

    async with Runtime(app) as rt:
        rt.start_worker()
        assert (await ended((await fail.handle(rt).send()).unwrap())).attempt == 1
        once = fail.handle(rt).with_options(TaskSendOptions(retry=RetryPolicy.fixed([0.005])))
        assert (await ended((await once.send()).unwrap())).attempt == 2


class Patience:
    """A plugin's policy: two retries for what it knows, and a broken one for what it does not."""

    def delay(self, retry: int, error: TaskError) -> float | None:
        if error.code == "UNKNOWN":
            raise LookupError("a bug of the policy")
        return 0.005 if retry <= 2 else None


class Plugin:
    @horsies.hookimpl
    def horsies_retry_policies(self) -> dict[str, Patience]:
        return {"patience": Patience()}


@pytest.mark.parametrize(("code", "attempts"), [("MINE", 3), ("UNKNOWN", 1)])
@pytest.mark.parametrize("where", ["at the declaration", "at the send"])
async def test_a_policy_of_a_plugin(config: AppConfig, code: str, attempts: int, where: str) -> None:
    app = Horsies(config, plugins=[Plugin()])

    @app.task(retry="patience" if where == "at the declaration" else None)
    async def fail() -> None:
        raise TaskError(code)

    async with Runtime(app) as rt:
        rt.start_worker()
        function = fail.handle(rt)
        if where == "at the send":
            function = function.with_options(TaskSendOptions(retry="patience"))
        assert (await ended((await function.send()).unwrap())).attempt == attempts


async def test_a_policy_that_no_plugin_offers(config: AppConfig) -> None:
    app = Horsies(config)

    @app.task(retry="patience")
    async def fail() -> None: ...

    with pytest.raises(HorsiesError, match="HRS-217"):
        async with Runtime(app):
            pass


async def test_the_verdict_for_a_crash_is_stored_at_the_start(config: AppConfig) -> None:
    """The reaper knows no tasks: what it does with RUNNING ones was decided by the worker that started them."""
    app = Horsies(config)
    started: list[str] = []

    @app.task(retry=RetryPolicy.fixed([0.005]), retry_for=("WORKER_CRASHED",))
    async def returns(ctx: TaskContext) -> str:
        started.append("returns")
        if ctx.attempt == 1:
            await anyio.sleep_forever()
        return "second time"

    @app.task(retry=RetryPolicy.fixed([0.005]))
    async def stays() -> None:
        started.append("stays")
        await anyio.sleep_forever()

    async with Runtime(app) as rt:
        handles = [(await task.handle(rt).send()).unwrap() for task in (returns, stays)]
        async with anyio.create_task_group() as group:
            await group.start(rt.run_worker)
            with anyio.fail_after(20):
                while len(started) < 2:
                    await anyio.sleep(0.002)
            # As if the worker's last heartbeat were long ago.
            assert await bury(rt._engine.broker, app.config.recovery) == 2
            failed = await handles[1].get(timeout=20)
            assert isinstance(failed, Err)
            assert failed.error.code == "WORKER_CRASHED"
            group.cancel_scope.cancel()
        info = (await handles[0].info(include_attempts=True)).unwrap()
        assert info is not None
        (attempt,) = info.attempts
        assert (info.status, attempt.error.code) == (TaskStatus.PENDING, "WORKER_CRASHED")
