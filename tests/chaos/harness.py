"""A stage for one scenario: a schema, worker processes, a producer, the log of runs, and the verdict over them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from pathlib import Path

import anyio

from horsies import Runtime
from horsies.testing.postgres import EmbeddedServer

from .application import RECOVERY, RESILIENCE, RETRYING, make_app
from .database import Database
from .producer import Producer
from .runs import Line, Note, RunLog, overlaps, runs_of
from .workers import Workers, open_workers

SLACK = 2.0
"""Seconds on top of every bound of the contract, for processes and a server that share two busy processor cores."""
DEATH_BOUND = RECOVERY.dead_after + 2 * RECOVERY.reap_interval
"""Seconds within which the tasks of a dead worker are back."""
RETURN_BOUND = RESILIENCE.retry_max + 1.0
"""Seconds within which work goes on after the database has returned."""
PATIENCE = 15.0
"""Seconds without any movement after which what has not ended is lost."""

PRODUCER = "producer"
"""How the server knows the producer's connections from those of workers."""

_schemas = count(1)


@dataclass(frozen=True, slots=True)
class Row:
    """What one scenario showed. `executed`: tasks whose user code began. `rerun`: further runs of those that may."""

    scenario: str
    sent: int
    executed: int
    completed: int
    failed: int
    duplicated: int
    rerun: int
    lost: int
    recovery: float | None
    bound: float | None
    faults: tuple[str, ...]

    def with_fault(self, condition: bool, otherwise: str) -> Row:
        """This row, with another fault unless `condition` holds."""
        return self if condition else replace(self, faults=(*self.faults, otherwise))


