"""Rows that a claim, a promotion or a sweep fails on, found one by one and taken out of the way.

Constraints keep bad values out of the tables. A row may still be bad: it is older than the constraints, they were
dropped, or psycopg cannot read what the server takes. One such row makes the whole statement fail, again and again, for
every worker.

After such a failure the next claim first rehearses what it does, on the rows it would meet, in a transaction that is
rolled back, and isolates the guilty row. That row becomes FAILED with
WORKER_SERIALIZATION_ERROR. A row that cannot even be written, or that a trigger refuses, is logged, left as it is, and
passed over for a minute. A trigger that refuses all of them is no row's fault, and nothing is passed over for it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

import anyio

from horsies.abc import BrokerError, isolate

from .driver.session import Session

_LIMIT = 500
"""Rows to look at, of each queue and kind: no claim takes more."""
_PASSED_OVER = 60.0
"""Seconds for which a row that cannot be written is passed over."""

logger = logging.getLogger("horsies.postgres")


def is_damage(error: BrokerError) -> bool:
    """Whether a row is what failed: its data (SQLSTATE 22), a constraint (23) or a limit (54)."""
    return not error.retryable and (error.code or "")[:2] in ("22", "23", "54")


def _is_refusal(error: BrokerError) -> bool:
    """Whether a trigger's exception (P0) is what failed."""
    return not error.retryable and (error.code or "").startswith("P0")


class _TakenBack(Exception):
    """Ends the transaction of a rehearsal."""


class DamagedRows:
    """Takes bad rows out of the way of one worker."""

    def __init__(self, session: Session, worker_id: str, queues: Sequence[str], sql: Mapping[str, str]) -> None:
        self._session = session
        self._worker_id = worker_id
        self._queues = list(queues)
        self._sql = sql
        self._is_expected = False
        self._skipped: dict[str, float] = {}

    @property
    def skipped(self) -> list[str]:
        """Ids of the rows to pass over."""
        if self._skipped:
            now = anyio.current_time()
            self._skipped = {task_id: until for task_id, until in self._skipped.items() if until > now}
        return list(self._skipped)

    def expect(self, error: BrokerError) -> BrokerError:
        """Have `look` search for the row that `error` is about; what to raise in place of `error`."""
        if self._is_expected or not (is_damage(error) or _is_refusal(error)):
            return error
        self._is_expected = True
        return BrokerError(f"{error.message}; looking for the task that it fails on", retryable=True, code=error.code)

    async def look(self, *, now: datetime | None = None) -> bool:
        """After a failure, take the rows that cause it out of the way.

        Returns:
            Whether there was a failure.

        Raises:
            BrokerError: a trigger refuses every row.
        """
        if not self._is_expected:
            return False
        given = {"queues": self._queues, "limit": _LIMIT, "skipped": self.skipped, "now": now}
        rows = await self._session.fetch("look for a bad row", self._sql["tasks.suspects"], given)
        guilty = await self._guilty([task_id for (task_id,) in rows])
        refused = [(task_id, error) for task_id, error in guilty if _is_refusal(error)]
        if refused and len(refused) == len(rows):
            raise refused[0][1]
        for task_id, error in refused:
            self._skip(task_id, error)
        for task_id, error in guilty:
            if is_damage(error):
                await self.set_aside(task_id, error, now=now)
        return True

    def passed(self) -> None:
        """Note that the call succeeded which was tried again after a look."""
        self._is_expected = False

    async def set_aside(self, task_id: str, why: BrokerError, *, now: datetime | None = None) -> None:
        """End a bad task, or leave it where it is."""
        given = {"ids": [task_id], "worker": self._worker_id, "now": now}
        try:
            ((ended, _),) = await self._session.fetch("set a bad row aside", self._sql["tasks.set_aside"], given)
        except BrokerError as error:
            if error.retryable:
                raise
            self._skip(task_id, error)
            return
        if ended:
            what = "task %s is FAILED with WORKER_SERIALIZATION_ERROR, because its row cannot be used: %s"
            logger.error(what, task_id, why.message, extra={"task_id": task_id})

    def _skip(self, task_id: str, error: BrokerError) -> None:
        self._skipped[task_id] = anyio.current_time() + _PASSED_OVER
        what = "task %s is left as it is, and passed over for %g s: %s"
        logger.error(what, task_id, _PASSED_OVER, error.message, extra={"task_id": task_id})

    def over(self, query: str) -> str:
        """`query` with the rows passed over that could not be written."""
        for phase in ("phase = 0", "phase = 1", "phase < 2"):
            query = query.replace(f"WHERE {phase} AND", f"WHERE {phase} AND id <> ALL (%(skipped)s::uuid[]) AND")
        return query

    async def _guilty(self, ids: Sequence[str]) -> list[tuple[str, BrokerError]]:
        """Ids of the rows that refuse, each with the reason."""

        async def alone(task_id: str, error: BrokerError) -> tuple[str, BrokerError]:
            return task_id, error

        return await isolate(ids, self._rehearse, alone, lambda error: is_damage(error) or _is_refusal(error))

    async def _rehearse(self, ids: Sequence[str]) -> Sequence[tuple[str, BrokerError]]:
        try:
            async with self._session.transaction("rehearse a claim") as fetch:
                await fetch("rehearse a claim", self._sql["tasks.rehearse"], {"ids": ids, "worker": self._worker_id})
                raise _TakenBack
        except _TakenBack:
            return ()
