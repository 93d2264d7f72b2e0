"""What to do about a schedule now: a pure function of its declaration, where it stands, and the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from .._task.recurring import Schedule

LATE = timedelta(minutes=1)
"""Up to so much a slot is sent for as if it were on time; beyond, it was missed, and `catch_up` says what follows."""
MOST = 1_000
"""Slots that `catch_up="all"` makes up for."""
BATCH = 100
"""Slots that are dealt with at a time."""


@dataclass(frozen=True, slots=True)
class Due:
    """`slots` are to be sent for, in order; afterwards the schedule stands at `next_slot`.

    `missed_from` is the first slot that is left out because it is too late; None: none is.
    """

    slots: tuple[datetime, ...]
    next_slot: datetime | None
    missed_from: datetime | None = None


def due(schedule: Schedule, slot: datetime, now: datetime) -> Due:
    """What becomes of the slots from `slot` on that have come at `now`, which is not before `slot`."""
    punctual = now - LATE
    if slot >= punctual:
        return _in_turn(schedule, slot, now)
    if schedule.catch_up == "all":
        first = _last(schedule, slot, now, MOST)[0]
        found = _in_turn(schedule, first, now)
        return found if first == slot else Due(found.slots, found.next_slot, slot)
    if schedule.catch_up == "latest":
        (last,) = _last(schedule, slot, now, 1)
        return Due((last,), schedule.next_after(last), slot if slot < last else None)
    resumed = schedule.next_after(punctual - timedelta(microseconds=1))
    if resumed is None or resumed > now:
        return Due((), resumed, slot)
    found = _in_turn(schedule, resumed, now)
    return Due(found.slots, found.next_slot, slot)


def _in_turn(schedule: Schedule, slot: datetime, now: datetime) -> Due:
    """All that have come from `slot` on, as far as one batch goes."""
    slots: list[datetime] = []
    following: datetime | None = slot
    while following is not None and following <= now and len(slots) < BATCH:
        slots.append(following)
        following = schedule.next_after(following)
    return Due(tuple(slots), following)


def _last(schedule: Schedule, slot: datetime, now: datetime, most: int) -> list[datetime]:
    """The last `most` of the slots from `slot` to `now`, fewer where there are fewer.

    Patterns know only forwards, and there may be millions, so the look back becomes twice as long until it has enough.
    """
    span = LATE
    while True:
        begin = max(slot, now - span)
        slots = [slot] if begin == slot else []
        following = schedule.next_after(begin if begin == slot else begin - timedelta(microseconds=1))
        while following is not None and following <= now:
            slots.append(following)
            following = schedule.next_after(following)
        if begin == slot or len(slots) >= most:
            return slots[-most:]
        span *= 2
