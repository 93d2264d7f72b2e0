"""What can be known of workflows: which there are, how they stand, and how they look."""

from __future__ import annotations

import anyio
import pytest

from horsies import AppConfig, Horsies, NodeRef, Ok, Runtime, TaskError, WorkflowBuilder, WorkflowStatus, blocking

pytestmark = pytest.mark.anyio


@pytest.fixture
def app(config: AppConfig) -> Horsies:
    app = Horsies(config)

    @app.task
    async def give(n: int) -> list[int]:
        if n < 0:
            raise TaskError("NEGATIVE")
        return [n] * n

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    @app.workflow("doubled")
    def doubled(wf: WorkflowBuilder, n: int) -> NodeRef[list[int]]:
        return wf.map(double.node().node_id("each"), over=wf.task(give.node(n).node_id("some")))

    @app.workflow("other")
    def other(wf: WorkflowBuilder) -> None:
        one, two = wf.task(give.node(1)), wf.task(give.node(2))
        wf.task(double.node(1).waits_for(one, two).join_any().node_id("first of two"))

    return app


async def test_workflows_are_listed_and_known(app: Horsies) -> None:
    with anyio.fail_after(30):
        async with Runtime(app) as rt:
            assert await rt.list_workflows() == Ok([])
            doubled, other = (app.workflows[name].handle(rt) for name in ("doubled", "other"))
            runs = [(await doubled.start(n)).unwrap() for n in (2, -1)] + [(await other.start()).unwrap()]
            rt.start_worker()
            assert await runs[0].get() == Ok([4, 4])
            assert (await runs[1].get()).is_err()
            assert await runs[2].get() == Ok(None)
            infos = (await rt.list_workflows()).unwrap()
            assert [info.workflow_id for info in infos] == [run.workflow_id for run in runs[::-1]]
            assert [await run.info() for run in runs] == [Ok(info) for info in infos[::-1]]
            assert (infos[1].name, infos[1].status, infos[1].error_code) == (
                "doubled",
                WorkflowStatus.FAILED,
                "NEGATIVE",
            )
            assert infos[1].finished_at is not None
            page = (await rt.list_workflows(1)).unwrap()
            assert (await rt.list_workflows(5, before=page[0])).unwrap() == infos[1:]
            assert (await rt.list_workflows(name="other")).unwrap() == infos[:1]
            assert (await rt.list_workflows(statuses=[WorkflowStatus.FAILED])).unwrap() == infos[1:2]
            assert await rt.workflow("nonsense").info() == Ok(None)


async def test_a_workflow_is_drawn_as_it_stands(app: Horsies) -> None:
    with anyio.fail_after(30):
        async with Runtime(app) as rt:
            run = (await app.workflows["doubled"].handle(rt).start(2)).unwrap()
            before = (await run.graph()).unwrap()
            assert before is not None
            assert '  n0["some<br/>give"]:::enqueued\n' in before.mermaid
            assert '  n1[/"each<br/>each: double"/]:::pending\n' in before.mermaid
            assert "  n0 --> n1\n" in before.mermaid
            rt.start_worker()
            await run.get()
            after = (await run.graph()).unwrap()
            assert after is not None
            assert after.mermaid.count(":::completed") == 2
            assert after.svg != before.svg
            assert await rt.workflow("nonsense").graph() == Ok(None)


def test_a_spec_is_drawn(app: Horsies) -> None:
    wf = WorkflowBuilder("other")
    app.workflows["other"](wf)
    graph = wf.build().graph()
    assert '  n2["first of two<br/>double (1 of 2)"]\n' in str(graph)
    assert "first of two" in graph.svg
    assert len(repr(graph)) < 50


def test_a_synchronous_program_looks(app: Horsies) -> None:
    with blocking(app) as rt:
        run = app.workflows["other"].handle(rt).start().unwrap()
        info = run.info().unwrap()
        assert info is not None
        assert rt.list_workflows().unwrap() == [info]
        graph = run.graph().unwrap()
        assert graph is not None
        assert ":::enqueued" in graph.mermaid
