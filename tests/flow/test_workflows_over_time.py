"""Workflows that outlive what started them: another definition, another release, and rows that nobody can read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest
from msgspec.structs import replace as changed

from horsies import (
    AppConfig,
    Horsies,
    NodeRef,
    Ok,
    RecoveryConfig,
    Runtime,
    TaskSendErrorCode,
    WorkerConfig,
    WorkflowBuilder,
    WorkflowStatus,
    task,
)
from horsies._payload.ids import new_task_id
from horsies._workflow.advance.transition import begun
from horsies._workflow.definition.validate import resolve
from horsies._workflow.node_ids import node_task_id
from horsies.abc import NewWorkflow
from horsies.plugins.postgres.workflows import PostgresWorkflows
from horsies.plugins.sqlite.workflows import SqliteWorkflows

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True)]

UNTIL_IDLE = WorkerConfig(until_idle=True)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many workflows each look for forgotten ones brought."""
    found: list[int] = []
    for store in (PostgresWorkflows, SqliteWorkflows):
        look = store.unadvanced

        async def noted(self: Any, *args: Any, look: Any = look, **kwargs: Any) -> Sequence[str]:
            ids: Sequence[str] = await look(self, *args, **kwargs)
            found.append(len(ids))
            return ids

        monkeypatch.setattr(store, "unadvanced", noted)
    return found


