"""Which slots are sent for, beside listing them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from horsies import AppConfig, Every, Horsies, Pattern, Schedule
from horsies._schedule.due import BATCH, LATE, MOST, Due, due

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BEFORE = datetime(1970, 1, 1, tzinfo=UTC) - timedelta(microseconds=1)
"""Before all slots."""
INSTANT, SECOND = timedelta(microseconds=1), timedelta(seconds=1)


@dataclass(frozen=True)
class Listed:
    """A pattern of one's own: slots at these seconds after `NOW`."""

    seconds: tuple[float, ...]

    def next_after(self, after: datetime, *, start: datetime | None = None) -> datetime | None:
        slots = (NOW + second * SECOND for second in self.seconds)
        return next((slot for slot in slots if slot > after and (start is None or slot >= start)), None)

    def __str__(self) -> str:
        return f"at {self.seconds}"


@dataclass(frozen=True)
class Counted:
    """Counts how often it is asked."""

    pattern: Pattern
    calls: list[datetime] = field(default_factory=list)

    def next_after(self, after: datetime, *, start: datetime | None = None) -> datetime | None:
        self.calls.append(after)
        return self.pattern.next_after(after, start=start)

    def __str__(self) -> str:
        return str(self.pattern)


def scheduled(pattern: Pattern, **options: Any) -> Schedule:
    app = Horsies(AppConfig.for_database_url("sqlite://:memory:"))

    @app.task
    def work() -> None: ...

    return app.schedule("one", work, pattern, **options)


def all_slots(schedule: Schedule, until: datetime) -> list[datetime]:
    found = []
    slot = schedule.next_after(BEFORE)
    while slot is not None and slot <= until:
        found.append(slot)
        slot = schedule.next_after(slot)
    return found


def following_it(schedule: Schedule, slot: datetime | None, now: datetime) -> Iterator[Due]:
    """Deal with what is due until nothing is, as a scheduler does."""
    while slot is not None and slot <= now:
        found = due(schedule, slot, now)
        yield found
        slot = found.next_slot


distances = st.floats(-300, 30).map(lambda second: round(second, 1)) | st.sampled_from([-60.0, -60.1, -59.9, 0.0, 0.1])
lists = st.sets(distances, min_size=1, max_size=40).map(lambda seconds: Listed(tuple(sorted(seconds))))
catching_up = st.sampled_from(["none", "latest", "all"])


@settings(deadline=None)
@given(lists, catching_up)
def test_what_is_punctual_is_always_sent_for_and_of_what_is_late_as_much_as_is_wanted(
    pattern: Listed, catch_up: str
) -> None:
    schedule = scheduled(pattern, catch_up=catch_up)
    slots = all_slots(schedule, NOW)
    late = [slot for slot in slots if slot < NOW - LATE]
    superseded = len(slots) > len(late)
    kept = {"none": [], "latest": [] if superseded else late[-1:], "all": late}[catch_up]
    if slots:
        found = due(schedule, slots[0], NOW)
        assert list(found.slots) == [*kept, *slots[len(late) :]]
        assert found.next_slot == pattern.next_after(NOW)
        assert found.missed_from == (slots[0] if late[: len(late) - len(kept)] else None)


