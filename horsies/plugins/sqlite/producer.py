"""Putting tasks in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from horsies.abc import Enqueued, EnqueueOutcome, NewTask, Notice, Topic

from .._sql.ids import require_ids
from .queries import named_queries
from .session import Session, Transaction, after, microseconds


class SqliteProducer:
    """Inserts batches."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._sql = named_queries()

    async def enqueue(self, tasks: Sequence[NewTask], *, now: datetime | None = None) -> list[Enqueued]:
        """See `horsies.abc.Producer.enqueue`."""
        require_ids("enqueue", (task.task_id for task in tasks))
        return await self._session.write(
            "enqueue", lambda transaction: [enqueue_one(self._sql, transaction, task) for task in tasks], now=now
        )


def enqueue_one(sql: Mapping[str, str], transaction: Transaction, task: NewTask) -> Enqueued:
    """Insert one task, unless its id is there or its unique key is taken."""
    delayed = task.due_in > 0
    inserted = transaction.fetch(
        sql["tasks.enqueue"],
        {
            "id": task.task_id,
            "phase": 0 if delayed else 1,
            "queue": task.queue,
            "priority": task.priority,
            "due_at": after(transaction.now, max(task.due_in, 0.0)),
            "good_until": None if task.good_until is None else microseconds(task.good_until),
            "sent_at": microseconds(task.sent_at),
            "task_name": task.task_name,
            "envelope": task.envelope,
            "sha": task.sha,
            "unique_key": task.unique_key,
            "workflow_id": task.workflow_id,
        },
    )
    if inserted:
        transaction.notify(Topic.WORK, f"{Notice.DELAYED if delayed else Notice.READY}{task.queue}")
        return Enqueued(EnqueueOutcome.INSERTED, task.task_id)
    for (sha,) in transaction.fetch(sql["tasks.sha"], {"id": task.task_id}):
        same = sha == task.sha
        return Enqueued(EnqueueOutcome.REPLAYED if same else EnqueueOutcome.MISMATCH, task.task_id)
    key = {"task_name": task.task_name, "unique_key": task.unique_key}
    ((holder,),) = transaction.fetch(sql["tasks.holder"], key)
    return Enqueued(EnqueueOutcome.DEDUPLICATED, holder)
