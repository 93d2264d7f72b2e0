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

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, runtime_checkable

from .._core.config import AppConfig
from .._core.status import CancelOutcome
from .records import (
    Claim,
    Enqueued,
    Finish,
    GiveBack,
    Held,
    Lease,
    NewTask,
    Promotion,
    QueueRow,
    SchemaState,
    Start,
    StartOutcome,
    StoredResult,
    TaskRow,
)
from .workflows import Decide

Clock: TypeAlias = Callable[[], datetime]
"""The current instant, aware UTC."""


class Producer(Protocol):
    """Puts tasks in. One connection of its own, opened at first use."""

    async def enqueue(self, tasks: Sequence[NewTask], *, now: datetime | None = None) -> list[Enqueued]:
        """Insert `tasks` in one transaction as PENDING, and notify the queues.

        Those whose id is present, and those whose unique key is taken, are left alone.
        """
        ...


class Consumer(Protocol):
    """One worker's view of the tasks. Every write names the worker and the claim number."""

    async def join(self, *, now: datetime | None = None) -> None:
        """Register the worker with its first heartbeat. Repeating it does no harm."""
        ...

    async def beat(self, *, now: datetime | None = None) -> bool:
        """Write the heartbeat of a worker that has joined; whether the worker is alive.

        A worker that was found dead meanwhile stays dead: nothing is written, and the answer is False. The call depends
        on the workers' heartbeats alone, so that no lock on another table makes a living worker look dead.

        A worker is steady since it joined, or since the last of its heartbeats that came more than two
        `recovery.heartbeat_interval` after the one before.
        """
        ...

    async def lead(self, *, now: datetime | None = None) -> bool:
        """Take or renew the lease of the leader for `recovery.dead_after` / 2; whether the worker leads.

        Only a registered worker can lead. The lease can be taken when it has expired, and by a worker that has been
        steady for `recovery.dead_after` from one that has not.
        """
        ...

    async def held(self) -> list[Held]:
        """Everything that is CLAIMED or RUNNING by this worker, in any order."""
        ...

    async def leave(self) -> int:
        """Give back everything still CLAIMED by this worker, remove its heartbeat and its lease; how many came back."""
        ...

    async def promote(self, limit: int, *, now: datetime | None = None) -> Promotion:
        """Make at most `limit` delayed tasks that have fallen due claimable."""
        ...

    async def claim(
        self,
        limit: int,
        *,
        startable: Collection[str] = (),
        without: Collection[str] = (),
        now: datetime | None = None,
    ) -> Claim:
        """Claim at most `limit` due tasks of the worker's queues: PENDING -> CLAIMED.

        Tasks with one of the names `without` are passed over: the worker has no slot for them.

        What has one of the names `startable` may go on to RUNNING at once, as by a `start` without a verdict for a
        crash: so it saves the worker a call, and whether it did says `ClaimedTask.is_running`. A broker that cannot do
        this leaves it to `start`.

        In the order queue priority, task priority, due time, id. Claims nothing unless the worker's own heartbeat is
        present and younger than `recovery.dead_after`, and nothing of a queue that is paused. However many claim at the
        same time, no more tasks of a queue are CLAIMED or RUNNING than its `max_concurrency`, and in all no more than
        `cluster_wide_cap`. Tasks past `good_until` that stand in the way become EXPIRED, in bounded number, and their
        waiters are notified.
        """
        ...

    async def start(self, starts: Sequence[Start], *, now: datetime | None = None) -> list[StartOutcome]:
        """CLAIMED -> RUNNING, or -> EXPIRED where `good_until` <= now; the verdict for a crash is stored."""
        ...

    async def finish(
        self, ends: Sequence[Finish], *, decide: Decide | None = None, now: datetime | None = None
    ) -> list[bool]:
        """Write the end of attempts, RUNNING (or, for FAILED, CLAIMED) -> what `Finish` says; notify waiters.

        Where that makes room under a cap, the workers are notified too.

        With `decide`, the workflows of these ends are advanced in the same transaction, as `Workflows.advance` does,
        but for those that somebody else has locked: it waits for none, and their ends stay marked. A `LARGE` workflow
        may be left out as well. When anything fails nothing is written.

        A broker that keeps no workflows is never given it.

        False where the claim was no longer this worker's, and nothing was written.
        """
        ...

    async def give_back(self, tasks: Sequence[GiveBack], *, now: datetime | None = None) -> list[bool]:
        """CLAIMED -> PENDING, or RUNNING -> PENDING where `GiveBack.is_running`. No attempt is counted.

        False where the task was in another state, or the claim no longer this worker's, and nothing was written.
        """
        ...

    async def give_back_unknown(
        self, known: Sequence[Lease], *, heard_until: datetime | None = None, now: datetime | None = None
    ) -> int:
        """Let go of everything CLAIMED by this worker or RUNNING but `known`; how many tasks.

        CLAIMED tasks become PENDING. A task RUNNING by a claim later than `heard_until` never began, because the answer
        to its claim was lost: it becomes PENDING and no attempt is counted, or CANCELLED where that was requested, and
        its waiters are notified. A task RUNNING by an earlier claim did begin, and its end was lost with a part of the
        database's history (a failover to an asynchronous standby, a restored backup): it becomes what its start stored
        for a crash, as in `Maintenance.reap`.

        The worker has no claim under way.

        Args:
            known: everything that the worker knows it holds.
            heard_until: `Claim.claimed_at` of the latest claim whose answer the worker has; None: it has none.
        """
        ...

    async def has_due(self, *, now: datetime | None = None) -> bool:
        """Whether a PENDING task of the worker's queues is due, deadline passed or not. Paused queues do not count."""
        ...


