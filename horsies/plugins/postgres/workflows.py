"""Where workflows stand, and following up the ends of their tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from horsies.abc import (
    HEAD,
    BrokerError,
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
    is_task_id,
)

from .._sql.deciding import deciding
from .._sql.ids import require_ids
from .caller_transaction import Joined
from .database_identity import DatabaseIdentity
from .driver.session import Fetch, Session, in_utc
from .driver.transaction import Borrowing
from .workflow_steps import advance_locked, begin, slices, workflow_row

LOCK_WAIT = "2s"
"""How long an advance waits for others of the same workflow; its marks stay, and it can be tried again."""


class PostgresWorkflows:
    """See `horsies.abc.Workflows`.

    Args:
        borrowing: also for starts, and for advances while there is another one.
        session: for one advance at a time, prepared.
        identity: where the tables are.
    """

    def __init__(
        self, borrowing: Borrowing, session: Session, sql: Mapping[str, str], identity: DatabaseIdentity
    ) -> None:
        self._borrowing = borrowing
        self._fetch = borrowing.fetch
        self._identity = identity
        self._session = session
        self._sql = sql

    async def start(
        self, new: NewWorkflow, *, connection: object | None = None, now: datetime | None = None
    ) -> Enqueued:
        """See `horsies.abc.Workflows.start`."""
        require_ids("start a workflow", [new.workflow_id])
        if connection is not None:
            joined = Joined(connection, self._borrowing.notices, self._identity)
            return await joined.run(partial(self._start, new, now, joined.fetch))
        start = partial(self._start, new, now)
        return await self._borrowing.transact("start a workflow", start, lock_wait=LOCK_WAIT)

    async def _start(self, new: NewWorkflow, now: datetime | None, fetch: Fetch) -> Enqueued:
        if await begin(fetch, self._sql, [new], now):
            return Enqueued(EnqueueOutcome.INSERTED, new.workflow_id)
        rows = await fetch("start", self._sql["workflows.workflow_sha"], {"id": new.workflow_id})
        if not rows:
            raise BrokerError("start a workflow: one with the same id was removed just now; try again", retryable=True)
        ((sha,),) = rows
        return Enqueued(EnqueueOutcome.REPLAYED if sha == new.sha else EnqueueOutcome.MISMATCH, new.workflow_id)

    async def read(self, workflow_id: str) -> WorkflowRow | None:
        """See `horsies.abc.Workflows.read`."""
        if not is_task_id(workflow_id):
            return None
        rows = await self._fetch("read a workflow", self._sql["workflows.workflow"], {"id": workflow_id, "head": HEAD})
        return workflow_row(rows[0]) if rows else None

    async def read_standing(self, workflow_id: str) -> WorkflowSummary | None:
        """See `horsies.abc.Workflows.read_standing`."""
        if not is_task_id(workflow_id):
            return None
        rows = await self._fetch("read a workflow", self._sql["workflows.standing_workflow"], {"id": workflow_id})
        return _summary(*rows[0]) if rows else None

    async def read_spec(self, workflow_id: str, ranges: Sequence[Range]) -> tuple[Slice, ...]:
        """See `horsies.abc.Workflows.read_spec`."""
        if not is_task_id(workflow_id):
            return ()
        return (await slices(self._fetch, self._sql, {workflow_id: ranges})).get(workflow_id, ())

    async def newest(
        self,
        limit: int,
        *,
        name: str | None = None,
        statuses: Collection[str] | None = None,
        before: tuple[datetime, str] | None = None,
    ) -> list[WorkflowSummary]:
        """See `horsies.abc.Workflows.newest`."""
        sent_at, before_id = before or (None, None)
        given = {
            "limit": limit,
            "name": name,
            "statuses": None if statuses is None else sorted(statuses),
            "before": sent_at,
            "before_id": before_id,
        }
        rows = await self._fetch("list workflows", self._sql["workflows.workflows"], given)
        return [_summary(*row) for row in rows]

    async def tasks(self, workflow_id: str) -> list[tuple[str, TaskStatus, str | None]]:
        """See `horsies.abc.Workflows.tasks`."""
        if not is_task_id(workflow_id):
            return []
        rows = await self._fetch("read the tasks of a workflow", self._sql["workflows.tasks_of"], {"id": workflow_id})
        return [(task_id, TaskStatus(status), error_code) for task_id, status, error_code in rows]

    async def running(self, workflow_id: str) -> list[str]:
        """See `horsies.abc.Workflows.running`."""
        if not is_task_id(workflow_id):
            return []
        rows = await self._fetch(
            "read the tasks of a workflow", self._sql["workflows.running_tasks_of"], {"id": workflow_id}
        )
        return [task_id for (task_id,) in rows]

    async def advance(self, workflow_ids: Sequence[str], decide: Decide, *, now: datetime | None = None) -> list[Step]:
        """See `horsies.abc.Workflows.advance`."""
        ids = sorted({workflow_id for workflow_id in workflow_ids if is_task_id(workflow_id)})

        async def work(fetch: Fetch) -> list[Step]:
            rows = await fetch("advance", self._sql["workflows.lock_workflows"], {"ids": ids, "head": HEAD, "now": now})
            return await advance_locked(fetch, self._sql, rows, decide, now)

        transact = self._session.transact if self._session.is_free else self._borrowing.transact
        with deciding():
            return await transact("advance workflows", work, lock_wait=LOCK_WAIT)

    async def unadvanced(self, limit: int, *, skipping: Collection[str] = (), now: datetime | None = None) -> list[str]:
        """See `horsies.abc.Workflows.unadvanced`."""
        skipped = [workflow_id for workflow_id in skipping if is_task_id(workflow_id)]
        given = {"limit": limit, "skipped": skipped, "now": now}
        rows = await self._fetch("look for workflows to advance", self._sql["workflows.unadvanced"], given)
        return [workflow_id for (workflow_id,) in rows]

    async def note_problem(self, workflow_id: str, problem: str) -> None:
        """See `horsies.abc.Workflows.note_problem`."""
        if is_task_id(workflow_id):
            given = {"id": workflow_id, "problem": problem.replace("\0", "")}
            await self._fetch("note what is wrong with a workflow", self._sql["workflows.note_problem"], given)


def _summary(
    workflow_id: str,
    name: str,
    version: int,
    status: str,
    sent_at: datetime,
    finished_at: datetime | None,
    error_code: str | None,
    good_until: datetime | None,
    problem: str | None,
) -> WorkflowSummary:
    sent, finished, deadline = sent_at.astimezone(UTC), in_utc(finished_at), in_utc(good_until)
    return WorkflowSummary(workflow_id, name, version, status, sent, finished, error_code, deadline, problem)
