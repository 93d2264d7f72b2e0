"""Schedules at run time: where they stand, and what may be done about them from outside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from .._core.errors import BrokerError, HorsiesError
from .._core.instants import EPOCH
from .._core.limits import SEND_ROWS
from .._core.result import Err, Ok
from .._declare.app import Horsies
from .._declare.schedule import Schedule
from .._payload.send_error import TaskSendError
from .._schedule.due import slot_of_now
from .._schedule.scheduler import first_slot
from .._schedule.slot_tasks import tasks_for
from .._send.gateway import Gateway
from .._send.suppression import code_of
from .._send.task_function import TaskSendResult, bind
from .._send.task_handle import TaskHandle
from ..abc import Broker, EnqueueOutcome, NewSchedule, ScheduleBook, ScheduleRow, Schedules, Scheduling

_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleInfo:
    """A schedule as it stands in the database. Instants are aware UTC."""

    name: str
    """Name of the schedule."""
    task_name: str | None
    """Name of the task that it sends; None: this application does not declare the schedule."""
    timing: str
    """Pattern of the schedule and its bounds, as text."""
    enabled: bool | None
    """As this application declares it; None: it does not declare the schedule."""
    paused_at: datetime | None
    """When the schedule was paused; None: it is not paused."""
    next_slot: datetime | None
    """First slot that a scheduler has not handled; None: there is none, or the schedule is not enabled."""
    last_slot: datetime | None
    """Slot of the last task that was sent; None: none was."""
    last_task_id: str | None
    """Id of the last task that was sent; None: none was."""
    problem: str | None
    """Why the last handled slot has no task; None: it has one."""


@dataclass(frozen=True, slots=True)
class BackfillInfo:
    """Outcome of a backfill."""

    sent: int
    """Number of slots that a task was sent for."""
    present: int
    """Number of slots that had a task already."""


def schedule_infos(app: Horsies, book: ScheduleBook) -> list[ScheduleInfo]:
    """The schedules of the application in their order, then those that only the database knows."""
    found = {row.name: row for row in book.rows}
    rows = [standing(schedule, found.get(schedule.name), book.now) for schedule in app.schedules.values()]
    rows += [found[name] for name in sorted(found.keys() - app.schedules.keys())]
    return [_info(app.schedules.get(row.name), row) for row in rows]


def standing(schedule: Schedule, row: ScheduleRow | None, now: datetime) -> ScheduleRow:
    """Where a schedule stands, or will once it has begun."""
    if row is not None and row.timing == schedule.timing:
        if row.next_slot is None or not schedule.enabled:
            return row
        return replace(row, next_slot=slot_of_now(schedule, row.next_slot, row.last_slot))
    begun = row or ScheduleRow(schedule.name, schedule.timing, None, None, None, None, None)
    return replace(begun, timing=schedule.timing, next_slot=first_slot(schedule, now))


def _info(declared: Schedule | None, row: ScheduleRow) -> ScheduleInfo:
    return ScheduleInfo(
        name=row.name,
        task_name=None if declared is None else declared.task.name,
        timing=row.timing,
        enabled=None if declared is None else declared.enabled,
        paused_at=row.paused_at,
        next_slot=row.next_slot,
        last_slot=row.last_slot,
        last_task_id=row.last_task_id,
        problem=row.problem,
    )


def require_schedule(app: Horsies, name: str) -> Schedule:
    """The schedule; HRS-205 when the application has none of that name."""
    if name not in app.schedules:
        known = ", ".join(app.schedules) or "none"
        raise HorsiesError("HRS-205", f"the application has no schedule {name!r}", [f"its schedules: {known}"])
    return app.schedules[name]


def require_store(broker: Broker) -> Schedules:
    """Where the broker keeps schedules; HRS-205 when it keeps none."""
    if not isinstance(broker, Scheduling):
        raise HorsiesError("HRS-205", "this runtime's broker keeps no schedules", ["postgresql:// and sqlite:// do"])
    return broker.schedules


async def pause(schedule: Schedule, store: Schedules) -> bool:
    """Pause a schedule, which need not have begun; whether it was not paused. Raises: BrokerError."""
    book = await store.read()
    await store.declare([NewSchedule(schedule.name, schedule.timing, first_slot(schedule, book.now))])
    return await store.pause(schedule.name)


async def resume(schedule: Schedule, store: Schedules) -> bool:
    """Let a schedule go on with its first slot from now; whether it was paused. Raises: BrokerError."""
    book = await store.read()
    slot = first_slot(schedule, book.now)
    await store.declare([NewSchedule(schedule.name, schedule.timing, slot)])
    return await store.resume(schedule.name, slot)


async def trigger(gateway: Gateway, schedule: Schedule) -> TaskSendResult[TaskHandle[Any]]:
    """Send what the schedule would, now, beside its slots."""
    good_until = None if schedule.good_until is None else gateway.environment.clock() + schedule.good_until
    options = replace(schedule.options, good_until=good_until, unique_key=schedule.unique_key)
    return await bind(gateway, schedule.task).with_options(options).send(*schedule.args, **schedule.kwargs)


async def backfill(
    gateway: Gateway, store: Schedules, schedule: Schedule, start: datetime, end: datetime
) -> Ok[BackfillInfo] | Err[TaskSendError]:
    """Send for each slot from `start` to `end` that has come and has no task. Raises: BrokerError."""
    now = (await store.read()).now
    # However late, they are wanted now, and each of them.
    wanted = replace(schedule, overlap="allow", jitter=0.0, good_until=None)
    until = None if schedule.good_until is None else now + schedule.good_until
    wanted = replace(wanted, options=replace(schedule.options, good_until=until))
    last = min(end, now)
    slots = _between(schedule, max(start, EPOCH), last) if start <= last else iter(())
    outcomes: list[EnqueueOutcome] = []
    while some := list(islice(slots, SEND_ROWS)):
        tasks = tasks_for(gateway, wanted, some, now)
        if isinstance(tasks, Err):
            return tasks
        for answer in await gateway.submit(tasks.value, replay=True, connection=None):
            if isinstance(answer, BrokerError):
                return _stopped(schedule, answer, len(outcomes))
            outcomes.append(answer.outcome)
    sent = outcomes.count(EnqueueOutcome.INSERTED)
    return Ok(BackfillInfo(sent, len(outcomes) - sent))


def _between(schedule: Schedule, start: datetime, end: datetime) -> Iterator[datetime]:
    slot = schedule.next_after(start - _INSTANT)
    while slot is not None and slot <= end:
        yield slot
        slot = schedule.next_after(slot)


def _stopped(schedule: Schedule, error: BrokerError, done: int) -> Err[TaskSendError]:
    message = f"schedule {schedule.name!r}: stopped after {done} slots: {error.message}; run it again to go on"
    return Err(TaskSendError(code_of(error), message, retryable=error.retryable))
