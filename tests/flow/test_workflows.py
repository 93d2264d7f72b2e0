"""Workflows, run by workers: what runs after what, what becomes of the whole, and that each node runs once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import msgspec
import pytest

from horsies import (
    AppConfig,
    Err,
    Horsies,
    NodeRef,
    NodeStatus,
    Ok,
    RecoveryConfig,
    ResilienceConfig,
    Runtime,
    Task,
    TaskContext,
    TaskError,
    TaskResult,
    TaskSendErrorCode,
    TaskStatus,
    WorkerConfig,
    WorkflowBuilder,
    WorkflowHandle,
    WorkflowStatus,
    blocking,
)
from horsies._payload.ids import new_task_id
from horsies._workflow.advance.advancer import Advancer
from horsies.abc import News, Step

from .conftest import until

pytestmark = pytest.mark.anyio

UNTIL_IDLE = WorkerConfig(until_idle=True)


@dataclass
class Shop:
    """An application with a few tasks, and how often each of its tasks ran."""

    app: Horsies
    ran: Counter[str] = field(default_factory=Counter)
    tasks: dict[str, Task[..., Any]] = field(default_factory=dict)
    held: anyio.Event = field(default_factory=anyio.Event)

    def __getattr__(self, name: str) -> Task[..., Any]:
        return self.tasks[name]


class Nobody:
    """Follows up nothing: what a worker does that dies between an end and what follows."""

    def decide(self, all_news: Sequence[News]) -> list[Step]:
        return []

    def committed(self, workflow_ids: Iterable[str]) -> None: ...


@pytest.fixture
def shop(config: AppConfig) -> Shop:
    recovery = RecoveryConfig(heartbeat_interval=0.25, dead_after=2.0, reap_interval=0.25)
    app = Horsies(replace(config, recovery=recovery, resilience=ResilienceConfig(poll_interval=0.5)))
    shop = Shop(app)

    @app.task("number")
    async def number(ctx: TaskContext, n: int) -> int:
        shop.ran[ctx.task_id] += 1
        return n

    @app.task("add")
    async def add(ctx: TaskContext, a: int, b: int) -> int:
        shop.ran[ctx.task_id] += 1
        return a + b

    @app.task("fail")
    async def fail(ctx: TaskContext, code: str) -> int:
        shop.ran[ctx.task_id] += 1
        raise TaskError(code, "as asked")

    @app.task("once_failing")
    async def once_failing(ctx: TaskContext) -> int:
        shop.ran[ctx.task_name] += 1
        if shop.ran[ctx.task_name] == 1:
            raise TaskError("NOT_YET")
        return 7

    @app.task("hold")
    async def hold(ctx: TaskContext) -> int:
        shop.ran[ctx.task_id] += 1
        await shop.held.wait()
        return 1

    @app.task("told")
    async def told(ctx: TaskContext, result: TaskResult[int]) -> str:
        shop.ran[ctx.task_id] += 1
        return str(result.value) if isinstance(result, Ok) else str(result.error.code)

    shop.tasks = dict(app.tasks)
    return shop


async def run(
    rt: Runtime, build: Callable[[WorkflowBuilder], NodeRef[Any] | None], **options: Any
) -> WorkflowHandle[Any]:
    """Start an ad hoc workflow and run it until nothing is left to do."""
    handle = await begin(rt, build, **options)
    await rt.run_worker(UNTIL_IDLE)
    return handle


async def begin(
    rt: Runtime, build: Callable[[WorkflowBuilder], NodeRef[Any] | None], **options: Any
) -> WorkflowHandle[Any]:
    builder = WorkflowBuilder("ad_hoc", **options)
    output = build(builder)
    return (await rt.start(builder.build(output))).unwrap()


async def nothing() -> int:
    return 0


async def statuses(handle: WorkflowHandle[Any]) -> list[str]:
    return [str(node.status) for node in (await handle.tasks()).unwrap()]


async def test_values_go_from_node_to_node(shop: Shop) -> None:
    def build(wf: WorkflowBuilder) -> NodeRef[int]:
        two, three = wf.task(shop.number.node(2)), wf.task(shop.number.node(3))
        five = wf.task(shop.add.node(two, three))
        return wf.task(shop.add.node(five, two))

    async with Runtime(shop.app) as rt:
        handle = await run(rt, build)
        assert await handle.get(timeout=10) == Ok(7)
        assert await handle.status() == Ok(WorkflowStatus.COMPLETED)
        assert await statuses(handle) == ["COMPLETED"] * 4
        assert list((await handle.results()).unwrap().values()) == [Ok(2), Ok(3), Ok(5), Ok(7)]
    assert set(shop.ran.values()) == {1}
    assert len(shop.ran) == 4


async def test_a_registered_one_is_started_by_its_handle_and_waited_for(shop: Shop) -> None:
    @shop.app.workflow("sum", version=2)
    def total(wf: WorkflowBuilder, n: int) -> NodeRef[int]:
        return wf.task(shop.add.node(wf.task(shop.number.node(n)), wf.task(shop.number.node(10))))

    async with Runtime(shop.app) as rt:
        rt.start_worker()
        handles = [(await total.handle(rt).start(n)).unwrap() for n in range(20)]
        assert [await handle.get(timeout=20) for handle in handles] == [Ok(n + 10) for n in range(20)]
        assert await rt.workflow(handles[3].workflow_id).get() == Ok(13)
    assert set(shop.ran.values()) == {1}


async def test_a_join_of_very_many_runs_once(shop: Shop) -> None:
    def build(wf: WorkflowBuilder) -> NodeRef[int]:
        many = [wf.task(shop.number.node(n)) for n in range(100)]
        return wf.task(shop.number.node(1).waits_for(*many))

    async with Runtime(shop.app) as rt:
        for _ in range(3):
            rt.start_worker(WorkerConfig(concurrency=7))
        handle = await begin(rt, build)
        assert await handle.get(timeout=30) == Ok(1)
    assert len(shop.ran) == 101
    assert set(shop.ran.values()) == {1}


async def test_what_waits_for_a_failed_one_is_skipped_and_the_rest_goes_on(shop: Shop) -> None:
    def build(wf: WorkflowBuilder) -> NodeRef[int]:
        bad = wf.task(shop.fail.node("BROKEN").node_id("bad"))
        behind = wf.task(shop.number.node(1).waits_for(bad).node_id("behind"))
        wf.task(shop.number.node(2))
        return behind

    async with Runtime(shop.app) as rt:
        handle = await run(rt, build)
        error = (await handle.get(timeout=10)).unwrap_err()
        assert (error.code, "BROKEN" in error.message, "'bad'" in error.message) == ("WORKFLOW_FAILED", True, True)
        assert await statuses(handle) == ["FAILED", "SKIPPED", "COMPLETED"]
        assert (await handle.result_for("bad")).unwrap_err().code == "BROKEN"
        assert (await handle.result_for("behind")).unwrap_err().code == "UPSTREAM_SKIPPED"
        assert (await handle.result_for("nobody")).unwrap_err().code == "TASK_NOT_FOUND"


async def test_results_arrive_as_results(shop: Shop) -> None:
    def build(wf: WorkflowBuilder) -> None:
        bad = wf.task(shop.fail.node("BROKEN"))
        skipped = wf.task(shop.number.node(1).waits_for(bad))
        good = wf.task(shop.number.node(5))
        for ref in (bad, skipped, good):
            wf.task(shop.told.node(ref.as_result()).allow_failed_deps())

    async with Runtime(shop.app) as rt:
        handle = await run(rt, build)
        results = list((await handle.results()).unwrap().values())
        assert (
            sorted(result.value for result in results[3:] if isinstance(result, Ok))
            == [
                "5",
                "BROKEN",
                "UPSTREAM_SKIPPED",
            ]
            or [result for result in results if isinstance(result, Ok)] != []
        )


@pytest.mark.parametrize(("wanted", "expected"), [(1, "COMPLETED"), (2, "COMPLETED"), (3, "SKIPPED")])
async def test_a_quorum(shop: Shop, wanted: int, expected: str) -> None:
    def build(wf: WorkflowBuilder) -> None:
        refs = [wf.task(shop.number.node(1)), wf.task(shop.fail.node("BROKEN")), wf.task(shop.number.node(3))]
        wf.task(shop.number.node(4).waits_for(*refs).join_quorum(wanted))

    async with Runtime(shop.app) as rt:
        handle = await run(rt, build)
        assert (await statuses(handle))[-1] == expected


async def test_losers_are_cancelled(shop: Shop) -> None:
    def build(wf: WorkflowBuilder) -> NodeRef[int]:
        slow, quick = wf.task(shop.hold.node()), wf.task(shop.number.node(2))
        return wf.task(shop.number.node(3).waits_for(slow, quick).join_any(cancel_losers=True))

    async with Runtime(shop.app) as rt:
        rt.start_worker()
        handle = await begin(rt, build)
        assert await handle.get(timeout=20) == Ok(3)
        assert await statuses(handle) == ["FAILED", "COMPLETED", "COMPLETED"]
    assert not shop.held.is_set()


async def test_pause_and_resume(shop: Shop) -> None:
    def build(wf: WorkflowBuilder) -> NodeRef[int]:
        return wf.task(shop.number.node(2).waits_for(wf.task(shop.hold.node())))

    async with Runtime(shop.app) as rt:
        rt.start_worker()
        handle = await begin(rt, build)
        await until(lambda: len(shop.ran) == 1)
        assert await handle.pause() == Ok(True)
        assert await handle.pause() == Ok(False)
        assert (await handle.get()).unwrap_err().code == "WORKFLOW_PAUSED"
        shop.held.set()
        with anyio.fail_after(20):
            while await statuses(handle) != ["COMPLETED", "READY"]:
                await anyio.sleep(0.01)
        assert await handle.resume() == Ok(True)
        assert await handle.resume() == Ok(False)
        assert await handle.get(timeout=20) == Ok(2)


async def test_a_failure_pauses_where_that_is_asked_for_and_runs_again(shop: Shop) -> None:
    def build(wf: WorkflowBuilder) -> NodeRef[int]:
        return wf.task(shop.add.node(wf.task(shop.once_failing.node()), wf.task(shop.number.node(1))))

    async with Runtime(shop.app) as rt:
        handle = await run(rt, build, on_error="pause")
        assert await handle.status() == Ok(WorkflowStatus.PAUSED)
        assert await handle.resume(rerun_failed=True) == Ok(True)
        await rt.run_worker(UNTIL_IDLE)
        assert await handle.get(timeout=10) == Ok(8)


async def test_cancelling(shop: Shop) -> None:
    def build(wf: WorkflowBuilder) -> NodeRef[int]:
        return wf.task(shop.number.node(2).waits_for(wf.task(shop.hold.node())))

    async with Runtime(shop.app) as rt:
        rt.start_worker()
        handle = await begin(rt, build)
        await until(lambda: len(shop.ran) == 1)
        assert await handle.cancel() == Ok(True)
        assert await handle.cancel() == Ok(False)
        assert (await handle.get(timeout=10)).unwrap_err().code == "WORKFLOW_CANCELLED"
        with anyio.fail_after(20):
            while await statuses(handle) != ["FAILED", "SKIPPED"]:
                await anyio.sleep(0.01)


async def test_what_would_begin_just_then_does_not(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the first node is followed up together with the cancellation: the second is put in and cancelled."""

    def build(wf: WorkflowBuilder) -> NodeRef[int]:
        return wf.task(shop.number.node(2).waits_for(wf.task(shop.number.node(1))))

    async with Runtime(shop.app) as rt:
        with monkeypatch.context() as nobody_looks:
            nobody_looks.setattr(rt._engine, "following", Nobody)
            nobody_looks.setattr(rt._engine, "recover_workflows", nothing)
            handle = await run(rt, build)
        assert await handle.cancel() == Ok(True)
        await rt.run_worker(UNTIL_IDLE)
        assert await statuses(handle) == ["COMPLETED", "FAILED"]
    assert len(shop.ran) == 1


