"""Workflows with many tasks are ended in portions: by a request, a deadline, a join that has what it needs."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from horsies import (
    AppConfig,
    NodeStatus,
    Ok,
    Runtime,
    TaskStatus,
    WorkerConfig,
    WorkflowBuilder,
    WorkflowHandle,
    WorkflowStatus,
)
from horsies._workflow.advance import engine
from horsies.abc import Step
from horsies.plugins.postgres.workflows import PostgresWorkflows
from horsies.plugins.sqlite.workflows import SqliteWorkflows

from .large import MANY, UNTIL_IDLE, Shop, begin, lone, statuses

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(120),
    pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True),
]


@pytest.fixture
def shop(config: AppConfig) -> Shop:
    return Shop(config)


@pytest.fixture
def cancelled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A portion is two nodes; how many tasks each advance cancelled."""
    monkeypatch.setattr(engine, "PORTION", 2)
    found: list[int] = []
    for store in (PostgresWorkflows, SqliteWorkflows):
        advance = store.advance

        async def noted(self: Any, *args: Any, advance: Any = advance, **kwargs: Any) -> list[Step]:
            steps: list[Step] = await advance(self, *args, **kwargs)
            found.extend(len(step.cancel) for step in steps if step.cancel)
            return steps

        monkeypatch.setattr(store, "advance", noted)
    return found


