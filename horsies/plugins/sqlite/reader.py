"""Answers about tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence

from horsies.abc import AttemptRow, QueueRow, StoredResult, TaskRow, TaskStatus, is_task_id

from .queries import named_queries
from .session import Row, Session, Transaction, in_utc, instant


class SqliteReader:
    """See `horsies.abc.Reader`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._sql = named_queries()

    async def results(self, task_ids: Sequence[str]) -> list[StoredResult]:
        """See `horsies.abc.Reader.results`."""
        # One JSON array, because the number of parameters of a statement is limited.
        ids = json.dumps([task_id for task_id in task_ids if is_task_id(task_id)])
        rows = await self._session.read(
            "read results", lambda transaction: transaction.fetch(self._sql["tasks.results"], {"ids": ids})
        )
        return [
            StoredResult(task_id, name, TaskStatus(status), error_code, result)
            for task_id, name, status, error_code, result in rows
        ]

    async def read(self, task_id: str) -> TaskRow | None:
        """See `horsies.abc.Reader.read`."""
        if not is_task_id(task_id):
            return None

        def work(transaction: Transaction) -> tuple[list[Row], list[Row]]:
            parameters = {"id": task_id}
            return transaction.fetch(self._sql["tasks.read"], parameters), transaction.fetch(
                self._sql["tasks.past"], parameters
            )

        rows, attempts = await self._session.read("read a task", work)
        return _task_row(rows[0], attempts) if rows else None

    async def queues(self) -> list[QueueRow]:
        """See `horsies.abc.Reader.queues`."""

        def work(transaction: Transaction) -> tuple[list[Row], list[Row]]:
            return transaction.fetch(self._sql["tasks.depths"], {}), transaction.fetch(
                self._sql["queues.ever_paused"], {}
            )

        depths, rows = await self._session.read("read queues", work)
        paused: dict[str, int | None] = dict(rows)
        empty = [(name, 0, 0, 0, 0, None) for name in paused.keys() - {name for name, *_ in depths}]
        return [
            QueueRow(name, in_utc(paused.get(name)), ready, delayed, claimed, running, in_utc(oldest_due_at))
            for name, ready, delayed, claimed, running, oldest_due_at in [*depths, *empty]
        ]


def _task_row(row: Row, attempts: Sequence[Row]) -> TaskRow:
    (task_id, name, queue, priority, status, attempt, retries, sent_at, due_at, claimed_at, started_at, finished_at,
     good_until, worker_id, error_code, envelope, result, cancel_requested) = row  # fmt: skip
    return TaskRow(
        task_id=task_id,
        task_name=name,
        queue=queue,
        priority=priority,
        status=TaskStatus(status),
        attempt=attempt,
        retries=retries,
        sent_at=instant(sent_at),
        due_at=instant(due_at),
        claimed_at=in_utc(claimed_at),
        started_at=in_utc(started_at),
        finished_at=in_utc(finished_at),
        good_until=in_utc(good_until),
        worker_id=worker_id,
        error_code=error_code,
        envelope=envelope,
        result=result,
        cancel_requested=bool(cancel_requested),
        attempts=tuple(
            AttemptRow(number, worker, instant(started_at), instant(finished_at), code, outcome)
            for number, worker, started_at, finished_at, code, outcome in attempts
        ),
    )
