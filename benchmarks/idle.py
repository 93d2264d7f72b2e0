"""What a worker costs that has nothing to do: `horsies worker` in a process of its own, looked at from outside.

Queries are counted by the server: every statement of an idle worker is a transaction, so the growth of `xact_commit`
and `xact_rollback` in pg_stat_database is their number, less the one of the count itself. A backend reports a statement
at once or with its next one. So a window that is a multiple of all of a worker's intervals (5 s) misses at its end what
it counts too much at its beginning, but for one statement or two. One in each `recovery.heartbeat_interval` is the
heartbeat and is subtracted. An autovacuum worker that comes by is counted as well. CPU time is user and system time of
the process, from /proc/PID/stat; memory is VmRSS of /proc/PID/status, at the end. So this runs on Linux only.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import ModuleType

import anyio
import psycopg

from horsies import AppConfig

from .one import Order

SETTLED = 25.0
"""Seconds after which a worker leads, and looks for dead ones: `dead_after` and one interval."""


async def idle(_: ModuleType, order: Order) -> dict[str, float]:
    """Queries per second beside the heartbeat, CPU in percent of one core, resident memory in MB (10^6 bytes)."""
    command = [sys.executable, "-m", "horsies", "worker", "benchmarks.idle_app:app", "--backend", order.loop]
    environment = {**os.environ, "HORSIES_DATABASE_URL": order.url}
    async with await anyio.open_process(command, env=environment, stdout=None, stderr=None) as worker:
        with psycopg.connect(order.url, autocommit=True) as observer:
            await anyio.sleep(SETTLED)
            transactions, cpu = _transactions(observer), _cpu_seconds(worker.pid)
            await anyio.sleep(order.seconds)
            queries = _transactions(observer) - transactions - 1
            cpu = _cpu_seconds(worker.pid) - cpu
            resident = _resident(worker.pid)
        worker.send_signal(signal.SIGTERM)
        await worker.wait()
    beats = order.seconds / AppConfig(url=order.url).recovery.heartbeat_interval
    return {
        "queries_per_s": max(0.0, queries - beats) / order.seconds,
        "cpu_percent": cpu / order.seconds * 100,
        "rss_mb": resident / 1e6,
    }


def _transactions(observer: psycopg.Connection[tuple[int]]) -> int:
    query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    return observer.execute(query).fetchall()[0][0]


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = fields[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    """Bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has ended")
