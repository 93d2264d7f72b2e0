"""What one worker does for all: the overdue, the orphans of dead workers, and what ended long ago.

Each is two statements: one chooses, one acts on what was chosen, guarded again. So a row that cannot be written (a
trigger or a foreign key of somebody's refuses it, or it is damaged) is found by halving the batch, and passed over from
then on.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta

from horsies.abc import BrokerError

from .session import Row, Session

logger = logging.getLogger("horsies.postgres")


class PostgresMaintenance:
    """See `horsies.abc.Maintenance`."""

    def __init__(self, session: Session, sql: Mapping[str, str], *, dead_after: float) -> None:
        self._session = session
        self._sql = sql
        self._dead_after = float(dead_after)
        self._refused: set[str] = set()

    async def expire(self, limit: int, *, now: datetime | None = None) -> int:
        """See `horsies.abc.Maintenance.expire`."""
        chosen = await self._choose("expire", "overdue", {"limit": limit, "now": now})
        return await self._divide(chosen, lambda rows: self._act("expire", {"ids": _ids(rows), "now": now}))

    async def reap(self, limit: int, *, now: datetime | None = None) -> int:
        """See `horsies.abc.Maintenance.reap`."""
        chosen = await self._choose("reap", "orphans", {"dead_after": self._dead_after, "limit": limit, "now": now})

        async def take(rows: Sequence[Row]) -> int:
            claim_numbers = [claim_number for _, claim_number in rows]
            return await self._act("reap", {"ids": _ids(rows), "claim_numbers": claim_numbers, "now": now})

        return await self._divide(chosen, take)

    async def prune(self, limit: int, *, finished_after: timedelta, now: datetime | None = None) -> int:
        """See `horsies.abc.Maintenance.prune`."""
        given = {"limit": limit, "finished_after": finished_after.total_seconds(), "now": now}
        chosen = await self._choose("prune", "old", given)
        return await self._divide(chosen, lambda rows: self._act("prune", {"ids": _ids(rows)}))

    async def _choose(self, action: str, query: str, given: Mapping[str, object]) -> list[Row]:
        return await self._session.fetch(action, self._sql[query], {**given, "skipped": sorted(self._refused)})

    async def _act(self, name: str, given: Mapping[str, object]) -> int:
        ((done, *_),) = await self._session.fetch(name, self._sql[name], given)
        return int(done)

    async def _divide(self, rows: Sequence[Row], act: Callable[[Sequence[Row]], Awaitable[int]]) -> int:
        """`act` on all rows; halve a batch that is refused until the guilty row stands alone, which is left alone."""
        if not rows:
            return 0
        try:
            return await act(rows)
        except BrokerError as error:
            if error.retryable:
                raise
            if len(rows) > 1:
                middle = len(rows) // 2
                return await self._divide(rows[:middle], act) + await self._divide(rows[middle:], act)
            (task_id,) = _ids(rows)
            self._refused.add(task_id)
            logger.error("task %s is left as it is: %s", task_id, error.message, extra={"task_id": task_id})
            return 0


def _ids(rows: Sequence[Row]) -> list[str]:
    return [task_id for task_id, *_ in rows]
