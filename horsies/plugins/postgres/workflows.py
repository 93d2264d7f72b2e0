"""Where workflows stand, and following up the ends of their tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

from horsies.abc import (
    BrokerError,
    Decide,
    EndedTask,
    Enqueued,
    EnqueueOutcome,
    NewWorkflow,
    Step,
    TaskStatus,
    WorkflowRow,
)

from .producer import PostgresProducer, is_id
from .session import Fetch, Row, in_utc
from .transaction import Connect, open_transaction

LOCK_WAIT = "2s"
"""How long an advance waits for others of the same workflow; its marks stay, and it can be tried again."""


class _UndecidedError(Exception):
    """What `decide` raised, on its way out of what would take it for a failure of the database."""

    def __init__(self, why: Exception) -> None:
        super().__init__(why)
        self.why = why


class PostgresWorkflows:
    """See `horsies.abc.Workflows`.

    Args:
        fetch: runs one statement.
        connect: borrows a connection, for what takes several.
        timeout: seconds for one call.
    """

    def __init__(self, fetch: Fetch, connect: Connect, sql: Mapping[str, str], *, timeout: float) -> None:
        self._fetch = fetch
        self._connect = connect
        self._sql = sql
        self._timeout = timeout

    async def start(self, new: NewWorkflow, *, now: datetime | None = None) -> Enqueued:
        """See `horsies.abc.Workflows.start`."""
        if not is_id(new.workflow_id):
            raise BrokerError("start a workflow: its id is not a UUID in lower-case canonical form")
        given = {
            "id": new.workflow_id,
            "sha": new.sha,
            "name": new.name,
            "version": new.version,
            "spec": new.spec,
            "state": new.state,
            "status": new.status,
            "sent_at": new.sent_at,
        }
        async with open_transaction(
            self._connect, "start a workflow", timeout=self._timeout, lock_wait=LOCK_WAIT
        ) as fetch:
            if await fetch("start", self._sql["start_workflow"], given):
                if new.tasks:
                    await PostgresProducer(fetch, self._sql).enqueue(new.tasks, now=now)
                return Enqueued(EnqueueOutcome.INSERTED, new.workflow_id)
            rows = await fetch("start", self._sql["workflow_sha"], {"id": new.workflow_id})
        if not rows:
            raise BrokerError("start a workflow: one with the same id was removed just now; try again", retryable=True)
        ((sha,),) = rows
        return Enqueued(EnqueueOutcome.REPLAYED if sha == new.sha else EnqueueOutcome.MISMATCH, new.workflow_id)

    async def read(self, workflow_id: str) -> WorkflowRow | None:
        """See `horsies.abc.Workflows.read`."""
        if not is_id(workflow_id):
            return None
        rows = await self._fetch("read a workflow", self._sql["workflow"], {"id": workflow_id})
        return _workflow_row(rows[0]) if rows else None

    async def tasks(self, workflow_id: str) -> list[tuple[str, TaskStatus, str | None]]:
        """See `horsies.abc.Workflows.tasks`."""
        if not is_id(workflow_id):
            return []
        rows = await self._fetch("read the tasks of a workflow", self._sql["tasks_of"], {"id": workflow_id})
        return [(task_id, TaskStatus(status), error_code) for task_id, status, error_code in rows]

    async def advance(self, workflow_ids: Sequence[str], decide: Decide, *, now: datetime | None = None) -> list[Step]:
        """See `horsies.abc.Workflows.advance`."""
        ids = sorted({workflow_id for workflow_id in workflow_ids if is_id(workflow_id)})
        try:
            async with open_transaction(
                self._connect, "advance workflows", timeout=self._timeout, lock_wait=LOCK_WAIT
            ) as fetch:
                rows = [_workflow_row(row) for row in await fetch("advance", self._sql["lock_workflows"], {"ids": ids})]
                ends: dict[str, list[EndedTask]] = {row.workflow_id: [] for row in rows}
                for workflow_id, task_id, status, error_code in await fetch(
                    "advance", self._sql["marked_ends"], {"ids": list(ends)}
                ):
                    ends[workflow_id].append(EndedTask(task_id, TaskStatus(status), error_code))
                try:
                    steps = list(decide([(row, tuple(ends[row.workflow_id])) for row in rows]))
                except Exception as error:
                    raise _UndecidedError(error) from None
                if steps:
                    done = [end.task_id for step in steps for end in ends[step.workflow_id]]
                    await self._write(fetch, steps, done, now)
        except _UndecidedError as undecided:
            raise undecided.why from None
        return steps

    async def unadvanced(self, limit: int, *, skipping: Collection[str] = ()) -> list[str]:
        """See `horsies.abc.Workflows.unadvanced`."""
        given = {"limit": limit, "skipped": [workflow_id for workflow_id in skipping if is_id(workflow_id)]}
        rows = await self._fetch("look for ends to follow up", self._sql["unadvanced"], given)
        return [workflow_id for (workflow_id,) in rows]

    async def _write(self, fetch: Fetch, steps: Sequence[Step], done: Sequence[str], now: datetime | None) -> None:
        written = {
            "ids": [step.workflow_id for step in steps],
            "states": [step.state for step in steps],
            "statuses": [step.status for step in steps],
            "error_codes": [step.error_code for step in steps],
            "now": now,
        }
        await fetch("advance", self._sql["step"], written)
        if done:
            await fetch("advance", self._sql["advanced"], {"ids": list(done)})
        tasks = [task for step in steps for task in step.tasks]
        if tasks:
            await PostgresProducer(fetch, self._sql).enqueue(tasks, now=now)
        # Only now: one of them may be among these.
        cancelled = sorted({task_id for step in steps for task_id in step.cancel})
        if cancelled:
            await fetch("advance", self._sql["cancel"], {"ids": cancelled, "now": now})


def _workflow_row(row: Row) -> WorkflowRow:
    workflow_id, sha, name, version, spec, state, status, sent_at, finished_at, error_code = row
    sent_at, finished_at = sent_at.astimezone(UTC), in_utc(finished_at)
    return WorkflowRow(workflow_id, sha, name, version, spec, state, status, sent_at, finished_at, error_code)
