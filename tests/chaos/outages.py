"""A database that goes away and comes back: all of it, or connection by connection."""

from __future__ import annotations

import time
from contextlib import suppress
from random import Random
from typing import Any

import anyio
import anyio.to_thread
import psycopg

from .application import RECOVERY
from .harness import PRODUCER, RETURN_BOUND, Row, Stage
from .producer import MIX
from .runs import Note

BACKENDS = f"SELECT pid FROM pg_stat_activity WHERE application_name IN ('horsies', '{PRODUCER}')"


async def server_restarts(stage: Stage) -> list[Row]:
    """The server stops under load, in order and as in a crash, and starts again."""
    workers = await stage.workers.start_many(3, concurrency=4)
    rows = []
    for immediately, how in ((False, "fast"), (True, "immediate")):
        before, took = set(stage.producer.sent), [0.0]
        times = 1 if stage.short else 5
        for _ in range(times):
            # More than two workers can do, so that each must have gone on for all of it to get done.
            async with stage.producer.load(90, MIX):
                await anyio.sleep(1.0)
                await stage.database.stop(immediately=immediately)
                await anyio.sleep(0.5)
                returned = await stage.database.start()
                took.append(await stage.first_began_after(returned, on_each_of=[worker.pid for worker in workers]))
        await stage.settle()
        rows.append(
            await stage.judge(
                f"Postgres restarts ({how}) under load, {times} times",
                recovery=max(took),
                bound=RETURN_BOUND,
                numbers=stage.producer.sent.keys() - before,
            )
        )
    return rows


async def backends_terminated(stage: Stage) -> list[Row]:
    """Five times a second, one connection of a worker or of the producer is terminated."""
    random, seconds = Random(8), 4.0 if stage.short else 60.0
    await stage.workers.start_many(3, concurrency=4)
    began = time.monotonic()
    async with stage.producer.load(60, MIX):
        while time.monotonic() < began + seconds:
            for whose in ("horsies", "horsies", PRODUCER):
                listed = await stage.database.rows(
                    "SELECT pid FROM pg_stat_activity WHERE application_name = %s", whose
                )
                if listed:
                    await stage.database.rows("SELECT pg_terminate_backend(%s)", random.choice(listed)[0])
                await anyio.sleep(0.2)
    await stage.settle()
    stage.expect(stage.producer.replays > 0, "no send was hit")
    return [
        await stage.judge(
            f"pg_terminate_backend five times a second for {seconds:g} s",
            recovery=stage.longest_pause(began, began + seconds),
            bound=RETURN_BOUND,
        )
    ]


async def connections_exhausted(stage: Stage) -> list[Row]:
    """Idle connections take every slot while those of workers and producer are terminated; then they are released."""
    seconds = 2.0 if stage.short else 20.0
    workers = await stage.workers.start_many(3, concurrency=4)
    idle: list[psycopg.Connection[Any]] = []
    await stage.database.rows("SELECT 1")  # the observer has its slot before all are taken
    try:
        async with stage.producer.load(90, MIX):
            await anyio.sleep(0.5)
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                # Again and again, because who was just connecting when the slots were counted has one afterwards.
                await stage.until(lambda: _crowded_out(stage, idle), "nobody else has a connection")
                await anyio.sleep(0.05)
            for connection in idle:
                connection.close()
            released = time.monotonic()
            took = await stage.first_began_after(released, on_each_of=[worker.pid for worker in workers])
    finally:
        for connection in idle:
            connection.close()
    await stage.settle()
    title = f"max_connections exhausted for {seconds:g} s"
    return [await stage.judge(title, recovery=took, bound=RETURN_BOUND)]


async def away_for_twice_dead_after(stage: Stage) -> list[Row]:
    """The database is away for twice as long as makes a heartbeat too old, while long tasks run. Nobody is dead."""
    away = 2 * RECOVERY.dead_after
    await stage.workers.start_many(3)
    kinds = ("once", "again", "once_in_thread", "again_in_thread")
    during = [await stage.producer.send(kind, away * 0.5) for kind in kinds * 2]
    after = [await stage.producer.send(kind, away * 1.5) for kind in kinds * 2]
    await stage.until(lambda: stage.began([*during, *after]), "all run")
    await stage.database.stop(immediately=False)
    await anyio.sleep(away)
    returned = await stage.database.start()

    async def are_written() -> bool:
        statuses = await stage.database.statuses()
        return all(statuses[stage.producer.sent[number]][0] == "COMPLETED" for number in during)

    written = await stage.until(are_written, "what ended meanwhile is written")
    await stage.settle()
    began = stage.lines(Note.BEGAN)
    stage.expect(len(began) == len(during) + len(after), f"{len(began)} runs of {len(during) + len(after)} tasks")
    title = f"database away for {away:g} s (twice dead_after) while tasks run"
    return [await stage.judge(title, recovery=written - returned, bound=RETURN_BOUND)]


async def _crowded_out(stage: Stage, idle: list[psycopg.Connection[Any]]) -> bool:
    """Terminate what workers and producer have, and take the slots; whether they have none now."""
    await stage.database.rows(f"SELECT pg_terminate_backend(pid) FROM ({BACKENDS}) AS backends")
    await anyio.to_thread.run_sync(_fill, stage, idle)
    return not await stage.database.rows(BACKENDS)


def _fill(stage: Stage, idle: list[psycopg.Connection[Any]]) -> None:
    with suppress(psycopg.OperationalError):
        while True:
            idle.append(stage.database.connect())
