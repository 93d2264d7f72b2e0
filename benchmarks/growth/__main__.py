"""Measure how flat the queue stays, and print the tables of docs/growth.md.

python -m benchmarks.growth [--rows N] [--db postgresql://...|sqlite] [--backend asyncio|trio] [--json FILE] [PART ...]

Without parts all are measured; on SQLite, which has neither vacuum nor dead rows, `states` and `expired` alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import AsyncIterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio

from .database import Place, open_place
from .draining import MARKS, Drain, drains
from .expired import Sweep, sweep
from .states import Figure, compare
from .steady import KEPT, Sample, steady

TARGET = 1.3
"""How many times the cost with little in the table is still flat."""
PARTS = ("states", "expired", "drain", "steady")


def table(*columns: str) -> None:
    print(f"\n| {' | '.join(columns)} |\n|---{'|---:' * (len(columns) - 1)}|", flush=True)


def row(*cells: object) -> None:
    print(f"| {' | '.join(f'{cell:,.2f}' if isinstance(cell, float) else str(cell) for cell in cells)} |", flush=True)


def show_states(found: Mapping[str, Sequence[Figure]]) -> None:
    for how, figures in found.items():
        base = figures[0]
        print(f"\n{how}")
        table("in the table", "claim of 100 (ms)", "ratio", "claim, start, finish (us a task)", "ratio", "flat")
        for one in figures:
            ratios = one.claim / base.claim, one.cycle / base.cycle
            flat = "yes" if max(ratios) <= TARGET else "no"
            row(one.title, one.claim, ratios[0], one.cycle, ratios[1], flat)


def show_sweep(one: Sweep) -> None:
    table("claims of 100 (ms)", "the first", "median", "one in ten above", "mean")
    row(one.title, one.first, one.claim, one.tenth, one.mean)
    row("in turn with them, nothing expired", "", one.clear, "", one.clear_mean)


async def show_drains(found: AsyncIterable[Drain]) -> list[Drain]:
    table("claim of 100 (ms), drained", *(f"{mark:.0%}" for mark in MARKS), "mean", "tasks a second")
    shown = []
    async for one in found:
        row(one.title, *one.claims, one.mean, f"{one.rate:,.0f}")
        shown.append(one)
    return shown


def show_steady(samples: Sequence[Sample]) -> None:
    print(f"\n{KEPT:,} finished tasks kept")
    table("tasks", "seconds", "table (MB)", "indexes (MB)", "dead rows", "autovacuums")
    for one in samples:
        row(f"{one.tasks:,}", one.seconds, one.table, one.indexes, f"{one.dead:,}", one.autovacuums)
    print(f"\nat the end, MB: {samples[-1].each_index}")


async def measure(place: Place, parts: Sequence[str], rows: int, turns: int) -> dict[str, Any]:
    found: dict[str, Any] = {"server": place.version()}
    if "states" in parts:
        states = await compare(place, rows, turns)
        show_states(states)
        found["states"] = {how: [asdict(figure) for figure in figures] for how, figures in states.items()}
    if "expired" in parts:
        swept = await sweep(place, rows, turns * 4)
        show_sweep(swept)
        found["expired"] = asdict(swept)
    if "drain" in parts:
        found["drain"] = [asdict(one) for one in await show_drains(drains(place, rows))]
    if "steady" in parts:
        samples = await steady(place, rows)
        show_steady(samples)
        found["steady"] = [asdict(one) for one in samples]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument("part", nargs="*", choices=[[], *PARTS], help="default: all that the database has")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each kind; three times as many ready")
    parser.add_argument("--turns", type=int, default=60, help="claims in each state")
    parser.add_argument("--db", default="", help="empty: an embedded Postgres; sqlite; or a database URL")
    parser.add_argument("--backend", default="asyncio", choices=("asyncio", "trio"))
    parser.add_argument("--json", type=Path, help="a file for the figures")
    given = parser.parse_args()
    began = time.monotonic()
    with open_place(given.db) as place:
        print(place.version(), flush=True)
        parts = given.part or (PARTS if place.is_postgres else PARTS[:2])
        found = anyio.run(measure, place, parts, given.rows, given.turns, backend=given.backend)
    print(f"\nin {time.monotonic() - began:.0f} s")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
