"""The claims of a worker: one at a time, and what becomes of one whose answer is lost.

A claim goes on beside the rest, and the next one is sent before the answer is looked at, so that what a quick task
costs the database and what it costs here take place at the same time. What came in is here until the dispatcher takes
it, which it does at once: it may be RUNNING already.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime
from typing import NamedTuple, TypeAlias

import anyio
import anyio.streams.memory

from ..._core.config import ResilienceConfig
from ..._core.errors import BrokerError
from ...abc import ClaimedTask, Intake, Lease

DOUBT = 5.0
"""Seconds beyond the statement timeout for which a call that failed may still be at work on the server."""
DOUBT_POLL = 1.0
"""Seconds between looks meanwhile."""


RESTS = 1.0
"""A claim that passed over tasks and found nothing is followed by a rest of so many times its own length.

So a crowd that this worker cannot run keeps the database busy for half of the time at most.
"""


class Room(NamedTuple):
    """How many tasks may be claimed, the names of those that may start at once, and how many there are already.

    `without` are the names to pass over. With `more` another claim is to follow, whatever this one finds.
    """

    tasks: int
    startable: Collection[str] = ()
    busy: int = 0
    without: Collection[str] = ()
    more: bool = False


NOTHING = Room(0)
Answers: TypeAlias = anyio.streams.memory.MemoryObjectSendStream[Room]
"""Gets the room of each claim with its answer."""


class Claimer:
    """Claims for one worker, and remembers what it has not heard of.

    Args:
        counts: the worker's, for its statistics.
        failed: called when a claim under way has failed, or something is to be let go of.

    Attributes:
        hungry: there may be something to claim.
        full: the last claim brought as much as there was room for.
        lasted: seconds from when it was sent to its answer.
        rests_until: no claim that passes over tasks before that, because the last one found nothing behind them.
    """

    def __init__(
        self, intake: Intake, resilience: ResilienceConfig, counts: Counter[str], failed: Callable[[], None]
    ) -> None:
        self._intake = intake
        self._statement_timeout = resilience.statement_timeout
        self._counts = counts
        self._failed = failed
        self._came: deque[ClaimedTask] = deque()
        self._cancelled: dict[Lease, int] = {}
        self._strangers: dict[Lease, int | None] = {}
        self._heard_until: datetime | None = None
        self._number = 0
        self._failure: BrokerError | None = None
        self._in_doubt_until = 0.0
        self._look_at = 0.0
        self._has_looked = True
        self.is_under_way = False
        self.hungry = True
        self.full = False
        self.lasted = 0.0
        self.rests_until = 0.0

    def __len__(self) -> int:
        """How many tasks came in and have not been taken."""
        return len(self._came)

    @property
    def leases(self) -> Iterator[Lease]:
        return (row.lease for row in self._came)

    @property
    def names(self) -> Iterator[str]:
        """The names of the tasks that came in and have not been taken."""
        return (row.task_name for row in self._came)

    async def run_once(self, room: Room) -> None:
        """One claim.

        Raises:
            BrokerError: its answer is lost, and with it perhaps the knowledge of what it took.
        """
        self.hungry, self.is_under_way = False, True
        self._number += 1
        sent_at = anyio.current_time()
        try:
            if room.without:
                claim = await self._intake.claim(room.tasks, startable=room.startable, without=room.without)
            else:
                claim = await self._intake.claim(room.tasks, startable=room.startable)
        except BaseException:
            self.doubt()
            raise
        finally:
            self.is_under_way = False
        if claim.claimed_at is not None:
            self._heard_until = max(self._heard_until or claim.claimed_at, claim.claimed_at)
        found = len(claim.tasks) + claim.expired
        self.hungry = self.hungry or found > 0 or room.more
        self.full = found >= room.tasks
        answered_at = anyio.current_time()
        self.lasted = answered_at - sent_at
        if room.without and not found:
            self.rests_until = answered_at + RESTS * self.lasted
        self._counts["claimed"] += len(claim.tasks)
        self._counts["expired"] += claim.expired
        self._came.extend(claim.tasks)

    async def run_on(self, room: Room, ask: Callable[[], Room], answered: Answers) -> None:
        """One claim after the other while each is full and there is room; `raise_failure` tells what fails.

        Args:
            room: for the first claim.
            ask: tells the room for the next.
            answered: gets the room of each claim with its answer. What came in is to be taken once the next is sent.
        """
        try:
            while room.tasks > 0:
                await self.run_once(room)
                answered.send_nowait(room)
                room = ask() if self.full and not self.is_time_to_look else NOTHING
        except BrokerError as error:
            self.fail(error)

    def fail(self, error: BrokerError) -> None:
        """Have `raise_failure` raise `error`."""
        self._failure = error
        self._failed()

    def raise_failure(self) -> None:
        """Raise what failed beside the rest, once."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def take(self) -> list[tuple[ClaimedTask, bool]]:
        """What came in since, each with whether it was cancelled meanwhile."""
        came = [(row, row.lease in self._cancelled) for row in self._came]
        self._came.clear()
        if self._cancelled:
            awaited = self._awaited
            self._cancelled = {lease: number for lease, number in self._cancelled.items() if number == awaited}
        return came

    def cancel(self, lease: Lease) -> None:
        """Remember a request to cancel a task that the worker does not know: the answer to its claim may be to come."""
        if self.is_under_way or self._came:
            self._cancelled[lease] = self._number

    @property
    def _awaited(self) -> int | None:
        """The number of the claim whose answer is to come."""
        return self._number if self.is_under_way else None

    def count_lost(self, leases: Iterable[Lease]) -> int:
        """How many of `leases` are lost, and from now on to be let go of.

        Args:
            leases: what the database shows as held by the worker, which does not know it.

        A lease is lost when it is seen for a second time, with nothing in doubt, and is not of a claim whose answer is
        still to come: then the worker once knew it, and the database forgot the end.
        """
        seen = dict.fromkeys(leases, self._awaited)
        if self.is_in_doubt:
            self._strangers = {}
            return 0
        lost = [lease for lease in seen if lease in self._strangers and not self._is_awaited(self._strangers[lease])]
        self._strangers = {lease: self._strangers.get(lease, awaited) for lease, awaited in seen.items()}
        if lost:
            self.forget()
            self._strangers = {}
            self._failed()
        return len(lost)

    def _is_awaited(self, number: int | None) -> bool:
        return number is not None and number == self._awaited

    def doubt(self) -> None:
        """A call has failed. What it did, it may still be doing, for as long as the server lets a statement run."""
        self._in_doubt_until = anyio.current_time() + self._statement_timeout + DOUBT
        self.forget()

    def forget(self) -> None:
        """The worker knows no more of something that came in: one look gives it back."""
        self._look_at = 0.0
        self._has_looked = False

    @property
    def is_in_doubt(self) -> bool:
        """Until it has looked once, however long that takes, and then for as long as the call may be at work."""
        return not self._has_looked or anyio.current_time() < self._in_doubt_until

    @property
    def is_time_to_look(self) -> bool:
        return self.is_in_doubt and self._look_at <= anyio.current_time()

    async def give_back_lost(self, known: Callable[[], list[Lease]], *, at_once: bool = False) -> None:
        """Give back what a claim took whose answer was lost, if there may be such. No claim may be under way.

        Args:
            known: tells all that the worker holds and knows of.
            at_once: look although the last look was a moment ago.
        """
        if self.is_time_to_look or (at_once and self.is_in_doubt):
            self._has_looked = True  # a failure brings another doubt
            let_go = await self._intake.give_back_unknown(known(), heard_until=self._heard_until)
            self._counts["given_back"] += let_go
            self._look_at = anyio.current_time() + DOUBT_POLL

    def drop(self) -> list[ClaimedTask]:
        """What came in and was not taken, for giving it back."""
        dropped = list(self._came)
        self._came.clear()
        return dropped
