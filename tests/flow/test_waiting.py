"""Waiting for ends: by notification, by thousands, from elsewhere, and in the order in which they come."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import anyio
import psycopg
import pytest

from horsies import (
    AppConfig,
    BrokerError,
    Err,
    Horsies,
    NodeRef,
    Ok,
    QueueConfig,
    RecoveryConfig,
    ResilienceConfig,
    Runtime,
    TaskError,
    TaskHandle,
    TaskSendOptions,
    WorkerConfig,
    WorkflowBuilder,
    blocking,
)

from .conftest import Bench

pytestmark = pytest.mark.anyio

QUICKLY = 10
"""Seconds: far below the poll interval of 60, far above what a notification takes."""


@pytest.fixture
def config(database_url: str, schema: str) -> AppConfig:
    """Nothing is found by polling within the time of a test."""
    return AppConfig.for_database_url(
        database_url,
        schema=schema,
        resilience=ResilienceConfig(poll_interval=60.0),
        recovery=RecoveryConfig(reap_interval=0.05),
    )


@pytest.fixture
def bench(config: AppConfig, bench: Bench) -> Bench:
    """The usual tasks, with rare polls."""
    app = Horsies(replace(config, queues=(QueueConfig("default"), QueueConfig("images"))))
    for task in bench.app.tasks.values():
        app.include(task)
    return replace(bench, app=app)


async def test_every_end_wakes_its_waiter(bench: Bench) -> None:
    codes: dict[str, Any] = {}
    async with Runtime(bench.app) as rt:
        rt.start_worker()
        ready = anyio.Event()

        async def wait(name: str, handle: TaskHandle[Any]) -> None:
            codes[name] = await handle.get()

        with anyio.fail_after(QUICKLY):
            async with anyio.create_task_group() as group:
                soon = TaskSendOptions(good_until=datetime.now(UTC) + timedelta(seconds=0.2))
                later = (await bench.add.handle(rt).schedule(3600, 1, 2)).unwrap()
                expiring = bench.add.handle(rt).with_options(soon)
                running = (await bench.tasks["sleep_forever"].handle(rt).send()).unwrap()
                group.start_soon(wait, "cancelled", later)
                group.start_soon(wait, "cancelled while running", running)
                group.start_soon(wait, "expired", (await expiring.schedule(3600, 1, 2)).unwrap())
                group.start_soon(wait, "completed", (await bench.add.handle(rt).send(1, 2)).unwrap())
                group.start_soon(wait, "failed", (await bench.tasks["raises_task_error"].handle(rt).send()).unwrap())
                while "started" not in bench.seen or len(codes) < 2:
                    await anyio.sleep(0.005)
                assert (await later.cancel()).is_ok()
                assert (await running.cancel()).is_ok()
                ready.set()
    ends = {name: result.error.code if isinstance(result, Err) else "OK" for name, result in codes.items()}
    assert ends == {
        "cancelled": "TASK_CANCELLED",
        "cancelled while running": "TASK_CANCELLED",
        "expired": "TASK_EXPIRED",
        "completed": "OK",
        "failed": "RATE_LIMITED",
    }


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_ten_thousand_waiters_share_one_subscription(bench: Bench) -> None:
    listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s"
    pattern = f"LISTEN {bench.app.config.schema}_finished%"
    got: list[Any] = []

    def listeners() -> int:
        with psycopg.connect(bench.app.config.url) as connection:
            row = connection.execute(listening, (pattern,)).fetchone()
        assert row is not None
        count: int = row[0]
        return count

    async def wait(handle: TaskHandle[int]) -> None:
        got.append(await handle.get())

    async with Runtime(bench.app) as rt:
        answers = await bench.add.handle(rt).send_many([(n, 0) for n in range(10_000)])
        handles = [answer.unwrap() for answer in answers]
        assert listeners() == 0
        with anyio.fail_after(50):
            async with anyio.create_task_group() as group:
                for handle in handles:
                    group.start_soon(wait, handle)
                while rt._engine._waiters._unchecked or len(rt._engine._waiters._waiting) < len(handles):
                    await anyio.sleep(0.01)
                while not listeners():  # it is still connecting
                    await anyio.sleep(0.01)
                assert listeners() == 1
                rt.start_worker(WorkerConfig(concurrency=200))
            while listeners():  # it exists only while somebody waits
                await anyio.sleep(0.01)
    assert sorted(result.unwrap() for result in got) == list(range(10_000))


async def test_handles_come_as_their_tasks_end(config: AppConfig) -> None:
    app = Horsies(config)
    gates: dict[int, anyio.Event] = {n: anyio.Event() for n in range(5)}

    @app.task
    async def pass_gate(n: int) -> int:
        await gates[n].wait()
        if n == 2:
            raise TaskError("NO_LUCK")
        return n

    order: list[Any] = []
    async with Runtime(app) as rt:
        rt.start_worker()
        handles = [answer.unwrap() for answer in await pass_gate.handle(rt).send_many([(n,) for n in gates])]
        lost = rt.handle("0197a7a0-0000-7000-8000-000000000000")
        numbers = {handle.task_id: n for n, handle in enumerate(handles)}
        with anyio.fail_after(QUICKLY):
            async with rt.as_completed([*handles, lost]) as done:
                assert (await anext(done)) is lost
                for n in (3, 0, 2, 4):
                    gates[n].set()
                    handle = await anext(done)
                    order.append(numbers[handle.task_id])
                    with anyio.fail_after(1):
                        assert (await handle.get()).is_ok() is (n != 2)
            # Left early: the fifth is still waited for by nobody, and ends like any other.
            assert rt._engine._waiters._waiting == {}
            async with rt.as_completed([]) as none:
                assert [handle async for handle in none] == []
            with pytest.raises(KeyError):
                async with rt.as_completed(handles):
                    raise KeyError("mine")
            gates[1].set()
            async with rt.as_completed([*handles, handles[0]]) as done:
                assert len([handle async for handle in done]) == 6
    assert order == [3, 0, 2, 4]


READER = """
import sys, anyio
from horsies import AppConfig, Horsies, Runtime
url, schema, task_id = sys.argv[1:]
app = Horsies(AppConfig.for_database_url(url, schema=schema))

