"""Whether statements notify.

A session that has run LISTEN and stays in a transaction keeps the server's NOTIFY queue from being emptied. Once the
queue is full, the server refuses every commit that holds a notice. Notices are hints, so such a statement is repeated
without them, and the others of this broker stay quiet for a while too: what they would have told is found by polling.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, TypeVar

import anyio

from horsies.abc import BrokerError

from .errors import FullNotifyQueueError

T = TypeVar("T")

QUIET = 5.0
"""Seconds without notices after the server has refused one."""
_SILENCE = 60.0
"""Seconds between two warnings."""
_USAGE = "SELECT pg_notification_queue_usage()"

_logger = logging.getLogger("horsies.postgres")


@cache
def silent(query: str) -> str:
    """`query` without its notices. The plan is the same: another function is called for each."""
    return query.replace("pg_notify(", "concat(")


class Notices:
    """What one broker knows of the server's NOTIFY queue."""

    def __init__(self) -> None:
        self._quiet_until = self._warn_at = -math.inf
        self._repeating = 0

    def said(self, query: str) -> str:
        """The text of `query` to run now."""
        if self._quiet_until > -math.inf:
            if self._repeating or anyio.current_time() < self._quiet_until:
                return silent(query)
            self._quiet_until = -math.inf
        return query

    def hush(self) -> None:
        """Stay quiet for `QUIET` seconds."""
        self._quiet_until = anyio.current_time() + QUIET

    async def repeat(
        self,
        refusal: FullNotifyQueueError,
        work: Callable[[], Awaitable[T]],
        ask: Callable[[str, str, dict[str, object]], Awaitable[list[tuple[Any, ...]]]],
    ) -> T:
        """What `work` gives, which the server has refused for its notices and which asks `said` again.

        Args:
            ask: runs one statement, to tell how full the queue is.

        Raises:
            BrokerError: it failed again.
        """
        await self._look(ask)
        self.hush()
        self._repeating += 1
        try:
            return await work()
        except FullNotifyQueueError:
            self._quiet_until = -math.inf
            # There was no notice left to refuse, so it is another limit of the server that has this code.
            raise BrokerError(refusal.message, code=refusal.code) from None
        finally:
            self._repeating -= 1

    async def _look(self, ask: Callable[[str, str, dict[str, object]], Awaitable[list[tuple[Any, ...]]]]) -> None:
        """See how full the queue is, which also makes the server remove what all have read, and say so now and then."""
        try:
            ((usage,),) = await ask("ask how full the NOTIFY queue is", _USAGE, {})
        except BrokerError:
            usage = "unknown"
        if anyio.current_time() < self._warn_at:
            return
        self._warn_at = anyio.current_time() + _SILENCE
        _logger.warning(
            "the NOTIFY queue of the server is full (pg_notification_queue_usage() is %s), so horsies writes without "
            "notices, and tasks, results and requests to cancel are found by polling. A session that has run LISTEN "
            "is in a transaction: find it in pg_stat_activity by the oldest xact_start, and end it",
            usage,
        )
