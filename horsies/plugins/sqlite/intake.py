"""How one worker comes by tasks, and lets go of those that it does not run.

Statements on held rows come in pairs: `held_row` finds the row by id, worker and claim number, then one writes it.
Nobody can come in between, because the transaction has the database's only write lock.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import groupby
from typing import TypeVar

from horsies import RecoveryConfig
from horsies.abc import (
    Claim,
    ClaimedTask,
    GiveBack,
    Lease,
    Notice,
    Promotion,
    Start,
    StartOutcome,
    TaskStatus,
    Topic,
)

from .damaged_rows import Bad, DamagedRows
from .queries import named_queries
from .rows import expire_one, held_row, take_orphan
from .session import Row, Session, Transaction, after, instant, microseconds

T = TypeVar("T")

_SWEEP = 5_000


class SqliteIntake:
    """See `horsies.abc.Intake`."""

    def __init__(
        self,
        session: Session,
        worker_id: str,
        queues: Sequence[tuple[str, int]],
        *,
        recovery: RecoveryConfig,
        caps: Mapping[str, int],
        cluster_cap: int | None,
    ) -> None:
        self._session = session
        self._worker_id = worker_id
        ranks = sorted(dict(queues).items(), key=lambda item: item[1])
        self._tiers = [[name for name, _ in tier] for _, tier in groupby(ranks, key=lambda item: item[1])]
        self._dead_after = recovery.dead_after
        self._caps = caps
        self._cluster_cap = cluster_cap
        self._sql = named_queries()
        self._damaged = DamagedRows(worker_id, self._sql)

    async def promote(self, limit: int, *, now: datetime | None = None) -> Promotion:
        """See `horsies.abc.Consumer.promote`."""

        def work(transaction: Transaction) -> tuple[Promotion, list[Bad]]:
            bad: list[Bad] = []
            given = {"limit": limit, "skipped": self._damaged.skipped, "now": transaction.now}
            due = [task_id for (task_id,) in transaction.fetch(self._sql["tasks.delayed"], given)]
            promoted = self._damaged.each(transaction, due, lambda task_id: self._promote(transaction, task_id), bad)
            ((next_due_at,),) = transaction.fetch(self._sql["tasks.next_due_at"], {"now": transaction.now})
            next_due_in = None if next_due_at is None else max(next_due_at - transaction.now, 0) / 1e6
            return Promotion(len(promoted), 0.0 if len(due) == limit else next_due_in), bad

        return self._told(await self._session.write("promote", work, now=now))

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
        self._damaged.expire()
        names, others = frozenset(startable), json.dumps(list(without))

        def work(transaction: Transaction) -> tuple[Claim, list[Bad]]:
            return self._claim(transaction, limit, names, others)

        return self._told(await self._session.write("claim", work, now=now))

    async def start(self, starts: Sequence[Start], *, now: datetime | None = None) -> list[StartOutcome]:
        """See `horsies.abc.Consumer.start`."""

        def work(transaction: Transaction) -> tuple[list[StartOutcome], list[Bad]]:
            bad: list[Bad] = []
            outcomes = []
            for start in starts:
                act = partial(self._start, transaction, start)
                found = self._damaged.each(transaction, [start.lease.task_id], act, bad)
                outcomes.append(found[0][1] if found else StartOutcome.LOST)
            return outcomes, bad

        return self._told(await self._session.write("start", work, now=now))

    async def give_back(self, tasks: Sequence[GiveBack], *, now: datetime | None = None) -> list[bool]:
        """See `horsies.abc.Consumer.give_back`."""
        return await self._session.write(
            "give back", lambda transaction: [self._give_back(transaction, task) for task in tasks], now=now
        )

    async def give_back_unknown(
        self, known: Sequence[Lease], *, heard_until: datetime | None = None, now: datetime | None = None
    ) -> int:
        """See `horsies.abc.Consumer.give_back_unknown`."""
        given = {
            "worker": self._worker_id,
            "ids": json.dumps([lease.task_id for lease in known]),
            "heard_until": None if heard_until is None else microseconds(heard_until),
        }

        def work(transaction: Transaction) -> int:
            returned = transaction.fetch(self._sql["tasks.give_back_unknown"], given | {"now": transaction.now})
            for task_id, queue, phase in returned:
                if phase == 1:
                    transaction.notify(Topic.WORK, f"{Notice.READY}{queue}")
                else:
                    transaction.notify(Topic.FINISHED, task_id)
            begun = transaction.fetch(self._sql["tasks.begun"], given)
            for row in begun:
                take_orphan(self._sql, transaction, row)
            return len(returned) + len(begun)

        return await self._session.write("give back", work, now=now)

    async def has_due(self, *, now: datetime | None = None) -> bool:
        """See `horsies.abc.Consumer.has_due`."""

        def work(transaction: Transaction) -> bool:
            return any(
                transaction.fetch(
                    self._sql["tasks.has_due"],
                    {"queue": queue, "skipped": self._damaged.skipped, "now": transaction.now},
                )
                for tier in self._served(transaction)
                for queue in tier
            )

        return await self._session.read("has_due", work, now=now)

    def _told(self, answer: tuple[T, list[Bad]]) -> T:
        """The answer of a transaction that has committed, once its bad rows are logged."""
        self._damaged.tell(answer[1])
        return answer[0]

    def _promote(self, transaction: Transaction, task_id: str) -> None:
        ((queue,),) = transaction.fetch(self._sql["tasks.promote"], {"id": task_id})
        transaction.notify(Topic.WORK, f"{Notice.READY}{queue}")

    def _claim(
        self, transaction: Transaction, limit: int, startable: frozenset[str], without: str
    ) -> tuple[Claim, list[Bad]]:
        now = transaction.now
        alive_since = after(now, -self._dead_after)
        if not transaction.fetch(self._sql["workers.alive"], {"worker": self._worker_id, "since": alive_since}):
            return Claim((), 0), []
        bad: list[Bad] = []

        def take(task_ids: Iterable[str]) -> list[ClaimedTask]:
            taken = self._damaged.each(transaction, task_ids, lambda one: self._take(transaction, one, startable), bad)
            return [task for _, task in taken]

        def expire(task_ids: Iterable[str]) -> int:
            expired = self._damaged.each(
                transaction, task_ids, lambda task_id: expire_one(self._sql, transaction, task_id), bad
            )
            return len(expired)

        heads = self._heads(transaction, limit, without, step_over=False)
        late = [task_id for *_, task_id, good_until in heads if good_until is not None and good_until <= now]
        passed_over = set(late)
        tasks = take(task_id for *_, task_id, _ in heads if task_id not in passed_over)
        expired = expire(late)
        if late:
            given = {"limit": _SWEEP, "skipped": self._damaged.skipped, "now": now}
            expired += expire([task_id for (task_id,) in transaction.fetch(self._sql["tasks.to_sweep"], given)])
            heads = self._heads(transaction, limit - len(tasks), without, step_over=True)
            tasks += take(task_id for *_, task_id, _ in heads)
        return Claim(tuple(tasks), expired, instant(now) if tasks else None), bad

    def _heads(self, transaction: Transaction, limit: int, without: str, *, step_over: bool) -> list[Row]:
        """The `limit` ready tasks that come first, but those named in `without`.

        Returns:
            Priority, due time, id and deadline of each.
        """
        heads: list[Row] = []
        if self._cluster_cap is not None:
            ((held,),) = transaction.fetch(self._sql["tasks.held_in_all"], {})
            limit = min(limit, self._cluster_cap - held)
        for tier in self._served(transaction):
            room = limit - len(heads)
            if room <= 0:
                break
            rows: list[Row] = []
            for queue in tier:
                most = self._room(transaction, queue, room)
                given = {"queue": queue, "now": transaction.now, "limit": most, "step_over": step_over}
                given |= {"skipped": self._damaged.skipped, "without": without}
                rows += transaction.fetch(self._sql["tasks.heads"], given)
            rows.sort(key=lambda row: row[:3])
            heads += rows[:room]
        return heads

    def _served(self, transaction: Transaction) -> list[list[str]]:
        """The worker's queues but those that are paused, those of the same priority together."""
        paused = {name for (name,) in transaction.fetch(self._sql["queues.paused"], {})}
        return [[queue for queue in tier if queue not in paused] for tier in self._tiers] if paused else self._tiers

    def _room(self, transaction: Transaction, queue: str, most: int) -> int:
        """How many of a queue's tasks its cap lets be claimed, `most` at most."""
        if queue not in self._caps:
            return most
        held: int
        ((held,),) = transaction.fetch(self._sql["tasks.held_of_queue"], {"queue": queue})
        return max(min(most, self._caps[queue] - held), 0)

    def _take(self, transaction: Transaction, task_id: str, startable: frozenset[str]) -> ClaimedTask:
        (row,) = transaction.fetch(
            self._sql["tasks.claim"],
            {"id": task_id, "worker": self._worker_id, "step": self._session.random_step(), "now": transaction.now},
        )
        claim_number, envelope, sha, name, queue, priority, attempt, retries, good_until, unknown_since = row
        task = ClaimedTask(
            lease=Lease(task_id, claim_number),
            envelope=envelope,
            sha=sha,
            task_name=name,
            queue=queue,
            priority=priority,
            attempt=attempt,
            retries=retries,
            good_until=None if good_until is None else instant(good_until),
            unknown_for=0.0 if unknown_since is None else (transaction.now - unknown_since) / 1e6,
            is_running=name in startable,
        )
        if task.is_running:  # last: whatever is refused is refused while it is CLAIMED
            self._begin(transaction, task_id, None)
        return task

    def _start(self, transaction: Transaction, start: Start, task_id: str) -> StartOutcome:
        held = held_row(self._sql, transaction, self._worker_id, start.lease)
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
        transaction.fetch(self._sql["tasks.start"], given)

    def _give_back(self, transaction: Transaction, task: GiveBack) -> bool:
        held = held_row(self._sql, transaction, self._worker_id, task.lease)
        if held is None or held[0] != (TaskStatus.RUNNING if task.is_running else TaskStatus.CLAIMED):
            return False
        _, queue, _, _, _, cancel_requested_at = held
        task_id = task.lease.task_id
        if task.is_running:
            transaction.fetch(self._sql["tasks.unbegun"], {"id": task_id})
        if task.is_running and cancel_requested_at is not None:
            transaction.fetch(self._sql["tasks.cancel"], {"id": task_id, "now": transaction.now})
            transaction.notify(Topic.FINISHED, task_id)
            return True
        if task.unknown:
            transaction.fetch(self._sql["tasks.not_known"], {"id": task_id, "now": transaction.now})
        if task.delay > 0:
            due_at = after(transaction.now, task.delay)
            transaction.fetch(self._sql["tasks.defer"], {"id": task_id, "due_at": due_at})
            transaction.notify(Topic.WORK, f"{Notice.DELAYED}{queue}")
        else:
            transaction.fetch(self._sql["tasks.give_back"], {"id": task_id})
            transaction.notify(Topic.WORK, f"{Notice.READY}{queue}")
        return True
