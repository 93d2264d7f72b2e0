"""One worker among the others."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from horsies import RecoveryConfig
from horsies.abc import Held, Lease

from .driver.session import Session

_BEAT = 1.0
"""Seconds that a heartbeat may take at least, however short the interval."""


class PostgresMembership:
    """See `horsies.abc.Membership`.

    The heartbeat has a session of its own, `beats`, so that a lock which holds up all else does not stop it.
    """

    def __init__(
        self,
        worker_id: str,
        *,
        beats: Session,
        looks: Session,
        outcomes: Session,
        sql: Mapping[str, str],
        recovery: RecoveryConfig,
    ) -> None:
        self._worker_id = worker_id
        self._beats = beats
        self._looks = looks
        self._outcomes = outcomes
        self._sql = sql
        self._dead_after = float(recovery.dead_after)
        self._beat_interval = float(recovery.heartbeat_interval)

    async def join(self, *, now: datetime | None = None) -> None:
        """See `horsies.abc.Consumer.join`."""
        await self._beats.fetch("join", self._sql["workers.join"], {"worker": self._worker_id, "now": now})

    async def beat(self, *, now: datetime | None = None) -> bool:
        """See `horsies.abc.Consumer.beat`. A heartbeat without an answer makes room for the next after an interval."""
        given = {"worker": self._worker_id, "gap": gap_of(self._beat_interval), "now": now}
        patience = max(_BEAT, self._beat_interval)
        return bool(await self._beats.fetch("beat", self._sql["workers.beat"], given, timeout=patience))

    async def lead(self, *, now: datetime | None = None) -> bool:
        """See `horsies.abc.Consumer.lead`."""
        given = {"worker": self._worker_id, "dead_after": self._dead_after, "now": now}
        return bool(await self._looks.fetch("lead", self._sql["workers.lead"], given))

    async def held(self) -> list[Held]:
        """See `horsies.abc.Consumer.held`."""
        rows = await self._looks.fetch("look", self._sql["tasks.holdings"], {"worker": self._worker_id})
        return [Held(Lease(task_id, claim_number), is_cancelled) for task_id, claim_number, is_cancelled in rows]

    async def leave(self) -> int:
        """See `horsies.abc.Consumer.leave`."""
        rows = await self._outcomes.fetch("leave", self._sql["tasks.leave"], {"worker": self._worker_id})
        returned: int = rows[0][0]
        return returned


def gap_of(heartbeat_interval: float) -> float:
    """Seconds between two heartbeats beyond which the worker was not steady."""
    return 2.0 * heartbeat_interval
