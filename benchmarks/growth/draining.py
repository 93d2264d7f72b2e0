"""What a drain leaves behind, dead, at the head of the index that the next claim reads from, and what that costs."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from .database import Fill, Place
from .lane import LIMIT, Lane, open_lane

MARKS = (0.0, 0.1, 0.5, 0.9)
"""How much is drained when the cost of a claim is looked at."""
WINDOW = 40


@dataclass(frozen=True, slots=True)
class Drain:
    """Milliseconds of a claim of `LIMIT`: the median at each of `MARKS`, the mean of all; and tasks a second."""

    title: str
    claims: tuple[float, ...]
    mean: float
    rate: float


@contextmanager
def idle_in_transaction(place: Place) -> Iterator[None]:
    """Somebody's session that has read something, keeps its snapshot and does nothing."""
    with psycopg.connect(place.config("idle").url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM pg_class")
        yield


async def drain(place: Place, title: str, rows: int, *, autovacuum: bool) -> Drain:
    """Drain `rows` ready tasks, one claim of `LIMIT` after the other."""
    async with open_lane(place, "drained", (Fill(rows=rows),)) as lane:
        place.vacuum(lane.name)
        place.autovacuum(lane.name, on=autovacuum)
        return await _drain(lane, title, rows)


async def _drain(lane: Lane, title: str, rows: int) -> Drain:
    claims, cycles = list[float](), list[float]()
    while (one := await lane.turn(refill=False)).tasks:
        claims.append(one.claim * 1e3)
        cycles.append(one.cycle)
    starts = [int(mark * rows / LIMIT) for mark in MARKS]
    return Drain(
        title,
        tuple(statistics.median(claims[start : start + WINDOW]) for start in starts),
        statistics.fmean(claims),
        rows / sum(cycles),
    )


async def drains(place: Place, rows: int) -> AsyncIterator[Drain]:
    """The same drain with autovacuum at work, held up, and with somebody idle in a transaction."""
    yield await drain(place, "autovacuum at work", rows, autovacuum=True)
    yield await drain(place, "autovacuum off", rows, autovacuum=False)
    with idle_in_transaction(place):
        yield await drain(place, "a session idle in transaction", rows, autovacuum=True)
