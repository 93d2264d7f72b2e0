"""`Runtime`: an application, open. One task group owns everything that runs in its name."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Any, ParamSpec, TypeVar

import anyio
import anyio.abc

from .._core.config import WorkerConfig
from .._core.errors import BrokerError, HorsiesError
from .._core.instants import nearest_instant
from .._core.result import Err, Ok, Result
from .._core.status import WorkflowStatus
from .._declare.app import Horsies
from .._declare.context import AttemptContext
from .._declare.schedule import Schedule
from .._declare.task import Task
from .._declare.workflow import Workflow
from .._payload.send_error import TaskSendError
from .._payload.start_payload import WorkflowStartPayload
from .._send.as_completed import completed
from .._send.gateway import Environment
from .._send.task_function import TaskFunction, TaskSendResult, bind
from .._send.task_handle import TaskHandle
from .._worker.worker import Worker
from .._workflow.definition.draft import WorkflowSpec
from .._workflow.view.infos import WorkflowInfo, info_of
from .._workflow.workflow_function import WorkflowFunction, retry_start, start
from .._workflow.workflow_handle import WorkflowHandle
from ..abc import BrokerFactory, Schedules
from . import schedules
from .check import check
from .engine import Engine
from .queues import QueueInfo, queue_infos, require_queue
from .schedules import BackfillInfo, ScheduleInfo, require_schedule, require_store

P = ParamSpec("P")
T = TypeVar("T")


class TaskContext(AttemptContext["Runtime"]):
    """The first parameter of a task that wants it; not part of its arguments."""

    runtime: Runtime
    """Runtime that the worker belongs to, for further sends."""


class Runtime(anyio.AsyncContextManagerMixin):
    """An application, open, in whichever event loop is running.

    `async with Runtime(app) as rt:` loads the plugins, connects, brings the schema up to date, and on the way out ends
    everything it started: workers drain on a normal exit, and are cut short on cancellation.

    Raises:
        HorsiesError: on entering: HRS-217 for plugins, HRS-203 and HRS-211 for the database, HRS-218 for its schema.
    """

    def __init__(self, app: Horsies, *, environment: Environment | None = None) -> None:
        self._engine = Engine(app, environment or Environment(), self, TaskContext)

    @property
    def app(self) -> Horsies:
        """The application."""
        return self._engine.app

    @property
    def environment(self) -> Environment:
        """Clock, chance and ids of the runtime."""
        return self._engine.environment

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Runtime]:
        async with self._engine.open():
            yield self

    def broker_factory(self) -> BrokerFactory:
        """Plugin of the broker that the application's URL chooses; the runtime need not be open.

        Raises:
            HorsiesError: HRS-217, everything that no plugin offers.
        """
        return self._engine.broker_factory()

    def bind(self, task: Task[P, T]) -> TaskFunction[P, T]:
        """Bind `task` to this runtime, as `task.handle(rt)` does.

        Raises:
            HorsiesError: HRS-300 when the application has not registered `task`.
        """
        self._engine.refuse_in_fork()
        return bind(self._engine, task)

    def handle(self, task_id: str) -> TaskHandle[Any]:
        """Make a handle for a task by its id, whichever process sent it. No I/O.

        Whether the task exists is known when the handle is used.
        """
        self._engine.refuse_in_fork()
        return TaskHandle(self._engine, task_id)

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
        await self._engine.run_worker(config, task_status=task_status)

    def start_worker(self, config: WorkerConfig | None = None) -> Worker:
        """Run a worker in the runtime's own task group. It drains when the runtime closes.

        Raises:
            HorsiesError: HRS-215 for a queue the application lacks.
        """
        return self._engine.start_worker(config)

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
        return await self._engine.broker.check()

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A psycopg connection with an open transaction, for `TaskFunction.using` and for statements of your own.

        `async with rt.transaction() as connection:` commits at the end of the block, and rolls back when the block
        raises or is cancelled. The connection is of this runtime's pool and works on Trio as on asyncio.

        Raises:
            HorsiesError: HRS-211 when the broker shares no transactions.
            BrokerError: on entering: the database does not answer.
        """
        return self._engine.transactional().transaction()

    async def queues(self) -> Result[list[QueueInfo], BrokerError]:
        """Count the tasks of each queue.

        Returns:
            The application's queues in their order, then others that have tasks; `Err` if the database failed.
        """
        try:
            return Ok(queue_infos(self.app, await self._engine.broker.reader.queues()))
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
            return Ok(await self._engine.broker.control.pause(name))
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
            return Ok(await self._engine.broker.control.resume(name))
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
            return Ok(schedules.schedule_infos(self.app, await require_store(self._engine.broker).read()))
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
        schedule, store = require_schedule(self.app, name), require_store(self._engine.broker)
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
        return await schedules.trigger(self._engine, require_schedule(self.app, name))

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
        schedule, store = require_schedule(self.app, name), require_store(self._engine.broker)
        try:
            first, last = nearest_instant(start), nearest_instant(end)
        except ValueError as error:
            raise ValueError(f"backfill_schedule needs instants with a time zone: start or end {error}") from None
        try:
            return await schedules.backfill(self._engine, store, schedule, first, last)
        except BrokerError as error:
            return Err(error)

    async def run_scheduler(self) -> None:
        """Send for the application's schedules until cancelled, without running tasks. Workers do it as well.

        What the database refuses is logged, and tried again.
        """
        await self._engine.keep_schedules(lambda: True)

    def as_completed(
        self, handles: Iterable[TaskHandle[T]]
    ) -> AbstractAsyncContextManager[AsyncIterator[TaskHandle[T]]]:
        """Handles in the order in which their tasks end.

        `async with rt.as_completed(handles) as done:`, then `async for handle in done:`; each handle's `get` answers at
        once. One whose task is not there, or cannot be asked for, comes too, and its `get` says so.
        """
        self._engine.refuse_in_fork()
        return completed(handles)

    def bind_workflow(self, workflow: Workflow[P, T]) -> WorkflowFunction[P, T]:
        """Bind `workflow` to this runtime, as `workflow.handle(rt)` does.

        Raises:
            HorsiesError: HRS-300 when the application has not registered `workflow`.
        """
        self._engine.refuse_in_fork()
        if self.app.workflows.get(workflow.name) is not workflow:
            raise HorsiesError(
                "HRS-300",
                f"workflow {workflow.name!r} is not registered with this runtime's application",
                ["declare it with @app.workflow"],
            )
        return WorkflowFunction(self._engine, workflow)

    async def start(
        self, spec: WorkflowSpec, *, workflow_id: str | None = None, good_until: datetime | None = None
    ) -> Ok[WorkflowHandle[Any]] | Err[TaskSendError]:
        """Start a workflow that was built by hand, with `WorkflowBuilder`; see `WorkflowFunction.start`.

        Two starts under one id are one if all that they consist of is the same.
        """
        self._engine.refuse_in_fork()
        return await start(self._engine, spec, workflow_id, good_until)

    async def retry_start(
        self, failed: TaskSendError | WorkflowStartPayload
    ) -> Ok[WorkflowHandle[Any]] | Err[TaskSendError]:
        """Replay the start of a workflow of any name; see `WorkflowFunction.retry_start`."""
        return await retry_start(self._engine, failed)

    async def list_workflows(
        self,
        limit: int = 100,
        *,
        name: str | None = None,
        statuses: Collection[WorkflowStatus] | None = None,
        before: WorkflowInfo | None = None,
    ) -> Result[list[WorkflowInfo], BrokerError]:
        """List the newest workflows that are not part of another one, the newest first.

        Args:
            limit: maximum number of workflows.
            name: only workflows of this name; None: of every name.
            statuses: only workflows of these statuses; None: of every status.
            before: last workflow of the previous page; None: the first page.

        Returns:
            The workflows; `Err` if the database failed.

        Raises:
            HorsiesError: HRS-211, the broker keeps no workflows.
        """
        seen = None if before is None else (before.sent_at, before.workflow_id)
        try:
            found = await self._engine.workflows.newest(limit, name=name, statuses=statuses, before=seen)
        except BrokerError as error:
            return Err(error)
        return Ok(list(map(info_of, found)))

    def workflow(self, workflow_id: str) -> WorkflowHandle[Any]:
        """Make a handle for a workflow by its id, whichever process started it. No I/O."""
        self._engine.refuse_in_fork()
        return WorkflowHandle(self._engine, workflow_id)

    async def settle_workflows(self) -> None:
        """Wait until what follows from everything that this runtime did to workflows is written.

        Otherwise a worker sees to what is left when the runtime closes, after a cancelled workflow of thousands of
        nodes for example.
        """
        await self._engine.settle_workflows()

    def __repr__(self) -> str:
        return f"<Runtime {self.app.config.masked_url}, {'open' if self._engine.is_open else 'closed'}>"
