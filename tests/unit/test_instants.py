"""Which instants and spans can be given: one rule, whatever they are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from horsies import (
    AppConfig,
    Daily,
    Horsies,
    HorsiesError,
    PoolConfig,
    RecoveryConfig,
    ResilienceConfig,
    RetentionConfig,
    RetryPolicy,
    TaskError,
    WorkerConfig,
    task,
)
from horsies._core.instants import EARLIEST, LATEST, instant, nearest_instant, positive_span, span, wait
from horsies._core.retry import next_delay

BEYOND = [
    datetime.max.replace(tzinfo=ZoneInfo("America/New_York")),
    datetime.min.replace(tzinfo=ZoneInfo("Europe/Paris")),
    datetime.max.replace(tzinfo=timezone(timedelta(microseconds=-1))),
]
NO_SECONDS = [
    float("nan"),
    float("inf"),
    float("-inf"),
    1e300,
    10**400,
    -(10**400),
    True,
    "5",
    Decimal(5),
    timedelta.max,
]


class Odd(tzinfo):
    """A time zone whose offset is whatever it was given; an exception is raised."""

    def __init__(self, offset: Any) -> None:
        self.offset = offset

    def utcoffset(self, at: datetime | None) -> Any:
        if isinstance(self.offset, Exception):
            raise self.offset
        return self.offset


class Unruly(datetime):
    """As pandas' Timestamp, it is a datetime whose methods answer with something else."""

    def __sub__(self, other: Any) -> Any:
        raise RuntimeError

    def utcoffset(self) -> Any:
        raise RuntimeError

    def astimezone(self, tz: Any = None) -> Any:
        raise RuntimeError


@pytest.mark.parametrize("at", BEYOND)
def test_an_instant_beyond_the_calendar_in_utc_is_refused(at: datetime) -> None:
    with pytest.raises(ValueError, match="beyond the calendar"):
        instant(at)


@pytest.mark.parametrize(
    "at", [None, 5, "2026-01-01", date(2026, 1, 1), datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=Odd(None))]
)
def test_what_is_no_aware_datetime_is_refused(at: object) -> None:
    with pytest.raises(ValueError, match="is not a datetime with a time zone"):
        instant(at)


@pytest.mark.parametrize("offset", [RuntimeError("SECRET"), TypeError("SECRET"), 5, timedelta(days=2)])
def test_a_time_zone_that_fails_is_refused(offset: object) -> None:
    with pytest.raises(ValueError, match="time zone") as caught:
        instant(datetime(2026, 1, 1, tzinfo=Odd(offset)))
    assert "SECRET" not in str(caught.value)


def test_an_instant_is_the_same_in_utc_and_a_plain_datetime() -> None:
    repeated = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Paris"))
    assert instant(repeated) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert instant(repeated.replace(fold=1)) == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert instant(datetime(2026, 1, 1, tzinfo=Odd(timedelta(microseconds=7)))).microsecond == 999_993
    found = instant(Unruly(2026, 1, 1, tzinfo=timezone(timedelta(hours=1))))
    assert type(found) is datetime
    assert found == datetime(2025, 12, 31, 23, tzinfo=UTC)
    assert instant(datetime.max.replace(tzinfo=UTC)) == LATEST
    assert instant(datetime.min.replace(tzinfo=UTC)) == EARLIEST


def test_the_nearest_instant_is_the_end_of_the_calendar() -> None:
    assert [nearest_instant(at) for at in BEYOND] == [LATEST, EARLIEST, LATEST]


@pytest.mark.parametrize("value", [*NO_SECONDS, -1, timedelta(microseconds=-1), timedelta.min, None])
def test_what_is_no_span_is_refused(value: object) -> None:
    for check in (span, positive_span):
        with pytest.raises(ValueError, match=r"\Ais "):
            check(value)


def test_a_positive_span_is_at_least_a_microsecond() -> None:
    for value in (0, 0.0, 1e-9, timedelta(0)):
        with pytest.raises(ValueError, match="is not a positive"):
            positive_span(value)
        assert span(value) == timedelta(0)
    assert positive_span(1e-6) == timedelta(microseconds=1)


def test_a_wait_may_be_without_end() -> None:
    assert [wait(value) for value in (None, float("inf"), 1e300, timedelta.max)] == [None] * 4
    assert [wait(value) for value in (0, 2.5, timedelta(seconds=1))] == [0.0, 2.5, 1.0]
    for value in (-1, float("nan"), True, "1", timedelta.min, float("-inf")):
        with pytest.raises(ValueError, match=r"\Ais "):
            wait(value)


