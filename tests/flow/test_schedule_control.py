"""Schedules that change, or are looked after from outside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from horsies import (
    BackfillInfo,
    Every,
    HorsiesError,
    Ok,
    Runtime,
    TaskSendErrorCode,
)
from horsies._payload.ids import slot_task_id
from horsies._schedule.scheduler import Scheduler
from horsies.abc import NewSchedule, Schedules

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
    row_of,
    store_of,
    work,
)

pytestmark = pytest.mark.anyio


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
            scheduler = Scheduler(rt._engine, cast("Schedules", at), lambda: True)
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

    async def test_backfill_is_suppressed_on_request(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        schedule = hourly(place)
        async with Runtime(place.app) as rt:
            slot = await begun(rt, schedule, 2 * HOUR)
            with monkeypatch.context() as patch:
                patch.setenv("HORSIES_SUPPRESS_SENDS", "1")
                error = (await rt.backfill_schedule("hourly", slot, slot + HOUR)).unwrap_err()
            assert (error.code, error.retryable) == (TaskSendErrorCode.SEND_SUPPRESSED, False)
            assert await have_tasks(rt, schedule, [slot, slot + HOUR]) == [False, False]

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
