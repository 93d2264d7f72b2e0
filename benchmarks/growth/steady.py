"""Dead rows and sizes while tasks are sent, run and removed, with about the same number in the table all the time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta

from .database import Place
from .lane import LIMIT, open_lane

KEPT = 20_000
"""How many finished tasks are kept."""
BATCH = 1_000

SIZES = """
SELECT
    pg_table_size(c.oid) / 1e6, pg_indexes_size(c.oid) / 1e6, stat.n_dead_tup, stat.autovacuum_count,
    (SELECT string_agg(i.relname || ' ' || pg_relation_size(i.oid) / 1000000, ', ' ORDER BY i.relname)
        FROM pg_index JOIN pg_class AS i ON i.oid = indexrelid WHERE indrelid = c.oid)
FROM pg_class AS c JOIN pg_stat_user_tables AS stat ON stat.relid = c.oid
WHERE c.oid = '{schema}.tasks'::regclass
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """After `tasks` tasks: megabytes of the table and its indexes, and what autovacuum has to do and did."""

    tasks: int
    seconds: float
    table: float
    indexes: float
    dead: int
    autovacuums: int
    each_index: str


async def steady(place: Place, tasks: int, *, samples: int = 20) -> list[Sample]:
    """Send, run and remove `tasks` tasks, as fast as one connection for each does."""
    found: list[Sample] = []
    async with open_lane(place, "steady", ()) as lane, lane.rt._engine.broker.maintenance("growth") as maintenance:
        place.autovacuum(lane.name, on=True)
        began, every = time.perf_counter(), max(BATCH, tasks // samples)
        for sent in range(BATCH, tasks + 1, BATCH):
            await lane.send([("queue0", 50)] * BATCH)
            for _ in range(BATCH // LIMIT):
                await lane.turn(refill=False)
            if sent > KEPT:
                await maintenance.prune(BATCH, finished_after=timedelta(0))
            if sent % every == 0:
                ((table, indexes, dead, autovacuums, each),) = place.run(
                    SIZES.format(schema=place.config(lane.name).schema)
                )
                took = time.perf_counter() - began
                found.append(Sample(sent, took, float(table), float(indexes), dead, autovacuums, each))
    return found
