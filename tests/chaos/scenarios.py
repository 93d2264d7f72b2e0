"""Every scenario by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import anyio

from horsies.testing.postgres import EmbeddedServer

from .crashes import killed_at_each_phase, killed_repeatedly
from .harness import Row, Stage, open_stage

Scenario = Callable[[Stage], Awaitable[list[Row]]]

SCENARIOS: Mapping[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        killed_at_each_phase,
        killed_repeatedly,
    )
}


def play(name: str, server: EmbeddedServer, folder: Path, backend: str, *, short: bool) -> list[Row]:
    """Play one scenario. `backend` is the producer's event loop and that of the first worker; workers alternate."""

    place = folder / name
    place.mkdir()

    async def run() -> list[Row]:
        async with open_stage(server, place, backend, short=short) as stage:
            return await SCENARIOS[name](stage)

    return anyio.run(run, backend=backend)
