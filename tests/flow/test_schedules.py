"""Schedules, run by workers and by schedulers: each slot is sent for once, whatever happens around it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any, cast

import anyio
import pytest

from horsies import (
    Cron,
    Daily,
    Every,
    Monthly,
    PayloadPolicy,
    Runtime,
    Schedule,
    TaskStatus,
    Weekly,
)
from horsies._payload.ids import slot_task_id
from horsies._schedule.due import LATE, MOST
from horsies._schedule.scheduler import LAG, Scheduler
from horsies.abc import BrokerError, NewSchedule, Schedules

from .conftest import until
from .scheduling import (
    HOUR,
    At,
    Place,
    With,
    begun,
    have_tasks,
    hourly,
    look,
    now_in,
    place_for,
    refusing,
    row_of,
    store_of,
    work,
    work_only,
)

pytestmark = pytest.mark.anyio


class TestSending:
    async def test_a_worker_sends_for_each_slot_once_and_in_order(self, place: Place) -> None:
        schedule = place.app.schedule("often", place.tick, Every(0.2), kwargs={"what": "hello"})
        began = datetime.now(UTC) - timedelta(seconds=5)
        async with Runtime(place.app) as rt:
            rt.start_worker()
            await until(lambda: len(place.ran) >= 6)
            row = await row_of(rt, schedule)
        slots = place.slots(schedule, began)
        assert slots == [slots[0] + number * timedelta(seconds=0.2) for number in range(len(slots))]
        assert row.last_slot in slots or row.last_slot == slots[-1] + timedelta(seconds=0.2)
        assert set(place.said) == {"hello"}
        assert place.sent_at == slots

    async def test_three_schedulers_at_once_send_for_each_slot_once(self, place: Place) -> None:
        schedule = place.app.schedule("often", place.tick, Every(0.2), args=("",))
        began = datetime.now(UTC) - timedelta(seconds=5)
        async with Runtime(place.app) as rt, anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(rt.run_scheduler)
            rt.start_worker()
            await until(lambda: len(place.ran) >= 6)
            group.cancel_scope.cancel()
        slots = place.slots(schedule, began)
        assert slots == [slots[0] + number * timedelta(seconds=0.2) for number in range(len(slots))]

    async def test_options_reach_the_task(self, place: Place) -> None:
        schedule = hourly(
            place,
            priority=7,
            metadata={"origin": "schedule"},
            good_until=timedelta(days=2),
            unique_key="one",
            jitter=1e6,
        )
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, HOUR)
            await look(rt, slot)
            info = (await rt.handle(slot_task_id("hourly", slot)).info()).unwrap()
        assert info is not None
        assert (info.priority, info.metadata, info.sent_at) == (7, {"origin": "schedule"}, slot)
        assert info.good_until == slot + timedelta(days=2)
        assert info.status is TaskStatus.PENDING
        assert slot < info.due_at < slot + timedelta(seconds=1e6) + HOUR

    async def test_who_does_not_go_first_comes_later(self, place: Place) -> None:
        schedule = hourly(place)
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, HOUR)
            for late, sends in ((timedelta(0), False), (LAG - timedelta(seconds=0.1), False), (LAG, True)):
                pause = await look(rt, slot + late, goes_first=False)
                assert await have_tasks(rt, schedule, [slot]) == [sends]
                assert pause <= ((HOUR if sends else LAG) - late).total_seconds()

    async def test_who_was_first_goes_first_again(self, place: Place) -> None:
        schedule = hourly(place)
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, 2 * HOUR)
            at = At(rt, slot + LAG)
            scheduler = Scheduler(rt._engine, cast("Schedules", at), lambda: False)
            await scheduler.run_once()
            at.now = slot + HOUR
            await scheduler.run_once()
            assert await have_tasks(rt, schedule, [slot + HOUR]) == [True]

    async def test_a_clock_that_steps_back_sends_for_nothing_twice(self, place: Place) -> None:
        schedule = hourly(place)
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, 3 * HOUR)
            at = At(rt, slot)
            scheduler = Scheduler(rt._engine, cast("Schedules", at), lambda: True)
            await scheduler.run_once()
            at.now = slot - timedelta(minutes=50)
            assert await scheduler.run_once() > HOUR.total_seconds()
            at.now = slot
            assert await scheduler.run_once() > 0.0
            await work(rt)
        assert place.ran == [slot_task_id("hourly", slot)]


class TestLate:
    """Nobody was there to send when the slots came."""

    @pytest.mark.parametrize(
        ("catch_up", "expected"), [("none", [0, 0, 0, 1]), ("latest", [0, 0, 0, 1]), ("all", [1, 1, 1, 1])]
    )
    async def test_the_last_slot_is_on_time(self, place: Place, catch_up: Any, expected: list[bool]) -> None:
        schedule = hourly(place, catch_up=catch_up)
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, 4 * HOUR)
            slots = [slot + number * HOUR for number in range(4)]
            await look(rt, slots[-1] + LATE)
            assert await have_tasks(rt, schedule, slots) == expected
            assert (await row_of(rt, schedule)).next_slot == slots[-1] + HOUR

    @pytest.mark.parametrize(
        ("catch_up", "expected"), [("none", [0, 0, 0, 0]), ("latest", [0, 0, 0, 1]), ("all", [1, 1, 1, 1])]
    )
    async def test_the_last_slot_is_late_as_well(self, place: Place, catch_up: Any, expected: list[bool]) -> None:
        schedule = hourly(place, catch_up=catch_up)
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, 4 * HOUR)
            slots = [slot + number * HOUR for number in range(4)]
            await look(rt, slots[-1] + LATE + timedelta(microseconds=1))
            assert await have_tasks(rt, schedule, slots) == expected
            assert (await row_of(rt, schedule)).next_slot == slots[-1] + HOUR

    async def test_what_is_made_up_for_is_bounded(self, place: Place) -> None:
        schedule = place.app.schedule("often", place.tick, Every(60), args=("",), catch_up="all")
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, timedelta(days=2))
            now = slot + timedelta(days=1)
            scheduler = Scheduler(rt._engine, cast("Schedules", At(rt, now)), lambda: True)
            while await scheduler.run_once() == 0.0:
                pass
            slots = [slot + number * timedelta(minutes=1) for number in range(24 * 60 + 1)]
            # Beside those that were missed, the two of the last minute.
            assert await have_tasks(rt, schedule, slots[-MOST - 3 : -MOST - 1]) == [False, True]
            (queue,) = (await rt.queues()).unwrap()
            assert queue.ready == MOST + 2

    async def test_what_could_not_begin_in_time_expires(self, place: Place) -> None:
        schedule = hourly(place, catch_up="all", good_until=timedelta(minutes=30))
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, 3 * HOUR)
            await look(rt, slot + HOUR)
            await work(rt)
            info = (await rt.handle(slot_task_id("hourly", slot)).info()).unwrap()
        assert info is not None
        assert info.status is TaskStatus.EXPIRED
        assert place.ran == []


class TestOverlap:
    async def test_allowed(self, place: Place) -> None:
        schedule = hourly(place)
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, 3 * HOUR)
            await look(rt, slot)
            await look(rt, slot + HOUR)
            assert await have_tasks(rt, schedule, [slot, slot + HOUR]) == [True, True]

    async def test_the_new_one_is_skipped_until_the_old_one_has_ended(self, place: Place) -> None:
        schedule = hourly(place, overlap="skip")
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, 4 * HOUR)
            await look(rt, slot)
            await look(rt, slot + HOUR)
            row = await row_of(rt, schedule)
            assert (row.last_slot, row.next_slot, row.problem) == (slot, slot + 2 * HOUR, None)
            await work(rt)
            await look(rt, slot + 2 * HOUR)
            slots = [slot + number * HOUR for number in range(3)]
            assert await have_tasks(rt, schedule, slots) == [True, False, True]

    async def test_the_old_one_is_cancelled_before_it_began(self, place: Place) -> None:
        schedule = hourly(place, overlap="cancel_previous")
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, 3 * HOUR)
            await look(rt, slot)
            await look(rt, slot + HOUR)
            infos = [(await rt.handle(slot_task_id("hourly", at)).info()).unwrap() for at in (slot, slot + HOUR)]
            assert [info and info.status for info in infos] == [TaskStatus.CANCELLED, TaskStatus.PENDING]

    async def test_the_old_one_is_cancelled_while_it_runs(self, place: Place) -> None:
        began = anyio.Event()

        @place.app.task("long")
        async def long() -> None:
            began.set()
            await anyio.sleep_forever()

        schedule = place.app.schedule("long", long, Every(HOUR), overlap="cancel_previous")
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, 3 * HOUR)
            await look(rt, slot)
            worker = work_only(rt)
            async with anyio.create_task_group() as group:
                group.start_soon(worker.run)
                with anyio.fail_after(20):
                    await began.wait()
                    await look(rt, slot + HOUR)
                    result = await rt.handle(slot_task_id("long", slot)).get()
                assert result.unwrap_err().code == "TASK_CANCELLED"
                await rt.handle(slot_task_id("long", slot + HOUR)).cancel()
                worker.drain_nowait()


AT_FOUR = [
    Daily(time(3), "Etc/GMT+1"),
    Weekly(("sat", "sun"), time(3), "Etc/GMT+1"),
    Monthly(1, time(3), "Etc/GMT+1"),
    Cron("0 3 * * *", "Etc/GMT+1"),
    Cron("*/90 3 * * *", "Etc/GMT+1"),
]
"""Patterns whose slots are at 04:00 UTC."""


class TestChangedRules:
    """The stored slot is one that the rules of now do not give: an offset has moved since, or the code has changed."""

    @staticmethod
    async def stands(rt: Runtime, schedule: Schedule, stored: datetime) -> None:
        assert await store_of(rt).declare([NewSchedule(schedule.name, schedule.timing, stored)]) == [True]

    @staticmethod
    async def slot_ahead(rt: Runtime, schedule: Schedule) -> datetime:
        """A slot that the database's clock has not reached, so that a task can be sent for it without expiring."""
        slot = schedule.next_after(await now_in(rt))
        assert slot is not None
        return slot

    @pytest.mark.parametrize("pattern", AT_FOUR, ids=str)
    async def test_a_slot_that_moved_later_comes_at_its_new_time_alone(self, place: Place, pattern: Any) -> None:
        schedule = place.app.schedule("moved", place.tick, pattern, args=("",))
        async with Runtime(place.app) as rt:
            slot = await self.slot_ahead(rt, schedule)
            stored = slot - HOUR
            await self.stands(rt, schedule, stored)
            await look(rt, stored)
            assert await have_tasks(rt, schedule, [stored, slot]) == [False, False]
            [info] = (await rt.schedules()).unwrap()
            assert info.next_slot == slot
            await look(rt, slot)
            assert await have_tasks(rt, schedule, [stored, slot]) == [False, True]
            assert (await row_of(rt, schedule)).next_slot == schedule.next_after(slot)

    @pytest.mark.parametrize("pattern", AT_FOUR, ids=str)
    async def test_a_slot_that_moved_earlier_comes_at_its_new_time_alone(self, place: Place, pattern: Any) -> None:
        schedule = place.app.schedule("moved", place.tick, pattern, args=("",))
        async with Runtime(place.app) as rt:
            slot = await self.slot_ahead(rt, schedule)
            stored = slot + HOUR
            await self.stands(rt, schedule, stored)
            assert await look(rt, slot - timedelta(seconds=2)) <= 2.0
            await look(rt, slot)
            await look(rt, stored)
            assert await have_tasks(rt, schedule, [slot, stored]) == [True, False]
            assert (await row_of(rt, schedule)).next_slot == schedule.next_after(slot)

    async def test_a_slot_that_moved_into_the_past_is_sent_for_at_once(self, place: Place) -> None:
        schedule = place.app.schedule("moved", place.tick, Daily(time(3), "Etc/GMT+1"), args=("",))
        async with Runtime(place.app) as rt:
            slot = await self.slot_ahead(rt, schedule)
            await self.stands(rt, schedule, slot + HOUR)
            await look(rt, slot + timedelta(minutes=40))
            assert await have_tasks(rt, schedule, [slot]) == [True]

    async def test_what_was_sent_by_the_old_rules_does_not_come_again_on_that_day(self, place: Place) -> None:
        schedule = place.app.schedule("moved", place.tick, Daily(time(3), "Etc/GMT+1"), args=("",))
        async with Runtime(place.app) as rt:
            today = await self.slot_ahead(rt, schedule)
            await self.stands(rt, schedule, today - HOUR + timedelta(days=1))
            await look(rt, today)
            await look(rt, today + timedelta(hours=23))
            assert await have_tasks(rt, schedule, [today, today + timedelta(hours=23)]) == [False, False]
            await look(rt, today + timedelta(days=1))
            assert await have_tasks(rt, schedule, [today + timedelta(days=1)]) == [True]

    async def test_schedulers_with_old_and_new_rules_send_once_a_day(self, place: Place) -> None:
        old_place = place_for(place.app.config)
        new = place.app.schedule("moved", place.tick, Renamed(Daily(time(3), "Etc/GMT+1")), args=("",))
        old = old_place.app.schedule("moved", old_place.tick, Renamed(Daily(time(3))), args=("",))
        async with Runtime(place.app) as rt:
            first = await self.slot_ahead(rt, old)
            await self.stands(rt, old, first)
            hosts = rt._engine, With(rt, old_place.app)
            for hours in range(24 * 3):
                for host in hosts:
                    store = cast("Schedules", At(rt, first + hours * HOUR))
                    await Scheduler(cast("Any", host), store, lambda: True).run_once()
            days = [first + timedelta(days=day) for day in range(3)]
            sent = [sum(await have_tasks(rt, new, [day, day + HOUR])) for day in days]
        assert sent == [1, 1, 1]


