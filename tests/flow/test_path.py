"""From send to result, through both brokers on both loops."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
import pytest

from horsies import (
    CancelOutcome,
    Err,
    Horsies,
    HorsiesError,
    Ok,
    Runtime,
    TaskSendOptions,
    TaskStatus,
    WorkerConfig,
    blocking,
)

from .conftest import Bench

pytestmark = pytest.mark.anyio

UNTIL_IDLE = WorkerConfig(until_idle=True)


async def test_a_result_comes_back(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        handle = (await bench.add.handle(rt).send(2, b=3)).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        assert await handle.get(timeout=10) == Ok(5)
        assert await rt.handle(handle.task_id).get() == Ok(5)
    assert bench.seen == ["entered", "left"]


async def test_a_worker_in_the_runtime_wakes_for_a_send_and_the_waiter_for_the_result(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        rt.start_worker()
        for n in range(5):
            handle = (await bench.add.handle(rt).send(n, 1)).unwrap()
            assert await handle.get(timeout=10) == Ok(n + 1)


async def test_calling_a_task_runs_it_in_place(bench: Bench) -> None:
    assert await bench.add(2, 3) == 5


async def test_a_sync_task_runs_in_a_thread_with_context_and_state(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        in_thread = bench.tasks["in_thread"].handle(rt)
        assert (in_thread.queue_name, in_thread.priority) == ("images", 10)
        handle = (await in_thread.send("abc")).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        assert await handle.get() == Ok("ABC")
    assert (False, 1, "the state") in bench.seen


async def test_metadata_queue_and_id_reach_the_context(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        options = TaskSendOptions(metadata={"trace": "7"}, queue="images")
        handle = (await bench.tasks["say"].handle(rt).with_options(options).send()).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        assert await handle.get() == Ok({"id": handle.task_id, "queue": "images", "trace": "7"})
        info = (await handle.info()).unwrap()
        assert info is not None
        assert info.metadata == {"trace": "7"}


async def test_failures_are_values(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        raised = (await bench.tasks["raises"].handle(rt).send("hunter2")).unwrap()
        small = (await bench.tasks["returns_err"].handle(rt).send(0)).unwrap()
        fine = (await bench.tasks["returns_err"].handle(rt).send(7)).unwrap()
        limited = (await bench.tasks["raises_task_error"].handle(rt).send()).unwrap()
        wrong = (await bench.tasks["wrong_return"].handle(rt).send()).unwrap()
        await rt.run_worker(UNTIL_IDLE)

        error = (await raised.get()).unwrap_err()
        assert error.code == "UNHANDLED_ERROR"
        assert error.cause is not None
        assert error.cause.type == "ValueError"
        assert error.cause.message == "cannot use hunter2"
        assert "in raises" in error.cause.traceback
        assert (await small.get()).unwrap_err().data == {"least": 1}
        assert await fine.get() == Ok(7)
        assert (await limited.get()).unwrap_err().code == "RATE_LIMITED"
        assert (await wrong.get()).unwrap_err().code == "RETURN_TYPE_MISMATCH"
        info = (await raised.info(include_failed_reason=True, include_result=True)).unwrap()
        assert info is not None
        assert info.status is TaskStatus.FAILED
        assert info.error_code == "UNHANDLED_ERROR"
        assert info.failed_reason is not None
        assert "ValueError" in info.failed_reason
        assert info.result == Err(error)


async def test_a_past_deadline_is_accepted_and_expires(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        options = TaskSendOptions(good_until=datetime.now(UTC) - timedelta(seconds=1))
        handle = (await bench.tasks["sleep_forever"].handle(rt).with_options(options).send()).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        assert (await handle.get(timeout=10)).unwrap_err().code == "TASK_EXPIRED"
    assert "started" not in bench.seen


async def test_a_delayed_task_is_not_due_before_its_time(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        handle = (await bench.add.handle(rt).schedule(timedelta(seconds=0.3), 1, 1)).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        info = (await handle.info()).unwrap()
        assert info is not None
        assert info.status is TaskStatus.PENDING
        rt.start_worker()
        assert await handle.get(timeout=10) == Ok(2)
        info = (await handle.info()).unwrap()
        assert info is not None
        assert info.started_at is not None
        assert info.started_at >= info.due_at


async def test_get_times_out_without_touching_the_task(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        handle = (await bench.add.handle(rt).send(1, 1)).unwrap()
        assert (await handle.get(timeout=0.05)).unwrap_err().code == "WAIT_TIMEOUT"
        await rt.run_worker(UNTIL_IDLE)
        assert await handle.get() == Ok(2)


async def test_unknown_ids_are_not_found(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        for nonsense in ("nonsense", "00000000-0000-7000-8000-000000000000", ""):
            assert (await rt.handle(nonsense).get()).unwrap_err().code == "TASK_NOT_FOUND"
            assert await rt.handle(nonsense).info() == Ok(None)


async def test_a_task_may_send_through_the_ambient_runtime(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        rt.start_worker()
        handle = (await bench.tasks["nested"].send(4)).unwrap()
        assert await handle.get(timeout=20) == Ok(5)


async def test_without_a_runtime_there_is_nothing_to_send_through(bench: Bench) -> None:
    with pytest.raises(HorsiesError, match="no runtime is open"):
        await bench.add.send(1, 2)


async def test_a_task_of_another_application_has_no_handle(bench: Bench) -> None:
    async with Runtime(Horsies(bench.app.config)) as rt:
        with pytest.raises(HorsiesError, match="HRS-300"):
            bench.add.handle(rt)


async def test_a_drained_worker_gives_running_tasks_their_time(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        worker = rt.start_worker()
        handle = (await bench.tasks["hold"].handle(rt).send()).unwrap()
        await _seen(bench, "started")
        async with anyio.create_task_group() as group:
            group.start_soon(worker.drain)
            bench.release.set()
        assert await handle.get(timeout=10) == Ok("released")
        assert worker.statistics().running == 0


async def test_a_cancelled_worker_writes_what_happened_to_running_tasks(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        handle = (await bench.tasks["sleep_forever"].handle(rt).send()).unwrap()
        async with anyio.create_task_group() as group:
            group.start_soon(rt.run_worker)
            await _seen(bench, "started")
            group.cancel_scope.cancel()
        assert (await handle.get(timeout=10)).unwrap_err().code == "WORKER_CRASHED"


async def test_the_bodys_own_exception_leaves_unwrapped(bench: Bench) -> None:
    async def body() -> None:
        async with Runtime(bench.app) as rt:
            rt.start_worker()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await body()


async def test_many_senders_and_waiters_at_once(bench: Bench) -> None:
    results: list[int] = []

    async def one(rt: Runtime, n: int) -> None:
        results.append((await (await bench.add.handle(rt).send(n, 0)).unwrap().get(timeout=30)).unwrap())

    async with Runtime(bench.app) as rt:
        rt.start_worker()
        async with anyio.create_task_group() as group:
            for n in range(300):
                group.start_soon(one, rt, n)
    assert sorted(results) == list(range(300))


async def test_blocking_programs_get_the_same(bench: Bench, anyio_backend_name: str) -> None:
    def program() -> int:
        with blocking(bench.app, backend=anyio_backend_name) as rt:
            add = bench.add.handle(rt)
            assert add.schedule(3600, 1, 1).unwrap().cancel() == Ok(CancelOutcome.CANCELLED)
            handles = [answer.unwrap() for answer in add.send_many([(1, 2), {"a": 3, "b": 4}])]
            handle = add.send(20, 22).unwrap()
            rt.run_worker(UNTIL_IDLE)
            with rt.as_completed(handles) as done:
                assert sorted(one.get().unwrap() for one in done) == [3, 7]
            return handle.get(timeout=10).unwrap()

    assert await anyio.to_thread.run_sync(program) == 42


async def _seen(bench: Bench, what: object) -> None:
    with anyio.fail_after(10):
        while what not in bench.seen:
            await anyio.sleep(0.005)
