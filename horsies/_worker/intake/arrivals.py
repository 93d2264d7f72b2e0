"""What claims have brought: each row is decoded, and then run, kept for its start, ended, or given back.

A row that is RUNNING runs at once. If the slot that it was counted on is not free yet, it is `early` for a moment.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable

import anyio
import anyio.abc

from ...abc import Finish, GiveBack
from ..completer import Completer
from ..execution.executor import Executor
from ..execution.job import Job, prepare
from ..gateway import WorkerGateway
from .claimer import Claimer
from .returns import Returns
from .starter import Starter


class Arrivals:
    """Takes in what claims have brought to one incarnation of a worker.

    Args:
        concurrency: tasks that may run at once.
        counts: the worker's, for its statistics.
        now: seconds, on the event loop's clock.

    Attributes:
        early: tasks that a claim has started and that have no slot.
        early_since: since when there have been such.
        last_start: when a task began last.
        last_begun: when a claim's task began last, and how many tasks ran then.
    """

    def __init__(
        self,
        gateway: WorkerGateway,
        claimer: Claimer,
        starter: Starter,
        executor: Executor,
        completer: Completer,
        returns: Returns,
        *,
        concurrency: int,
        counts: Counter[str],
        now: float,
    ) -> None:
        self._gateway = gateway
        self._claimer = claimer
        self._starter = starter
        self._executor = executor
        self._completer = completer
        self._returns = returns
        self._concurrency = concurrency
        self._counts = counts
        self.early: deque[Job] = deque()
        self.early_since = 0.0
        self.last_start = now
        self.last_begun = (-math.inf, 0)

    def take_in(self, group: anyio.abc.TaskGroup) -> None:
        """Take what came in. Tasks that it may run at once run in `group`."""
        known = {job.claimed.lease for job in (*self._starter.ready, *self._starter.starting)}
        for row, is_cancelled in self._claimer.take():
            if row.lease in known or row.lease in self._executor.jobs:
                continue  # the history was taken back, and this claim is by chance the same again
            match prepare(self._gateway, row):
                case Job() as job if row.is_running:
                    job.is_cancelled = is_cancelled
                    self.early_since = self.early_since if self.early else anyio.current_time()
                    self.early.append(job)
                case Job() as job:
                    self._starter.ready.append(job)
                case Finish() as end:
                    self._executor.log_failure(row, str(end.error_code), attempt=row.attempt)
                    self._counts["failed"] += 1
                    self._completer.add_nowait(end)
                case GiveBack() as gift:
                    self._returns.add([gift])
        self.run_early(group)
        self.return_early(lambda job: job.claimed.good_until is not None)  # which was judged as if it began at once

    def run_started(self, jobs: list[Job], group: anyio.abc.TaskGroup) -> None:
        """Run tasks that a start has started, each of which has a slot."""
        for job in jobs:
            self._executor.run_soon(job, group)
        self.last_start = anyio.current_time()

    def run_early(self, group: anyio.abc.TaskGroup) -> None:
        """Run what a claim has started, as slots and room for results permit."""
        if not (self.early and self._completer.has_room) or is_cancelled():
            return
        taken = len(self._starter.starting)
        while self.early and len(self._executor.jobs) + taken < self._concurrency:
            self._executor.run_soon(self.early.popleft(), group)
            self.last_start = anyio.current_time()
            self.last_begun = self.last_start, len(self._executor.jobs)

    def return_early(self, condition: Callable[[Job], bool] = lambda _: True) -> None:
        """Have given back what a claim has started and there was no slot for."""
        self._returns.add(GiveBack(job.claimed.lease, is_running=True) for job in self.early if condition(job))
        self.early = deque(job for job in self.early if not condition(job))


def is_cancelled() -> bool:
    """Whether the next wait raises, although the last one has ended as if nothing were."""
    return anyio.current_effective_deadline() == -math.inf
