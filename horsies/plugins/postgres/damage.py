"""Rows that a claim, a promotion or a sweep fails on, found one by one and taken out of the way.

Constraints keep bad values out of the tables. A row may still be bad: it is older than the constraints, they were
dropped, a trigger refuses it, or psycopg cannot read what the server takes. One such row makes the whole statement
fail, again and again, for every worker.

After such a failure the next claim first rehearses what it does, on the rows it would meet, in a transaction that is
rolled back, and halves the batch until the guilty row stands alone. That row becomes FAILED with
WORKER_SERIALIZATION_ERROR. A row that cannot even be written is logged, left as it is, and passed over by this worker
from then on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from horsies.abc import BrokerError

from .session import Session

_LIMIT = 500
"""Rows to look at, of each queue and kind: no claim takes more."""

logger = logging.getLogger("horsies.postgres")


def is_damage(error: BrokerError) -> bool:
    """Whether a row may be what failed: data (SQLSTATE 22), a constraint (23), a limit (54), or a trigger."""
    return not error.retryable and (error.code or "")[:2] in ("22", "23", "54", "P0")


class _TakenBack(Exception):
    """Ends the transaction of a rehearsal."""


class Damage:
    """Takes bad rows out of the way of one worker.

    Attributes:
        skipped: ids of rows that could not be written.
    """

    def __init__(self, session: Session, worker_id: str, queues: Sequence[str], sql: Mapping[str, str]) -> None:
        self._session = session
        self._worker_id = worker_id
        self._queues = list(queues)
        self._sql = sql
        self._is_expected = False
        self.skipped: list[str] = []

    def expect(self, error: BrokerError) -> BrokerError:
        """Have `look` search for the row that `error` is about; what to raise in place of `error`."""
        if self._is_expected or not is_damage(error):
            return error
        self._is_expected = True
        return BrokerError(f"{error.message}; looking for the task that it fails on", retryable=True, code=error.code)

    async def look(self, *, now: datetime | None = None) -> None:
        """After a failure, set aside the rows that cause it."""
        if not self._is_expected:
            return
        given = {"queues": self._queues, "limit": _LIMIT, "skipped": self.skipped, "now": now}
        rows = await self._session.fetch("look for a bad row", self._sql["suspects"], given)
        for task_id, reason in await self._guilty([task_id for (task_id,) in rows]):
            await self.set_aside(task_id, reason, now=now)

    def passed(self) -> None:
        """A statement went well."""
        self._is_expected = False

    async def set_aside(self, task_id: str, reason: str, *, now: datetime | None = None) -> None:
        """End a bad task, or leave it where it is."""
        given = {"ids": [task_id], "worker": self._worker_id, "now": now}
        try:
            ((ended, _),) = await self._session.fetch("set a bad row aside", self._sql["set_aside"], given)
        except BrokerError as error:
            if error.retryable:
                raise
            self.skipped.append(task_id)
            logger.error("task %s is left as it is: %s", task_id, error.message, extra={"task_id": task_id})
            return
        if ended:
            what = "task %s is FAILED with WORKER_SERIALIZATION_ERROR, because its row cannot be used: %s"
            logger.error(what, task_id, reason, extra={"task_id": task_id})

    def over(self, query: str) -> str:
        """`query` with the rows passed over that could not be written; the query itself while there are none."""
        if not self.skipped:
            return query
        for phase in ("phase = 0", "phase = 1", "phase < 2"):
            query = query.replace(f"WHERE {phase} AND", f"WHERE {phase} AND id <> ALL (%(skipped)s::uuid[]) AND")
        return query

    async def _guilty(self, ids: Sequence[str]) -> list[tuple[str, str]]:
        """Ids of the rows that refuse, each with the reason."""
        if not ids:
            return []
        try:
            await self._rehearse(ids)
        except BrokerError as error:
            if not is_damage(error):
                raise
            if len(ids) == 1:
                return [(ids[0], error.message)]
            middle = len(ids) // 2
            return [*await self._guilty(ids[:middle]), *await self._guilty(ids[middle:])]
        return []

    async def _rehearse(self, ids: Sequence[str]) -> None:
        try:
            async with self._session.transaction("rehearse a claim") as fetch:
                await fetch("rehearse a claim", self._sql["rehearse"], {"ids": ids, "worker": self._worker_id})
                raise _TakenBack
        except _TakenBack:
            return
