"""How one worker writes what became of the tasks that it ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from horsies.abc import HEAD, LARGE, Decide, Finish, Lease, TaskStatus

from .._sql.deciding import deciding
from .caps import Caps
from .driver.session import Fetch, Session
from .leases import fences, used
from .workflow_steps import advance_locked


class PostgresCompletion:
    """See `horsies.abc.Completion`."""

    def __init__(self, worker_id: str, *, outcomes: Session, sql: Mapping[str, str], caps: Caps) -> None:
        self._worker_id = worker_id
        self._outcomes = outcomes
        self._sql = sql
        self._caps = caps

    async def finish(
        self, ends: Sequence[Finish], *, decide: Decide | None = None, now: datetime | None = None
    ) -> list[bool]:
        """See `horsies.abc.Consumer.finish`."""
        if not ends:
            return []
        if decide is None:
            return await self._end(self._outcomes.fetch, ends, now)
        ids = sorted({end.workflow_id for end in ends if end.workflow_id is not None})

        async def work(fetch: Fetch) -> list[bool]:
            # Workflows before tasks, as everybody does who locks both.
            given = {"ids": ids, "head": HEAD, "largest": LARGE, "now": now}
            rows = await fetch("finish", self._sql["workflows.lock_free_workflows"], given)
            written = await self._end(fetch, ends, now)
            await advance_locked(fetch, self._sql, rows, decide, now)
            return written

        with deciding():
            return await self._outcomes.transact("finish", work)

    async def _end(self, fetch: Fetch, ends: Sequence[Finish], now: datetime | None) -> list[bool]:
        firsts = list({end.lease: end for end in reversed(ends)}.values())
        written = await self._finish(fetch, firsts, now)
        if len(written) == len(ends):
            return [True] * len(ends)
        # A request to cancel that came while the statement ran kept a retry from being written; now it is seen.
        again = [end for end in firsts if end.status is TaskStatus.PENDING and end.lease not in written]
        if again:
            written = [*written, *await self._finish(fetch, again, now)]
        return used([end.lease for end in ends], set(written))

    async def _finish(self, fetch: Fetch, ends: Sequence[Finish], now: datetime | None) -> list[Lease]:
        """The leases of those that were written."""
        leases = [end.lease for end in ends]
        ((ids, claim_numbers, *_),) = await fetch(
            "finish",
            self._sql["tasks.finish"],
            {
                **fences(leases),
                "verbs": [end.verb for end in ends],
                "results": [end.result for end in ends],
                "error_codes": [end.error_code for end in ends],
                "retry_ins": [float(end.retry_in) for end in ends],
                "worker": self._worker_id,
                "capped": list(self._caps.capped),
                "now": now,
            },
        )
        return leases if ids is None else list(map(Lease, ids, claim_numbers))
