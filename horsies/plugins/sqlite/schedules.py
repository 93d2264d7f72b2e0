"""Where schedules stand, and sending for their slots."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from horsies.abc import EnqueueOutcome, Firing, NewSchedule, ScheduleBook, ScheduleRow

from .._sql.ids import require_ids
from .control import cancel_one
from .producer import enqueue_one
from .queries import named_queries
from .session import Row, Session, Transaction, in_utc, instant, microseconds


class SqliteSchedules:
    """See `horsies.abc.Schedules`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._sql = named_queries()

    async def read(self, *, now: datetime | None = None) -> ScheduleBook:
        """See `horsies.abc.Schedules.read`."""

        def work(transaction: Transaction) -> ScheduleBook:
            rows = transaction.fetch(self._sql["schedules.schedules"], {})
            return ScheduleBook(
                instant(transaction.now),
                tuple(
                    ScheduleRow(name, timing, in_utc(next_slot), in_utc(paused_at), in_utc(last_slot), *others)
                    for name, timing, next_slot, paused_at, last_slot, *others in rows
                ),
            )

        return await self._session.read("read the schedules", work, now=now)

    async def declare(self, schedules: Sequence[NewSchedule]) -> list[bool]:
        """See `horsies.abc.Schedules.declare`."""

        def begin(transaction: Transaction, one: NewSchedule) -> bool:
            given = {"name": one.name, "timing": one.timing, "next_slot": _stored(one.next_slot)}
            return bool(transaction.fetch(self._sql["schedules.declare"], given))

        return await self._session.write(
            "declare schedules", lambda transaction: [begin(transaction, one) for one in schedules]
        )

    async def fire(self, firings: Sequence[Firing], *, now: datetime | None = None) -> list[bool]:
        """See `horsies.abc.Schedules.fire`."""

        def work(transaction: Transaction) -> list[bool]:
            standing = {one.name: row for one in firings for row in self._standing_at(transaction, one)}
            for one in firings:
                (previous,) = standing.get(one.name, (None,))
                if one.cancel_previous and previous is not None:
                    cancel_one(self._sql, transaction, previous)
            for one in firings:
                if one.name in standing:
                    self._move_on(transaction, one)
            return [one.name in standing for one in firings]

        return await self._session.write("send for schedules", work, now=now)

    async def pause(self, name: str, *, now: datetime | None = None) -> bool:
        """See `horsies.abc.Schedules.pause`."""

        def work(transaction: Transaction) -> bool:
            return bool(
                transaction.fetch(self._sql["schedules.pause_schedule"], {"name": name, "now": transaction.now})
            )

        return await self._session.write("pause a schedule", work, now=now)

    async def resume(self, name: str, next_slot: datetime | None) -> bool:
        """See `horsies.abc.Schedules.resume`."""

        def work(transaction: Transaction) -> bool:
            given = {"name": name, "next_slot": _stored(next_slot)}
            return bool(transaction.fetch(self._sql["schedules.resume_schedule"], given))

        return await self._session.write("resume a schedule", work)

    def _standing_at(self, transaction: Transaction, one: Firing) -> list[Row]:
        expected = {"name": one.name, "timing": one.timing, "slot": microseconds(one.slot)}
        return transaction.fetch(self._sql["schedules.standing_at"], expected)

    def _move_on(self, transaction: Transaction, one: Firing) -> None:
        require_ids("send for schedules", (task.task_id for task in one.tasks))
        answers = [enqueue_one(self._sql, transaction, task) for task in one.tasks]
        sent = [
            task
            for task, answer in zip(one.tasks, answers, strict=True)
            if answer.outcome is not EnqueueOutcome.DEDUPLICATED
        ]
        moved = {
            "name": one.name,
            "next_slot": _stored(one.next_slot),
            "last_slot": microseconds(sent[-1].sent_at) if sent else None,
            "last_task_id": sent[-1].task_id if sent else None,
            "problem": one.problem,
        }
        transaction.fetch(self._sql["schedules.move_on"], moved)


def _stored(slot: datetime | None) -> int | None:
    return None if slot is None else microseconds(slot)
