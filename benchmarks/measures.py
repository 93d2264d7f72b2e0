"""How each thing is measured. Every function takes a subject's module and an order, and returns figures.

What a figure is called says its unit: `per_s`, and `p50` and `p99` in milliseconds. Before the clock starts, a few
tasks have gone the whole way, so that connections are open and statements prepared, and a CHECKPOINT is written.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from types import ModuleType

import anyio
import anyio.abc
import anyio.to_thread

from .database import checkpoint
from .idle import idle
from .one import Order
from .subjects import MARK, MARKS, NOTHING, SYNC, WAIT, Queue

__all__ = ["drain", "drain_share", "drain_together", "idle", "mixed", "pickup", "round_trip", "send", "send_many"]

WARM_TASKS = 20
WARM_SECONDS = 0.2
PAUSE = 0.02
"""Seconds between two probes, in which a worker becomes idle again."""
MIX = (NOTHING,) * 7 + (WAIT,) * 2 + (SYNC,)
BACKLOG = 1_000
"""Tasks sent and not ended at which the senders of the mixed load wait."""


async def send(subject: ModuleType, order: Order) -> dict[str, float]:
    """So many senders, each sending the next task when the last is committed. No worker runs."""
    async with warm(subject, order) as queue:
        sent = 0
        until = 0.0

        async def sender() -> None:
            nonlocal sent
            while time.perf_counter() < until:
                await queue.send(order.kind)
                sent += 1

        async def for_seconds(seconds: float) -> float:
            nonlocal sent, until
            began = time.perf_counter()
            sent, until = 0, began + seconds
            async with anyio.create_task_group() as group:
                for _ in range(order.senders):
                    group.start_soon(sender)
            return sent / (time.perf_counter() - began)

        await for_seconds(WARM_SECONDS)
        return {"per_s": await for_seconds(order.seconds)}


async def send_many(subject: ModuleType, order: Order) -> dict[str, float]:
    """One call for all tasks. No worker runs."""
    async with warm(subject, order) as queue:
        began = time.perf_counter()
        await queue.send_many(order.kind, order.tasks)
        return {"per_s": order.tasks / (time.perf_counter() - began)}


async def drain(subject: ModuleType, order: Order) -> dict[str, float]:
    """From the start of a worker to the last stored result of what was sent before."""
    async with warm(subject, order) as queue:
        before = await queue.stored()
        await queue.send_many(order.kind, order.tasks)
        await _checkpoint(order)
        began = time.perf_counter()
        await queue.drain(order.concurrency)
        took = time.perf_counter() - began
        _require(await queue.stored() - before, order)
        return {"per_s": order.tasks / took}


async def drain_together(subject: ModuleType, order: Order) -> dict[str, float]:
    """A drain by several worker processes, from when all of them are open and told to begin until all have ended."""
    async with warm(subject, order) as queue, AsyncExitStack() as stack:
        before = await queue.stored()
        await queue.send_many(order.kind, order.tasks)
        share = replace(order, measure="drain_share").as_json()
        workers = [
            await stack.enter_async_context(
                await anyio.open_process([sys.executable, "-m", "benchmarks.one", share], stderr=None)
            )
            for _ in range(order.processes)
        ]
        for worker in workers:
            await _line(worker)
        await _checkpoint(order)
        began = time.perf_counter()
        for worker in workers:
            assert worker.stdin is not None
            await worker.stdin.send(b"go\n")
        for worker in workers:
            await _line(worker)
        took = time.perf_counter() - began
        _require(await queue.stored() - before, order)
        return {"per_s": order.tasks / took}


async def drain_share(subject: ModuleType, order: Order) -> dict[str, float]:
    """What each process of `drain_together` does."""
    async with subject.open_again(order.url) as queue:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await anyio.to_thread.run_sync(sys.stdin.readline)
        await queue.drain(order.concurrency)
        return {}


async def pickup(subject: ModuleType, order: Order) -> dict[str, float]:
    """From the call of send to the first line of the task, with a worker in the same process that is idle."""
    async with warm(subject, order) as queue, queue.worker(order.concurrency):
        await _probe(queue, WARM_TASKS)
        return percentiles(await _probe(queue, order.tasks))


async def round_trip(subject: ModuleType, order: Order) -> dict[str, float]:
    """From the call of send to its result in hand, with a worker in the same process that is idle.

    No figures where a subject lets nobody wait for a result.
    """
    async with warm(subject, order) as queue, queue.worker(order.concurrency):
        if not hasattr(queue, "round_trip"):
            return {}
        took = []
        for _ in range(WARM_TASKS + order.tasks):
            await anyio.sleep(PAUSE)
            began = time.perf_counter()
            await queue.round_trip(order.kind)
            took.append(time.perf_counter() - began)
        return percentiles(took[WARM_TASKS:])


async def mixed(subject: ModuleType, order: Order) -> dict[str, float]:
    """Senders and a worker in one process, with tasks that do nothing, wait and are sync.

    The senders wait while there is a backlog. What ends in a second is counted, and how old a task is at its first line
    is what one more task after the other sees: most of it is the backlog.
    """
    async with warm(subject, order) as queue, queue.worker(order.concurrency):
        kinds = itertools.cycle(MIX)
        sent = ended = 0
        until = time.perf_counter() + order.seconds

        async def sender() -> None:
            nonlocal sent
            while time.perf_counter() < until:
                if sent - ended >= BACKLOG:
                    await anyio.sleep(0.005)
                    continue
                sent += 1
                await queue.send(next(kinds))

        async def count(first: int) -> None:
            nonlocal ended
            while time.perf_counter() < until:
                await anyio.sleep(0.1)
                ended = await queue.stored() - first

        ages: list[float] = []

        async def probe() -> None:
            while time.perf_counter() < until:
                ages.extend(await _probe(queue, 1))

        first = await queue.stored()
        began = time.perf_counter()
        until = began + order.seconds
        async with anyio.create_task_group() as group:
            group.start_soon(count, first)
            group.start_soon(probe)
            for _ in range(order.senders):
                group.start_soon(sender)
            await anyio.sleep(order.seconds)
            last, now = await queue.stored(), time.perf_counter()
        return {"per_s": (last - first) / (now - began), **percentiles(ages)}


@asynccontextmanager
async def warm(subject: ModuleType, order: Order) -> AsyncIterator[Queue]:
    """The subject's queue, empty and warm."""
    async with subject.open(order.url) as queue:
        await queue.send(order.kind)
        await queue.send_many(order.kind, WARM_TASKS)
        await queue.drain(order.concurrency)
        await _checkpoint(order)
        yield queue


async def _checkpoint(order: Order) -> None:
    await anyio.to_thread.run_sync(checkpoint, order.url)


async def _probe(queue: Queue, count: int) -> list[float]:
    """Seconds from send to first line of so many tasks, one after the other."""
    ages = []
    for _ in range(count):
        await anyio.sleep(PAUSE)
        MARKS.clear()
        began = time.perf_counter()
        await queue.send(MARK)
        with anyio.fail_after(30):
            while not MARKS:
                await anyio.sleep(0.001)
        ages.append(MARKS[0] - began)
    return ages


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """The median and the 99th percentile, in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3}


async def _line(worker: anyio.abc.Process) -> None:
    """The next line that a process of ours writes; it writes no two at once."""
    assert worker.stdout is not None
    text = b""
    try:
        while not text.endswith(b"\n"):
            text += await worker.stdout.receive()
    except anyio.EndOfStream:
        raise RuntimeError("one of the worker processes ended too early") from None


def _require(ended: int, order: Order) -> None:
    if ended != order.tasks:
        raise RuntimeError(f"{order.tasks} tasks were sent and {ended} have a result")
