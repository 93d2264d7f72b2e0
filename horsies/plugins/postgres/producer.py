"""Putting tasks in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeAlias

from horsies.abc import BrokerError, Enqueued, EnqueueOutcome, NewTask

from .._sql.ids import require_ids
from .driver.session import Fetch

_Standing: TypeAlias = tuple[bytes | None, str | None]
"""The SHA stored under a task's id, and the id of the task that has its unique key."""

_INSERTED: _Standing = (None, None)
_TRIES = 4
"""How often an insert is tried while tasks that stand in its way end just then."""


class PostgresProducer:
    """Inserts batches through `fetch`, which runs one statement."""

    def __init__(self, fetch: Fetch, sql: Mapping[str, str]) -> None:
        self._fetch = fetch
        self._sql = sql

    async def enqueue(self, tasks: Sequence[NewTask], *, now: datetime | None = None) -> list[Enqueued]:
        """See `horsies.abc.Producer.enqueue`."""
        require_ids("enqueue", (task.task_id for task in tasks))
        first: dict[str, NewTask] = {}
        for task in tasks:
            first.setdefault(task.task_id, task)
        answers: dict[str, _Standing] = {}
        for _ in range(_TRIES):
            left = [task for task_id, task in first.items() if task_id not in answers]
            if not left:
                break
            inserted = await self._insert(left, now)
            answers |= dict.fromkeys(inserted, _INSERTED)
            present = [task for task in left if task.task_id not in inserted]
            if present:
                answers |= await self._standing(present)
        else:
            raise BrokerError("enqueue: other tasks with the same ids or keys came and went; try again", retryable=True)
        return [self._answer(task, answers) for task in tasks]

    def _answer(self, task: NewTask, answers: dict[str, _Standing]) -> Enqueued:
        sha, holder = standing = answers[task.task_id]
        if standing is _INSERTED:
            answers[task.task_id] = (task.sha, None)  # a second one of the same id is a replay of the first
            return Enqueued(EnqueueOutcome.INSERTED, task.task_id)
        if sha is None and holder is not None:
            return Enqueued(EnqueueOutcome.DEDUPLICATED, holder)
        return Enqueued(EnqueueOutcome.REPLAYED if sha == task.sha else EnqueueOutcome.MISMATCH, task.task_id)

    async def _insert(self, tasks: Sequence[NewTask], now: datetime | None) -> set[str]:
        # In one order everywhere, so that two batches that meet in keys or ids wait for each other and never lock up;
        # of two with the same key the first one given comes first.
        rows = sorted(tasks, key=lambda task: (task.task_name, task.unique_key or task.task_id))
        workflow_ids = [row.workflow_id for row in rows]
        answer = await self._fetch(
            "enqueue",
            self._sql["tasks.enqueue"],
            {
                "ids": [row.task_id for row in rows],
                "shas": [row.sha for row in rows],
                "envelopes": [row.envelope for row in rows],
                "names": [row.task_name for row in rows],
                "queues": [row.queue for row in rows],
                "priorities": [row.priority for row in rows],
                "sent_ats": [row.sent_at for row in rows],
                "due_ins": [float(row.due_in) for row in rows],
                "good_untils": [row.good_until for row in rows],
                "unique_keys": [row.unique_key for row in rows],
                "workflow_ids": workflow_ids if any(workflow_ids) else [],
                "now": now,
            },
        )
        ((inserted, _),) = answer
        return {row.task_id for row in rows} if inserted is None else set(inserted)

    async def _standing(self, tasks: Sequence[NewTask]) -> dict[str, _Standing]:
        """What stands in the way of `tasks`; one is missing when that ended or was removed meanwhile."""
        # A statement of its own: a row committed while the insert ran is invisible to the insert's snapshot.
        rows = await self._fetch(
            "enqueue",
            self._sql["tasks.standing"],
            {
                "ids": [task.task_id for task in tasks],
                "names": [task.task_name for task in tasks],
                "unique_keys": [task.unique_key for task in tasks],
            },
        )
        return {task_id: (sha, holder) for task_id, sha, holder in rows if sha is not None or holder is not None}
