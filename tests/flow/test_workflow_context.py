"""What a task finds in its context of the workflow it belongs to."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from horsies import AppConfig, Err, Horsies, NodeRef, Ok, Runtime, TaskContext, TaskError, WorkflowBuilder

pytestmark = pytest.mark.anyio


async def test_results_come_with_the_context(config: AppConfig) -> None:
    app = Horsies(config)
    seen: dict[str, Any] = {}

    @app.task
    async def give(value: str) -> list[str]:
        return [value]

    @app.task
    async def fail() -> str:
        raise TaskError("BROKEN", "as asked")

    @app.task
    async def look(ctx: TaskContext, given: list[str]) -> str:
        seen.update(ctx.results)
        return f"{ctx.workflow_id} {ctx.node_id} {given[0]}"

    @app.task
    async def glance(ctx: TaskContext) -> str:
        return f"{ctx.workflow_id} {ctx.node_id} {dict(ctx.results)}"

    @app.workflow("inner")
    def inner(wf: WorkflowBuilder) -> NodeRef[list[str]]:
        return wf.task(give.node("in"))

    @app.workflow("flow")
    def flow(wf: WorkflowBuilder) -> NodeRef[str]:
        one = wf.task(give.node("a").node_id("one"))
        broken = wf.task(fail.node().node_id("broken"))
        skipped = wf.task(give.node("c").waits_for(broken).node_id("skipped"))
        part = wf.subworkflow(inner.node().node_id("part"))
        node = look.node(["given"]).ctx_from(skipped, one).ctx_from(broken, part).allow_failed_deps()
        wf.succeeds_when(optional=[broken])
        return wf.task(node.node_id("looks"))

    with anyio.fail_after(30):
        async with Runtime(app) as rt:
            rt.start_worker()
            run = (await flow.handle(rt).start()).unwrap()
            assert await run.get() == Ok(f"{run.workflow_id} looks given")
            plain = (await glance.handle(rt).send()).unwrap()
            assert await plain.get() == Ok("None None {}")
    assert seen.keys() == {"one", "broken", "skipped", "part"}
    assert (seen["one"], seen["part"]) == (Ok(["a"]), Ok(["in"]))
    assert [seen[name].error.code for name in ("broken", "skipped")] == ["BROKEN", "UPSTREAM_SKIPPED"]
    assert isinstance(seen["broken"], Err)


@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_a_node_in_a_thread_gets_what_others_give(config: AppConfig, timeout: float | None) -> None:
    app = Horsies(config)

    @app.task(timeout=timeout)
    def number(n: int) -> int:
        return n

    @app.task(timeout=timeout)
    def add(ctx: TaskContext, a: int, b: int) -> list[object]:
        return [a + b, ctx.node_id, *(result.unwrap() for result in ctx.results.values())]

    @app.workflow("sum")
    def total(wf: WorkflowBuilder) -> NodeRef[list[object]]:
        two, three, four = (wf.task(number.node(n)) for n in (2, 3, 4))
        return wf.task(add.node(two, three).ctx_from(four).node_id("add"))

    with anyio.fail_after(30):
        async with Runtime(app) as rt:
            rt.start_worker()
            runs = [(await total.handle(rt).start()).unwrap() for _ in range(10)]
            assert [await run.get() for run in runs] == [Ok([5, "add", 4])] * 10
