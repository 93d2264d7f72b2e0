"""One worker's claims, and what becomes of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from horsies.abc import (
    BrokerError,
    Claim,
    ClaimedTask,
    Decide,
    Finish,
    GiveBack,
    Heartbeat,
    Lease,
    Promotion,
    Start,
    StartOutcome,
    TaskStatus,
)

from .advancing import advance_locked, deciding
from .caps import Caps
from .floors import Floors
from .session import Fetch, Row, Session, in_utc

_SWEEP = 5_000


class PostgresConsumer:
    """Takes work over `intake`, starts it over `starts` and hands it back over `outcomes`: none waits for another."""

    def __init__(
        self,
        worker_id: str,
        queues: Sequence[tuple[str, int]],
        *,
        intake: Session,
        starts: Session,
        outcomes: Session,
        sql: Mapping[str, str],
        dead_after: float,
        caps: Caps,
    ) -> None:
        self._worker_id = worker_id
        self._ranks = dict(queues)
        self._floors = Floors(self._ranks)
        self._intake = intake
        self._starts = starts
        self._outcomes = outcomes
        self._sql = sql
        self._dead_after = float(dead_after)
        self._caps = caps
        self._starts_by_claims = False
        self._without: list[str] = []

    async def join(self, *, now: datetime | None = None) -> None:
        """See `horsies.abc.Consumer.join`."""
        await self._outcomes.fetch("join", self._sql["join"], {"worker": self._worker_id, "now": now})

    async def beat(self, *, watching: bool, now: datetime | None = None) -> Heartbeat:
        """See `horsies.abc.Consumer.beat`."""
        given = {"worker": self._worker_id, "watching": watching, "lease": self._dead_after / 2, "now": now}
        ((alive, leads, ids, claim_numbers),) = await self._outcomes.fetch("beat", self._sql["beat"], given)
        return Heartbeat(
            alive=alive,
            leads=leads,
            to_cancel=tuple(map(Lease, ids or (), claim_numbers or ())) if alive else (),
        )

    async def leave(self) -> int:
        """See `horsies.abc.Consumer.leave`."""
        rows = await self._outcomes.fetch("leave", self._sql["leave"], {"worker": self._worker_id})
        returned: int = rows[0][0]
        return returned

    async def promote(self, limit: int, *, now: datetime | None = None) -> Promotion:
        """See `horsies.abc.Consumer.promote`."""
        rows = await self._intake.fetch("promote", self._sql["promote"], {"limit": limit, "now": now})
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
        what stands behind a million of them is reached at once, and each claim finds fewer. See `floors` for where it
        begins; only what looked from the front finds nothing.
        """
        if startable:
            self._starts_by_claims = True
        before, self._without = self._without, list(without)
        # Tasks that the last claim passed over may stand before the floors.
        if self._floors.hold and set(before) <= set(without):
            claim = await self._take(limit, startable, now)
            if claim.tasks or claim.expired:
                return claim
        self._floors.lift()
        return await self._take(limit, startable, now)

    async def start(self, starts: Sequence[Start], *, now: datetime | None = None) -> list[StartOutcome]:
        """See `horsies.abc.Consumer.start`. A batch that meets a locked row is halved until that row stands alone."""
        if not starts:
            return []
        try:
            return await self._start(starts, now)
        except BrokerError as error:
            if not error.locked:
                raise
            if len(starts) == 1:
                return [StartOutcome.LOCKED]
            middle = len(starts) // 2
            return [*await self.start(starts[:middle], now=now), *await self.start(starts[middle:], now=now)]

    async def finish(
        self, ends: Sequence[Finish], *, decide: Decide | None = None, now: datetime | None = None
    ) -> list[bool]:
        """See `horsies.abc.Consumer.finish`."""
        if not ends:
            return []
        if decide is None:
            return await self._end(self._outcomes.fetch, ends, now)
        ids = sorted({end.workflow_id for end in ends if end.workflow_id is not None})
        with deciding():
            # Workflows before tasks, as everybody does who locks both.
            async with self._outcomes.transaction("finish") as fetch:
                rows = await fetch("finish", self._sql["lock_free_workflows"], {"ids": ids, "now": now})
                written = await self._end(fetch, ends, now)
                await advance_locked(fetch, self._sql, rows, decide, now)
        return written

    async def _end(self, fetch: Fetch, ends: Sequence[Finish], now: datetime | None) -> list[bool]:
        firsts = list({end.lease: end for end in reversed(ends)}.values())
        written = await self._finish(fetch, firsts, now)
        if len(written) == len(ends):
            return [True] * len(ends)
        # A request to cancel that came while the statement ran kept a retry from being written; now it is seen.
        again = [end for end in firsts if end.status is TaskStatus.PENDING and end.lease not in written]
        if again:
            written = [*written, *await self._finish(fetch, again, now)]
        return _used([end.lease for end in ends], set(written))

    async def give_back(self, tasks: Sequence[GiveBack], *, now: datetime | None = None) -> list[bool]:
        """See `horsies.abc.Consumer.give_back`."""
        if not tasks:
            return []
        leases = [task.lease for task in tasks]
        delays = [float(task.delay) for task in tasks]
        rows = await self._outcomes.fetch(
            "give back",
            self._sql["give_back"],
            {**_fences(leases), "delays": delays, "worker": self._worker_id, "now": now},
        )
        return _used(leases, _leases_of(rows))

    async def give_back_unknown(self, known: Sequence[Lease], *, now: datetime | None = None) -> int:
        """See `horsies.abc.Consumer.give_back_unknown`."""
        ids = [lease.task_id for lease in known]
        given = {"worker": self._worker_id, "ids": ids, "now": now}
        rows = await self._intake.fetch("give back", self._sql["give_back_unknown"], given)
        returned: int = rows[0][0]
        return returned

    async def has_due(self, *, now: datetime | None = None) -> bool:
        """See `horsies.abc.Consumer.has_due`."""
        rows = await self._intake.fetch("has_due", self._sql["has_due"], {"queues": list(self._ranks), "now": now})
        due: bool = rows[0][0]
        return due

    async def _take(self, limit: int, startable: Collection[str], now: datetime | None) -> Claim:
        """Claim, from the floors on."""
        swept = 0
        rows, expired = await self._claim(limit, startable, now, step_over=False)
        if expired and len(rows) < limit:
            given = {"limit": _SWEEP, "now": now}
            ((swept, _),) = await self._intake.fetch("claim", self._sql["sweep"], given)
            more, _ = await self._claim(limit - len(rows), startable, now, step_over=True)
            rows += more
        rows.sort(key=self._order)
        places = [(queue, (priority, due_at)) for _, _, queue, priority, due_at, *_ in rows]
        self._floors.taken(places, obstructed=swept == _SWEEP)
        return Claim(tuple(map(_claimed_task, rows)), expired + swept)

    async def _claim(
        self, limit: int, startable: Collection[str], now: datetime | None, *, step_over: bool
    ) -> tuple[list[Row], int]:
        """The rows that are CLAIMED or RUNNING now, and how many others became EXPIRED."""
        rows = await self._intake.fetch(
            "claim",
            self._sql["claim"],
            {
                "worker": self._worker_id,
                "dead_after": self._dead_after,
                "queues": list(self._ranks),
                "ranks": list(self._ranks.values()),
                "floors": self._floors.priorities,
                "sinces": self._floors.due_ats,
                "limit": limit,
                "caps": list(self._caps.queues),
                "cluster_cap": self._caps.cluster,
                "step_over": step_over,
                "startable": startable,
                "without": self._without,
                # A claim that a crash undid could be made again under its number, and started this time.
                "relaxed": not self._starts_by_claims,
                "now": now,
            },
            locks=self._caps.locks,
        )
        claimed = [row for row in rows if row[1] != TaskStatus.EXPIRED]
        return claimed, len(rows) - len(claimed)

    async def _start(self, starts: Sequence[Start], now: datetime | None) -> list[StartOutcome]:
        leases = [start.lease for start in starts]
        delays = [start.retry_after_crash for start in starts]
        rows = await self._starts.fetch(
            "start",
            self._sql["start"],
            {
                **_fences(leases),
                "retries_after_crash": [None if delay is None else float(delay) for delay in delays],
                "worker": self._worker_id,
                "now": now,
            },
        )
        status = {Lease(task_id, claim_number): status for task_id, claim_number, status, _ in rows}
        return [_START[status.pop(lease, None)] for lease in leases]

    async def _finish(self, fetch: Fetch, ends: Sequence[Finish], now: datetime | None) -> list[Lease]:
        """The leases of those that were written."""
        leases = [end.lease for end in ends]
        ((ids, claim_numbers, *_),) = await fetch(
            "finish",
            self._sql["finish"],
            {
                **_fences(leases),
                "verbs": list(map(_verb, ends)),
                "results": [end.result for end in ends],
                "error_codes": [end.error_code for end in ends],
                "retry_ins": [float(end.retry_in) for end in ends],
                "worker": self._worker_id,
                "capped": list(self._caps.capped),
                "now": now,
            },
        )
        return leases if ids is None else list(map(Lease, ids, claim_numbers))

    def _order(self, row: Row) -> tuple[Any, ...]:
        task_id, _, queue, priority, due_at, *_ = row
        return self._ranks[queue], priority, due_at, task_id


