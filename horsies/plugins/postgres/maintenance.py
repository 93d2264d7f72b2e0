"""What one worker does for all: the overdue, the orphans of dead workers, and what ended long ago.

Each is two statements: one chooses, one acts on what was chosen, guarded again. So a row that cannot be written (a
trigger or a foreign key of somebody's refuses it, or it is damaged) is isolated, and passed over from then on.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from horsies import RecoveryConfig
from horsies.abc import BrokerError, isolate

from .driver.session import Row, Session
from .membership import gap_of

logger = logging.getLogger("horsies.postgres")


class PostgresMaintenance:
    """See `horsies.abc.Maintenance`."""

    def __init__(self, session: Session, worker_id: str, sql: Mapping[str, str], recovery: RecoveryConfig) -> None:
        self._session = session
        self._worker_id = worker_id
        self._sql = sql
        self._dead_after = float(recovery.dead_after)
        self._gap = gap_of(float(recovery.heartbeat_interval))
        self._refused: set[str] = set()

    async def expire(self, limit: int, *, now: datetime | None = None) -> int:
        """See `horsies.abc.Maintenance.expire`."""

        async def act(rows: Sequence[Row]) -> int:
            return await self._act("tasks.expire", {"ids": _ids(rows), "now": now})

        return await self._batch("tasks.overdue", {"limit": limit, "now": now}, act)

    async def reap(self, limit: int, *, now: datetime | None = None) -> int:
        """See `horsies.abc.Maintenance.reap`."""

        async def act(rows: Sequence[Row]) -> int:
            claim_numbers = [claim_number for _, claim_number in rows]
            return await self._act("tasks.reap", {"ids": _ids(rows), "claim_numbers": claim_numbers, "now": now})

        given = {"worker": self._worker_id, "dead_after": self._dead_after, "gap": self._gap}
        return await self._batch("tasks.orphans", {**given, "limit": limit, "now": now}, act)

    async def prune(self, limit: int, *, finished_after: timedelta, now: datetime | None = None) -> int:
        """See `horsies.abc.Maintenance.prune`."""

        async def act(rows: Sequence[Row]) -> int:
            return await self._act("tasks.prune", {"ids": _ids(rows)})

        async def act_on_workflows(rows: Sequence[Row]) -> int:
            return await self._act("workflows.prune_workflows", {"ids": _ids(rows)})

        given = {"limit": limit, "finished_after": finished_after.total_seconds(), "now": now}
        done = await self._batch("tasks.old", given, act)
        if done < limit:
            given["limit"] = limit - done
            done += await self._batch("workflows.old_workflows", given, act_on_workflows, kind="workflow")
        return done

    async def _batch(
        self,
        choice: str,
        given: Mapping[str, Any],
        act: Callable[[Sequence[Row]], Awaitable[int]],
        *,
        kind: str = "task",
    ) -> int:
        """Choose rows and `act` on them; how many it was done to. A batch of locked rows alone hides no others."""
        locked: set[str] = set()
        while True:
            query = {**given, "skipped": sorted(self._refused | locked)}
            rows = await self._session.fetch(_action(choice), self._sql[choice], query)
            done = await self._divide(rows, act, kind)
            if done or len(rows) < given["limit"]:
                return done
            locked.update(_ids(rows))

    async def _act(self, name: str, given: Mapping[str, object]) -> int:
        ((done, *_),) = await self._session.fetch(_action(name), self._sql[name], given)
        return int(done)

    async def _divide(self, rows: Sequence[Row], act: Callable[[Sequence[Row]], Awaitable[int]], kind: str) -> int:
        """`act` on all rows but those that are refused even alone; to how many it was done."""

        async def act_together(rows: Sequence[Row]) -> Sequence[int]:
            return [await act(rows)]

        async def leave(row: Row, error: BrokerError) -> int:
            row_id = row[0]
            self._refused.add(row_id)
            logger.error("%s %s is left as it is: %s", kind, row_id, error.message, extra={f"{kind}_id": row_id})
            return 0

        return sum(await isolate(rows, act_together, leave, lambda error: not error.retryable))


def _action(query: str) -> str:
    """What a query does, for messages."""
    return query.partition(".")[2]


def _ids(rows: Sequence[Row]) -> list[str]:
    return [row_id for row_id, *_ in rows]
