"""Local clocks, read naively: what the slots of patterns are compared with.

A zone is cut where its offset changes; within a piece the wall clock is the instant plus the offset. So nothing here
knows of `fold`, of gaps beyond their two ends, or of how the code under test looks for either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

ZONES = sorted(available_timezones())
SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
_STEP = 14 * DAY
_BEGIN, _END = datetime(1840, 1, 1, tzinfo=UTC), datetime(2045, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Change:
    """From `at` on the clock is `after` ahead of UTC, until then `before`."""

    at: datetime
    before: timedelta
    after: timedelta

    @property
    def wall_before(self) -> datetime:
        """What the clock would have shown at `at`."""
        return self.at.replace(tzinfo=None) + self.before

    @property
    def wall_after(self) -> datetime:
        """What it shows."""
        return self.at.replace(tzinfo=None) + self.after


@dataclass(frozen=True)
class Rule:
    """Which wall-clock times a pattern names.

    Attributes:
        once: each time counts once, and at the end of the gap where it is skipped; else whenever it is shown.
        matches: whether a whole minute is named.
        rest: how long after the whole minute.
    """

    once: bool
    matches: Callable[[datetime], bool]
    rest: timedelta = timedelta(0)


def offset_at(instant: datetime, zone: ZoneInfo) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def changes_between(zone: ZoneInfo, begin: datetime, end: datetime) -> Iterator[Change]:
    """Every change of the offset, as long as no two that undo each other are within two weeks."""
    earlier, before = begin, offset_at(begin, zone)
    while earlier < end:
        later = earlier + _STEP
        after = offset_at(later, zone)
        if after == before:
            earlier = later
            continue
        low, high = earlier, later
        while high - low > SECOND:
            middle = low + (high - low) // (2 * SECOND) * SECOND
            low, high = (middle, high) if offset_at(middle, zone) == before else (low, middle)
        after = offset_at(high, zone)
        yield Change(high, before, after)
        earlier, before = high, after


@cache
def changes(name: str) -> tuple[Change, ...]:
    """All changes of a zone from 1840 to 2045."""
    return tuple(changes_between(ZoneInfo(name), _BEGIN, _END))


def slots_between(name: str, rule: Rule, begin: datetime, end: datetime) -> list[datetime]:
    """The slots later than `begin` and up to `end`, by walking along the wall clock minute by minute."""
    # Where the clock is set back, what is shown for the second time was shown up to a day before.
    first, last = begin - DAY, end + DAY
    inner = [change for change in changes(name) if first < change.at < last]
    edges = [first, *(change.at for change in inner), last]
    slots: set[datetime] = set()
    shown: set[datetime] = set()
    for here, there in pairwise(edges):
        offset = offset_at(here, ZoneInfo(name))
        for wall in _named(rule, _naive(here) + offset, _naive(there) + offset):
            if not rule.once or wall not in shown:
                slots.add((wall - offset).replace(tzinfo=UTC))
            shown.add(wall)
    if rule.once:
        slots |= {
            change.at
            for change in inner
            for wall in _named(rule, change.wall_before, change.wall_after)
            if wall not in shown
        }
    return sorted(slot for slot in slots if begin < slot <= end)


def _named(rule: Rule, begin: datetime, end: datetime) -> Iterator[datetime]:
    minute = begin.replace(second=0, microsecond=0)
    while minute < end:
        if rule.matches(minute) and begin <= minute + rule.rest < end:
            yield minute + rule.rest
        minute += MINUTE


def _naive(instant: datetime) -> datetime:
    return instant.replace(tzinfo=None)