@dataclass(frozen=True)
class Renamed:
    """A pattern whose text does not say its time zone, as no text says which version of the rules is meant."""

    pattern: Daily

    def next_after(self, after: datetime, *, start: datetime | None = None) -> datetime | None:
        return self.pattern.next_after(after, start=start)

    def __str__(self) -> str:
        return "daily at 03:00"


class TestFailures:
    async def test_what_cannot_be_sent_is_skipped_and_shown(self, place: Place) -> None:
        place = place_for(place.app.config, payload=PayloadPolicy(reject_bytes=500))
        too_large = place.app.schedule("large", place.tick, Every(HOUR), args=("x" * 500,))
        fine = place.app.schedule("fine", place.tick, Every(HOUR), args=("x",))
        async with Runtime(place.app) as rt:
            slot = await begun(rt, too_large, HOUR)
            assert await begun(rt, fine, HOUR) == slot
            await look(rt, slot)
            assert await have_tasks(rt, too_large, [slot]) == [False]
            assert await have_tasks(rt, fine, [slot]) == [True]
            infos = {info.name: info for info in (await rt.schedules()).unwrap()}
        assert infos["fine"].problem is None
        assert "reject_bytes" in (infos["large"].problem or "")
        assert infos["large"].next_slot == slot + HOUR

    async def test_what_the_database_refuses_is_skipped_and_holds_up_no_other(self, place: Place) -> None:
        @place.app.task("refused")
        async def refused_task() -> None:
            raise NotImplementedError

        bad = place.app.schedule("bad", refused_task, Every(HOUR))
        good = hourly(place)
        async with Runtime(place.app) as rt:
            slot = await begun(rt, bad, 2 * HOUR)
            assert await begun(rt, good, 2 * HOUR) == slot
            async with refusing(rt, "refused"):
                await look(rt, slot)
                assert await have_tasks(rt, bad, [slot]) == [False]
                assert await have_tasks(rt, good, [slot]) == [True]
                assert (await row_of(rt, bad)).problem is not None
            await look(rt, slot + HOUR)
            assert await have_tasks(rt, bad, [slot, slot + HOUR]) == [False, True]
            assert (await row_of(rt, bad)).problem is None

    async def test_a_database_that_is_away_keeps_the_slot_due(self, place: Place) -> None:
        schedule = hourly(place)
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, HOUR)
            fails = _Failing(rt, slot)
            scheduler = Scheduler(rt._engine, cast("Schedules", fails), lambda: True)
            with pytest.raises(BrokerError):
                await scheduler.run_once()
            assert (await row_of(rt, schedule)).next_slot == slot
            async with anyio.create_task_group() as group:
                group.start_soon(scheduler.run)
                with anyio.fail_after(20):
                    while await have_tasks(rt, schedule, [slot]) != [True]:
                        await anyio.sleep(0.01)
                group.cancel_scope.cancel()
        assert fails.left == 0

    async def test_an_answer_that_is_lost_sends_nothing_twice(self, place: Place) -> None:
        schedule = hourly(place)
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, HOUR)
            scheduler = Scheduler(rt._engine, cast("Schedules", _Failing(rt, slot, after=True)), lambda: True)
            with pytest.raises(BrokerError):
                await scheduler.run_once()
            assert await scheduler.run_once() > 0.0
            assert (await row_of(rt, schedule)).next_slot == slot + HOUR
            await work(rt)
        assert place.ran == [slot_task_id("hourly", slot)]


class _Failing(At):
    """A store whose first two firings fail, before or after they were written."""

    def __init__(self, rt: Runtime, now: datetime, *, after: bool = False) -> None:
        super().__init__(rt, now)
        self.left = 1 if after else 2
        self._after = after

    async def fire(self, firings: Any) -> list[bool]:
        if self._after or not self.left:
            fired = await self._store.fire(firings)
        if self.left:
            self.left -= 1
            raise BrokerError("the connection was lost", retryable=True)
        return fired
