"""How one worker writes what became of the tasks that it ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from horsies.abc import Decide, Finish, Notice, TaskStatus, Topic

from .._sql.deciding import deciding
from .queries import named_queries
from .rows import Past, end_task, held_row, try_again
from .session import Session, Transaction, after
from .workflow_steps import advance


class SqliteCompletion:
    """See `horsies.abc.Completion`."""

    def __init__(self, session: Session, worker_id: str, *, caps: Mapping[str, int], cluster_cap: int | None) -> None:
        self._session = session
        self._worker_id = worker_id
        self._caps = caps
        self._cluster_cap = cluster_cap
        self._sql = named_queries()

    async def finish(
        self, ends: Sequence[Finish], *, decide: Decide | None = None, now: datetime | None = None
    ) -> list[bool]:
        """See `horsies.abc.Consumer.finish`."""

        def work(transaction: Transaction) -> list[bool]:
            written = [self._finish(transaction, end) for end in ends]
            if decide is not None:
                ids = {end.workflow_id for end in ends if end.workflow_id is not None}
                advance(self._sql, transaction, ids, decide)
            return written

        with deciding():
            return await self._session.write("finish", work, now=now)

    def _finish(self, transaction: Transaction, end: Finish) -> bool:
        task_id, now = end.lease.task_id, transaction.now
        held = held_row(self._sql, transaction, self._worker_id, end.lease)
        if held is None:
            return False
        status, queue, good_until, attempt, started_at, cancel_requested_at = held
        if status != TaskStatus.RUNNING and end.status is not TaskStatus.FAILED:
            return False
        if status == TaskStatus.RUNNING and end.status is TaskStatus.FAILED and not end.has_begun:
            transaction.fetch(self._sql["tasks.unbegun"], {"id": task_id})
        again_at = after(now, 0.0 if end.interrupted else max(end.retry_in, 0.0))
        if end.status is TaskStatus.COMPLETED:
            end_task(self._sql, transaction, task_id, TaskStatus.COMPLETED, end.error_code, end.result)
        elif cancel_requested_at is not None:
            end_task(self._sql, transaction, task_id, TaskStatus.CANCELLED, end.error_code, end.result)
        elif end.status is TaskStatus.PENDING and (good_until is None or good_until > again_at):
            past = Past(attempt, self._worker_id, started_at, end.error_code, end.result)
            retries = 0 if end.interrupted else 1
            try_again(self._sql, transaction, task_id, queue, again_at, past, retries=retries)
        else:
            end_task(self._sql, transaction, task_id, TaskStatus.FAILED, end.error_code, end.result)
        if queue in self._caps or self._cluster_cap is not None:
            transaction.notify(Topic.WORK, f"{Notice.READY}{queue}")
        return True
