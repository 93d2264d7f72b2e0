"""What a workflow, or a node of it, results in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .._core.codes import TaskErrorCode
from .._core.errors import TaskError
from .._core.result import Err, Ok
from .._core.status import NodeStatus, WorkflowStatus
from .._payload.ids import node_task_id
from .._task.handle import TaskResult
from ..abc import StoredResult, WorkflowRow
from .host import WorkflowHost
from .spec import Spec
from .stored import read_spec, read_state

Read = Callable[[StoredResult], TaskResult[Any]]
"""How the result of a task is read."""


async def outcome_of(host: WorkflowHost, row: WorkflowRow, read: Read) -> TaskResult[Any]:
    """The result of a workflow that has ended, or is paused. Raises: BrokerError."""
    status = WorkflowStatus(row.status)
    if status is WorkflowStatus.RUNNING:
        return Err(TaskError(TaskErrorCode.RESULT_NOT_READY, f"{_name(row)} has not ended"))
    if status is not WorkflowStatus.COMPLETED:
        return Err(TaskError(*_why_not(row, status)))
    (spec, _), state = read_spec(row.spec), read_state(row.state)
    if not spec.collects:
        return Ok(None) if spec.output is None else (await results_of(host, row, [spec.output], read))[spec.output]
    found = await results_of(host, row, range(len(spec.nodes)), read)
    failed = next((one for one in found.values() if isinstance(one, Err)), None)
    return failed or Ok([found[index].value for index in range(len(state.nodes))])  # type: ignore[union-attr]  # none is Err


async def results_of(
    host: WorkflowHost, row: WorkflowRow, indexes: Sequence[int], read: Read
) -> dict[int, TaskResult[Any]]:
    """The results of those of the nodes that have ended, by their indexes. Raises: BrokerError."""
    (spec, _), state = read_spec(row.spec), read_state(row.state)
    found: dict[int, TaskResult[Any]] = {}
    ids = {}
    for index in indexes:
        if state.nodes[index] is NodeStatus.SKIPPED:
            found[index] = SKIPPED
        elif state.nodes[index].is_terminal:
            ids[node_task_id(row.workflow_id, index, state.runs[index])] = index
    parts = {task_id for task_id, index in ids.items() if spec.nodes[index].kind != "task"}
    for task_id in parts:
        part = await host.workflows.read(task_id)
        if part is not None:
            found[ids[task_id]] = await outcome_of(host, part, read)
    # What could not be opened has the result of what should have opened it.
    asked = [task_id for task_id, index in ids.items() if index not in found]
    for stored in await host.results(asked) if asked else []:
        found[ids[stored.task_id]] = read(stored)
    for task_id, index in ids.items():
        gone = TaskError(TaskErrorCode.RESULT_NOT_AVAILABLE, f"task {task_id} is no longer stored")
        found.setdefault(index, Err(gone))
    return found


SKIPPED = Err(TaskError(TaskErrorCode.UPSTREAM_SKIPPED, "the node was skipped"))


def _why_not(row: WorkflowRow, status: WorkflowStatus) -> tuple[TaskErrorCode, str]:
    """Why a workflow has no value."""
    match status:
        case WorkflowStatus.PAUSED:
            return TaskErrorCode.WORKFLOW_PAUSED, f"{_name(row)} is paused"
        case WorkflowStatus.CANCELLED:
            return TaskErrorCode.WORKFLOW_CANCELLED, f"{_name(row)} was cancelled"
        case WorkflowStatus.EXPIRED:
            return TaskErrorCode.WORKFLOW_EXPIRED, f"{_name(row)} has not ended by its good_until"
        case _:
            return _why_failed(row)


def _why_failed(row: WorkflowRow) -> tuple[TaskErrorCode, str]:
    (spec, _), state = read_spec(row.spec), read_state(row.state)
    failed = [spec.nodes[index].node_id for index, status in enumerate(state.nodes) if status is NodeStatus.FAILED]
    why = f"; node {failed[0]!r} ended with {row.error_code}" if failed else ""
    if _misses_its_cases(spec, state.nodes):
        return TaskErrorCode.SUCCESS_CASE_NOT_MET, f"{_name(row)}: in no success case were all nodes COMPLETED{why}"
    return TaskErrorCode.WORKFLOW_FAILED, f"{_name(row)}{why or ': its output has no value'}"


def _misses_its_cases(spec: Spec, nodes: Sequence[NodeStatus]) -> bool:
    met = [all(nodes[index] is NodeStatus.COMPLETED for index in case) for case in spec.success]
    return bool(met) and not any(met)


def _name(row: WorkflowRow) -> str:
    return f"workflow {row.name!r} {row.workflow_id}"
