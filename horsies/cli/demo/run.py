"""`horsies demo`: a runtime, a worker in it, some thousand tasks of every kind, a workflow, and a schedule."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
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
    Horsies,
    HorsiesError,
    NodeStatus,
    Ok,
    Runtime,
    TaskHandle,
    WorkerConfig,
    Workflow,
)
from horsies.testing.postgres import embedded_postgres

from .tasks import BEAT, KINDS, TASKS, Kind, Pulse, add, declare_order

SENDERS = 50
ROUND_TRIPS = 200
PARCELS = 100
PATIENCE = 20.0
"""Seconds for the first two beats, which come in one where nothing is amiss."""


def run_demo(db: str, backend: str, tasks: int) -> None:
    """Run the demo on `db` (empty: an embedded Postgres; `sqlite`; or a URL) and print what came of it."""
    console = Console()
    with _database(db) as url:
        config = AppConfig.for_database_url(url, schema="horsies_demo")
        app = Horsies(config)
        for one in TASKS:
            app.include(one)
        pulse = Pulse()
        pulse.declare(app)
        order = declare_order(app)
        console.print(f"horsies on [bold]{config.masked_url}[/bold], {backend}")
        anyio.run(_demo, app, tasks, pulse, order, console, backend=backend)


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


async def _demo(app: Horsies, tasks: int, pulse: Pulse, order: Workflow[[int], str], console: Console) -> None:
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
        flow = await _workflow(rt, order)
        with anyio.move_on_after(PATIENCE):
            await pulse.beats.wait()
        await worker.drain()
    _report(console, ends, tasks, took, trips)
    if not pulse.came_once_each():
        raise HorsiesError(
            "HRS-206", "the demo lost a slot of its schedule, or sent twice for it", ["please report this"]
        )
    console.print(flow)
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


async def _workflow(rt: Runtime, order: Workflow[[int], str]) -> str:
    began = time.perf_counter()
    run = (await order.handle(rt).start(PARCELS)).unwrap()
    result = await run.get()
    took = time.perf_counter() - began
    nodes = (await run.tasks()).unwrap()
    parts = [(await rt.workflow(node.workflow_id).tasks()).unwrap() for node in nodes if node.workflow_id is not None]
    ends = Counter(node.status for node in chain(nodes, *parts))
    if result != Ok(f"{PARCELS} parcels worth {3 * PARCELS}") or ends != {NodeStatus.COMPLETED: PARCELS + 6}:
        raise HorsiesError("HRS-206", "the demo lost a node of its workflow", ["please report this"])
    return f"workflow    {ends.total()} nodes in {took:.2f} s: a map over {PARCELS}, a workflow inside, and a join"


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
