"""Where workflows stand, and following up the ends of their tasks."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime

from horsies.abc import (
    HEAD,
    Decide,
    Enqueued,
    EnqueueOutcome,
    NewWorkflow,
    Range,
    Slice,
    Step,
    TaskStatus,
    WorkflowRow,
    WorkflowSummary,
)

from .._sql.deciding import deciding
from .._sql.ids import require_ids
from .queries import named_queries
from .session import Row, Session, Transaction, in_utc, instant, microseconds
from .workflow_steps import advance, begin, slices, workflow_row


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
        require_ids("start a workflow", [new.workflow_id])

        def work(transaction: Transaction) -> EnqueueOutcome:
            if begin(self._sql, transaction, new):
                return EnqueueOutcome.INSERTED
            ((_, sha, *_),) = transaction.fetch(self._sql["workflows.workflow"], {"id": new.workflow_id, "head": 0})
            return EnqueueOutcome.REPLAYED if sha == new.sha else EnqueueOutcome.MISMATCH

        return Enqueued(await self._session.write("start a workflow", work, now=now), new.workflow_id)

    async def read(self, workflow_id: str) -> WorkflowRow | None:
        """See `horsies.abc.Workflows.read`."""
        given = {"id": workflow_id, "head": HEAD}
        rows = await self._session.read(
            "read a workflow", lambda transaction: transaction.fetch(self._sql["workflows.workflow"], given)
        )
        return workflow_row(rows[0]) if rows else None

    async def read_standing(self, workflow_id: str) -> WorkflowSummary | None:
        """See `horsies.abc.Workflows.read_standing`."""
        rows = await self._session.read(
            "read a workflow",
            lambda transaction: transaction.fetch(self._sql["workflows.standing_workflow"], {"id": workflow_id}),
        )
        return _summary(*rows[0]) if rows else None

    async def read_spec(self, workflow_id: str, ranges: Sequence[Range]) -> tuple[Slice, ...]:
        """See `horsies.abc.Workflows.read_spec`."""
        return await self._session.read(
            "read a spec", lambda transaction: slices(self._sql, transaction, workflow_id, ranges)
        )

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
            "list workflows", lambda transaction: transaction.fetch(self._sql["workflows.workflows"], given)
        )
        return [_summary(*row) for row in rows]

    async def tasks(self, workflow_id: str) -> list[tuple[str, TaskStatus, str | None]]:
        """See `horsies.abc.Workflows.tasks`."""
        rows = await self._session.read(
            "read the tasks of a workflow",
            lambda transaction: transaction.fetch(self._sql["workflows.tasks_of"], {"id": workflow_id}),
        )
        return [(task_id, TaskStatus(status), error_code) for task_id, status, error_code in rows]

    async def running(self, workflow_id: str) -> list[str]:
        """See `horsies.abc.Workflows.running`."""
        rows = await self._session.read(
            "read the tasks of a workflow",
            lambda transaction: transaction.fetch(self._sql["workflows.running_tasks_of"], {"id": workflow_id}),
        )
        return [task_id for (task_id,) in rows]

    async def advance(self, workflow_ids: Sequence[str], decide: Decide, *, now: datetime | None = None) -> list[Step]:
        """See `horsies.abc.Workflows.advance`."""

        with deciding():
            return await self._session.write(
                "advance workflows",
                lambda transaction: advance(self._sql, transaction, workflow_ids, decide),
                now=now,
            )

    async def unadvanced(self, limit: int, *, skipping: Collection[str] = (), now: datetime | None = None) -> list[str]:
        """See `horsies.abc.Workflows.unadvanced`."""

        def work(transaction: Transaction) -> list[Row]:
            given = {"limit": limit, "skipped": json.dumps(list(skipping)), "now": transaction.now}
            return transaction.fetch(self._sql["workflows.unadvanced"], given)

        rows = await self._session.read("look for workflows to advance", work, now=now)
        return [workflow_id for (workflow_id,) in rows]

    async def note_problem(self, workflow_id: str, problem: str) -> None:
        """See `horsies.abc.Workflows.note_problem`."""
        given = {"id": workflow_id, "problem": problem}
        await self._session.write(
            "note what is wrong with a workflow",
            lambda transaction: transaction.fetch(self._sql["workflows.note_problem"], given),
        )


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
