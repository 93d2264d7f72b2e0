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
    NewTask,
    NewWorkflow,
    Step,
    TaskStatus,
    Topic,
    WorkflowRow,
)

from .control import cancel_one
from .producer import enqueue_one, is_id
from .queries import named_queries
from .session import Row, Session, Transaction, instant, microseconds


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

    async def start(self, new: NewWorkflow, *, now: datetime | None = None) -> Enqueued:
        """See `horsies.abc.Workflows.start`."""
        if not is_id(new.workflow_id):
            raise BrokerError("start a workflow: its id is not a UUID in lower-case canonical form")

        def work(transaction: Transaction) -> EnqueueOutcome:
            given = {
                "id": new.workflow_id,
                "sha": new.sha,
                "name": new.name,
                "version": new.version,
                "spec": new.spec,
                "state": new.state,
                "status": new.status,
                "sent_at": microseconds(new.sent_at),
            }
            if transaction.fetch(self._sql["start_workflow"], given):
                self._enqueue(transaction, new.tasks)
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
            given: dict[str, tuple[WorkflowRow, tuple[EndedTask, ...]]] = {}
            for workflow_id in sorted(set(workflow_ids)):
                for row in transaction.fetch(self._sql["workflow"], {"id": workflow_id}):
                    marked = transaction.fetch(self._sql["marked_ends"], {"id": workflow_id})
                    given[workflow_id] = (_workflow_row(row), tuple(_ended_task(end) for end in marked))
            try:
                steps = list(decide(list(given.values())))
            except Exception as error:
                raise _UndecidedError(error) from None
            for step in steps:
                self._write(transaction, step, *given[step.workflow_id])
            self._enqueue(transaction, [task for step in steps for task in step.tasks])
            # Only now: one of them may be among these.
            for task_id in [task_id for step in steps for task_id in step.cancel]:
                cancel_one(self._sql, transaction, task_id)
            return steps

        try:
            return await self._session.write("advance workflows", work, now=now)
        except _UndecidedError as undecided:
            raise undecided.why from None

    async def unadvanced(self, limit: int, *, skipping: Collection[str] = ()) -> list[str]:
        """See `horsies.abc.Workflows.unadvanced`."""
        given = {"limit": limit, "skipped": json.dumps(list(skipping))}
        rows = await self._session.read(
            "look for ends to follow up", lambda transaction: transaction.fetch(self._sql["unadvanced"], given)
        )
        return [workflow_id for (workflow_id,) in rows]

    def _write(self, transaction: Transaction, step: Step, row: WorkflowRow, ends: Sequence[EndedTask]) -> None:
        given = {
            "id": step.workflow_id,
            "state": step.state,
            "status": step.status,
            "error_code": step.error_code,
            "now": transaction.now,
        }
        ((finished_at,),) = transaction.fetch(self._sql["step"], given)
        if row.finished_at is None and finished_at is not None:
            transaction.notify(Topic.FINISHED, step.workflow_id)
        for end in ends:
            transaction.fetch(self._sql["advanced"], {"id": end.task_id})

    def _enqueue(self, transaction: Transaction, tasks: Sequence[NewTask]) -> None:
        if not all(is_id(task.task_id) for task in tasks):
            raise BrokerError("enqueue: a task id is not a UUID in lower-case canonical form")
        for task in tasks:
            enqueue_one(self._sql, transaction, task)


def _workflow_row(row: Row) -> WorkflowRow:
    workflow_id, sha, name, version, spec, state, status, sent_at, finished_at, error_code = row
    sent_at, finished_at = instant(sent_at), None if finished_at is None else instant(finished_at)
    return WorkflowRow(workflow_id, sha, name, version, spec, state, status, sent_at, finished_at, error_code)


def _ended_task(row: Row) -> EndedTask:
    task_id, status, error_code = row
    return EndedTask(task_id, TaskStatus(status), error_code)
