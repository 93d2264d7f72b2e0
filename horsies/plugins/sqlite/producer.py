"""Putting tasks in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from horsies.abc import EnqueueOutcome, NewTask

from .session import Session, Transaction, micros


class SqliteProducer:
    """Inserts batches over the shared session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def enqueue(self, tasks: Sequence[NewTask], *, now: datetime | None = None) -> list[EnqueueOutcome]:
        """See `horsies.abc.Producer.enqueue`."""
        return await self._session.write("enqueue", lambda t: [_insert(t, task) for task in tasks], now)


def _insert(transaction: Transaction, task: NewTask) -> EnqueueOutcome:
    due_in = max(0, round(task.due_in * 1_000_000))
    inserted = transaction.change(
        "enqueue",
        id=task.task_id,
        sha=task.sha,
        envelope=task.envelope,
        task_name=task.task_name,
        queue=task.queue,
        priority=task.priority,
        sent_at=micros(task.sent_at),
        due_at=transaction.now + due_in,
        good_until=None if task.good_until is None else micros(task.good_until),
        now=transaction.now,
    )
    if inserted:
        transaction.queues.add(f"+{task.queue}" if due_in else task.queue)
        return EnqueueOutcome.INSERTED
    (stored,) = transaction.run("sha", id=task.task_id)
    return EnqueueOutcome.REPLAYED if stored[0] == task.sha else EnqueueOutcome.MISMATCH
