"""Where workflows stand: their start, the marks that the ends of their tasks leave, and their removal."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, timedelta, timezone
from typing import Any, TypeAlias
from uuid import UUID

import anyio
import pytest
from msgspec.structs import replace

from horsies import abc
from horsies.abc import (
    HEAD,
    Broker,
    BrokerError,
    Enqueued,
    EnqueueOutcome,
    News,
    NewTask,
    NewWorkflow,
    Start,
    StartOutcome,
    Step,
    TaskStatus,
    Topic,
    WorkflowRow,
    Workflows,
    WorkflowSummary,
)

from .stage import Stage, at, done, heard, ids, new_task

DAY = timedelta(days=1)
Given: TypeAlias = Sequence[News]


def workflow_id(n: int) -> str:
    return str(UUID(int=1000 + n))


FIRST, SECOND = workflow_id(1), workflow_id(2)


def task_id(n: int) -> str:
    return str(UUID(int=n))


def node(n: int, *, of: str = FIRST, **fields: Any) -> NewTask:
    """The n-th task, of a workflow."""
    return new_task(n, workflow_id=of, **fields)


def begins(workflow_id: str = FIRST, *tasks: NewTask, **fields: Any) -> NewWorkflow:
    """A workflow that starts with `tasks`; its spec and its state are any bytes."""
    sha = hashlib.sha256(workflow_id.encode()).digest()
    new = NewWorkflow(workflow_id, sha, "order", 3, b"\0spec", b"\0state", "RUNNING", at(0), tasks)
    return replace(new, **fields)


def goes_on(workflow_id: str = FIRST, *tasks: NewTask, **fields: Any) -> Step:
    return replace(Step(workflow_id, b"\0later", "RUNNING", None, tasks), **fields)


class Deciding:
    """What `decide` was given, and what it answers."""

    def __init__(self, *steps: Step) -> None:
        self._steps = steps
        self.given: list[list[News]] = []

    def __call__(self, given: Given) -> Sequence[Step]:
        self.given.append(list(given))
        return self._steps

    @property
    def ends(self) -> dict[str, list[tuple[int, TaskStatus, str | None]]]:
        """The ends that it was given at its only call, by the workflow's id."""
        (given,) = self.given
        return {
            news.row.workflow_id: [(UUID(end.task_id).int, end.status, end.error_code) for end in news.ended]
            for news in given
        }


def noting(given: Given) -> list[Step]:
    """Each end adds its task's number to the state; that is all that follows."""
    return [
        Step(
            news.row.workflow_id,
            news.row.state + bytes(UUID(end.task_id).int for end in news.ended),
            news.row.status,
        )
        for news in given
    ]


async def ended(stage: Stage, workflows: Workflows, workflow_id: str, numbers: Sequence[int]) -> WorkflowRow:
    """A workflow whose first tasks have ended, in this order, and nobody has followed that up."""
    await workflows.start(begins(workflow_id, *(node(n, of=workflow_id) for n in numbers)), now=at(0))
    worker = await stage.worker()
    leases = {task.lease.task_id: task.lease for task in (await worker.claim(len(numbers), now=at(0))).tasks}
    await worker.start([Start(lease) for lease in leases.values()], now=at(0))
    for n in numbers:
        await worker.finish([done(leases[task_id(n)])], now=at(n))
    row = await workflows.read(workflow_id)
    assert row is not None
    return row


async def left(stage: Stage, workflows: Workflows) -> tuple[list[int], list[str]]:
    """Which of the tasks 1 to 20 are there, and which of the two workflows."""
    found = await stage.broker.reader.results([task_id(n) for n in range(1, 21)])
    rows = [await workflows.read(id_) for id_ in (FIRST, SECOND)]
    return sorted(UUID(stored.task_id).int for stored in found), [row.workflow_id for row in rows if row]


