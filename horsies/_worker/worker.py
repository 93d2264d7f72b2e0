"""A worker: claims, starts, runs, finishes and expires tasks until it is cancelled, drained or idle.

State of a claimed task here: in `_ready` (CLAIMED), then in `_running` (RUNNING, or about to be), then in the
finisher's buffer. Each is in one place only, and `_ready` plus `_running` never exceed the concurrency.

Nesting, from the outside: the consumer and the application's lifespan; the services (finisher and heartbeat are
shielded, so that results are written and the claims stay ours while tasks end); the running tasks. On the way out the
running tasks end first, then what they produced is written, then what was claimed and never started is given back.
"""

from __future__ import annotations

import logging
import os
import platform
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.abc

from .._core.codes import is_user_code
from .._core.config import QueueConfig, WorkerConfig
from .._core.errors import BrokerError, HorsiesError, TaskError
from .._core.result import Err, Ok
from .._core.status import TaskStatus
from .._task.context import TaskContext
from .._task.host import Host
from ..abc import Broker, Consumer, Finish, GiveBack, Lease, StartOutcome, Topic
from .backoff import pauses
from .finisher import Finisher
from .job import Job, conclude, conclude_interrupted, logger, prepare, run_async, run_sync

if TYPE_CHECKING:
    from .._runtime.runtime import Runtime

PROMOTE_BATCH = 500
EXPIRE_BATCH = 500
CLEANUP = 3.0
"""Seconds for writing results and giving back once the running tasks have been told to stop."""
IDLE_RECHECK = 0.05
"""Seconds before an `until_idle` worker looks again at due tasks that others hold locked."""


class WorkerHost(Host, Protocol):
    """An open runtime, as a worker sees it."""

    @property
    def broker(self) -> Broker: ...


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """Counts since the worker started; `ready` and `running` are now."""

    worker_id: str
    ready: int
    running: int
    claimed: int
    completed: int
    failed: int
    retried: int
    expired: int
    given_back: int
    lost: int
    abandoned: int


