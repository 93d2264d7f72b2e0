"""Measure how flat the queue stays, and print the tables of docs/growth.md.

python -m benchmarks.growth [--rows N] [--db postgresql://...|sqlite] [--backend asyncio|trio] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio

from .database import Place, open_place
from .states import Figure, compare

TARGET = 1.3
"""How many times the cost with little in the table is still flat."""


def show_states(found: dict[str, list[Figure]]) -> None:
    for how, figures in found.items():
        base = figures[0]
        print(f"\n{how}\n")
        print("| in the table | claim of 100 (ms) | ratio | claim, start and finish (us a task) | ratio | flat |")
        print("|---|---:|---:|---:|---:|---|")
        for one in figures:
            claim, cycle = one.claim / base.claim, one.cycle / base.cycle
            flat = "yes" if max(claim, cycle) <= TARGET else "no"
            print(f"| {one.title} | {one.claim:.2f} | {claim:.2f} | {one.cycle:.1f} | {cycle:.2f} | {flat} |")


async def measure(place: Place, rows: int, turns: int) -> dict[str, Any]:
    found = dict(await compare(place, rows, turns))
    show_states(found)
    return {"states": {how: [asdict(figure) for figure in figures] for how, figures in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each kind; three times as many ready")
    parser.add_argument("--turns", type=int, default=60, help="claims in each state")
    parser.add_argument("--db", default="", help="empty: an embedded Postgres; sqlite; or a database URL")
    parser.add_argument("--backend", default="asyncio", choices=("asyncio", "trio"))
    parser.add_argument("--json", type=Path, help="a file for the figures")
    given = parser.parse_args()
    began = time.monotonic()
    with open_place(given.db) as place:
        print(place.version(), flush=True)
        found = anyio.run(measure, place, given.rows, given.turns, backend=given.backend)
        found["server"] = place.version()
    print(f"\nin {time.monotonic() - began:.0f} s")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