@dataclass
class Stage:
    """Where one scenario is played."""

    database: Database
    workers: Workers
    producer: Producer
    log: RunLog
    short: bool
    faults: list[str] = field(default_factory=list)

    def expect(self, condition: bool, otherwise: str) -> None:
        if not condition:
            self.faults.append(otherwise)

    async def until(
        self, condition: Callable[[], Awaitable[bool] | bool], otherwise: str, seconds: float = 20.0
    ) -> float:
        """Wait for `condition`; the monotonic instant at which it was seen. Late is a fault and goes on."""
        with anyio.move_on_after(seconds):
            while True:
                answer = condition()
                if answer if isinstance(answer, bool) else await answer:
                    return time.monotonic()
                await anyio.sleep(0.03)
        self.faults.append(f"not within {seconds:g} s: {otherwise}")
        return time.monotonic()

    def lines(self, *notes: Note, since: float = 0.0) -> list[Line]:
        return [line for line in self.log.lines() if line.note in notes and line.at >= since]

    def began(self, numbers: Iterable[int]) -> bool:
        """Whether user code of all these has begun."""
        return set(numbers) <= {line.number for line in self.lines(Note.BEGAN)}

    async def first_began_after(self, instant: float, *, on_each_of: Iterable[int] = ()) -> float:
        """Seconds from `instant` until user code began to run again, on each of these processes if any are named."""
        pids = set(on_each_of)

        def has_begun() -> bool:
            seen = {line.pid for line in self.lines(Note.BEGAN, since=instant)}
            return pids <= seen if pids else bool(seen)

        await self.until(has_begun, "user code begins again")
        firsts: dict[int, float] = {}
        for line in self.lines(Note.BEGAN, since=instant):
            firsts.setdefault(line.pid, line.at)
        wanted = [at for pid, at in firsts.items() if pid in pids] if pids else [min(firsts.values(), default=instant)]
        return max(wanted, default=instant) - instant

    def longest_pause(self, since: float, until: float) -> float:
        """The most seconds without a beginning run between two instants, while tasks came all the time."""
        instants = [since, *(line.at for line in self.lines(Note.BEGAN, since=since) if line.at < until), until]
        return max(later - earlier for earlier, later in pairwise(sorted(instants)))

    async def returned(self, pid: int, since: float) -> float:
        """Seconds from `since` until the worker of a dead process held nothing any more."""

        async def holds_nothing() -> bool:
            return await self.database.held_by(pid) == 0

        return await self.until(holds_nothing, f"the tasks of dead worker {pid} are back") - since

    async def settle(self) -> None:
        """Wait until every task has ended, or none has moved for `PATIENCE` seconds."""
        moves, moved_at = -1, time.monotonic()
        while True:
            asked_at = time.monotonic()
            unfinished, now = await self.database.progress()
            if now != moves:
                moves, moved_at = now, time.monotonic()
            if not unfinished or time.monotonic() - moved_at > PATIENCE:
                return
            # Counting very many rows is work for the server, too.
            await anyio.sleep(max(0.1, 10 * (time.monotonic() - asked_at)))

    async def judge(
        self,
        scenario: str,
        *,
        recovery: float | None = None,
        bound: float | None = None,
        numbers: Iterable[int] | None = None,
        may_fail: bool = False,
        may_overlap: bool = False,
        codes_of_its_own: Collection[str] = (),
    ) -> Row:
        """The row of a scenario, or of its tasks `numbers`; what was promised and not kept is a fault.

        Args:
            codes_of_its_own: what its tasks may fail with.
        """
        asked = None if numbers is None else frozenset(numbers)
        lines = [line for line in self.log.lines() if asked is None or line.number in asked]
        sent = {n: task_id for n, task_id in self.producer.sent.items() if asked is None or n in asked}
        statuses = await self.database.statuses()
        found = {number: statuses.get(task_id) for number, task_id in sent.items()}
        runs = runs_of(lines)
        further = {number: len(of_one) - 1 for number, of_one in runs.items() if len(of_one) > 1}
        twice = [number for number in further if runs[number][0].began.task not in RETRYING]
        ended = {line.number for line in lines if line.note is Note.ENDED}
        lost = [number for number, state in found.items() if state is None or state[0] not in _FINAL]
        counted = Counter(state[0] for state in found.values() if state is not None)
        self.expect(not lost, f"lost: {_some(lost)}")
        self.expect(not twice, f"ran twice without leave: {_some(twice)}")
        invented = [n for n, state in found.items() if state is not None and state[0] == "COMPLETED" and n not in ended]
        self.expect(not invented, f"COMPLETED although user code never came to its end: {_some(invented)}")
        codes = Counter(state[1] for state in found.values() if state is not None and state[0] == "FAILED")
        allowed = {*codes_of_its_own, *(["WORKER_CRASHED"] if may_fail else [])}
        self.expect(set(codes) <= allowed, f"FAILED: {dict(codes)}")
        hopeless = [n for n, of_one in runs.items() if of_one[0].began.task in RETRYING and n in found]
        given_up = [n for n in hopeless if (state := found[n]) is not None and state[0] == "FAILED"]
        self.expect(not given_up, f"FAILED although they are retried: {_some(given_up)}")
        if not may_overlap:
            both = overlaps(runs, self.workers.deaths)
            self.expect(not both, f"ran in two places at once: {_some(both)}")
        if recovery is not None and bound is not None:
            late = f"recovery took {recovery:.2f} s, the bound is {bound:g} s (and {SLACK:g} s slack)"
            self.expect(recovery <= bound + SLACK, late)
        self.faults += self.producer.refused + self.workers.unexpected_exits()
        faults, self.faults = tuple(self.faults), []
        return Row(
            scenario,
            sent=len(sent),
            executed=len(runs.keys() & sent.keys()),
            completed=counted["COMPLETED"],
            failed=counted["FAILED"],
            duplicated=len(twice),
            rerun=sum(further.values()) - sum(further[number] for number in twice),
            lost=len(lost),
            recovery=recovery,
            bound=bound,
            faults=faults,
        )


_FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "EXPIRED"})


def _some(numbers: list[int]) -> str:
    return f"{len(numbers)} tasks, such as {sorted(numbers)[:5]}"


@asynccontextmanager
async def open_stage(
    server: EmbeddedServer, folder: Path, backend: str, *, short: bool, environ: Mapping[str, str]
) -> AsyncIterator[Stage]:
    """A stage in a schema of its own. No process outlives it."""
    schema = f"chaos_{next(_schemas)}"
    log = RunLog(folder / "runs.log")
    given = {"HORSIES_DATABASE_URL": server.url, "HORSIES_SCHEMA": schema, "CHAOS_LOG": str(log.path), **environ}
    database = Database(server, schema)
    app = make_app({**given, "HORSIES_DATABASE_URL": f"{server.url}&application_name={PRODUCER}"})
    try:
        async with Runtime(app) as rt:
            with open_workers(given, folder, backend) as workers:
                yield Stage(database, workers, Producer(rt, app), log, short)
    finally:
        database.close()
