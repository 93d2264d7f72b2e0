"""`Runtime`: an application, open. One task group owns everything that runs in its name."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any, ParamSpec, TypeVar

import anyio
import anyio.abc

from .._core.config import WorkerConfig
from .._core.errors import BrokerError, HorsiesError
from .._core.instants import nearest_instant
from .._core.result import Err, Ok, Result
from .._core.urls import scheme_of
from .._declare.app import Horsies
from .._declare.context import AttemptContext
from .._declare.current_runtime import registered
from .._declare.schedule import Schedule
from .._declare.task import Task
from .._payload.send_error import TaskSendError
from .._schedule.scheduler import Scheduler
from .._send.as_completed import completed
from .._send.batcher import Batcher
from .._send.contact import Contact
from .._send.forks import refuse_in_fork
from .._send.gateway import NO_CONNECTION, NOTHING_TO_JOIN, Environment
from .._send.nursery import open_nursery
from .._send.suppression import SuppressedError, are_suppressed
from .._send.task_function import TaskFunction, TaskSendResult, bind
from .._send.task_handle import TaskHandle
from .._send.waiters import Waiters, ended_tasks
from .._worker.execution.process_main import refuse_while_loading
from .._worker.intake.decide import Timings
from .._worker.worker import Worker
from ..abc import (
    Broker,
    BrokerFactory,
    CancelOutcome,
    Enqueued,
    NewTask,
    Schedules,
    Serializer,
    StoredResult,
    SupportsDelay,
    TaskRow,
    Transactional,
)
from . import schedules
from .check import check
from .plugins import Plugins
from .queues import QueueInfo, queue_infos, require_queue
from .schedules import BackfillInfo, ScheduleInfo, require_schedule, require_store
from .workflows import RunsWorkflows

P = ParamSpec("P")
T = TypeVar("T")


class TaskContext(AttemptContext["Runtime"]):
    """The first parameter of a task that wants it; not part of its arguments."""

    runtime: Runtime
    """Runtime that the worker belongs to, for further sends."""


class Runtime(RunsWorkflows, anyio.AsyncContextManagerMixin):
    """An application, open, in whichever event loop is running.

    `async with Runtime(app) as rt:` loads the plugins, connects, brings the schema up to date, and on the way out ends
    everything it started: workers drain on a normal exit, and are cut short on cancellation.

    Raises:
        HorsiesError: on entering: HRS-217 for plugins, HRS-203 and HRS-211 for the database, HRS-218 for its schema.
    """

    timings = Timings()
    """How long workers wait for this and that."""
    app: Horsies
    """The application."""
    environment: Environment
    """Clock, chance and ids of the runtime."""

    def __init__(self, app: Horsies, *, environment: Environment | None = None) -> None:
        self.app = app
        self.environment = environment or Environment()
        self.contact = Contact(app.config.resilience, self.environment.random)
        self._plugins: Plugins | None = None
        self._broker: Broker | None = None
        self._group: anyio.abc.TaskGroup | None = None
        self._batcher: Batcher
        self._waiters: Waiters[StoredResult]
        self._advancer = None
        self._workflow_waiters = None
        self._workers: list[Worker] = []
        self._opened_by: int | None = None

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Runtime]:
        if self._broker is not None:
            raise HorsiesError("HRS-211", "this Runtime has been opened before", ["make a new one for each scope"])
        refuse_while_loading()
        self._opened_by = os.getpid()
        config = self.app.config
        async with self.broker_factory().open(config, clock=self.environment.clock) as self._broker:
            if self.app.schedules:
                require_store(self._broker)
            lookup = partial(ended_tasks, self._broker)
            self._waiters = Waiters(self._broker, lookup, config.resilience, self.contact)
            self._batcher = Batcher(self._broker, self.contact)
            self._open_workflows(self._broker)
            with registered(self):
                async with self._nursery():
                    yield self

    @asynccontextmanager
    async def _nursery(self) -> AsyncGenerator[None]:
        """The task group of this runtime, with its services; workers drain when the body ends in order."""
        try:
            async with open_nursery() as self._group:
                self._group.start_soon(self._batcher.run)
                self._group.start_soon(self._waiters.run)
                self._serve_workflows(self._group)
                yield
                async with anyio.create_task_group() as drains:
                    for worker in self._workers:
                        drains.start_soon(worker.drain)
                self._group.cancel_scope.cancel()
        finally:
            self._group = None

    def broker_factory(self) -> BrokerFactory:
        """The broker plugin that the application's URL chooses.

        Raises:
            HorsiesError: HRS-217, everything that no plugin offers.
        """
        self._plugins = check(self.app)
        return self._plugins.brokers[scheme_of(self.app.config.url) or ""]

    def refuse_in_fork(self) -> None:
        """For whatever uses the runtime. Raises: HorsiesError, HRS-211, in a fork of the process that opened it."""
        refuse_in_fork(self._opened_by)

    @property
    def broker(self) -> Broker:
        """The open broker.

        Raises:
            HorsiesError: HRS-211 if the runtime is not open.
        """
        self.refuse_in_fork()
        if self._broker is None or self._group is None:
            raise _not_open()
        return self._broker

    @property
    def serializers(self) -> Mapping[str, Serializer]:
        """The installed serializers by name."""
        return self._opened().serializers

    @property
    def retry_policies(self) -> Mapping[str, SupportsDelay]:
        """The installed retry policies by name."""
        return self._opened().retry_policies

    def _opened(self) -> Plugins:
        if self._plugins is None:
            raise _not_open()
        return self._plugins

    @property
    def runtime(self) -> Runtime:
        """For workers: see `horsies._worker.gateway.WorkerGateway`."""
        return self

    @property
    def context_type(self) -> type[TaskContext]:
        """For workers: see `horsies._worker.gateway.WorkerGateway`."""
        return TaskContext

    def bind(self, task: Task[P, T]) -> TaskFunction[P, T]:
        """Bind `task` to this runtime, as `task.handle(rt)` does.

        Raises:
            HorsiesError: HRS-300 when the application has not registered `task`.
        """
        self.refuse_in_fork()
        return bind(self, task)

    def handle(self, task_id: str) -> TaskHandle[Any]:
        """Make a handle for a task by its id, whichever process sent it. No I/O.

        Whether the task exists is known when the handle is used.
        """
        self.refuse_in_fork()
        return TaskHandle(self, task_id)

    async def run_worker(
        self,
        config: WorkerConfig | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run a worker in the calling task, until it is cancelled or (`until_idle`) has nothing left to do.

        Raises:
            HorsiesError: HRS-215 for a queue the application lacks.
        """
        self.refuse_in_fork()
        self._opened()
        worker = Worker(self, config)
        self._workers.append(worker)
        await self._run_known(worker, task_status=task_status)

    def start_worker(self, config: WorkerConfig | None = None) -> Worker:
        """Run a worker in the runtime's own task group. It drains when the runtime closes.

        Raises:
            HorsiesError: HRS-215 for a queue the application lacks.
        """
        self.refuse_in_fork()
        if self._group is None:
            raise _not_open()
        worker = Worker(self, config)
        self._workers.append(worker)
        self._group.start_soon(self._run_known, worker, name=f"horsies worker {worker.worker_id}")
        return worker

    async def _run_known(
        self, worker: Worker, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            await worker.run(task_status=task_status)
        finally:
            self._workers.remove(worker)

    def check(self) -> None:
        """Validate the application statically.

        Raises:
            HorsiesError: with every problem found.
        """
        check(self.app)

    async def check_live(self) -> str:
        """Validate the application as `check` does, then reach the database.

        Returns:
            What answered, in one line.

        Raises:
            HorsiesError: HRS-211 when the database does not answer.
        """
        self.check()
        return await self.broker.check()

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A psycopg connection with an open transaction, for `TaskFunction.using` and for statements of your own.

        `async with rt.transaction() as connection:` commits at the end of the block, and rolls back when the block
        raises or is cancelled. The connection is of this runtime's pool and works on Trio as on asyncio.

        Raises:
            HorsiesError: HRS-211 when the broker shares no transactions.
            BrokerError: on entering: the database does not answer.
        """
        broker = self.broker
        if not isinstance(broker, Transactional):
            raise HorsiesError("HRS-211", _NO_TRANSACTIONS, ["use a postgresql:// URL for it"])
        return broker.transaction()

    async def queues(self) -> Result[list[QueueInfo], BrokerError]:
        """Count the tasks of each queue.

        Returns:
            The application's queues in their order, then others that have tasks; `Err` if the database failed.
        """
        try:
            return Ok(queue_infos(self.app, await self.broker.reader.queues()))
        except BrokerError as error:
            return Err(error)

    async def pause_queue(self, name: str) -> Result[bool, BrokerError]:
        """Let no worker claim from a queue any more. Running tasks go on.

        Returns:
            True if the queue was not paused before; `Err` if the database failed.

        Raises:
            HorsiesError: HRS-200, the application has no such queue.
        """
        require_queue(self.app, name)
        try:
            return Ok(await self.broker.control.pause(name))
        except BrokerError as error:
            return Err(error)

    async def resume_queue(self, name: str) -> Result[bool, BrokerError]:
        """Let workers claim from a queue again, at once.

        Returns:
            True if the queue was paused; `Err` if the database failed.

        Raises:
            HorsiesError: HRS-200, the application has no such queue.
        """
        require_queue(self.app, name)
        try:
            return Ok(await self.broker.control.resume(name))
        except BrokerError as error:
            return Err(error)

    async def schedules(self) -> Result[list[ScheduleInfo], BrokerError]:
        """Read where each schedule stands.

        Returns:
            The application's schedules in their order, then others that the database has; `Err` if the database failed.

        Raises:
            HorsiesError: HRS-205, the broker keeps no schedules.
        """
        try:
            return Ok(schedules.schedule_infos(self.app, await require_store(self.broker).read()))
        except BrokerError as error:
            return Err(error)

    async def pause_schedule(self, name: str) -> Result[bool, BrokerError]:
        """Send nothing for a schedule any more. Tasks that were sent go on.

        Returns:
            True if the schedule was not paused before; `Err` if the database failed.

        Raises:
            HorsiesError: HRS-205, the application has no such schedule, or the broker keeps none.
        """
        return await self._with_schedule(schedules.pause, name)

    async def resume_schedule(self, name: str) -> Result[bool, BrokerError]:
        """Send for a schedule again, from its first slot after now on.

        Returns:
            True if the schedule was paused; `Err` if the database failed.

        Raises:
            HorsiesError: HRS-205, the application has no such schedule, or the broker keeps none.
        """
        return await self._with_schedule(schedules.resume, name)

    async def _with_schedule(
        self, change: Callable[[Schedule, Schedules], Awaitable[bool]], name: str
    ) -> Result[bool, BrokerError]:
        schedule, store = require_schedule(self.app, name), require_store(self.broker)
        try:
            return Ok(await change(schedule, store))
        except BrokerError as error:
            return Err(error)

    async def trigger_schedule(self, name: str) -> TaskSendResult[TaskHandle[Any]]:
        """Send a schedule's task now, beside its slots, whether it is paused or not.

        Returns:
            As `TaskFunction.send`. With overlap="skip" and an unfinished task, the handle is that task's.

        Raises:
            HorsiesError: HRS-205, the application has no such schedule.
        """
        return await schedules.trigger(self, require_schedule(self.app, name))

    async def backfill_schedule(
        self, name: str, start: datetime, end: datetime
    ) -> Result[BackfillInfo, TaskSendError | BrokerError]:
        """Send for each slot from `start` to `end`, both included, that has come and has no task.

        A slot that was sent for is not sent for again, for as long as its task is kept, so what failed half-way is
        simply run again. `good_until` counts from now; overlap and jitter do not apply.

        Args:
            name: name of the schedule.
            start: first instant of the range, aware.
            end: last instant of the range, aware. A range that reaches into the future ends now.

        Returns:
            How many slots were sent for; `Err` if a send or the database failed.

        Raises:
            HorsiesError: HRS-205, the application has no such schedule, or the broker keeps none.
            ValueError: an instant is not aware.
        """
        schedule, store = require_schedule(self.app, name), require_store(self.broker)
        try:
            first, last = nearest_instant(start), nearest_instant(end)
        except ValueError as error:
            raise ValueError(f"backfill_schedule needs instants with a time zone: start or end {error}") from None
        try:
            return await schedules.backfill(self, store, schedule, first, last)
        except BrokerError as error:
            return Err(error)

    async def run_scheduler(self) -> None:
        """Send for the application's schedules until cancelled, without running tasks. Workers do it as well.

        What the database refuses is logged, and tried again.
        """
        await self.keep_schedules(lambda: True)

    async def keep_schedules(self, goes_first: Callable[[], bool]) -> None:
        """For workers: see `horsies._worker.gateway.WorkerGateway`."""
        await Scheduler(self, require_store(self.broker), goes_first).run()

    def as_completed(
        self, handles: Iterable[TaskHandle[T]]
    ) -> AbstractAsyncContextManager[AsyncIterator[TaskHandle[T]]]:
        """Handles in the order in which their tasks end.

        `async with rt.as_completed(handles) as done:`, then `async for handle in done:`; each handle's `get` answers at
        once. One whose task is not there, or cannot be asked for, comes too, and its `get` says so.
        """
        self.refuse_in_fork()
        return completed(handles)

    async def submit(
        self, tasks: Sequence[NewTask], *, replay: bool, connection: object | None
    ) -> list[Enqueued | BrokerError]:
        """For senders: see `horsies._send.gateway.Gateway`."""
        self.refuse_in_fork()
        if connection is None:
            return await self._batcher.submit(tasks, replay=replay)
        broker = self.broker
        if not isinstance(broker, Transactional):
            raise ValueError(_NO_TRANSACTIONS)
        if connection is NO_CONNECTION:
            raise ValueError(NOTHING_TO_JOIN)
        producer = broker.joining(connection)
        if are_suppressed():
            await anyio.lowlevel.checkpoint()
            return [SuppressedError() for _ in tasks]
        try:
            return [*await producer.enqueue(tasks)]
        except BrokerError as error:
            return [error] * len(tasks)

    async def cancel(self, task_id: str) -> CancelOutcome:
        """For handles: cancel a task, or ask for it. Raises: BrokerError."""
        (outcome,) = await self.broker.control.cancel([task_id])
        return outcome

    async def wait_finished(self, task_id: str, timeout: float | None = None) -> StoredResult | None:
        """For handles: wait for a task's end. Raises: BrokerError, TimeoutError."""
        self.refuse_in_fork()
        return await self._waiters.wait_finished(task_id, timeout)

    async def read(self, task_id: str) -> TaskRow | None:
        """For handles: everything stored of a task. Raises: BrokerError."""
        return await self.broker.reader.read(task_id)

    def __repr__(self) -> str:
        return f"<Runtime {self.app.config.masked_url}, {'open' if self._group is not None else 'closed'}>"


_NO_TRANSACTIONS = "this runtime's broker takes no part in transactions of the application"


def _not_open() -> HorsiesError:
    return HorsiesError("HRS-211", "the runtime is not open", ["use it inside `async with Runtime(app) as rt:`"])
