"""Where schedules stand, and sending for each of their slots once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import anyio
import pytest

from horsies import abc
from horsies.abc import (
    Broker,
    BrokerError,
    EnqueueOutcome,
    Firing,
    NewSchedule,
    NewTask,
    ScheduleRow,
    Schedules,
    Start,
    TaskStatus,
    Topic,
)

from .stage import Stage, at, done, heard, ids, new_task

NAME = "often"
TIMING = "once a second"


def slot(n: int) -> datetime:
    """The n-th slot, which no broker rounds."""
    return at(n) + timedelta(microseconds=1)


FIRST = slot(1)


def for_slot(n: int, **fields: Any) -> NewTask:
    """What is sent for the n-th slot."""
    return new_task(n, sent_at=slot(n), **fields)


def begins(name: str = NAME, *, timing: str = TIMING, next_slot: datetime | None = FIRST) -> NewSchedule:
    """A schedule that begins with the first slot."""
    return NewSchedule(name, timing, next_slot)


def fires(n: int, *tasks: NewTask, name: str = NAME, **fields: Any) -> Firing:
    """The n-th slot is dealt with, and the next one is to come."""
    return replace(Firing(name, TIMING, slot(n), slot(n + 1), tasks), **fields)


async def standing(schedules: Schedules, name: str = NAME) -> ScheduleRow:
    return {row.name: row for row in (await schedules.read()).rows}[name]


async def present(stage: Stage) -> list[int]:
    """Which of the tasks 1 to 20 are there."""
    found = await stage.broker.reader.results([str(UUID(int=n)) for n in range(1, 21)])
    return sorted(UUID(stored.task_id).int for stored in found)


class Scheduling:
    """Where schedules stand, and sending for each of their slots once."""

    @pytest.fixture
    def schedules(self, broker: Broker) -> Schedules:
        assert isinstance(broker, abc.Scheduling)
        return broker.schedules

    async def test_the_book_says_what_time_it_is(self, schedules: Schedules) -> None:
        one, other = await schedules.read(), await schedules.read()
        assert (one.rows, other.rows) == ((), ())
        assert one.now <= other.now
        await schedules.declare([begins()])
        elsewhere = slot(1).astimezone(timezone(timedelta(hours=5, minutes=30)))
        told = await schedules.read(now=elsewhere)
        assert told.now == slot(1)
        assert (one.now.tzinfo, told.now.tzinfo) == (UTC, UTC)
        assert [row.name for row in told.rows] == [NAME]

    async def test_schedules_come_back_as_they_began(self, schedules: Schedules) -> None:
        elsewhere = slot(1).astimezone(timezone(timedelta(hours=-3, minutes=-30)))
        names = ("often", "Often", "jede Nacht um 3 Ühr", "it's 100% \\ %s :x {schema}", " ")
        begun = [begins(name, timing=f"of {name}", next_slot=elsewhere) for name in names]
        assert await schedules.declare([*begun, begins("over", next_slot=None)]) == [True] * 6
        rows = {row.name: row for row in (await schedules.read()).rows}
        assert rows == {
            **{name: ScheduleRow(name, f"of {name}", slot(1), None, None, None, None) for name in names},
            "over": ScheduleRow("over", TIMING, None, None, None, None, None),
        }

    async def test_every_instant_comes_back_in_utc(self, schedules: Schedules) -> None:
        await schedules.declare([begins()])
        await schedules.fire([fires(1, for_slot(1))], now=slot(1))
        await schedules.pause(NAME, now=slot(9))
        row = await standing(schedules)
        assert (row.next_slot, row.last_slot, row.paused_at) == (slot(2), slot(1), slot(9))
        assert {instant.tzinfo for instant in (row.next_slot, row.last_slot, row.paused_at) if instant} == {UTC}

    async def test_a_schedule_begins_once(self, schedules: Schedules) -> None:
        assert await schedules.declare([begins()]) == [True]
        again = begins(next_slot=slot(5))
        assert await schedules.declare([begins("z"), again, begins("a")]) == [True, False, True]
        assert await schedules.declare([again]) == [False]
        assert (await standing(schedules)).next_slot == slot(1)

    async def test_many_who_declare_at_once_begin_each_once(self, schedules: Schedules) -> None:
        names = [f"s{n}" for n in range(5)]
        begun: list[str] = []

        async def declare(names: Sequence[str]) -> None:
            answers = await schedules.declare([begins(name) for name in names])
            begun.extend(name for name, has_begun in zip(names, answers, strict=True) if has_begun)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for n in range(10):
                    group.start_soon(declare, names if n % 2 else names[::-1])
        assert sorted(begun) == names

    async def test_another_timing_begins_anew(self, schedules: Schedules) -> None:
        await schedules.declare([begins()])
        await schedules.fire([fires(1, for_slot(1))], now=slot(1))
        await schedules.fire([fires(2, problem="it does not fit")], now=slot(2))
        changed = begins(timing="once a minute", next_slot=slot(60))
        assert await schedules.declare([changed]) == [True]
        last = (slot(1), for_slot(1).task_id)
        assert await standing(schedules) == ScheduleRow(NAME, changed.timing, slot(60), None, *last, None)
        assert await schedules.declare([changed]) == [False]
        assert await schedules.declare([begins(next_slot=None)]) == [True]
        assert await standing(schedules) == ScheduleRow(NAME, TIMING, None, None, *last, None)

    async def test_one_that_begins_anew_stays_paused(self, schedules: Schedules) -> None:
        await schedules.declare([begins()])
        await schedules.pause(NAME, now=slot(1))
        assert await schedules.declare([begins(timing="once a minute", next_slot=slot(60))]) == [True]
        row = await standing(schedules)
        assert (row.next_slot, row.paused_at) == (slot(60), slot(1))

    async def test_a_firing_sends_and_moves_on(self, stage: Stage, schedules: Schedules) -> None:
        await schedules.declare([begins()])
        first = for_slot(1, priority=7, good_until=at(9), unique_key="k")
        delayed = for_slot(2, queue="slow", due_in=2.5)
        assert await schedules.fire([fires(1, first, delayed, next_slot=slot(3))], now=at(2)) == [True]
        moved = ScheduleRow(NAME, TIMING, slot(3), None, slot(2), delayed.task_id, None)
        assert await standing(schedules) == moved
        row = await stage.row(1)
        assert (row.task_name, row.queue, row.priority, row.status) == ("a_task", "fast", 7, TaskStatus.PENDING)
        assert (row.envelope, row.sent_at, row.due_at, row.good_until) == (first.envelope, slot(1), at(2), at(9))
        assert (await stage.row(2)).due_at == at(4.5)
        # All else is as after a send: the SHA is stored, the key is held, the first can be claimed.
        assert await stage.send(first, new_task(3, unique_key="k")) == [
            EnqueueOutcome.REPLAYED,
            EnqueueOutcome.DEDUPLICATED,
        ]
        (claimed,) = (await (await stage.worker()).claim(5, now=at(2))).tasks
        assert (claimed.lease.task_id, claimed.sha) == (first.task_id, first.sha)

    async def test_a_firing_goes_by_the_clock_of_the_database(self, stage: Stage, schedules: Schedules) -> None:
        await schedules.declare([begins()])
        before = (await schedules.read()).now
        await schedules.fire([fires(1, for_slot(1))])
        await schedules.fire([fires(2, for_slot(2), cancel_previous=True)])
        finished_at, due_at = (await stage.row(1)).finished_at, (await stage.row(2)).due_at
        assert finished_at is not None
        assert before <= finished_at <= due_at <= (await schedules.read()).now

    async def test_what_is_sent_for_a_slot_is_noticed(self, stage: Stage, schedules: Schedules) -> None:
        await schedules.declare([begins()])
        with anyio.fail_after(10):
            async with stage.broker.listen(Topic.WORK) as work:
                firing = fires(1, for_slot(1), for_slot(2, queue="slow", due_in=5))
                await schedules.fire([firing], now=slot(2))
                assert await heard(work, {"ready:fast", "delayed:slow"})

    @pytest.mark.parametrize(
        "reason", ["dealt with", "still to come", "another timing", "paused", "over", "unknown", "by another name"]
    )
    async def test_what_stands_elsewhere_is_left_alone(self, stage: Stage, schedules: Schedules, reason: str) -> None:
        await schedules.declare([begins(), begins("other", next_slot=slot(2))])
        await schedules.fire([fires(1, for_slot(1))], now=slot(1))
        firing = fires(2, for_slot(2), cancel_previous=True, problem="it does not fit")
        match reason:
            case "dealt with":
                firing = replace(firing, slot=slot(1))
            case "still to come":
                firing = replace(firing, slot=slot(3))
            case "another timing":
                firing = replace(firing, timing="once a minute")
            case "paused":
                await schedules.pause(NAME, now=slot(1))
            case "over":
                await schedules.declare([begins(timing="never", next_slot=None)])
                firing = replace(firing, timing="never")
            case "unknown":
                firing = replace(firing, name="nothing of the kind")
            case "by another name":
                firing = replace(firing, name="Often")
        before = await schedules.read(now=slot(2))
        assert await schedules.fire([firing], now=slot(2)) == [False]
        after = await schedules.read(now=slot(2))
        assert set(after.rows) == set(before.rows)
        assert await present(stage) == [1]
        assert await stage.status(1) is TaskStatus.PENDING

    async def test_of_a_batch_that_is_written_which_stands_there(self, stage: Stage, schedules: Schedules) -> None:
        names = ["d", "c", "b", "a"]
        await schedules.declare([begins(name) for name in names])
        await schedules.fire([fires(1, name="c", problem="x"), fires(1, name="a", problem="x")], now=slot(1))
        firings = [fires(1, new_task(n, sent_at=slot(n)), name=name) for n, name in enumerate(names, 1)]
        assert await schedules.fire(firings, now=slot(1)) == [True, False, True, False]
        assert await present(stage) == [1, 3]
        rows = [await standing(schedules, name) for name in names]
        assert [(row.last_slot, row.last_task_id, row.problem) for row in rows] == [
            (slot(1), new_task(1).task_id, None),
            (None, None, "x"),
            (slot(3), new_task(3).task_id, None),
            (None, None, "x"),
        ]

    @pytest.mark.parametrize("sha", [None, b"\1" * 32])
    async def test_a_task_that_is_there_is_left_alone(
        self, stage: Stage, schedules: Schedules, sha: bytes | None
    ) -> None:
        """Somebody has sent for the slot already, and it may have run long since."""
        await schedules.declare([begins()])
        worker = await stage.worker()
        await worker.finish([done(await stage.started(worker, new_task(1)))], now=at(1))
        before = await stage.row(1)
        again = for_slot(1) if sha is None else for_slot(1, sha=sha)
        assert await schedules.fire([fires(1, again)], now=slot(1)) == [True]
        assert await stage.row(1) == before
        row = await standing(schedules)
        assert (row.next_slot, row.last_slot, row.last_task_id) == (slot(2), slot(1), again.task_id)

    async def test_a_task_whose_key_is_taken_is_left_out(self, stage: Stage, schedules: Schedules) -> None:
        await schedules.declare([begins()])
        await schedules.fire([fires(1, for_slot(1))], now=slot(1))
        await stage.send(new_task(9, unique_key="k"))
        assert await schedules.fire([fires(2, for_slot(2, unique_key="k"))], now=slot(2)) == [True]
        last = (slot(1), for_slot(1).task_id)
        assert await standing(schedules) == ScheduleRow(NAME, TIMING, slot(3), None, *last, None)
        assert await present(stage) == [1, 9]

    async def test_of_tasks_with_one_key_the_first_is_sent(self, stage: Stage, schedules: Schedules) -> None:
        await schedules.declare([begins()])
        tasks = [for_slot(n, unique_key="k") for n in (3, 1, 2)]
        assert await schedules.fire([fires(1, *tasks, next_slot=slot(4))], now=slot(3)) == [True]
        assert await present(stage) == [3]
        row = await standing(schedules)
        assert (row.last_slot, row.last_task_id) == (slot(3), for_slot(3).task_id)

    @pytest.mark.parametrize(
        ("before", "afterwards"),
        [
            (TaskStatus.PENDING, TaskStatus.CANCELLED),
            (TaskStatus.CLAIMED, TaskStatus.CANCELLED),
            (TaskStatus.RUNNING, TaskStatus.RUNNING),
            (TaskStatus.COMPLETED, TaskStatus.COMPLETED),
        ],
    )
    async def test_the_previous_task_is_cancelled_unless_it_has_ended(
        self, stage: Stage, schedules: Schedules, before: TaskStatus, afterwards: TaskStatus
    ) -> None:
        await schedules.declare([begins()])
        await schedules.fire([fires(1, for_slot(1))], now=slot(1))
        worker = await stage.worker()
        if before is not TaskStatus.PENDING:
            (claimed,) = (await worker.claim(1, now=at(2))).tasks
            if before is not TaskStatus.CLAIMED:
                await worker.start([Start(claimed.lease)], now=at(2))
            if before is TaskStatus.COMPLETED:
                await worker.finish([done(claimed.lease)], now=at(2))
        with anyio.fail_after(10):
            async with stage.broker.listen(Topic.WORK) as work, stage.broker.listen(Topic.FINISHED) as finished:
                assert await schedules.fire([fires(2, for_slot(2), cancel_previous=True)], now=at(3)) == [True]
                row = await stage.row(1)
                if afterwards is TaskStatus.CANCELLED:
                    assert row.finished_at == at(3)
                    assert await heard(finished, {row.task_id})
                if afterwards is TaskStatus.RUNNING:
                    assert await heard(work, {f"cancel:{row.task_id}"})
        assert (row.status, row.cancel_requested) == (afterwards, afterwards in {"CANCELLED", "RUNNING"})
        assert await stage.status(2) is TaskStatus.PENDING

    async def test_no_other_task_is_cancelled(self, stage: Stage, schedules: Schedules) -> None:
        await schedules.declare([begins(), begins("other"), begins("new")])
        await schedules.fire([fires(1, for_slot(1), for_slot(2), next_slot=slot(3))], now=slot(2))
        await schedules.fire([fires(1, new_task(11), name="other")], now=slot(1))
        firings = [
            fires(3, for_slot(3), cancel_previous=True),
            fires(2, new_task(12), name="other"),
            fires(1, new_task(13), name="new", cancel_previous=True),
        ]
        assert await schedules.fire(firings, now=slot(3)) == [True] * 3
        assert await present(stage) == [1, 2, 3, 11, 12, 13]
        assert await stage.status(2) is TaskStatus.CANCELLED
        assert {await stage.status(n) for n in (1, 3, 11, 12, 13)} == {TaskStatus.PENDING}

    async def test_a_cancelled_task_gives_way_to_the_next(self, stage: Stage, schedules: Schedules) -> None:
        await schedules.declare([begins()])
        await schedules.fire([fires(1, for_slot(1, unique_key="k"))], now=slot(1))
        await schedules.fire([fires(2, for_slot(2, unique_key="k"), cancel_previous=True)], now=slot(2))
        assert (await standing(schedules)).last_task_id == for_slot(2).task_id
        assert [await stage.status(n) for n in (1, 2)] == [TaskStatus.CANCELLED, TaskStatus.PENDING]

    async def test_all_is_cancelled_before_anything_is_sent(self, stage: Stage, schedules: Schedules) -> None:
        await schedules.declare([begins(), begins("other")])
        await schedules.fire([fires(1, new_task(11, unique_key="k"), name="other")], now=slot(1))
        firings = [
            fires(1, for_slot(1, unique_key="k")),
            fires(2, new_task(12), name="other", cancel_previous=True),
        ]
        assert await schedules.fire(firings, now=slot(2)) == [True, True]
        assert (await standing(schedules)).last_task_id == for_slot(1).task_id
        assert await present(stage) == [1, 11, 12]

    async def test_a_previous_task_that_was_removed_is_missed_by_nobody(
        self, stage: Stage, schedules: Schedules
    ) -> None:
        await schedules.declare([begins()])
        await schedules.fire([fires(1, for_slot(1))], now=slot(1))
        await stage.broker.control.cancel([for_slot(1).task_id], now=at(2))
        assert await stage.maintenance.prune(5, finished_after=timedelta(), now=at(3)) == 1
        assert await schedules.fire([fires(2, for_slot(2), cancel_previous=True)], now=at(3)) == [True]
        assert await present(stage) == [2]

    async def test_a_problem_is_shown_until_the_next_slot(self, stage: Stage, schedules: Schedules) -> None:
        await schedules.declare([begins()])
        await schedules.fire([fires(1, for_slot(1))], now=slot(1))
        assert await schedules.fire([fires(2, problem="it does not fit")], now=slot(2)) == [True]
        last = (slot(1), for_slot(1).task_id)
        assert await standing(schedules) == ScheduleRow(NAME, TIMING, slot(3), None, *last, "it does not fit")
        assert await schedules.fire([fires(3)], now=slot(3)) == [True]
        assert await standing(schedules) == ScheduleRow(NAME, TIMING, slot(4), None, *last, None)
        assert await present(stage) == [1]

    async def test_a_schedule_comes_to_its_end(self, stage: Stage, schedules: Schedules) -> None:
        await schedules.declare([begins()])
        assert await schedules.fire([fires(1, for_slot(1), next_slot=None)], now=slot(1)) == [True]
        assert (await standing(schedules)).next_slot is None
        assert await schedules.fire([fires(1, for_slot(2))], now=slot(2)) == [False]
        assert await present(stage) == [1]

    async def test_all_of_a_call_is_written_or_nothing(self, stage: Stage, schedules: Schedules) -> None:
        await schedules.declare([begins(), begins("other")])
        await schedules.fire([fires(1, for_slot(1))], now=slot(1))
        before = await schedules.read(now=slot(2))
        good = fires(2, for_slot(2), cancel_previous=True)
        bad = fires(1, new_task(11), new_task(12, task_id="nonsense"), name="other")
        for firings in ([good, bad], [bad, good]):
            with pytest.raises(BrokerError) as raised:
                await schedules.fire(firings, now=slot(2))
            assert not raised.value.retryable
            assert set((await schedules.read(now=slot(2))).rows) == set(before.rows)
            assert await present(stage) == [1]
            assert await stage.status(1) is TaskStatus.PENDING
        assert await schedules.fire([good], now=slot(2)) == [True]

    async def test_of_many_who_fire_at_once_one_sends(self, stage: Stage, schedules: Schedules) -> None:
        await schedules.declare([begins(), begins("other")])
        fired: list[list[bool]] = []

        async def fire(n: int) -> None:
            # Not what happens, since all make the same ids; but so it is seen that only one was written.
            firings = [fires(1, new_task(n)), fires(1, new_task(n + 10), name="other")]
            fired.append(await schedules.fire(firings if n % 2 else firings[::-1], now=slot(1)))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for n in range(1, 11):
                    group.start_soon(fire, n)
        assert sorted(fired) == [[False, False]] * 9 + [[True, True]]
        one, other = await present(stage)
        assert (other, (await standing(schedules)).last_task_id) == (one + 10, new_task(one).task_id)
        assert ids((await (await stage.worker()).claim(20, now=at(2))).tasks) == [one, other]

    async def test_a_paused_schedule_goes_on_where_it_is_told_to(self, stage: Stage, schedules: Schedules) -> None:
        await schedules.declare([begins(), begins("other")])
        await schedules.fire([fires(1, for_slot(1))], now=slot(1))
        await schedules.fire([fires(2, problem="it does not fit")], now=slot(2))
        assert await schedules.pause("other", now=slot(2))
        before, other = await standing(schedules), await standing(schedules, "other")
        assert before.paused_at is None
        assert await schedules.pause(NAME, now=slot(3))
        assert not await schedules.pause(NAME, now=slot(4))
        assert await standing(schedules) == replace(before, paused_at=slot(3))
        assert await schedules.fire([fires(3, for_slot(3))], now=slot(4)) == [False]
        assert await schedules.resume(NAME, slot(9))
        assert not await schedules.resume(NAME, slot(10))
        assert await standing(schedules) == replace(before, next_slot=slot(9))
        assert await schedules.fire([fires(9, for_slot(9))], now=slot(9)) == [True]
        assert await standing(schedules, "other") == other
        assert await present(stage) == [1, 9]

    async def test_a_schedule_is_paused_by_the_clock_of_the_database(self, schedules: Schedules) -> None:
        await schedules.declare([begins()])
        before = (await schedules.read()).now
        assert await schedules.pause(NAME)
        paused_at = (await standing(schedules)).paused_at
        assert paused_at is not None
        assert before <= paused_at <= (await schedules.read()).now
        assert await schedules.resume(NAME, None)
        row = await standing(schedules)
        assert (row.paused_at, row.next_slot) == (None, None)

    async def test_what_is_not_there_is_neither_paused_nor_resumed(self, schedules: Schedules) -> None:
        assert not await schedules.pause(NAME, now=slot(1))
        assert not await schedules.resume(NAME, slot(1))
        assert (await schedules.read()).rows == ()

    async def test_no_schedules_are_nothing(self, schedules: Schedules) -> None:
        assert await schedules.declare([]) == []
        assert await schedules.fire([], now=slot(1)) == []
        assert (await schedules.read()).rows == ()
