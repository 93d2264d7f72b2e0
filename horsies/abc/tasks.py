"""Putting tasks in, taking them out to be run, and writing their ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from .records import Claim, Enqueued, Finish, GiveBack, Lease, NewTask, Promotion, Start, StartOutcome
from .workflows import Decide


class Producer(Protocol):
    """Puts tasks in. One connection of its own, opened at first use."""

    async def enqueue(self, tasks: Sequence[NewTask], *, now: datetime | None = None) -> list[Enqueued]:
        """Insert `tasks` in one transaction as PENDING, and notify the queues.

        Those whose id is present, and those whose unique key is taken, are left alone.
        """
        ...


class Intake(Protocol):
    """How one worker comes by tasks, and lets go of those that it does not run."""

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


class Completion(Protocol):
    """How one worker writes what became of the tasks that it ran."""

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
