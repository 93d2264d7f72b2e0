"""Workflows with many nodes or large arguments: read in pieces, and no burden to their neighbours."""

from __future__ import annotations

import gc
import hashlib
import logging
import threading
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from msgspec.structs import replace as changed

from horsies import (
    AppConfig,
    NodeRef,
    NodeStatus,
    Ok,
    Runtime,
    TaskStatus,
    WorkflowBuilder,
    WorkflowStatus,
)
from horsies._payload.envelope import decode as decode_envelope
from horsies._payload.ids import new_task_id
from horsies._workflow.advance.advancer import Following
from horsies._workflow.advance.stored_workflow import KEPT_BYTES, read_spec
from horsies._workflow.advance.transition import begun
from horsies._workflow.definition.spec import encode
from horsies._workflow.definition.validate import resolve
from horsies._workflow.offload import MANY_NODES, apart, uncollected
from horsies.abc import HEAD, LARGE, BrokerError, EndedTask, News, Step
from horsies.plugins.postgres.consumer import PostgresConsumer
from horsies.plugins.postgres.workflows import PostgresWorkflows
from horsies.plugins.sqlite.consumer import SqliteConsumer
from horsies.plugins.sqlite.workflows import SqliteWorkflows

from .large import UNTIL_IDLE, Shop, begin, lone

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(120),
    pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True),
]


@pytest.fixture
def shop(config: AppConfig) -> Shop:
    return Shop(config)


