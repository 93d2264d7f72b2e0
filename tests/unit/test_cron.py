"""Cron expressions: which are accepted, what they mean, and which rule a wrong one breaks."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from horsies import Cron, HorsiesError

BEGIN = datetime(2024, 1, 1, tzinfo=UTC) - timedelta(seconds=1)  # a Monday


def slots(expression: str, count: int) -> list[str]:
    pattern, after, found = Cron(expression), BEGIN, []
    for _ in range(count):
        following = pattern.next_after(after)
        assert following is not None
        after = following
        found.append(f"{after:%a %d %b %H:%M}")
    return found


def weekdays(field: str) -> list[str]:
    """The days of the first week that `field` names."""
    pattern, after, found = Cron(f"0 12 * * {field}"), BEGIN, []
    while (after := pattern.next_after(after) or BEGIN) < BEGIN + timedelta(days=7):
        found.append(f"{after:%a}".lower())
    return found


def minutes(field: str) -> list[int]:
    """The minutes of the first hour that `field` names."""
    pattern, after, found = Cron(f"{field} * * * *"), BEGIN, []
    while (after := pattern.next_after(after) or BEGIN) < BEGIN + timedelta(hours=1):
        found.append(after.minute)
    return found


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("28-28/7", [28]),
        ("0-0/1", [0]),
        ("59-59/60", [59]),
        ("28-29/7", [28]),
        ("28/7", [28, 35, 42, 49, 56]),
        ("10-30/10", [10, 20, 30]),
        ("*/59", [0, 59]),
        ("*/60", [0]),
        ("*/999", [0]),
        ("50/20", [50]),
        ("1-3/2,5-5/5,50/5", [1, 3, 5, 50, 55]),
        ("007,08", [7, 8]),
    ],
)
def test_a_step_ends_where_its_range_ends(field: str, expected: list[int]) -> None:
    assert minutes(field) == expected


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("fri-sun", "fri sat sun"),
        ("FRI-Sun", "fri sat sun"),
        ("5-0", "fri sat sun"),
        ("5-7", "fri sat sun"),
        ("mon-sun/2", "mon wed fri sun"),
        ("sun-tue", "mon tue sun"),
        ("sun-sun/3", "sun"),
        ("0-0", "sun"),
        ("7-7/2", "sun"),
        ("0", "sun"),
        ("7", "sun"),
        ("0-7", "mon tue wed thu fri sat sun"),
        ("thu-thu/2,sat", "thu sat"),
        ("5/1", "fri sat sun"),
        ("*/2", "tue thu sat sun"),
        ("*/7", "sun"),
    ],
)
def test_a_week_may_end_on_sunday(field: str, expected: str) -> None:
    assert weekdays(field) == expected.split()


def test_months_have_names_in_ranges_and_lists() -> None:
    found = slots("0 0 1 FEB-Apr/2,dec-dec/5,oct *", 5)
    assert found == ["Thu 01 Feb 00:00", "Mon 01 Apr 00:00", "Tue 01 Oct 00:00", "Sun 01 Dec 00:00", "Sat 01 Feb 00:00"]


def test_days_that_are_named_by_their_place_in_the_month() -> None:
    assert slots("0 0 L * *", 2) == ["Wed 31 Jan 00:00", "Thu 29 Feb 00:00"]
    assert slots("0 0 lw * *", 3) == ["Wed 31 Jan 00:00", "Thu 29 Feb 00:00", "Fri 29 Mar 00:00"]
    assert slots("0 0 * * friL", 2) == slots("0 0 * * 5l", 2) == ["Fri 26 Jan 00:00", "Fri 23 Feb 00:00"]
    assert slots("0 0 * * Mon#2,tue#1", 2) == ["Tue 02 Jan 00:00", "Mon 08 Jan 00:00"]


def test_two_day_fields_are_an_either_or_unless_one_begins_with_a_star() -> None:
    assert slots("0 0 3 * fri", 3) == ["Wed 03 Jan 00:00", "Fri 05 Jan 00:00", "Fri 12 Jan 00:00"]
    assert slots("0 0 */2 * fri", 2) == ["Fri 05 Jan 00:00", "Fri 19 Jan 00:00"]
    assert slots("0 0 3 * */5", 2) == ["Sun 03 Mar 00:00", "Fri 03 May 00:00"]


@pytest.mark.parametrize(
    ("expression", "field", "rule"),
    [
        ("60 * * * *", "minute", "'60' is not one of 0..59"),
        ("-1 * * * *", "minute", "a value is missing"),
        ("1- * * * *", "minute", "a value is missing"),
        ("1,,2 * * * *", "minute", "a value is missing"),
        (", * * * *", "minute", "a value is missing"),
        ("/5 * * * *", "minute", "a value is missing"),
        ("5-1 * * * *", "minute", "the range '5-1' ends before it begins"),
        ("*/0 * * * *", "minute", "the step '0' is not a whole number from 1"),
        ("*/ * * * *", "minute", "the step '' is not a whole number"),
        ("*/-5 * * * *", "minute", "the step '-5' is not a whole number"),
        ("*/5/2 * * * *", "minute", "the step '5/2' is not a whole number"),
        ("*-5 * * * *", "minute", "'*' is not one of 0..59"),
        ("1-2-3 * * * *", "minute", "'2-3' is not one of"),
        ("1.5 * * * *", "minute", "'1.5' is not one of"),
        ("\u0663 * * * *", "minute", "is not one of 0..59"),
        ("1" * 5_000 + " * * * *", "minute", "is not one of 0..59"),
        ("* 24 * * *", "hour", "'24' is not one of 0..23"),
        ("* 22-2 * * *", "hour", "write two ranges, separated by a comma"),
        ("* * 0 * *", "day-of-month", "'0' is not one of 1..31"),
        ("* * ? * *", "day-of-month", "'?' is not one of 1..31"),
        ("* * 15W * *", "day-of-month", "'15w' is not one of 1..31"),
        ("* * L-3 * *", "day-of-month", "'l-3' is neither L (the last day) nor LW"),
        ("* * L/2 * *", "day-of-month", "'l' takes no step"),
        ("* * 1#2 * *", "day-of-month", "'1#2' is not one of"),
        ("* * mon * *", "day-of-month", "'mon' is not one of 1..31"),
        ("0 0 30,31 2 *", "day-of-month", "none of its months has such a day"),
        ("* * * 13 *", "month", "'13' is not one of 1..12 or jan..dec"),
        ("* * * nov-jan *", "month", "the range 'nov-jan' ends before it begins"),
        ("* * * january *", "month", "'january' is not one of"),
        ("* * * L *", "month", "'l' is not one of"),
        ("* * * * 8", "day-of-week", "'8' is not one of 0..7 or sun..sat"),
        ("* * * * fri-mon", "day-of-week", "the range 'fri-mon' ends before it begins"),
        ("* * * * 7-2", "day-of-week", "the range '7-2' ends before it begins"),
        ("* * * * L", "day-of-week", "'l' is not a weekday before L"),
        ("* * * * 8L", "day-of-week", "'8' is not one of 0..7"),
        ("* * * * 1#6", "day-of-week", "'1#6' does not say which one of the month after #: 1..5"),
        ("* * * * 1#", "day-of-week", "'1#' does not say"),
        ("* * * * #1", "day-of-week", "a value is missing"),
        ("* * * * 1#2/2", "day-of-week", "'1#2' takes no step"),
        ("* * * * 5L/2", "day-of-week", "'5l' takes no step"),
        ("* * * * \u017fun", "day-of-week", "is not one of 0..7"),
    ],
)
def test_a_wrong_field_is_named_with_the_rule_that_it_breaks(expression: str, field: str, rule: str) -> None:
    with pytest.raises(HorsiesError) as caught:
        Cron(expression)
    assert caught.value.code == "HRS-205"
    assert f"Bad {field}: " in caught.value.message
    assert rule in caught.value.message
    assert len(caught.value.message) < 400


def test_all_wrong_fields_are_told_at_once() -> None:
    with pytest.raises(HorsiesError) as caught:
        Cron("60 24 * 0 fri-mon")
    told = [problem.message.split("Bad ")[1].split(":")[0] for problem in caught.value.problems]
    assert told == ["minute", "hour", "month", "day-of-week"]


@pytest.mark.parametrize(("alias", "meant"), [("@daily", "0 0 * * *"), (" @Hourly", "0 * * * *")])
def test_an_alias_is_refused_with_what_to_write(alias: str, meant: str) -> None:
    with pytest.raises(HorsiesError, match="is not five fields") as caught:
        Cron(alias)
    assert f"write Cron({meant!r})" in caught.value.notes
    assert Cron(meant).next_after(BEGIN) == BEGIN + timedelta(seconds=1)


WITHOUT_ZONES = """
import sys, zoneinfo
zoneinfo.reset_tzpath([])
sys.modules["tzdata"] = None
from datetime import UTC, datetime, time
import horsies
after = datetime(2024, 1, 1, 2, tzinfo=UTC)
for pattern in (horsies.Daily(time(3)), horsies.Cron("0 3 * * *"), horsies.Hourly(0, "Etc/UTC"), horsies.Every(3600),
                horsies.Weekly("mon", time(3)), horsies.Monthly(1, time(3))):
    assert pattern.next_after(after) == datetime(2024, 1, 1, 3, tzinfo=UTC), pattern
try:
    horsies.Daily(time(3), "Europe/Paris")
except horsies.HorsiesError as error:
    print(error)
"""


def test_utc_needs_no_database_of_time_zones_and_others_say_how_to_get_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ZONES], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.stderr == ""
    assert done.stdout.startswith(
        "[HRS-205] Daily: time zone 'Europe/Paris' cannot be read: this system has no database"
    )
    assert "pip install tzdata" in done.stdout
