"""Every scenario by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import anyio

from horsies.testing.postgres import EmbeddedServer

from .crashes import killed_at_each_phase, killed_repeatedly
from .fleet import CAPS, burst, caps, rolling_restart
from .flowing import siblings_at_once, storm_of_wishes, workflows_under_kills
from .freezing import frozen_worker
from .harness import Row, Stage, open_stage
from .outages import away_for_twice_dead_after, backends_terminated, connections_exhausted, server_restarts
from .scheduling import schedulers_killed
from .transactions import locked_rows, old_snapshot

Scenario = Callable[[Stage], Awaitable[list[Row]]]

SCENARIOS: Mapping[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        killed_at_each_phase,
        killed_repeatedly,
        server_restarts,
        backends_terminated,
        old_snapshot,
        locked_rows,
        connections_exhausted,
        away_for_twice_dead_after,
        frozen_worker,
        burst,
        rolling_restart,
        caps,
        schedulers_killed,
        workflows_under_kills,
        siblings_at_once,
        storm_of_wishes,
    )
}

ENVIRON: Mapping[str, Mapping[str, str]] = {"caps": CAPS}


def play(name: str, server: EmbeddedServer, folder: Path, backend: str, *, short: bool) -> list[Row]:
    """Play one scenario. `backend` is the producer's event loop and that of the first worker; workers alternate."""

    place = folder / name
    place.mkdir()

    async def run() -> list[Row]:
        async with open_stage(server, place, backend, short=short, environ=ENVIRON.get(name, {})) as stage:
            return await SCENARIOS[name](stage)

    return anyio.run(run, backend=backend)
