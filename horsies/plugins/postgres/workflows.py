"""Where workflows stand, and following up the ends of their tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from horsies.abc import (
    BrokerError,
    Decide,
    EndedTask,
    Enqueued,
    EnqueueOutcome,
    News,
    NewWorkflow,
    Step,
    TaskStatus,
    WorkflowRow,
    WorkflowSummary,
)

from .joining import Joined
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

    async def start(
        self, new: NewWorkflow, *, connection: object | None = None, now: datetime | None = None
    ) -> Enqueued:
        """See `horsies.abc.Workflows.start`."""
        if not is_id(new.workflow_id):
            raise BrokerError("start a workflow: its id is not a UUID in lower-case canonical form")
        if connection is not None:
            joined = Joined(connection)
            return await joined.run(partial(self._start, joined.fetch, new, now))
        async with open_transaction(
            self._connect, "start a workflow", timeout=self._timeout, lock_wait=LOCK_WAIT
        ) as fetch:
            return await self._start(fetch, new, now)

    async def _start(self, fetch: Fetch, new: NewWorkflow, now: datetime | None) -> Enqueued:
        if await self._begin(fetch, [new], now):
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
        rows = await self._fetch("list workflows", self._sql["workflows"], given)
        return [_summary(*row) for row in rows]

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
                given = {"ids": ids, "now": now}
                rows = await fetch("advance", self._sql["lock_workflows"], given)
                news = _News([row[0] for row in rows])
                news.add(await fetch("advance", self._sql["news"], {"ids": list(news.ends)}))
                try:
                    steps = list(decide([news.of(row) for row in rows]))
                except Exception as error:
                    raise _UndecidedError(error) from None
                if steps:
                    await self._write(fetch, steps, news, now)
        except _UndecidedError as undecided:
            raise undecided.why from None
        return steps

    async def unadvanced(self, limit: int, *, skipping: Collection[str] = (), now: datetime | None = None) -> list[str]:
        """See `horsies.abc.Workflows.unadvanced`."""
        skipped = [workflow_id for workflow_id in skipping if is_id(workflow_id)]
        given = {"limit": limit, "skipped": skipped, "now": now}
        rows = await self._fetch("look for workflows to advance", self._sql["unadvanced"], given)
        return [workflow_id for (workflow_id,) in rows]

    async def note_problem(self, workflow_id: str, problem: str) -> None:
        """See `horsies.abc.Workflows.note_problem`."""
        if is_id(workflow_id):
            given = {"id": workflow_id, "problem": problem.replace("\0", "")}
            await self._fetch("note what is wrong with a workflow", self._sql["note_problem"], given)

    async def _begin(self, fetch: Fetch, news: Sequence[NewWorkflow], now: datetime | None) -> bool:
        """Put in those whose ids are free, with their tasks and parts; whether there was any."""
        given = {
            "ids": [new.workflow_id for new in news],
            "shas": [new.sha for new in news],
            "names": [new.name for new in news],
            "versions": [new.version for new in news],
            "specs": [new.spec for new in news],
            "states": [new.state for new in news],
            "statuses": [new.status for new in news],
            "sent_ats": [new.sent_at for new in news],
            "parent_ids": [new.parent_id for new in news],
            "root_ids": [new.root_id for new in news],
            "good_untils": [new.good_until for new in news],
            "now": now,
        }
        free = {workflow_id for (workflow_id,) in await fetch("start", self._sql["start_workflows"], given)}
        begun = [new for new in news if new.workflow_id in free]
        tasks = [task for new in begun for task in new.tasks]
        if tasks:
            await PostgresProducer(fetch, self._sql).enqueue(tasks, now=now)
        parts = [part for new in begun for part in new.parts]
        if parts:
            await self._begin(fetch, parts, now)
        return bool(begun)

    async def _write(self, fetch: Fetch, steps: Sequence[Step], news: _News, now: datetime | None) -> None:
        ids = [step.workflow_id for step in steps]
        written = {
            "ids": ids,
            "states": [step.state for step in steps],
            "statuses": [step.status for step in steps],
            "error_codes": [step.error_code for step in steps],
            "now": now,
        }
        await fetch("advance", self._sql["step"], written)
        done = [end.task_id for workflow_id in ids for end in news.ends[workflow_id]]
        if done:
            await fetch("advance", self._sql["advanced"], {"ids": done})
        heard = [number for workflow_id in ids for number, _ in news.signals[workflow_id]]
        if heard:
            await fetch("advance", self._sql["taken"], {"ids": ids, "numbers": heard})
        tasks = [task for step in steps for task in step.tasks]
        if tasks:
            await PostgresProducer(fetch, self._sql).enqueue(tasks, now=now)
        parts = [part for step in steps for part in step.parts]
        if parts:
            await self._begin(fetch, parts, now)
        # Only now: one of them may be among these.
        cancelled = sorted({task_id for step in steps for task_id in step.cancel})
        if cancelled:
            await fetch("advance", self._sql["cancel"], {"ids": cancelled, "now": now})
        signals = [signal for step in steps for signal in step.signals if is_id(signal.workflow_id)]
        if signals:
            told = {"ids": [signal.workflow_id for signal in signals], "data": [signal.data for signal in signals]}
            await fetch("advance", self._sql["signal"], told)


class _News:
    """What has happened to the workflows of these ids."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ends: dict[str, list[EndedTask]] = {workflow_id: [] for workflow_id in ids}
        self.signals: dict[str, list[tuple[int, bytes]]] = {workflow_id: [] for workflow_id in ids}

    def add(self, rows: Sequence[Row]) -> None:
        for workflow_id, task_id, status, error_code, data, number, _ in rows:
            if task_id is None:
                self.signals[workflow_id].append((number, data))
            else:
                self.ends[workflow_id].append(EndedTask(task_id, TaskStatus(status), error_code, data))

    def of(self, locked: Row) -> News:
        """Of one workflow, by its row and whether it is overdue."""
        *row, is_overdue = locked
        signals = tuple(data for _, data in self.signals[row[0]])
        return News(_workflow_row(tuple(row)), tuple(self.ends[row[0]]), signals, is_overdue)


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
        sent_at.astimezone(UTC),
        in_utc(finished_at),
        error_code,
        parent_id,
        root_id,
        in_utc(good_until),
        problem,
    )
