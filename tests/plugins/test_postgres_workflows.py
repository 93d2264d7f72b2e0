"""Advancing workflows where somebody else's transaction, a cancellation or a slow commit comes in between."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import anyio
import psycopg
import pytest
from msgspec.structs import replace as changed
from sessions import FOREVER, Hold, holding, opened, pooled, quick_commit, slow_commit, until_waiting

from horsies import AppConfig, Horsies, NodeStatus, PoolConfig, ResilienceConfig, Runtime, WorkflowBuilder
from horsies.abc import LARGE, Broker, BrokerError, EnqueueOutcome, Start, Step, Workflowing, Workflows
from horsies.plugins.postgres import workflows as module
from horsies.plugins.postgres.driver.connection import AnyioConnection
from horsies.plugins.postgres.queries import named_queries
from horsies.testing._conformance.stage import done
from horsies.testing._conformance.workflows import FIRST, SECOND, Given, begins, goes_on, node, noting, task_id
from horsies.testing.broker import Stage, at

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
def config(postgres_url: str, schema: str) -> AppConfig:
    """With one pooled connection, so that what one call leaves behind meets the next."""
    return AppConfig(url=postgres_url, schema=schema, pool=PoolConfig(max_size=1))


@pytest.fixture
async def workflows(stage: Stage) -> Workflows:
    return kept_by(stage.broker)


def kept_by(broker: Broker) -> Workflows:
    assert isinstance(broker, Workflowing)
    return broker.workflows


def following(given: Given) -> list[Step]:
    """One task is cancelled and another put in, for whatever has ended."""
    return [goes_on(FIRST, node(3, unique_key="k"), cancel=(task_id(2),)) for news in given if news.ended]


async def marked(stage: Stage) -> None:
    """A workflow with the end of its first task marked, and its second not ended."""
    workflows = kept_by(stage.broker)
    await workflows.start(begins(FIRST, node(1), node(2)))
    await stage.broker.control.cancel([task_id(1)])


async def written(stage: Stage) -> bool:
    """Whether the step was written, all of it or nothing."""
    workflows = kept_by(stage.broker)
    row = await workflows.read(FIRST)
    assert row is not None
    there = [UUID(stored.task_id).int for stored in await stage.broker.reader.results([task_id(3)])]
    found = (row.state, there, await stage.status(2))
    if found == (b"\0state", [], "PENDING"):
        assert await workflows.unadvanced(5) == [FIRST]
        return False
    assert found == (b"\0later", [3], "CANCELLED")
    return True


THE_WORKFLOW = holding(f"SELECT FROM {{schema}}.workflows WHERE id = '{FIRST}' FOR UPDATE")
THE_KEY = holding(
    f"""
    INSERT INTO {{schema}}.tasks
        (id, phase, status, queue, priority, due_at, sent_at, task_name, envelope, sha, unique_key)
    VALUES ('{UUID(int=20)}', 1, 'PENDING', 'fast', 50, now(), now(), 'a_task', '', '', 'k')
    """
)
THE_END = holding(f"SELECT FROM {{schema}}.tasks WHERE id = '{UUID(int=1)}' FOR UPDATE")
THE_TASK_TO_CANCEL = holding(f"SELECT FROM {{schema}}.tasks WHERE id = '{UUID(int=2)}' FOR UPDATE")
HELD = pytest.mark.parametrize(
    "hold",
    [
        pytest.param(THE_WORKFLOW, id="the workflow"),
        pytest.param(THE_KEY, id="the key"),
        pytest.param(THE_END, id="the task that has ended"),
        pytest.param(THE_TASK_TO_CANCEL, id="the task to cancel"),
    ],
)


@HELD
async def test_what_somebody_holds_is_waited_for_a_moment_only(
    stage: Stage, workflows: Workflows, config: AppConfig, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT", "50ms")
    await marked(stage)
    before = await pooled(stage.broker)
    with anyio.fail_after(10), hold(config):
        with pytest.raises(BrokerError) as raised:
            await workflows.advance([FIRST], following)
        assert (raised.value.retryable, raised.value.locked) == (True, True)
        assert not await written(stage)
        assert await pooled(stage.broker) == before
    assert len(await workflows.advance([FIRST], following)) == 1
    assert await written(stage)
    assert await pooled(stage.broker) == before


@HELD
async def test_an_advance_that_is_cancelled_leaves_nothing(
    stage: Stage,
    workflows: Workflows,
    config: AppConfig,
    observer: psycopg.Connection,
    hold: Hold,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT", FOREVER)
    await marked(stage)
    before = await pooled(stage.broker)
    with anyio.fail_after(10), hold(config):
        async with anyio.create_task_group() as group:
            group.start_soon(workflows.advance, [FIRST], following)
            await until_waiting(observer, config, "workflows")
            group.cancel_scope.cancel()
        assert not await written(stage)
        assert await pooled(stage.broker) == before
    assert len(await workflows.advance([FIRST], following)) == 1


@pytest.mark.parametrize("checkpoints", range(12))
async def test_wherever_an_advance_is_cancelled_all_of_it_is_written_or_nothing(
    stage: Stage, workflows: Workflows, checkpoints: int
) -> None:
    await marked(stage)
    before = await pooled(stage.broker)

    async def advance() -> None:
        await workflows.advance([FIRST], following)
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(advance)
        for _ in range(checkpoints):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    assert await pooled(stage.broker) == before
    if not await written(stage):
        assert len(await workflows.advance([FIRST], following)) == 1
        assert await written(stage)


async def test_a_commit_takes_no_longer_than_a_statement_may(config: AppConfig, observer: psycopg.Connection) -> None:
    config = replace(config, resilience=ResilienceConfig(statement_timeout=0.5))
    with anyio.fail_after(20):
        async with opened(config) as broker, Stage.on(broker) as stage:
            await marked(stage)
            slow_commit(observer, config, "workflows")
            with pytest.raises(BrokerError) as raised:
                await kept_by(broker).advance([FIRST], following)
            assert (raised.value.retryable, raised.value.locked) == (True, False)
            quick_commit(observer, config, "workflows")
            assert not await written(stage)


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_an_advance_sees_what_it_has_waited_for(
    config: AppConfig, observer: psycopg.Connection, isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state that the other has left, and an end that was committed while it waited."""
    monkeypatch.setattr(module, "LOCK_WAIT", FOREVER)
    default = f"&options=-c%20default_transaction_isolation%3D{isolation.replace(' ', '%5C%20')}"
    config = replace(config, url=config.url + default)
    async with opened(config) as broker, Stage.on(broker) as stage:
        workflows = kept_by(broker)
        await marked(stage)
        worker = await stage.worker()
        before = await pooled(broker)
        assert before[2] == isolation
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                with psycopg.connect(config.url) as connection:
                    connection.execute(f"UPDATE {config.schema}.workflows SET state = '\\x07'".encode())
                    group.start_soon(workflows.advance, [FIRST], noting)
                    await until_waiting(observer, config, "workflows")
                    await worker.beat()
                    observer.execute(
                        f"""
                        UPDATE {config.schema}.tasks SET phase = 3, status = 'CANCELLED', finished_at = now()
                        WHERE id = '{task_id(2)}'
                        """.encode()
                    )
        row = await workflows.read(FIRST)
        assert row is not None
        assert row.state[:1] == b"\7"
        assert sorted(row.state[1:]) == [1, 2]
        assert await workflows.unadvanced(5) == []
        assert await pooled(broker) == before


