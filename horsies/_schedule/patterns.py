"""When a schedule's slots are. Each pattern is a value, and gives the next slot after an instant: nothing else decides.

So slots do not drift: they follow from the pattern alone, not from when a scheduler came to look. A pattern of your own
is any object with `next_after` and a `str()` that says all of it, because a schedule whose `str()` has changed begins
anew.

Wall-clock times that a clock change skips or repeats: `Daily`, `Weekly`, `Monthly` and a `Cron` whose minute and hour
do not begin with a star mean each time once a day; what is skipped comes when the gap ends. `Hourly` and other `Cron`
patterns come whenever the clock shows such a time: 25 times in a day of 25 hours. It is what Debian's cron does.
"""

from __future__ import annotations

import calendar
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, tzinfo
from difflib import get_close_matches
from itertools import count
from typing import Literal, TypeAlias
from zoneinfo import available_timezones

from cronsim import CronSim, CronSimError

from .._core.errors import HorsiesError, raise_all
from .._core.instants import EPOCH
from .cron import ALIASES, read_cron
from .wall_clock import Times, next_each, next_once, zone_named

ShortMonths: TypeAlias = Literal["skip", "last"]
Reading: TypeAlias = Callable[[datetime, tzinfo, Times], datetime | None]

_SHORTEST = timedelta(milliseconds=100)
_INSTANT, _HOUR, _DAY = timedelta(microseconds=1), timedelta(hours=1), timedelta(days=1)
_LONG = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WEEKDAYS = tuple(name[:3] for name in _LONG)
_NAMES = {name: name[:3] for name in (*_LONG, *_WEEKDAYS)}


