"""What may be claimed for the places of a worker that have fewer slots than the worker has in all.

A claim knows names of tasks and no places. So it may bring more tasks of one place than that place has slots, while
another worker could run them. Three rules follow.

1. Tasks that have waited for a slot of their place for `PATIENCE` are given back, but for those that will begin within
   a tenth of a second.
2. Once that has happened, a claim passes over the tasks of this place while it has no free slot.
3. For `NARROW` seconds after that, a claim with tasks of this place takes no more than it has free slots. Every other
   claim passes over them, so that the tasks of other places need not come one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from .._task.declare import Task
from .._task.place import Place
from .pace import PATIENCE, Pace

NARROW = 30.0
"""Seconds. A narrow claim that finds less than it asks for ends them sooner."""


class Places:
    """The scarce places of one worker.

    Args:
        slots: by place.
        most: of tasks at once, in all places together.
        tasks: those that the worker knows.
        ahead: the largest number of tasks to claim ahead for one place.
        now: seconds, on the clock that all other times here are from.

    Attributes:
        missed: the places that the last claim passed over because they had no free slot.
    """

    def __init__(
        self, slots: Mapping[Place, int], most: int, tasks: Iterable[Task[..., object]], ahead: int, now: float
    ) -> None:
        names: dict[Place, set[str]] = {}
        for task in tasks:
            if slots[task.place] < most:
                names.setdefault(task.place, set()).add(task.name)
        self._names = {place: frozenset(some) for place, some in names.items()}
        self._paces = {place: Pace(ahead, now) for place in names}
        self._narrow_until = dict.fromkeys(names, -math.inf)
        self._known = set[Place]()
        self._crowded_since: dict[Place, float] = {}
        self._is_narrow = False
        self.missed: frozenset[Place] = frozenset()

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._names)

    def count_end(self, place: Place) -> None:
        if place in self._paces:
            self._paces[place].count_end()

    def bounded(
        self,
        tasks: int,
        free: Mapping[Place, int],
        waiting: Mapping[Place, int],
        *,
        was_full: bool,
        rests_until: float,
        now: float,
    ) -> tuple[int, frozenset[str], bool]:
        """What the next claim may take of `tasks` that there is room for in all.

        Args:
            free, waiting: free slots, and tasks that wait for one, by place.
            was_full: the last claim brought all that it asked for.
            rests_until: no claim that passes over tasks before that.

        Returns:
            The number of tasks, the names to pass over, and whether another claim is to follow in any case.
        """
        if self._is_narrow and not was_full:
            self._narrow_until = dict.fromkeys(self._names, -math.inf)  # the last claim has left no task behind
        full, narrow = set[Place](), dict[Place, int]()
        for place in self._known:
            ahead = self._paces[place].ahead(now)
            room = free[place] + ahead - waiting.get(place, 0)
            if room <= 0 or room * 2 < ahead:  # a few at a time would cost a statement each
                full.add(place)
            elif now < self._narrow_until[place]:
                narrow[place] = room
        self.missed = frozenset(full)
        is_resting = now < rests_until
        if narrow and (is_resting or not self._is_narrow):
            self._is_narrow = True
            return min(tasks, *narrow.values()), self._of(full), True
        if is_resting and full:
            return 0, frozenset(), False
        self._is_narrow = False
        return tasks, self._of(full.union(narrow)), bool(narrow)

    def excess(self, free: Mapping[Place, int], waiting: Mapping[Place, int], now: float) -> dict[Place, int]:
        """How many of those that wait for each place are to be given back now."""
        gifts = {}
        for place, pace in self._paces.items():
            over = waiting.get(place, 0) - max(free[place], 0) - pace.ahead(now)
            if over <= 0:
                self._crowded_since.pop(place, None)
            elif now - self._crowded_since.setdefault(place, now) >= PATIENCE:
                gifts[place] = over
                self._known.add(place)
                self._crowded_since[place] = now
                self._narrow_until[place] = now + NARROW
        return gifts

    def next_excess(self) -> float:
        """When `excess` may be above 0 next."""
        return min(self._crowded_since.values(), default=math.inf) + PATIENCE

    def _of(self, places: Iterable[Place]) -> frozenset[str]:
        return frozenset().union(*(self._names[place] for place in places))
