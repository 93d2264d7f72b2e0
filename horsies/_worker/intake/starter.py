"""The starts of a worker: tasks that are CLAIMED and wait to run, and what becomes of a start whose answer is lost.

A start that failed may have been written. Its task stays here and is started again; if that start finds the claim gone,
the first one was written, and since user code has not run the task goes to another worker.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence

import anyio
from msgspec.structs import replace

from ..._core.errors import BrokerError
from ..._core.isolate import isolate
from ..._core.status import TaskStatus
from ..._declare.context import ContextLogger
from ..._declare.placement import Place
from ..._send.contact import REMEDY
from ...abc import Finish, Intake, Lease, Start, StartOutcome
from ..completer import Completer
from ..execution.job import Job, conclude_interrupted
from ..gateway import WorkerGateway

LOCKED_POLL = 1.0
"""Seconds before another try to start a task whose row somebody has locked."""


class Starter:
    """Starts tasks of one incarnation of a worker.

    Args:
        counts: the worker's, for its statistics.
        until_idle: the worker is to end by itself, so a start that the database refuses for good ends it.

    Attributes:
        ready: tasks that wait for a slot.
        starting: tasks that have one, and are started by the next `run_once`.
        unsure: of tasks in `ready` whose start may have been written.
    """

    def __init__(
        self,
        gateway: WorkerGateway,
        intake: Intake,
        completer: Completer,
        counts: Counter[str],
        log: ContextLogger,
        *,
        until_idle: bool,
    ) -> None:
        self._gateway = gateway
        self._intake = intake
        self._completer = completer
        self._counts = counts
        self._log = log
        self._until_idle = until_idle
        self._retry_max = gateway.app.config.resilience.retry_max
        self.ready: deque[Job] = deque()
        self.starting: list[Job] = []
        self.unsure: set[Lease] = set()

    def count(self, free: Mapping[Place, int], together: int, now: float) -> int:
        """How many tasks in `ready` have a slot where they run.

        Args:
            free: slots by place.
            together: slots in all.
        """
        return sum(self._has_slot(free, together, now))

    def take(self, free: Mapping[Place, int], together: int, now: float) -> None:
        """Take these out of `ready`."""
        waiting = deque[Job]()
        for job, has_slot in zip(self.ready, self._has_slot(free, together, now), strict=True):
            (self.starting if has_slot else waiting).append(job)
        self.ready = waiting

    def _has_slot(self, free: Mapping[Place, int], together: int, now: float) -> Iterator[bool]:
        slots = dict(free)
        for job in self.ready:
            has_slot = together > 0 and slots[job.task.place] > 0 and job.not_before <= now
            together -= has_slot
            slots[job.task.place] -= has_slot
            yield has_slot

    def put_off_until(self, now: float) -> float:
        """When the first task can be started again whose start was put off."""
        return min((job.not_before for job in self.ready if job.not_before > now), default=math.inf)

    async def run_once(self) -> list[Job]:
        """Start what was taken; the tasks whose user code is to begin now.

        Raises:
            BrokerError: it failed, and may have been written.
        """
        batch = self.starting
        leases = [job.claimed.lease for job in batch]
        try:
            outcomes = await self._try_start(batch)
            if len(batch) > 1 and all(isinstance(outcome, BrokerError) for outcome in outcomes):
                raise next(outcome for outcome in outcomes if isinstance(outcome, BrokerError))
        except BaseException:
            self.unsure.update(leases)
            self.ready.extendleft(reversed(batch))
            raise
        finally:
            self.starting = []
        self._gateway.contact.answered()
        started = []
        for job, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, BrokerError):
                self._put_off(job, outcome)
            elif outcome is StartOutcome.STARTED:
                started.append(job)
            elif outcome is StartOutcome.LOCKED:
                job.not_before = anyio.current_time() + LOCKED_POLL
                self.ready.append(job)
            elif outcome is StartOutcome.LOST and job.claimed.lease in self.unsure:
                self._completer.add_nowait(_never_ran(job))
            self._counts["expired"] += outcome is StartOutcome.EXPIRED
        self.unsure.difference_update(set(leases) - {job.claimed.lease for job in self.ready})
        return started

    async def _try_start(self, batch: list[Job]) -> list[StartOutcome | BrokerError]:
        """Start a batch; a task whose start the database refuses is answered with the refusal.

        Raises:
            BrokerError: it failed for a reason that passes by itself, or (`until_idle`) the start of a task is refused.
        """

        async def start(jobs: Sequence[Job]) -> Sequence[StartOutcome | BrokerError]:
            return await self._intake.start([Start(job.claimed.lease, job.retry_after_crash) for job in jobs])

        async def refuse(job: Job, error: BrokerError) -> BrokerError:
            if self._until_idle:
                raise error
            return error

        return await isolate(batch, start, refuse, lambda error: not error.retryable)

    def _put_off(self, job: Job, error: BrokerError) -> None:
        """Keep a task whose start the database refuses, and try again later; the others go on."""
        pause, task_id = self._retry_max, job.claimed.lease.task_id
        job.not_before = anyio.current_time() + pause
        self.ready.append(job)
        self._log.error(
            "task %s cannot be started: %s; %s; trying again in %.1f s",
            *(task_id, error.message, REMEDY, pause),
            extra={"task_id": task_id},
        )

    def settle_unsure(self) -> None:
        """For a worker that stops: see that what it may have started is run by another."""
        for job in self.ready:
            if job.claimed.lease in self.unsure:
                self._completer.add_nowait(_never_ran(job), has_started=False)
        self.unsure.clear()


def _never_ran(job: Job) -> Finish:
    """For a start whose answer was lost. It may have been written, but user code has not run, so it may run again."""
    return replace(conclude_interrupted(job), status=TaskStatus.PENDING, interrupted=True)
