"""Play the scenarios and print the table of docs/chaos.md.

python -m tests.chaos [--short] [--backend asyncio|trio] [SCENARIO ...]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from horsies.testing.postgres import embedded_server

from .harness import Row
from .scenarios import SCENARIOS, play

COLUMNS = ("sent", "executed", "completed", "failed", "duplicated", "re-run", "lost", "recovery (s)", "bound (s)")


def cells(row: Row) -> Sequence[object]:
    recovery, bound = ("" if value is None else f"{value:.2f}" for value in (row.recovery, row.bound))
    return (
        *(row.sent, row.executed, row.completed, row.failed, row.duplicated, row.rerun, row.lost),
        *(recovery, bound),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("scenario", nargs="*", choices=[[], *SCENARIOS], help="default: all")
    parser.add_argument("--short", action="store_true", help="the length that `make test` runs")
    parser.add_argument("--backend", choices=("asyncio", "trio"), help="of the first worker; default: in turn")
    parser.add_argument("--version", type=int, default=18, help="of Postgres: 16 or 18")
    parser.add_argument("--keep", type=Path, help="an existing folder for the logs of runs and workers")
    given = parser.parse_args()
    print(f"| scenario | {' | '.join(COLUMNS)} |\n|---{'|---:' * len(COLUMNS)}|", flush=True)
    began, faults = time.monotonic(), list[str]()
    with (
        tempfile.TemporaryDirectory(prefix="horsies-chaos-") as folder,
        embedded_server(given.version) as server,
    ):
        for number, name in enumerate(given.scenario or SCENARIOS):
            backend = given.backend or ("asyncio", "trio")[number % 2]
            for row in play(name, server, given.keep or Path(folder), backend, short=given.short):
                print(f"| {row.scenario} | {' | '.join(map(str, cells(row)))} |", flush=True)
                faults += [f"{row.scenario}: {fault}" for fault in row.faults]
    print(f"\n{len(faults)} promises broken, in {time.monotonic() - began:.0f} s.")
    for fault in faults:
        print(f"- {fault}")
    raise SystemExit(len(faults) > 0)


if __name__ == "__main__":
    main()
