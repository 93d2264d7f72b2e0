"""Interventions from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from horsies.abc import CancelOutcome, TaskStatus, is_task_id

from .driver.session import Fetch

PORTION = 1_000
"""Tasks that one transaction cancels: others wait for its locks."""


class PostgresControl:
    """Intervenes through `fetch`."""

    def __init__(self, fetch: Fetch, sql: Mapping[str, str]) -> None:
        self._fetch = fetch
        self._sql = sql

    async def cancel(self, task_ids: Sequence[str], *, now: datetime | None = None) -> list[CancelOutcome]:
        """See `horsies.abc.Control.cancel`."""
        ids = sorted({task_id for task_id in task_ids if is_task_id(task_id)})
        outcomes: dict[str, CancelOutcome] = {}
        for start in range(0, len(ids), PORTION):
            outcomes |= await self._cancel(ids[start : start + PORTION], now)
        return [outcomes.get(task_id, CancelOutcome.NOT_FOUND) for task_id in task_ids]

    async def _cancel(self, ids: Sequence[str], now: datetime | None) -> dict[str, CancelOutcome]:
        """The outcomes, but for tasks that are not there."""
        ((asked, statuses, *_),) = await self._fetch("cancel", self._sql["tasks.cancel"], {"ids": ids, "now": now})
        outcomes = {task_id: _OUTCOME[status] for task_id, status in zip(asked, statuses, strict=True)}
        rest = [task_id for task_id in ids if task_id not in outcomes]
        ended = await self._fetch("cancel", self._sql["tasks.ended"], {"ids": rest}) if rest else []
        return outcomes | dict.fromkeys((task_id for (task_id,) in ended), CancelOutcome.ALREADY_FINISHED)

    async def pause(self, queue: str, *, now: datetime | None = None) -> bool:
        """See `horsies.abc.Control.pause`."""
        return bool(await self._fetch("pause a queue", self._sql["queues.pause"], {"queue": queue, "now": now}))

    async def resume(self, queue: str) -> bool:
        """See `horsies.abc.Control.resume`."""
        return bool(await self._fetch("resume a queue", self._sql["queues.resume"], {"queue": queue}))


_OUTCOME = {
    TaskStatus.CANCELLED: CancelOutcome.CANCELLED,
    TaskStatus.RUNNING: CancelOutcome.REQUESTED,
}
