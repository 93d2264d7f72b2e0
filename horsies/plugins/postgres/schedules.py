"""Where schedules stand, and sending for their slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from horsies.abc import EnqueueOutcome, Firing, NewSchedule, ScheduleBook, ScheduleRow

from .driver.session import Fetch, in_utc
from .driver.transaction import Borrowing
from .producer import PostgresProducer

LOCK_WAIT = "250ms"
"""How long a firing waits for somebody's open transaction; it stays due, and others go on."""


class PostgresSchedules:
    """See `horsies.abc.Schedules`."""

    def __init__(self, borrowing: Borrowing, sql: Mapping[str, str]) -> None:
        self._fetch = borrowing.fetch
        self._transact = borrowing.transact
        self._sql = sql

    async def read(self, *, now: datetime | None = None) -> ScheduleBook:
        """See `horsies.abc.Schedules.read`."""
        rows = await self._fetch("read the schedules", self._sql["schedules.schedules"], {"now": now})
        return ScheduleBook(
            rows[0][0].astimezone(UTC),
            tuple(
                ScheduleRow(name, timing, in_utc(next_slot), in_utc(paused_at), in_utc(last_slot), task_id, problem)
                for _, name, timing, next_slot, paused_at, last_slot, task_id, problem in rows
                if name is not None
            ),
        )

    async def declare(self, schedules: Sequence[NewSchedule]) -> list[bool]:
        """See `horsies.abc.Schedules.declare`."""
        rows = await self._fetch(
            "declare schedules",
            self._sql["schedules.declare"],
            {
                "names": [one.name for one in schedules],
                "timings": [one.timing for one in schedules],
                "next_slots": [one.next_slot for one in schedules],
            },
        )
        begun = {name for (name,) in rows}
        return [one.name in begun for one in schedules]

    async def fire(self, firings: Sequence[Firing], *, now: datetime | None = None) -> list[bool]:
        """See `horsies.abc.Schedules.fire`."""
        given = {
            "names": [one.name for one in firings],
            "timings": [one.timing for one in firings],
            "slots": [one.slot for one in firings],
        }

        async def work(fetch: Fetch) -> list[bool]:
            standing: dict[str, str | None] = dict(await fetch("fire", self._sql["schedules.standing_at"], given))
            ours = [one for one in firings if one.name in standing]
            previous = [last for one in ours if one.cancel_previous and (last := standing[one.name]) is not None]
            if previous:
                await fetch("fire", self._sql["tasks.cancel"], {"ids": sorted(previous), "now": now})
            tasks = [task for one in ours for task in one.tasks]
            answers = await PostgresProducer(fetch, self._sql).enqueue(tasks, now=now) if tasks else []
            present = {answer.task_id for answer in answers if answer.outcome is not EnqueueOutcome.DEDUPLICATED}
            sent = [[task for task in one.tasks if task.task_id in present] for one in ours]
            moved = {
                "names": [one.name for one in ours],
                "next_slots": [one.next_slot for one in ours],
                "last_slots": [tasks[-1].sent_at if tasks else None for tasks in sent],
                "last_task_ids": [tasks[-1].task_id if tasks else None for tasks in sent],
                "problems": [one.problem for one in ours],
            }
            await fetch("fire", self._sql["schedules.move_on"], moved)
            return [one.name in standing for one in firings]

        return await self._transact("send for schedules", work, lock_wait=LOCK_WAIT)

    async def pause(self, name: str, *, now: datetime | None = None) -> bool:
        """See `horsies.abc.Schedules.pause`."""
        given = {"name": name, "now": now}
        return bool(await self._fetch("pause a schedule", self._sql["schedules.pause_schedule"], given))

    async def resume(self, name: str, next_slot: datetime | None) -> bool:
        """See `horsies.abc.Schedules.resume`."""
        given = {"name": name, "next_slot": next_slot}
        return bool(await self._fetch("resume a schedule", self._sql["schedules.resume_schedule"], given))
