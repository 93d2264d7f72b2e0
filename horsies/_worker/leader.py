"""What one worker does for all: overdue tasks, tasks of dead workers, and tasks that ended long ago.

A lease decides by the database's clock which worker leads. Every step is guarded in its statement, so two workers that
both think they lead do no harm; and the statement that finds workers dead asks for the lease itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel

from .._core.config import AppConfig
from .._core.errors import BrokerError
from .._declare.context import ContextLogger
from ..abc import Maintenance

EXPIRE_BATCH = 500
REAP_BATCH = 200
PRUNE_BATCH = 500
PRUNE_PAUSE = 60.0
"""Seconds at most between looks for tasks to remove: nobody waits for it."""


class Leader:
    """Looks after what nobody holds for as long as its worker leads.

    Args:
        counts: the worker's, for its statistics.

    Attributes:
        leads_until: on the loop's clock, renewed by each heartbeat that keeps the lease.
    """

    def __init__(
        self,
        maintenance: Maintenance,
        recover_workflows: Callable[[], Awaitable[int]],
        config: AppConfig,
        *,
        worker_id: str,
        counts: Counter[str],
        log: ContextLogger,
    ) -> None:
        self._maintenance = maintenance
        self._recover_workflows = recover_workflows
        self._pause = config.recovery.reap_interval
        self._finished_after = config.retention.finished_after
        self._counts = counts
        self._log = log
        self._worker_id = worker_id
        self._prune_at = 0.0
        self.leads_until = 0.0

    @property
    def leads(self) -> bool:
        """Whether its worker is the leader, as far as that knows."""
        return anyio.current_time() < self.leads_until

    async def run(self) -> None:
        while True:
            while self.leads and await self.run_once():
                await anyio.lowlevel.checkpoint()
            await anyio.sleep(self._pause)

    async def run_once(self) -> int:
        """One batch of everything; how many tasks it moved or removed."""
        expired = await self._try("expire tasks", self._maintenance.expire(EXPIRE_BATCH))
        self._counts["expired"] += expired
        pruned = 0
        reaped = await self._try("take tasks from dead workers", self._maintenance.reap(REAP_BATCH))
        if reaped:
            self._log.warning("worker %s: took %d tasks from dead workers", self._worker_id, reaped)
        if self._finished_after is not None and anyio.current_time() >= self._prune_at:
            removal = self._maintenance.prune(PRUNE_BATCH, finished_after=self._finished_after)
            pruned = await self._try("remove old tasks", removal)
            if not pruned:
                self._prune_at = anyio.current_time() + min(PRUNE_PAUSE, self._finished_after.total_seconds() / 10)
        recovered = await self._try("see to what follows in workflows", self._recover_workflows())
        return expired + reaped + pruned + recovered

    async def _try(self, what: str, call: Awaitable[int]) -> int:
        """What `call` did, which is nothing when it failed: the others go on, and it is tried again next time."""
        try:
            return await call
        except BrokerError as error:
            self._log.warning("worker %s: cannot %s: %s", self._worker_id, what, error.message)
            return 0
