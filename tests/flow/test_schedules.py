"""Schedules, run by workers and by schedulers: each slot is sent for once, whatever happens around it."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import anyio
import psycopg
import pytest

from horsies import (
    AppConfig,
    BackfillInfo,
    Every,
    Horsies,
    HorsiesError,
    Ok,
    PayloadPolicy,
    ResilienceConfig,
    Runtime,
    Schedule,
    Task,
    TaskContext,
    TaskStatus,
    Worker,
    WorkerConfig,
)
from horsies._payload.ids import slot_task_id
from horsies._schedule.due import LATE, MOST
from horsies._schedule.scheduler import LAG, Scheduler
from horsies.abc import BrokerError, NewSchedule, ScheduleRow, Schedules

from .conftest import until

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)
PROMPT = ResilienceConfig(poll_interval=0.5)


@dataclass
class Place:
    """An application whose task notes which of its tasks ran, and with what."""

    app: Horsies
    tick: Task[[str], None]
    ran: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    sent_at: list[datetime] = field(default_factory=list)

    def slots(self, schedule: Schedule, since: datetime) -> list[datetime]:
        """The slots whose tasks ran, in the order in which they did."""
        known: dict[str, datetime] = {}
        slot = schedule.next_after(since - timedelta(microseconds=1))
        while slot is not None and len(known) < 2000 and slot < since + timedelta(days=3):
            known[slot_task_id(schedule.name, slot)] = slot
            slot = schedule.next_after(slot)
        return [known[task_id] for task_id in self.ran]


def place_for(config: AppConfig, **fields: Any) -> Place:
    app = Horsies(replace(config, **{"resilience": PROMPT, **fields}))

    @app.task("tick")
    async def tick(ctx: TaskContext, what: str) -> None:
        place.ran.append(ctx.task_id)
        place.said.append(what)
        place.sent_at.append(ctx.sent_at)

    place = Place(app, tick)
    return place


@pytest.fixture
def place(config: AppConfig) -> Place:
    return place_for(config)


def store_of(rt: Runtime) -> Schedules:
    return cast("Any", rt.broker).schedules


async def row_of(rt: Runtime, schedule: Schedule) -> ScheduleRow:
    (row,) = [row for row in (await store_of(rt).read()).rows if row.name == schedule.name]
    return row


async def now_in(rt: Runtime) -> datetime:
    return (await store_of(rt).read()).now


async def begun(rt: Runtime, schedule: Schedule, ago: timedelta) -> datetime:
    """Have a schedule stand as if its last slot before `ago` had not been dealt with; that slot."""
    slot = schedule.next_after(await now_in(rt) - ago)
    assert slot is not None
    assert await store_of(rt).declare([NewSchedule(schedule.name, schedule.timing, slot)]) == [True]
    return slot


class At:
    """The store of a runtime, read at an instant of the test's choice."""

    def __init__(self, rt: Runtime, now: datetime) -> None:
        self._store = store_of(rt)
        self.now = now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read(self) -> Any:
        return replace(await self._store.read(), now=self.now)


async def look(rt: Runtime, now: datetime, *, goes_first: bool = True) -> float:
    """One round of a scheduler that has not looked before."""
    return await Scheduler(rt, cast("Schedules", At(rt, now)), lambda: goes_first).run_once()


class With:
    """A runtime with another version of its application."""

    def __init__(self, rt: Runtime, app: Horsies) -> None:
        self._rt = rt
        self.app = app

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rt, name)


def work_only(rt: Runtime, **config: Any) -> Worker:
    """A worker whose application has the tasks and no schedule, so that it sends nothing by the time of the day."""
    app = copy.copy(rt.app)
    app._schedules = {}
    return Worker(cast("Any", With(rt, app)), WorkerConfig(**config))


async def work(rt: Runtime) -> None:
    """Run what is due."""
    await work_only(rt, until_idle=True).run()


async def have_tasks(rt: Runtime, schedule: Schedule, slots: Iterable[datetime]) -> list[bool]:
    return [await rt.read(slot_task_id(schedule.name, slot)) is not None for slot in slots]


