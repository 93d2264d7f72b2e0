"""Whether the database answers, as one runtime sees it.

While the database is away, each loop of a runtime pauses between its tries, longer each time. The first answer that any
of them gets ends all these pauses.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from math import inf
from random import Random
from typing import Any

import anyio
import anyio.lowlevel

from .._core.backoff import pauses
from .._core.config import ResilienceConfig
from .._core.errors import BrokerError

REMEDY = "look at the privileges of the role, and whether the tables of the schema were changed"
"""What to do about an error that does not pass by itself."""


class Contact:
    """What the loops of one runtime tell each other.

    Attributes:
        answers: how many statements have succeeded so far.
        outages: how many times the database was lost, and has answered since.
    """

    def __init__(self, resilience: ResilienceConfig, random: Random) -> None:
        self._resilience = resilience
        self._random = random
        self._answered: anyio.Event | None = None
        self._is_lost = False
        self.answers = 0
        self.outages = 0

    def answered(self) -> None:
        """A statement has succeeded."""
        self.answers += 1
        if self._is_lost:
            self._is_lost = False
            self.outages += 1
        if self._answered is not None:
            self._answered.set()
            self._answered = None

    async def wait_answered(self) -> None:
        """Wait for the next answer: the database is lost."""
        self._is_lost = True
        if self._answered is None:
            self._answered = anyio.Event()
        await self._answered.wait()

    def backoff(self) -> Backoff:
        """The pauses of one loop."""
        return Backoff(self, self._resilience, self._random)


class Backoff:
    """The pauses of one loop: they double, up to `retry_max`, until one of its statements succeeds.

    An answer to another loop ends a pause if this loop has lost its connection. A loop that notices an outage after
    other loops have seen its end tries again at once, one time. A statement that fails although others succeed is not
    tried at their rate: from the second time on, an answer ends a pause only after a part of it that doubles as well.
    """

    def __init__(self, contact: Contact, resilience: ResilienceConfig, random: Random) -> None:
        self._contact = contact
        self._resilience = resilience
        self._random = random
        self._outages = contact.outages
        self._forget()

    def _forget(self) -> None:
        self._waits: Iterator[float] | None = None
        self._least_waits: Iterator[float] | None = None
        self._tried_at: int | None = None
        self._was_woken = False

    def answered(self) -> None:
        """A statement of this loop has succeeded."""
        if self._waits is not None:
            self._forget()
        self._contact.answered()
        self._outages = self._contact.outages

    def next_pause(self) -> float:
        """Seconds to pause before the next try."""
        self._waits = self._waits or pauses(self._resilience, self._random)
        return next(self._waits)

    async def failed(
        self, error: BrokerError, what: str, log: logging.Logger | logging.LoggerAdapter[Any], *, at_most: float = inf
    ) -> None:
        """Say that `what` has failed, and pause.

        Args:
            at_most: seconds of the pause.
        """
        seconds = min(self.next_pause(), at_most)
        if error.retryable:
            log.warning("%s: %s; trying again in %.1f s", what, error.message, seconds)
        else:
            log.error("%s: %s; %s; trying again in %.1f s", what, error.message, REMEDY, seconds)
        await self.pause(seconds, error)

    async def pause(self, seconds: float, error: BrokerError) -> None:
        """Pause for `seconds`, or until the database that was lost with `error` answers another loop."""
        if not error.lost:
            await anyio.sleep(seconds)
        elif self._tried_at is None and self._outages != self._contact.outages:
            await anyio.lowlevel.checkpoint()
        elif self._tried_at not in (None, self._contact.answers):
            # It is back, and this loop's last try began too early to see it.
            await anyio.sleep(min(seconds, self._least_pause()))
        else:
            with anyio.move_on_after(seconds):
                if self._was_woken:
                    await anyio.sleep(self._least_pause())
                await self._contact.wait_answered()
                self._was_woken = True
        self._tried_at = self._contact.answers
        self._outages = self._contact.outages

    def _least_pause(self) -> float:
        self._least_waits = self._least_waits or pauses(self._resilience, self._random)
        return next(self._least_waits)
