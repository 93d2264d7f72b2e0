"""Workflows of any shape on real brokers, in any order of events, with crashes in between: they all end as they should.

What a worker does is done here step by step, so that what comes next is chosen: which tasks are claimed, which of them
ends, whether what follows is written with that end or only found later, who dies with what in hand, and who pauses,
resumes or cancels meanwhile. HORSIES_DEEP=1 tries more.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import anyio
import pytest
from flows import DEPTH, Flow, Flowing, FlowNode, expected, flows, may_lose
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from horsies import AppConfig, NodeStatus, Ok, Runtime, TaskContext, WorkflowHandle, WorkflowStatus
from horsies._core.result import Err
from horsies._worker.execution.inputs import fetch_inputs
from horsies._worker.execution.invoke import cancelled, run_async
from horsies._worker.execution.job import Job, conclude, prepare
from horsies._workflow.advance import engine
from horsies._workflow.advance.advancer import Following
from horsies.abc import Consumer, Start, StartOutcome
from horsies.testing._conformance.stage import bury

DEEP = os.environ.get("HORSIES_DEEP") == "1"
pytestmark = pytest.mark.timeout(1800 if DEEP else 120)


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes are cancelled at a time, and a row comes with so little of its spec that the rest is read in pieces."""
    monkeypatch.setattr(engine, "PORTION", 2)
    for place in ("_workflow.advance.stored_workflow", "plugins.postgres.workflows", "plugins.postgres.completion"):
        monkeypatch.setattr(f"horsies.{place}.HEAD", 64)
    for place in ("workflows", "workflow_steps"):
        monkeypatch.setattr(f"horsies.plugins.sqlite.{place}.HEAD", 64)


Action = tuple[str, int]
actions = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "claim",
                "claim",
                "claim",
                "end",
                "end",
                "end",
                "end",
                "end and die",
                "recover",
                "crash",
                "pause",
                "resume",
            ]
        ),
        st.integers(0, 20),
    ),
    max_size=40,
)


