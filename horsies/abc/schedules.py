"""Where schedules stand: what a broker keeps of them, so that each slot is sent for once.

A broker that keeps schedules has an attribute `schedules`. One that does not cannot open an application that has some.
The rules of `horsies.abc.broker` hold here as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from .records import NewTask


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule as it begins. `timing` is what its slots follow from; None for `next_slot`: there is none."""

    name: str
    timing: str
    next_slot: datetime | None


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule as it stands.

    Attributes:
        next_slot: the first one that has not been dealt with; None: there is none left.
        paused_at: since when it sends nothing.
        last_slot, last_task_id: of the last task sent.
        problem: why nothing was sent for the slot last dealt with; None: there was nothing wrong.
    """

    name: str
    timing: str
    next_slot: datetime | None
    paused_at: datetime | None
    last_slot: datetime | None
    last_task_id: str | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class ScheduleBook:
    """All schedules, of whatever application, as they stood at `now` by the database's clock."""

    now: datetime
    rows: tuple[ScheduleRow, ...]


@dataclass(frozen=True, slots=True)
class Firing:
    """Dealing with slots of one schedule.

    Attributes:
        slot: where the schedule is expected to stand: the first of the slots that are dealt with, unless the rules that
            slots follow from have changed since it was stored.
        next_slot: where it stands afterwards.
        tasks: what is sent for them, in order, each with its slot as `sent_at`; none when they are left out.
        cancel_previous: the task sent last is to be cancelled, unless it has ended.
        problem: why slots are left out although they were due; None: for no reason that anybody has to mend.
    """

    name: str
    timing: str
    slot: datetime
    next_slot: datetime | None
    tasks: tuple[NewTask, ...] = ()
    cancel_previous: bool = False
    problem: str | None = None


class Schedules(Protocol):
    """Keeps where each schedule stands."""

    async def read(self, *, now: datetime | None = None) -> ScheduleBook:
        """All schedules, in any order, and what time it is."""
        ...

    async def declare(self, schedules: Sequence[NewSchedule]) -> list[bool]:
        """Begin schedules that are not there, and begin anew those whose `timing` is another; False for all others.

        At most one of each name. One that begins anew stays paused when it was, and keeps what it sent last.
        """
        ...

    async def fire(self, firings: Sequence[Firing], *, now: datetime | None = None) -> list[bool]:
        """Move schedules on and put their tasks in, in one transaction; at most one firing for each schedule.

        False, and nothing written of it, where the schedule is paused, has another timing, or does not stand at `slot`
        any more: somebody else has dealt with it. What is to be cancelled is cancelled before any task is put in, which
        frees its unique key. A task whose id is there already is left alone, and counts as sent; one whose unique key
        is taken is left out. When any of it fails, as when the id of a task is no UUID, nothing of the call is written.
        """
        ...

    async def pause(self, name: str, *, now: datetime | None = None) -> bool:
        """Let a schedule send nothing; whether it is there and was not paused before."""
        ...

    async def resume(self, name: str, next_slot: datetime | None) -> bool:
        """Let a schedule go on at `next_slot`; whether it was paused."""
        ...


@runtime_checkable
class Scheduling(Protocol):
    """A broker that keeps schedules."""

    schedules: Schedules