async def test_two_that_name_the_same_workflows_never_lock_up(
    config: AppConfig, observer: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were they locked as they are found, each would hold what the other waits for, and the server end one."""
    monkeypatch.setattr(module, "LOCK_WAIT", FOREVER)
    config = replace(config, pool=PoolConfig(max_size=3))
    answers: list[int] = []

    async def advance(workflows: Workflows, ids: Sequence[str]) -> None:
        answers.append(len(await workflows.advance(ids, noting)))

    with anyio.fail_after(20):
        async with opened(config) as broker:
            workflows = kept_by(broker)
            for id_ in (SECOND, FIRST):  # so that the table has them in the other order
                await workflows.start(begins(id_))
            async with anyio.create_task_group() as group:
                with holding(f"SELECT FROM {{schema}}.workflows WHERE id = '{FIRST}' FOR UPDATE")(config):
                    group.start_soon(advance, workflows, [FIRST, SECOND])
                    await until_waiting(observer, config, "workflows")
                    # The second one is free still: the first comes first.
                    observer.execute(
                        f"SELECT FROM {config.schema}.workflows WHERE id = '{SECOND}' FOR UPDATE NOWAIT".encode()
                    )
                    group.start_soon(advance, workflows, [SECOND, FIRST])
                    await until_waiting(observer, config, "workflows", sessions=2)
    assert answers == [2, 2]


async def test_a_finish_waits_for_no_workflow(stage: Stage, workflows: Workflows, config: AppConfig) -> None:
    """The end is written, and what follows from it is left to whoever has the workflow in hand, or comes after."""
    await workflows.start(begins(FIRST, node(1)), now=at(0))
    worker = await stage.worker()
    (claimed,) = (await worker.claim(1, now=at(0))).tasks
    await worker.start([Start(claimed.lease)], now=at(0))
    with anyio.fail_after(10), THE_WORKFLOW(config):
        assert await worker.finish([changed(done(claimed.lease), workflow_id=FIRST)], decide=noting) == [True]
    assert await stage.status(1) == "COMPLETED"
    assert await workflows.unadvanced(5) == [FIRST]


async def test_finish_leaves_out_large_workflows(stage: Stage, workflows: Workflows) -> None:
    """Their states are not even read: other results would wait for that."""
    states = {FIRST: bytes(LARGE), SECOND: bytes(LARGE + 1)}
    for n, (id_, state) in enumerate(states.items(), 1):
        await workflows.start(begins(id_, node(n, of=id_), state=state), now=at(0))
    worker = await stage.worker()
    leases = [task.lease for task in (await worker.claim(2, now=at(0))).tasks]
    await worker.start([Start(lease) for lease in leases], now=at(0))
    ends = [changed(done(lease), workflow_id=id_) for lease, id_ in zip(leases, states, strict=True)]
    assert await worker.finish(ends, decide=noting) == [True, True]
    assert await workflows.unadvanced(5) == [SECOND]


async def test_many_tasks_are_cancelled_without_a_join(config: AppConfig, observer: psycopg.Connection) -> None:
    """Sessions join by nested loops: rows that a statement has just written must not be looked for among themselves."""
    async with opened(config):
        pass
    sql = named_queries(config.schema)
    for setting in ("hashjoin", "mergejoin", "seqscan", "bitmapscan"):
        observer.execute(f"SET enable_{setting} = off".encode())
    for name in ("tasks.cancel", "workflows.step", "workflows.prune_workflows"):
        query = re.sub(r"%\((\w+)\)s", "NULL", sql[name])
        ((plan,),) = observer.execute(f"EXPLAIN (FORMAT JSON) {query}".encode()).fetchall()
        for loop in joins(plan[0]["Plan"]):
            assert loop["Plans"][1]["Node Type"] != "CTE Scan", f"{name} looks through {loop['Plans'][1]['CTE Name']}"


def joins(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nested loops in a plan whose inner side is read for each row of the outer one, but for counts of notices."""
    inner = plan.get("Plans", [])
    if plan["Node Type"] == "Nested Loop" and inner[1].get("CTE Name") not in ("told", "called", "clock"):
        yield plan
    for child in inner:
        yield from joins(child)


async def test_a_signal_that_comes_while_it_is_decided_is_kept_for_the_next_time(
    workflows: Workflows, observer: psycopg.Connection, config: AppConfig
) -> None:
    """Signals are put in by those who have locked another workflow."""
    signals: list[tuple[bytes, ...]] = []
    insert = f"INSERT INTO {config.schema}.workflow_signals (workflow_id, data) VALUES ('{FIRST}', %s)"

    def decide(given: Given) -> list[Step]:
        signals.append(given[0].signals)
        observer.execute(insert.encode(), [f"{len(signals)}".encode()])
        return [goes_on(FIRST)]

    await workflows.start(begins(FIRST))
    for _ in range(3):
        await workflows.advance([FIRST], decide)
    assert signals == [(), (b"1",), (b"2",)]


async def test_workflows_that_cannot_be_removed_keep_no_other_there(
    stage: Stage,
    workflows: Workflows,
    observer: psycopg.Connection,
    config: AppConfig,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for id_ in (FIRST, SECOND):
        await workflows.start(begins(id_), now=at(0))
        await workflows.advance([id_], lambda given: [goes_on(given[0].row.workflow_id, status="FAILED")], now=at(1))
    observer.execute(
        f"""
        CREATE FUNCTION {config.schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE 'refused' USING ERRCODE = 'P0001'; END $$;
        CREATE TRIGGER refuse BEFORE DELETE ON {config.schema}.workflows FOR EACH ROW
        WHEN (old.id = '{FIRST}') EXECUTE FUNCTION {config.schema}.refuse()
        """.encode()
    )
    caplog.set_level(logging.ERROR, "horsies.postgres")
    late = timedelta(seconds=1)
    assert [await stage.maintenance.prune(5, finished_after=late, now=at(9)) for _ in range(2)] == [1, 0]
    assert await workflows.read(FIRST) is not None
    assert await workflows.read(SECOND) is None
    (record,) = caplog.records
    assert record.getMessage().startswith(f"workflow {FIRST} is left as it is")


async def test_removing_workflows_waits_for_nobody(stage: Stage, workflows: Workflows, config: AppConfig) -> None:
    for id_ in (FIRST, SECOND):
        await workflows.start(begins(id_), now=at(0))
        await workflows.advance([id_], lambda given: [goes_on(given[0].row.workflow_id, status="FAILED")], now=at(1))
    with anyio.fail_after(10), THE_WORKFLOW(config):
        assert await stage.maintenance.prune(5, finished_after=timedelta(seconds=1), now=at(9)) == 1
    assert await workflows.read(SECOND) is None
    assert await stage.maintenance.prune(5, finished_after=timedelta(seconds=1), now=at(9)) == 1


async def test_a_start_waits_for_another_of_the_same_id(
    stage: Stage, workflows: Workflows, config: AppConfig, observer: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it answers depends on whether that is committed."""
    monkeypatch.setattr(module, "LOCK_WAIT", FOREVER)
    answers: list[EnqueueOutcome] = []

    async def start() -> None:
        answers.append((await workflows.start(begins(FIRST, node(1)))).outcome)

    insert = f"""
        INSERT INTO {config.schema}.workflows (id, sha, name, version, spec, state, status, sent_at)
        VALUES ('{FIRST}', '', '', 1, '', '', 'RUNNING', now())
    """
    with anyio.fail_after(10):
        for commits in (True, False):
            async with anyio.create_task_group() as group:
                with closing(psycopg.connect(config.url)) as other:
                    other.execute(insert.encode())
                    group.start_soon(start)
                    await until_waiting(observer, config, "workflows")
                    if commits:
                        other.commit()
                    else:
                        other.rollback()
            observer.execute(f"DELETE FROM {config.schema}.workflows".encode())
    assert answers == [EnqueueOutcome.MISMATCH, EnqueueOutcome.INSERTED]


async def test_behind_a_pooler_nothing_is_left_in_the_session(config: AppConfig) -> None:
    """Sessions there belong to whoever comes next: what is prepared fails, and what is set counts for others."""
    async with opened(replace(config, listen_url=config.url)) as broker, Stage.on(broker) as stage:
        workflows = kept_by(broker)
        await marked(stage)
        for _ in range(9):
            await workflows.advance([FIRST], following)
            await workflows.advance([FIRST], noting)
            await workflows.unadvanced(5)
            await workflows.tasks(FIRST)
        async with broker.transaction() as connection:
            cursor = await connection.execute("SELECT name FROM pg_prepared_statements")
            assert await cursor.fetchall() == []
            cursor = await connection.execute("SELECT name FROM pg_settings WHERE source = 'session'")
            assert await cursor.fetchall() == []


async def test_a_thousand_nodes_are_started_in_a_handful_of_round_trips(
    config: AppConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Horsies(config)

    @app.task
    async def leaf(n: int) -> int:
        return n

    @app.task
    async def join() -> None: ...

    @app.workflow
    def wide(wf: WorkflowBuilder, nodes: int) -> None:
        wf.task(join.node().waits_for(*(wf.task(leaf.node(n)) for n in range(nodes - 1))))

    waits = []
    wait = AnyioConnection.wait

    async def counted(self: AnyioConnection[Any], *args: Any, **kwargs: Any) -> Any:
        waits.append(self)
        return await wait(self, *args, **kwargs)

    async with Runtime(app) as rt:
        (await wide.handle(rt).start(10)).unwrap()
        monkeypatch.setattr(AnyioConnection, "wait", counted)
        run = (await wide.handle(rt).start(1_000)).unwrap()
        trips = len(waits)
        statuses = Counter(node.status for node in (await run.tasks()).unwrap())
    assert statuses == {NodeStatus.ENQUEUED: 999, NodeStatus.PENDING: 1}
    assert 0 < trips < 10
