"""Where workflows stand, and following up the ends of their tasks."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime

from horsies.abc import (
    BrokerError,
    Decide,
    EndedTask,
    Enqueued,
    EnqueueOutcome,
    News,
    NewTask,
    NewWorkflow,
    Signal,
    Step,
    TaskStatus,
    Topic,
    WorkflowRow,
    WorkflowSummary,
)

from .control import cancel_one
from .producer import enqueue_one, is_id
from .queries import named_queries
from .session import Row, Session, Transaction, in_utc, instant, microseconds


class _UndecidedError(Exception):
    """What `decide` raised, on its way out of what would take it for a failure of the database."""

    def __init__(self, why: Exception) -> None:
        super().__init__(why)
        self.why = why


class SqliteWorkflows:
    """See `horsies.abc.Workflows`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._sql = named_queries()

    async def start(
        self, new: NewWorkflow, *, connection: object | None = None, now: datetime | None = None
    ) -> Enqueued:
        """See `horsies.abc.Workflows.start`."""
        if connection is not None:
            raise ValueError("this broker takes no part in transactions of the application")
        if not is_id(new.workflow_id):
            raise BrokerError("start a workflow: its id is not a UUID in lower-case canonical form")

        def work(transaction: Transaction) -> EnqueueOutcome:
            if self._begin(transaction, new):
                return EnqueueOutcome.INSERTED
            ((_, sha, *_),) = transaction.fetch(self._sql["workflow"], {"id": new.workflow_id})
            return EnqueueOutcome.REPLAYED if sha == new.sha else EnqueueOutcome.MISMATCH

        return Enqueued(await self._session.write("start a workflow", work, now=now), new.workflow_id)

    async def read(self, workflow_id: str) -> WorkflowRow | None:
        """See `horsies.abc.Workflows.read`."""
        rows = await self._session.read(
            "read a workflow", lambda transaction: transaction.fetch(self._sql["workflow"], {"id": workflow_id})
        )
        return _workflow_row(rows[0]) if rows else None

    async def newest(
        self,
        limit: int,
        *,
        name: str | None = None,
        statuses: Collection[str] | None = None,
        before: tuple[datetime, str] | None = None,
    ) -> list[WorkflowSummary]:
        """See `horsies.abc.Workflows.newest`."""
        given = {
            "limit": limit,
            "name": name,
            "statuses": None if statuses is None else json.dumps(sorted(statuses)),
            "before": None if before is None else microseconds(before[0]),
            "before_id": None if before is None else before[1],
        }
        rows = await self._session.read(
            "list workflows", lambda transaction: transaction.fetch(self._sql["workflows"], given)
        )
        return [_summary(*row) for row in rows]

    async def tasks(self, workflow_id: str) -> list[tuple[str, TaskStatus, str | None]]:
        """See `horsies.abc.Workflows.tasks`."""
        rows = await self._session.read(
            "read the tasks of a workflow",
            lambda transaction: transaction.fetch(self._sql["tasks_of"], {"id": workflow_id}),
        )
        return [(task_id, TaskStatus(status), error_code) for task_id, status, error_code in rows]

    async def advance(self, workflow_ids: Sequence[str], decide: Decide, *, now: datetime | None = None) -> list[Step]:
        """See `horsies.abc.Workflows.advance`."""

        def work(transaction: Transaction) -> list[Step]:
            news = {}
            signals: dict[str, list[Row]] = {}
            for workflow_id in sorted(set(workflow_ids)):
                for row in transaction.fetch(self._sql["workflow"], {"id": workflow_id}):
                    ended = transaction.fetch(self._sql["marked_ends"], {"id": workflow_id})
                    told = signals[workflow_id] = transaction.fetch(self._sql["signals"], {"id": workflow_id})
                    news[workflow_id] = _news(row, ended, told, transaction.now)
            try:
                steps = list(decide(list(news.values())))
            except Exception as error:
                raise _UndecidedError(error) from None
            for step in steps:
                self._write(transaction, step, news[step.workflow_id], signals[step.workflow_id])
            self._enqueue(transaction, [task for step in steps for task in step.tasks])
            for part in [part for step in steps for part in step.parts]:
                self._begin(transaction, part)
            # Only now: one of them may be among these.
            for task_id in [task_id for step in steps for task_id in step.cancel]:
                cancel_one(self._sql, transaction, task_id)
            for signal in [signal for step in steps for signal in step.signals]:
                self._tell(transaction, signal)
            return steps

        try:
            return await self._session.write("advance workflows", work, now=now)
        except _UndecidedError as undecided:
            raise undecided.why from None

    async def unadvanced(self, limit: int, *, skipping: Collection[str] = (), now: datetime | None = None) -> list[str]:
        """See `horsies.abc.Workflows.unadvanced`."""

        def work(transaction: Transaction) -> list[Row]:
            given = {"limit": limit, "skipped": json.dumps(list(skipping)), "now": transaction.now}
            return transaction.fetch(self._sql["unadvanced"], given)

        rows = await self._session.read("look for workflows to advance", work, now=now)
        return [workflow_id for (workflow_id,) in rows]

    async def note_problem(self, workflow_id: str, problem: str) -> None:
        """See `horsies.abc.Workflows.note_problem`."""
        given = {"id": workflow_id, "problem": problem}
        await self._session.write(
            "note what is wrong with a workflow",
            lambda transaction: transaction.fetch(self._sql["note_problem"], given),
        )

    def _begin(self, transaction: Transaction, new: NewWorkflow) -> bool:
        """Put it in with its tasks and parts, if its id is free; whether it is."""
        given = {
            "id": new.workflow_id,
            "sha": new.sha,
            "name": new.name,
            "version": new.version,
            "spec": new.spec,
            "state": new.state,
            "status": new.status,
            "sent_at": microseconds(new.sent_at),
            "parent_id": new.parent_id,
            "root_id": new.root_id,
            "good_until": None if new.good_until is None else microseconds(new.good_until),
            "now": transaction.now,
        }
        if not transaction.fetch(self._sql["start_workflow"], given):
            return False
        self._enqueue(transaction, new.tasks)
        for part in new.parts:
            self._begin(transaction, part)
        return True

    def _write(self, transaction: Transaction, step: Step, news: News, signals: Sequence[Row]) -> None:
        given = {
            "id": step.workflow_id,
            "state": step.state,
            "status": step.status,
            "error_code": step.error_code,
            "now": transaction.now,
        }
        ((finished_at,),) = transaction.fetch(self._sql["step"], given)
        if news.row.finished_at is None and finished_at is not None:
            transaction.notify(Topic.FINISHED, step.workflow_id)
        for end in news.ended:
            transaction.fetch(self._sql["advanced"], {"id": end.task_id})
        for number, _ in signals:
            transaction.fetch(self._sql["taken"], {"id": number})

    def _tell(self, transaction: Transaction, signal: Signal) -> None:
        transaction.fetch(self._sql["signal"], {"id": signal.workflow_id, "data": signal.data})

    def _enqueue(self, transaction: Transaction, tasks: Sequence[NewTask]) -> None:
        if not all(is_id(task.task_id) for task in tasks):
            raise BrokerError("enqueue: a task id is not a UUID in lower-case canonical form")
        for task in tasks:
            enqueue_one(self._sql, transaction, task)


