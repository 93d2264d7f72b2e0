"""Interventions from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from horsies.abc import CancelOutcome, Notice, TaskStatus, Topic, is_task_id

from .queries import named_queries
from .session import Session, Transaction


class SqliteControl:
    """See `horsies.abc.Control`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._sql = named_queries()

    async def cancel(self, task_ids: Sequence[str], *, now: datetime | None = None) -> list[CancelOutcome]:
        """See `horsies.abc.Control.cancel`."""
        return await self._session.write(
            "cancel", lambda transaction: [cancel_one(self._sql, transaction, one) for one in task_ids], now=now
        )

    async def pause(self, queue: str, *, now: datetime | None = None) -> bool:
        """See `horsies.abc.Control.pause`."""

        def work(transaction: Transaction) -> bool:
            return bool(transaction.fetch(self._sql["queues.pause"], {"queue": queue, "now": transaction.now}))

        return await self._session.write("pause a queue", work, now=now)

    async def resume(self, queue: str) -> bool:
        """See `horsies.abc.Control.resume`."""

        def work(transaction: Transaction) -> bool:
            resumed = bool(transaction.fetch(self._sql["queues.resume"], {"queue": queue}))
            if resumed:
                transaction.notify(Topic.WORK, f"{Notice.READY}{queue}")
            return resumed

        return await self._session.write("resume a queue", work)


def cancel_one(sql: Mapping[str, str], transaction: Transaction, task_id: str) -> CancelOutcome:
    """Cancel one task, or ask for it."""
    given: dict[str, object] = {"id": task_id, "now": transaction.now}
    rows = transaction.fetch(sql["tasks.status"], {"id": task_id}) if is_task_id(task_id) else []
    if not rows:
        return CancelOutcome.NOT_FOUND
    match rows[0][0]:
        case TaskStatus.PENDING | TaskStatus.CLAIMED:
            transaction.fetch(sql["tasks.cancel"], given)
            transaction.notify(Topic.FINISHED, task_id)
            return CancelOutcome.CANCELLED
        case TaskStatus.RUNNING:
            transaction.fetch(sql["tasks.request_cancel"], given)
            transaction.notify(Topic.WORK, f"{Notice.CANCEL}{task_id}")
            return CancelOutcome.REQUESTED
        case _:
            return CancelOutcome.ALREADY_FINISHED