class Flowing:
    """Where workflows stand: their start, the marks that the ends of their tasks leave, and their removal."""

    @pytest.fixture
    def workflows(self, broker: Broker) -> Workflows:
        assert isinstance(broker, abc.Workflowing)
        return broker.workflows

    async def test_a_workflow_comes_back_as_it_began(self, workflows: Workflows) -> None:
        elsewhere = at(1).astimezone(timezone(timedelta(hours=-3, minutes=-30)))
        new = begins(name="it's 100% \\ %s :x {schema} Ü", spec=bytes(range(256)), state=b"", sent_at=elsewhere)
        assert await workflows.start(new, now=at(2)) == Enqueued(EnqueueOutcome.INSERTED, FIRST)
        row = await workflows.read(FIRST)
        assert row == WorkflowRow(FIRST, new.sha, new.name, 3, new.spec, b"", "RUNNING", at(1), None, None)
        assert row.sent_at.tzinfo is UTC
        assert await workflows.tasks(FIRST) == []

    @pytest.mark.parametrize("unknown", [SECOND, "nonsense"])
    async def test_what_is_not_there_is_no_workflow(self, workflows: Workflows, unknown: str) -> None:
        await workflows.start(begins(), now=at(0))
        deciding = Deciding()
        assert await workflows.read(unknown) is None
        assert await workflows.tasks(unknown) == []
        assert await workflows.read_standing(unknown) is None
        assert await workflows.read_spec(unknown, [(0, 1)]) == ()
        assert await workflows.running(unknown) == []
        assert await workflows.advance([unknown], deciding, now=at(0)) == []
        assert deciding.given == [[]]
        assert await workflows.unadvanced(5, skipping=[unknown]) == []

    async def test_large_spec_is_read_in_ranges(self, workflows: Workflows) -> None:
        spec = bytes(range(251)) * (HEAD // 100)
        await workflows.start(begins(spec=spec, parent_id=None), now=at(2))
        await workflows.start(begins(SECOND), now=at(2))
        row = await workflows.read(FIRST)
        assert row is not None
        assert row.spec == spec[:HEAD]
        ranges = [(HEAD - 1, 300), (0, 1), (len(spec) - 3, 2**30)]
        assert await workflows.read_spec(FIRST, ranges) == tuple(
            sorted((start, spec[start : start + length]) for start, length in ranges)
        )
        assert await workflows.read_spec(FIRST, []) == ()
        assert await workflows.read_spec(SECOND, [(1, 2)]) == ((1, b"sp"),)

    async def test_standing_is_read_without_the_spec(self, stage: Stage, workflows: Workflows) -> None:
        await ended(stage, workflows, FIRST, (1,))
        await workflows.start(begins(SECOND, good_until=at(99)), now=at(0))
        step = goes_on(SECOND, status="FAILED", error_code="BROKEN")
        await workflows.advance([SECOND], Deciding(step), now=at(7))
        await workflows.note_problem(FIRST, "stuck")
        assert await workflows.read_standing(FIRST) == WorkflowSummary(
            FIRST, "order", 3, "RUNNING", at(0), None, None, good_until=None, problem="stuck"
        )
        assert await workflows.read_standing(SECOND) == WorkflowSummary(
            SECOND, "order", 3, "FAILED", at(0), at(7), "BROKEN", good_until=at(99), problem=None
        )

    async def test_running_tasks_are_named(self, stage: Stage, workflows: Workflows) -> None:
        await workflows.start(begins(FIRST, node(1), node(2), node(3)), now=at(0))
        await workflows.start(begins(SECOND, node(4, of=SECOND)), now=at(0))
        worker = await stage.worker()
        leases = {UUID(task.lease.task_id).int: task.lease for task in (await worker.claim(4, now=at(0))).tasks}
        assert await workflows.running(FIRST) == []
        await worker.start([Start(leases[n]) for n in (1, 2, 4)], now=at(0))
        await worker.finish([done(leases[1])], now=at(1))
        assert await workflows.running(FIRST) == [task_id(2)]

    async def test_it_starts_with_its_first_tasks(self, stage: Stage, workflows: Workflows) -> None:
        with anyio.fail_after(10):
            async with stage.broker.listen(Topic.WORK) as work:
                await workflows.start(begins(FIRST, node(1), node(2, queue="slow", due_in=2.5)), now=at(1))
                assert await heard(work, {"ready:fast", "delayed:slow"})
        await stage.send(new_task(3))
        await workflows.start(begins(SECOND, node(4, of=SECOND)), now=at(1))
        tasks = sorted(await workflows.tasks(FIRST))
        assert tasks == [(task_id(n), TaskStatus.PENDING, None) for n in (1, 2)]
        assert [(await stage.row(n)).due_at for n in (1, 2)] == [at(1), at(3.5)]

    async def test_a_start_is_replayed(self, stage: Stage, workflows: Workflows) -> None:
        await workflows.start(begins(FIRST, node(1)), now=at(1))
        await workflows.advance([FIRST], Deciding(goes_on()), now=at(2))
        before = await workflows.read(FIRST)
        again = begins(FIRST, node(2), state=b"other", name="other")
        assert await workflows.start(again, now=at(3)) == Enqueued(EnqueueOutcome.REPLAYED, FIRST)
        another = replace(again, sha=b"\1" * 32)
        assert await workflows.start(another, now=at(3)) == Enqueued(EnqueueOutcome.MISMATCH, FIRST)
        assert await workflows.read(FIRST) == before
        assert await workflows.tasks(FIRST) == [(task_id(1), TaskStatus.PENDING, None)]

    async def test_of_many_who_start_one_at_once_one_does(self, stage: Stage, workflows: Workflows) -> None:
        answers: list[EnqueueOutcome] = []

        async def start(n: int) -> None:
            answers.append((await workflows.start(begins(FIRST, node(n)), now=at(1))).outcome)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for n in range(1, 11):
                    group.start_soon(start, n)
        assert sorted(answers) == [EnqueueOutcome.INSERTED] + [EnqueueOutcome.REPLAYED] * 9
        assert len(await workflows.tasks(FIRST)) == 1

    @pytest.mark.parametrize(
        "new",
        [
            begins("nonsense", node(1)),
            begins(FIRST, node(1), node(2, task_id="nonsense")),
            begins(FIRST, node(1), status="OTHER"),
        ],
    )
    async def test_a_start_is_written_as_a_whole_or_not(
        self, stage: Stage, workflows: Workflows, new: NewWorkflow
    ) -> None:
        with pytest.raises(BrokerError) as raised:
            await workflows.start(new, now=at(1))
        assert not raised.value.retryable
        assert await workflows.read(FIRST) is None
        assert await stage.broker.reader.results([task_id(1)]) == []

    @pytest.mark.parametrize(
        "way", ["finished", "failed", "refused", "cancelled", "cancelled while held", "expired", "expired at its start"]
    )
    async def test_every_end_leaves_a_mark(self, stage: Stage, workflows: Workflows, way: str) -> None:
        deadline = at(5) if "expired" in way else None
        await workflows.start(begins(FIRST, node(1, good_until=deadline)), now=at(0))
        await stage.send(new_task(2, due_in=3600.0))
        worker = await stage.worker()
        match way:
            case "finished" | "failed" | "refused":
                (claimed,) = (await worker.claim(1, now=at(1))).tasks
                if way != "refused":
                    await worker.start([Start(claimed.lease)], now=at(1))
                status = TaskStatus.COMPLETED if way == "finished" else TaskStatus.FAILED
                assert await worker.finish([done(claimed.lease, status, has_begun=way != "refused")], now=at(2)) == [
                    True
                ]
                end = (1, status, None if way == "finished" else "A_CODE")
            case "cancelled" | "cancelled while held":
                if way == "cancelled while held":
                    await worker.claim(1, now=at(1))
                await stage.broker.control.cancel([task_id(1)], now=at(2))
                end = (1, TaskStatus.CANCELLED, None)
            case "expired":
                assert await stage.maintenance.expire(5, now=at(5)) == 1
                end = (1, TaskStatus.EXPIRED, None)
            case _:
                (claimed,) = (await worker.claim(1, now=at(1))).tasks
                assert await worker.start([Start(claimed.lease)], now=at(5)) == [StartOutcome.EXPIRED]
                end = (1, TaskStatus.EXPIRED, None)
        assert await workflows.unadvanced(5) == [FIRST]
        deciding = Deciding(goes_on())
        await workflows.advance([FIRST], deciding, now=at(6))
        assert deciding.ends == {FIRST: [end]}
        assert await workflows.unadvanced(5) == []
        assert await workflows.tasks(FIRST) == [(task_id(1), *end[1:])]

    async def test_what_a_claim_sweeps_aside_leaves_a_mark(self, stage: Stage, workflows: Workflows) -> None:
        await workflows.start(begins(FIRST, node(1, good_until=at(5))), now=at(0))
        worker = await stage.worker()
        await worker.beat(now=at(6))
        assert (await worker.claim(1, now=at(6))).expired == 1
        assert await workflows.unadvanced(5) == [FIRST]

    @pytest.mark.parametrize("retries", [False, True])
    async def test_what_a_dead_worker_leaves_is_marked_unless_it_is_tried_again(
        self, stage: Stage, workflows: Workflows, retries: bool
    ) -> None:
        await workflows.start(begins(FIRST, node(1)), now=at(0))
        worker = await stage.worker()
        (claimed,) = (await worker.claim(1, now=at(0))).tasks
        await worker.start([Start(claimed.lease, 5.0 if retries else None)], now=at(0))
        assert await stage.reap(5, now=at(60)) == 1
        assert await workflows.unadvanced(5) == ([] if retries else [FIRST])
        deciding = Deciding(goes_on())
        await workflows.advance([FIRST], deciding, now=at(60))
        assert deciding.ends == {FIRST: [] if retries else [(1, TaskStatus.FAILED, "WORKER_CRASHED")]}

    async def test_only_the_last_attempt_leaves_a_mark(self, stage: Stage, workflows: Workflows) -> None:
        await workflows.start(begins(FIRST, node(1)), now=at(0))
        worker = await stage.worker()
        for n in range(3):
            assert await workflows.unadvanced(5) == []
            (claimed,) = (await worker.claim(1, now=at(n))).tasks
            await worker.start([Start(claimed.lease)], now=at(n))
            status = TaskStatus.COMPLETED if n == 2 else TaskStatus.PENDING
            assert await worker.finish([done(claimed.lease, status)], now=at(n)) == [True]
        await worker.leave()
        assert await workflows.unadvanced(5) == [FIRST]

    async def test_what_is_given_back_leaves_no_mark(self, stage: Stage, workflows: Workflows) -> None:
        await workflows.start(begins(FIRST, node(1), node(2)), now=at(0))
        worker = await stage.worker()
        assert len((await worker.claim(5, now=at(0))).tasks) == 2
        await worker.leave()
        assert await workflows.unadvanced(5) == []
        assert ids((await (await stage.worker("w2")).claim(5, now=at(0))).tasks) == [1, 2]

    async def test_plain_tasks_leave_no_mark(self, stage: Stage, workflows: Workflows) -> None:
        await workflows.start(begins(), now=at(0))
        worker = await stage.worker()
        await worker.finish([done(await stage.started(worker, new_task(1)))], now=at(1))
        await stage.send(new_task(2), new_task(3, good_until=at(5)))
        await stage.broker.control.cancel([task_id(2)], now=at(2))
        await stage.maintenance.expire(5, now=at(5))
        assert await workflows.unadvanced(5) == []
        deciding = Deciding()
        await workflows.advance([FIRST], deciding, now=at(6))
        assert deciding.ends == {FIRST: []}

    async def test_a_task_put_in_by_a_producer_belongs_as_well(self, stage: Stage, workflows: Workflows) -> None:
        await workflows.start(begins(), now=at(0))
        await stage.send(new_task(2), node(1))
        assert await workflows.tasks(FIRST) == [(task_id(1), TaskStatus.PENDING, None)]
        await stage.broker.control.cancel([task_id(1), task_id(2)], now=at(2))
        deciding = Deciding(goes_on())
        await workflows.advance([FIRST], deciding, now=at(3))
        assert deciding.ends == {FIRST: [(1, TaskStatus.CANCELLED, None)]}

    async def test_workflows_with_marked_ends_are_found_in_parts(self, stage: Stage, workflows: Workflows) -> None:
        for n in (3, 1, 2, 4):
            await workflows.start(begins(workflow_id(n), *(node(10 * n + k, of=workflow_id(n)) for k in range(2))))
        assert await workflows.unadvanced(5) == []
        await stage.broker.control.cancel([task_id(10 * n + k) for n in (2, 3, 1) for k in range(2)])
        assert await workflows.unadvanced(2) == [FIRST, SECOND]
        assert await workflows.unadvanced(5) == [FIRST, SECOND, workflow_id(3)]
        assert await workflows.unadvanced(2, skipping=[SECOND, "nonsense"]) == [FIRST, workflow_id(3)]

    async def test_what_a_workflow_needs_is_not_removed(self, stage: Stage, workflows: Workflows) -> None:
        """Its tasks stay until it too ended long ago, with it."""
        await ended(stage, workflows, FIRST, (1, 2))
        await ended(stage, workflows, SECOND, (3,))
        worker = await stage.worker()
        await worker.finish([done(await stage.started(worker, new_task(4)))], now=at(1))
        await workflows.advance([SECOND], Deciding(goes_on(SECOND, status="PAUSED")), now=at(2))
        late = at(10) + DAY
        assert await stage.maintenance.prune(10, finished_after=DAY, now=late) == 1
        assert await left(stage, workflows) == ([1, 2, 3], [FIRST, SECOND])
        await workflows.advance([FIRST], Deciding(goes_on(status="COMPLETED")), now=late)
        assert await stage.maintenance.prune(10, finished_after=DAY, now=late + DAY - timedelta(microseconds=1)) == 0
        assert await left(stage, workflows) == ([1, 2, 3], [FIRST, SECOND])
        assert await stage.maintenance.prune(10, finished_after=DAY, now=late + DAY) == 3
        assert await left(stage, workflows) == ([3], [SECOND])
        assert await stage.maintenance.prune(10, finished_after=DAY, now=late + DAY) == 0

    async def test_a_workflow_is_removed_after_its_last_task(self, stage: Stage, workflows: Workflows) -> None:
        await workflows.start(begins(FIRST, node(9, due_in=3600.0)), now=at(0))
        await ended(stage, workflows, SECOND, (1, 2))
        for n in (1, 2):
            await workflows.advance([workflow_id(n)], Deciding(goes_on(workflow_id(n), status="FAILED")), now=at(9))
        late = at(9) + DAY
        counts = [await stage.maintenance.prune(1, finished_after=DAY, now=late) for _ in range(4)]
        assert counts == [1, 1, 1, 0]
        assert await left(stage, workflows) == ([9], [FIRST])
        await stage.broker.control.cancel([task_id(9)], now=late)
        assert await stage.maintenance.prune(5, finished_after=DAY, now=late) == 0
        assert await stage.maintenance.prune(5, finished_after=DAY, now=late + DAY) == 2
        assert await left(stage, workflows) == ([], [])

    async def test_workflows_are_removed_the_oldest_first(self, stage: Stage, workflows: Workflows) -> None:
        for id_, ends_at in ((FIRST, 2), (SECOND, 1)):
            await workflows.start(begins(id_), now=at(0))
            await workflows.advance([id_], Deciding(goes_on(id_, status="COMPLETED")), now=at(ends_at))
        worker = await stage.worker()
        await worker.finish([done(await stage.started(worker, new_task(1)))], now=at(3))
        late = at(3) + DAY
        # One plain task, then workflows for what is left of the limit.
        assert await stage.maintenance.prune(2, finished_after=DAY, now=late) == 2
        assert await left(stage, workflows) == ([], [FIRST])
        assert await stage.maintenance.prune(2, finished_after=DAY, now=late) == 1
        assert await left(stage, workflows) == ([], [])

    async def test_the_newest_are_listed_in_portions(self, workflows: Workflows) -> None:
        ids = [workflow_id(n) for n in range(1, 8)]
        # Two are sent at once, and the id decides.
        for n, id_ in enumerate(ids):
            fields: dict[str, Any] = {"sent_at": at(5 if n == 4 else n), "name": "odd" if n % 2 else "even"}
            await workflows.start(begins(id_, **fields, good_until=at(99)), now=at(n))
        await workflows.advance(
            [ids[2], ids[3]],
            Deciding(goes_on(ids[2], status="FAILED", error_code="BROKEN"), goes_on(ids[3], status="PAUSED")),
            now=at(20),
        )
        await workflows.note_problem(ids[0], "stuck")
        await workflows.start(begins(workflow_id(9), sent_at=at(50), parent_id=ids[0], root_id=ids[0]), now=at(50))
        order = [ids[n] for n in (6, 5, 4, 3, 2, 1, 0)]
        seen, before = [], None
        for size in (3, 3, 1):
            page = await workflows.newest(3, before=before)
            assert len(page) == size
            seen += page
            before = (page[-1].sent_at, page[-1].workflow_id)
        assert await workflows.newest(3, before=before) == []
        assert [one.workflow_id for one in seen] == order
        assert seen[4] == WorkflowSummary(
            ids[2], "even", 3, "FAILED", at(2), at(20), "BROKEN", good_until=at(99), problem=None
        )
        assert (seen[6].problem, seen[3].status, seen[0].finished_at) == ("stuck", "PAUSED", None)
        assert [one.workflow_id for one in await workflows.newest(9, name="odd")] == [ids[n] for n in (5, 3, 1)]
        assert [one.workflow_id for one in await workflows.newest(9, statuses=["PAUSED", "FAILED"])] == order[3:5]
        both = await workflows.newest(9, name="odd", statuses=["RUNNING"], before=(at(5), ids[5]))
        assert [one.workflow_id for one in both] == [ids[1]]
        assert await workflows.newest(9, statuses=[]) == []
