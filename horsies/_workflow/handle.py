"""A workflow that was started, from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

import anyio

from .._core.codes import TaskErrorCode
from .._core.errors import BrokerError, TaskError
from .._core.result import Err, Ok, Result
from .._core.status import NodeStatus, TaskStatus, WorkflowStatus
from .._payload.ids import node_task_id
from .._task.handle import TaskResult, result_of
from .._task.options import as_timedelta
from ..abc import Step, WorkflowRow
from .advancer import ends, follow, read_spec, read_state, with_cancelled
from .engine import Cancelled, Event, Paused, Resumed
from .host import WorkflowHost

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node as it stands. `task_id` is that of its last run; None: it has not run."""

    node_id: str
    task_name: str
    status: NodeStatus
    task_id: str | None
    error_code: str | None


def _failed(row: WorkflowRow) -> tuple[TaskErrorCode, str]:
    (spec, _), state = read_spec(row.spec), read_state(row.state)
    failed = [spec.nodes[index].node_id for index, status in enumerate(state.nodes) if status is NodeStatus.FAILED]
    why = f"node {failed[0]!r} ended with {row.error_code}" if failed else "its output or its success policy is not met"
    return TaskErrorCode.WORKFLOW_FAILED, f"workflow {row.name!r} {row.workflow_id}: {why}"


def _ended(code: TaskErrorCode, what: str) -> Callable[[WorkflowRow], tuple[TaskErrorCode, str]]:
    return lambda row: (code, f"workflow {row.name!r} {row.workflow_id} {what}")


_NOT_COMPLETED = {
    WorkflowStatus.FAILED: _failed,
    WorkflowStatus.PAUSED: _ended(TaskErrorCode.WORKFLOW_PAUSED, "is paused"),
    WorkflowStatus.CANCELLED: _ended(TaskErrorCode.WORKFLOW_CANCELLED, "was cancelled"),
    WorkflowStatus.EXPIRED: _ended(TaskErrorCode.WORKFLOW_EXPIRED, "expired"),
}


def _node_infos(row: WorkflowRow, running: Collection[str]) -> list[NodeInfo]:
    (spec, _), state = read_spec(row.spec), read_state(row.state)
    infos = []
    for index, node in enumerate(spec.nodes):
        task_id = node_task_id(row.workflow_id, index, state.runs[index]) if state.runs[index] else None
        status = state.nodes[index]
        if status is NodeStatus.ENQUEUED and task_id in running:
            status = NodeStatus.RUNNING
        infos.append(NodeInfo(node.node_id, node.task_name, status, task_id, state.codes.get(index)))
    return infos


