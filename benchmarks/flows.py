"""How workflows are measured: many short ones, a wide one, one alone, and what a start takes. Of horsies alone."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from types import ModuleType
from typing import Any

import anyio

from horsies import NodeRef, Runtime, WorkerConfig, WorkflowBuilder, WorkflowSpec, WorkflowStatus

from .measures import percentiles, warm
from .one import Order
from .subjects import MARKS
from .subjects.horsies import mark, nothing

CHAIN = 10
"""Nodes of each of many chains."""
ALONE = 60
"""Nodes of the chain that has the worker to itself; the first few are for warming up."""
WARM = 10
STARTS = 10
AT_ONCE = 100
"""Starts under way at a time."""


async def chains(subject: ModuleType, order: Order) -> dict[str, float]:
    """From the start of a worker until all chains have ended; each node does nothing."""
    async with _warm(subject, order) as rt:
        spec = chain(CHAIN)
        await _start(rt, [spec] * order.tasks)
        took = await _drain(rt, order)
        await _require(rt, order.tasks)
        return {"per_s": order.tasks * CHAIN / took}


async def fan(subject: ModuleType, order: Order) -> dict[str, float]:
    """The same for one node, so many that wait for it, and one that waits for all of those."""
    async with _warm(subject, order) as rt:
        wf = WorkflowBuilder("fan")
        root = wf.task(nothing.node())
        siblings = [wf.task(nothing.node().waits_for(root)) for _ in range(order.tasks)]
        wf.task(nothing.node().waits_for(*siblings))
        await _start(rt, [wf.build()])
        took = await _drain(rt, order)
        await _require(rt, 1)
        return {"per_s": (order.tasks + 2) / took}


async def hops(subject: ModuleType, order: Order) -> dict[str, float]:
    """One chain, and a worker that has nothing else to do: from the first line of a node to that of the next."""
    async with _warm(subject, order) as rt, anyio.create_task_group() as group:
        await group.start(_serve, rt, WorkerConfig(concurrency=order.concurrency))
        took: list[float] = []
        while len(took) < order.tasks:
            MARKS.clear()
            wf = WorkflowBuilder("alone")
            last: NodeRef[None] | None = None
            for _ in range(ALONE):
                node = mark.node()
                last = wf.task(node if last is None else node.waits_for(last))
            (await (await rt.start(wf.build())).unwrap().get()).unwrap()
            took += [later - earlier for earlier, later in pairwise(MARKS[WARM:])]
        group.cancel_scope.cancel()
        return percentiles(took)


async def starts(subject: ModuleType, order: Order) -> dict[str, float]:
    """From the call of start of a workflow of so many nodes, all of which can run at once, to its answer."""
    async with _warm(subject, order) as rt:
        wf = WorkflowBuilder("wide")
        for _ in range(order.tasks):
            wf.task(nothing.node())
        spec = wf.build()
        took = []
        for _ in range(STARTS + 1):
            began = time.perf_counter()
            (await rt.start(spec)).unwrap()
            took.append(time.perf_counter() - began)
        return percentiles(took[1:])


def chain(length: int) -> WorkflowSpec:
    """Nodes that do nothing, one after the other."""
    wf = WorkflowBuilder("chain")
    last = wf.task(nothing.node())
    for _ in range(length - 1):
        last = wf.task(nothing.node().waits_for(last))
    return wf.build()


@asynccontextmanager
async def _warm(subject: ModuleType, order: Order) -> AsyncIterator[Runtime]:
    """The runtime of a subject's queue, warm, with a few chains that have gone the whole way."""
    async with warm(subject, order) as queue:
        rt: Runtime = queue.rt
        await _start(rt, [chain(3)] * 3)
        await rt.run_worker(WorkerConfig(until_idle=True))
        yield rt


async def _start(rt: Runtime, specs: list[WorkflowSpec]) -> None:
    waiting = iter(specs)

    async def starter() -> None:
        for spec in waiting:
            (await rt.start(spec)).unwrap()

    async with anyio.create_task_group() as group:
        for _ in range(min(AT_ONCE, len(specs))):
            group.start_soon(starter)


async def _drain(rt: Runtime, order: Order) -> float:
    began = time.perf_counter()
    await rt.run_worker(WorkerConfig(concurrency=order.concurrency, until_idle=True))
    return time.perf_counter() - began


async def _serve(rt: Runtime, config: WorkerConfig, *, task_status: Any) -> None:
    await rt.run_worker(config, task_status=task_status)


async def _require(rt: Runtime, count: int) -> None:
    found = (await rt.list_workflows(count + 10, statuses=list(WorkflowStatus))).unwrap()
    ended = [info for info in found[:count] if info.status is WorkflowStatus.COMPLETED]
    if len(ended) != count:
        raise RuntimeError(f"{count} workflows were started and {len(ended)} are COMPLETED")
