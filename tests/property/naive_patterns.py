"""Patterns of wall-clock times to try, each with the rule that its documentation gives."""

from __future__ import annotations

import calendar
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache

from hypothesis import assume
from hypothesis import strategies as st
from local_clocks import MINUTE, ZONES, Change, Rule, changes

from horsies import Cron, Daily, HorsiesError, Hourly, Monthly, Pattern, Weekly

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

times = st.builds(time, st.integers(0, 23), st.integers(0, 59)) | st.times()
zones = st.sampled_from(ZONES)
instants = st.datetimes(datetime(1800, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


def rest_of(at: time) -> timedelta:
    return timedelta(seconds=at.second, microseconds=at.microsecond)


def is_at(wall: datetime, at: time) -> bool:
    return (wall.hour, wall.minute) == (at.hour, at.minute)


def last_of(day: date) -> int:
    return calendar.monthrange(day.year, day.month)[1]


def hourly(tz: str, minute: int) -> tuple[Pattern, Rule]:
    return Hourly(minute, tz), Rule(once=False, matches=lambda wall: wall.minute == minute)


def daily(tz: str, at: time) -> tuple[Pattern, Rule]:
    return Daily(at, tz), Rule(once=True, matches=lambda wall: is_at(wall, at), rest=rest_of(at))


def weekly(tz: str, at: time, days: frozenset[str]) -> tuple[Pattern, Rule]:
    def matches(wall: datetime) -> bool:
        return is_at(wall, at) and WEEKDAYS[wall.weekday()] in days

    return Weekly(days, at, tz), Rule(once=True, matches=matches, rest=rest_of(at))


def monthly(tz: str, at: time, day: int, *, last: bool) -> tuple[Pattern, Rule]:
    def matches(wall: datetime) -> bool:
        return is_at(wall, at) and wall.day == (min(day, last_of(wall)) if last else day)

    pattern = Monthly(day, at, tz, short_months="last" if last else "skip")
    return pattern, Rule(once=True, matches=matches, rest=rest_of(at))


OnDay = Callable[[date], bool]
NO_NAMES: dict[str, int] = {}
DAYS = {name: index for index, name in enumerate(("sun", *WEEKDAYS[:6]))}


@st.composite
def fields(draw: st.DrawFn, low: int, high: int, names: dict[str, int], often: int) -> tuple[str, frozenset[int]]:
    """A list of one to three as text, and the values that it names."""
    values = st.integers(low, high) | st.just(often)

    def spelt(value: int) -> str:
        return draw(st.sampled_from([str(value), *(name for name, number in names.items() if number == value)]))

    def spelt_last(value: int) -> str:
        # A week may end on Sunday under any of its names.
        return draw(st.sampled_from(["7", "0", "sun"])) if names is DAYS and value == 7 and begin > 0 else spelt(value)

    texts: list[str] = []
    named: set[int] = set()
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        (begin, end), step = sorted((draw(values), draw(values))), draw(st.integers(1, high + 1))
        forms = [
            ("*", range(low, high + 1)),
            (f"*/{step}", range(low, high + 1, step)),
            (spelt(begin), range(begin, begin + 1)),
            (f"{spelt(begin)}/{step}", range(begin, high + 1, step)),
        ]
        end = begin if draw(st.integers(0, 4)) == 0 else end
        forms.append((f"{spelt(begin)}-{spelt_last(end)}", range(begin, end + 1)))
        forms.append((f"{spelt(begin)}-{spelt_last(end)}/{step}", range(begin, end + 1, step)))
        text, found = draw(st.sampled_from(forms))
        texts.append(text)
        named.update(found)
    return ",".join(texts), frozenset(named)


@st.composite
def days_of_month(draw: st.DrawFn, often: int) -> tuple[str, OnDay]:
    kind = draw(st.sampled_from(["*", "*", "numbers", "L", "LW"]))
    if kind == "*":
        return "*", lambda _: True
    if kind == "L":
        return "L", lambda day: day.day == last_of(day)
    if kind == "LW":
        return "LW", lambda day: day.day == max(d for d in range(1, last_of(day) + 1) if is_workday(day.replace(day=d)))
    text, named = draw(fields(1, 31, NO_NAMES, often))
    return text, lambda day: day.day in named


@st.composite
def days_of_week(draw: st.DrawFn, often: int) -> tuple[str, OnDay]:
    kind = draw(st.sampled_from(["*", "*", "numbers", "L", "#"]))
    number, nth = draw(st.integers(0, 7) | st.just(often)), draw(st.integers(1, 5))

    def day_name(number: int) -> str:
        return draw(st.sampled_from([str(number), ("sun", *WEEKDAYS)[number]]))

    if kind == "*":
        return "*", lambda _: True
    if kind == "L":
        return f"{day_name(number)}L", lambda day: day.isoweekday() % 7 == number % 7 and day.day > last_of(day) - 7
    if kind == "#":
        return (
            f"{day_name(number)}#{nth}",
            lambda day: day.isoweekday() % 7 == number % 7 and (day.day - 1) // 7 == nth - 1,
        )
    text, named = draw(fields(0, 7, DAYS, often))
    return text, lambda day: day.isoweekday() in named or day.isoweekday() % 7 in named


def is_workday(day: date) -> bool:
    return day.weekday() < 5


@st.composite
def crons(draw: st.DrawFn, tz: str, near: datetime) -> tuple[Cron, Rule]:
    """A cron expression that tends to name times about `near`."""
    minute, minutes = draw(fields(0, 59, NO_NAMES, near.minute))
    hour, hours = draw(fields(0, 23, NO_NAMES, near.hour))
    dom, on_dom = draw(days_of_month(near.day))
    month, months = draw(
        st.just(("*", frozenset(range(1, 13))))
        | fields(1, 12, dict(zip(MONTHS, range(1, 13), strict=True)), near.month)
    )
    dow, on_dow = draw(days_of_week(near.isoweekday()))
    combined = all if dom.startswith("*") or dow.startswith("*") else any

    @lru_cache
    def on_day(day: date) -> bool:
        return day.month in months and combined((on_dom(day), on_dow(day)))

    def matches(wall: datetime) -> bool:
        return wall.minute in minutes and wall.hour in hours and on_day(wall.date())

    text = draw(st.sampled_from([" ", "  ", "\t"])).join((minute, hour, dom, month, dow))
    text = draw(st.sampled_from([str, str.upper, str.title]))(text)
    try:
        pattern = Cron(text, tz)
    except HorsiesError as error:
        assume("names no date" not in str(error) and "none of its months" not in str(error))
        raise
    return pattern, Rule(once=not (minute.startswith("*") or hour.startswith("*")), matches=matches)


@st.composite
def walled(draw: st.DrawFn, tz: str, near: datetime) -> tuple[Pattern, Rule]:
    """A pattern of wall-clock times that tends to name times about `near`, and its rule."""
    at = draw(times | st.just(near.time()) | st.integers(-90, 90).map(lambda m: (near + m * MINUTE).time()))
    kind = draw(st.sampled_from(["hourly", "daily", "weekly", "monthly", "cron", "cron", "cron"]))
    if kind == "hourly":
        return hourly(tz, draw(st.integers(0, 59)))
    if kind == "daily":
        return daily(tz, at)
    if kind == "weekly":
        days = draw(
            st.frozensets(st.sampled_from(WEEKDAYS), min_size=1) | st.just(frozenset({WEEKDAYS[near.weekday()]}))
        )
        return weekly(tz, at, days)
    if kind == "monthly":
        return monthly(tz, at, draw(st.integers(1, 31) | st.just(near.day)), last=draw(st.booleans()))
    return draw(crons(tz, near))


@st.composite
def about_changes(draw: st.DrawFn) -> tuple[str, Change, Pattern, Rule]:
    tz = draw(zones)
    assume(changes(tz))
    change = draw(st.sampled_from(changes(tz)))
    near = draw(st.sampled_from([change.wall_before, change.wall_after]))
    return (tz, change, *draw(walled(tz, near)))