class Maintenance(Protocol):
    """Looks after what no worker holds, or holds any more. One leader does it, but several at once do no harm.

    A row that cannot be written (a damaged one, or a trigger of somebody's refuses it) is logged and passed over.
    """

    async def expire(self, limit: int, *, now: datetime | None = None) -> int:
        """PENDING and CLAIMED -> EXPIRED for at most `limit` tasks past `good_until`; how many.

        PENDING ones first, the oldest deadline first. CLAIMED ones may be anybody's: their worker has not come to
        start them.
        """
        ...

    async def reap(self, limit: int, *, now: datetime | None = None) -> int:
        """Take at most `limit` tasks from workers that are dead; how many.

        Only a steady leader may: its lease has not expired, its own heartbeat is at most two
        `recovery.heartbeat_interval` old, and it has been steady for `recovery.dead_after`. All of it is decided at the
        instant of the call, by the database. For any other worker nothing happens, and the answer is 0.

        First, each worker whose heartbeat is `recovery.dead_after` old loses its registration: it is dead.
        Then, of what is held by workers that are not registered: CLAIMED -> PENDING, or EXPIRED past its deadline.
        RUNNING -> CANCELLED where that was requested, else PENDING or FAILED (WORKER_CRASHED, no result) by the
        verdict stored at the start; a retry at or after `good_until` is none.
        """
        ...

    async def prune(self, limit: int, *, finished_after: timedelta, now: datetime | None = None) -> int:
        """Remove at most `limit` tasks that ended `finished_after` ago or earlier, the oldest first; how many.

        The tasks of a workflow stay until it too ended so long ago. A broker that keeps workflows removes them after
        their last task, and counts them.
        """
        ...


class Reader(Protocol):
    """Answers questions; takes short borrows from the pool."""

    async def results(self, task_ids: Sequence[str]) -> list[StoredResult]:
        """Where these tasks stand, in any order; ids that are not there, or are no ids at all, are left out."""
        ...

    async def read(self, task_id: str) -> TaskRow | None:
        """Everything stored of one task."""
        ...

    async def queues(self) -> list[QueueRow]:
        """The queues that have unfinished tasks, or were ever paused, in any order."""
        ...