@asynccontextmanager
async def refusing(rt: Runtime, task_name: str) -> AsyncIterator[None]:
    """In the block the database refuses tasks of one name."""
    config = rt.app.config
    if config.url.startswith("sqlite"):
        session = cast("Any", rt.broker)._session
        trigger = (
            f"CREATE TRIGGER refuse BEFORE INSERT ON tasks WHEN NEW.task_name = '{task_name}'"
            " BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
        await session.write("refuse", lambda transaction: transaction.fetch(trigger, {}))
        yield
        await session.write("refuse", lambda transaction: transaction.fetch("DROP TRIGGER refuse", {}))
        return
    with psycopg.connect(config.url, autocommit=True) as connection:
        connection.execute(
            f"""
            CREATE FUNCTION {config.schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON {config.schema}.tasks
                FOR EACH ROW WHEN (NEW.task_name = '{task_name}') EXECUTE FUNCTION {config.schema}.refuse();
            """.encode()
        )
        yield
        connection.execute(f"DROP TRIGGER refuse ON {config.schema}.tasks".encode())


def hourly(place: Place, **options: Any) -> Schedule:
    return place.app.schedule("hourly", place.tick, Every(HOUR), args=("",), **options)


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
            scheduler = Scheduler(rt, cast("Schedules", at), lambda: False)
            await scheduler.run_once()
            at.now = slot + HOUR
            await scheduler.run_once()
            assert await have_tasks(rt, schedule, [slot + HOUR]) == [True]

    async def test_a_clock_that_steps_back_sends_for_nothing_twice(self, place: Place) -> None:
        schedule = hourly(place)
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, 3 * HOUR)
            at = At(rt, slot)
            scheduler = Scheduler(rt, cast("Schedules", at), lambda: True)
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
            scheduler = Scheduler(rt, cast("Schedules", At(rt, now)), lambda: True)
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
            scheduler = Scheduler(rt, cast("Schedules", fails), lambda: True)
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
            scheduler = Scheduler(rt, cast("Schedules", _Failing(rt, slot, after=True)), lambda: True)
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


class TestChanges:
    async def test_another_timing_begins_anew(self, place: Place) -> None:
        old = hourly(place)
        newer = place_for(place.app.config)
        new = newer.app.schedule("hourly", newer.tick, Every(2 * HOUR), args=("",))
        async with Runtime(place.app) as rt:
            slot = await begun(rt, old, HOUR)
            scheduler = Scheduler(With(rt, newer.app), cast("Schedules", At(rt, slot)), lambda: True)
            await scheduler.run_once()
            row = await row_of(rt, new)
            assert (row.timing, row.next_slot) == (new.timing, new.next_after(slot))
            assert await have_tasks(rt, old, [slot]) == [False]

    async def test_other_arguments_take_effect_at_the_next_slot(self, place: Place) -> None:
        hourly(place)
        newer = place_for(place.app.config)
        schedule = newer.app.schedule("hourly", newer.tick, Every(HOUR), args=("new",))
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, HOUR)
            await Scheduler(With(rt, newer.app), cast("Schedules", At(rt, slot)), lambda: True).run_once()
            await work(rt)
        assert place.said == ["new"]

    async def test_what_a_newer_version_has_begun_anew_is_left_alone(
        self, place: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        old = hourly(place)
        async with Runtime(place.app) as rt:
            slot = await begun(rt, old, HOUR)
            at = At(rt, slot - timedelta(minutes=1))
            scheduler = Scheduler(rt, cast("Schedules", at), lambda: True)
            await scheduler.run_once()
            newer = NewSchedule("hourly", "every 2 hours", slot)
            assert await store_of(rt).declare([newer]) == [True]
            at.now = slot
            await scheduler.run_once()
            await scheduler.run_once()
            assert (await row_of(rt, old)).next_slot == slot
            assert await have_tasks(rt, old, [slot]) == [False]
        assert [record.message for record in caplog.records if "is left alone" in record.message] != []

    async def test_one_that_is_not_declared_any_more_is_left_alone(self, place: Place) -> None:
        hourly(place)
        async with Runtime(place.app) as rt:
            now = await now_in(rt)
            assert await store_of(rt).declare([NewSchedule("removed", "every day", now - HOUR)]) == [True]
            await look(rt, now)
            infos = (await rt.schedules()).unwrap()
        assert [(info.name, info.task_name) for info in infos] == [("hourly", "tick"), ("removed", None)]
        assert infos[1].next_slot == now - HOUR

    async def test_a_disabled_one_sends_nothing_and_begins_anew_when_it_is_enabled(self, place: Place) -> None:
        disabled = hourly(place, enabled=False)
        async with Runtime(place.app) as rt:
            now = await now_in(rt)
            await look(rt, now)
            assert (await row_of(rt, disabled)).next_slot is None
            enabled = place_for(place.app.config)
            schedule = hourly(enabled)
            await Scheduler(With(rt, enabled.app), cast("Schedules", At(rt, now + 9 * HOUR)), lambda: True).run_once()
            assert (await row_of(rt, schedule)).next_slot == schedule.next_after(now + 9 * HOUR)

    async def test_it_ends_with_its_last_slot(self, place: Place) -> None:
        end = datetime.now(UTC) + HOUR
        schedule = hourly(place, end=end)
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, timedelta(0))
            assert await look(rt, slot) == float("inf")
            assert (await row_of(rt, schedule)).next_slot is None
            assert await look(rt, slot + 5 * HOUR) == float("inf")


