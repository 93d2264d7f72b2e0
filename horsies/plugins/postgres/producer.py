"""Putting tasks in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from horsies.abc import BrokerError, EnqueueOutcome, NewTask

from .session import Session

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")


def is_id(task_id: str) -> bool:
    """Whether `task_id` is a UUID as the database writes it; nothing else was ever given out."""
    return _ID.match(task_id) is not None


class PostgresProducer:
    """Inserts batches over one session."""

    def __init__(self, session: Session, sql: Mapping[str, str]) -> None:
        self._session = session
        self._sql = sql

    async def enqueue(self, tasks: Sequence[NewTask], *, now: datetime | None = None) -> list[EnqueueOutcome]:
        """See `horsies.abc.Producer.enqueue`."""
        if not all(is_id(task.task_id) for task in tasks):
            raise BrokerError("enqueue: a task id is not a UUID in lower-case canonical form")
        first: dict[str, NewTask] = {}
        for task in tasks:
            first.setdefault(task.task_id, task)
        if not first:
            return []
        inserted = await self._insert(first, now)
        stored = {task_id: first[task_id].sha for task_id in inserted}
        present = [task_id for task_id in first if task_id not in inserted]
        if present:
            stored |= await self._shas(present)

        outcomes = []
        for task in tasks:
            if task.task_id in inserted:
                inserted.remove(task.task_id)  # a second one of the same id is a replay of the first
                outcomes.append(EnqueueOutcome.INSERTED)
            elif stored[task.task_id] == task.sha:
                outcomes.append(EnqueueOutcome.REPLAYED)
            else:
                outcomes.append(EnqueueOutcome.MISMATCH)
        return outcomes

    async def _insert(self, first: Mapping[str, NewTask], now: datetime | None) -> set[str]:
        # In the order of ids, so that two batches with replays of one another wait for each other and never lock up.
        rows = [first[task_id] for task_id in sorted(first)]
        answer = await self._session.fetch(
            "enqueue",
            self._sql["enqueue"],
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
                "now": now,
            },
        )
        return {task_id for task_id, *_ in answer}

    async def _shas(self, task_ids: Sequence[str]) -> dict[str, bytes]:
        # A statement of its own: a row committed while the insert ran is invisible to the insert's snapshot.
        rows = await self._session.fetch("enqueue", self._sql["shas"], {"ids": list(task_ids)})
        if len(rows) < len(task_ids):
            message = "enqueue: a task with the same id was removed at this very moment; send it again"
            raise BrokerError(message, retryable=True)
        return dict(rows)
