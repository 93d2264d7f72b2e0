"""One worker's claims, and what becomes of them.

Statements on held rows come in pairs: `held` finds the row by id, worker and claim number, then one that writes it.
Nobody can come in between, because the transaction has the database's only write lock.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import groupby

from horsies.abc import (
    Claim,
    ClaimedTask,
    Decide,
    Finish,
    GiveBack,
    Heartbeat,
    Lease,
    Notice,
    Promotion,
    Start,
    StartOutcome,
    TaskStatus,
    Topic,
)

from .advancing import advance, deciding
from .queries import named_queries
from .rows import Past, end_task, expire_one, try_again
from .session import Row, Session, Transaction, after, instant

_SWEEP = 5_000


class SqliteConsumer:
    """See `horsies.abc.Consumer`."""

    def __init__(
        self,
        session: Session,
        worker_id: str,
        queues: Sequence[tuple[str, int]],
        *,
        dead_after: float,
        caps: Mapping[str, int],
        cluster_cap: int | None,
    ) -> None:
        self._session = session
        self._worker_id = worker_id
        ranks = sorted(dict(queues).items(), key=lambda item: item[1])
        self._tiers = [[name for name, _ in tier] for _, tier in groupby(ranks, key=lambda item: item[1])]
        self._dead_after = dead_after
        self._caps = caps
        self._cluster_cap = cluster_cap
        self._sql = named_queries()
        self._without = "[]"

    async def join(self, *, now: datetime | None = None) -> None:
        """See `horsies.abc.Consumer.join`."""

        def work(transaction: Transaction) -> None:
            transaction.fetch(self._sql["join"], {"worker": self._worker_id, "now": transaction.now})

        await self._session.write("join", work, now=now)

    async def beat(self, *, watching: bool, now: datetime | None = None) -> Heartbeat:
        """See `horsies.abc.Consumer.beat`."""

        def work(transaction: Transaction) -> Heartbeat:
            given = {"worker": self._worker_id, "now": transaction.now}
            if not transaction.fetch(self._sql["beat"], given):
                return Heartbeat(alive=False, leads=False, to_cancel=())
            until = after(transaction.now, self._dead_after / 2)
            leads = bool(transaction.fetch(self._sql["lead"], {**given, "watching": watching, "until": until}))
            rows = transaction.fetch(self._sql["to_cancel"], {"worker": self._worker_id})
            return Heartbeat(
                alive=True,
                leads=leads,
                to_cancel=tuple(Lease(task_id, claim_number) for task_id, claim_number in rows),
            )

        return await self._session.write("beat", work, now=now)

    async def leave(self) -> int:
        """See `horsies.abc.Consumer.leave`."""

        def work(transaction: Transaction) -> int:
            returned = transaction.fetch(self._sql["leave"], {"worker": self._worker_id})
            for (queue,) in returned:
                transaction.notify(Topic.WORK, f"{Notice.READY}{queue}")
            transaction.fetch(self._sql["forget"], {"worker": self._worker_id})
            transaction.fetch(self._sql["resign"], {"worker": self._worker_id})
            return len(returned)

        return await self._session.write("leave", work)

    async def promote(self, limit: int, *, now: datetime | None = None) -> Promotion:
        """See `horsies.abc.Consumer.promote`."""

        def work(transaction: Transaction) -> Promotion:
            promoted = transaction.fetch(self._sql["promote"], {"limit": limit, "now": transaction.now})
            for (queue,) in promoted:
                transaction.notify(Topic.WORK, f"{Notice.READY}{queue}")
            ((next_due_at,),) = transaction.fetch(self._sql["next_due_at"], {})
            next_due_in = None if next_due_at is None else max(next_due_at - transaction.now, 0) / 1e6
            return Promotion(len(promoted), next_due_in)

        return await self._session.write("promote", work, now=now)

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
        what stands behind a million of them is reached at once, and each claim finds fewer.
        """
        self._without = json.dumps(list(without))
        return await self._session.write(
            "claim", lambda transaction: self._claim(transaction, limit, frozenset(startable)), now=now
        )

    async def start(self, starts: Sequence[Start], *, now: datetime | None = None) -> list[StartOutcome]:
        """See `horsies.abc.Consumer.start`."""
        return await self._session.write(
            "start", lambda transaction: [self._start(transaction, start) for start in starts], now=now
        )

    async def finish(
        self, ends: Sequence[Finish], *, decide: Decide | None = None, now: datetime | None = None
    ) -> list[bool]:
        """See `horsies.abc.Consumer.finish`."""

        def work(transaction: Transaction) -> list[bool]:
            written = [self._finish(transaction, end) for end in ends]
            if decide is not None:
                ids = {end.workflow_id for end in ends if end.workflow_id is not None}
                advance(self._sql, transaction, ids, decide)
            return written

        with deciding():
            return await self._session.write("finish", work, now=now)

    async def give_back(self, tasks: Sequence[GiveBack], *, now: datetime | None = None) -> list[bool]:
        """See `horsies.abc.Consumer.give_back`."""
        return await self._session.write(
            "give back", lambda transaction: [self._give_back(transaction, task) for task in tasks], now=now
        )

    async def give_back_unknown(self, known: Sequence[Lease], *, now: datetime | None = None) -> int:
        """See `horsies.abc.Consumer.give_back_unknown`."""
        given = {"worker": self._worker_id, "ids": json.dumps([lease.task_id for lease in known])}

        def work(transaction: Transaction) -> int:
            returned = transaction.fetch(self._sql["give_back_unknown"], given | {"now": transaction.now})
            for task_id, queue, phase in returned:
                if phase == 1:
                    transaction.notify(Topic.WORK, f"{Notice.READY}{queue}")
                else:
                    transaction.notify(Topic.FINISHED, task_id)
            return len(returned)

        return await self._session.write("give back", work, now=now)

    async def has_due(self, *, now: datetime | None = None) -> bool:
        """See `horsies.abc.Consumer.has_due`."""

        def work(transaction: Transaction) -> bool:
            return any(
                transaction.fetch(self._sql["has_due"], {"queue": queue, "now": transaction.now})
                for tier in self._served(transaction)
                for queue in tier
            )

        return await self._session.read("has_due", work, now=now)

    def _claim(self, transaction: Transaction, limit: int, startable: frozenset[str]) -> Claim:
        now = transaction.now
        alive_since = after(now, -self._dead_after)
        if not transaction.fetch(self._sql["alive"], {"worker": self._worker_id, "since": alive_since}):
            return Claim((), 0)
        heads = self._heads(transaction, limit, step_over=False)
        late = [task_id for *_, task_id, good_until in heads if good_until is not None and good_until <= now]
        passed_over = set(late)
        tasks = [self._take(transaction, task_id, startable) for *_, task_id, _ in heads if task_id not in passed_over]
        for task_id in late:
            expire_one(self._sql, transaction, task_id)
        expired = len(late)
        if late:
            swept = transaction.fetch(self._sql["sweep"], {"limit": _SWEEP, "now": transaction.now})
            for (task_id,) in swept:
                transaction.notify(Topic.FINISHED, task_id)
            expired += len(swept)
            heads = self._heads(transaction, limit - len(tasks), step_over=True)
            tasks += [self._take(transaction, task_id, startable) for *_, task_id, _ in heads]
        return Claim(tuple(tasks), expired)

    def _heads(self, transaction: Transaction, limit: int, *, step_over: bool) -> list[Row]:
        """The `limit` ready tasks that come first: priority, due time, id and deadline of each."""
        heads: list[Row] = []
        if self._cluster_cap is not None:
            ((held,),) = transaction.fetch(self._sql["held_in_all"], {})
            limit = min(limit, self._cluster_cap - held)
        for tier in self._served(transaction):
            room = limit - len(heads)
            if room <= 0:
                break
            rows: list[Row] = []
            for queue in tier:
                most = self._room(transaction, queue, room)
                given = {"queue": queue, "now": transaction.now, "limit": most, "step_over": step_over}
                given |= {"without": self._without}
                rows += transaction.fetch(self._sql["heads"], given)
            rows.sort(key=lambda row: row[:3])
            heads += rows[:room]
        return heads

    def _served(self, transaction: Transaction) -> list[list[str]]:
        """The worker's queues but those that are paused, those of the same priority together."""
        paused = {name for (name,) in transaction.fetch(self._sql["paused"], {})}
        return [[queue for queue in tier if queue not in paused] for tier in self._tiers] if paused else self._tiers

    def _room(self, transaction: Transaction, queue: str, most: int) -> int:
        """How many of a queue's tasks its cap lets be claimed, `most` at most."""
        if queue not in self._caps:
            return most
        held: int
        ((held,),) = transaction.fetch(self._sql["held_of_queue"], {"queue": queue})
        return max(min(most, self._caps[queue] - held), 0)

    def _take(self, transaction: Transaction, task_id: str, startable: frozenset[str]) -> ClaimedTask:
        (row,) = transaction.fetch(
            self._sql["claim"], {"id": task_id, "worker": self._worker_id, "now": transaction.now}
        )
        claim_number, envelope, sha, name, queue, priority, attempt, retries, good_until, first_due_at = row
        if name in startable:
            self._begin(transaction, task_id, None)
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
            is_running=name in startable,
        )

    def _start(self, transaction: Transaction, start: Start) -> StartOutcome:
        task_id = start.lease.task_id
        held = self._held(transaction, start.lease)
        if held is None or held[0] != TaskStatus.CLAIMED:
            return StartOutcome.LOST
        _, _, good_until, *_ = held
        if good_until is not None and good_until <= transaction.now:
            expire_one(self._sql, transaction, task_id)
            return StartOutcome.EXPIRED
        self._begin(transaction, task_id, start.retry_after_crash)
        return StartOutcome.STARTED

    def _begin(self, transaction: Transaction, task_id: str, retry_after_crash: float | None) -> None:
        given = {"id": task_id, "now": transaction.now, "retry_after_crash": retry_after_crash}
        transaction.fetch(self._sql["start"], given)

    def _finish(self, transaction: Transaction, end: Finish) -> bool:
        task_id, now = end.lease.task_id, transaction.now
        held = self._held(transaction, end.lease)
        if held is None:
            return False
        status, queue, good_until, attempt, started_at, cancel_requested_at = held
        if status != TaskStatus.RUNNING and end.status is not TaskStatus.FAILED:
            return False
        if status == TaskStatus.RUNNING and end.status is TaskStatus.FAILED and not end.has_begun:
            transaction.fetch(self._sql["unbegun"], {"id": task_id})
        again_at = after(now, 0.0 if end.interrupted else max(end.retry_in, 0.0))
        if end.status is TaskStatus.COMPLETED:
            end_task(self._sql, transaction, task_id, TaskStatus.COMPLETED, end.error_code, end.result)
        elif cancel_requested_at is not None:
            end_task(self._sql, transaction, task_id, TaskStatus.CANCELLED, end.error_code, end.result)
        elif end.status is TaskStatus.PENDING and (good_until is None or good_until > again_at):
            past = Past(attempt, self._worker_id, started_at, end.error_code, end.result)
            retries = 0 if end.interrupted else 1
            try_again(self._sql, transaction, task_id, queue, again_at, past, retries=retries)
        else:
            end_task(self._sql, transaction, task_id, TaskStatus.FAILED, end.error_code, end.result)
        if queue in self._caps or self._cluster_cap is not None:
            transaction.notify(Topic.WORK, f"{Notice.READY}{queue}")
        return True

    def _give_back(self, transaction: Transaction, task: GiveBack) -> bool:
        held = self._held(transaction, task.lease)
        if held is None or held[0] != TaskStatus.CLAIMED:
            return False
        _, queue, *_ = held
        if task.delay > 0:
            due_at = after(transaction.now, task.delay)
            transaction.fetch(self._sql["defer"], {"id": task.lease.task_id, "due_at": due_at})
            transaction.notify(Topic.WORK, f"{Notice.DELAYED}{queue}")
        else:
            transaction.fetch(self._sql["give_back"], {"id": task.lease.task_id})
            transaction.notify(Topic.WORK, f"{Notice.READY}{queue}")
        return True

    def _held(self, transaction: Transaction, lease: Lease) -> Row | None:
        """What the fence finds of a task that this worker holds by this claim."""
        rows = transaction.fetch(
            self._sql["held"], {"id": lease.task_id, "claim_number": lease.claim_number, "worker": self._worker_id}
        )
        return rows[0] if rows else None
