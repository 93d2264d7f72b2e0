"""How fast one process sends, drains and answers. Figures go to standard output as JSON; nothing is asserted.

    python benchmarks/throughput.py [--url URL] [--backend asyncio|trio] [--tasks N] [--rounds R]

Without a URL it runs on an embedded Postgres with its usual durability. A drain ends when every result is stored. Each
figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext

import anyio

from horsies import AppConfig, Horsies, Runtime, WorkerConfig, task
from horsies.testing.postgres import embedded_postgres


@task("bench.nothing")
async def nothing() -> None:
    """No work at all, so that what is measured is the queue."""


async def seconds(action: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await action()
    return time.perf_counter() - began


async def send_all(rt: Runtime, tasks: int, senders: int) -> None:
    left = iter(range(tasks))

    async def sender() -> None:
        for _ in left:
            (await nothing.handle(rt).send()).unwrap()

    async with anyio.create_task_group() as group:
        for _ in range(senders):
            group.start_soon(sender)


async def round_trips(rt: Runtime, count: int) -> list[float]:
    async def one() -> None:
        (await (await nothing.handle(rt).send()).unwrap().get()).unwrap()

    rt.start_worker()
    await one()
    return [await seconds(one) for _ in range(count)]


async def measure(app: Horsies, tasks: int) -> dict[str, float]:
    figures = {}
    async with Runtime(app) as rt:
        figures["send_1_per_s"] = tasks / 10 / await seconds(lambda: send_all(rt, tasks // 10, 1))
        for senders in (10, 100):
            figures[f"send_{senders}_per_s"] = tasks / await seconds(lambda n=senders: send_all(rt, tasks, n))
        waiting = tasks // 10 + 2 * tasks
        drained = await seconds(lambda: rt.run_worker(WorkerConfig(until_idle=True, concurrency=100)))
        figures["drain_100_per_s"] = waiting / drained
        trips = statistics.quantiles(await round_trips(rt, 300), n=100)
        figures["round_trip_p50_ms"], figures["round_trip_p99_ms"] = trips[49] * 1e3, trips[98] * 1e3
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="")
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--tasks", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with nullcontext(given.url) if given.url else embedded_postgres() as url:
        rounds = []
        for _ in range(given.rounds):
            app = Horsies(AppConfig.for_database_url(url, schema="horsies_bench"))
            app.include(nothing)
            rounds.append(anyio.run(measure, app, given.tasks, backend=given.backend))
    medians = {name: round(statistics.median(r[name] for r in rounds), 1) for name in rounds[0]}
    json.dump({"python": platform.python_version(), "backend": given.backend, **medians}, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