_START = {
    TaskStatus.RUNNING: StartOutcome.STARTED,
    TaskStatus.EXPIRED: StartOutcome.EXPIRED,
    None: StartOutcome.LOST,
}


def _claimed_task(row: Row) -> ClaimedTask:
    task_id, status, queue, priority, _, claim_number, envelope, sha, name, attempt, retries, good_until, overdue, _ = (
        row
    )
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
        overdue=overdue,
        is_running=is_running,
    )


def _verb(end: Finish) -> str:
    """What `finish` is asked for, in its own words."""
    if end.status is TaskStatus.COMPLETED:
        return "COMPLETE"
    if end.status is TaskStatus.PENDING:
        return "INTERRUPT" if end.interrupted else "RETRY"
    return "FAIL" if end.has_begun else "REFUSE"


def _fences(leases: Sequence[Lease]) -> dict[str, object]:
    return {
        "ids": [lease.task_id for lease in leases],
        "claim_numbers": [lease.claim_number for lease in leases],
    }


def _leases_of(rows: Sequence[Row]) -> set[Lease]:
    return {Lease(row[0], row[1]) for row in rows}


def _used(leases: Sequence[Lease], used: set[Lease]) -> list[bool]:
    """Which of `leases` are in `used`; one that was named twice was used once, by its first mention."""
    answer = []
    for lease in leases:
        answer.append(lease in used)
        used.discard(lease)
    return answer
