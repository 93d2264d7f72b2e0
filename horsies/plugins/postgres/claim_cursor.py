"""Where in each queue a consumer's claims begin: at the front, or under load for a moment where its last one ended.

What was taken from the front of a queue leaves dead entries at the front of the index, until a vacuum comes, and a
vacuum removes nothing that somebody's open transaction might still see. Expired tasks stand there until they are swept.
Every claim that begins at the front walks past all of them. So where there may be many, a look from the front is
followed by claims that begin at the last place taken, the floor, for nine times as long as the look took. The price:
what is put before a floor meanwhile, by its priority or a due time in the past, is not seen until the next look.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TypeAlias

import anyio

Place: TypeAlias = tuple[int, datetime]
"""Priority and due time."""

MANY = 10_000
"""After so many tasks taken, enough may have been left behind to be in the way."""
SHARE = 9.0
"""For how many times the length of a look floors hold,"""
LEAST, MOST = 0.1, 2.0
"""and for how many seconds at least and at most."""


class ClaimCursor:
    """The floors of one consumer's queues; all of them hold, or none."""

    def __init__(self, queues: Iterable[str]) -> None:
        self._places: dict[str, Place | None] = dict.fromkeys(queues)
        self._looks_since: float | None = None
        self._hold_until = 0.0
        self._taken = 0

    @property
    def hold(self) -> bool:
        """Whether the next claim begins at the floors."""
        return anyio.current_time() < self._hold_until

    def lift(self) -> None:
        """Let the next claim look from the front."""
        self._places = dict.fromkeys(self._places)
        self._looks_since = anyio.current_time()

    def taken(self, tasks: Iterable[tuple[str, Place]], *, obstructed: bool) -> None:
        """Move the floors to what a claim took, and let them hold if it looked from the front and there was much.

        Args:
            tasks: queue and place of each task, in any order.
            obstructed: the claim met more expired tasks than it swept aside.
        """
        for queue, place in tasks:
            self._taken += 1
            floor = self._places[queue]
            self._places[queue] = place if floor is None else max(floor, place)
        if self._looks_since is not None and (obstructed or self._taken >= MANY):
            now = anyio.current_time()
            self._hold_until = now + min(MOST, max(LEAST, SHARE * (now - self._looks_since)))
        self._looks_since = None

    @property
    def priorities(self) -> list[int]:
        """For each queue the priority to begin at; 0 for the front."""
        return [0 if place is None else place[0] for place in self._places.values()]

    @property
    def due_ats(self) -> list[datetime | None]:
        """For each queue the due time to begin at; None for the front."""
        return [None if place is None else place[1] for place in self._places.values()]
