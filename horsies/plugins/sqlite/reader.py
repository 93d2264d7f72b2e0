"""Answering questions."""

from __future__ import annotations

from collections.abc import Sequence

from horsies.abc import AttemptRow, StoredResult, TaskRow, TaskStatus

from .session import Row, Session, instant


class SqliteReader:
    """Reads over the shared session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def results(self, task_ids: Sequence[str]) -> list[StoredResult]:
        """See `horsies.abc.Reader.results`."""
        answers = await self._session.read("results", (("result", {"id": task_id}) for task_id in task_ids))
        return [
            StoredResult(task_id, task_name, TaskStatus(status), result)
            for rows in answers
            for task_id, task_name, status, result in rows
        ]

    async def read(self, task_id: str) -> TaskRow | None:
        """See `horsies.abc.Reader.read`."""
        parameters = {"id": task_id}
        rows, attempts = await self._session.read("read", (("read", parameters), ("attempts", parameters)))
        return _task_row(rows[0], attempts) if rows else None


def _task_row(row: Row, attempts: list[Row]) -> TaskRow:
    task_id, task_name, queue, priority, status, attempt, retries, *instants, worker_id, code, envelope, result = row
    sent_at, due_at, claimed_at, started_at, finished_at, good_until = map(instant, instants)
    return TaskRow(
        task_id=task_id,
        task_name=task_name,
        queue=queue,
        priority=priority,
        status=TaskStatus(status),
        attempt=attempt,
        retries=retries,
        sent_at=sent_at,
        due_at=due_at,
        claimed_at=claimed_at,
        started_at=started_at,
        finished_at=finished_at,
        good_until=good_until,
        worker_id=worker_id,
        error_code=code,
        envelope=envelope,
        result=result,
        attempts=tuple(
            AttemptRow(number, worker, instant(started), instant(finished), error_code, data)
            for number, worker, started, finished, error_code, data in attempts
        ),
    )
