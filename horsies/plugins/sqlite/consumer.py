"""One worker's claims, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from horsies.abc import Claim, ClaimedTask, Finish, GiveBack, Lease, Promotion, StartOutcome, TaskStatus

from .session import Row, Session, Transaction, instant

_SWEEP = 1000
_SECOND = 1_000_000


class SqliteConsumer:
    """Takes work and hands it back over the shared session."""

    def __init__(
        self, worker_id: str, queues: Sequence[tuple[str, int]], *, session: Session, dead_after: float
    ) -> None:
        self._worker_id = worker_id
        self._ranks = dict(queues)
        self._session = session
        self._dead_after = round(dead_after * _SECOND)

    async def beat(self, *, now: datetime | None = None) -> None:
        """See `horsies.abc.Consumer.beat`."""
        await self._session.write("beat", lambda t: t.change("beat", worker=self._worker_id, now=t.now), now)

    async def leave(self) -> int:
        """See `horsies.abc.Consumer.leave`."""

        def leave(t: Transaction) -> int:
            returned = t.run("give_back_all", worker=self._worker_id)
            t.queues.update(queue for (queue,) in returned)
            t.change("forget_worker", worker=self._worker_id)
            return len(returned)

        return await self._session.write("leave", leave)

    async def promote(self, limit: int, *, now: datetime | None = None) -> Promotion:
        """See `horsies.abc.Consumer.promote`."""

        def promote(t: Transaction) -> Promotion:
            promoted = t.run("promote", limit=limit, now=t.now)
            t.queues.update(queue for (queue,) in promoted)
            ((next_due,),) = t.run("next_due")
            return Promotion(len(promoted), None if next_due is None else max(0, next_due - t.now) / _SECOND)

        return await self._session.write("promote", promote, now)

    async def claim(self, limit: int, *, now: datetime | None = None) -> Claim:
        """See `horsies.abc.Consumer.claim`."""
        return await self._session.write("claim", lambda t: self._claim(t, limit), now)

    def _claim(self, t: Transaction, limit: int) -> Claim:
        if not t.run("alive", worker=self._worker_id, since=t.now - self._dead_after):
            return Claim((), 0)
        expired = t.run("expire_ready", now=t.now, limit=_SWEEP)
        t.finished.update(task_id for (task_id,) in expired)
        heads = [
            (self._ranks[queue], *row)
            for queue in self._ranks
            for row in t.run("ready", queue=queue, now=t.now, limit=limit)
        ]
        best = sorted(heads)[:limit]
        rows = [row for head in best for row in t.run("take", id=head[-1], worker=self._worker_id, now=t.now)]
        return Claim(tuple(map(_claimed_task, rows)), len(expired))

    async def start(self, leases: Sequence[Lease], *, now: datetime | None = None) -> list[StartOutcome]:
        """See `horsies.abc.Consumer.start`."""
        return await self._session.write("start", lambda t: [self._start(t, lease) for lease in leases], now)

    def _start(self, t: Transaction, lease: Lease) -> StartOutcome:
        rows = t.run("start", **self._fence(lease), now=t.now)
        if not rows:
            return StartOutcome.LOST
        if rows[0][0] == TaskStatus.RUNNING:
            return StartOutcome.STARTED
        t.finished.add(lease.task_id)
        return StartOutcome.EXPIRED

    async def finish(self, ends: Sequence[Finish], *, now: datetime | None = None) -> list[bool]:
        """See `horsies.abc.Consumer.finish`."""
        return await self._session.write("finish", lambda t: [self._finish(t, end) for end in ends], now)

    def _finish(self, t: Transaction, end: Finish) -> bool:
        fence = self._fence(end.lease)
        rows = t.run("held", **fence, status=end.status)
        if not rows:
            return False
        queue, attempt, started_at, good_until = rows[0]
        again_at = t.now + (0 if end.interrupted else max(0, round(end.retry_in * _SECOND)))
        if end.status is TaskStatus.PENDING and (good_until is None or good_until > again_at):
            t.change("again", **fence, again_at=again_at, interrupted=end.interrupted, now=t.now)
            t.change(
                "record_attempt",
                id=end.lease.task_id,
                worker=self._worker_id,
                attempt=attempt,
                started_at=started_at,
                now=t.now,
                error_code=end.error_code,
                result=end.result,
            )
            t.queues.add(f"+{queue}" if again_at > t.now else queue)
            return True
        status = TaskStatus.FAILED if end.status is TaskStatus.PENDING else end.status
        t.change("end", **fence, status=status, error_code=end.error_code, result=end.result, now=t.now)
        t.finished.add(end.lease.task_id)
        return True

    async def give_back(self, tasks: Sequence[GiveBack], *, now: datetime | None = None) -> list[bool]:
        """See `horsies.abc.Consumer.give_back`."""
        return await self._session.write("give back", lambda t: [self._give_back(t, task) for task in tasks], now)

    def _give_back(self, t: Transaction, task: GiveBack) -> bool:
        rows = t.run("give_back", **self._fence(task.lease), delay=max(0, round(task.delay * _SECOND)), now=t.now)
        t.queues.update(f"+{queue}" if phase == 0 else queue for queue, phase in rows)
        return bool(rows)

    async def expire(self, limit: int, *, now: datetime | None = None) -> int:
        """See `horsies.abc.Consumer.expire`."""

        def expire(t: Transaction) -> int:
            expired = t.run("expire", limit=limit, now=t.now)
            t.finished.update(task_id for (task_id,) in expired)
            return len(expired)

        return await self._session.write("expire", expire, now)

    async def has_due(self, *, now: datetime | None = None) -> bool:
        """See `horsies.abc.Consumer.has_due`."""
        return await self._session.write(
            "has_due", lambda t: any(t.run("has_due", queue=queue, now=t.now)[0][0] for queue in self._ranks), now
        )

    def _fence(self, lease: Lease) -> dict[str, object]:
        return {"id": lease.task_id, "claim_number": lease.claim_number, "worker": self._worker_id}


def _claimed_task(row: Row) -> ClaimedTask:
    task_id, claim_number, envelope, sha, name, queue, priority, attempt, retries, good_until, overdue = row
    return ClaimedTask(
        lease=Lease(task_id, claim_number),
        envelope=envelope,
        sha=sha,
        task_name=name,
        queue=queue,
        priority=priority,
        attempt=attempt,
        retries=retries,
        good_until=instant(good_until),
        overdue=overdue / _SECOND,
    )
