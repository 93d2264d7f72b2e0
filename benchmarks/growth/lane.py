"""One state of the table and one worker's hands on it, timed from outside the broker."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import uuid_utils

from horsies import Runtime, TaskStatus
from horsies.abc import Claim, ClaimedTask, Consumer, Finish, NewTask, Producer

from .database import ENVELOPE, Fill, Place, runtime

LIMIT = 100
"""How many tasks a claim takes."""

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds that one claim took, and it with the start and the finish of what it brought."""

    claim: float
    cycle: float
    tasks: int
    expired: int


class Lane:
    """Claims and starts in one, finishes, and puts as many new tasks in as it took out."""

    def __init__(self, name: str, rt: Runtime, consumer: Consumer, producer: Producer) -> None:
        self.name = name
        self.rt = rt
        self._consumer = consumer
        self._producer = producer

    async def turn(self, *, refill: bool = True) -> Took:
        """One claim and everything that follows from it. The heartbeat and the refill are not counted."""
        await self._consumer.join()
        began = time.perf_counter()
        claim = await self._consumer.claim(LIMIT, startable=["nobody"])
        claimed = time.perf_counter()
        await self.work_off(claim)
        ended = time.perf_counter()
        if refill:
            await self.send([(task.queue, task.priority) for task in claim.tasks])
        return Took(claimed - began, ended - began, len(claim.tasks), claim.expired)

    async def work_off(self, claim: Claim) -> None:
        if claim.tasks:
            await self._consumer.finish([_end(task) for task in claim.tasks])

    async def send(self, places: Sequence[tuple[str, int]]) -> None:
        """A new task, due now, for each queue and priority in `places`."""
        if places:
            await self._producer.enqueue([_new(queue, priority) for queue, priority in places])


def _new(queue: str, priority: int) -> NewTask:
    return NewTask(
        task_id=str(uuid_utils.uuid7()),
        sha=hashlib.sha256(str(next(_numbers)).encode()).digest(),
        envelope=ENVELOPE,
        task_name="nobody",
        queue=queue,
        priority=priority,
        sent_at=datetime.now(UTC),
        due_in=0.0,
        good_until=None,
    )


def _end(task: ClaimedTask) -> Finish:
    return Finish(task.lease, TaskStatus.COMPLETED, b"\x01", None)


@asynccontextmanager
async def open_lane(place: Place, name: str, fills: Sequence[Fill], *, queues: int = 1) -> AsyncIterator[Lane]:
    """A lane on the state that `fills` makes; its worker serves `queues` queues of equal priority."""
    served = [(f"queue{n}", 1) for n in range(queues)]
    async with runtime(place, name) as rt:
        place.autovacuum(name, on=False)
        for fill in fills:
            place.fill(name, fill)
        async with rt._engine.broker.consumer("growth", served) as consumer, rt._engine.broker.producer() as producer:
            yield Lane(name, rt, consumer, producer)
    place.clear(name)
