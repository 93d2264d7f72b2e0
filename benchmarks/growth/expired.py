"""Tasks past their deadline at the head of the queue: claims step over them and sweep them aside as they go."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from .database import Fill, Place
from .lane import LIMIT, Took, open_lane
from .states import READY


@dataclass(frozen=True, slots=True)
class Sweep:
    """Milliseconds of claims that each bring `LIMIT` living tasks, and of those that take turns with them where nothing
    stands in the way. `tenth` is exceeded by one claim in ten: those that look from the front."""

    title: str
    first: float
    claim: float
    tenth: float
    mean: float
    clear: float
    clear_mean: float


async def sweep(place: Place, rows: int, turns: int) -> Sweep:
    """Claim behind `rows` expired ones. No leader is there to sweep them."""
    obstacles = (Fill(rows=rows, priority=1, expired=True), Fill(rows=READY))
    async with open_lane(place, "expired", obstacles) as lane, open_lane(place, "clear", (Fill(rows=READY),)) as other:
        place.vacuum(lane.name)
        place.autovacuum(lane.name, on=True)
        behind, clear = list[Took](), list[Took]()
        for _ in range(turns):
            behind.append(await lane.turn())
            clear.append(await other.turn())
    if any(one.tasks < LIMIT for one in behind):
        raise RuntimeError(f"a claim behind {rows} expired tasks brought less than {LIMIT} tasks")
    costs, bare = ([one.claim * 1e3 for one in took] for took in (behind, clear))
    return Sweep(
        f"{rows:,} expired at the head",
        costs[0],
        statistics.median(costs),
        statistics.quantiles(costs, n=10)[-1],
        statistics.fmean(costs),
        statistics.median(bare),
        statistics.fmean(bare),
    )
