"""What a broker plugin implements, by role.

Rules for every method here:

- A call is one bounded batch. Outcomes come back in the order of the request, one for each item.
- Failures are raised as `BrokerError`, nothing else; a failed call wrote nothing or its outcome is unknown, which the
  fences (ids, SHAs, claim numbers) make harmless.
- The database's clock decides. `now` replaces it, for tests and simulations only.
- Methods are cancellable at any await, and leave their connection usable or closed, never in between. A broker that is
  used after its connection broke opens a new one.
- No argument, result or password appears in an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from enum import StrEnum
from typing import Protocol, TypeAlias

from .._core.config import AppConfig
from .records import (
    Claim,
    EnqueueOutcome,
    Finish,
    GiveBack,
    Lease,
    NewTask,
    Promotion,
    StartOutcome,
    StoredResult,
    TaskRow,
)

Clock: TypeAlias = Callable[[], datetime]
"""The current instant, aware UTC."""


class Producer(Protocol):
    """Puts tasks in. One connection of its own, opened at first use."""

    async def enqueue(self, tasks: Sequence[NewTask], *, now: datetime | None = None) -> list[EnqueueOutcome]:
        """Insert `tasks` in one transaction as PENDING, leave alone those whose id is present, notify the queues."""
        ...


class Consumer(Protocol):
    """One worker's view of the tasks. Every write names the worker and the claim number."""

    async def beat(self, *, now: datetime | None = None) -> None:
        """Write the worker's heartbeat; the first call registers the worker."""
        ...

    async def leave(self) -> int:
        """Give back everything still CLAIMED by this worker and remove its heartbeat; how many were given back."""
        ...

    async def promote(self, limit: int, *, now: datetime | None = None) -> Promotion:
        """Make at most `limit` delayed tasks that have fallen due claimable."""
        ...

    async def claim(self, limit: int, *, now: datetime | None = None) -> Claim:
        """Claim at most `limit` due tasks of the worker's queues: PENDING -> CLAIMED.

        In the order queue priority, task priority, due time, id. Claims nothing unless the worker's own heartbeat is
        present and younger than `recovery.dead_after`. Tasks past `good_until` that stand in the way become EXPIRED,
        in bounded number, and their waiters are notified.
        """
        ...

    async def start(self, leases: Sequence[Lease], *, now: datetime | None = None) -> list[StartOutcome]:
        """CLAIMED -> RUNNING, or -> EXPIRED where `good_until` <= now."""
        ...

    async def finish(self, ends: Sequence[Finish], *, now: datetime | None = None) -> list[bool]:
        """Write the end of attempts, RUNNING (or, for FAILED, CLAIMED) -> `Finish.status`; notify waiters.

        False where the claim was no longer this worker's, and nothing was written.
        """
        ...

    async def give_back(self, tasks: Sequence[GiveBack], *, now: datetime | None = None) -> list[bool]:
        """CLAIMED -> PENDING; False where the claim was no longer this worker's. No attempt is counted."""
        ...

    async def expire(self, limit: int, *, now: datetime | None = None) -> int:
        """PENDING -> EXPIRED for at most `limit` tasks past `good_until`, oldest deadline first; how many."""
        ...

    async def has_due(self, *, now: datetime | None = None) -> bool:
        """Whether a PENDING task of the worker's queues is due, deadline passed or not."""
        ...


class Reader(Protocol):
    """Answers questions; takes short borrows from the pool."""

    async def results(self, task_ids: Sequence[str]) -> list[StoredResult]:
        """Where these tasks stand, in any order; ids that are not there, or are no ids at all, are left out."""
        ...

    async def read(self, task_id: str) -> TaskRow | None:
        """Everything stored of one task."""
        ...


class Topic(StrEnum):
    """What one can listen to."""

    QUEUES = "queues"
    """Notices are names of queues that got tasks, prefixed with `+` where the tasks are delayed."""
    FINISHED = "finished"
    """Notices are ids of tasks that reached a terminal state."""


class Listener(Protocol):
    """An established subscription. Notices are hints: they can be lost, repeated or too many."""

    async def receive(self) -> list[str]:
        """Wait for notices, at least one. An empty name means "something changed": look for yourself."""
        ...


class Broker(Protocol):
    """An open broker."""

    reader: Reader

    def producer(self) -> AbstractAsyncContextManager[Producer]:
        """A producer, closed with the scope."""
        ...

    def consumer(self, worker_id: str, queues: Sequence[tuple[str, int]]) -> AbstractAsyncContextManager[Consumer]:
        """A consumer for `worker_id` serving `queues` (name, priority), closed with the scope."""
        ...

    def listen(self, topic: Topic) -> AbstractAsyncContextManager[Listener]:
        """Subscribe. Once entered, no notice is missed until the scope ends or `receive` raises."""
        ...

    async def check(self) -> str:
        """Reach the database; what answered, in one line without credentials."""
        ...


class BrokerFactory(Protocol):
    """What the hook `horsies_brokers` returns for a URL scheme."""

    def open(self, config: AppConfig, *, clock: Clock) -> AbstractAsyncContextManager[Broker]:
        """Connect, bring the schema up to date, and close everything with the scope.

        `clock` is for a broker without a database clock of its own (SQLite in memory).

        Raises:
            HorsiesError: HRS-203 for a URL that cannot be read, HRS-211 when the database cannot be reached within
                `pool.timeout` (host, role, database and TLS in one line), HRS-218 for a schema this version cannot use.
        """
        ...

    def schema_sql(self, config: AppConfig) -> str:
        """The statements that make the schema in an empty database, for review."""
        ...
