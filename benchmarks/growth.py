"""What a claim costs with much in the way: delayed tasks, expired ones at the head, and how punctual a due task is.

    python benchmarks/growth.py [--rows 1000000] [--db postgresql://...|sqlite] [--backend trio]

A claim takes 100 tasks. "expired at the head" fills the front of the queue with tasks past their deadline; the figure
is that of claims from the first one on, which sweep them aside as they go.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import psycopg

from horsies import AppConfig, Horsies, ResilienceConfig, Runtime
from horsies.testing.postgres import embedded_postgres

SCHEMA = "horsies_growth"
CLAIMS, LIMIT = 50, 100

POSTGRES = """
INSERT INTO {schema}.tasks (id, phase, status, queue, priority, due_at, good_until, sent_at, task_name, envelope, sha)
SELECT gen_random_uuid(), {phase}, 'PENDING', 'default', {priority},
    now() + {due} * interval '1 second' + n * interval '1 us', {good_until}, now(), 'nobody', '\\x00', '\\x00'
FROM generate_series(1, {rows}) AS n
"""
SQLITE = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows})
INSERT INTO tasks (id, phase, status, queue, priority, due_at, good_until, sent_at, task_name, envelope, sha)
SELECT lower(hex(randomblob(4)) || '-0000-7000-8000-' || hex(randomblob(6))), {phase}, 'PENDING', 'default', {priority},
    {now} + {due} * 1000000 + n, {good_until}, {now}, 'nobody', x'00', x'00'
FROM numbers
"""


def fill(
    config: AppConfig, rows: int, *, phase: int = 1, priority: int = 50, due: int = -10, expired: bool = False
) -> None:
    """Put `rows` tasks straight into the table."""
    if config.url.startswith("sqlite"):
        now = time.time_ns() // 1000
        good_until = str(now - 1_000_000) if expired else "NULL"
        statement = SQLITE.format(rows=rows, phase=phase, priority=priority, due=due, good_until=good_until, now=now)
        with sqlite3.connect(config.url.removeprefix("sqlite:///")) as connection:
            connection.execute(statement)
        connection.close()
        return
    good_until = "now() - interval '1 second'" if expired else "NULL"
    statement = POSTGRES.format(
        schema=SCHEMA, rows=rows, phase=phase, priority=priority, due=due, good_until=good_until
    )
    with psycopg.connect(config.url) as connection:
        connection.execute(statement.encode())


async def claims(rt: Runtime) -> list[float]:
    """Milliseconds of each of many claims."""
    async with rt.broker.consumer("growth", [("default", 1)]) as consumer:
        await consumer.join()
        await consumer.claim(1)
        took = []
        for _ in range(CLAIMS):
            began = time.perf_counter()
            claim = await consumer.claim(LIMIT)
            took.append((time.perf_counter() - began) * 1000)
            if not claim.tasks and not claim.expired:
                break
        await consumer.leave()
    return took


def show(what: str, took: list[float], unit: str = "ms") -> None:
    took = sorted(took)
    p99 = took[min(len(took) - 1, int(len(took) * 0.99))]
    print(f"{what:55} median {statistics.median(took):8.2f} {unit}   p99 {p99:8.2f} {unit}   n {len(took)}")


async def grow(config: AppConfig, rows: int) -> None:
    async with Runtime(Horsies(config)) as rt:
        fill(config, 20_000)
        show("claim of 100, 20,000 ready", await claims(rt))
        fill(config, rows, phase=0, due=3600)
        show(f"  and {rows:,} delayed", await claims(rt))
        fill(config, rows, priority=1, expired=True)
        took = await claims(rt)
        show(f"  and {rows:,} expired at the head, the first", took[:1])
        show("    the next", took[1:])


async def be_punctual(config: AppConfig) -> None:
    app = Horsies(config)
    late: list[float] = []

    @app.task
    async def note(due: float) -> None:
        late.append((time.time() - due) * 1000)

    async with Runtime(app) as rt:
        rt.start_worker()
        for n in range(200):
            delay = 0.2 + n % 7 * 0.01
            handle = (await note.handle(rt).schedule(delay, time.time() + delay)).unwrap()
            await handle.get()
    show("lateness of a due task, idle worker, polling every 60 s", late)


@contextmanager
def database(name: str) -> Iterator[str]:
    if name == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{Path(folder) / 'growth.db'}"
    elif name:
        yield name
    else:
        with embedded_postgres() as url:
            yield url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--db", default="", help="empty: an embedded Postgres; sqlite; or a database URL")
    parser.add_argument("--backend", default="asyncio", choices=("asyncio", "trio"))
    given = parser.parse_args()
    with database(given.db) as url:
        config: Any = AppConfig.for_database_url(url, schema=SCHEMA, resilience=ResilienceConfig(poll_interval=60.0))
        began = datetime.now(UTC)
        anyio.run(be_punctual, config, backend=given.backend)
        anyio.run(grow, config, given.rows, backend=given.backend)
        print(f"in {(datetime.now(UTC) - began) / timedelta(seconds=1):.0f} s")


if __name__ == "__main__":
    main()