class Worker:
    """One worker of a runtime; made by `Runtime.start_worker`."""

    def __init__(self, host: WorkerHost, config: WorkerConfig | None = None) -> None:
        self._host = host
        self._config = config = config or WorkerConfig()
        self._queues = _served(host, config)
        environment, app = host.environment, host.app.config
        self._environment = environment
        self._resilience, self._recovery = app.resilience, app.recovery
        name = config.name or platform.node() or "worker"
        self.worker_id = f"{name}:{os.getpid()}:{environment.new_id()[-8:]}"
        self._ready: deque[Job] = deque()
        self._running: dict[str, Job] = {}
        self._unsure: set[Lease] = set()
        self._limiter = anyio.CapacityLimiter(config.threads or config.concurrency)
        self._threads_free = config.threads or config.concurrency
        self._state: Any = None
        self._draining = False
        self._wake = anyio.Event()
        self._hungry = True
        self._next_due = 0.0
        self._last_beat = 0.0
        self._drain_scope = anyio.CancelScope()
        self._stopped = anyio.Event()
        self._shields: list[anyio.CancelScope] = []
        self._counts = dict.fromkeys(("claimed", "completed", "failed", "retried", "expired", "given_back"), 0)
        self._abandoned: list[str] = []

    def statistics(self) -> WorkerStatistics:
        return WorkerStatistics(
            worker_id=self.worker_id,
            ready=len(self._ready),
            running=len(self._running),
            lost=self._finisher.lost if hasattr(self, "_finisher") else 0,
            abandoned=len(self._abandoned),
            **self._counts,
        )

    async def drain(self) -> None:
        """Stop claiming, let running tasks end within `drain_timeout`, write their results; returns when stopped."""
        self.drain_nowait()
        await self.wait_stopped()

    def drain_nowait(self) -> None:
        """Begin to drain."""
        self._draining = True
        self._wake.set()

    def cut_short(self) -> None:
        """Drain without patience: cancel the running tasks now."""
        self.drain_nowait()
        self._drain_scope.cancel()

    @property
    def is_draining(self) -> bool:
        return self._draining

    async def wait_stopped(self) -> None:
        """Wait until the worker has stopped, for whatever reason."""
        await self._stopped.wait()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled, drained or idle; `task_status` reports when the worker is ready to claim."""
        try:
            async with AsyncExitStack() as stack:
                consumer = await stack.enter_async_context(
                    self._host.broker.consumer(self.worker_id, [(q.name, q.priority) for q in self._queues])
                )
                self._finisher = Finisher(consumer, self._resilience, self._environment)
                self._state = await stack.enter_async_context(_lifespan(self._host))
                await self._beat(consumer)
                async with anyio.create_task_group() as services:
                    services.start_soon(self._shielded, self._finisher.run)
                    services.start_soon(self._shielded, partial(self._keep_beating, consumer))
                    services.start_soon(self._listen)
                    services.start_soon(self._keep_expiring, consumer)
                    try:
                        logger.info("worker %s is ready", self.worker_id, extra={"worker_id": self.worker_id})
                        task_status.started()
                        await self._work(consumer)
                    finally:
                        with anyio.move_on_after(CLEANUP, shield=True) as cleanup:
                            await self._finisher.wait_written()
                            self._counts["given_back"] += await consumer.leave()
                        if cleanup.cancelled_caught:
                            logger.error("worker %s could not write everything in time", self.worker_id)
                        for scope in self._shields:
                            scope.cancel()
                        services.cancel_scope.cancel()
        finally:
            self._stopped.set()
            for name in self._abandoned:
                logger.error("a thread that runs task %r did not return and was abandoned", name)

    async def _shielded(self, service: Callable[[], Awaitable[None]]) -> None:
        with anyio.CancelScope(shield=True) as scope:
            self._shields.append(scope)
            await service()

    async def _work(self, consumer: Consumer) -> None:
        async with anyio.create_task_group() as running:
            await self._pump(consumer, running)
            await self._give_back(consumer, [GiveBack(job.claimed.lease) for job in self._ready])
            self._ready.clear()
            with self._drain_scope:
                self._drain_scope.deadline = anyio.current_time() + self._config.drain_timeout
                while self._running:
                    await self._wait_woken(None)
            running.cancel_scope.cancel()

    async def _pump(self, consumer: Consumer, running: anyio.abc.TaskGroup) -> None:
        waits = pauses(self._resilience, self._environment.random)
        while not self._draining:
            try:
                if await self._run_once(consumer, running):
                    waits = pauses(self._resilience, self._environment.random)
                    continue
                if self._config.until_idle and not self._running and not self._ready:
                    await self._finisher.wait_written()
                    if not await consumer.has_due():
                        return
                    self._hungry = True
                    await self._wait_woken(IDLE_RECHECK)
                    continue
            except BrokerError as error:
                if not error.retryable:
                    raise
                pause = next(waits)
                logger.warning("worker %s: %s; trying again in %.1f s", self.worker_id, error.message, pause)
                self._hungry = True
                await anyio.sleep(pause)
                continue
            await self._wait_for_work()

    async def _run_once(self, consumer: Consumer, running: anyio.abc.TaskGroup) -> bool:
        """One round of promote, claim and start; whether another should follow at once."""
        if anyio.current_time() >= self._next_due:
            promotion = await consumer.promote(PROMOTE_BATCH)
            due_in = 0.0 if promotion.promoted == PROMOTE_BATCH else promotion.next_due_in
            self._next_due = float("inf") if due_in is None else anyio.current_time() + due_in
            self._hungry = self._hungry or promotion.promoted > 0
        room = self._config.concurrency - len(self._running) - len(self._ready)
        claimed = False
        if self._hungry and room > 0 and self._finisher.has_room and self._is_alive():
            self._hungry = False
            claim = await consumer.claim(room)
            claimed = bool(claim.tasks or claim.expired)
            self._hungry = self._hungry or claimed
            self._counts["claimed"] += len(claim.tasks)
            self._counts["expired"] += claim.expired
            gifts = []
            for row in claim.tasks:
                match prepare(self._host, row):
                    case Job() as job:
                        self._ready.append(job)
                    case Finish() as end:
                        self._log_failure(row.task_name, row.lease.task_id, str(end.error_code))
                        self._counts["failed"] += 1
                        self._finisher.add_nowait(end)
                    case GiveBack() as gift:
                        gifts.append(gift)
            await self._give_back(consumer, gifts)
        return await self._start(consumer, running) or claimed

    async def _give_back(self, consumer: Consumer, gifts: list[GiveBack]) -> None:
        if gifts:
            self._counts["given_back"] += sum(await consumer.give_back(gifts))

    async def _start(self, consumer: Consumer, running: anyio.abc.TaskGroup) -> bool:
        """Start every ready task that can run now: async ones, and sync ones for which a thread is free."""
        batch, waiting, threads = [], deque[Job](), self._threads_free
        for job in self._ready:
            if job.task.signature.is_async:
                batch.append(job)
            elif threads > 0:
                threads -= 1
                batch.append(job)
            else:
                waiting.append(job)
        if not batch:
            return False
        leases = [job.claimed.lease for job in batch]
        try:
            outcomes = await consumer.start(leases)
        except BrokerError:
            self._unsure.update(leases)
            raise
        self._ready = waiting
        for job, outcome in zip(batch, outcomes, strict=True):
            if outcome is StartOutcome.STARTED:
                self._running[job.claimed.lease.task_id] = job
                self._threads_free -= not job.task.signature.is_async
                running.start_soon(self._run, job, name=f"horsies task {job.task.name}")
            elif outcome is StartOutcome.LOST and job.claimed.lease in self._unsure:
                # A start whose answer was lost may have been written; user code has not run, so it may run again.
                self._finisher.add_nowait(
                    replace(conclude_interrupted(job), status=TaskStatus.PENDING, interrupted=True)
                )
            self._counts["expired"] += outcome is StartOutcome.EXPIRED
        self._unsure.difference_update(leases)
        return True

    async def _run(self, job: Job) -> None:
        """Run one started task; whatever happens, its end reaches the finisher exactly once."""
        reported = False

        def report(result: Ok[Any] | Err[TaskError]) -> None:
            nonlocal reported
            if reported:
                return
            reported = True
            end, error = conclude(self._host, job, result)
            self._count(end.status)
            if error is not None:
                self._log_failure(job.task.name, end.lease.task_id, error.error.code)
            self._finisher.add_nowait(end)

        if job.task.signature.takes_context:
            job.context = self._context(job)
        try:
            if job.task.signature.is_async:
                report(await run_async(job))
            else:
                await run_sync(job, self._limiter, report, lambda: self._abandoned.append(job.task.name))
        finally:
            if not reported:
                self._finisher.add_nowait(conclude_interrupted(job))
            self._threads_free += not job.task.signature.is_async
            del self._running[job.claimed.lease.task_id]
            self._wake.set()

    def _context(self, job: Job) -> TaskContext:
        claimed = job.claimed
        runtime: Runtime = self._host  # type: ignore[assignment]  # the one host there is
        return TaskContext(
            task_id=claimed.lease.task_id,
            task_name=claimed.task_name,
            queue=claimed.queue,
            attempt=claimed.attempt + 1,
            good_until=claimed.good_until,
            worker_id=self.worker_id,
            metadata=MappingProxyType(dict(job.envelope.metadata)),
            runtime=runtime,
            state=self._state,
        )

    def _count(self, status: TaskStatus) -> None:
        names = {TaskStatus.COMPLETED: "completed", TaskStatus.FAILED: "failed", TaskStatus.PENDING: "retried"}
        self._counts[names[status]] += 1
        if status is TaskStatus.PENDING:
            self._next_due = 0.0

    def _log_failure(self, name: str, task_id: str, code: str) -> None:
        extra = {"task_name": name, "task_id": task_id, "worker_id": self.worker_id, "error_code": code}
        level = logging.INFO if is_user_code(code) else logging.WARNING
        logger.log(level, "task %r %s ended with %s", name, task_id, code, extra=extra)

    def _is_alive(self) -> bool:
        """Whether the heartbeat is young enough to claim; the claim itself has the database ask the same."""
        return anyio.current_time() - self._last_beat < self._recovery.dead_after

    async def _wait_for_work(self) -> None:
        """Wait for a notice, a freed slot, the next due time or the poll interval."""
        timeout = min(self._resilience.poll_interval, max(0.0, self._next_due - anyio.current_time()))
        if not await self._wait_woken(timeout):
            self._hungry = True
            if timeout >= self._resilience.poll_interval:
                self._next_due = 0.0

    async def _wait_woken(self, timeout: float | None) -> bool:
        with anyio.move_on_after(timeout):
            await self._wake.wait()
        woken = self._wake.is_set()
        self._wake = anyio.Event()
        return woken

    async def _listen(self) -> None:
        waits = pauses(self._resilience, self._environment.random)
        while True:
            try:
                async with self._host.broker.listen(Topic.QUEUES) as listener:
                    waits = pauses(self._resilience, self._environment.random)
                    names = [""]
                    while True:
                        if any(not name or name.startswith("+") for name in names):
                            self._next_due = 0.0
                        self._hungry = True
                        self._wake.set()
                        names = await listener.receive()
            except BrokerError as error:
                pause = next(waits)
                logger.warning("worker %s: no notifications: %s", self.worker_id, error.message)
                await anyio.sleep(pause)

    async def _beat(self, consumer: Consumer) -> None:
        await consumer.beat()
        self._last_beat = anyio.current_time()

    async def _keep_beating(self, consumer: Consumer) -> None:
        waits = pauses(self._resilience, self._environment.random)
        pause = self._recovery.heartbeat_interval
        while True:
            await anyio.sleep(pause)
            try:
                await self._beat(consumer)
            except BrokerError as error:
                pause = min(next(waits), self._recovery.heartbeat_interval)
                logger.warning("worker %s: cannot write its heartbeat: %s", self.worker_id, error.message)
            else:
                waits = pauses(self._resilience, self._environment.random)
                pause = self._recovery.heartbeat_interval

    async def _keep_expiring(self, consumer: Consumer) -> None:
        while True:
            try:
                while (expired := await consumer.expire(EXPIRE_BATCH)) > 0:
                    self._counts["expired"] += expired
            except BrokerError as error:
                logger.warning("worker %s: cannot expire overdue tasks: %s", self.worker_id, error.message)
            await anyio.sleep(self._recovery.reap_interval)


def _served(host: Host, config: WorkerConfig) -> list[QueueConfig]:
    """The queues a worker serves.

    Raises:
        HorsiesError: HRS-215 for a queue the application lacks, HRS-201 for a cap, which nothing enforces yet.
    """
    app = host.app
    capped = [queue.name for queue in app.queues.values() if queue.max_concurrency is not None]
    if capped or app.config.cluster_wide_cap is not None:
        raise HorsiesError(
            "HRS-201",
            "this version of horsies does not enforce caps, so a worker does not run under them",
            ["remove cluster_wide_cap and max_concurrency", *(f"queue {name!r} has one" for name in capped)],
        )
    unknown = [name for name in config.queues or () if name not in app.queues]
    if unknown:
        raise HorsiesError(
            "HRS-215",
            f"the worker is to serve {', '.join(map(repr, unknown))}, which the application does not have",
            [f"its queues: {', '.join(app.queues)}"],
        )
    return [app.queues[name] for name in config.queues or app.queues]


class _NoLifespan(AbstractAsyncContextManager[None]):
    async def __aexit__(self, *_: object) -> None:
        return None


def _lifespan(host: WorkerHost) -> AbstractAsyncContextManager[Any]:
    factory = host.app.lifespan_factory
    runtime: Runtime = host  # type: ignore[assignment]  # the one host there is
    return _NoLifespan() if factory is None else factory(runtime)
