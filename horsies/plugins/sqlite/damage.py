"""Rows that a claim, a promotion or a sweep fails on, taken out of the way one by one.

Tables are STRICT and have constraints, so bad values are rare: a constraint was switched off for a moment, or a trigger
refuses the row. Such a row becomes FAILED with WORKER_SERIALIZATION_ERROR. A row that cannot even be written is logged,
left as it is, and passed over by this worker from then on.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

from horsies.abc import Topic

from .session import Transaction

T = TypeVar("T")

REFUSALS = (sqlite3.IntegrityError, sqlite3.DataError, ValueError, OverflowError, TypeError)
"""What one row raises when SQLite refuses to change it, or its values cannot be read."""

logger = logging.getLogger("horsies.sqlite")


class Bad(NamedTuple):
    """A row that was refused: why, and whether it could be set aside."""

    task_id: str
    reason: str
    is_aside: bool


class Damage:
    """Takes bad rows out of the way of one worker."""

    def __init__(self, worker_id: str, sql: Mapping[str, str]) -> None:
        self._worker_id = worker_id
        self._sql = sql
        self._skipped: set[str] = set()

    @property
    def skipped(self) -> str:
        """Ids of rows that could not be written, as JSON."""
        return json.dumps(sorted(self._skipped))

    def each(
        self, transaction: Transaction, task_ids: Iterable[str], act: Callable[[str], T], bad: list[Bad]
    ) -> list[tuple[str, T]]:
        """What `act` returns for each row that does not refuse; the others are set aside and added to `bad`."""
        done = []
        for task_id in task_ids:
            try:
                done.append((task_id, act(task_id)))
            except REFUSALS as error:
                bad.append(self._set_aside(transaction, task_id, error))
        return done

    def tell(self, bad: Iterable[Bad]) -> None:
        """Log what was refused, once the transaction has committed, and pass over what could not be written."""
        for task_id, reason, is_aside in bad:
            if is_aside:
                what = "task %s is FAILED with WORKER_SERIALIZATION_ERROR, because its row cannot be used: %s"
            else:
                what = "task %s is left as it is: %s"
                self._skipped.add(task_id)
            logger.error(what, task_id, reason, extra={"task_id": task_id})

    def _set_aside(self, transaction: Transaction, task_id: str, error: Exception) -> Bad:
        # The message of another kind of exception may quote a value.
        reason = str(error) if isinstance(error, sqlite3.Error) else type(error).__name__
        given = {"id": task_id, "worker": self._worker_id, "now": transaction.now}
        try:
            transaction.fetch(self._sql["set_aside"], given)
        except sqlite3.IntegrityError:
            return Bad(task_id, reason, is_aside=False)
        transaction.notify(Topic.FINISHED, task_id)
        return Bad(task_id, reason, is_aside=True)