class Play:
    """One workflow, and a worker whose every step is a choice."""

    def __init__(self, rt: Runtime, run: WorkflowHandle[Any], stack: AsyncExitStack) -> None:
        self._rt = rt
        self._engine = rt._engine
        self.run = run
        self._stack = stack
        self._held: list[Job] = []
        # The start goes by the database's clock; everything here is later.
        self._now = rt.environment.clock() + timedelta(days=1)
        self._workers = 0
        self._worker: Consumer
        self.ran: Counter[tuple[str, int]] = Counter()
        """How often user code ran, by task and attempt."""

    async def hire(self) -> None:
        """Another worker takes the place of this one."""
        self._workers += 1
        self._worker = await self._stack.enter_async_context(
            self._engine.broker.consumer(f"w{self._workers}", [("default", 1)])
        )
        await self._worker.join(now=self._now)

    async def act(self, name: str, number: int) -> None:
        match name:
            case "claim":
                await self._claim(1 + number % 4)
            case "end" | "end and die":
                if self._held:
                    await self._end(self._held.pop(number % len(self._held)), is_followed=name == "end")
            case "recover":
                await self._recover(1 + number)
            case "crash":
                await self._crash()
            case "pause":
                assert isinstance(await self.run.pause(), Ok)
            case "resume":
                assert isinstance(await self.run.resume(rerun_failed=False), Ok)
            case "cancel":
                assert isinstance(await self.run.cancel(), Ok)
        if number % 2:
            await self._check_inside()

    async def _check_inside(self) -> None:
        """Once everything has been told, nothing inside runs that should not."""
        status = (await self.run.status()).unwrap()
        while status is not WorkflowStatus.RUNNING and await self._recover(50):
            pass
        await self._rt.settle_workflows()
        unwanted = {
            WorkflowStatus.PAUSED: {WorkflowStatus.RUNNING},
            WorkflowStatus.CANCELLED: {WorkflowStatus.RUNNING, WorkflowStatus.PAUSED},
        }
        assert status is not None
        found = [one async for one in statuses_inside(self.run, self._rt)]
        assert not unwanted.get(status, set()) & set(found), f"it is {status}, and inside there are {found}"

    async def finish(self) -> None:
        """Do whatever there is to do until nothing is left; that has to come to an end."""
        for _ in range(2_000):
            await self.run.resume()
            self._now += timedelta(seconds=100)
            await self._worker.beat(now=self._now)
            await self._worker.promote(100, now=self._now)
            await self._claim(50)
            for job in self._held:
                await self._end(job, is_followed=True)
            self._held.clear()
            is_idle = not await self._recover(50) and not await self._worker.has_due(now=self._now)
            if is_idle and (await self.run.status()).unwrap() not in (WorkflowStatus.RUNNING, WorkflowStatus.PAUSED):
                return
        raise AssertionError("it does not come to an end")

    async def _claim(self, limit: int) -> None:
        for claimed in (await self._worker.claim(limit, now=self._now)).tasks:
            job = prepare(self._engine, claimed)
            assert isinstance(job, Job)
            (outcome,) = await self._worker.start([Start(claimed.lease, job.retry_after_crash)], now=self._now)
            # The runtime follows up a cancellation meanwhile.
            if outcome is StartOutcome.STARTED:
                self._held.append(job)

    async def _end(self, job: Job, *, is_followed: bool) -> None:
        """Run a task and write its end, and what follows with it, or nothing more, as who dies just then."""
        if job.task.signature.takes_context:
            job.context = self._context(job)
        row = await self._engine.read(job.claimed.lease.task_id)
        assert row is not None
        wrong: Ok[Any] | Err[Any] | None = cancelled() if row.cancel_requested else None
        wrong = wrong or await fetch_inputs(self._engine, job)
        if wrong is None:
            self.ran[job.claimed.lease.task_id, job.claimed.attempt] += 1
        end, _ = conclude(self._engine, job, wrong or await run_async(job))
        decide = self._following().decide if is_followed else None
        assert await self._worker.finish([end], decide=decide, now=self._now) == [True]

    def _following(self) -> Following:
        return self._engine.following()

    async def _recover(self, limit: int) -> int:
        store = self._engine.workflows
        found = await store.unadvanced(limit, now=self._now)
        await store.advance(found, self._following().decide, now=self._now)
        return len(found)

    async def _crash(self) -> None:
        """The worker is gone with all it held; it is found to be, and what it held is tried again."""
        self._held.clear()
        self._now += timedelta(hours=1)
        await self.hire()
        while await bury(self._engine.broker, self._rt.app.config.recovery, now=self._now):
            pass
        self._now += timedelta(seconds=100)
        await self._worker.beat(now=self._now)
        await self._worker.promote(100, now=self._now)

    def _context(self, job: Job) -> TaskContext:
        claimed = job.claimed
        return TaskContext(
            task_id=claimed.lease.task_id,
            task_name=claimed.task_name,
            queue=claimed.queue,
            attempt=claimed.attempt + 1,
            sent_at=job.envelope.sent_at,
            good_until=None,
            worker_id="w",
            metadata=MappingProxyType({}),
            runtime=self._engine,
            state=None,
        )


async def played(config: AppConfig, flow: Flow, history: Sequence[Action], check: Callable[[Play], Any]) -> None:
    flowing = Flowing(config)
    async with Runtime(flowing.app) as rt, AsyncExitStack() as stack:
        run = (await flowing.workflows[0].handle(rt).start(flow)).unwrap()
        play = Play(rt, run, stack)
        await play.hire()
        for action in history:
            await play.act(*action)
        await play.finish()
        assert await rt._engine.workflows.unadvanced(10) == []
        assert set(play.ran.values()) <= {1}, "user code ran twice in one attempt"
        await check(play)


async def ends_as_expected(flow: Flow, run: WorkflowHandle[Any], rt: Runtime) -> None:
    """Of the whole, its nodes, and the workflows inside, but for what chance may decide."""
    wanted = expected(flow)
    assert (await run.status()).unwrap() is wanted.status
    nodes = {node.node_id: node for node in (await run.tasks()).unwrap()}
    results = (await run.results()).unwrap()
    for index, (node, status) in enumerate(zip(flow.nodes, wanted.nodes, strict=True)):
        found = nodes[f"n{index}"]
        assert found.status.is_terminal
        if may_lose(flow, index):
            continue
        assert found.status is status, f"node {index} of {flow}"
        assert isinstance(results[f"n{index}"], Ok) is (status is NodeStatus.COMPLETED)
        if node.kind == "map" and status is NodeStatus.COMPLETED:
            assert results[f"n{index}"] == Ok([1] * len(node.items))
        if node.flow is not None and found.workflow_id is not None:
            await ends_as_expected(node.flow, rt.workflow(found.workflow_id), rt)


