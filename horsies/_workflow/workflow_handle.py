"""A workflow that was started, from anywhere."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Generic, TypeVar

import anyio

from .._core.codes import TaskErrorCode
from .._core.errors import BrokerError, TaskError
from .._core.result import Err, Ok, Result
from .._core.status import NodeStatus, WorkflowStatus
from .._send.task_handle import FIRST_LOOK, TaskResult, result_of, seconds_of
from ..abc import News, Step, StoredResult, WorkflowRow
from .advance.engine import Cancelled, Event, Paused, Resumed
from .advance.stored_workflow import read_state
from .advance.transition import concerned, follow
from .definition.spec import Spec
from .gateway import WorkflowGateway
from .node_ids import node_task_id
from .offload import apart
from .view.diagram import WorkflowGraph, drawn, drawn_nodes
from .view.infos import NodeInfo, WorkflowInfo, info_of
from .view.results import outcome_of, results_of, spec_of

T = TypeVar("T")


def _node_infos(row: WorkflowRow, spec: Spec, running: Collection[str]) -> list[NodeInfo]:
    state = read_state(row.state)
    infos = []
    for index, node in enumerate(spec.nodes):
        run_id = node_task_id(row.workflow_id, index, state.runs[index]) if state.runs[index] else None
        status = state.nodes[index]
        if status is NodeStatus.ENQUEUED and (run_id in running or node.child is not None):
            status = NodeStatus.RUNNING
        task_id, workflow_id = (run_id, None) if node.kind == "task" else (None, run_id)
        infos.append(
            NodeInfo(node.node_id, node.task_name, status, task_id, state.codes.get(index), node.kind, workflow_id)
        )
    return infos


def _drawn(row: WorkflowRow, spec: Spec, running: Collection[str]) -> WorkflowGraph:
    return drawn(row.name, drawn_nodes(spec, [node.status for node in _node_infos(row, spec, running)]))


class WorkflowHandle(Generic[T]):
    """A workflow that was started. Handles are cheap, and can be made anywhere with `rt.workflow(workflow_id)`."""

    workflow_id: str
    """Id of the workflow: a UUID in lower case."""

    def __init__(self, gateway: WorkflowGateway, workflow_id: str) -> None:
        self._gateway = gateway
        self.workflow_id = workflow_id

    async def get(self, timeout: float | timedelta | None = None) -> TaskResult[T]:
        """Wait for the workflow's end, and give the result of its output node; `Ok(None)` when it has none.

        Args:
            timeout: as for `TaskHandle.get`; when it runs out the answer is WAIT_TIMEOUT and the workflow goes on.

        Returns:
            The output, or `Err` with WORKFLOW_FAILED, SUCCESS_CASE_NOT_MET, WORKFLOW_CANCELLED, WORKFLOW_EXPIRED,
            WORKFLOW_PAUSED (at once), WORKFLOW_NOT_FOUND, WAIT_TIMEOUT, BROKER_ERROR or RESULT_NOT_AVAILABLE.

        Raises:
            ValueError: `timeout` is negative, or no time at all.
        """
        self._gateway.refuse_in_fork()
        seconds = seconds_of(timeout)
        try:
            with anyio.move_on_after(None if seconds is None else max(seconds, FIRST_LOOK)):
                row = await self._gateway.wait_workflow(self.workflow_id, seconds)
                with self._reading():
                    return self._missing() if row is None else await outcome_of(self._gateway, row, self._read)
        except BrokerError as error:
            return Err(TaskError(TaskErrorCode.BROKER_ERROR, error.message))
        except TimeoutError:
            pass
        what = f"workflow {self.workflow_id} has not ended in time; it goes on"
        return Err(TaskError(TaskErrorCode.WAIT_TIMEOUT, what))

    async def status(self) -> Result[WorkflowStatus | None, BrokerError]:
        """Where the workflow stands; None when there is none."""
        try:
            row = await self._gateway.workflows.read_standing(self.workflow_id)
        except BrokerError as error:
            return Err(error)
        return Ok(None if row is None else WorkflowStatus(row.status))

    async def tasks(self) -> Result[list[NodeInfo], BrokerError]:
        """Every node as it stands, in the order in which they were declared; none when there is no such workflow."""
        try:
            row = await self._gateway.workflows.read(self.workflow_id)
            if row is None:
                return Ok([])
            with self._reading():
                spec, running = (await spec_of(self._gateway, row)).spec, await self._running()
                return Ok(await apart(partial(_node_infos, row, spec, running), nodes=len(spec.nodes)))
        except BrokerError as error:
            return Err(error)

    async def info(self) -> Result[WorkflowInfo | None, BrokerError]:
        """Everything that is known of the workflow as a whole; None when there is none."""
        try:
            row = await self._gateway.workflows.read_standing(self.workflow_id)
        except BrokerError as error:
            return Err(error)
        return Ok(None if row is None else info_of(row))

    async def graph(self) -> Result[WorkflowGraph | None, BrokerError]:
        """The workflow as a picture, coloured by where its nodes stand; None when there is no such workflow."""
        try:
            row = await self._gateway.workflows.read(self.workflow_id)
            if row is None:
                return Ok(None)
            with self._reading():
                spec, running = (await spec_of(self._gateway, row)).spec, await self._running()
                return Ok(await apart(partial(_drawn, row, spec, running), nodes=len(spec.nodes)))
        except BrokerError as error:
            return Err(error)

    async def results(self) -> Result[dict[str, TaskResult[Any]], BrokerError]:
        """The results of all nodes that have ended, by node id; UPSTREAM_SKIPPED for those that were skipped."""
        try:
            row = await self._gateway.workflows.read(self.workflow_id)
            with self._reading():
                return Ok({} if row is None else await self._results(row))
        except BrokerError as error:
            return Err(error)

    async def result_for(self, node_id: str) -> TaskResult[Any]:
        """The result of one node; RESULT_NOT_READY while it has none, TASK_NOT_FOUND when there is no such node."""
        try:
            row = await self._gateway.workflows.read(self.workflow_id)
            if row is None:
                return self._missing()
            with self._reading():
                spec = (await spec_of(self._gateway, row)).spec
                index = next((place for place, node in enumerate(spec.nodes) if node.node_id == node_id), None)
                known = [] if index is None else [index]
                found = await results_of(self._gateway, row, spec, known, self._read)
        except BrokerError as error:
            return Err(TaskError(TaskErrorCode.BROKER_ERROR, error.message))
        if index in found:
            return found[index]
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
        """End the workflow: what has not begun never does, what runs is cancelled. Whether it had not ended.

        Of a workflow with more than a thousand tasks in the queue the others are cancelled afterwards, a thousand at a
        time; one may start until its portion comes.
        """
        return await self._tell(Cancelled(), WorkflowStatus.RUNNING, WorkflowStatus.PAUSED)

    async def _tell(self, event: Event, *heeding: WorkflowStatus) -> Result[bool, BrokerError]:
        def decide(all_news: Sequence[News]) -> list[Step]:
            return [follow(self._gateway, news, [event]) for news in all_news if news.row.status in heeding]

        try:
            steps = await self._gateway.workflows.advance([self.workflow_id], decide)
        except BrokerError as error:
            return Err(error)
        except ValueError as error:
            return Err(BrokerError(f"workflow {self.workflow_id} cannot go on: {error}"))
        self._gateway.nodes_ended(concerned(steps))
        return Ok(bool(steps))

    def _missing(self) -> Err[TaskError]:
        return Err(TaskError(TaskErrorCode.WORKFLOW_NOT_FOUND, f"there is no workflow {self.workflow_id}"))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Raise `BrokerError` if the stored bytes of the workflow cannot be read: a person may have changed them."""
        try:
            yield
        except ValueError as error:
            raise BrokerError(f"workflow {self.workflow_id} cannot be read: {error}") from error

    async def _running(self) -> set[str]:
        """The ids of the tasks that are RUNNING. Raises: BrokerError."""
        return set(await self._gateway.workflows.running(self.workflow_id))

    async def _results(self, row: WorkflowRow) -> dict[str, TaskResult[Any]]:
        spec = (await spec_of(self._gateway, row)).spec
        found = await results_of(self._gateway, row, spec, range(len(spec.nodes)), self._read)
        return {spec.nodes[index].node_id: result for index, result in sorted(found.items())}

    def _read(self, stored: StoredResult) -> TaskResult[Any]:
        return result_of(self._gateway, stored)

    def __repr__(self) -> str:
        return f"<WorkflowHandle {self.workflow_id}>"