def _news(row: Row, ended: Sequence[Row], signals: Sequence[Row], now: int) -> News:
    workflow = _workflow_row(row)
    ends = tuple(
        EndedTask(task_id, TaskStatus(status), error_code, result) for task_id, status, error_code, result in ended
    )
    is_overdue = (
        workflow.finished_at is None and workflow.good_until is not None and workflow.good_until <= instant(now)
    )
    return News(workflow, ends, tuple(data for _, data in signals), is_overdue)


def _summary(
    workflow_id: str,
    name: str,
    version: int,
    status: str,
    sent_at: int,
    finished_at: int | None,
    error_code: str | None,
    good_until: int | None,
    problem: str | None,
) -> WorkflowSummary:
    sent, finished, deadline = instant(sent_at), in_utc(finished_at), in_utc(good_until)
    return WorkflowSummary(workflow_id, name, version, status, sent, finished, error_code, deadline, problem)


def _workflow_row(row: Row) -> WorkflowRow:
    workflow_id, sha, name, version, spec, state, status, sent_at, finished_at, *others = row
    error_code, parent_id, root_id, good_until, problem = others
    return WorkflowRow(
        workflow_id,
        sha,
        name,
        version,
        spec,
        state,
        status,
        instant(sent_at),
        in_utc(finished_at),
        error_code,
        parent_id,
        root_id,
        in_utc(good_until),
        problem,
    )