async def statuses_inside(run: WorkflowHandle[Any], rt: Runtime) -> AsyncIterator[WorkflowStatus]:
    for node in (await run.tasks()).unwrap():
        if node.workflow_id is not None:
            part = rt.workflow(node.workflow_id)
            status = (await part.status()).unwrap()
            if status is not None:
                yield status
                async for one in statuses_inside(part, rt):
                    yield one


def leaf(is_good: bool = True, *needs: int, **fields: Any) -> FlowNode:
    return FlowNode("task", needs, is_good=is_good, **fields)


THREE_DEEP = Flow(
    (
        FlowNode(
            "late", (), flow=Flow((FlowNode("part", (), flow=Flow((FlowNode("map", (), items=(True, False)),))),))
        ),
        leaf(True, 0, allow_failed=True),
    )
)
RACE = Flow(
    (
        FlowNode("late", (), flow=Flow((leaf(), leaf(True, 0)))),
        FlowNode("map", (), items=(True, True)),
        leaf(True, 0, 1, join=1, cancel_losers=True),
    )
)


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_whatever_happens_it_ends_as_it_should_on_sqlite(loop: str) -> None:
    everything_ends_as_it_should(lambda: AppConfig.for_database_url("sqlite://:memory:"), loop, 60)


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_whatever_happens_it_ends_as_it_should_on_postgres(postgres_url: str, schema: str, loop: str) -> None:
    """In one schema: what earlier examples have left behind is all over."""
    everything_ends_as_it_should(lambda: AppConfig(url=postgres_url, schema=schema), loop, 20)


def everything_ends_as_it_should(config: Callable[[], AppConfig], loop: str, tries: int) -> None:
    @settings(
        max_examples=tries * (20 if DEEP else 1),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(flows(), actions)
    @example(THREE_DEEP, [])
    @example(THREE_DEEP, [("claim", 3), ("end and die", 0), ("pause", 0), ("crash", 0), ("recover", 3), ("resume", 0)])
    @example(RACE, [("claim", 3), ("end", 0), ("end", 0), ("claim", 3), ("end", 0), ("crash", 0)])
    def play(flow: Flow, history: list[Action]) -> None:
        async def check(play: Play) -> None:
            await ends_as_expected(flow, play.run, play._rt)

        event(expected(flow).status)
        anyio.run(played, config(), flow, history, check, backend=loop)

    play()


def test_whoever_cancels_ends_all_of_it() -> None:
    @settings(max_examples=40 * (20 if DEEP else 1), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(flows(), actions, actions)
    @example(THREE_DEEP, [("claim", 3), ("end", 0), ("claim", 3), ("end", 0), ("claim", 3)], [("end", 0)])
    def play(flow: Flow, before: list[Action], after: list[Action]) -> None:
        async def check(play: Play) -> None:
            status = (await play.run.status()).unwrap()
            assert status in (WorkflowStatus.CANCELLED, expected(flow).status)
            await is_over(play.run, play._rt, DEPTH)

        config = AppConfig.for_database_url("sqlite://:memory:")
        anyio.run(played, config, flow, [*before, ("cancel", 1), *after], check, backend="trio")

    play()


async def is_over(run: WorkflowHandle[Any], rt: Runtime, depth: int) -> None:
    """It has ended, and so has everything inside."""
    assert (await run.status()).unwrap() not in (WorkflowStatus.RUNNING, WorkflowStatus.PAUSED)
    for node in (await run.tasks()).unwrap():
        assert node.status.is_terminal, f"{node} has not ended"
        if node.workflow_id is not None and depth:
            part = rt.workflow(node.workflow_id)
            if (await part.status()).unwrap() is not None:
                await is_over(part, rt, depth - 1)


def test_the_model_knows_what_the_rules_say() -> None:
    assert expected(THREE_DEEP).nodes == [NodeStatus.FAILED, NodeStatus.COMPLETED]
    assert expected(RACE).status is WorkflowStatus.COMPLETED
