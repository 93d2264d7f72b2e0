"""One worker's claims, and what becomes of them.

Statements on held rows come in pairs: `held` finds the row by id, worker and claim number, then one that writes it.
Nobody can come in between, because the transaction has the database's only write lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby

from horsies.abc import Claim, ClaimedTask, Finish, GiveBack, Lease, Promotion, StartOutcome, TaskStatus, Topic

from .queries import named_queries
from .session import Row, Session, Transaction, after, instant

_SWEEP = 1000
_ROUNDS = 4


class SqliteConsumer:
    """See `horsies.abc.Consumer`."""

    def __init__(
        self, session: Session, worker_id: str, queues: Sequence[tuple[str, int]], *, dead_after: float
    ) -> None:
        self._session = session
        self._worker_id = worker_id
        ranks = sorted(dict(queues).items(), key=lambda item: item[1])
        self._tiers = [[name for name, _ in tier] for _, tier in groupby(ranks, key=lambda item: item[1])]
        self._dead_after = dead_after
        self._sql = named_queries()

    async def beat(self, *, now: datetime | None = None) -> None:
        """See `horsies.abc.Consumer.beat`."""

        def work(transaction: Transaction) -> None:
            transaction.fetch(self._sql["beat"], {"worker": self._worker_id, "now": transaction.now})

        await self._session.write("beat", work, now=now)

    async def leave(self) -> int:
        """See `horsies.abc.Consumer.leave`."""

        def work(transaction: Transaction) -> int:
            returned = transaction.fetch(self._sql["leave"], {"worker": self._worker_id})
            for (queue,) in returned:
                transaction.notify(Topic.QUEUES, queue)
            transaction.fetch(self._sql["forget"], {"worker": self._worker_id})
            return len(returned)

        return await self._session.write("leave", work)

    async def promote(self, limit: int, *, now: datetime | None = None) -> Promotion:
        """See `horsies.abc.Consumer.promote`."""

        def work(transaction: Transaction) -> Promotion:
            promoted = transaction.fetch(self._sql["promote"], {"limit": limit, "now": transaction.now})
            for (queue,) in promoted:
                transaction.notify(Topic.QUEUES, queue)
            ((next_due_at,),) = transaction.fetch(self._sql["next_due_at"], {})
            next_due_in = None if next_due_at is None else max(next_due_at - transaction.now, 0) / 1e6
            return Promotion(len(promoted), next_due_in)

        return await self._session.write("promote", work, now=now)

    async def claim(self, limit: int, *, now: datetime | None = None) -> Claim:
        """See `horsies.abc.Consumer.claim`.

        A claim that met tasks past their deadline sweeps such tasks aside and looks again, a few times: so it reaches
        what stands behind them, and its cost stays bounded however many there are.
        """
        return await self._session.write("claim", lambda transaction: self._claim(transaction, limit), now=now)

    async def start(self, leases: Sequence[Lease], *, now: datetime | None = None) -> list[StartOutcome]:
        """See `horsies.abc.Consumer.start`."""
        return await self._session.write(
            "start", lambda transaction: [self._start(transaction, lease) for lease in leases], now=now
        )

    async def finish(self, ends: Sequence[Finish], *, now: datetime | None = None) -> list[bool]:
        """See `horsies.abc.Consumer.finish`."""
        return await self._session.write(
            "finish", lambda transaction: [self._finish(transaction, end) for end in ends], now=now
        )

    async def give_back(self, tasks: Sequence[GiveBack], *, now: datetime | None = None) -> list[bool]:
        """See `horsies.abc.Consumer.give_back`."""
        return await self._session.write(
            "give back", lambda transaction: [self._give_back(transaction, task) for task in tasks], now=now
        )

    async def expire(self, limit: int, *, now: datetime | None = None) -> int:
        """See `horsies.abc.Consumer.expire`."""
        return await self._session.write("expire", lambda transaction: self._expire(transaction, limit), now=now)

    async def has_due(self, *, now: datetime | None = None) -> bool:
        """See `horsies.abc.Consumer.has_due`."""

        def work(transaction: Transaction) -> bool:
            return any(
                transaction.fetch(self._sql["has_due"], {"queue": queue, "now": transaction.now})
                for tier in self._tiers
                for queue in tier
            )

        return await self._session.read("has_due", work, now=now)

    def _claim(self, transaction: Transaction, limit: int) -> Claim:
        now = transaction.now
        alive_since = after(now, -self._dead_after)
        if not transaction.fetch(self._sql["alive"], {"worker": self._worker_id, "since": alive_since}):
            return Claim((), 0)
        tasks: list[ClaimedTask] = []
        expired = 0
        for _ in range(_ROUNDS):
            heads = self._heads(transaction, limit - len(tasks))
            late = [task_id for *_, task_id, good_until in heads if good_until is not None and good_until <= now]
            passed_over = set(late)
            tasks += [self._take(transaction, task_id) for *_, task_id, _ in heads if task_id not in passed_over]
            if not late:
                break
            for task_id in late:
                self._expire_one(transaction, task_id)
            expired += len(late) + self._expire(transaction, _SWEEP)
        return Claim(tuple(tasks), expired)

    def _heads(self, transaction: Transaction, limit: int) -> list[Row]:
        """The `limit` ready tasks that come first: priority, due time, id and deadline of each."""
        heads: list[Row] = []
        for tier in self._tiers:
            room = limit - len(heads)
            if room <= 0:
                break
            rows: list[Row] = []
            for queue in tier:
                rows += transaction.fetch(self._sql["heads"], {"queue": queue, "now": transaction.now, "limit": room})
            rows.sort(key=lambda row: row[:3])
            heads += rows[:room]
        return heads

    def _take(self, transaction: Transaction, task_id: str) -> ClaimedTask:
        (row,) = transaction.fetch(
            self._sql["claim"], {"id": task_id, "worker": self._worker_id, "now": transaction.now}
        )
        claim_number, envelope, sha, name, queue, priority, attempt, retries, good_until, first_due_at = row
        return ClaimedTask(
            lease=Lease(task_id, claim_number),
            envelope=envelope,
            sha=sha,
            task_name=name,
            queue=queue,
            priority=priority,
            attempt=attempt,
            retries=retries,
            good_until=None if good_until is None else instant(good_until),
            overdue=(transaction.now - first_due_at) / 1e6,
        )

    def _start(self, transaction: Transaction, lease: Lease) -> StartOutcome:
        held = self._held(transaction, lease)
        if held is None or held[0] != TaskStatus.CLAIMED:
            return StartOutcome.LOST
        _, _, good_until, *_ = held
        if good_until is not None and good_until <= transaction.now:
            self._expire_one(transaction, lease.task_id)
            return StartOutcome.EXPIRED
        transaction.fetch(self._sql["start"], {"id": lease.task_id, "now": transaction.now})
        return StartOutcome.STARTED

    def _finish(self, transaction: Transaction, end: Finish) -> bool:
        held = self._held(transaction, end.lease)
        if held is None:
            return False
        status, queue, good_until, attempt, started_at = held
        if status != TaskStatus.RUNNING and end.status is not TaskStatus.FAILED:
            return False
        ending: dict[str, object] = {
            "id": end.lease.task_id,
            "now": transaction.now,
            "error_code": end.error_code,
            "result": end.result,
        }
        again_at = after(transaction.now, 0.0 if end.interrupted else max(end.retry_in, 0.0))
        if end.status is TaskStatus.PENDING and (good_until is None or good_until > again_at):
            delayed = again_at > transaction.now
            past: dict[str, object] = {"attempt": attempt, "worker": self._worker_id, "started_at": started_at}
            transaction.fetch(self._sql["record"], ending | past)
            transaction.fetch(
                self._sql["again"],
                {
                    "id": end.lease.task_id,
                    "phase": 0 if delayed else 1,
                    "due_at": again_at,
                    "retries": 0 if end.interrupted else 1,
                },
            )
            transaction.notify(Topic.QUEUES, f"+{queue}" if delayed else queue)
        else:
            final = TaskStatus.FAILED if end.status is TaskStatus.PENDING else end.status
            transaction.fetch(self._sql["end"], ending | {"status": final.value})
            transaction.notify(Topic.FINISHED, end.lease.task_id)
        return True

    def _give_back(self, transaction: Transaction, task: GiveBack) -> bool:
        held = self._held(transaction, task.lease)
        if held is None or held[0] != TaskStatus.CLAIMED:
            return False
        _, queue, *_ = held
        if task.delay > 0:
            due_at = after(transaction.now, task.delay)
            transaction.fetch(self._sql["defer"], {"id": task.lease.task_id, "due_at": due_at})
            transaction.notify(Topic.QUEUES, f"+{queue}")
        else:
            transaction.fetch(self._sql["give_back"], {"id": task.lease.task_id})
            transaction.notify(Topic.QUEUES, queue)
        return True

    def _held(self, transaction: Transaction, lease: Lease) -> Row | None:
        """Status, queue, deadline, attempt and start of a task that this worker holds by this claim."""
        rows = transaction.fetch(
            self._sql["held"], {"id": lease.task_id, "claim_number": lease.claim_number, "worker": self._worker_id}
        )
        return rows[0] if rows else None

    def _expire(self, transaction: Transaction, limit: int) -> int:
        expired = transaction.fetch(self._sql["expire"], {"limit": limit, "now": transaction.now})
        for (task_id,) in expired:
            transaction.notify(Topic.FINISHED, task_id)
        return len(expired)

    def _expire_one(self, transaction: Transaction, task_id: str) -> None:
        transaction.fetch(self._sql["expire_one"], {"id": task_id, "now": transaction.now})
        transaction.notify(Topic.FINISHED, task_id)
