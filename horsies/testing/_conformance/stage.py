"""What the suite works with: a broker with its roles at hand, tasks by number, and instants from a beginning."""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import anyio
from msgspec.structs import replace

from horsies import RecoveryConfig
from horsies.abc import (
    Broker,
    ClaimedTask,
    Consumer,
    EnqueueOutcome,
    Finish,
    Lease,
    Listener,
    Maintenance,
    NewTask,
    Producer,
    Start,
    StartOutcome,
    TaskRow,
    TaskStatus,
)

T0 = datetime(2040, 1, 1, tzinfo=UTC)
"""The beginning of time in these tests: the suite sets the clock, so any instant does."""
QUEUES = (("fast", 1), ("slow", 90))

P, C, R = TaskStatus.PENDING, TaskStatus.CLAIMED, TaskStatus.RUNNING
CHANGES = frozenset(
    {(P, C), (P, TaskStatus.EXPIRED), (C, R), (C, P), (C, TaskStatus.EXPIRED), (C, TaskStatus.FAILED)}
    | {(R, TaskStatus.COMPLETED), (R, TaskStatus.FAILED), (R, P)}
    | {(before, TaskStatus.CANCELLED) for before in (P, C, R)}
)
"""Every change of status that there is."""
STEPS = CHANGES | {(P, R)}
"""Those that one call of a broker's method may make: a claim may make two at once."""


def at(seconds: float) -> datetime:
    """`seconds` after the beginning."""
    return T0 + timedelta(seconds=seconds)


def new_task(n: int, *, queue: str = "fast", priority: int = 50, due_in: float = 0.0, **fields: object) -> NewTask:
    """The n-th task; its envelope is any bytes, because a broker never looks inside."""
    envelope = f"envelope {n}".encode()
    task = NewTask(
        task_id=str(UUID(int=n)),
        sha=hashlib.sha256(envelope).digest(),
        envelope=envelope,
        task_name="a_task",
        queue=queue,
        priority=priority,
        sent_at=T0,
        due_in=due_in,
        good_until=None,
    )
    return replace(task, **fields)


class Stage:
    """A broker with its roles at hand."""

    def __init__(self, broker: Broker, producer: Producer, maintenance: Maintenance, stack: AsyncExitStack) -> None:
        self.broker = broker
        self.producer = producer
        self.maintenance = maintenance
        self._stack = stack

    @classmethod
    @asynccontextmanager
    async def on(cls, broker: Broker) -> AsyncIterator[Stage]:
        """A stage for the scope; its workers and producer end with it."""
        async with AsyncExitStack() as stack:
            producer = await stack.enter_async_context(broker.producer())
            maintenance = await stack.enter_async_context(broker.maintenance("w0"))
            yield cls(broker, producer, maintenance, stack)

    async def worker(self, name: str = "w1", queues: Sequence[tuple[str, int]] = QUEUES) -> Consumer:
        """A worker that is alive at the beginning."""
        consumer = await self._stack.enter_async_context(self.broker.consumer(name, queues))
        await consumer.join(now=T0)
        return consumer

    async def send(self, *tasks: NewTask, now: datetime = T0) -> list[EnqueueOutcome]:
        return [answer.outcome for answer in await self.producer.enqueue(tasks, now=now)]

    async def claimed(self, consumer: Consumer, task: NewTask) -> Lease:
        """`task` sent and claimed at the beginning."""
        await self.send(task)
        (claimed,) = (await consumer.claim(1, now=T0)).tasks
        return claimed.lease

    async def started(self, consumer: Consumer, task: NewTask, *, retry_after_crash: float | None = None) -> Lease:
        """`task` sent, claimed and started at the beginning."""
        lease = await self.claimed(consumer, task)
        assert await consumer.start([Start(lease, retry_after_crash)], now=T0) == [StartOutcome.STARTED]
        return lease

    async def begun(self, consumer: Consumer, limit: int, *, now: datetime) -> list[Lease]:
        """What a claim of `limit` brings, all of it RUNNING: started by the claim, where the broker does that."""
        tasks = (await consumer.claim(limit, startable={"a_task"}, now=now)).tasks
        await consumer.start([Start(task.lease) for task in tasks if not task.is_running], now=now)
        return [task.lease for task in tasks]

    async def reap(self, limit: int, *, now: datetime) -> int:
        """`Maintenance.reap` by a worker that has become a steady leader by `now`."""
        await lead_steadily(await self.worker("w0"), RecoveryConfig(), now=now)
        return await self.maintenance.reap(limit, now=now)

    async def row(self, n: int) -> TaskRow:
        row = await self.broker.reader.read(str(UUID(int=n)))
        assert row is not None
        return row

    async def status(self, n: int) -> TaskStatus:
        return (await self.row(n)).status


async def beat_steadily(consumer: Consumer, recovery: RecoveryConfig, *, now: datetime) -> None:
    """Have a worker be steady at `now`."""
    steps = math.ceil(recovery.dead_after / (2 * recovery.heartbeat_interval))
    await consumer.join(now=now - timedelta(seconds=recovery.dead_after))
    for step in reversed(range(steps)):
        assert await consumer.beat(now=now - timedelta(seconds=recovery.dead_after / steps * step))


async def lead_steadily(consumer: Consumer, recovery: RecoveryConfig, *, now: datetime) -> None:
    """Have a worker become a steady leader by `now`, by when the lease must be free."""
    await beat_steadily(consumer, recovery, now=now)
    assert await consumer.lead(now=now)


async def bury(broker: Broker, recovery: RecoveryConfig, *, now: datetime | None = None) -> int:
    """How many tasks a leader takes that finds each worker dead whose heartbeat is too old at `now`.

    Args:
        now: by default so late that the heartbeats of this moment are.
    """
    now = now or datetime.now(UTC) + timedelta(seconds=recovery.dead_after + 1)
    async with broker.consumer("undertaker", []) as consumer, broker.maintenance("undertaker") as maintenance:
        try:
            await lead_steadily(consumer, recovery, now=now)
            return await maintenance.reap(100, now=now)
        finally:
            with anyio.CancelScope(shield=True):
                await consumer.leave()


async def requested(consumer: Consumer) -> list[Lease]:
    """What the worker is asked to cancel."""
    return [held.lease for held in await consumer.held() if held.is_cancelled]


def ids(tasks: Sequence[ClaimedTask]) -> list[int]:
    """The numbers of claimed tasks, in order."""
    return [UUID(task.lease.task_id).int for task in tasks]


def done(lease: Lease, status: TaskStatus = TaskStatus.COMPLETED, **fields: object) -> Finish:
    code = None if status is TaskStatus.COMPLETED else "A_CODE"
    return replace(Finish(lease, status, b"result", code), **fields)


async def heard(listener: Listener, names: set[str]) -> bool:
    """Receive until all of `names` were heard; an empty name stands for any."""
    missing = set(names)
    while missing:
        received = await listener.receive()
        if "" in received:
            return True
        missing -= set(received)
    return True
