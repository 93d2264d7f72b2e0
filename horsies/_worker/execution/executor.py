"""What runs: each started task in its place, until its end is in the completer's buffer.

Of each place (the nursery, threads, processes) a worker has so many slots. A task keeps its slot until its user code
has really ended, also when its timeout was reported before.
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any

import anyio
import anyio.abc

from ..._core.codes import is_user_code
from ..._core.config import WorkerConfig
from ..._core.errors import TaskError
from ..._core.result import Err, Ok
from ..._core.status import TaskStatus
from ..._declare.context import AttemptContext, ContextLogger
from ..._declare.placement import Place
from ...abc import ClaimedTask, Lease
from ..completer import Completer
from ..gateway import WorkerGateway
from .inputs import fetch_inputs, has_inputs
from .invoke import cancelled, run_async, run_in_threads, run_sync, timed_out
from .job import GRACE, Job, conclude, conclude_interrupted
from .loop_tasks import LoopTasks
from .process_pool import ProcessPool, run_process
from .thread_pool import ThreadPool

_COUNTED = {TaskStatus.COMPLETED: "completed", TaskStatus.FAILED: "failed", TaskStatus.PENDING: "retried"}

_SLOTS_OF = {Place.NURSERY: "async tasks", Place.THREAD: "threads", Place.PROCESS: "processes"}


class Executor:
    """Runs tasks of one incarnation of a worker.

    Args:
        state: what the application's lifespan gave.
        counts: the worker's, for its statistics.
        abandoned: what is to be said at the end of the worker of each task that it could not end.

    Attributes:
        jobs: what runs now.
        free: slots by place.
        held: names of tasks by place, if they hold all slots of the place although their end has been reported.
        ended: called when a slot is free, with the job that had it.
        retrying: called when a task will be tried again.
    """

    def __init__(
        self,
        gateway: WorkerGateway,
        completer: Completer,
        config: WorkerConfig,
        *,
        worker_id: str,
        log: ContextLogger,
        state: Any,
        counts: Counter[str],
        abandoned: list[str],
    ) -> None:
        self._gateway = gateway
        self._completer = completer
        self._worker_id = worker_id
        self._log = log
        self._state = state
        self._counts = counts
        self._abandoned = abandoned
        threads = config.threads or config.concurrency
        self._threads = None if gateway.environment.inline else ThreadPool(threads)
        self._plain: list[Job] = []
        self._processes = ProcessPool()
        self.jobs: dict[Lease, Job] = {}
        self._patience = anyio.CancelScope()
        self.held: dict[Place, list[str]] = {}
        self._loop_tasks: dict[str, LoopTasks] = {}
        self._slots = {
            Place.NURSERY: config.concurrency,
            Place.THREAD: threads,
            Place.PROCESS: threads if gateway.environment.inline else os.cpu_count() or 1,
        }
        self.free = dict(self._slots)
        self.ended: Callable[[Job], None] = lambda _: None
        self.retrying: Callable[[], None] = lambda: None

    def run_soon(self, job: Job, group: anyio.abc.TaskGroup) -> None:
        """Run a task that was started in the database; it has a slot from now on."""
        name, place = job.task.name, job.task.place
        self.jobs[job.claimed.lease] = job
        self.free[place] -= 1
        self._counts["started"] += 1
        if place is Place.NURSERY:
            if name not in self._loop_tasks:
                self._loop_tasks[name] = LoopTasks(name, self._run)
            self._loop_tasks[name].run_soon(job, group)
        elif self._threads is not None and _is_plain(job):
            self._plain.append(job)
            if len(self._plain) == 1:
                group.start_soon(self._run_plain, self._threads, group, name="tasks in threads")
        else:
            group.start_soon(self._run, job, name=name)

    async def serve_threads(self) -> None:
        """Run beside the tasks, for longer than any of them, for those that run in threads."""
        if self._threads is not None:
            await self._threads.serve()

    async def hurry_threads(self) -> None:
        """Run among the tasks, and when these are cancelled hurry those that no cancellation reaches."""
        try:
            await anyio.sleep_forever()
        finally:
            for job in self.jobs.values():
                job.hurry()

    async def keep_time(self) -> None:
        """Run among the tasks, and report those that go on although they were cancelled. They keep their slots."""
        while True:
            first = min((job.gone_by for job in self.jobs.values()), default=math.inf)
            with anyio.CancelScope(deadline=first) as self._patience:
                await anyio.sleep_forever()
            now = anyio.current_time()
            for job in [job for job in self.jobs.values() if job.gone_by <= now]:
                job.gone_by = math.inf
                self._report_late(job)

    def expect_end(self, job: Job, seconds: float = 0.0) -> None:
        """An async task is cancelled in so many seconds, and should end within `GRACE` of that."""
        if job.task.place is Place.NURSERY:
            job.gone_by = min(job.gone_by, anyio.current_time() + seconds + GRACE)
            self._patience.deadline = min(self._patience.deadline, job.gone_by)

    def _report_late(self, job: Job) -> None:
        if job.is_reported:
            return
        self._log.error(
            "task %r %s goes on although it was cancelled %.0f s ago; it keeps its slot, and its result will not count",
            job.task.name,
            job.claimed.lease.task_id,
            GRACE,
            extra={"task_name": job.task.name, "task_id": job.claimed.lease.task_id},
        )
        job.is_late = True
        self._report(job, cancelled() if job.is_cancelled else timed_out(job))

    def abandon_rest(self) -> None:
        """Give up the async tasks that go on although their worker has cancelled them: nothing can end them."""
        for job in self.jobs.values():
            if job.task.place is Place.NURSERY:
                job.is_abandoned = True
                if not job.is_reported:
                    job.is_reported = True
                    self._completer.add_nowait(conclude_interrupted(job))
                self._abandoned.append(
                    f"task {job.task.name!r} went on although it was cancelled and was abandoned; "
                    "its runtime cannot close before it ends"
                )

    async def aclose(self) -> None:
        """End the processes that nobody uses any more."""
        await self._processes.aclose()

    def log_failure(self, claimed: ClaimedTask, code: str, *, attempt: int) -> None:
        """Say that a task failed; `attempt` is 0 for one that did not begin."""
        name, task_id = claimed.task_name, claimed.lease.task_id
        extra = {
            "task_name": name,
            "task_id": task_id,
            "queue": claimed.queue,
            "attempt": attempt,
            "error_code": code,
        }
        level = logging.INFO if is_user_code(code) else logging.WARNING
        self._log.log(level, "task %r %s ended with %s", name, task_id, code, extra=extra)

    async def _run(self, job: Job) -> None:
        """Run one started task; whatever happens, its end reaches the completer exactly once."""
        if job.task.signature.takes_context:
            job.context = self._context(job)
        try:
            if job.is_cancelled:
                self._report(job, cancelled())  # the request came while it was being started
            elif has_inputs(job) and (wrong := await fetch_inputs(self._gateway, job)) is not None:
                self._report(job, wrong)
            elif job.task.place is Place.NURSERY:
                if job.envelope.timeout is not None:
                    self.expect_end(job, job.envelope.timeout.total_seconds())
                self._report(job, await run_async(job))
            elif job.task.place is Place.PROCESS and self._threads is not None:
                self._report(job, await run_process(job, self._processes))
            else:
                await run_sync(job, self._threads, partial(self._report, job), partial(self._abandon, job))
        finally:
            self._leave(job)

    async def _run_plain(self, threads: ThreadPool, group: anyio.abc.TaskGroup) -> None:
        """Run in threads what was started since the last time: a task of the event loop for each would cost more."""
        jobs = self._begin_plain()
        leases = [job.claimed.lease for job in jobs]

        def ended(job: Job, result: Ok[Any] | Err[TaskError] | None, error: BaseException | None) -> None:
            if error is None:
                self._report(job, result)
            else:
                group.start_soon(_fail, error)  # the others have the time that any have whose worker stops
            self._leave(job)

        try:
            await run_in_threads(jobs, threads, ended)
        finally:
            for job in [self.jobs[lease] for lease in leases if lease in self.jobs]:
                self._abandon(job)
                self._leave(job)

    def _begin_plain(self) -> list[Job]:
        """What was started since the last time, but for what was cancelled meanwhile."""
        jobs, self._plain = self._plain, []
        for job in jobs:
            if job.task.signature.takes_context:
                job.context = self._context(job)
            if job.is_cancelled:
                self._report(job, cancelled())
                self._leave(job)
        return [job for job in jobs if not job.is_reported]

    def _report(self, job: Job, result: Ok[Any] | Err[TaskError] | None) -> None:
        """Hand the end of a started task to the completer, once. None means that its context stopped it."""
        if result is None:
            if not job.is_cancelled:
                return
            result = cancelled()
        if job.is_reported:
            return
        job.is_reported = True
        end, error = conclude(self._gateway, job, result)
        self._count(job, end.status)
        if error is not None:
            self.log_failure(job.claimed, str(end.error_code), attempt=job.claimed.attempt + 1)
        self._completer.add_nowait(end)
        if job.is_late:
            self._look_who_holds(job.task.place)

    def _leave(self, job: Job) -> None:
        """A started task has ended: its slot is free."""
        if not job.is_reported:
            self._completer.add_nowait(conclude_interrupted(job))
        self.free[job.task.place] += 1
        del self.jobs[job.claimed.lease]
        if job.is_late:
            self._look_who_holds(job.task.place)
        self.ended(job)

    def _look_who_holds(self, place: Place) -> None:
        """Say so when tasks whose end was reported hold all slots of a place, and when that changes."""
        late = [job.task.name for job in self.jobs.values() if job.is_late and job.task.place is place]
        if len(late) >= self._slots[place]:
            self.held[place] = late
            self._log.error(
                "worker %s: tasks that go on after their timeout hold all %d slots of its %s: %s. It takes no other "
                "task for them until one ends; a worker that is started anew has free ones",
                self._worker_id,
                len(late),
                _SLOTS_OF[place],
                ", ".join(sorted(set(late))),
            )
        elif self.held.pop(place, None) is not None:
            self._log.warning("worker %s: a slot of its %s is free again", self._worker_id, _SLOTS_OF[place])

    def _abandon(self, job: Job) -> None:
        self._abandoned.append(f"a thread that runs task {job.task.name!r} did not return and was abandoned")

    def _context(self, job: Job) -> AttemptContext[Any]:
        claimed = job.claimed
        is_own = claimed.task_name in self._gateway.own_tasks
        return self._gateway.context_type(
            task_id=claimed.lease.task_id,
            task_name=claimed.task_name,
            queue=claimed.queue,
            attempt=claimed.attempt + 1,
            sent_at=job.envelope.sent_at,
            good_until=claimed.good_until,
            worker_id=self._worker_id,
            metadata=MappingProxyType(dict(job.envelope.metadata)),
            workflow_id=job.workflow_id,
            node_id=None if job.envelope.origin is None else job.envelope.origin.node_id,
            runtime=self._gateway if is_own else self._gateway.runtime,
            state=self._state,
        )

    def _count(self, job: Job, status: TaskStatus) -> None:
        stopped = job.is_cancelled and status is not TaskStatus.COMPLETED
        self._counts["cancelled" if stopped else _COUNTED[status]] += 1
        if status is TaskStatus.PENDING:
            self.retrying()


async def _fail(error: BaseException) -> None:
    raise error


def _is_plain(job: Job) -> bool:
    """Whether to run a sync task takes a thread and nothing else."""
    return job.task.place is Place.THREAD and job.envelope.timeout is None and not has_inputs(job)
