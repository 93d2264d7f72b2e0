"""What may be claimed for the places of a worker that have fewer slots than the worker has in all.

A claim knows names of tasks and no places. So it may bring more tasks of one place than that place has slots, while
another worker could run them. Three rules follow.

1. Tasks that have waited for a slot of their place for `patience` are given back, but for those that will begin within
   a tenth of a second.
2. Once that has happened, a claim passes over the tasks of this place while it has no free slot.
3. For `NARROW` seconds after that, a claim with tasks of this place takes no more than it has free slots. Every other
   claim passes over them, so that the tasks of other places need not come one by one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from ..._declare.placement import Place
from ..._declare.task import Task
from .claimer import Claimer, Room
from .prefetch import Prefetch

NARROW = 30.0
"""Seconds. A narrow claim that finds less than it asks for ends them sooner."""


class ScarceSlots:
    """The scarce places of one worker.

    Args:
        slots: by place.
        most: of tasks at once, in all places together.
        tasks: those that the worker knows.
        ahead: the largest number of tasks to claim ahead for one place.
        patience: seconds.
        now: seconds, on the clock that all other times here are from.

    Attributes:
        missed: the places that the last claim passed over because they had no free slot.
    """

    def __init__(
        self,
        slots: Mapping[Place, int],
        most: int,
        tasks: Iterable[Task[..., object]],
        *,
        ahead: int,
        patience: float,
        now: float,
    ) -> None:
        self._patience = patience
        names: dict[Place, set[str]] = {}
        for task in tasks:
            if slots[task.place] < most:
                names.setdefault(task.place, set()).add(task.name)
        self._place_of = {name: place for place, some in names.items() for name in some}
        self._names = {place: frozenset(some) for place, some in names.items()}
        self._prefetch_of = {place: Prefetch(ahead, now) for place in names}
        self._narrow_until = dict.fromkeys(names, -math.inf)
        self._known = set[Place]()
        self._crowded_since: dict[Place, float] = {}
        self._is_narrow = False
        self.missed: frozenset[Place] = frozenset()

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._names)

    def count_end(self, place: Place) -> None:
        if place in self._prefetch_of:
            self._prefetch_of[place].count_end()

    def bounded(
        self,
        room: Room,
        free: Mapping[Place, int],
        waiting: Mapping[Place, int],
        claims: Claimer,
        now: float,
    ) -> Room:
        """The part of `room` that the next claim may ask for.

        Args:
            room: there is so much in all places together.
            free, waiting: free slots, and tasks that wait for one, by place.
            claims: tells of the last claim.
        """
        if self._is_narrow and not claims.full:
            self._narrow_until = dict.fromkeys(self._names, -math.inf)  # the last claim has left no task behind
        full, narrow = set[Place](), dict[Place, int]()
        for place in self._known:
            ahead = self._prefetch_of[place].ahead(now)
            left = free[place] + ahead - waiting.get(place, 0)
            if left <= 0 or left * 2 < ahead:  # a few at a time would cost a statement each
                full.add(place)
            elif now < self._narrow_until[place]:
                narrow[place] = left
        self.missed = frozenset(full)
        is_resting = now < claims.rests_until
        if narrow and (is_resting or not self._is_narrow):
            self._is_narrow = True
            return room._replace(tasks=min(room.tasks, *narrow.values()), without=self._of(full), more=True)
        if is_resting and full:
            return Room(0)
        self._is_narrow = False
        return room._replace(without=self._of(full.union(narrow)), more=bool(narrow))

    def count(self, names: Iterable[str]) -> Counter[Place]:
        """How many of these tasks are of each scarce place."""
        return Counter(self._place_of[name] for name in names if name in self._place_of)

    def excess(self, free: Mapping[Place, int], waiting: Mapping[Place, int], now: float) -> dict[Place, int]:
        """How many of those that wait for each place are to be given back now."""
        gifts = {}
        for place, pace in self._prefetch_of.items():
            over = waiting.get(place, 0) - max(free[place], 0) - pace.ahead(now)
            if over <= 0:
                self._crowded_since.pop(place, None)
            elif now - self._crowded_since.setdefault(place, now) >= self._patience:
                gifts[place] = over
                self._known.add(place)
                self._crowded_since[place] = now
                self._narrow_until[place] = now + NARROW
        return gifts

    def next_excess(self) -> float:
        """When `excess` may be above 0 next."""
        return min(self._crowded_since.values(), default=math.inf) + self._patience

    def _of(self, places: Iterable[Place]) -> frozenset[str]:
        return frozenset().union(*(self._names[place] for place in places))
