"""What one worker does for all: the overdue, the orphans of dead workers, and what ended long ago.

Each row is written under a savepoint, so that one that cannot be (a trigger of somebody's refuses it) is passed over.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from horsies import RecoveryConfig

from .damaged_rows import REFUSALS, reason_of
from .queries import named_queries
from .rows import expire_one, gap_of, take_orphan
from .session import Row, Session, Transaction, after

logger = logging.getLogger("horsies.sqlite")


class _Done(NamedTuple):
    """How many rows were written, and which were not, with the reason."""

    written: int
    refused: list[tuple[str, str]]


class SqliteMaintenance:
    """See `horsies.abc.Maintenance`."""

    def __init__(self, session: Session, worker_id: str, recovery: RecoveryConfig) -> None:
        self._session = session
        self._worker_id = worker_id
        self._dead_after = recovery.dead_after
        self._gap = gap_of(recovery.heartbeat_interval)
        self._sql = named_queries()
        self._refused: set[str] = set()

    async def expire(self, limit: int, *, now: datetime | None = None) -> int:
        """See `horsies.abc.Maintenance.expire`."""

        def work(transaction: Transaction) -> _Done:
            overdue = self._choose(transaction, "tasks.overdue", {"limit": limit, "now": transaction.now})
            return self._each(transaction, overdue, lambda row: expire_one(self._sql, transaction, row[0]))

        return self._count(await self._session.write("expire", work, now=now))

    async def reap(self, limit: int, *, now: datetime | None = None) -> int:
        """See `horsies.abc.Maintenance.reap`."""

        def work(transaction: Transaction) -> _Done:
            now, long_ago = transaction.now, after(transaction.now, -self._dead_after)
            given = {"worker": self._worker_id, "now": now, "fresh": now - self._gap, "long_ago": long_ago}
            if not transaction.fetch(self._sql["workers.finder"], given):
                return _Done(0, [])
            transaction.fetch(self._sql["workers.bury"], {"since": long_ago})
            orphans = self._choose(transaction, "tasks.orphans", {"limit": limit})
            return self._each(transaction, orphans, lambda row: take_orphan(self._sql, transaction, row))

        return self._count(await self._session.write("reap", work, now=now))

    async def prune(self, limit: int, *, finished_after: timedelta, now: datetime | None = None) -> int:
        """See `horsies.abc.Maintenance.prune`."""

        def work(transaction: Transaction) -> _Done:
            before = after(transaction.now, -finished_after.total_seconds())
            old = self._choose(transaction, "tasks.old", {"before": before, "limit": limit})
            return self._each(
                transaction, old, lambda row: transaction.fetch(self._sql["tasks.remove"], {"id": row[0]})
            )

        removed = self._count(await self._session.write("prune", work, now=now))

        def work_on_workflows(transaction: Transaction) -> _Done:
            before = after(transaction.now, -finished_after.total_seconds())
            old = self._choose(transaction, "workflows.old_workflows", {"before": before, "limit": limit - removed})
            return self._each(transaction, old, lambda row: self._remove_workflow(transaction, row[0]))

        if removed < limit:
            removed += self._count(await self._session.write("prune", work_on_workflows, now=now), kind="workflow")
        return removed

    def _remove_workflow(self, transaction: Transaction, workflow_id: str) -> None:
        for query in ("workflows.remove_workflow", "workflows.remove_signals"):
            transaction.fetch(self._sql[query], {"id": workflow_id})

    def _choose(self, transaction: Transaction, query: str, given: Mapping[str, object]) -> list[Row]:
        return transaction.fetch(self._sql[query], {**given, "skipped": json.dumps(sorted(self._refused))})

    def _each(self, transaction: Transaction, rows: Sequence[Row], act: Callable[[Row], object]) -> _Done:
        """`act` on each row; one that is refused is undone and left as it is."""
        refused = []
        for row in rows:
            try:
                with transaction.savepoint():
                    act(row)
            except REFUSALS as error:
                refused.append((row[0], reason_of(error)))
        return _Done(len(rows) - len(refused), refused)

    def _count(self, done: _Done, *, kind: str = "task") -> int:
        """How many were written, once that is committed; the others are passed over from now on."""
        for row_id, why in done.refused:
            self._refused.add(row_id)
            logger.error("%s %s is left as it is: %s", kind, row_id, why, extra={f"{kind}_id": row_id})
        return done.written