async def test_cancel_ends_many_tasks_in_portions(shop: Shop, cancelled: list[int]) -> None:
    async with Runtime(shop.app) as rt:
        run = await begin(rt, lone(shop))
        assert await run.cancel() == Ok(True)
        assert await run.status() == Ok(WorkflowStatus.CANCELLED)
        assert await run.cancel() == Ok(False)
        with anyio.fail_after(20):
            await rt.settle_workflows()
        assert await statuses(rt, run) == {TaskStatus.CANCELLED}
        assert {node.status for node in (await run.tasks()).unwrap()} == {NodeStatus.FAILED}
        assert await rt._engine.workflows.unadvanced(5) == []
    assert cancelled == [2] * (MANY // 2) + [1]


async def test_leader_goes_on_when_the_canceller_has_died(
    shop: Shop, cancelled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime(shop.app) as rt:
        run = await begin(rt, lone(shop))
        with monkeypatch.context() as dying:
            dying.setattr(rt._engine, "nodes_ended", lambda workflow_ids: None)
            assert await run.cancel() == Ok(True)
        assert await statuses(rt, run) == {TaskStatus.CANCELLED, TaskStatus.PENDING}
        await rt.pause_queue("default")
    async with Runtime(shop.app) as rt:
        rt.start_worker()
        with anyio.fail_after(20):
            while await statuses(rt, run) != {TaskStatus.CANCELLED} or await rt._engine.workflows.unadvanced(5):
                await anyio.sleep(0.05)
        assert {node.status for node in (await rt.workflow(run.workflow_id).tasks()).unwrap()} == {NodeStatus.FAILED}
    assert shop.ran == {}


async def test_task_that_starts_before_its_portion_changes_nothing(
    shop: Shop, cancelled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime(shop.app) as rt:
        run = await begin(rt, lone(shop))
        with monkeypatch.context() as waiting:
            waiting.setattr(rt._engine, "nodes_ended", lambda workflow_ids: None)
            await run.cancel()
        await rt.run_worker(UNTIL_IDLE)
        nodes = Counter(node.status for node in (await run.tasks()).unwrap())
        assert nodes.keys() <= {NodeStatus.COMPLETED, NodeStatus.FAILED}
        assert nodes[NodeStatus.COMPLETED] == len(shop.ran) == sum(shop.ran.values())
        assert await run.status() == Ok(WorkflowStatus.CANCELLED)
        assert await rt._engine.workflows.unadvanced(5) == []


async def test_running_tasks_of_later_portions_are_cancelled_as_well(shop: Shop, cancelled: list[int]) -> None:
    wf = WorkflowBuilder("held")
    for _ in range(5):
        wf.task(shop.hold.node())
    async with Runtime(shop.app) as rt:
        run = await begin(rt, wf)
        rt.start_worker()
        with anyio.fail_after(20):
            while len(await rt._engine.workflows.running(run.workflow_id)) < 5:
                await anyio.sleep(0.02)
            assert await run.cancel() == Ok(True)
            while await statuses(rt, run) != {TaskStatus.CANCELLED} or await rt._engine.workflows.unadvanced(5):
                await anyio.sleep(0.02)
        assert {node.error_code for node in (await run.tasks()).unwrap()} == {"TASK_CANCELLED"}


async def test_deadline_ends_many_tasks_in_portions(shop: Shop, cancelled: list[int]) -> None:
    async with Runtime(shop.app) as rt:
        await rt.pause_queue("default")
        soon = datetime.now(UTC) + timedelta(seconds=0.5)
        run = (await rt.start(lone(shop).build(), good_until=soon)).unwrap()
        rt.start_worker()
        with anyio.fail_after(20):
            while await statuses(rt, run) != {TaskStatus.CANCELLED} or await rt._engine.workflows.unadvanced(5):
                await anyio.sleep(0.05)
        assert await run.status() == Ok(WorkflowStatus.EXPIRED)
    assert max(cancelled) == 2


async def test_losers_are_cancelled_in_portions_and_nothing_else_is(shop: Shop, cancelled: list[int]) -> None:
    wf = WorkflowBuilder("race")
    others = [wf.task(shop.hold.node()) for _ in range(6)]
    first = wf.task(shop.number.node(1))
    # The bystander stands behind them, and is none of them.
    output = wf.task(shop.number.node(2).waits_for(*others, first).join_any(cancel_losers=True))
    bystander = wf.task(shop.number.node(3))
    async with Runtime(shop.app) as rt:
        run = await begin(rt, wf, output)
        rt.start_worker()
        assert await run.get(timeout=20) == Ok(2)
        nodes = [node.status for node in (await run.tasks()).unwrap()]
        assert nodes == [NodeStatus.FAILED] * 6 + [NodeStatus.COMPLETED] * 3
        assert bystander is not None
        assert await rt._engine.workflows.unadvanced(5) == []


async def test_parts_are_cancelled_in_portions(shop: Shop, cancelled: list[int]) -> None:
    wf = WorkflowBuilder("whole")
    for _ in range(3):
        wf.subworkflow(shop.inner.node())
    async with Runtime(shop.app) as rt:
        run = await begin(rt, wf)
        assert await run.cancel() == Ok(True)
        with anyio.fail_after(20):
            await rt.settle_workflows()
        parts = [node.workflow_id for node in (await run.tasks()).unwrap()]
        for part in parts:
            assert part is not None
            assert await rt.workflow(part).status() == Ok(WorkflowStatus.CANCELLED)
            assert await statuses(rt, rt.workflow(part)) == {TaskStatus.CANCELLED}
        assert await rt._engine.workflows.unadvanced(5) == []
    assert max(cancelled) == 2


async def opened(rt: Runtime, run: WorkflowHandle[Any]) -> bool:
    (part,) = [node.workflow_id for node in (await run.tasks()).unwrap() if node.kind == "map"]
    return part is not None and await rt._engine.workflows.read_standing(part) is not None


async def test_map_of_more_than_a_portion_is_cancelled(shop: Shop) -> None:
    """With the portion as it is shipped."""
    count = engine.PORTION * 2 + 1
    wf = WorkflowBuilder("mapped")
    wf.map(shop.number.node().queue("default"), over=wf.task(shop.numbers.node(count)))
    async with Runtime(shop.app) as rt:
        run = await begin(rt, wf)
        worker = rt.start_worker(WorkerConfig(concurrency=1))
        with anyio.fail_after(60):
            while len((await run.tasks()).unwrap()) == 2 and not await opened(rt, run):
                await anyio.sleep(0.02)
            await rt.pause_queue("default")
            assert await run.cancel() == Ok(True)
            await worker.drain()
            await rt.settle_workflows()
        (part,) = [node.workflow_id for node in (await run.tasks()).unwrap() if node.kind == "map"]
        assert part is not None
        found = Counter(status for _, status, _ in await rt._engine.workflows.tasks(part))
        assert found.keys() <= {TaskStatus.CANCELLED, TaskStatus.COMPLETED}
        assert found.total() == count
        assert await rt._engine.workflows.unadvanced(5) == []