@dataclass(frozen=True, slots=True)
class Every:
    """Every `interval`, counted from the schedule's `start`, or without one from 1970-01-01 00:00 UTC.

    Args:
        interval: a timedelta or seconds; at least 0.1 s.

    Raises:
        HorsiesError: HRS-205.
    """

    interval: timedelta
    """Time between two slots."""

    def __init__(self, interval: float | timedelta) -> None:
        span = interval
        if isinstance(span, (int, float)) and not isinstance(span, bool):
            try:
                span = timedelta(seconds=span)
            except (OverflowError, ValueError):
                span = timedelta(0)
        if not isinstance(span, timedelta) or span < _SHORTEST:
            raise _bad("Every", "interval is neither a timedelta nor a number of seconds, or is below 0.1 s")
        object.__setattr__(self, "interval", span)

    def next_after(self, after: datetime, *, start: datetime | None = None) -> datetime | None:
        """Return the first slot later than `after` and not before `start`; None at the end of the calendar."""
        # In UTC, because between two datetimes of one zone Python counts by the wall clock.
        try:
            anchor, after = (start or EPOCH).astimezone(UTC), after.astimezone(UTC)
            if start is not None and after < anchor:
                return anchor
            return anchor + ((after - anchor) // self.interval + 1) * self.interval
        except OverflowError:  # beyond year 9999
            return None

    def __str__(self) -> str:
        return f"every {self.interval}"


@dataclass(frozen=True, slots=True)
class Hourly:
    """Whenever the clock shows `minute`.

    Raises:
        HorsiesError: HRS-205.
    """

    minute: int = 0
    """Minute of the hour: 0 to 59."""
    tz: str = "UTC"
    """IANA time zone. It matters if its offset from UTC is not a whole number of hours."""

    def __post_init__(self) -> None:
        raise_all([*_number("Hourly", "minute", self.minute, 0, 59), *_zone("Hourly", self.tz)])

    def next_after(self, after: datetime, *, start: datetime | None = None) -> datetime | None:
        """Return the first slot later than `after` and not before `start`; None at the end of the calendar."""
        return _next(next_each, after, start, self.tz, self._times)

    def _times(self, wall: datetime) -> Iterator[datetime]:
        first = wall.replace(minute=self.minute, second=0, microsecond=0)
        return (first + hours * _HOUR for hours in count(int(first <= wall)))

    def __str__(self) -> str:
        return f"hourly at :{self.minute:02} {self.tz}"


@dataclass(frozen=True, slots=True)
class Daily:
    """Every day at one time.

    Raises:
        HorsiesError: HRS-205.
    """

    at: time
    """Wall-clock time, without a time zone of its own."""
    tz: str = "UTC"
    """IANA time zone of `at`."""

    def __post_init__(self) -> None:
        raise_all([*_time("Daily", self.at), *_zone("Daily", self.tz)])

    def next_after(self, after: datetime, *, start: datetime | None = None) -> datetime | None:
        """Return the first slot later than `after` and not before `start`; None at the end of the calendar."""
        return _next(next_once, after, start, self.tz, lambda wall: _days(wall, self.at))

    def __str__(self) -> str:
        return f"daily at {self.at} {self.tz}"


@dataclass(frozen=True, slots=True)
class Weekly:
    """On some days of the week at one time.

    Args:
        days: "mon" or "monday", or several of them, in any order.
        at: wall-clock time, without a time zone of its own.
        tz: IANA time zone of `at`.

    Raises:
        HorsiesError: HRS-205.
    """

    days: tuple[str, ...]
    """Days of the week from Monday on, three letters each, for example `("mon", "fri")`."""
    at: time
    """Wall-clock time."""
    tz: str
    """IANA time zone of `at`."""

    def __init__(self, days: str | Iterable[str], at: time = time(0), tz: str = "UTC") -> None:
        given = [days] if isinstance(days, str) else list(days) if isinstance(days, Iterable) else []
        named = {_NAMES.get(day.lower()) if isinstance(day, str) else None for day in given}
        problems = []
        if not named or None in named:
            problems.append(_bad("Weekly", "days are not names of weekdays", "for example 'mon', or ('mon', 'friday')"))
        raise_all([*problems, *_time("Weekly", at), *_zone("Weekly", tz)])
        object.__setattr__(self, "days", tuple(day for day in _WEEKDAYS if day in named))
        object.__setattr__(self, "at", at)
        object.__setattr__(self, "tz", tz)

    def next_after(self, after: datetime, *, start: datetime | None = None) -> datetime | None:
        """Return the first slot later than `after` and not before `start`; None at the end of the calendar."""
        wanted = {_WEEKDAYS.index(day) for day in self.days}

        def times(wall: datetime) -> Iterator[datetime]:
            return (day for day in _days(wall, self.at) if day.weekday() in wanted)

        return _next(next_once, after, start, self.tz, times)

    def __str__(self) -> str:
        return f"weekly on {', '.join(self.days)} at {self.at} {self.tz}"


@dataclass(frozen=True, slots=True)
class Monthly:
    """On one day of every month at one time.

    Raises:
        HorsiesError: HRS-205.
    """

    day: int
    """Day of the month: 1 to 31."""
    at: time = time(0)
    """Wall-clock time, without a time zone of its own."""
    tz: str = "UTC"
    """IANA time zone of `at`."""
    short_months: ShortMonths = "skip"
    """In a month without this day: "skip" the month, or use its "last" day."""

    def __post_init__(self) -> None:
        problems = [*_number("Monthly", "day", self.day, 1, 31), *_time("Monthly", self.at), *_zone("Monthly", self.tz)]
        if self.short_months not in ("skip", "last"):
            problems.append(_bad("Monthly", "short_months is neither 'skip' nor 'last'"))
        raise_all(problems)

    def next_after(self, after: datetime, *, start: datetime | None = None) -> datetime | None:
        """Return the first slot later than `after` and not before `start`; None at the end of the calendar."""
        return _next(next_once, after, start, self.tz, self._times)

    def _times(self, wall: datetime) -> Iterator[datetime]:
        for month in count(wall.year * 12 + wall.month - 1):
            year, index = divmod(month, 12)
            length = calendar.monthrange(year, index + 1)[1]
            if self.day > length and self.short_months == "skip":
                continue
            found = datetime.combine(datetime(year, index + 1, min(self.day, length)), self.at)
            if found > wall:
                yield found

    def __str__(self) -> str:
        short = ", or its last" if self.short_months == "last" and self.day > 28 else ""
        return f"monthly on day {self.day}{short} at {self.at} {self.tz}"


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression of five fields: minute, hour, day of month, month, day of week.

    A field is a list of terms, separated by commas. A term is `*`, a value or a range, each with or without a step:
    `*/5`, `10-30/5`, `10/5` (from 10 to the end). A step beyond the range leaves its first value. Months and
    weekdays have names of three letters in any case; 0 and 7 are Sunday, and a range may end there: `fri-sun`. No
    other range ends before it begins. Days of the month also take `L` and `LW` (the last day, the last workday),
    days of the week `5L` (the last Friday) and `1#2` (the second Monday). If both day fields are given, a day that
    either names counts; if one of them begins with a star, a day counts that both name.

    The grammar is that of crontab(5); cronsim steps through the dates.

    Raises:
        HorsiesError: HRS-205 if a field breaks a rule, or if no date that the expression names ever comes.
    """

    expression: str
    """The five fields, for example `*/15 9-17 * * mon-fri`."""
    tz: str = "UTC"
    """IANA time zone of the fields."""
    _text: str = field(init=False, repr=False, compare=False, default="")

    def __post_init__(self) -> None:
        problems = _zone("Cron", self.tz)
        if isinstance(self.expression, str) and len(fields := self.expression.split()) == 5:
            object.__setattr__(self, "expression", " ".join(fields).lower())
            problems += self._read(fields)
        else:
            problems.append(_not_five_fields(self.expression))
        raise_all(problems)

    def _read(self, fields: list[str]) -> list[HorsiesError]:
        reading, shown = read_cron(fields), _short(" ".join(fields))
        object.__setattr__(self, "_text", reading.text)
        if reading.problems:
            forms = "a field is a list of *, 5, 1-5, */5, 1-5/2; days of the month also L, LW, of the week 5L, 1#2"
            return [_bad("Cron", f"{shown} cannot be read: {problem}", forms) for problem in reading.problems]
        try:
            if next(CronSim(reading.text, EPOCH.replace(tzinfo=None)), None) is not None:
                return []
        except CronSimError:
            return [_bad("Cron", f"{shown} cannot be read: Bad day-of-month: none of its months has such a day")]
        return [_bad("Cron", f"{shown} names no date that ever comes")]

    def next_after(self, after: datetime, *, start: datetime | None = None) -> datetime | None:
        """Return the first slot later than `after` and not before `start`; None at the end of the calendar."""
        minute, hour, *_ = self.expression.split()
        reading = next_each if minute.startswith("*") or hour.startswith("*") else next_once
        return _next(reading, after, start, self.tz, lambda wall: CronSim(self._text, wall))

    def __str__(self) -> str:
        return f"cron {self.expression} {self.tz}"


def _next(reading: Reading, after: datetime, start: datetime | None, tz: str, times: Times) -> datetime | None:
    """The first slot after `after` and from `start` on; None when the calendar ends before."""
    zone = zone_named(tz)
    assert zone is not None, "the pattern has seen to it"
    try:
        after = after.astimezone(UTC)
        if start is not None and after < start.astimezone(UTC):
            after = start.astimezone(UTC) - _INSTANT
        return reading(after, zone, times)
    except (OverflowError, ValueError):  # both are said of dates beyond year 9999
        return None


def _days(wall: datetime, at: time) -> Iterator[datetime]:
    first = datetime.combine(wall, at)
    return (first + days * _DAY for days in count(int(first <= wall)))


def _not_five_fields(expression: object) -> HorsiesError:
    fields = "minute, hour, day of month, month, day of week"
    if isinstance(expression, str) and (meant := ALIASES.get(expression.strip().lower())) is not None:
        return _bad("Cron", f"{expression!r} is not five fields", fields, f"write Cron({meant!r})")
    return _bad("Cron", f"{_short(expression)} is not five fields", fields)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _zone(pattern: str, tz: object) -> list[HorsiesError]:
    if isinstance(tz, str) and zone_named(tz) is not None:
        return []
    names = available_timezones() if isinstance(tz, str) else set()
    if isinstance(tz, str) and not names:
        what = f"time zone {_short(tz)} cannot be read: this system has no database of time zones"
        return [_bad(pattern, what, "pip install tzdata", "or give tz='UTC', which needs none")]
    near = get_close_matches(tz.title(), names, 1) if isinstance(tz, str) else []
    remedies = [f"the nearest name is {name!r}" for name in near]
    remedies.append("IANA names, such as Europe/Paris; pip install tzdata brings those that this system lacks")
    return [_bad(pattern, f"there is no time zone {_short(tz)}", *remedies)]


def _time(pattern: str, at: object) -> list[HorsiesError]:
    if isinstance(at, time) and at.tzinfo is None:
        return []
    return [_bad(pattern, "at is not a time without a time zone", "for example time(3, 0); the zone is tz=...")]


def _number(pattern: str, what: str, value: object, least: int, most: int) -> list[HorsiesError]:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return []
    return [_bad(pattern, f"{what} is not a whole number of {least}..{most}")]


def _bad(pattern: str, what: str, *notes: str) -> HorsiesError:
    return HorsiesError("HRS-205", f"{pattern}: {what}", notes)