async def test_who_has_no_workflows_looks_for_forgotten_ones_now_and_then(
    config: AppConfig, looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Horsies(config)
    app.include(number)
    async with Runtime(app) as rt:
        for _ in range(3):
            await rt._engine.recover_workflows()
        assert looks == [0]
        monkeypatch.setattr("horsies._workflow.advance.advancer.SELDOM", 0.0)
        forgotten = by_hand(rt, app)
        await rt._engine.workflows.start(forgotten)
        await rt._engine.broker.control.cancel([node_task_id(forgotten.workflow_id, 0, 1)])
    async with Runtime(app) as rt:
        await rt._engine.recover_workflows()
        assert looks == [0, 1]
        assert (await rt.workflow(forgotten.workflow_id).get(timeout=10)).unwrap_err().code == "WORKFLOW_FAILED"
        monkeypatch.setattr("horsies._workflow.advance.advancer.SELDOM", 60.0)
        for _ in range(3):
            await rt._engine.recover_workflows()
        assert looks == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("how", ["declared", "started by hand", "run here"])
async def test_who_has_workflows_looks_each_time(config: AppConfig, looks: list[int], how: str) -> None:
    app = Horsies(config)
    app.include(number)
    if how == "declared":
        app.workflow("flow")(lambda wf: wf.task(number.node(1)))
    async with Runtime(app) as rt:
        if how == "started by hand":
            wf = WorkflowBuilder("by hand")
            wf.task(number.node(1))
            (await rt.start(wf.build())).unwrap()
        if how == "run here":
            await rt._engine.workflows.start(by_hand(rt, app))
            await rt.run_worker(UNTIL_IDLE)
        looks.clear()
        for _ in range(3):
            await rt._engine.recover_workflows()
    assert looks == [0, 0, 0]


def by_hand(rt: Runtime, app: Horsies) -> NewWorkflow:
    """A workflow of one node, as it is stored."""
    wf = WorkflowBuilder("by hand")
    wf.task(number.node(1))
    return begun(rt._engine, resolve(wf.build(), app), new_task_id())


@task("over time.number")
async def number(n: int) -> int:
    return n


@task("over time.add")
async def add(a: int, b: int) -> int:
    return a + b


@task("over time.later")
async def later(n: int) -> int:
    return n * 100


def first_release(wf: WorkflowBuilder, n: int) -> NodeRef[int]:
    return wf.task(add.node(wf.task(number.node(n)), wf.task(number.node(1))))


def second_release(wf: WorkflowBuilder, n: int) -> NodeRef[int]:
    return wf.task(later.node(wf.task(number.node(n))))


def release(config: AppConfig, version: int, build: Callable[[WorkflowBuilder, int], NodeRef[int]]) -> Horsies:
    recovery = RecoveryConfig(heartbeat_interval=0.25, dead_after=2.0, reap_interval=0.25, resolution_grace=0.1)
    app = Horsies(replace(config, recovery=recovery))
    for one in (number, add, later):
        app.include(one)
    app.workflow("flow", version=version)(build)
    return app


async def test_what_runs_ends_as_it_was_defined(config: AppConfig) -> None:
    old, new = release(config, 1, first_release), release(config, 2, second_release)
    workflow_id = new_task_id()
    with anyio.fail_after(60):
        async with Runtime(old) as rt:
            begun_before = (await old.workflows["flow"].handle(rt).start(5)).unwrap()
            half = (await old.workflows["flow"].handle(rt).with_id(workflow_id).start(6)).unwrap()
            assert await half.pause() == Ok(True)
        async with Runtime(new) as rt:
            rt.start_worker()
            run = rt.workflow(begun_before.workflow_id)
            assert await run.get() == Ok(6)
            info = (await run.info()).unwrap()
            assert info is not None
            assert (info.version, info.status) == (1, WorkflowStatus.COMPLETED)
            assert [node.task_name for node in (await run.tasks()).unwrap()] == [number.name, number.name, add.name]
            paused = rt.workflow(workflow_id)
            assert await paused.resume() == Ok(True)
            assert await paused.get() == Ok(7)
            # The same call of another version is something else.
            again = await new.workflows["flow"].handle(rt).with_id(workflow_id).start(6)
            assert again.unwrap_err().code is TaskSendErrorCode.PAYLOAD_MISMATCH
            fresh = (await new.workflows["flow"].handle(rt).start(5)).unwrap()
            assert await fresh.get() == Ok(500)


async def test_a_release_that_lacks_a_task_fails_the_node_and_not_the_worker(config: AppConfig) -> None:
    old = release(config, 1, first_release)
    new = Horsies(old.config)
    new.include(number)
    with anyio.fail_after(60):
        async with Runtime(old) as rt:
            workflow_id = (await old.workflows["flow"].handle(rt).start(5)).unwrap().workflow_id
        async with Runtime(new) as rt:
            rt.start_worker()
            result = await rt.workflow(workflow_id).get()
            error = result.unwrap_err()
            assert error.code == "WORKFLOW_FAILED"
            assert "'over time.add-2' ended with WORKER_RESOLUTION_ERROR" in error.message


def spoilt(rt: Runtime, app: Horsies, **fields: Any) -> NewWorkflow:
    return changed(by_hand(rt, app), **fields)


async def test_what_nobody_can_read_holds_up_no_other(config: AppConfig, caplog: pytest.LogCaptureFixture) -> None:
    """In one batch with a hundred others; it is said once, shown, and found again by who can read it."""
    app = release(config, 1, first_release)
    caplog.set_level(logging.ERROR, "horsies.workflow")
    with anyio.fail_after(60):
        async with Runtime(app) as rt:
            sound = [(await app.workflows["flow"].handle(rt).start(n)).unwrap() for n in range(100)]
            poison = [
                spoilt(rt, app, spec=b"\xc1 no spec"),
                spoilt(rt, app, spec=spoilt(rt, app).spec.replace(b"\x92\x01", b"\x92\x63", 1)),
                spoilt(rt, app, state=b"\xc1 no state"),
            ]
            for new in poison:
                await rt._engine.workflows.start(new)
            await rt.run_worker(UNTIL_IDLE)
            assert [await run.get() for run in sound] == [Ok(n + 1) for n in range(100)]
            said = caplog.text
            for new in poison:
                assert said.count(f"workflow {new.workflow_id} is left as it is") == 1
                row = await rt._engine.workflows.read(new.workflow_id)
                assert row is not None
                assert (row.status, row.state) == ("RUNNING", new.state)
                assert row.problem is not None
                # Whoever wants something of it hears why that cannot be.
                error = (await rt.workflow(new.workflow_id).cancel()).unwrap_err()
                assert "cannot go on" in error.message
            found = (await rt.list_workflows(3)).unwrap()
            assert [info.problem is not None for info in found] == [True] * 3
            await rt._engine.recover_workflows()
            await rt.settle_workflows()
            assert caplog.text == said