@settings(deadline=None, max_examples=60)
@given(lists, catching_up, st.lists(st.floats(0, 120), max_size=6))
def test_nothing_is_sent_for_twice_or_before_it_has_come(pattern: Listed, catch_up: str, waits: list[float]) -> None:
    schedule = scheduled(pattern, catch_up=catch_up)
    slot, now = schedule.next_after(BEFORE), NOW - 300 * SECOND
    sent: list[datetime] = []
    for wait in [*waits, 10_000.0]:
        now += wait * SECOND
        punctual = [one for one in all_slots(schedule, now) if one >= now - LATE and slot is not None and one >= slot]
        for found in following_it(schedule, slot, now):
            assert all(one <= now for one in found.slots)
            sent += found.slots
            slot = found.next_slot
        assert sent == sorted(set(sent))
        assert set(punctual) <= set(sent)
    if catch_up == "all":
        assert sent == all_slots(schedule, now)
    assert slot is None


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 100).map(lambda tenths: tenths * 100 * timedelta(milliseconds=1)),
    st.integers(0, 3 * MOST),
    catching_up,
)
@example(SECOND, MOST + 60, "all")
@example(SECOND, MOST + 61, "all")
@example(SECOND, MOST + 62, "all")
@example(timedelta(milliseconds=100), 2_000, "none")
def test_many_are_dealt_with_in_batches(interval: timedelta, back: int, catch_up: str) -> None:
    schedule = scheduled(Every(interval), catch_up=catch_up)
    slot = schedule.next_after(NOW - (back + 1) * interval)
    assert slot is not None
    slots = [slot + number * interval for number in range((NOW - slot) // interval + 1)]
    late = [one for one in slots if one < NOW - LATE]
    kept = {"none": 0, "latest": int(len(late) == len(slots)), "all": MOST}[catch_up]
    expected = [*(late[-kept:] if kept else ()), *slots[len(late) :]]
    batches = list(following_it(schedule, slot, NOW))
    assert [one for found in batches for one in found.slots] == expected
    assert all(len(found.slots) == BATCH for found in batches[:-1])
    assert [found.missed_from for found in batches if found.missed_from] == ([slot] if len(late) > kept else [])


def test_on_time_is_up_to_a_minute_late() -> None:
    schedule = scheduled(Listed((0.0, 3_600.0)))
    after = NOW + 3_600 * SECOND
    assert due(schedule, NOW, NOW) == Due((NOW,), after)
    assert due(schedule, NOW, NOW + LATE) == Due((NOW,), after)
    assert due(schedule, NOW, NOW + LATE + INSTANT) == Due((), after, NOW)


@pytest.mark.parametrize("catch_up", ["none", "latest", "all"])
def test_the_end_is_the_end(catch_up: str) -> None:
    end = NOW - 3_600 * SECOND
    schedule = scheduled(Every(600), end=end, catch_up=catch_up)
    begin = end - 1_800 * SECOND
    slots = [begin + number * 600 * SECOND for number in range(4)]
    wanted = {"none": [], "latest": slots[-1:], "all": slots}[catch_up]
    assert due(schedule, begin, NOW) == Due(tuple(wanted), None, None if catch_up == "all" else begin)
    assert due(schedule, end, end) == Due((end,), None)


@pytest.mark.parametrize("catch_up", ["none", "latest", "all"])
@pytest.mark.parametrize("ended", [None, 1, 200], ids=lambda days: f"ended {days} days ago" if days else "goes on")
def test_a_year_of_seconds_is_not_walked_through(catch_up: str, ended: int | None) -> None:
    pattern = Counted(Every(1))
    end = None if ended is None else NOW - timedelta(days=ended)
    schedule = scheduled(pattern, catch_up=catch_up, end=end)
    pattern.calls.clear()
    found = due(schedule, NOW - timedelta(days=365), NOW)
    assert len(pattern.calls) < 5 * MOST
    if catch_up == "all":
        assert found.slots[0] == (NOW - LATE if end is None else end + SECOND) - MOST * SECOND


@settings(deadline=None, max_examples=20)
@given(st.floats(0.1, 1e8), st.floats(1e5, 1e8), catching_up)
def test_the_look_back_is_bounded_whatever_the_interval(interval: float, missed: float, catch_up: str) -> None:
    pattern = Counted(Every(interval))
    schedule = scheduled(pattern, catch_up=catch_up)
    slot = schedule.next_after(NOW - missed * SECOND)
    assert slot is not None
    pattern.calls.clear()
    if slot <= NOW:
        due(schedule, slot, NOW)
    assert len(pattern.calls) < 5 * MOST