class Control(Protocol):
    """Intervenes from outside; takes short borrows from the pool."""

    async def cancel(self, task_ids: Sequence[str], *, now: datetime | None = None) -> list[CancelOutcome]:
        """PENDING, CLAIMED -> CANCELLED, waiters notified; for RUNNING ones the request is stored, workers notified."""
        ...

    async def pause(self, queue: str, *, now: datetime | None = None) -> bool:
        """Let nothing more be claimed of a queue; whether it was not paused before."""
        ...

    async def resume(self, queue: str) -> bool:
        """Let a queue be claimed from again, and notify the workers; whether it was paused."""
        ...


class Topic(StrEnum):
    """What one can listen to."""

    WORK = "work"
    """For workers. Notices are a `Notice` followed by the name of a queue or the id of a task."""
    FINISHED = "finished"
    """Notices are ids of tasks, and of workflows, that reached a terminal state."""


class Notice(StrEnum):
    """How a notice of `Topic.WORK` begins."""

    READY = "ready:"
    """A queue got tasks that are due."""
    DELAYED = "delayed:"
    """A queue got tasks that are due later."""
    CANCEL = "cancel:"
    """A running task is to be cancelled."""


class Listener(Protocol):
    """An established subscription. Notices are hints: they can be lost, repeated or too many."""

    async def receive(self) -> list[str]:
        """Wait for notices, at least one. An empty name means "something changed": look for yourself."""
        ...


class Broker(Protocol):
    """An open broker."""

    reader: Reader
    control: Control

    def producer(self, *, lock_wait: float | None = None) -> AbstractAsyncContextManager[Producer]:
        """A producer, closed with the scope.

        `lock_wait` is how many seconds one call may wait for somebody else's open transaction on the same id or unique
        key; None: as long as any statement.
        """
        ...

    def consumer(self, worker_id: str, queues: Sequence[tuple[str, int]]) -> AbstractAsyncContextManager[Consumer]:
        """A consumer for `worker_id` serving `queues` (name, priority), closed with the scope.

        A call of one kind (heartbeat; lease and holdings; claims; starts; ends) waits for no call of another kind.
        """
        ...

    def maintenance(self, worker_id: str) -> AbstractAsyncContextManager[Maintenance]:
        """Maintenance, done by `worker_id`, closed with the scope. A connection of its own, opened at first use."""
        ...

    def listen(self, topic: Topic) -> AbstractAsyncContextManager[Listener]:
        """Subscribe. Once entered, no notice is missed until the scope ends or `receive` raises."""
        ...

    async def check(self) -> str:
        """Reach the database; what answered, in one line without credentials."""
        ...


@runtime_checkable
class Transactional(Protocol):
    """A broker whose database is the application's too, so that a send can be part of the application's transaction."""

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A connection with an open transaction, committed at the end of the scope, rolled back when it raises."""
        ...

    def joining(self, connection: Any) -> Producer:
        """A producer that writes through the caller's `connection` and neither commits nor rolls back.

        Its calls are shielded from cancellation and bounded to a few seconds. They raise ValueError as well, when
        they find that `connection` leads to another database than the broker's.

        Raises:
            ValueError: `connection` is none that this broker can join, and what would be.
        """
        ...


@runtime_checkable
class Migrating(Protocol):
    """A `BrokerFactory` whose schema can be brought up to date, printed and looked at without opening a broker.

    All of it raises HorsiesError HRS-203 and HRS-211 as `BrokerFactory.open` does, except where it says otherwise.
    """

    async def migrate(self, config: AppConfig, tell: Callable[[str], object]) -> None:
        """Bring the schema up to date, for as long as it gets on; `tell` is handed what it waits for, in sentences.

        Raises:
            HorsiesError: HRS-218, as for `BrokerFactory.open`.
        """
        ...

    async def upgrade_sql(self, config: AppConfig, tell: Callable[[str], object]) -> str:
        """A script that leads the schema from where it stands to the newest version, or changes nothing.

        It checks by itself that the schema stands where it did. If the database cannot be reached, it is the script for
        an empty one, and `tell` is handed why.

        Raises:
            HorsiesError: HRS-218, the schema is newer than this version can use.
        """
        ...

    async def schema_state(self, config: AppConfig) -> SchemaState:
        """Where the schema stands; nothing is changed."""
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
