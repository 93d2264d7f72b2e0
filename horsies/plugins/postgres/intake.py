"""How one worker comes by tasks, and lets go of those that it does not run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from operator import itemgetter
from typing import Any

from horsies import RecoveryConfig
from horsies.abc import (
    BrokerError,
    Claim,
    ClaimedTask,
    GiveBack,
    Lease,
    Promotion,
    Start,
    StartOutcome,
    TaskStatus,
    isolate,
)

from .caps import Caps
from .claim_cursor import ClaimCursor
from .damaged_rows import DamagedRows, is_damage
from .driver.session import Row, Session, in_utc
from .leases import fences, leases_of, used

_SWEEP = 5_000


class PostgresIntake:
    """See `horsies.abc.Intake`. It claims over `intake`, starts over `starts` and gives back over `outcomes`."""

    def __init__(
        self,
        worker_id: str,
        queues: Sequence[tuple[str, int]],
        *,
        intake: Session,
        starts: Session,
        outcomes: Session,
        sql: Mapping[str, str],
        recovery: RecoveryConfig,
        caps: Caps,
    ) -> None:
        self._worker_id = worker_id
        self._ranks = dict(queues)
        self._cursor = ClaimCursor(self._ranks)
        self._intake = intake
        self._starts = starts
        self._outcomes = outcomes
        self._sql = sql
        self._dead_after = float(recovery.dead_after)
        self._caps = caps
        self._damaged = DamagedRows(intake, worker_id, list(self._ranks), sql)
        self._passed_over = frozenset[str]()
        """The names of tasks that the last claim passed over."""

    async def promote(self, limit: int, *, now: datetime | None = None) -> Promotion:
        """See `horsies.abc.Consumer.promote`."""
        async with self._passing_over(now):
            rows = await self._intake.fetch("promote", *self._over("tasks.promote", {"limit": limit, "now": now}))
        promoted, next_due_in, _ = rows[0]
        return Promotion(promoted, 0.0 if promoted == limit else next_due_in)

    async def claim(
        self,
        limit: int,
        *,
        startable: Collection[str] = (),
        without: Collection[str] = (),
        now: datetime | None = None,
    ) -> Claim:
        """See `horsies.abc.Consumer.claim`.

        A claim that met tasks past their deadline sweeps a bounded number of them aside, then steps over the rest: so
        what stands behind a million of them is reached at once, and each claim finds fewer. See `claim_cursor` for
        where it begins; only what looked from the front finds nothing.
        """
        before, self._passed_over = self._passed_over, frozenset(without)
        ask: dict[str, object] = {"startable": startable, "relaxed": not startable, "now": now}
        ask |= {"without": list(without)} if without else {}
        async with self._passing_over(now):
            # Tasks that the last claim passed over may stand before the floors.
            if self._cursor.hold and before.issubset(without):
                claim = await self._take(limit, ask)
                if claim.tasks or claim.expired:
                    return claim
            self._cursor.lift()
            return await self._take(limit, ask)

    @asynccontextmanager
    async def _passing_over(self, now: datetime | None) -> AsyncIterator[None]:
        """Around what may meet a row that it fails on: see `damaged_rows`."""
        has_looked = await self._damaged.look(now=now)
        try:
            yield
        except BrokerError as error:
            raise self._damaged.expect(error) from None
        if has_looked:
            self._damaged.passed()

    def _over(self, name: str, given: Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
        """The query `name` and its parameters, passing over what this worker cannot write."""
        if skipped := self._damaged.skipped:
            return self._damaged.over(self._sql[name]), {**given, "skipped": skipped}
        return self._sql[name], given

    async def start(self, starts: Sequence[Start], *, now: datetime | None = None) -> list[StartOutcome]:
        """See `horsies.abc.Consumer.start`.

        A row that is locked, or that the statement fails on, is isolated, and the others are started.
        """

        async def alone(start: Start, error: BrokerError) -> StartOutcome:
            if error.locked:
                return StartOutcome.LOCKED
            await self._damaged.set_aside(start.lease.task_id, error, now=now)
            return StartOutcome.LOST

        return await isolate(
            starts, partial(self._start, now=now), alone, lambda error: error.locked or is_damage(error)
        )

    async def give_back(self, tasks: Sequence[GiveBack], *, now: datetime | None = None) -> list[bool]:
        """See `horsies.abc.Consumer.give_back`."""
        if not tasks:
            return []
        leases = [task.lease for task in tasks]
        given = {
            **fences(leases),
            "delays": [float(task.delay) for task in tasks],
            "unknown": [task.unknown for task in tasks],
            "running": [task.is_running for task in tasks],
            "worker": self._worker_id,
            "now": now,
        }
        rows = await self._outcomes.fetch("give back", self._sql["tasks.give_back"], given)
        return used(leases, leases_of(rows))

    async def give_back_unknown(
        self, known: Sequence[Lease], *, heard_until: datetime | None = None, now: datetime | None = None
    ) -> int:
        """See `horsies.abc.Consumer.give_back_unknown`."""
        ids = [lease.task_id for lease in known]
        given = {"worker": self._worker_id, "ids": ids, "heard_until": heard_until}
        ((returned, *_),) = await self._intake.fetch(
            "give back", self._sql["tasks.give_back_unknown"], {**given, "now": now}
        )
        if heard_until is None:
            return int(returned)
        lost = await self._intake.fetch("give back", self._sql["tasks.begun"], given)
        if not lost:
            return int(returned)
        leases = [Lease(task_id, claim_number) for task_id, claim_number in lost]
        ((reaped, *_),) = await self._intake.fetch("give back", self._sql["tasks.reap"], {**fences(leases), "now": now})
        return int(returned) + int(reaped)

    async def has_due(self, *, now: datetime | None = None) -> bool:
        """See `horsies.abc.Consumer.has_due`."""
        given = {"queues": list(self._ranks), "now": now}
        rows = await self._intake.fetch("has_due", *self._over("tasks.has_due", given))
        due: bool = rows[0][0]
        return due

    async def _take(self, limit: int, ask: Mapping[str, object]) -> Claim:
        """Claim, from the floors on."""
        swept = 0
        rows, expired = await self._claim(limit, ask, step_over=False)
        if expired and len(rows) < limit:
            given = {"limit": _SWEEP, "now": ask["now"]}
            ((swept, _),) = await self._intake.fetch("claim", *self._over("tasks.sweep", given))
            more, _ = await self._claim(limit - len(rows), ask, step_over=True)
            rows += more
        rows.sort(key=self._order)
        places = [(queue, (priority, due_at)) for _, _, queue, priority, due_at, *_ in rows]
        self._cursor.taken(places, obstructed=swept == _SWEEP)
        claimed_at = in_utc(max(map(_CLAIMED_AT, rows))) if rows else None
        return Claim(tuple(map(_claimed_task, rows)), expired + swept, claimed_at)

    async def _claim(self, limit: int, ask: Mapping[str, object], *, step_over: bool) -> tuple[list[Row], int]:
        """The rows that are CLAIMED or RUNNING now, and how many others became EXPIRED."""
        given: Mapping[str, object] = {
            "worker": self._worker_id,
            "dead_after": self._dead_after,
            "queues": list(self._ranks),
            "ranks": list(self._ranks.values()),
            "floors": self._cursor.priorities,
            "sinces": self._cursor.due_ats,
            "limit": limit,
            "caps": list(self._caps.queues),
            "cluster_cap": self._caps.cluster,
            "step_over": step_over,
            **ask,
        }
        query, given = self._over("tasks.claim", given)
        if "without" in ask:
            query = _leaving_names(query)
        rows = await self._intake.fetch("claim", query, given, locks=self._caps.locks)
        claimed = [row for row in rows if row[1] != TaskStatus.EXPIRED]
        return claimed, len(rows) - len(claimed)

    async def _start(self, starts: Sequence[Start], now: datetime | None) -> list[StartOutcome]:
        leases = [start.lease for start in starts]
        delays = [start.retry_after_crash for start in starts]
        rows = await self._starts.fetch(
            "start",
            self._sql["tasks.start"],
            {
                **fences(leases),
                "retries_after_crash": [None if delay is None else float(delay) for delay in delays],
                "worker": self._worker_id,
                "now": now,
            },
        )
        status = {Lease(task_id, claim_number): status for task_id, claim_number, status, _ in rows}
        return [_START[status.pop(lease, None)] for lease in leases]

    def _order(self, row: Row) -> tuple[Any, ...]:
        task_id, _, queue, priority, due_at, *_ = row
        return self._ranks[queue], priority, due_at, task_id


_CLAIMED_AT = itemgetter(12)
_START = {
    TaskStatus.RUNNING: StartOutcome.STARTED,
    TaskStatus.EXPIRED: StartOutcome.EXPIRED,
    None: StartOutcome.LOST,
}


def _claimed_task(row: Row) -> ClaimedTask:
    (task_id, status, queue, priority, _, claim_number, envelope, sha, name, attempt, retries, good_until,
     claimed_at, unknown_since, _) = row  # fmt: skip
    is_running = status == TaskStatus.RUNNING
    return ClaimedTask(
        lease=Lease(task_id, claim_number),
        envelope=envelope,
        sha=sha,
        task_name=name,
        queue=queue,
        priority=priority,
        attempt=attempt - is_running,
        retries=retries,
        good_until=in_utc(good_until),
        unknown_for=0.0 if unknown_since is None else (claimed_at - unknown_since).total_seconds(),
        is_running=is_running,
    )


def _leaving_names(claim: str) -> str:
    """The query `claim` passing over tasks named in `without`: a query apart, because it looks at each of them."""
    return claim.replace("WHERE phase = 1 AND", "WHERE phase = 1 AND task_name <> ALL (%(without)s::text[]) AND")
