"""The cost of a claim in each of many states, their claims taking turns, so that a noisy minute hits all alike."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from .database import Fill, Place
from .lane import LIMIT, Lane, Took, open_lane

READY = 1_000
"""How much is ready in the state that all others are compared with."""
WARM_UP = 5


@dataclass(frozen=True, slots=True)
class State:
    name: str
    title: str
    fills: tuple[Fill, ...]
    queues: int = 1


@dataclass(frozen=True, slots=True)
class Figure:
    """Medians: `claim` in milliseconds for `LIMIT` tasks; `cycle` in microseconds for one task."""

    title: str
    claim: float
    cycle: float


def states(rows: int) -> list[State]:
    """The states to compare, the first of them with all others."""
    ready = Fill(rows=READY)
    return [
        State("base", f"{READY:,} ready", (ready,)),
        State("more", f"{rows // 10:,} ready", (Fill(rows=rows // 10),)),
        State("most", f"{3 * rows:,} ready", (Fill(rows=3 * rows),)),
        State("delayed", f"{rows:,} delayed", (Fill(rows=rows, phase=0, due=86_400), ready)),
        State("done", f"{rows:,} finished", (Fill(rows=rows, phase=3), ready)),
        State("one_of_100", "100 queues served, one filled", (ready,), queues=100),
        State("all_of_100", "100 queues served, all filled", (Fill(rows=100 * READY, queues=100),), queues=100),
    ]


async def compare(place: Place, rows: int, turns: int) -> Mapping[str, list[Figure]]:
    """The figures of each state as it was filled, then after a vacuum."""
    compared = states(rows)
    async with AsyncExitStack() as stack:
        lanes = [
            await stack.enter_async_context(open_lane(place, state.name, state.fills, queues=state.queues))
            for state in compared
        ]
        titles = [state.title for state in compared]
        raw = await _take_turns(lanes, turns)
        for lane in lanes:
            place.vacuum(lane.name)
        vacuumed = await _take_turns(lanes, turns)
    return {
        "never vacuumed or analysed": list(_figures(titles, raw)),
        "vacuumed and analysed": list(_figures(titles, vacuumed)),
    }


async def _take_turns(lanes: list[Lane], turns: int) -> list[list[Took]]:
    took: list[list[Took]] = [[] for _ in lanes]
    for turn in range(WARM_UP + turns):
        for lane, taken in zip(lanes, took, strict=True):
            one = await lane.turn()
            if one.tasks < LIMIT:
                raise RuntimeError(f"a claim in the state {lane.name!r} brought {one.tasks} tasks, not {LIMIT}")
            if turn >= WARM_UP:
                taken.append(one)
    return took


def _figures(titles: list[str], took: list[list[Took]]) -> Iterator[Figure]:
    for title, taken in zip(titles, took, strict=True):
        yield Figure(
            title,
            statistics.median(one.claim for one in taken) * 1e3,
            statistics.median(one.cycle for one in taken) / LIMIT * 1e6,
        )