class WorkflowHandle(Generic[T]):
    """A workflow by its id."""

    def __init__(self, host: WorkflowHost, workflow_id: str) -> None:
        self._host = host
        self.workflow_id = workflow_id

    async def get(self, timeout: float | timedelta | None = None) -> TaskResult[T]:
        """Wait for the workflow's end, and give the result of its output node; `Ok(None)` when it has none.

        Args:
            timeout: seconds or a timedelta; when it runs out the answer is WAIT_TIMEOUT and the workflow goes on.

        Returns:
            The output, or `Err` with WORKFLOW_FAILED, WORKFLOW_CANCELLED, WORKFLOW_EXPIRED, WORKFLOW_PAUSED (at once),
            WORKFLOW_NOT_FOUND, WAIT_TIMEOUT, BROKER_ERROR or RESULT_NOT_AVAILABLE.
        """
        span = None if timeout is None else as_timedelta(timeout)
        if timeout is not None and span is None:
            raise ValueError("timeout of get() is not a number of seconds")
        try:
            with anyio.move_on_after(None if span is None else max(0.0, span.total_seconds())):
                row = await self._host.wait_workflow(self.workflow_id)
                return self._missing() if row is None else await self._result(row)
        except BrokerError as error:
            return Err(TaskError(TaskErrorCode.BROKER_ERROR, error.message))
        what = f"workflow {self.workflow_id} has not ended in time; it goes on"
        return Err(TaskError(TaskErrorCode.WAIT_TIMEOUT, what))

    async def status(self) -> Result[WorkflowStatus | None, BrokerError]:
        """Where the workflow stands; None when there is none."""
        try:
            row = await self._host.workflows.read(self.workflow_id)
        except BrokerError as error:
            return Err(error)
        return Ok(None if row is None else WorkflowStatus(row.status))

    async def tasks(self) -> Result[list[NodeInfo], BrokerError]:
        """Every node as it stands, in the order in which they were declared; none when there is no such workflow."""
        try:
            row = await self._host.workflows.read(self.workflow_id)
            tasks = [] if row is None else await self._host.workflows.tasks(self.workflow_id)
        except BrokerError as error:
            return Err(error)
        running = {task_id for task_id, status, _ in tasks if status is TaskStatus.RUNNING}
        return Ok([] if row is None else _node_infos(row, running))

    async def results(self) -> Result[dict[str, TaskResult[Any]], BrokerError]:
        """The results of all nodes that have ended, by node id; UPSTREAM_SKIPPED for those that were skipped."""
        try:
            row = await self._host.workflows.read(self.workflow_id)
            return Ok({} if row is None else await self._results(row))
        except BrokerError as error:
            return Err(error)

    async def result_for(self, node_id: str) -> TaskResult[Any]:
        """The result of one node; RESULT_NOT_READY while it has none, TASK_NOT_FOUND when there is no such node."""
        try:
            row = await self._host.workflows.read(self.workflow_id)
            if row is None:
                return self._missing()
            found = (await self._results(row)).get(node_id)
        except BrokerError as error:
            return Err(TaskError(TaskErrorCode.BROKER_ERROR, error.message))
        if found is not None:
            return found
        known = any(node.node_id == node_id for node in read_spec(row.spec)[0].nodes)
        code = TaskErrorCode.RESULT_NOT_READY if known else TaskErrorCode.TASK_NOT_FOUND
        what = "has not ended" if known else "is not in it"
        return Err(TaskError(code, f"workflow {self.workflow_id}: node {node_id!r} {what}"))

    async def pause(self) -> Result[bool, BrokerError]:
        """Start no more nodes; what runs goes on. Whether it was running."""
        return await self._tell(Paused(), WorkflowStatus.RUNNING)

    async def resume(self, *, rerun_failed: bool = False) -> Result[bool, BrokerError]:
        """Go on. Whether it was paused.

        Args:
            rerun_failed: what has FAILED runs again, and what was skipped for it may run.
        """
        return await self._tell(Resumed(rerun_failed), WorkflowStatus.PAUSED)

    async def cancel(self) -> Result[bool, BrokerError]:
        """End the workflow: what has not begun never does, what runs is cancelled. Whether it had not ended."""
        return await self._tell(Cancelled(), WorkflowStatus.RUNNING, WorkflowStatus.PAUSED)

    async def _tell(self, event: Event, *heeding: WorkflowStatus) -> Result[bool, BrokerError]:
        def decide(rows: Any) -> list[Step]:
            return [
                follow(self._host, news.row, [*ends(news.ended), event]) for news in rows if news.row.status in heeding
            ]

        try:
            steps = await self._host.workflows.advance([self.workflow_id], decide)
        except BrokerError as error:
            return Err(error)
        self._host.nodes_ended(with_cancelled(steps))
        return Ok(bool(steps))

    def _missing(self) -> Err[TaskError]:
        return Err(TaskError(TaskErrorCode.WORKFLOW_NOT_FOUND, f"there is no workflow {self.workflow_id}"))

    async def _result(self, row: WorkflowRow) -> TaskResult[Any]:
        status = WorkflowStatus(row.status)
        if status is not WorkflowStatus.COMPLETED:
            return Err(TaskError(*_NOT_COMPLETED[status](row)))
        spec, _ = read_spec(row.spec)
        if spec.output is None:
            return Ok(None)
        task_id = node_task_id(row.workflow_id, spec.output, read_state(row.state).runs[spec.output])
        for stored in await self._host.results([task_id]):
            return result_of(self._host, stored)
        return Err(TaskError(TaskErrorCode.RESULT_NOT_AVAILABLE, f"task {task_id} is no longer stored"))

    async def _results(self, row: WorkflowRow) -> dict[str, TaskResult[Any]]:
        (spec, _), state = read_spec(row.spec), read_state(row.state)
        ids = {
            node_task_id(row.workflow_id, index, run): index
            for index, run in enumerate(state.runs)
            if state.nodes[index] in (NodeStatus.COMPLETED, NodeStatus.FAILED)
        }
        found: dict[str, TaskResult[Any]] = {
            spec.nodes[ids[stored.task_id]].node_id: result_of(self._host, stored)
            for stored in await self._host.results(list(ids))
        }
        skipped = Err(TaskError(TaskErrorCode.UPSTREAM_SKIPPED, "the node was skipped"))
        return found | {
            node.node_id: skipped
            for node, status in zip(spec.nodes, state.nodes, strict=True)
            if status is NodeStatus.SKIPPED
        }

    def __repr__(self) -> str:
        return f"<WorkflowHandle {self.workflow_id}>"