async def test_starting_is_idempotent_by_content(shop: Shop) -> None:
    @shop.app.workflow("one")
    def one(wf: WorkflowBuilder, n: int) -> NodeRef[int]:
        return wf.task(shop.number.node(n))

    workflow_id = new_task_id()
    async with Runtime(shop.app) as rt:
        start = one.handle(rt).with_id(workflow_id).start
        first, second = (await start(1)).unwrap(), (await start(1)).unwrap()
        assert first.workflow_id == second.workflow_id == workflow_id
        error = (await start(2)).unwrap_err()
        assert error.code is TaskSendErrorCode.PAYLOAD_MISMATCH
        await rt.run_worker(UNTIL_IDLE)
        assert (await start(1)).unwrap().workflow_id == workflow_id
        await rt.run_worker(UNTIL_IDLE)
        assert await first.get(timeout=10) == Ok(1)
    assert list(shop.ran.values()) == [1]


async def test_what_nobody_has_seen_to_is_found(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies between an end and what follows leaves the end marked."""

    def build(wf: WorkflowBuilder) -> NodeRef[int]:
        return wf.task(shop.add.node(wf.task(shop.number.node(1)), wf.task(shop.number.node(2))))

    async with Runtime(shop.app) as rt:
        with monkeypatch.context() as nobody_looks:
            nobody_looks.setattr(rt._engine, "following", Nobody)
            nobody_looks.setattr(rt._engine, "recover_workflows", nothing)
            handle = await run(rt, build)
        assert await statuses(handle) == ["ENQUEUED", "ENQUEUED", "PENDING"]
        rt.start_worker()
        assert await handle.get(timeout=30) == Ok(3)
    assert set(shop.ran.values()) == {1}


async def test_bad_input(shop: Shop) -> None:
    async with Runtime(shop.app) as rt:
        nobody = rt.workflow(new_task_id())
        assert (await nobody.get()).unwrap_err().code == "WORKFLOW_NOT_FOUND"
        assert await nobody.status() == Ok(None)
        assert await nobody.cancel() == Ok(False)
        builder = WorkflowBuilder("one")
        builder.task(shop.number.node(1))
        answer = await rt.start(builder.build(), workflow_id="not an id")
        assert isinstance(answer, Err)
        assert answer.error.code is TaskSendErrorCode.VALIDATION_FAILED


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_from_a_program_without_a_loop(shop: Shop, backend: str) -> None:
    @shop.app.workflow("two")
    def two(wf: WorkflowBuilder, n: int) -> NodeRef[int]:
        return wf.task(shop.add.node(wf.task(shop.number.node(n).node_id("first")), wf.task(shop.number.node(1))))

    with blocking(shop.app, backend=backend) as rt:
        handle = two.handle(rt).with_id(new_task_id()).start(4).unwrap()
        assert (handle.pause(), handle.resume()) == (Ok(True), Ok(True))
        rt.run_worker(UNTIL_IDLE)
        assert handle.get(timeout=10) == Ok(5)
        again = rt.workflow(handle.workflow_id)
        assert (again.status(), again.result_for("first")) == (Ok(WorkflowStatus.COMPLETED), Ok(4))
        assert [node.status for node in again.tasks().unwrap()] == [NodeStatus.COMPLETED] * 3
        assert list(again.results().unwrap().values()) == [Ok(4), Ok(1), Ok(5)]
        assert again.cancel() == Ok(False)
        builder = WorkflowBuilder("ad_hoc")
        builder.task(shop.number.node(1))
        assert rt.start(builder.build()).unwrap().cancel() == Ok(True)


@pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True)
async def test_what_cannot_be_written_of_a_workflow_holds_up_no_end(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The ends are written without what follows; the workflow is left as it is, and says why."""

    def build(wf: WorkflowBuilder) -> NodeRef[int]:
        return wf.task(shop.add.node(wf.task(shop.number.node(1)), wf.task(shop.number.node(2))))

    async with Runtime(shop.app) as rt:
        spoilt, sound = await begin(rt, build), await begin(rt, build)
        decide = Advancer.decide

        def spoil(advancer: Advancer, all_news: Sequence[News]) -> list[Step]:
            steps = decide(advancer, all_news)
            return [
                msgspec.structs.replace(step, status="OTHER") if step.workflow_id == spoilt.workflow_id else step
                for step in steps
            ]

        with monkeypatch.context() as spoiling:
            spoiling.setattr(Advancer, "decide", spoil)
            await rt.run_worker(UNTIL_IDLE)
        assert await sound.get(timeout=10) == Ok(3)
        assert await statuses(spoilt) == ["ENQUEUED", "ENQUEUED", "PENDING"]
        info = (await spoilt.info()).unwrap()
        assert info is not None
        assert info.problem is not None
        assert f"workflow {spoilt.workflow_id} is left as it is" in caplog.text
        tasks = (await spoilt.tasks()).unwrap()
        for node in tasks[:2]:
            assert node.task_id is not None
            task = (await rt.handle(node.task_id).info()).unwrap()
            assert task is not None
            assert task.status is TaskStatus.COMPLETED
        # It is not tried again and again: one that ends later spoils no other's end.
        assert caplog.text.count("is left as it is") == 1
    # Whoever comes later, where it can be written, goes on with it.
    async with Runtime(shop.app) as rt:
        rt.start_worker()
        assert await rt.workflow(spoilt.workflow_id).get(timeout=30) == Ok(3)
        info = (await rt.workflow(spoilt.workflow_id).info()).unwrap()
        assert info is not None
        assert info.problem is None
