"""A scheduler whose rules change under way: a new time zone database has moved an offset. Each day still comes once."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from horsies import AppConfig, Cron, Daily, Every, Horsies, Hourly, Monthly, Pattern, Schedule, Weekly
from horsies._schedule.due import due, slot_of_now

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def zone(hours: int) -> str:
    """So many hours ahead of UTC; the names of these zones count the other way."""
    return f"Etc/GMT{-hours:+}" if hours else "Etc/GMT"


def daily(kind: str, at: time, tz: str) -> Pattern:
    match kind:
        case "daily":
            return Daily(at, tz)
        case "weekly":
            return Weekly(("mon", "tue", "fri"), at, tz)
        case "monthly":
            return Monthly(3, at, tz)
        case "weekday cron":
            return Cron(f"{at.minute} {at.hour} * * fri-sun", tz)
        case _:
            return Cron(f"{at.minute} {at.hour} * * *", tz)


def scheduled(pattern: Pattern, catch_up: str = "none") -> Schedule:
    app = Horsies(AppConfig.for_database_url("sqlite://:memory:"))

    @app.task
    def work() -> None: ...

    return app.schedule("one", work, pattern, catch_up=catch_up)  # type: ignore[arg-type]  # one of the three


def sent_over(old: Schedule, new: Schedule, change: datetime, end: datetime) -> list[tuple[datetime, bool]]:
    """Each slot that is sent for, and whether by the new rules, if a scheduler is there all the time."""
    stored, last, now = old.next_after(BEGIN), None, BEGIN
    sent: list[tuple[datetime, bool]] = []
    while now < end and stored is not None:
        rules = new if now >= change else old
        slot = slot_of_now(rules, stored, last)
        if slot is None:
            break
        if slot > now:  # straight to the next instant at which anything can happen
            now = min(slot, change) if change > now else slot
            continue
        found = due(rules, slot, now, stored=None if slot == stored else stored)
        sent += [(one, rules is new) for one in found.slots]
        last = found.slots[-1] if found.slots else last
        stored = found.next_slot
    return sent


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(["daily", "weekly", "monthly", "weekday cron", "cron"]),
    st.times(time(4), time(19, 59)).map(lambda at: at.replace(second=0, microsecond=0)),
    st.integers(-3, 3),
    st.integers(-3, 3),
    st.timedeltas(timedelta(0), 40 * DAY),
)
@example("daily", time(4), 0, -1, 5 * DAY + 4 * HOUR)
@example("daily", time(4), 0, 1, 5 * DAY + 4 * HOUR - timedelta(minutes=1))
def test_each_day_comes_once_when_an_offset_moves(
    kind: str, at: time, before: int, after: int, when: timedelta
) -> None:
    old, new = scheduled(daily(kind, at, zone(before))), scheduled(daily(kind, at, zone(after)))
    end = BEGIN + 75 * DAY
    days = Counter[date]()
    for slot, is_new in sent_over(old, new, BEGIN + when, end):
        days[slot.astimezone(ZoneInfo(zone(after if is_new else before))).date()] += 1
    unchanged = sent_over(old, old, end, end)
    expected = [slot.astimezone(ZoneInfo(zone(before))).date() for slot, _ in unchanged]
    assert set(days.values()) == {1}
    assert set(days) ^ set(expected) <= {(end - DAY).date(), end.date(), BEGIN.date()}


patterns = st.sampled_from(
    [Daily(time(3), "Etc/GMT+1"), Hourly(30), Cron("*/7 * 1 * *"), Cron("* 3 * jan *"), Monthly(31), Every(1000)]
)


@settings(deadline=None, max_examples=200)
@given(patterns, st.timedeltas(timedelta(0), 400 * DAY), st.none() | st.timedeltas(timedelta(0), 3 * DAY))
def test_the_nearest_slot_stands_for_the_stored_one(
    pattern: Pattern, away: timedelta, since_last: timedelta | None
) -> None:
    schedule, stored = scheduled(pattern), BEGIN + away
    last = None if since_last is None else stored - since_last
    assume(since_last is None or since_last > timedelta(0))
    found = slot_of_now(schedule, stored, last)
    following = schedule.next_after(stored - timedelta(microseconds=1))
    assert following is not None
    assert found is not None
    if found != following:
        assert last is None or found > last
        assert stored - found < following - stored
        after = schedule.next_after(found)
        assert after is not None
        assert after >= stored
    else:
        reach = following - stored
        earliest = stored - reach if last is None else max(last, stored - reach)
        between = schedule.next_after(earliest)
        assert stored == following or between is None or between >= stored


def test_the_last_slot_of_all_stands_for_one_after_it() -> None:
    app = Horsies(AppConfig.for_database_url("sqlite://:memory:"))

    @app.task
    def work() -> None: ...

    end = BEGIN + DAY
    schedule = app.schedule("one", work, Daily(time(0)), end=end)
    assert slot_of_now(schedule, end + HOUR, None) == end
    assert slot_of_now(schedule, end + HOUR, end) is None
