"""Other people's open transactions."""

from __future__ import annotations

import time

import anyio

from .application import RECOVERY
from .harness import RETURN_BOUND, Row, Stage
from .producer import MIX


async def old_snapshot(stage: Stage) -> list[Row]:
    """A session that is idle in a transaction keeps every dead row version alive while tasks flow."""
    seconds, size = (3.0, 2_000) if stage.short else (60.0, 50_000)
    await stage.workers.start_many(3, concurrency=20)
    with stage.database.connect() as idle:
        idle.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        idle.execute(f"SELECT count(*) FROM {stage.database.schema}.tasks")
        began = time.monotonic()
        async with stage.producer.load(60, MIX):
            await stage.producer.send_burst("once", size)
            await anyio.sleep(seconds)
        ended = time.monotonic()
        await stage.settle()
        idle.execute("ROLLBACK")
    title = f"idle in transaction with an old snapshot for {ended - began:.0f} s"
    return [await stage.judge(title, recovery=stage.longest_pause(began, ended), bound=RETURN_BOUND)]


async def locked_rows(stage: Stage) -> list[Row]:
    """A session locks rows of tasks that run and of tasks to come, for longer than makes a worker dead."""
    seconds = 2 * RECOVERY.dead_after if stage.short else 10 * RECOVERY.dead_after
    await stage.workers.start_many(3)
    running = [await stage.producer.send(kind, 1.0) for kind in ("once", "again", "once_in_thread")]
    coming = [await stage.producer.send(kind, delay=2.0) for kind in ("once", "again")]
    await stage.until(lambda: stage.began(running), "the tasks to be locked run")
    ids = [stage.producer.sent[number] for number in (*running, *coming)]
    with stage.database.connect() as locker:
        locker.execute("BEGIN")
        locker.execute(f"SELECT FROM {stage.database.schema}.tasks WHERE id = ANY (%s::uuid[]) FOR UPDATE", (ids,))
        began = time.monotonic()
        async with stage.producer.load(60, MIX):
            await anyio.sleep(seconds)
        ended = time.monotonic()
        locker.execute("ROLLBACK")
    await stage.settle()
    title = f"another session locks rows of running and coming tasks for {seconds:g} s"
    return [await stage.judge(title, recovery=stage.longest_pause(began, ended), bound=RETURN_BOUND)]
