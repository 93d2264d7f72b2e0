"""Workflows inside of workflows, and a task for each item of a list, on real workers."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from horsies import (
    AppConfig,
    Err,
    Horsies,
    NodeRef,
    NodeStatus,
    Ok,
    Runtime,
    TaskError,
    TaskResult,
    WorkflowBuilder,
    WorkflowHandle,
    WorkflowStatus,
)

pytestmark = pytest.mark.anyio


class Shop:
    """An application whose tasks can be held up, and told to fail."""

    def __init__(self, config: AppConfig) -> None:
        self.app = app = Horsies(config)
        self.ran: list[str] = []
        self.fails: set[str] = set()
        self.gate = anyio.Event()
        self.gate.set()

        @app.task
        async def step(name: str) -> str:
            await self.gate.wait()
            self.ran.append(name)
            if name in self.fails:
                raise TaskError("BROKEN")
            return name.upper()

        @app.task
        async def letters(word: str) -> list[str]:
            return list(word)

        @app.task
        async def join(parts: list[str], by: str) -> str:
            return by.join(parts)

        @app.task
        async def tell(what: TaskResult[str]) -> str:
            return what.value if isinstance(what, Ok) else f"{what.error.code}: {what.error.message}"

        @app.task
        async def spell(letter: str, loud: bool = False) -> str:
            self.ran.append(letter)
            if letter in self.fails:
                raise TaskError("BROKEN")
            return letter.upper() if loud else letter

        @app.workflow("inner")
        def inner(wf: WorkflowBuilder, name: str) -> NodeRef[str]:
            first = wf.task(step.node(name))
            return wf.task(step.node(first).node_id("again"))

        @app.workflow("middle")
        def middle(wf: WorkflowBuilder, name: str) -> NodeRef[str]:
            return wf.subworkflow(inner.node(name).node_id("inside"))

        @app.workflow("outer")
        def outer(wf: WorkflowBuilder, name: str) -> NodeRef[str]:
            deep = wf.subworkflow(middle.node(name).node_id("deep"))
            wf.task(tell.node(deep.as_result()).allow_failed_deps().node_id("told"))
            return wf.task(step.node(deep).node_id("last"))

        @app.workflow("late")
        def late(wf: WorkflowBuilder, name: str) -> NodeRef[str]:
            known = wf.task(step.node(name).node_id("known"))
            built = wf.subworkflow(middle.node(known).node_id("built"))
            wf.task(tell.node(built.as_result()).allow_failed_deps().node_id("told"))
            return built

        @app.workflow("spelling")
        def spelling(wf: WorkflowBuilder, word: str) -> NodeRef[str]:
            given = wf.task(letters.node(word))
            spelt = wf.map(spell.node(loud=True).node_id("spelt"), over=given)
            return wf.task(join.node(spelt, "-"))

        @app.workflow("careful", on_error="pause")
        def careful(wf: WorkflowBuilder, name: str) -> NodeRef[str]:
            return wf.subworkflow(inner.node(name).node_id("inside"))

        self.careful = careful
        self.outer, self.late, self.spelling, self.inner = outer, late, spelling, inner


@pytest.fixture
def shop(config: AppConfig) -> Shop:
    return Shop(config)


async def statuses(run: WorkflowHandle[Any]) -> dict[str, NodeStatus]:
    return {node.node_id: node.status for node in (await run.tasks()).unwrap()}


async def part(rt: Runtime, run: WorkflowHandle[Any], *way: str) -> WorkflowHandle[Any]:
    """The workflow that a node stands for, by the ids of nodes from the outside in."""
    for node_id in way:
        (node,) = [node for node in (await run.tasks()).unwrap() if node.node_id == node_id]
        assert node.workflow_id is not None
        run = rt.workflow(node.workflow_id)
    return run


async def test_three_deep(shop: Shop) -> None:
    with anyio.fail_after(60):
        async with Runtime(shop.app) as rt:
            rt.start_worker()
            run = (await shop.outer.handle(rt).start("a")).unwrap()
            assert await run.get() == Ok("A")
            assert shop.ran == ["a", "A", "A"]
            inside = await part(rt, run, "deep", "inside")
            assert await inside.get() == Ok("A")
            assert (await inside.results()).unwrap() == {"step-0": Ok("A"), "again": Ok("A")}
            assert await run.result_for("deep") == Ok("A")
            assert set((await statuses(run)).values()) == {NodeStatus.COMPLETED}


async def test_a_part_that_is_built_with_the_value_of_a_node(shop: Shop) -> None:
    with anyio.fail_after(60):
        async with Runtime(shop.app) as rt:
            rt.start_worker()
            run = (await shop.late.handle(rt).start("a")).unwrap()
            assert await run.get() == Ok("A")
            assert shop.ran == ["a", "A", "A"]
            assert await run.result_for("told") == Ok("A")


async def test_a_failure_deep_inside(shop: Shop) -> None:
    shop.fails = {"A"}
    with anyio.fail_after(60):
        async with Runtime(shop.app) as rt:
            rt.start_worker()
            for workflow, node_id in ((shop.outer, "deep"), (shop.late, "built")):
                run = (await workflow.handle(rt).start("a")).unwrap()
                result = await run.get()
                assert isinstance(result, Err)
                assert result.error.code == "WORKFLOW_FAILED"
                assert f"node {node_id!r} ended with SUBWORKFLOW_FAILED" in result.error.message
                told = (await run.result_for("told")).unwrap()
                assert told.startswith("WORKFLOW_FAILED: workflow 'middle'")
                assert "node 'inside' ended with SUBWORKFLOW_FAILED" in told


async def test_a_map_gives_a_list_in_order(shop: Shop) -> None:
    with anyio.fail_after(60):
        async with Runtime(shop.app) as rt:
            rt.start_worker()
            run = (await shop.spelling.handle(rt).start("horsies")).unwrap()
            assert await run.get() == Ok("H-O-R-S-I-E-S")
            assert sorted(shop.ran) == sorted("horsies")
            spelt = await part(rt, run, "spelt")
            assert await spelt.get() == Ok(list("HORSIES"))
            assert await run.result_for("spelt") == Ok(list("HORSIES"))
            assert len((await spelt.tasks()).unwrap()) == 7


async def test_a_map_over_nothing(shop: Shop) -> None:
    with anyio.fail_after(60):
        async with Runtime(shop.app) as rt:
            rt.start_worker()
            run = (await shop.spelling.handle(rt).start("")).unwrap()
            assert await run.get() == Ok("")


async def test_a_map_with_an_item_that_fails(shop: Shop) -> None:
    shop.fails = {"r"}
    with anyio.fail_after(60):
        async with Runtime(shop.app) as rt:
            rt.start_worker()
            run = (await shop.spelling.handle(rt).start("horsies")).unwrap()
            result = await run.get()
            assert isinstance(result, Err)
            assert "node 'spelt' ended with SUBWORKFLOW_FAILED" in result.error.message
            assert sorted(shop.ran) == sorted("horsies")


async def test_a_pause_reaches_the_innermost_and_a_resume_too(shop: Shop) -> None:
    shop.gate = anyio.Event()
    with anyio.fail_after(60):
        async with Runtime(shop.app) as rt:
            run = (await shop.outer.handle(rt).start("a")).unwrap()
            inside = await part(rt, run, "deep", "inside")
            assert await run.pause() == Ok(True)
            await rt.settle_workflows()
            assert await inside.status() == Ok(WorkflowStatus.PAUSED)
            shop.gate.set()
            rt.start_worker()
            while (await statuses(inside))["step-0"] is not NodeStatus.COMPLETED:
                await anyio.sleep(0.01)
            assert (await statuses(inside))["again"] is NodeStatus.READY
            assert await run.resume() == Ok(True)
            assert await run.get() == Ok("A")


async def test_what_failed_inside_runs_again_as_another_part(shop: Shop) -> None:
    shop.fails = {"A"}
    with anyio.fail_after(60):
        async with Runtime(shop.app) as rt:
            rt.start_worker()
            run = (await shop.careful.handle(rt).start("a")).unwrap()
            assert (await run.get()).unwrap_err().code == "WORKFLOW_PAUSED"
            first = await part(rt, run, "inside")
            assert await first.status() == Ok(WorkflowStatus.FAILED)
            shop.fails.clear()
            assert await run.resume(rerun_failed=True) == Ok(True)
            assert await run.get() == Ok("A")
            second = await part(rt, run, "inside")
            assert second.workflow_id != first.workflow_id
            assert await second.get() == Ok("A")
            assert await first.status() == Ok(WorkflowStatus.FAILED)
            assert shop.ran == ["a", "A", "a", "A"]


async def test_a_cancellation_reaches_the_innermost(shop: Shop) -> None:
    shop.gate = anyio.Event()
    with anyio.fail_after(60):
        async with Runtime(shop.app) as rt:
            rt.start_worker()
            run = (await shop.outer.handle(rt).start("a")).unwrap()
            inside = await part(rt, run, "deep", "inside")
            while (await statuses(inside))["step-0"] is not NodeStatus.RUNNING:
                await anyio.sleep(0.01)
            assert await run.cancel() == Ok(True)
            assert (await inside.get()).unwrap_err().code == "WORKFLOW_CANCELLED"
            while (await statuses(inside))["step-0"] is not NodeStatus.FAILED:
                await anyio.sleep(0.01)
            assert shop.ran == []
            await rt.settle_workflows()
            while (await statuses(run))["deep"] is not NodeStatus.FAILED:
                await anyio.sleep(0.01)
