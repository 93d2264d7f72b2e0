"""Declaring schedules: what is refused, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import horsies
from horsies import (
    AppConfig,
    Cron,
    Daily,
    Every,
    Horsies,
    HorsiesError,
    Hourly,
    Monthly,
    QueueConfig,
    RetryPolicy,
    Runtime,
    Weekly,
    hookimpl,
)
from horsies.abc import Plain, Serializer

SLOT = datetime(2026, 3, 1, 12, tzinfo=UTC)
BEFORE = datetime(1970, 1, 1, tzinfo=UTC) - timedelta(microseconds=1)
"""Before all slots that are checked at the declaration."""
SECRET = "s3cret"


def new_app(**fields: Any) -> Horsies:
    queues = (QueueConfig("default"), QueueConfig("images"))
    return Horsies(AppConfig.for_database_url("sqlite://:memory:", queues=queues), **fields)


@pytest.fixture
def app() -> Horsies:
    return new_app()


@pytest.fixture
def resize(app: Horsies) -> Any:
    @app.task
    def resize(path: str, width: int = 100) -> None: ...

    return resize


@pytest.fixture
def ping(app: Horsies) -> Any:
    @app.task
    def ping() -> None: ...

    return ping


def refused(make: Callable[[], object], code: str = "HRS-205") -> list[str]:
    """What is said of each problem."""
    with pytest.raises(HorsiesError) as caught:
        make()
    assert {problem.code for problem in caught.value.problems} == {code}
    assert SECRET not in str(caught.value)
    assert all(str(problem).splitlines()[0] in str(caught.value) for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


# Patterns.

NOWHERE = "there is no time zone 'Mars/Olympus'"
NO_TIME = "at is not a time without a time zone"


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        *(
            (lambda interval=interval: Every(interval), ["Every: interval is neither"])
            for interval in (0, -1, 0.099, float("nan"), float("inf"), 10**400, True, None, "10", timedelta(0))
        ),
        (lambda: Hourly(60), ["Hourly: minute is not a whole number of 0..59"]),
        (lambda: Hourly(-1, "Mars/Olympus"), ["minute is not", NOWHERE]),
        (lambda: Hourly(True), ["minute is not"]),
        (lambda: Hourly(1.0), ["minute is not"]),
        (lambda: Daily("03:00"), [f"Daily: {NO_TIME}"]),
        (lambda: Daily(time(3, tzinfo=UTC), "Mars/Olympus"), [NO_TIME, NOWHERE]),
        *(
            (lambda tz=tz: Daily(time(3), tz), ["there is no time zone"])
            for tz in (
                "",
                "Europe",
                "/etc/passwd",
                "../UTC",
                "UTC ",
                "a" * 5_000,
                "\0",
                "\ud800",
                None,
                3,
                UTC,
                ["UTC"],
            )
        ),
        *(
            (lambda days=days: Weekly(days), ["Weekly: days are not names of weekdays"])
            for days in ("", (), "funday", ("mon", "funday"), ("mon", None), 3, None, b"mon", "mon,tue")
        ),
        (lambda: Weekly("x", 3, "Mars/Olympus"), ["days are not", NO_TIME, NOWHERE]),
        (lambda: Monthly(0), ["Monthly: day is not a whole number of 1..31"]),
        (
            lambda: Monthly(32, None, "Mars/Olympus", "never"),
            ["day is not", NO_TIME, NOWHERE, "short_months is neither"],
        ),
        *(
            (lambda text=text: Cron(text), ["is not five fields"])
            for text in ("", "* * * *", "* * * * * *", "@daily", None, 5, b"* * * * *")
        ),
        *(
            (lambda text=text: Cron(text), [f"cannot be read: Bad {what}"])
            for text, what in (
                ("60 * * * *", "minute"),
                ("* 24 * * *", "hour"),
                ("* * 0 * *", "day-of-month"),
                ("* * L-3 * *", "day-of-month"),
                ("* * * 13 *", "month"),
                ("* * * * 8", "day-of-week"),
                ("* * * * fri-mon", "day-of-week"),
                ("* * * * 1#6", "day-of-week"),
                ("* * * * 1#2/2", "day-of-week"),
                ("* * * * 5L/2", "day-of-week"),
                ("*/0 * * * *", "minute"),
                ("1,,2 * * * *", "minute"),
                ("5-1 * * * *", "minute"),
                ("0 0 30 2 *", "day-of-month"),
            )
        ),
        (lambda: Cron("1" * 5_000 + " * * * *"), ["cannot be read"]),
        (lambda: Cron("0 0 */30 2 1#5"), ["names no date that ever comes"]),
        (lambda: Cron("a b", "Mars/Olympus"), [NOWHERE, "is not five fields"]),
    ],
)
def test_a_pattern_that_cannot_be(make: Callable[[], object], expected: list[str]) -> None:
    problems = refused(make)
    assert len(problems) == len(expected)
    for problem, what in zip(problems, expected, strict=True):
        assert what in problem


def test_remedies() -> None:
    assert "such as Europe/Paris" in refused(lambda: Daily(time(3), "CEST"))[0]
    assert "pip install tzdata" in refused(lambda: Daily(time(3), "CEST"))[0]
    for spelt in ("Europe/Pariss", "europe/paris", "EUROPE/PARIS"):
        assert "the nearest name is 'Europe/Paris'" in refused(lambda spelt=spelt: Daily(time(3), spelt))[0]
    assert "time(3, 0)" in refused(lambda: Daily(3))[0]
    assert "('mon', 'friday')" in refused(lambda: Weekly("x"))[0]
    assert "minute, hour, day of month, month, day of week" in refused(lambda: Cron("@daily"))[0]


def test_days_of_the_week_in_any_order_and_spelling() -> None:
    assert Weekly(("Friday", "mon", "FRI")) == Weekly(iter(["mon", "fri"])) != Weekly("mon")
    assert str(Weekly(("fri", "mon"), time(3))) == "weekly on mon, fri at 03:00:00 UTC"


def test_cron_is_spelt_one_way() -> None:
    assert Cron(" 0\t12  * * MON ") == Cron("0 12 * * mon")


# Schedules.


def test_what_is_declared(app: Horsies, resize: Any) -> None:
    start = datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Paris"))
    schedule = app.schedule("s", resize, Daily(time(3)), args=["a.png"], kwargs={"width": 3}, start=start)
    assert app.schedules == {"s": schedule}
    assert schedule.next_after(BEFORE) == datetime(2026, 1, 1, 3, tzinfo=UTC)
    assert schedule.timing == "daily at 03:00:00 UTC, from 2025-12-31T23:00:00+00:00"
    assert "a.png" not in repr(schedule)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"args": SECRET}, "args is not a tuple"),
        ({"args": 5}, "args is not a tuple"),
        ({"args": (x for x in "a")}, "args is not a tuple"),
        ({"kwargs": [SECRET]}, "kwargs is not a dict"),
        ({"kwargs": {5: SECRET}}, "kwargs is not a dict"),
        ({"args": ()}, "the call does not fit its parameters: missing a required argument: 'path'"),
        ({"args": (SECRET, 1, 2)}, "the call does not fit its parameters: too many positional"),
        ({"args": (), "kwargs": {"path": SECRET, "depth": SECRET}}, "unexpected keyword argument 'depth'"),
        ({"kwargs": {"path": SECRET}}, "multiple values for argument 'path'"),
        ({"args": (SECRET, SECRET)}, "argument 'width'"),
        ({"args": (object(),)}, "argument 'path'"),
        ({"queue": "videos"}, "queue 'videos' is not one of the application's: default, images"),
        ({"queue": ["default"]}, "queue ['default'] is not one of the application's"),
        ({"priority": 0}, "priority is not a whole number of 1..100"),
        ({"priority": True}, "priority is not"),
        ({"timeout": 0}, "timeout is not a positive number of seconds"),
        ({"timeout": float("inf")}, "timeout is not"),
        ({"timeout": 10**400}, "timeout is not"),
        ({"retry": 3}, "retry is neither a RetryPolicy nor the name"),
        ({"unique_key": ""}, "unique_key is not 1..255 bytes"),
        ({"metadata": {"a": 1}}, "metadata does not map str to str"),
        ({"good_until": timedelta(0)}, "good_until is not"),
        ({"good_until": SLOT}, "good_until is not"),
        ({"good_until": timedelta.max}, "good_until is not"),
        ({"catch_up": "some"}, "catch_up is none of 'none', 'latest', 'all'"),
        ({"catch_up": ["all"]}, "catch_up is none of"),
        ({"overlap": None}, "overlap is none of 'allow', 'skip', 'cancel_previous'"),
        ({"overlap": "skip", "unique_key": "k"}, "overlap='skip' needs the unique key itself: leave out one"),
        ({"jitter": -1}, "jitter is not"),
        ({"jitter": True}, "jitter is not"),
        ({"jitter": float("nan")}, "jitter is not"),
        ({"jitter": 1e300}, "jitter is not"),
        ({"jitter": 10**400}, "jitter is not"),
        ({"jitter": timedelta(seconds=1)}, "jitter is not"),
        ({"start": datetime(2026, 1, 1)}, "start is not a datetime with a time zone"),
        ({"end": datetime(2026, 1, 1)}, "end is not a datetime with a time zone"),
        ({"start": "2026-01-01"}, "start is not"),
        ({"end": datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))}, "end is not"),
        ({"start": SLOT, "end": SLOT - timedelta(seconds=1)}, "end is before start"),
        ({"start": SLOT + timedelta(seconds=1), "end": SLOT + timedelta(seconds=2)}, "no slot between start and end"),
        ({"end": datetime(1969, 1, 1, tzinfo=UTC)}, "no slot between start and end"),
        ({"enabled": 1}, "enabled is neither True nor False"),
    ],
)
def test_an_option_that_cannot_be(app: Horsies, resize: Any, options: dict[str, Any], expected: str) -> None:
    options = {"args": ("a.png",), **options}
    [problem] = refused(lambda: app.schedule("thumbs", resize, Daily(time(3)), **options))
    assert problem.startswith("[HRS-205] schedule 'thumbs': ")
    assert expected in problem
    assert app.schedules == {}


@pytest.mark.parametrize("name", ["", "a" * 201, "ä" * 101, "\0", "\ud800", None, 5, ["x"], b"x"])
def test_a_name_that_cannot_be(app: Horsies, ping: Any, name: Any) -> None:
    assert "its name is not 1..200 bytes without NUL" in refused(lambda: app.schedule(name, ping, Every(1)))[0]


def test_the_longest_name_can_skip(app: Horsies, ping: Any) -> None:
    assert len((app.schedule("ä" * 100, ping, Every(1), overlap="skip").unique_key or "").encode()) <= 255


@pytest.mark.parametrize("pattern", [None, Every, "* * * * *", timedelta(seconds=1), 10, time(3)])
def test_no_pattern(app: Horsies, ping: Any, pattern: Any) -> None:
    [problem] = refused(lambda: app.schedule("x", ping, pattern))
    assert "pattern is none of Every, Hourly, Daily, Weekly, Monthly, Cron, nor one of your own" in problem


def test_no_task(app: Horsies) -> None:
    for task in (None, print, "ping"):
        assert refused(lambda task=task: app.schedule("x", task, Every(1))) == [
            "[HRS-205] schedule 'x': task is not a declared task"
        ]


def test_a_task_of_nobody_and_one_of_another(app: Horsies, ping: Any) -> None:
    @horsies.task("ping")
    def of_nobody() -> None: ...

    for task in (of_nobody, new_app().task("other")(of_nobody.fn)):
        [problem] = refused(lambda task=task: app.schedule("x", task, Every(1)))
        assert f"its task {task.name!r} is not registered with this application: app.include(the_task)" in problem


def test_everything_that_is_wrong_is_said_at_once(app: Horsies, resize: Any) -> None:
    wrong: dict[str, Any] = {
        "args": (SECRET, SECRET),
        "queue": "videos",
        "priority": 101,
        "timeout": -1,
        "retry": 5,
        "unique_key": "",
        "metadata": 3,
        "good_until": 3,
        "catch_up": "x",
        "overlap": "y",
        "jitter": -1,
        "start": datetime(2026, 1, 1),
        "end": 3,
        "enabled": "yes",
    }
    problems = refused(lambda: app.schedule("", resize, None, **wrong))
    named = ["its name", "pattern", "argument 'width':", *(option for option in wrong if option != "args")]
    assert len(problems) == len(named)
    for what in named:
        assert [problem.startswith(f"[HRS-205] schedule '': {what} ") for problem in problems].count(True) == 1
    assert app.schedules == {}


def test_a_name_that_is_taken(app: Horsies, ping: Any) -> None:
    first = app.schedule("x", ping, Every(1))
    [problem] = refused(lambda: app.schedule("x", ping, Every(2)), "HRS-301")
    assert "two schedules are named 'x'" in problem
    assert "give one of them another name" in problem
    assert app.schedules["x"] is first


# Patterns of one's own.


@dataclass(frozen=True)
class Given:
    """Whatever it is given, whoever asks."""

    slots: tuple[Any, ...]

    def next_after(self, after: datetime, *, start: datetime | None = None) -> datetime | None:
        return next((slot for slot in self.slots if slot.astimezone(UTC) > after), None)


class Nameless:
    def next_after(self, after: datetime, *, start: datetime | None = None) -> datetime | None:
        return after + timedelta(seconds=1)


class Standing(Given):
    def next_after(self, after: datetime, *, start: datetime | None = None) -> datetime | None:
        return SLOT


def test_a_pattern_of_ones_own(app: Horsies, ping: Any) -> None:
    slots = (SLOT, SLOT.astimezone(ZoneInfo("Asia/Tokyo")) + timedelta(days=1))
    schedule = app.schedule("x", ping, Given(slots), end=SLOT + timedelta(days=1))
    assert schedule.next_after(BEFORE) == SLOT
    following = schedule.next_after(SLOT)
    assert following == slots[1]
    assert following is not None
    assert following.tzinfo is UTC
    assert schedule.next_after(following) is None


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (Given((datetime(2026, 1, 1),)), "its pattern gives slots without a time zone"),
        (Standing(()), "its pattern gives a slot that is not later than the one before"),
        (Nameless(), "str() of its pattern does not say what it is"),
        (Given(()), "no slot between start and end"),
    ],
)
def test_a_pattern_of_ones_own_that_cannot_be(app: Horsies, ping: Any, pattern: Any, expected: str) -> None:
    assert expected in refused(lambda: app.schedule("x", ping, pattern))[0]


def test_a_pattern_that_disregards_the_start(app: Horsies, ping: Any) -> None:
    start = SLOT + timedelta(days=1)
    [problem] = refused(lambda: app.schedule("x", ping, Given((SLOT,)), start=start))
    assert "its pattern gives a slot before start" in problem


def test_an_end_in_the_repeated_hour_is_not_before_a_start_in_it(app: Horsies, ping: Any) -> None:
    paris = ZoneInfo("Europe/Paris")
    start, end = datetime(2024, 10, 27, 2, 50, tzinfo=paris), datetime(2024, 10, 27, 2, 10, fold=1, tzinfo=paris)
    assert app.schedule("x", ping, Every(60), start=start, end=end).next_after(BEFORE) == start.astimezone(UTC)


# What the plugins decide.


class Fussy:
    """A serializer that writes no text of more than three characters."""

    def dumps(self, value: Plain) -> bytes:
        assert isinstance(value, dict)
        if any(isinstance(text, str) and len(text) > 3 for text in value.values()):
            raise ValueError(SECRET)
        return repr(value).encode()

    def loads(self, data: bytes) -> Plain:
        raise NotImplementedError


class FussyPlugin:
    @hookimpl
    def horsies_serializers(self) -> Mapping[str, Serializer]:
        return {"fussy": Fussy()}


def test_check_knows_the_serializer_and_the_retry_policies() -> None:
    config = AppConfig.for_database_url("sqlite://:memory:", serializer="fussy")
    app = Horsies(config, plugins=[FussyPlugin()])

    @app.task
    def greet(name: str) -> None: ...

    app.schedule("short", greet, Every(1), args=["Bo"], retry=RetryPolicy.fixed([1]))
    Runtime(app).check()
    app.schedule("long", greet, Every(1), args=[SECRET])
    app.schedule("lost", greet, Every(1), args=["Bo"], retry="patiently")
    problems = refused(Runtime(app).check)
    assert [problem.partition(": ")[0] for problem in problems] == [
        "[HRS-205] schedule 'long'",
        "[HRS-205] schedule 'lost'",
    ]
    assert "the serializer refuses the arguments: ValueError" in problems[0]
    assert "retry policy 'patiently' is not registered" in problems[1]
