"""The floor: what SQL alone costs. It sends and drains the rows of horsies without horsies.

A drain is one loop over one of horsies' own connections, with its settings: claim and finish, each statement as the
worker would run it, for as many tasks as the concurrency permits and at most as many results as the completer writes at
once. A claim starts what it takes, as the worker's does. No task is looked up, decoded or run. A send is one prepared
statement of stock psycopg: an INSERT of the same row and its NOTIFY. `send_many` is horsies' own, so that what is
drained are the same rows.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import uuid_utils

from horsies._worker.completer import BATCH
from horsies.plugins.postgres.broker import LOCK_WAIT
from horsies.plugins.postgres.driver.prepared import Statements
from horsies.plugins.postgres.driver.session import Row, Target, connect_hot
from horsies.plugins.postgres.queries import named_queries

from . import NOTHING
from . import horsies as ours

LOOPS = ("asyncio", "uvloop")
KINDS = frozenset({NOTHING})

_INSERT = f"""
WITH inserted AS (
    INSERT INTO {ours.SCHEMA}.tasks
        (id, phase, status, queue, priority, due_at, sent_at, task_name, envelope, sha)
    VALUES (%s, 1, 'PENDING', 'default', 50, now(), now(), 'bench.nothing', %s, %s)
    RETURNING queue
)
SELECT pg_notify('{ours.SCHEMA}_work', 'ready:' || queue) FROM inserted
"""
_PATTERN = f"SELECT envelope, sha, result FROM {ours.SCHEMA}.tasks WHERE phase = 3 LIMIT 1"


class FloorQueue:
    """Args: `pattern`: the envelope, SHA and result of a task that horsies sent and ran."""

    def __init__(
        self,
        queue: ours.HorsiesQueue,
        sending: psycopg.AsyncConnection[Row],
        working: Statements,
        pattern: tuple[bytes, bytes, bytes],
    ) -> None:
        self._queue = queue
        self._sending = sending
        self._working = working
        self._envelope, self._sha, self._result = pattern
        self._sql = named_queries(ours.SCHEMA)
        self._name = f"floor {os.getpid()}"
        self.stored = queue.stored
        self.send_many = queue.send_many

    async def send(self, kind: str) -> None:
        del kind
        given = (str(uuid_utils.uuid7()), self._envelope, self._sha)
        await self._sending.execute(_INSERT, given, prepare=True, binary=True)

    async def drain(self, concurrency: int) -> None:
        await self._run("workers.join")
        while claimed := await self._claim(concurrency):
            for rows in _batches(claimed):
                await self._finish(rows)

    async def _claim(self, limit: int) -> list[Row]:
        given = {"dead_after": 3600.0, "queues": ["default"], "ranks": [1], "limit": limit, "caps": [None]}
        begin = {"floors": [0], "sinces": [None]}
        return await self._run(
            "tasks.claim",
            **given,
            **begin,
            cluster_cap=None,
            step_over=False,
            startable=["bench.nothing"],
            relaxed=False,
        )

    async def _finish(self, rows: Sequence[Row]) -> None:
        count = len(rows)
        await self._run(
            "tasks.finish",
            ids=[row[0] for row in rows],
            claim_numbers=[row[5] for row in rows],
            verbs=["COMPLETE"] * count,
            results=[self._result] * count,
            error_codes=[None] * count,
            retry_ins=[0.0] * count,
            capped=[],
        )

    async def _run(self, name: str, **given: Any) -> list[Row]:
        return await self._working.fetch(self._sql[name], {"worker": self._name, "now": None, **given})


def _batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    for first in range(0, len(rows), BATCH):
        yield rows[first : first + BATCH]


@asynccontextmanager
async def open(url: str) -> AsyncIterator[FloorQueue]:
    async with ours.open(url) as queue:
        await queue.send(NOTHING)
        await queue.drain(1)
        async with _floor(url, queue) as floor:
            yield floor


@asynccontextmanager
async def open_again(url: str) -> AsyncIterator[FloorQueue]:
    async with ours.open_again(url) as queue, _floor(url, queue) as floor:
        yield floor


@asynccontextmanager
async def _floor(url: str, queue: ours.HorsiesQueue) -> AsyncIterator[FloorQueue]:
    """Opened on a table that holds an ended task."""
    target = Target(url, connect_timeout=30.0, statement_timeout=30.0, pooled=False, lock_timeout=LOCK_WAIT)
    working = await connect_hot(target)
    try:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as sending:
            cursor = await sending.execute(_PATTERN, binary=True)
            (pattern,) = await cursor.fetchall()
            yield FloorQueue(queue, sending, Statements(working), pattern)
    finally:
        await working.close()
