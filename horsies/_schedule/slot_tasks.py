"""From a slot to the task that is sent for it: the same bytes, whoever makes them and however often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random

from .._core.result import Err, Ok
from .._declare.schedule import Schedule
from .._payload.ids import slot_task_id
from .._payload.send_error import TaskSendError
from .._payload.send_payload import TaskSendPayload
from .._send.encode_call import NOW, row_of, seal
from .._send.gateway import Gateway
from ..abc import NewTask


def seal_slot(gateway: Gateway, schedule: Schedule, slot: datetime) -> Ok[TaskSendPayload] | Err[TaskSendError]:
    """The payload for a slot: its id follows from the schedule's name and the slot, and it was sent at the slot."""
    chance = Random(f"{schedule.name} {slot.isoformat()}")
    good_until = schedule.options.good_until if schedule.good_until is None else slot + schedule.good_until
    options = replace(schedule.options, good_until=good_until, unique_key=schedule.unique_key)
    return seal(
        gateway,
        schedule.task,
        options,
        timedelta(seconds=chance.uniform(0, schedule.jitter)) if schedule.jitter else NOW,
        schedule.args,
        dict(schedule.kwargs),
        task_id=slot_task_id(schedule.name, slot),
        sent_at=slot,
    )


def tasks_for(
    gateway: Gateway, schedule: Schedule, slots: Sequence[datetime], now: datetime
) -> Ok[tuple[NewTask, ...]] | Err[TaskSendError]:
    """The tasks of these slots, or why none can be made. The delay of one ends when it would have from its slot on."""
    tasks = []
    for slot in slots:
        sealed = seal_slot(gateway, schedule, slot)
        if isinstance(sealed, Err):
            return sealed
        tasks.append(row_of(sealed.value, now))
    return Ok(tuple(tasks))
