"""Wall-clock times in a time zone, through the hours that a clock change skips or repeats.

Two readings, as cron has them:

- *once*: a wall-clock time is meant once a day. One that is skipped comes at the end of the gap; of one that is
  repeated the first counts.
- *each*: every instant at which the wall clock shows such a time. What is skipped does not come; what is repeated comes
  twice.

Both are pure, and whatever they give is later than where they began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import TypeAlias
from zoneinfo import ZoneInfo

Times: TypeAlias = Callable[[datetime], Iterator[datetime]]
"""Wall-clock times (naive) after a given one, in order."""

_NEAR = timedelta(days=2)
"""No clock change is larger: whole days have been skipped and repeated, where an island changed sides."""
_SECOND = timedelta(seconds=1)
_TRIES = 3_000
"""How many times in a row may be skipped, or lie in the past of a clock that was set back, before it is given up: more
than there are minutes in two days."""


@lru_cache(maxsize=256)
def zone_named(name: str) -> tzinfo | None:
    """The IANA time zone; None where there is none of that name. UTC needs no database of time zones."""
    if name in ("UTC", "Etc/UTC"):
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None


def next_once(after: datetime, zone: tzinfo, times: Times) -> datetime | None:
    """The first instant after `after` that one of `times` means, each of them once."""
    for count, wall in enumerate(times(_wall(after, zone))):
        found = _shown(wall, zone)
        instant = found[0] if found else _end_of_gap(wall, zone)
        if instant > after:
            return instant
        if count > _TRIES:
            break
    return None


def next_each(after: datetime, zone: tzinfo, times: Times) -> datetime | None:
    """The first instant after `after` at which the wall clock shows one of `times`."""
    begins = [_wall(after, zone)]
    soon = after + _NEAR
    if _offset(soon, zone) < _offset(after, zone):
        # Times already shown are going to be shown again.
        begins.append(_wall(_change(after, soon, zone), zone) - _SECOND)
    found = [instant for begin in begins if (instant := _first_shown(after, zone, times(begin))) is not None]
    return min(found, default=None)


def _first_shown(after: datetime, zone: tzinfo, walls: Iterator[datetime]) -> datetime | None:
    for count, wall in enumerate(walls):
        for instant in _shown(wall, zone):
            if instant > after:
                return instant
        if count > _TRIES:
            break
    return None


def _wall(instant: datetime, zone: tzinfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def _readings(wall: datetime, zone: tzinfo) -> tuple[datetime, datetime]:
    """The instant by the offset before a clock change, and by the one after it; mostly they are the same."""
    by_old, by_new = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    return by_old, by_new


def _shown(wall: datetime, zone: tzinfo) -> list[datetime]:
    """The instants at which the clock shows `wall`, in order: one, two, or in a gap none."""
    return sorted({instant for instant in _readings(wall, zone) if _wall(instant, zone) == wall})


def _end_of_gap(wall: datetime, zone: tzinfo) -> datetime:
    by_old, by_new = _readings(wall, zone)
    return _change(by_new, by_old, zone)


def _change(earlier: datetime, later: datetime, zone: tzinfo) -> datetime:
    """The first instant after `earlier`, in whole seconds, with another offset than there; it is not after `later`."""
    offset, begin = _offset(earlier, zone), earlier.replace(microsecond=0)
    low, high = 0, -(-(later - begin) // _SECOND)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(begin + middle * _SECOND, zone) == offset:
            low = middle
        else:
            high = middle
    return begin + high * _SECOND


def _offset(instant: datetime, zone: tzinfo) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return offset
