"""Answers about tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC

from horsies.abc import AttemptRow, QueueRow, StoredResult, TaskRow, TaskStatus, is_task_id

from .driver.session import Fetch, Row, in_utc


class PostgresReader:
    """Asks through `fetch`, and for results, which somebody waits for, through `fetch_hot`."""

    def __init__(self, fetch: Fetch, fetch_hot: Fetch, sql: Mapping[str, str]) -> None:
        self._fetch = fetch
        self._fetch_hot = fetch_hot
        self._sql = sql

    async def results(self, task_ids: Sequence[str]) -> list[StoredResult]:
        """See `horsies.abc.Reader.results`."""
        ids = [task_id for task_id in task_ids if is_task_id(task_id)]
        if not ids:
            return []
        rows = await self._fetch_hot("read results", self._sql["tasks.results"], {"ids": ids})
        return [
            StoredResult(task_id, name, TaskStatus(status), error_code, result)
            for task_id, name, status, error_code, result in rows
        ]

    async def read(self, task_id: str) -> TaskRow | None:
        """See `horsies.abc.Reader.read`."""
        if not is_task_id(task_id):
            return None
        rows = await self._fetch("read a task", self._sql["tasks.read"], {"id": task_id})
        return _task_row(rows[0]) if rows else None

    async def queues(self) -> list[QueueRow]:
        """See `horsies.abc.Reader.queues`."""
        rows = await self._fetch("read queues", self._sql["tasks.depths"], {})
        return [
            QueueRow(name, in_utc(paused_at), ready, delayed, claimed, running, in_utc(oldest_due_at))
            for name, paused_at, ready, delayed, claimed, running, oldest_due_at in rows
        ]


def _task_row(row: Row) -> TaskRow:
    (task_id, name, queue, priority, status, attempt, retries, sent_at, due_at, claimed_at, started_at, finished_at,
     good_until, worker_id, error_code, envelope, result, cancel_requested, *attempts) = row  # fmt: skip
    return TaskRow(
        task_id=task_id,
        task_name=name,
        queue=queue,
        priority=priority,
        status=TaskStatus(status),
        attempt=attempt,
        retries=retries,
        sent_at=sent_at.astimezone(UTC),
        due_at=due_at.astimezone(UTC),
        claimed_at=in_utc(claimed_at),
        started_at=in_utc(started_at),
        finished_at=in_utc(finished_at),
        good_until=in_utc(good_until),
        worker_id=worker_id,
        error_code=error_code,
        envelope=envelope,
        result=result,
        cancel_requested=cancel_requested,
        attempts=_attempt_rows(*attempts) if attempts[0] else (),
    )


def _attempt_rows(*columns: Sequence[object]) -> tuple[AttemptRow, ...]:
    """The parallel arrays of the query, which are in the order of the record's fields."""
    return tuple(
        AttemptRow(number, worker_id, started_at.astimezone(UTC), finished_at.astimezone(UTC), error_code, result)
        for number, worker_id, started_at, finished_at, error_code, result in zip(*columns, strict=True)
    )