class TestControl:
    async def test_a_paused_schedule_sends_nothing_and_goes_on_from_now(self, place: Place) -> None:
        schedule = hourly(place)
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, 3 * HOUR)
            assert await rt.pause_schedule("hourly") == Ok(True)
            assert await rt.pause_schedule("hourly") == Ok(False)
            await look(rt, slot + HOUR)
            assert await rt.resume_schedule("hourly") == Ok(True)
            assert await rt.resume_schedule("hourly") == Ok(False)
            row = await row_of(rt, schedule)
            assert row.paused_at is None
            assert row.next_slot == schedule.next_after(await now_in(rt))
            assert await have_tasks(rt, schedule, [slot, slot + HOUR]) == [False, False]

    async def test_one_that_has_not_begun_can_be_paused(self, place: Place) -> None:
        schedule = hourly(place)
        async with Runtime(place.app) as rt:
            assert await rt.pause_schedule("hourly") == Ok(True)
            row = await row_of(rt, schedule)
            assert row.next_slot is not None
            await look(rt, row.next_slot)
            assert await have_tasks(rt, schedule, [row.next_slot]) == [False]

    async def test_trigger_sends_beside_the_slots(self, place: Place) -> None:
        schedule = place.app.schedule("daily", place.tick, Every(24 * HOUR), args=("now",), good_until=HOUR)
        async with Runtime(place.app) as rt:
            await rt.pause_schedule("daily")
            before = await row_of(rt, schedule)
            handle = (await rt.trigger_schedule("daily")).unwrap()
            await work(rt)
            assert (await handle.get(timeout=10)) == Ok(None)
            assert await row_of(rt, schedule) == before
        assert place.said == ["now"]

    async def test_trigger_with_skip_gives_the_unfinished_task(self, place: Place) -> None:
        hourly(place, overlap="skip")
        async with Runtime(place.app) as rt:
            first = (await rt.trigger_schedule("hourly")).unwrap()
            second = (await rt.trigger_schedule("hourly")).unwrap()
            assert second.deduplicated
            assert second.task_id == first.task_id

    @pytest.mark.parametrize("overlap", ["allow", "skip", "cancel_previous"])
    async def test_backfill_sends_for_what_has_no_task(self, place: Place, overlap: Any) -> None:
        schedule = hourly(place, overlap=overlap, good_until=timedelta(minutes=1))
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, 10 * HOUR)
            await look(rt, slot)
            await work(rt)
            end = slot + timedelta(days=5)
            assert await rt.backfill_schedule("hourly", slot, end) == Ok(BackfillInfo(sent=9, present=1))
            assert await rt.backfill_schedule("hourly", slot, end) == Ok(BackfillInfo(sent=0, present=10))
            slots = [slot + number * HOUR for number in range(11)]
            assert await have_tasks(rt, schedule, slots) == [True] * 10 + [False]
            assert (await row_of(rt, schedule)).next_slot == slot + HOUR
            await work(rt)
        assert len(set(place.ran)) == 9  # what was late at its slot has expired, and is not sent for again

    async def test_what_backfill_has_sent_for_is_not_sent_for_again(self, place: Place) -> None:
        schedule = hourly(place, catch_up="all")
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, 3 * HOUR)
            await rt.backfill_schedule("hourly", slot, slot + HOUR)
            await look(rt, slot + 2 * HOUR)
            await work(rt)
        assert sorted(place.ran) == [slot_task_id("hourly", slot + number * HOUR) for number in range(3)]

    async def test_bad_input(self, place: Place) -> None:
        hourly(place)
        async with Runtime(place.app) as rt:
            for call in (rt.pause_schedule, rt.resume_schedule, rt.trigger_schedule):
                with pytest.raises(HorsiesError, match=r"HRS-205.*no schedule 'nightly'") as caught:
                    await call("nightly")
                assert caught.value.notes == ("its schedules: hourly",)
            with pytest.raises(ValueError, match="time zone"):
                await rt.backfill_schedule("hourly", datetime(2026, 1, 1), datetime.now(UTC))

    async def test_a_broker_that_keeps_no_schedules_cannot_open_an_application_that_has_some(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hourly(place)
        factory = Runtime(place.app).broker_factory()
        async with factory.open(place.app.config, clock=lambda: datetime.now(UTC)) as broker:
            kind = type(broker)
        original = kind.__init__

        def without(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            del self.schedules

        monkeypatch.setattr(kind, "__init__", without)
        with pytest.raises(HorsiesError, match=r"HRS-205.*keeps no schedules"):
            async with Runtime(place.app):
                raise NotImplementedError
