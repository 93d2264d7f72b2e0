"""The scheduler: sends for each slot that has come, once, however many schedulers there are.

Which slots have come is decided by the database's clock, and who deals with them by the database too: a schedule moves
on, and its tasks are put in, in one transaction that is guarded by where it stood. So the others need not wait for
anybody in particular. One goes first and the rest come `LAG` later, to find that there is nothing left to do: the
first is whoever leads the workers, whoever runs `horsies scheduler`, and whoever was quickest last time, which is how
an application whose workers do not lead has somebody, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import anyio

from .._core.errors import BrokerError
from .._core.result import Err
from .._declare.gateway import AppGateway
from .._declare.schedule import Schedule
from ..abc import Firing, NewSchedule, ScheduleRow, Schedules
from .due import due, slot_of_now
from .slot_tasks import tasks_for

LAG = timedelta(seconds=2)
"""How long after a slot those come to look who do not go first."""

logger = logging.getLogger("horsies.schedule")


class Scheduler:
    """Sends for the schedules of one application.

    Args:
        goes_first: whether it has a reason to, as of now.
    """

    def __init__(self, gateway: AppGateway, store: Schedules, goes_first: Callable[[], bool]) -> None:
        self._gateway = gateway
        self._store = store
        self._goes_first = goes_first
        self._was_first = False
        self._has_declared = False
        self._left_alone: set[str] = set()
        self._replaced: dict[str, tuple[ScheduleRow, datetime | None]] = {}

    async def run(self) -> None:
        """Send until cancelled. What fails is tried again, also if the database refuses it until somebody mends it."""
        backoff = self._gateway.contact.backoff()
        while True:
            try:
                pause = min(await self.run_once(), self._gateway.app.config.resilience.poll_interval)
            except BrokerError as error:
                await backoff.failed(error, "cannot look after the schedules", logger)
            else:
                backoff.answered()
                await anyio.sleep(pause)

    async def run_once(self) -> float:
        """Deal with what is due; in how many seconds to look again, at the latest."""
        book = await self._store.read()
        read_at = anyio.current_time()
        standing = {row.name: row for row in book.rows}
        lag = self._lag
        firings: list[Firing] = []
        fresh: list[NewSchedule] = []
        next_slots: list[datetime] = []
        for schedule in self._gateway.app.schedules.values():
            row = standing.get(schedule.name)
            if row is None or (row.timing != schedule.timing and not self._has_declared):
                fresh.append(NewSchedule(schedule.name, schedule.timing, first_slot(schedule, book.now)))
            elif row.timing != schedule.timing:
                self._leave_alone(schedule)
            elif row.next_slot is not None and row.paused_at is None and schedule.enabled:
                slot = self._slot_of_now(schedule, row, row.next_slot)
                if slot is not None and slot > book.now - lag:
                    next_slots.append(slot)
                elif slot is not None:
                    firings.append(self._firing(schedule, row, slot, book.now))
        if fresh:
            await self._store.declare(fresh)
        self._has_declared = True
        as_expected = not firings or await self._fire(firings)
        if fresh or not as_expected:
            return 0.0
        next_slots += [firing.next_slot for firing in firings if firing.next_slot is not None]
        if not next_slots:
            return float("inf")
        ahead = min(next_slots) - book.now + self._lag
        return max(0.0, ahead.total_seconds() - (anyio.current_time() - read_at))

    @property
    def _lag(self) -> timedelta:
        return timedelta(0) if self._was_first or self._goes_first() else LAG

    def _slot_of_now(self, schedule: Schedule, row: ScheduleRow, stored: datetime) -> datetime | None:
        """The slot that stands for the stored one. It is not written before it is sent for, so that two versions of
        the application do not write against each other."""
        known = self._replaced.get(schedule.name)
        if known is not None and known[0] == row:
            return known[1]
        slot = slot_of_now(schedule, stored, row.last_slot)
        self._replaced[schedule.name] = row, slot
        if slot != stored:
            logger.warning(
                "schedule %r: its rules have changed and no longer give the slot %s; %s",
                schedule.name,
                stored,
                "no other follows" if slot is None else f"it comes at {slot}",
            )
        return slot

    def _firing(self, schedule: Schedule, row: ScheduleRow, slot: datetime, now: datetime) -> Firing:
        stored = row.next_slot or slot
        found = due(schedule, slot, now, stored=None if slot == stored else stored)
        if found.missed_from is not None:
            logger.warning(
                "schedule %r: slots from %s on were missed, and catch_up=%r leaves them out",
                schedule.name,
                found.missed_from,
                schedule.catch_up,
            )
        # Of several at once all but the last would be cancelled as they come.
        slots = found.slots[-1:] if schedule.overlap == "cancel_previous" else found.slots
        firing = Firing(schedule.name, row.timing, stored, found.next_slot)
        if not slots:
            return firing
        tasks = tasks_for(self._gateway, schedule, slots, now)
        if isinstance(tasks, Err):
            return _left_out(firing, tasks.error.message)
        return replace(firing, tasks=tasks.value, cancel_previous=schedule.overlap == "cancel_previous")

    async def _fire(self, firings: Sequence[Firing]) -> bool:
        """Write all in one go. Where the database refuses that, one by one, and leave out what it refuses then.

        Returns whether all was written, and as it was asked for.
        """
        try:
            return self._note(firings, await self._store.fire(firings))
        except BrokerError as error:
            if not _is_of_a_row(error):
                raise
        failures = [failure for firing in firings if (failure := await self._fire_alone(firing)) is not None]
        if failures:
            raise failures[0]
        return False

    async def _fire_alone(self, firing: Firing) -> BrokerError | None:
        """Write one; why it stays due, where that is so."""
        try:
            self._note([firing], await self._store.fire([firing]))
        except BrokerError as error:
            if not _is_of_a_row(error):
                raise
            if error.retryable or not firing.tasks:
                return error
            return await self._fire_alone(_left_out(firing, error.message))
        return None

    def _note(self, firings: Sequence[Firing], fired: Sequence[bool]) -> bool:
        self._was_first = all(fired)
        for firing, is_ours in zip(firings, fired, strict=True):
            if is_ours and firing.tasks:
                last = firing.tasks[-1].sent_at
                logger.info("schedule %r: sent %d for its slots up to %s", firing.name, len(firing.tasks), last)
        return self._was_first

    def _leave_alone(self, schedule: Schedule) -> None:
        if schedule.name not in self._left_alone:
            self._left_alone.add(schedule.name)
            logger.warning(
                "schedule %r is left alone: another version of the application has begun it anew meanwhile",
                schedule.name,
            )


def first_slot(schedule: Schedule, now: datetime) -> datetime | None:
    """Where a schedule begins: with its first slot after `now`."""
    return schedule.next_after(now) if schedule.enabled else None


def _is_of_a_row(error: BrokerError) -> bool:
    """Whether the firing itself may be to blame: it is refused, or it met a row that somebody has locked."""
    return error.locked or not error.retryable


def _left_out(firing: Firing, why: str) -> Firing:
    logger.error("schedule %r: nothing is sent for its slots from %s on: %s", firing.name, firing.slot, why)
    return replace(firing, tasks=(), cancel_previous=False, problem=why)