async def main():
    async with Runtime(app) as rt:
        print(await rt.handle(task_id).get(timeout=20))

anyio.run(main)
"""


@pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True)
async def test_a_handle_by_id_in_another_process(bench: Bench) -> None:
    config = bench.app.config
    async with Runtime(bench.app) as rt:
        task_id = (await bench.add.handle(rt).send(2, 3)).unwrap().task_id
        rt.start_worker()
        done = await anyio.run_process([sys.executable, "-c", READER, config.url, config.schema, task_id])
    assert done.stdout == b"Ok(value=5)\n"


async def test_results_are_remembered_and_their_absence_is_not(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        handle = (await bench.add.handle(rt).send(1, 2)).unwrap()
        assert (await handle.get(timeout=0.01)).unwrap_err().code == "WAIT_TIMEOUT"
        rt.start_worker()
        assert await handle.get() == Ok(3)
    assert await handle.get() == Ok(3)


async def test_the_callers_own_scope_ends_a_wait(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        handle = (await bench.add.handle(rt).send(1, 2)).unwrap()
        with anyio.move_on_after(0.05) as scope:
            await handle.get()
        assert scope.cancelled_caught
        assert rt._engine._waiters._waiting == {}


async def test_get_without_time_gives_the_result_of_what_has_ended(bench: Bench) -> None:
    app = bench.app

    @app.workflow("sum")
    def total(wf: WorkflowBuilder) -> NodeRef[int]:
        return wf.task(bench.add.node(1, 2))

    async with Runtime(app) as rt:
        sent = (await bench.add.handle(rt).send(1, 2)).unwrap()
        run = (await total.handle(rt).start()).unwrap()
        later = (await bench.add.handle(rt).schedule(60, 1, 2)).unwrap()
        await rt.run_worker(WorkerConfig(until_idle=True))
        for timeout in (0, 0.0, 1e-9, timedelta(0)):
            # New handles, because one that has its result asks nobody.
            assert await rt.handle(sent.task_id).get(timeout) == Ok(3)
            assert await rt.workflow(run.workflow_id).get(timeout) == Ok(3)
            assert (await later.get(timeout)).unwrap_err().code == "WAIT_TIMEOUT"
            assert (await rt.handle(str(uuid4())).get(timeout)).unwrap_err().code == "TASK_NOT_FOUND"
            assert (await rt.workflow(str(uuid4())).get(timeout)).unwrap_err().code == "WORKFLOW_NOT_FOUND"
        handles = [rt.handle(sent.task_id) for _ in range(3)]
        async with rt.as_completed(handles) as done:
            assert [await handle.get(0) async for handle in done] == [Ok(3)] * 3


async def test_many_that_get_without_time_are_each_answered(bench: Bench) -> None:
    answers: list[Any] = []
    async with Runtime(bench.app) as rt:
        handle = (await bench.add.handle(rt).send(1, 2)).unwrap()
        await rt.run_worker(WorkerConfig(until_idle=True))

        async def get() -> None:
            answers.append(await rt.handle(handle.task_id).get(timeout=0))

        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(get)
    assert answers == [Ok(3)] * 100


async def test_a_timeout_that_is_no_time_is_refused(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        handle, run = rt.handle(str(uuid4())), rt.workflow(str(uuid4()))
        for timeout in (-1, timedelta.min, float("nan"), True, "1"):
            with pytest.raises(ValueError, match=r"timeout of get\(\) is "):
                await handle.get(timeout=timeout)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match=r"timeout of get\(\) is "):
                await run.get(timeout=timeout)  # type: ignore[arg-type]
        for timeout in (float("inf"), 1e300, timedelta.max):
            assert (await handle.get(timeout=timeout)).unwrap_err().code == "TASK_NOT_FOUND"


async def test_get_without_time_is_bounded_while_the_database_is_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("horsies._send.task_handle.FIRST_LOOK", 0.05)
    async with Runtime(bench.app) as rt:

        async def away(task_ids: Any) -> Any:
            raise BrokerError("away", retryable=True)

        monkeypatch.setattr(rt._engine.broker.reader, "results", away)
        with anyio.fail_after(QUICKLY):
            assert (await rt.handle(str(uuid4())).get(timeout=0)).unwrap_err().code == "WAIT_TIMEOUT"


def test_a_blocking_get_without_time_gives_the_result_of_what_has_ended(bench: Bench) -> None:
    with blocking(bench.app) as rt:
        sent = bench.add.handle(rt).send(1, 2).unwrap()
        rt.run_worker(WorkerConfig(until_idle=True))
        assert rt.handle(sent.task_id).get(timeout=0) == Ok(3)
        with pytest.raises(ValueError, match="negative"):
            sent.get(timeout=-1)
