"""`blocking`: the same runtime for a synchronous program, served by an event loop in a thread of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from typing import Any, ParamSpec, TypeVar

import anyio.from_thread

from .._core.config import WorkerConfig
from .._core.errors import BrokerError
from .._core.result import Err, Ok, Result
from .._core.status import WorkflowStatus
from .._declare.app import Horsies
from .._declare.task import Task
from .._declare.workflow import Workflow
from .._payload.send_error import TaskSendError
from .._payload.start_payload import WorkflowStartPayload
from .._send.blocking import BlockingTaskFunction, BlockingTaskHandle
from .._send.portal import Portal
from .._send.task_function import TaskSendResult
from .._send.task_handle import TaskHandle
from .._worker.worker import Worker, WorkerStatistics
from .._workflow.blocking import BlockingWorkflowFunction, BlockingWorkflowHandle, handled
from .._workflow.definition.draft import WorkflowSpec
from .._workflow.view.infos import WorkflowInfo
from .queues import QueueInfo
from .runtime import Runtime
from .schedules import BackfillInfo, ScheduleInfo

P = ParamSpec("P")
T = TypeVar("T")


class BlockingWorker:
    """`Worker` for synchronous programs."""

    def __init__(self, portal: Portal, worker: Worker) -> None:
        self._portal = portal
        self._worker = worker

    def drain(self) -> None:
        """See `Worker.drain`."""
        self._portal.call(self._worker.drain)

    def statistics(self) -> WorkerStatistics:
        """See `Worker.statistics`."""
        return self._portal.call(self._worker.statistics)


class BlockingRuntime:
    """`Runtime` for synchronous programs; made by `blocking`."""

    def __init__(self, portal: Portal, runtime: Runtime) -> None:
        self._portal = portal
        self._runtime = runtime

    @property
    def app(self) -> Horsies:
        """The application."""
        return self._runtime.app

    def bind(self, task: Task[P, T]) -> BlockingTaskFunction[P, T]:
        """Bind `task` to this runtime; see `Runtime.bind`."""
        return BlockingTaskFunction(self._portal, self._runtime.bind(task))

    def handle(self, task_id: str) -> BlockingTaskHandle[Any]:
        """See `Runtime.handle`."""
        return BlockingTaskHandle(self._portal, self._runtime.handle(task_id))

    @contextmanager
    def as_completed(self, handles: Iterable[BlockingTaskHandle[T]]) -> Iterator[Iterator[BlockingTaskHandle[T]]]:
        """Give handles in the order in which their tasks end: `with rt.as_completed(handles) as done:`.

        See `Runtime.as_completed`.
        """
        inner = self._runtime.as_completed([handle._handle for handle in handles])
        with self._portal.wrap_async_context_manager(inner) as done:
            yield self._each(done)

    def _each(self, done: AsyncIterator[TaskHandle[T]]) -> Iterator[BlockingTaskHandle[T]]:
        async def following() -> TaskHandle[T] | None:
            return await anext(done, None)

        while (handle := self._portal.call(following)) is not None:
            yield BlockingTaskHandle(self._portal, handle)

    def run_worker(self, config: WorkerConfig | None = None) -> None:
        """See `Runtime.run_worker`."""
        self._portal.call(self._runtime.run_worker, config)

    def start_worker(self, config: WorkerConfig | None = None) -> BlockingWorker:
        """See `Runtime.start_worker`."""
        return BlockingWorker(self._portal, self._portal.call(self._runtime.start_worker, config))

    def queues(self) -> Result[list[QueueInfo], BrokerError]:
        """See `Runtime.queues`."""
        return self._portal.call(self._runtime.queues)

    def pause_queue(self, name: str) -> Result[bool, BrokerError]:
        """See `Runtime.pause_queue`."""
        return self._portal.call(self._runtime.pause_queue, name)

    def resume_queue(self, name: str) -> Result[bool, BrokerError]:
        """See `Runtime.resume_queue`."""
        return self._portal.call(self._runtime.resume_queue, name)

    def schedules(self) -> Result[list[ScheduleInfo], BrokerError]:
        """See `Runtime.schedules`."""
        return self._portal.call(self._runtime.schedules)

    def pause_schedule(self, name: str) -> Result[bool, BrokerError]:
        """See `Runtime.pause_schedule`."""
        return self._portal.call(self._runtime.pause_schedule, name)

    def resume_schedule(self, name: str) -> Result[bool, BrokerError]:
        """See `Runtime.resume_schedule`."""
        return self._portal.call(self._runtime.resume_schedule, name)

    def trigger_schedule(self, name: str) -> TaskSendResult[BlockingTaskHandle[Any]]:
        """See `Runtime.trigger_schedule`."""
        sent = self._portal.call(self._runtime.trigger_schedule, name)
        return Ok(BlockingTaskHandle(self._portal, sent.value)) if isinstance(sent, Ok) else sent

    def backfill_schedule(
        self, name: str, start: datetime, end: datetime
    ) -> Result[BackfillInfo, TaskSendError | BrokerError]:
        """See `Runtime.backfill_schedule`."""
        return self._portal.call(self._runtime.backfill_schedule, name, start, end)

    def bind_workflow(self, workflow: Workflow[P, T]) -> BlockingWorkflowFunction[P, T]:
        """Bind `workflow` to this runtime; see `Runtime.bind_workflow`."""
        return BlockingWorkflowFunction(self._portal, self._runtime.bind_workflow(workflow))

    def start(
        self, spec: WorkflowSpec, *, workflow_id: str | None = None, good_until: datetime | None = None
    ) -> Ok[BlockingWorkflowHandle[Any]] | Err[TaskSendError]:
        """See `Runtime.start`."""
        start = partial(self._runtime.start, spec, workflow_id=workflow_id, good_until=good_until)
        return handled(self._portal, self._portal.call(start))

    def retry_start(
        self, failed: TaskSendError | WorkflowStartPayload
    ) -> Ok[BlockingWorkflowHandle[Any]] | Err[TaskSendError]:
        """See `Runtime.retry_start`."""
        return handled(self._portal, self._portal.call(self._runtime.retry_start, failed))

    def list_workflows(
        self,
        limit: int = 100,
        *,
        name: str | None = None,
        statuses: Collection[WorkflowStatus] | None = None,
        before: WorkflowInfo | None = None,
    ) -> Result[list[WorkflowInfo], BrokerError]:
        """See `Runtime.list_workflows`."""
        ask = partial(self._runtime.list_workflows, limit, name=name, statuses=statuses, before=before)
        return self._portal.call(ask)

    def workflow(self, workflow_id: str) -> BlockingWorkflowHandle[Any]:
        """See `Runtime.workflow`."""
        return BlockingWorkflowHandle(self._portal, self._runtime.workflow(workflow_id))

    def check(self) -> None:
        """See `Runtime.check`."""
        self._runtime.check()

    def check_live(self) -> str:
        """See `Runtime.check_live`."""
        return self._portal.call(self._runtime.check_live)


@contextmanager
def blocking(app: Horsies, *, backend: str = "asyncio") -> Iterator[BlockingRuntime]:
    """Open a runtime for a synchronous program: `with blocking(app) as rt:`.

    Args:
        app: the application.
        backend: the event loop behind it, `asyncio` or `trio`.

    Raises:
        HorsiesError: as `Runtime`.
    """
    with ExitStack() as stack:
        portal = stack.enter_context(anyio.from_thread.start_blocking_portal(backend))
        runtime = stack.enter_context(portal.wrap_async_context_manager(Runtime(app)))
        way_in = Portal(portal)
        try:
            yield BlockingRuntime(way_in, runtime)
        finally:
            if way_in.let_go():
                stack.pop_all()  # it is for the process that has opened it to close it
