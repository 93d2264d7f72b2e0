"""What one worker does for all: the overdue, the orphans of dead workers, and what ended long ago."""

from __future__ import annotations

import json
import logging
import sqlite3
from datetime import datetime, timedelta

from horsies.abc import Notice, TaskStatus, Topic

from .queries import named_queries
from .rows import Past, end_task, expire, expire_one, try_again
from .session import Row, Session, Transaction, after

logger = logging.getLogger("horsies.sqlite")

_CRASHED = "WORKER_CRASHED"


class SqliteMaintenance:
    """See `horsies.abc.Maintenance`."""

    def __init__(self, session: Session, *, dead_after: float) -> None:
        self._session = session
        self._dead_after = dead_after
        self._sql = named_queries()
        self._refused: set[str] = set()

    async def expire(self, limit: int, *, now: datetime | None = None) -> int:
        """See `horsies.abc.Maintenance.expire`."""

        def work(transaction: Transaction) -> int:
            expired = expire(self._sql, transaction, "expire", limit)
            return expired + expire(self._sql, transaction, "expire_claimed", limit - expired)

        return await self._session.write("expire", work, now=now)

    async def reap(self, limit: int, *, now: datetime | None = None) -> int:
        """See `horsies.abc.Maintenance.reap`."""

        def work(transaction: Transaction) -> tuple[int, list[str]]:
            transaction.fetch(self._sql["bury"], {"since": after(transaction.now, -self._dead_after)})
            given = {"limit": limit, "skipped": json.dumps(sorted(self._refused))}
            orphans = transaction.fetch(self._sql["orphans"], given)
            refused = [str(orphan[0]) for orphan in orphans if not self._reap(transaction, orphan)]
            return len(orphans) - len(refused), refused

        reaped, refused = await self._session.write("reap", work, now=now)
        self._refused |= set(refused)
        return reaped

    async def prune(self, limit: int, *, finished_after: timedelta, now: datetime | None = None) -> int:
        """See `horsies.abc.Maintenance.prune`."""

        def work(transaction: Transaction) -> int:
            before = after(transaction.now, -finished_after.total_seconds())
            return len(transaction.fetch(self._sql["prune"], {"before": before, "limit": limit}))

        return await self._session.write("prune", work, now=now)

    def _reap(self, transaction: Transaction, orphan: Row) -> bool:
        """Whether the task could be written."""
        try:
            with transaction.savepoint():
                self._take(transaction, orphan)
        except sqlite3.DatabaseError as error:
            task_id = orphan[0]
            logger.error("task %s of a dead worker is left alone: %s", task_id, error, extra={"task_id": task_id})
            return False
        return True

    def _take(self, transaction: Transaction, orphan: Row) -> None:
        task_id, status, queue, good_until, attempt, started_at, cancel_requested_at, worker_id, delay = orphan
        # There is room now, should the queue have a cap.
        transaction.notify(Topic.WORK, f"{Notice.READY}{queue}")
        again_at = None if delay is None else after(transaction.now, delay)
        if status == TaskStatus.CLAIMED and good_until is not None and good_until <= transaction.now:
            expire_one(self._sql, transaction, task_id)
        elif status == TaskStatus.CLAIMED:
            transaction.fetch(self._sql["give_back"], {"id": task_id})
        elif cancel_requested_at is not None:
            end_task(self._sql, transaction, task_id, TaskStatus.CANCELLED, _CRASHED, None)
        elif again_at is not None and (good_until is None or good_until > again_at):
            past = Past(attempt, worker_id, started_at, _CRASHED, None)
            try_again(self._sql, transaction, task_id, queue, again_at, past, retries=1)
        else:
            end_task(self._sql, transaction, task_id, TaskStatus.FAILED, _CRASHED, None)
