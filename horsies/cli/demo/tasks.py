"""What the demo sends: tasks of every kind, a schedule and a workflow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import anyio

from horsies import (
    Every,
    Horsies,
    NodeRef,
    Runtime,
    TaskContext,
    TaskError,
    TaskHandle,
    TaskSendOptions,
    TaskSendResult,
    Workflow,
    WorkflowBuilder,
    task,
)

BEAT = timedelta(seconds=0.5)


@dataclass(frozen=True)
class Parcel:
    """An argument that is more than a number."""

    weight: float
    labels: tuple[str, ...]


@task("demo.add")
async def add(a: int, b: int) -> int:
    return a + b


@task("demo.in_thread")
def in_thread(n: int) -> int:
    return sum(range(n))


@task("demo.slow")
async def slow(seconds: float) -> float:
    await anyio.sleep(seconds)
    return seconds


@task("demo.failing")
async def failing(n: int) -> int:
    raise TaskError("OUT_OF_STOCK", f"none left on shelf {n % 7}")


@task("demo.parcel")
async def ship(parcel: Parcel) -> str:
    return f"{parcel.weight:.1f} kg {'/'.join(parcel.labels)}"


@task("demo.pack")
async def pack(parcels: int) -> list[Parcel]:
    return [Parcel(float(n), ("fragile",)) for n in range(parcels)]


@task("demo.sign")
async def sign(shipped: list[str], value: int) -> str:
    return f"{len(shipped)} parcels worth {value}"


TASKS = (add, in_thread, slow, failing, ship, pack, sign)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of task in the demo: its name, how many in a hundred, how to send one."""

    name: str
    share: int
    send: Callable[[Runtime, int], Awaitable[TaskSendResult[TaskHandle[Any]]]]


def _overdue(rt: Runtime, n: int) -> Awaitable[TaskSendResult[TaskHandle[Any]]]:
    options = TaskSendOptions(good_until=datetime.now(UTC) - timedelta(milliseconds=1))
    return add.handle(rt).with_options(options).send(n, n)


KINDS = (
    Kind("async", 55, lambda rt, n: add.handle(rt).send(n, 1)),
    Kind("sync, in a thread", 15, lambda rt, n: in_thread.handle(rt).send(n % 100)),
    Kind("slow (50 ms)", 5, lambda rt, n: slow.handle(rt).send(0.05)),
    Kind("failing", 5, lambda rt, n: failing.handle(rt).send(n)),
    Kind("delayed (0.5 s)", 5, lambda rt, n: add.handle(rt).schedule(0.5, n, 2)),
    Kind("past its deadline", 5, _overdue),
    Kind("dataclass argument", 10, lambda rt, n: ship.handle(rt).send(Parcel(n / 10, ("fragile", "up")))),
)


@dataclass(slots=True)
class Pulse:
    """A schedule, and the slots for which its task came, in any order.

    Each demo begins it anew, from its own start, and leaves out what an earlier one has left behind in the database.
    """

    start: datetime = field(default_factory=lambda: datetime.now(UTC))
    slots: list[datetime] = field(default_factory=list)
    beats: anyio.Event = field(default_factory=anyio.Event)

    def declare(self, app: Horsies) -> None:
        @app.task("demo.beat", priority=1)
        async def beat(ctx: TaskContext) -> None:
            info = (await ctx.runtime.handle(ctx.task_id).info()).unwrap()
            assert info is not None, "it is running"
            if info.sent_at >= self.start:
                self.slots.append(info.sent_at)
            if len(self.slots) >= 2:
                self.beats.set()

        app.schedule("demo.pulse", beat, Every(BEAT), start=self.start, catch_up="all")

    def came_once_each(self) -> bool:
        return self.beats.is_set() and all(later - earlier == BEAT for earlier, later in pairwise(sorted(self.slots)))


def declare_order(app: Horsies) -> Workflow[[int], str]:
    """A workflow with a task for each of its parcels, a workflow inside, and a join of both."""

    @app.workflow("demo.value")
    def value(wf: WorkflowBuilder, parcels: int) -> NodeRef[int]:
        return wf.task(add.node(parcels, wf.task(add.node(parcels, parcels))))

    @app.workflow("demo.order")
    def order(wf: WorkflowBuilder, parcels: int) -> NodeRef[str]:
        shipped = wf.map(ship.node(), over=wf.task(pack.node(parcels)))
        return wf.task(sign.node(shipped, wf.subworkflow(value.node(parcels))))

    return order
