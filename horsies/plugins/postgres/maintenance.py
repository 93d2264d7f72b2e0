"""What one worker does for all: the overdue, the orphans of dead workers, and what ended long ago."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
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
        expired = await expire(self._session, self._sql["expire"], limit, now)
        if expired < limit:
            expired += await expire(self._session, self._sql["expire_claimed"], limit - expired, now)
        return expired

    async def reap(self, limit: int, *, now: datetime | None = None) -> int:
        """See `horsies.abc.Maintenance.reap`."""
        given = {"dead_after": self._dead_after, "limit": limit, "skipped": sorted(self._refused), "now": now}
        orphans = await self._session.fetch("reap", self._sql["orphans"], given)
        return await self._reap(orphans, now) if orphans else 0

    async def prune(self, limit: int, *, finished_after: timedelta, now: datetime | None = None) -> int:
        """See `horsies.abc.Maintenance.prune`."""
        given = {"limit": limit, "finished_after": finished_after.total_seconds(), "now": now}
        ((pruned,),) = await self._session.fetch("prune", self._sql["prune"], given)
        return int(pruned)

    async def _reap(self, orphans: Sequence[Row], now: datetime | None) -> int:
        """Take `orphans`; a batch that is refused is halved until the guilty row stands alone, and is left alone."""
        ids, claim_numbers = zip(*orphans, strict=True)
        given = {"ids": list(ids), "claim_numbers": list(claim_numbers), "now": now}
        try:
            ((reaped, *_),) = await self._session.fetch("reap", self._sql["reap"], given)
            return int(reaped)
        except BrokerError as error:
            if error.retryable:
                raise
            if len(orphans) > 1:
                middle = len(orphans) // 2
                return await self._reap(orphans[:middle], now) + await self._reap(orphans[middle:], now)
            (task_id,) = ids
            self._refused.add(task_id)
            logger.error(
                "task %s of a dead worker is left alone: %s", task_id, error.message, extra={"task_id": task_id}
            )
            return 0


async def expire(session: Session, query: str, limit: int, now: datetime | None) -> int:
    """Expire at most `limit` tasks by `query`, which chooses them; how many."""
    ((expired, _),) = await session.fetch("expire", query, {"limit": limit, "now": now})
    return int(expired)
