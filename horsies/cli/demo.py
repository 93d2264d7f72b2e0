"""`horsies demo`: a runtime, a worker in it, some thousand tasks of every kind, and a schedule beside them."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from horsies import (
    AppConfig,
    Err,
    Every,
    Horsies,
    HorsiesError,
    Ok,
    Runtime,
    TaskContext,
    TaskError,
    TaskHandle,
    TaskSendOptions,
    TaskSendResult,
    WorkerConfig,
    task,
)
from horsies.testing.postgres import embedded_postgres

SENDERS = 50
ROUND_TRIPS = 200
BEAT = timedelta(seconds=0.5)
PATIENCE = 20.0
"""Seconds for the first two beats, which come in one where nothing is amiss."""


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


def run_demo(db: str, backend: str, tasks: int) -> None:
    """Run the demo on `db` (empty: an embedded Postgres; `sqlite`; or a URL) and print what came of it."""
    console = Console()
    with _database(db) as url:
        config = AppConfig.for_database_url(url, schema="horsies_demo")
        app = Horsies(config)
        for one in (add, in_thread, slow, failing, ship):
            app.include(one)
        pulse = Pulse()
        pulse.declare(app)
        console.print(f"horsies on [bold]{config.masked_url}[/bold], {backend}")
        anyio.run(_demo, app, tasks, pulse, console, backend=backend)


@contextmanager
def _database(db: str) -> Iterator[str]:
    if db == "sqlite":
        with tempfile.TemporaryDirectory(prefix="horsies-demo-") as folder:
            yield f"sqlite:///{Path(folder) / 'demo.db'}"
    elif db:
        yield db
    else:
        with embedded_postgres() as url:
            yield url


async def _demo(app: Horsies, tasks: int, pulse: Pulse, console: Console) -> None:
    sends = [kind for n in range(tasks) for kind in KINDS if n % 100 in _slots(kind)]
    ends: dict[str, Counter[str]] = {kind.name: Counter() for kind in KINDS}
    async with Runtime(app) as rt:
        answer = await rt.check_live()
        console.print(answer)
        worker = rt.start_worker(WorkerConfig())
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        with bar:
            sent_bar = bar.add_task("sent", total=tasks)
            ended_bar = bar.add_task("ended", total=tasks)
            began = time.perf_counter()
            await _send_and_wait(rt, sends, ends, lambda: bar.advance(sent_bar), lambda: bar.advance(ended_bar))
            took = time.perf_counter() - began
        trips = [await _round_trip(rt, n) for n in range(ROUND_TRIPS)]
        with anyio.move_on_after(PATIENCE):
            await pulse.beats.wait()
        await worker.drain()
    _report(console, ends, tasks, took, trips)
    if not pulse.came_once_each():
        raise HorsiesError(
            "HRS-206", "the demo lost a slot of its schedule, or sent twice for it", ["please report this"]
        )
    console.print(f"schedule    {len(pulse.slots)} slots, {BEAT.total_seconds()} s apart, each sent for once")


def _slots(kind: Kind) -> range:
    first = sum(other.share for other in KINDS[: KINDS.index(kind)])
    return range(first, first + kind.share)


async def _send_and_wait(
    rt: Runtime,
    sends: list[Kind],
    ends: dict[str, Counter[str]],
    sent: Callable[[], None],
    ended: Callable[[], None],
) -> None:
    numbered = enumerate(sends)

    async def wait(kind: Kind, handle: TaskHandle[Any]) -> None:
        match await handle.get():
            case Ok():
                ends[kind.name]["COMPLETED"] += 1
            case Err(error):
                ends[kind.name][error.code] += 1
        ended()

    async def sender(group: anyio.abc.TaskGroup) -> None:
        for n, kind in numbered:
            handle = (await kind.send(rt, n)).unwrap()
            sent()
            group.start_soon(wait, kind, handle)

    async with anyio.create_task_group() as group:
        for _ in range(SENDERS):
            group.start_soon(sender, group)


async def _round_trip(rt: Runtime, n: int) -> float:
    began = time.perf_counter()
    (await (await add.handle(rt).send(n, n)).unwrap().get()).unwrap()
    return time.perf_counter() - began


def _report(console: Console, ends: dict[str, Counter[str]], tasks: int, took: float, trips: list[float]) -> None:
    table = Table(title=f"{tasks} tasks in {took:.2f} s")
    table.add_column("kind")
    table.add_column("sent", justify="right")
    table.add_column("ended as")
    for name, counts in ends.items():
        table.add_row(name, str(counts.total()), ", ".join(f"{code} {n}" for code, n in counts.most_common()))
    console.print(table)
    cuts = statistics.quantiles(trips, n=100)
    console.print(f"throughput  {tasks / took:,.0f} tasks/s, sent, run and their results awaited in one process")
    console.print(f"round trip  p50 {cuts[49] * 1e3:.1f} ms, p99 {cuts[98] * 1e3:.1f} ms, send to result, idle worker")
    if sum(counts.total() for counts in ends.values()) != tasks:
        raise HorsiesError("HRS-206", "the demo lost a task", ["please report this"])
