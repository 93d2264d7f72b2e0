"""The slots of every pattern, in every time zone, beside a naive reading of the clock. HORSIES_DEEP=1 tries more."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from local_clocks import DAY, MINUTE, ZONES, Change, Rule, changes, changes_between, slots_between
from naive_patterns import about_changes, crons, daily, hourly, instants, last_of, times, walled, zones

from horsies import Cron, Daily, Every, Hourly, Monthly, Pattern, Weekly
from horsies._schedule.cron import read_cron

DEEP = os.environ.get("HORSIES_DEEP") == "1"
pytestmark = pytest.mark.timeout(0 if DEEP else 60)
INSTANT = timedelta(microseconds=1)


def tries(number: int) -> Callable[[Any], Any]:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=number * (20 if DEEP else 1), deadline=None, suppress_health_check=checks)


def slots_after(pattern: Pattern, after: datetime, *, start: datetime | None = None) -> Iterator[datetime]:
    following = pattern.next_after(after, start=start)
    while following is not None:
        yield following
        following = pattern.next_after(following, start=start)


# Beside the naive reading.


def check_about(tz: str, change: Change, pattern: Pattern, rule: Rule, probes: int = 20) -> None:
    begin, end = change.at - timedelta(hours=30), change.at + timedelta(hours=30)
    expected = slots_between(tz, rule, begin, end)
    # One follows the other; of a crowd those nearest to the change are looked at.
    pairs = sorted(pairwise([begin, *expected]), key=lambda pair: abs(pair[0] - change.at))
    for earlier, later in pairs[:200]:
        assert pattern.next_after(earlier) == later
    # And from anywhere in between, the edges of the change before all.
    for probe in (*(begin + number * (end - begin) / probes for number in range(probes)), change.at):
        for after in (probe - INSTANT, probe, probe + INSTANT):
            following = next((slot for slot in expected if slot > after), None)
            if after >= begin and following is not None:
                assert pattern.next_after(after) == following


@tries(150)
@given(about_changes())
def test_slots_about_a_clock_change_are_those_of_the_naive_reading(case: tuple[str, Change, Pattern, Rule]) -> None:
    check_about(*case)


def every_minute(tz: str) -> tuple[Pattern, Rule]:
    return Cron("* * * * *", tz), Rule(once=False, matches=lambda _: True)


def each_minute_once(tz: str) -> tuple[Pattern, Rule]:
    return Cron("0-59 0-23 * * *", tz), Rule(once=True, matches=lambda _: True)


def twice_an_hour(tz: str, hour: int) -> tuple[Pattern, Rule]:
    def matches(wall: datetime) -> bool:
        return wall.hour == hour and wall.minute in (0, 30)

    return Cron(f"*/30 {hour} * * *", tz), Rule(once=False, matches=matches)


FAMOUS = {
    "a day that Samoa skipped": ("Pacific/Apia", date(2011, 12, 30)),
    "a day that Kwajalein skipped": ("Pacific/Kwajalein", date(1993, 8, 21)),
    "a day that Kwajalein lived twice": ("Pacific/Kwajalein", date(1969, 9, 30)),
    "a day that Manila skipped": ("Asia/Manila", date(1844, 12, 31)),
    "a day that Juneau lived twice": ("America/Juneau", date(1867, 10, 18)),
    "half an hour back": ("Australia/Lord_Howe", date(2024, 4, 6)),
    "half an hour forth": ("Australia/Lord_Howe", date(2024, 10, 5)),
    "half an hour at half past": ("America/Caracas", date(2016, 5, 1)),
    "two hours": ("Antarctica/Troll", date(2024, 3, 31)),
    "twenty minutes": ("Europe/Amsterdam", date(1940, 5, 16)),
    "seconds": ("Africa/Monrovia", date(1972, 1, 7)),
    "local mean time": ("Europe/Paris", date(1911, 3, 10)),
    "at midnight, forth": ("Africa/Cairo", date(2024, 4, 25)),
    "at midnight, back": ("Atlantic/Azores", date(2024, 10, 27)),
    "by another name": ("Europe/Dublin", date(1968, 2, 18)),
    "for a month": ("Africa/Casablanca", date(2024, 3, 10)),
}


@pytest.mark.parametrize(("tz", "day"), FAMOUS.values(), ids=FAMOUS)
def test_famous_clock_changes(tz: str, day: date) -> None:
    noon = datetime.combine(day, time(12), UTC)
    change = min(changes(tz), key=lambda one: abs(one.at - noon))
    assert abs(change.at - noon) < timedelta(hours=36)
    for pattern, rule in (
        every_minute(tz),
        each_minute_once(tz),
        twice_an_hour(tz, change.wall_before.hour),
        twice_an_hour(tz, change.wall_after.hour),
        hourly(tz, 0),
        hourly(tz, 45),
        daily(tz, time(0)),
        daily(tz, change.wall_before.time()),
        daily(tz, change.wall_after.time()),
        daily(tz, (change.wall_before + 10 * MINUTE).time()),
        daily(tz, time(12, 30, 15, 500_000)),
    ):
        check_about(tz, change, pattern, rule, probes=6)


# Over centuries.


@st.composite
def anywhere(draw: st.DrawFn) -> tuple[Pattern, datetime]:
    tz, after = draw(zones), draw(instants)
    return draw(walled(tz, after.astimezone(ZoneInfo(tz)).replace(tzinfo=None)))[0], after


@tries(200)
@given(anywhere(), st.floats(0, 1), zones)
def test_the_next_slot_is_later_and_the_same_from_anywhere_in_between(
    case: tuple[Pattern, datetime], part: float, somewhere: str
) -> None:
    pattern, after = case
    first, second = two(pattern, after)
    assert after < first < second
    assert first.utcoffset() == second.utcoffset() == timedelta(0)
    assert pattern.next_after(first - INSTANT) == first
    assert pattern.next_after(after + (first - after) * part * 0.999) == first
    assert pattern.next_after(after.astimezone(ZoneInfo(somewhere))) == first


def two(pattern: Pattern, after: datetime) -> tuple[datetime, datetime]:
    first, second = islice(slots_after(pattern, after), 2)
    return first, second


@pytest.mark.parametrize("year", [1900, 1969, 2024, 2090])
def test_in_every_zone(year: int) -> None:
    after = datetime(year, 3, 9, 17, 29, 30, 1, tzinfo=UTC)
    for tz in ZONES:
        for pattern in (Hourly(30, tz), Daily(time(2, 30), tz), Monthly(31, time(0), tz), Cron("*/20 2 * * *", tz)):
            first, second = two(pattern, after)
            assert after < first < second
            assert pattern.next_after(first - INSTANT) == first
            assert pattern.next_after(second - INSTANT) == second
            wall = first.astimezone(ZoneInfo(tz))
            if isinstance(pattern, Hourly):
                assert (wall.minute, wall.second) == (30, 0)


# Days that are longer or shorter.


def midnight_after(zone: ZoneInfo, day: date) -> datetime:
    """When `day` begins in a zone, where that is no question."""
    return datetime.combine(day, time(0), zone).astimezone(UTC)


def test_a_day_of_25_hours_has_25_hourly_slots_and_one_of_23_has_23() -> None:
    found = {23: 0, 25: 0}
    for tz in ZONES:
        zone = ZoneInfo(tz)
        lengths: dict[int, tuple[datetime, datetime]] = {}
        for change in changes_between(zone, datetime(2008, 1, 1, tzinfo=UTC), datetime(2018, 1, 1, tzinfo=UTC)):
            if abs(change.after - change.before) != timedelta(hours=1):
                continue
            day = min(change.wall_before, change.wall_after).date()
            begin, end = midnight_after(zone, day), midnight_after(zone, day + DAY)
            lengths[(end - begin) // timedelta(hours=1)] = (begin, end)
        for length in found.keys() & lengths.keys():
            begin, end = lengths[length]
            slots = list(islice(slots_after(Hourly(0, tz), begin - INSTANT), length + 1))
            assert slots == [begin + hours * timedelta(hours=1) for hours in range(length + 1)]
            assert slots[-1] == end
            found[length] += 1
    assert min(found.values()) > 200


def hourly_walls(minute: int, day: date) -> list[str]:
    zone = ZoneInfo("Australia/Lord_Howe")
    begin, end = midnight_after(zone, day), midnight_after(zone, day + DAY)
    slots = slots_after(Hourly(minute, zone.key), begin - INSTANT)
    return [f"{slot.astimezone(zone):%H:%M}" for slot in islice(slots, 26) if slot < end]


def test_half_an_hour_on_lord_howe() -> None:
    whole, quarter_to = [f"{hour:02}:00" for hour in range(24)], [f"{hour:02}:45" for hour in range(24)]
    back, forth = date(2024, 4, 7), date(2024, 10, 6)  # from 02:00 to 01:30, and from 02:00 to 02:30
    assert hourly_walls(0, back) == whole
    assert hourly_walls(45, back) == [*quarter_to[:2], "01:45", *quarter_to[2:]]
    assert hourly_walls(0, forth) == [wall for wall in whole if wall != "02:00"]
    assert hourly_walls(45, forth) == quarter_to


@tries(40)
@given(zones, times, st.integers(1901, 2036))
@example("Pacific/Apia", time(3), 2011)
@example("Pacific/Kwajalein", time(3), 1969)
def test_each_date_has_its_daily_slot(tz: str, at: time, year: int) -> None:
    zone, pattern = ZoneInfo(tz), Daily(at, tz)
    begin = datetime(year, 1, 1, tzinfo=UTC)
    shown: list[date] = []
    skipped = 0
    for slot in slots_after(pattern, begin):
        if slot > begin + 370 * DAY:
            break
        wall = slot.astimezone(zone)
        if wall.time() == at:
            shown.append(wall.date())
        else:
            [change] = [change for change in changes(tz) if change.at == slot]
            assert any(
                change.wall_before <= datetime.combine(day, at) < change.wall_after
                for day in (change.wall_before.date(), change.wall_after.date())
            )
            skipped += 1
    assert shown == sorted(set(shown))
    assert len(shown) + skipped >= (shown[-1] - shown[0]).days + 1


# Months.


@pytest.mark.parametrize("day", [28, 29, 30, 31])
def test_short_months(day: int) -> None:
    after = datetime(1999, 12, 31, 23, tzinfo=UTC)
    months = [date(year, month, 1) for year in range(2000, 2009) for month in range(1, 13)]
    skip = [first.replace(day=day) for first in months if day <= last_of(first)]
    last = [first.replace(day=min(day, last_of(first))) for first in months]
    assert [slot.date() for slot in islice(slots_after(Monthly(day), after), len(skip))] == skip
    patterns = Monthly(day, short_months="last")
    assert [slot.date() for slot in islice(slots_after(patterns, after), len(last))] == last


def test_the_29th_of_february() -> None:
    leap = Cron("0 0 29 2 *")
    slots = islice(slots_after(leap, datetime(1890, 1, 1, tzinfo=UTC)), 5)
    assert [slot.year for slot in slots] == [1892, 1896, 1904, 1908, 1912]


# Cron as cronsim has it, where it needs no help: whole hours, and each of its slots taken once.


@tries(100)
@given(st.data(), st.sampled_from(["UTC", "Europe/Paris", "America/New_York", "Asia/Tokyo"]))
def test_cron_is_cronsim(data: st.DataObject, tz: str) -> None:
    after = data.draw(st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))
    if tz != "UTC" and data.draw(st.booleans()):
        change = data.draw(st.sampled_from([change for change in changes(tz) if change.at.year >= 1950]))
        after = change.at + data.draw(st.timedeltas(-3 * DAY, 3 * DAY))
    local = after.astimezone(ZoneInfo(tz))
    pattern, _ = data.draw(crons(tz, local.replace(tzinfo=None)))
    expected = [slot.astimezone(UTC) for slot in islice(CronSim(read_cron(pattern.expression.split()).text, local), 20)]
    expected = sorted({slot for slot in expected if slot > after})
    assert list(islice(slots_after(pattern, after), len(expected))) == expected


# Every.


aware = st.builds(
    lambda naive, tz: naive.replace(tzinfo=ZoneInfo(tz)),
    st.datetimes(datetime(1930, 1, 1), datetime(2090, 1, 1)),
    zones,
)


@tries(300)
@given(
    st.timedeltas(timedelta(milliseconds=100), timedelta(days=400)),
    st.none() | aware,
    aware,
)
@example(
    timedelta(hours=1), datetime(2024, 1, 1, tzinfo=ZoneInfo("Europe/Paris")), datetime(2024, 7, 1, 12, tzinfo=UTC)
)
@example(timedelta(seconds=1), None, datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Paris"), fold=1))
def test_every_counts_from_its_start(interval: timedelta, start: datetime | None, after: datetime) -> None:
    pattern = Every(interval)
    anchor = (start or datetime(1970, 1, 1, tzinfo=UTC)).astimezone(UTC)
    first, second = islice(slots_after(pattern, after, start=start), 2)
    after = after.astimezone(UTC)
    assert after < first
    assert second - first == interval
    assert (first - anchor) % interval == timedelta(0)
    assert first >= anchor if start is not None else first - interval <= after
    assert first - after <= interval or first == anchor
    assert pattern.next_after(first - INSTANT, start=start) == first


# Bounds.


@tries(60)
@given(anywhere(), st.timedeltas(timedelta(days=-400), timedelta(days=400)), zones)
def test_no_slot_is_before_the_start_and_one_may_be_at_it(
    case: tuple[Pattern, datetime], away: timedelta, tz: str
) -> None:
    pattern, after = case
    start = (after + away).astimezone(ZoneInfo(tz))
    first = pattern.next_after(after, start=start)
    assert first == pattern.next_after(max(after, start.astimezone(UTC) - INSTANT))
    assert first is not None
    assert pattern.next_after(after, start=first) == first
    assert pattern.next_after(first - INSTANT, start=first) == first


PATTERNS = [Every(10), Every(timedelta.max), Hourly(), Daily(time(3)), Weekly("mon"), Monthly(31), Cron("0 0 29 2 *")]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("tz", ["UTC", "Pacific/Apia", "Pacific/Niue"])
def test_there_is_none_after_the_last(pattern: Pattern, tz: str) -> None:
    end = datetime.max.replace(tzinfo=UTC)
    assert pattern.next_after(end) is None
    assert pattern.next_after(end, start=end.astimezone(UTC)) is None
    assert pattern.next_after(datetime.min.replace(tzinfo=UTC), start=end) in (None, end)


# What tells them apart.


@tries(60)
@given(st.data())
def test_patterns_are_told_apart_by_their_text(data: st.DataObject) -> None:
    when, tz = datetime(2024, 2, 28, 12), st.sampled_from(["UTC", "Europe/Paris"])
    spans = st.integers(1, 100_000).map(lambda tenths: Every(timedelta(milliseconds=100 * tenths)))
    one, other = (
        data.draw(spans | tz.flatmap(lambda name: walled(name, when)).map(lambda pair: pair[0])) for _ in range(2)
    )
    assert (str(one) == str(other)) == (meaning(one) == meaning(other))
    assert hash(one) == hash(other) or one != other
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one


def meaning(pattern: Pattern) -> Pattern:
    """Where every month has the day, it does not matter what becomes of short ones."""
    return replace(pattern, short_months="skip") if isinstance(pattern, Monthly) and pattern.day <= 28 else pattern