async def test_large_workflow_runs_to_its_end(shop: Shop) -> None:
    """Large by its state, by what a task opens, and by its spec."""
    count = MANY_NODES * 3
    wf = WorkflowBuilder("mapped")
    mapped = wf.map(shop.number.node(), over=wf.task(shop.numbers.node(count)))
    output = wf.task(shop.total.node(mapped))
    async with Runtime(shop.app) as rt:
        run = await begin(rt, wf, output)
        large = await begin(rt, lone(shop, LARGE // 10))
        await rt.run_worker(UNTIL_IDLE)
        assert await run.get(timeout=60) == Ok(sum(range(count)))
        assert await large.get(timeout=60) == Ok(None)
        assert len((await large.results()).unwrap()) == LARGE // 10
        assert await large.result_for("number-7") == Ok(7)
        assert "number-7" in str((await large.graph()).unwrap())
        assert await rt._engine.workflows.unadvanced(5) == []
    assert set(shop.ran.values()) == {1}
    assert len(shop.ran) == count + LARGE // 10


async def test_results_of_a_worker_do_not_wait_for_large_workflows(shop: Shop) -> None:
    """Neither one that is large, nor one that becomes large by what has been opened."""
    async with Runtime(shop.app) as rt:
        run = await begin(rt, lone(shop, 1))
        row = await rt._engine.workflows.read(run.workflow_id)
        assert row is not None
        following = rt._engine.following()
        assert isinstance(following, Following)
        large = News(changed(row, state=bytes(LARGE + 1)))
        opens = News(row, (EndedTask(new_task_id(), TaskStatus.COMPLETED, None, bytes(LARGE + 1)),))
        assert following.decide([large]) == following.decide([opens]) == []
        following.committed([run.workflow_id])
        with anyio.fail_after(20):
            await rt.settle_workflows()


async def test_results_are_written_although_what_follows_takes_too_long(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finish that runs into the timeout may do so because of what follows: that is left to an advance."""
    tries: list[bool] = []
    for consumer in (PostgresConsumer, SqliteConsumer):
        finish = consumer.finish

        async def slow(self: Any, ends: Any, *, finish: Any = finish, **given: Any) -> list[bool]:
            tries.append("decide" in given)
            if given.get("decide") is not None:
                raise BrokerError("finish: it took too long", retryable=True)
            written: list[bool] = await finish(self, ends, **given)
            return written

        monkeypatch.setattr(consumer, "finish", slow)
    async with Runtime(shop.app) as rt:
        wf = WorkflowBuilder("two")
        output = wf.task(shop.number.node(wf.task(shop.number.node(3))))
        run = await begin(rt, wf, output)
        await rt.run_worker(UNTIL_IDLE)
        assert await run.get(timeout=20) == Ok(3)
    assert tries == [True, False] * 2
    assert set(shop.ran.values()) == {1}


async def test_workflow_that_always_fails_by_itself_holds_up_no_other(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when it takes longer than a statement may: that looks like a database that is away."""
    monkeypatch.setattr("horsies._send.contact.pauses", lambda *_: iter(lambda: 0.001, None))
    caplog.set_level(logging.ERROR, "horsies.workflow")
    async with Runtime(shop.app) as rt:
        runs = [await begin(rt, lone(shop, 1)) for _ in range(5)]
        guilty = runs[0].workflow_id
        store = type(rt._engine.workflows)
        advance = store.advance

        async def failing(self: Any, ids: Sequence[str], *args: Any, **kwargs: Any) -> list[Step]:
            if guilty in ids:
                raise BrokerError("advance workflows: it took too long", retryable=True)
            steps: list[Step] = await advance(self, ids, *args, **kwargs)
            return steps

        ids = [node.task_id for run in runs for node in (await run.tasks()).unwrap() if node.task_id]
        await rt._engine.broker.control.cancel(ids)
        with monkeypatch.context() as slow:
            slow.setattr(store, "advance", failing)
            rt._engine.nodes_ended([run.workflow_id for run in runs])
            with anyio.fail_after(20):
                await rt.settle_workflows()
            assert [(await run.status()).unwrap() for run in runs] == [WorkflowStatus.RUNNING] + [
                WorkflowStatus.FAILED
            ] * 4
            info = (await runs[0].info()).unwrap()
            assert info is not None
            assert info.problem is not None
            assert "it took too long" in info.problem
            assert f"workflow {guilty} is left alone for 60 s" in caplog.text
        # In time it is tried again.
        assert rt._engine._advancer is not None
        monkeypatch.setattr(rt._engine._advancer, "_aside", {guilty: anyio.current_time()})
        await rt._engine.recover_workflows()
        with anyio.fail_after(20):
            await rt.settle_workflows()
        assert await runs[0].status() == Ok(WorkflowStatus.FAILED)
        info = (await runs[0].info()).unwrap()
        assert info is not None
        assert info.problem is None


async def test_workflows_are_advanced_at_once_after_an_outage(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it lasts, none is left alone for it."""
    monkeypatch.setattr("horsies._send.contact.pauses", lambda *_: iter(lambda: 0.001, None))
    failures: list[str] = []
    async with Runtime(shop.app) as rt:
        runs = [await begin(rt, lone(shop, 1)) for _ in range(2)]
        ids = [node.task_id for run in runs for node in (await run.tasks()).unwrap() if node.task_id]
        await rt._engine.broker.control.cancel(ids)
        for name in ("advance", "note_problem"):
            call = getattr(type(rt._engine.workflows), name)

            async def away(self: Any, *args: Any, call: Any = call, name: str = name, **given: Any) -> Any:
                if len(failures) < 40:
                    failures.append(name)
                    raise BrokerError("the server is away", retryable=True)
                return await call(self, *args, **given)

            monkeypatch.setattr(type(rt._engine.workflows), name, away)
        rt._engine.nodes_ended([run.workflow_id for run in runs])
        with anyio.fail_after(20):
            await rt.settle_workflows()
        assert set(failures) == {"advance", "note_problem"}
        for run in runs:
            info = (await run.info()).unwrap()
            assert info is not None
            assert (info.status, info.problem) == (WorkflowStatus.FAILED, None)


@pytest.fixture
def read_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes of specs each decision was given."""
    found: list[int] = []
    for store in (PostgresWorkflows, SqliteWorkflows):
        advance = store.advance

        async def noted(self: Any, ids: Any, decide: Any, advance: Any = advance, **kwargs: Any) -> list[Step]:
            def counting(all_news: Sequence[News]) -> Sequence[Step]:
                for news in all_news:
                    found.append(len(news.row.spec) + sum(len(data) for _, data in news.slices))
                steps: Sequence[Step] = decide(all_news)
                return steps

            steps: list[Step] = await advance(self, ids, counting, **kwargs)
            return steps

        monkeypatch.setattr(store, "advance", noted)
    decide = Following.decide

    def counted(self: Following, all_news: Sequence[News]) -> list[Step]:
        for news in all_news:
            found.append(len(news.row.spec) + sum(len(data) for _, data in news.slices))
        return decide(self, all_news)

    monkeypatch.setattr(Following, "decide", counted)
    return found


MIB = 1 << 20


async def test_end_reads_the_arguments_of_its_successors_alone(shop: Shop, read_bytes: list[int]) -> None:
    wf = WorkflowBuilder("heavy")
    sums = [wf.task(shop.add.node(wf.task(shop.size.node(bytes(MIB + n))), bytes(2 * HEAD))) for n in range(5)]
    async with Runtime(shop.app) as rt:
        run = await begin(rt, wf, sums[0])
        await rt.run_worker(UNTIL_IDLE)
        assert await run.get(timeout=20) == Ok(MIB + 2 * HEAD)
        assert [result.unwrap() for result in (await run.results()).unwrap().values()][-1] == MIB + 4 + 2 * HEAD
    # The head, and the arguments of those that run next; at most all of these.
    assert 0 < max(read_bytes) < HEAD + 5 * (2 * HEAD + 1024)
    assert read_spec.cache_info().bytes <= KEPT_BYTES


async def test_subworkflow_with_large_arguments_runs(shop: Shop, read_bytes: list[int]) -> None:
    app = shop.app

    @app.workflow("heavy inside")
    def heavy(wf: WorkflowBuilder, data: bytes, n: int) -> NodeRef[int]:
        return wf.task(shop.add.node(wf.task(shop.size.node(data)), data))

    wf = WorkflowBuilder("whole")
    first = wf.task(shop.number.node(7))
    known = wf.subworkflow(heavy.node(bytes(MIB), 1).waits_for(first))
    late = wf.subworkflow(heavy.node(bytes(MIB), first))
    output = wf.task(shop.total.node([]).waits_for(known, late))
    async with Runtime(app) as rt:
        run = await begin(rt, wf, output)
        await rt.run_worker(UNTIL_IDLE)
        assert await run.get(timeout=20) == Ok(0)
        results = list((await run.results()).unwrap().values())
        assert results[1:3] == [Ok(2 * MIB)] * 2


OLD = "96333b4bc149adc586bb583e6858370e89e26211628467f3482fdc055efd75b8"
"""The SHA-256 of the spec below, as the release before wrote and stored it."""


async def test_workflow_that_an_older_release_has_stored_goes_on(shop: Shop) -> None:
    """It stored every spec as it is encoded, however large, and read all of it."""
    wf = WorkflowBuilder("old")
    first = wf.task(shop.size.node(b"x" * 3 * HEAD).queue("default").priority(50))
    output = wf.task(shop.add.node(first, b"y" * HEAD).queue("default").priority(50))
    spec = resolve(wf.build(output), shop.app)
    data = encode(spec)
    assert len(data) > 4 * HEAD
    assert hashlib.sha256(data).hexdigest() == OLD
    async with Runtime(shop.app) as rt:
        new = begun(rt._engine, spec, new_task_id())
        assert new.spec != data
        await rt._engine.workflows.start(changed(new, spec=data))
        run = rt.workflow(new.workflow_id)
        assert [node.status for node in (await run.tasks()).unwrap()] == [NodeStatus.ENQUEUED, NodeStatus.PENDING]
        await rt.run_worker(UNTIL_IDLE)
        assert await run.get(timeout=20) == Ok(4 * HEAD)
        task_id = (await run.tasks()).unwrap()[1].task_id
        assert task_id is not None
        row = await rt._engine.read(task_id)
        assert row is not None
        assert b"y" * HEAD in decode_envelope(row.envelope).arguments


async def test_start_of_many_nodes_is_the_same_as_of_few(shop: Shop) -> None:
    """What is done in a thread then gives the same content, so that a second start is known for the first one's."""
    spec, other = lone(shop, MANY_NODES).build(), lone(shop, MANY_NODES + 1).build()
    threads: set[int] = set()
    async with Runtime(shop.app) as rt:
        await apart(lambda: threads.add(threading.get_ident()), nodes=MANY_NODES)
        await apart(lambda: threads.add(threading.get_ident()), nodes=MANY_NODES - 1)
        assert len(threads) == 2
        run = (await rt.start(spec)).unwrap()
        again = (await rt.start(spec, workflow_id=run.workflow_id)).unwrap()
        assert again.workflow_id == run.workflow_id
        assert (await rt.start(other, workflow_id=run.workflow_id)).unwrap_err().code == "PAYLOAD_MISMATCH"
        assert len(await rt._engine.workflows.tasks(run.workflow_id)) == MANY_NODES


async def test_collector_is_left_as_it_was(shop: Shop) -> None:
    assert gc.isenabled()
    with uncollected():
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
