"""One worker among the others."""

from __future__ import annotations

from datetime import datetime

from horsies import RecoveryConfig
from horsies.abc import Held, Lease, Notice, Topic

from .queries import named_queries
from .rows import gap_of
from .session import Session, Transaction, after


class SqliteMembership:
    """See `horsies.abc.Membership`."""

    def __init__(self, session: Session, worker_id: str, *, recovery: RecoveryConfig) -> None:
        self._session = session
        self._worker_id = worker_id
        self._dead_after = recovery.dead_after
        self._gap = gap_of(recovery.heartbeat_interval)
        self._sql = named_queries()

    async def join(self, *, now: datetime | None = None) -> None:
        """See `horsies.abc.Consumer.join`."""

        def work(transaction: Transaction) -> None:
            transaction.fetch(self._sql["workers.join"], {"worker": self._worker_id, "now": transaction.now})

        await self._session.write("join", work, now=now)

    async def beat(self, *, now: datetime | None = None) -> bool:
        """See `horsies.abc.Consumer.beat`."""

        def work(transaction: Transaction) -> bool:
            given = {"worker": self._worker_id, "gap": self._gap, "now": transaction.now}
            return bool(transaction.fetch(self._sql["workers.beat"], given))

        return await self._session.write("beat", work, now=now)

    async def lead(self, *, now: datetime | None = None) -> bool:
        """See `horsies.abc.Consumer.lead`."""

        def work(transaction: Transaction) -> bool:
            given = {
                "worker": self._worker_id,
                "now": transaction.now,
                "until": after(transaction.now, self._dead_after / 2),
                "long_ago": after(transaction.now, -self._dead_after),
            }
            return bool(transaction.fetch(self._sql["workers.lead"], given))

        return await self._session.write("lead", work, now=now)

    async def held(self) -> list[Held]:
        """See `horsies.abc.Consumer.held`."""

        def work(transaction: Transaction) -> list[Held]:
            rows = transaction.fetch(self._sql["tasks.holdings"], {"worker": self._worker_id})
            return [Held(Lease(task_id, number), bool(is_cancelled)) for task_id, number, is_cancelled in rows]

        return await self._session.read("look", work)

    async def leave(self) -> int:
        """See `horsies.abc.Consumer.leave`."""

        def work(transaction: Transaction) -> int:
            returned = transaction.fetch(self._sql["tasks.leave"], {"worker": self._worker_id})
            for (queue,) in returned:
                transaction.notify(Topic.WORK, f"{Notice.READY}{queue}")
            transaction.fetch(self._sql["workers.forget"], {"worker": self._worker_id})
            transaction.fetch(self._sql["workers.resign"], {"worker": self._worker_id})
            return len(returned)

        return await self._session.write("leave", work)
