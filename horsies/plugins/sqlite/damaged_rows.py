"""Rows that a claim, a promotion or a sweep fails on, taken out of the way one by one.

Tables are STRICT and have constraints, so bad values are rare: a constraint was switched off for a moment. Such a row
becomes FAILED with WORKER_SERIALIZATION_ERROR. A row that cannot even be written, or that a trigger refuses, is logged,
left as it is, and passed over for a minute. A trigger that refuses all of them is no row's fault, and fails the call.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

import anyio

from horsies.abc import Topic

from .session import Transaction

T = TypeVar("T")

REFUSALS = (sqlite3.IntegrityError, sqlite3.DataError, ValueError, OverflowError, TypeError)
"""What one row raises when SQLite refuses to change it, or its values cannot be read."""
_PASSED_OVER = 60.0
"""Seconds for which a row that cannot be written is passed over."""

logger = logging.getLogger("horsies.sqlite")


def reason_of(error: Exception) -> str:
    """The text for one of `REFUSALS`: a message of SQLite, else the name, because other messages may quote a value."""
    return str(error) if isinstance(error, sqlite3.Error) else type(error).__name__


class Bad(NamedTuple):
    """A row that was refused: why, and whether it could be set aside."""

    task_id: str
    reason: str
    is_aside: bool


class DamagedRows:
    """Takes bad rows out of the way of one worker."""

    def __init__(self, worker_id: str, sql: Mapping[str, str]) -> None:
        self._worker_id = worker_id
        self._sql = sql
        self._skipped: dict[str, float] = {}

    @property
    def skipped(self) -> str:
        """Ids of the rows to pass over, as JSON."""
        return json.dumps(sorted(self._skipped))

    def expire(self) -> None:
        """Pass over no more what was passed over for long enough."""
        if self._skipped:
            now = anyio.current_time()
            self._skipped = {task_id: until for task_id, until in self._skipped.items() if until > now}

    def each(
        self, transaction: Transaction, task_ids: Iterable[str], act: Callable[[str], T], bad: list[Bad]
    ) -> list[tuple[str, T]]:
        """What `act` returns for each row that does not refuse. The others are taken out of the way, into `bad`.

        Raises:
            sqlite3.IntegrityError: a trigger refuses every row.
        """
        done, refused = [], []
        for task_id in task_ids:
            try:
                with transaction.savepoint():
                    done.append((task_id, act(task_id)))
            except REFUSALS as error:
                if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_CONSTRAINT_TRIGGER:
                    refused.append((task_id, error))
                else:
                    bad.append(self._set_aside(transaction, task_id, error))
        if refused and not (done or bad):
            raise refused[0][1]
        bad += [Bad(task_id, str(error), is_aside=False) for task_id, error in refused]
        return done

    def tell(self, bad: Iterable[Bad]) -> None:
        """Log what was refused, once the transaction has committed, and pass over what could not be written."""
        for task_id, reason, is_aside in bad:
            if is_aside:
                what = "task %s is FAILED with WORKER_SERIALIZATION_ERROR, because its row cannot be used: %s"
            else:
                what = f"task %s is left as it is, and passed over for {_PASSED_OVER:g} s: %s"
                self._skipped[task_id] = anyio.current_time() + _PASSED_OVER
            logger.error(what, task_id, reason, extra={"task_id": task_id})

    def _set_aside(self, transaction: Transaction, task_id: str, error: Exception) -> Bad:
        reason = reason_of(error)
        given = {"id": task_id, "worker": self._worker_id, "now": transaction.now}
        try:
            transaction.fetch(self._sql["tasks.set_aside"], given)
        except sqlite3.IntegrityError:
            return Bad(task_id, reason, is_aside=False)
        transaction.notify(Topic.FINISHED, task_id)
        return Bad(task_id, reason, is_aside=True)