CONFIGURED: list[tuple[Callable[[Any], object], str]] = [
    *(
        (lambda value, name=name: RecoveryConfig(**{name: value}), "HRS-204")
        for name in ("heartbeat_interval", "dead_after", "reap_interval", "resolution_grace")
    ),
    *(
        (lambda value, name=name: ResilienceConfig(**{name: value}), "HRS-208")
        for name in ("poll_interval", "retry_initial", "retry_max", "statement_timeout")
    ),
    (lambda value: PoolConfig(timeout=value), "HRS-213"),
    (lambda value: WorkerConfig(drain_timeout=value), "HRS-215"),
    (lambda value: RetentionConfig(finished_after=value), "HRS-216"),
]


@pytest.mark.parametrize(("make", "code"), CONFIGURED)
@pytest.mark.parametrize("value", [*NO_SECONDS, -1, timedelta.min])
def test_a_configured_time_is_in_range(make: Callable[[Any], object], code: str, value: object) -> None:
    with pytest.raises(HorsiesError) as caught:
        make(value)
    assert caught.value.code == code


def test_the_timeouts_of_postgres_fit_its_milliseconds() -> None:
    for make in (lambda value: ResilienceConfig(statement_timeout=value), lambda value: PoolConfig(timeout=value)):
        make(2_000_000)
        with pytest.raises(HorsiesError, match="at most 2,000,000"):
            make(3_000_000)
    RecoveryConfig(heartbeat_interval=3_000_000, dead_after=20_000_000)
    assert WorkerConfig(drain_timeout=0).drain_timeout == 0


@pytest.mark.parametrize("value", [*NO_SECONDS, 0, -1, timedelta.min])
def test_the_timeout_of_a_task_is_in_range(value: Any) -> None:
    with pytest.raises(HorsiesError, match=r"HRS-102.*timeout is "):
        task("t", timeout=value)(lambda: None)


def test_the_retries_of_a_task_are_in_range() -> None:
    for policy in (RetryPolicy.fixed([1e300]), RetryPolicy.exponential(1e9, 20)):
        with pytest.raises(HorsiesError, match=r"HRS-102.*1,000 years"):
            task("t", retry=policy)(lambda: None)
    for make in (lambda: RetryPolicy.fixed([10**400]), lambda: RetryPolicy.exponential(10**400)):
        with pytest.raises(HorsiesError, match="HRS-102"):
            make()


@pytest.mark.parametrize("value", [*NO_SECONDS[:-1], 0, -1, timedelta(seconds=1)])
def test_what_a_policy_gives_is_in_range(value: Any) -> None:
    class Policy:
        def delay(self, retry: int, error: TaskError) -> Any:
            return value

    with pytest.raises(ValueError, match="a retry policy gave"):
        next_delay(Policy(), 1, TaskError("A"), Random(1))


@pytest.mark.parametrize("at", [*BEYOND, datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=Odd(RuntimeError()))])
@pytest.mark.parametrize("bound", ["start", "end"])
def test_the_bounds_of_a_schedule_are_in_the_calendar(at: datetime, bound: str) -> None:
    app = Horsies(AppConfig.for_database_url("sqlite://:memory:"))
    ping = app.task("ping")(lambda: None)
    with pytest.raises(HorsiesError, match=f"HRS-205.*{bound} is not"):
        app.schedule("s", ping, Daily(datetime.min.time()), **{bound: at})  # type: ignore[arg-type]


class Last:
    """A pattern whose last slot no other time zone can show."""

    def __init__(self, slots: list[Any]) -> None:
        self.slots = slots

    def next_after(self, after: datetime, *, start: datetime | None = None) -> Any:
        return next((slot for slot in self.slots if slot > after), None)

    def __str__(self) -> str:
        return "last"


def test_a_pattern_ends_with_the_calendar() -> None:
    app = Horsies(AppConfig.for_database_url("sqlite://:memory:"))
    ping = app.task("ping")(lambda: None)
    first = datetime(2026, 1, 1, tzinfo=UTC)
    schedule = app.schedule("s", ping, Last([first, BEYOND[0]]))
    assert schedule.next_after(first) is None
    with pytest.raises(HorsiesError, match=r"HRS-205.*its pattern fails: TypeError"):
        app.schedule("t", ping, Last(["never"]))
    assert replace(schedule, end=first).next_after(first) is None
