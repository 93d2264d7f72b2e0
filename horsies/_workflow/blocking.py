"""Workflows for synchronous programs."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

from .._core.errors import BrokerError
from .._core.result import Err, Ok, Result
from .._core.status import WorkflowStatus
from .._payload.send_error import TaskSendError
from .._payload.start_payload import WorkflowStartPayload
from .._send.portal import Portal
from .._send.task_handle import TaskResult
from .view.diagram import WorkflowGraph
from .view.infos import NodeInfo, WorkflowInfo
from .workflow_function import WorkflowFunction
from .workflow_handle import WorkflowHandle

P = ParamSpec("P")
T = TypeVar("T")


class BlockingWorkflowHandle(Generic[T]):
    """`WorkflowHandle` for synchronous programs."""

    def __init__(self, portal: Portal, handle: WorkflowHandle[T]) -> None:
        self._portal = portal
        self._handle = handle

    @property
    def workflow_id(self) -> str:
        """See `WorkflowHandle.workflow_id`."""
        return self._handle.workflow_id

    def get(self, timeout: float | timedelta | None = None) -> TaskResult[T]:
        """See `WorkflowHandle.get`."""
        return self._portal.call(self._handle.get, timeout)

    def status(self) -> Result[WorkflowStatus | None, BrokerError]:
        """See `WorkflowHandle.status`."""
        return self._portal.call(self._handle.status)

    def info(self) -> Result[WorkflowInfo | None, BrokerError]:
        """See `WorkflowHandle.info`."""
        return self._portal.call(self._handle.info)

    def graph(self) -> Result[WorkflowGraph | None, BrokerError]:
        """See `WorkflowHandle.graph`."""
        return self._portal.call(self._handle.graph)

    def tasks(self) -> Result[list[NodeInfo], BrokerError]:
        """See `WorkflowHandle.tasks`."""
        return self._portal.call(self._handle.tasks)

    def results(self) -> Result[dict[str, TaskResult[Any]], BrokerError]:
        """See `WorkflowHandle.results`."""
        found: Result[dict[str, TaskResult[Any]], BrokerError] = self._portal.call(self._handle.results)
        return found

    def result_for(self, node_id: str) -> TaskResult[Any]:
        """See `WorkflowHandle.result_for`."""
        result: TaskResult[Any] = self._portal.call(self._handle.result_for, node_id)
        return result

    def pause(self) -> Result[bool, BrokerError]:
        """See `WorkflowHandle.pause`."""
        return self._portal.call(self._handle.pause)

    def resume(self, *, rerun_failed: bool = False) -> Result[bool, BrokerError]:
        """See `WorkflowHandle.resume`."""
        return self._portal.call(partial(self._handle.resume, rerun_failed=rerun_failed))

    def cancel(self) -> Result[bool, BrokerError]:
        """See `WorkflowHandle.cancel`."""
        return self._portal.call(self._handle.cancel)

    def __repr__(self) -> str:
        return f"<BlockingWorkflowHandle {self.workflow_id}>"


class BlockingWorkflowFunction(Generic[P, T]):
    """`WorkflowFunction` for synchronous programs."""

    def __init__(self, portal: Portal, function: WorkflowFunction[P, T]) -> None:
        self._portal = portal
        self._function = function

    def with_id(self, workflow_id: str) -> BlockingWorkflowFunction[P, T]:
        """See `WorkflowFunction.with_id`."""
        return BlockingWorkflowFunction(self._portal, self._function.with_id(workflow_id))

    def good_until(self, at: datetime) -> BlockingWorkflowFunction[P, T]:
        """See `WorkflowFunction.good_until`."""
        return BlockingWorkflowFunction(self._portal, self._function.good_until(at))

    def using(self, connection: object) -> BlockingWorkflowFunction[P, T]:
        """See `WorkflowFunction.using`."""
        return BlockingWorkflowFunction(self._portal, self._function.using(connection))

    def retry_start(
        self, failed: TaskSendError | WorkflowStartPayload
    ) -> Ok[BlockingWorkflowHandle[T]] | Err[TaskSendError]:
        """See `WorkflowFunction.retry_start`."""
        return handled(self._portal, self._portal.call(self._function.retry_start, failed))

    def start(self, /, *args: P.args, **kwargs: P.kwargs) -> Ok[BlockingWorkflowHandle[T]] | Err[TaskSendError]:
        """See `WorkflowFunction.start`."""
        return handled(self._portal, self._portal.call(partial(self._function.start, *args, **kwargs)))


def handled(
    portal: Portal, started: Ok[WorkflowHandle[T]] | Err[TaskSendError]
) -> Ok[BlockingWorkflowHandle[T]] | Err[TaskSendError]:
    """What a start answers, for a synchronous program."""
    return Ok(BlockingWorkflowHandle(portal, started.value)) if isinstance(started, Ok) else started
