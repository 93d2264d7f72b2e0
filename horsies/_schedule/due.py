"""What to do about a schedule now: a pure function of its declaration, where it stands, and the time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta

from .._declare.schedule import Schedule

LATE = timedelta(minutes=1)
"""Up to so much a slot is sent for as if it were on time; beyond, it was missed, and `catch_up` says what follows."""
MOST = 1_000
"""Missed slots that `catch_up="all"` makes up for."""
BATCH = 100
"""Slots that are dealt with at a time."""

_INSTANT = timedelta(microseconds=1)
_FURTHEST = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Due:
    """`slots` are to be sent for, in order; afterwards the schedule stands at `next_slot`.

    `missed_from` is the first slot that is left out because it is too late; None: none is.
    """

    slots: tuple[datetime, ...]
    next_slot: datetime | None
    missed_from: datetime | None = None


def due(schedule: Schedule, slot: datetime, now: datetime, *, stored: datetime | None = None) -> Due:
    """What becomes of the slots from `slot` on that have come at `now`, which is not before `slot`.

    Args:
        stored: where the schedule stands, if `slot` stands for it, see `slot_of_now`. Until `stored` is late, `slot` is
            on time: no scheduler that went by the old rules could know that it had come.
    """
    first = slot if stored is not None and stored >= now - LATE else _first(schedule, slot, now)
    slots: list[datetime] = []
    following = first
    while following is not None and following <= now and len(slots) < BATCH:
        slots.append(following)
        following = schedule.next_after(following)
    return Due(tuple(slots), following, None if first == slot else slot)


def slot_of_now(schedule: Schedule, stored: datetime, last: datetime | None) -> datetime | None:
    """The slot that stands for `stored` by the rules of now.

    Rules change while a slot is stored: a new time zone database moves an offset, or a new version of the code reads a
    pattern in another way. A stored slot that the rules still give stands for itself. If they do not give it, the
    nearest slot does, and of two that are as near the later one. An offset moves by an hour or two, so the nearest slot
    belongs to the same local day. A day whose slot was sent for by the old rules thus gets no second one by the new.

    Args:
        last: the slot that was sent for last. None up to there comes again.
    """
    following = schedule.next_after(stored - _INSTANT)
    if following == stored:
        return stored
    reach = _FURTHEST if last is None else max(stored - last, _INSTANT)
    if following is not None:
        reach = min(reach, following - stored)
    return _last_before(schedule, stored, reach) or following


def _last_before(schedule: Schedule, end: datetime, reach: timedelta) -> datetime | None:
    """The last slot before `end` that is less than `reach` away from it. Patterns know only forwards."""
    span = min(LATE, reach)
    while (found := schedule.next_after(end - span)) is None or found >= end:
        if span == reach:
            return None
        span = min(2 * span, reach)
    until = end
    while (following := schedule.next_after(found)) is not None and following < end:
        # A pattern may have any number of slots in the span, so each step halves what is left of it.
        middle = following + (until - following) / 2
        later = schedule.next_after(middle)
        if later is not None and later < end:
            found = later
        else:
            found, until = following, middle
    return found


def _first(schedule: Schedule, slot: datetime, now: datetime) -> datetime | None:
    """The first that is not left out, of `slot` and those after it: of the late ones some may be."""
    punctual = now - LATE
    if slot >= punctual:
        return slot
    if schedule.catch_up == "all":
        return _last(schedule, slot, punctual - _INSTANT, MOST)
    resumed = schedule.next_after(punctual - _INSTANT)
    if schedule.catch_up == "none" or (resumed is not None and resumed <= now):
        return resumed
    return _last(schedule, slot, punctual - _INSTANT, 1)


def _last(schedule: Schedule, slot: datetime, until: datetime, most: int) -> datetime:
    """The first of the last `most` slots from `slot` to `until`, or `slot` where there are fewer.

    Patterns know only forwards, and there may be millions, so the look back becomes twice as long until it has enough.
    """
    if schedule.end is not None:
        until = min(until, schedule.end)
    span = LATE
    while True:
        reaches_it = span >= until - slot
        following = slot if reaches_it else schedule.next_after(until - span)
        found: deque[datetime] = deque(maxlen=most)
        while following is not None and following <= until:
            found.append(following)
            following = schedule.next_after(following)
        if reaches_it or len(found) == most:
            return found[0]
        span *= 2
